//! Flags as kubectl's users write them: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-it`, switches that take `=false`,
//! flags with a value of their own when they stand alone (`--dry-run`), words between flags, and `--`. The rules and the
//! wording of what is refused are those of `github.com/spf13/pflag`, which kubectl reads its command line with.

use std::collections::BTreeMap;
use std::time::Duration;

use knarr_core::go;

/// What a flag holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Switch,
    Text,
    /// Every use adds one value.
    Many,
    /// Every use adds values, set apart by commas.
    List,
    Int,
    Time,
}

/// A flag that a verb takes.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    /// The value of the flag when nothing is set to it (`--dry-run`); the next word is then no value.
    pub bare: Option<&'static str>,
    pub help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, kind, default, bare: None, help }
}

/// A switch that is off.
pub const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { bare: Some("true"), ..flag(name, Kind::Switch, "false", help) }
}

/// A switch that is on.
pub const fn switch_on(name: &'static str, help: &'static str) -> Flag {
    Flag { bare: Some("true"), ..flag(name, Kind::Switch, "true", help) }
}

pub const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Text, default, help)
}

pub const fn many(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Many, "", help)
}

pub const fn list(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::List, "", help)
}

pub const fn int(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Int, default, help)
}

pub const fn time(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Time, default, help)
}

impl Flag {
    #[must_use]
    pub const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    #[must_use]
    pub const fn bare(self, bare: &'static str) -> Self {
        Self { bare: Some(bare), ..self }
    }

    /// As refusals name it: `-n, --namespace`.
    fn title(&self) -> String {
        self.short.map_or_else(|| format!("--{}", self.name), |s| format!("-{s}, --{}", self.name))
    }

    fn check(&self, value: &str) -> Result<(), String> {
        let refused = |why: String| Err(format!("invalid argument {} for \"{}\" flag: {why}", knarr_core::field::go_quote(value), self.title()));
        let syntax = |parser: &str| refused(format!("strconv.{parser}: parsing {}: invalid syntax", knarr_core::field::go_quote(value)));
        match self.kind {
            Kind::Switch if go::boolean(value).is_none() => syntax("ParseBool"),
            Kind::Int if value.parse::<i64>().is_err() => syntax("ParseInt"),
            Kind::Time if go_duration(value).is_none() => {
                let missing = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                let what = if missing { "missing unit in duration" } else { "invalid duration" };
                refused(format!("time: {what} {}", knarr_core::field::go_quote(value)))
            }
            _ => Ok(()),
        }
    }
}

/// `time.ParseDuration`: `1h2m3.5s`, `300ms`, a sign in front; `0` needs no unit. Seconds.
pub fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
        if rest.is_empty() {
            return Some(sign * total);
        }
    }
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `250ms`.
pub fn go_duration_text(seconds: f64) -> String {
    if seconds == 0.0 {
        return "0s".into();
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let seconds = seconds.abs();
    let trimmed = |n: f64| {
        let text = format!("{n:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if seconds < 1.0 {
        let (n, unit) = if seconds < 1e-6 {
            (seconds * 1e9, "ns")
        } else if seconds < 1e-3 {
            (seconds * 1e6, "µs")
        } else {
            (seconds * 1e3, "ms")
        };
        return format!("{sign}{}{unit}", trimmed((n * 1e6).round() / 1e6));
    }
    let whole = seconds.trunc();
    let (hours, minutes) = ((whole / 3600.0).trunc(), ((whole % 3600.0) / 60.0).trunc());
    let rest = seconds - hours * 3600.0 - minutes * 60.0;
    let mut out = sign.to_owned();
    if hours > 0.0 {
        out += &format!("{hours}h");
    }
    if hours > 0.0 || minutes > 0.0 {
        out += &format!("{minutes}m");
    }
    out + &trimmed(rest) + "s"
}

/// A command line, read.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    known: BTreeMap<&'static str, Flag>,
    given: BTreeMap<&'static str, Vec<String>>,
    /// The words that are no flags.
    pub words: Vec<String>,
    /// How many of them stand before `--`, if that was there.
    pub dash: Option<usize>,
}

impl Flags {
    /// Reads a command line.
    ///
    /// # Errors
    /// What is wrong with it, in pflag's words.
    pub fn parse(known: &[Flag], line: &[String]) -> Result<Self, String> {
        let mut flags = Self { known: known.iter().map(|f| (f.name, *f)).collect(), ..Self::default() };
        let mut words = line.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                flags.dash = Some(flags.words.len());
                flags.words.extend(words.by_ref().cloned());
            } else if let Some(long) = word.strip_prefix("--") {
                flags.long(long, &mut words)?;
            } else if word.len() > 1 && word.starts_with('-') {
                flags.short(&word[1..], &mut words)?;
            } else {
                flags.words.push(word.clone());
            }
        }
        Ok(flags)
    }

    fn long<'a>(&mut self, text: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<(), String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v.to_owned())));
        if name.is_empty() || name.starts_with('-') {
            return Err(format!("bad flag syntax: --{text}"));
        }
        let name = name.replace('_', "-");
        let Some(flag) = self.known.get(name.as_str()).copied() else { return Err(format!("unknown flag: --{name}")) };
        let value = match (value, flag.bare) {
            (Some(value), _) => value,
            (None, Some(bare)) => bare.to_owned(),
            (None, None) => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
        };
        self.set(&flag, value)
    }

    fn short<'a>(&mut self, cluster: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<(), String> {
        let mut chars = cluster.char_indices();
        while let Some((at, c)) = chars.next() {
            let Some(flag) = self.known.values().find(|f| f.short == Some(c)).copied() else {
                return Err(format!("unknown shorthand flag: '{c}' in -{cluster}"));
            };
            let after = &cluster[at + c.len_utf8()..];
            let value = match flag.bare {
                _ if after.starts_with('=') => after[1..].to_owned(),
                Some(bare) => {
                    self.set(&flag, bare.to_owned())?;
                    continue;
                }
                None if !after.is_empty() => after.to_owned(),
                None => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: '{c}' in -{cluster}"))?,
            };
            return self.set(&flag, value);
        }
        Ok(())
    }

    fn set(&mut self, flag: &Flag, value: String) -> Result<(), String> {
        flag.check(&value)?;
        let given = self.given.entry(flag.name).or_default();
        match flag.kind {
            Kind::Many => given.push(value),
            Kind::List => given.extend(split_list(&value)),
            _ => *given = vec![value],
        }
        Ok(())
    }

    /// Whether the flag was on the command line.
    pub fn given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of a flag; of one that the verb does not have, nothing.
    pub fn text(&self, name: &str) -> &str {
        self.given.get(name).and_then(|v| v.last()).map_or_else(|| self.known.get(name).map_or("", |f| f.default), String::as_str)
    }

    /// The value, if there is one.
    pub fn some(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|t| !t.is_empty())
    }

    pub fn on(&self, name: &str) -> bool {
        go::boolean(self.text(name)).unwrap_or(false)
    }

    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// Seconds; negative where kubectl gives that a meaning of its own.
    pub fn seconds(&self, name: &str) -> f64 {
        go_duration(self.text(name)).unwrap_or(0.0)
    }

    /// A time limit: zero and less is none.
    pub fn limit(&self, name: &str) -> Option<Duration> {
        let seconds = self.seconds(name);
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
    }

    /// All values of a flag that may be given several times.
    pub fn all(&self, name: &str) -> Vec<String> {
        match self.given.get(name) {
            Some(given) => given.clone(),
            None => split_list(self.known.get(name).map_or("", |f| f.default)),
        }
    }
}

