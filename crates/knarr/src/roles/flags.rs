//! Command lines in the way of upstream's components: `--name=value`, `--name value`, a bare `--name` for a switch, repeated flags.
//! Which flags there are is data (`data/*-flags.txt`: name, kind, default, one flag a line), so that whatever starts upstream's
//! program can start this one.

use std::collections::BTreeMap;
use std::fmt::Write;

use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::field::go_quote;
use knarr_core::go;

use super::values;

/// A program's flags by name.
pub struct Known(BTreeMap<&'static str, Flag>);

struct Flag {
    /// `bool`, `string`, `strings`, `int`, `duration`, …: upstream's word for the value.
    kind: &'static str,
    default: &'static str,
}

/// What was given, in order, by flag.
#[derive(Debug, Default)]
pub struct Flags(BTreeMap<String, Vec<String>>);

impl Known {
    /// Reads a table of flags.
    pub fn new(table: &'static str) -> Self {
        let lines = table.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let mut words = line.splitn(3, ' ');
                    let mut word = || words.next().unwrap_or_default();
                    (word(), Flag { kind: word(), default: word() })
                })
                .collect(),
        )
    }

    /// What `--help` says: one flag a line, as programs that look for a flag expect it.
    pub fn help(&self, program: &str, about: &str) -> String {
        let mut out = format!("{about}\n\nUsage:\n  {program} [flags]\n\nFlags:\n");
        for (name, flag) in &self.0 {
            let kind = if flag.kind == "bool" { String::new() } else { format!(" {}", flag.kind) };
            let default = if flag.default.is_empty() { String::new() } else { format!("   (default {})", flag.default) };
            // Writing to a String cannot fail.
            writeln!(out, "      --{name}{kind}{default}").unwrap_or_default();
        }
        out
    }

    /// Whether a flag needs no value. One that is not known is no switch, and will be told so by whoever reads it.
    pub fn is_switch(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|flag| flag.kind == "bool")
    }

    /// Takes a command line apart.
    ///
    /// # Errors
    /// A flag that the program does not have, one without its value or with one of another kind, or a word that belongs to none.
    pub fn parse(&self, args: &[String]) -> Result<Flags> {
        let mut flags = Flags::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let Some(text) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                return Err(usage(format!("unknown command {arg:?}")));
            };
            let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v.to_owned())));
            let Some(flag) = self.0.get(name) else { return Err(usage(format!("unknown flag: --{name}"))) };
            let value = match value {
                Some(value) => value,
                None if flag.kind == "bool" => "true".to_owned(),
                None => rest.next().cloned().ok_or_else(|| usage(format!("flag needs an argument: --{name}")))?,
            };
            let value = values::read(flag.kind, &value).map_err(|why| invalid(name, &value, &why))?;
            flags.0.entry(name.to_owned()).or_default().push(value);
        }
        Ok(flags)
    }
}

/// What is said of a value that is none of its flag's kind (upstream: `pflag.InvalidValueError`).
fn invalid(name: &str, value: &str, why: &str) -> Failure {
    let flag = if name == "v" { "-v, --v".to_owned() } else { format!("--{name}") };
    usage(format!("invalid argument {} for {} flag: {why}", go_quote(value), go_quote(&flag)))
}

fn usage(what: String) -> Failure {
    Failure::new("USAGE", Exit::Usage, what, "see --help")
}

impl Flags {
    /// The last value of a flag: an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|v| v.last()).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The values of a list: separated by commas, or by repeating the flag.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.0.get(name).into_iter().flatten().flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
    }

    /// Every value, as often as the flag was given.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// A switch: `default` unless it was given.
    pub fn is_on(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |v| go::boolean(v) == Some(true))
    }

    /// The value, read as what it should be.
    ///
    /// # Errors
    /// Text that is no such thing.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        self.get(name).map(|v| v.parse().map_err(|e: T::Err| invalid(name, v, &e.to_string()))).transpose()
    }

    /// Names of the flags that were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# a comment\nallow-privileged bool\nsecure-port int 6443\nauthorization-mode strings\nv Level 0\n";

    fn parse(args: &[&str]) -> Result<Flags> {
        Known::new(TABLE).parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn values_come_with_a_sign_or_a_blank_and_lists_in_both_ways() {
        let flags = parse(&["--allow-privileged", "--secure-port", "443", "--authorization-mode=Node,RBAC", "--authorization-mode=Webhook"]).unwrap();
        assert!(flags.is_on("allow-privileged", false));
        assert_eq!(flags.parsed::<u16>("secure-port").unwrap(), Some(443));
        assert_eq!(flags.list("authorization-mode"), ["Node", "RBAC", "Webhook"]);
        assert!(!parse(&["--allow-privileged=false"]).unwrap().is_on("allow-privileged", true));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse(&["--insecure-port=0"]).unwrap_err().to_string().contains("unknown flag: --insecure-port"));
        assert!(parse(&["--secure-port"]).unwrap_err().to_string().contains("flag needs an argument"));
        assert!(parse(&["--secure-port=70000"]).unwrap().parsed::<u16>("secure-port").is_err());
        assert!(parse(&["start"]).is_err());
    }

    #[test]
    fn a_value_of_another_kind_is_refused_before_anybody_reads_it() {
        let cause = |arg: &str| parse(&[arg]).err().map(|e| e.cause);
        let wanted = "invalid argument \"x\" for \"--secure-port\" flag: strconv.ParseInt: parsing \"x\": invalid syntax";
        assert_eq!(cause("--secure-port=x").as_deref(), Some(wanted));
        let wanted = "invalid argument \"\" for \"--allow-privileged\" flag: strconv.ParseBool: parsing \"\": invalid syntax";
        assert_eq!(cause("--allow-privileged=").as_deref(), Some(wanted));
        assert_eq!(cause("--v=x").as_deref(), Some("invalid argument \"x\" for \"-v, --v\" flag: strconv.ParseUint: parsing \"x\": invalid syntax"));
        assert_eq!(parse(&["--secure-port=0x10"]).unwrap().parsed::<u16>("secure-port").unwrap(), Some(16));
    }

    #[test]
    fn help_has_one_flag_a_line() {
        let help = Known::new(TABLE).help("kube-apiserver", "The API server");
        assert!(help.lines().any(|l| l.trim_start().starts_with("--secure-port int")), "{help}");
        assert!(!help.contains("insecure-port"));
    }
}