/// Values set apart by commas; double quotes keep one together.
fn split_list(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let (mut found, mut current, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(std::mem::take(&mut current)),
            c => current.push(c),
        }
    }
    found.push(current);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[
        text("namespace", "", "").short('n'),
        switch("stdin", "").short('i'),
        switch("tty", "").short('t'),
        text("dry-run", "none", "").bare("unchanged"),
        list("labels", "").short('l'),
        many("from", ""),
        int("replicas", "1", ""),
        time("timeout", "0s", ""),
    ];

    fn read(line: &str) -> Result<Flags, String> {
        Flags::parse(KNOWN, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_way_to_write_a_flag_is_read() {
        for line in ["-n a x", "-na x", "-n=a x", "--namespace a x", "x --namespace=a"] {
            let flags = read(line).unwrap();
            assert_eq!((flags.text("namespace"), flags.words.as_slice()), ("a", ["x".to_owned()].as_slice()), "{line}");
        }
        let flags = read("-it --dry-run x -- -n y").unwrap();
        assert!(flags.on("stdin") && flags.on("tty") && !flags.given("namespace"));
        assert_eq!((flags.text("dry-run"), flags.dash, flags.words.len()), ("unchanged", Some(1), 3));
        assert!(!read("--stdin=false").unwrap().on("stdin"));
        assert_eq!(read("-l a,b -l c --from x,y").unwrap().all("labels"), ["a", "b", "c"]);
        assert_eq!(read("--from x,y --from z").unwrap().all("from"), ["x,y", "z"]);
    }

    #[test]
    fn what_is_refused_is_worded_as_pflag_words_it() {
        for (line, wanted) in [
            ("--nothing", "unknown flag: --nothing"),
            ("-itx", "unknown shorthand flag: 'x' in -itx"),
            ("-n", "flag needs an argument: 'n' in -n"),
            ("--namespace", "flag needs an argument: --namespace"),
            ("--replicas=x", "invalid argument \"x\" for \"--replicas\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("-i=x", "invalid argument \"x\" for \"-i, --stdin\" flag: strconv.ParseBool: parsing \"x\": invalid syntax"),
            ("--timeout=x", "invalid argument \"x\" for \"--timeout\" flag: time: invalid duration \"x\""),
            ("--timeout=5", "invalid argument \"5\" for \"--timeout\" flag: time: missing unit in duration \"5\""),
        ] {
            assert_eq!(read(line).unwrap_err(), wanted, "{line}");
        }
    }

    #[test]
    fn durations_are_go_s() {
        for (text, seconds, back) in
            [("1h2m3s", 3723.0, "1h2m3s"), ("90s", 90.0, "1m30s"), ("1.5s", 1.5, "1.5s"), ("250ms", 0.25, "250ms"), ("-1s", -1.0, "-1s")]
        {
            assert_eq!(go_duration(text), Some(seconds), "{text}");
            assert_eq!(go_duration_text(seconds), back, "{text}");
        }
        assert_eq!(go_duration("x"), None);
    }
}
