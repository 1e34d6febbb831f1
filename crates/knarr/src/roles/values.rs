//! Values of flags, read as upstream's flag packages read them (`pflag`, `component-base/cli/flag`): also of flags that change nothing
//! here, since what upstream's program would not start with must not start this one. Refusals are in Go's words.

use std::net::IpAddr;

use knarr_core::field::go_quote;
use knarr_core::go;
use knarr_core::quantity::Quantity;

/// Reads a value of a kind, as tables of flags name it. Gives it as the program's own code reads it: whole numbers in decimal, switches
/// as `true` or `false`, anything else as it was given.
///
/// # Errors
/// Why the text is no such value.
pub fn read(kind: &str, text: &str) -> Result<String, String> {
    match kind {
        "bool" => boolean(text).map(|on| on.to_string()),
        "int" => integer(text, i64::MIN..=i64::MAX).map(|n| n.to_string()),
        "int32Slice" => int32s(text),
        "float" => float(text, f64::MAX).map(|()| text.to_owned()),
        "float32" => float(text, f64::from(f32::MAX)).map(|()| text.to_owned()),
        other => look_at(other, text).map(|()| text.to_owned()),
    }
}

/// Looks at what stays text.
fn look_at(kind: &str, text: &str) -> Result<(), String> {
    match kind {
        "duration" => go::parse_duration(text).map(drop),
        "ip" => ip(text),
        "portRange" => port_range(text).map(drop),
        "quantity" => quantity(text),
        "namedCertKey" => NamedCertKey::parse(text).map(drop),
        "mapStringString" if !text.contains('=') => Err("malformed pair, expect string=string".into()),
        "stringToString" if !text.is_empty() && !text.contains('=') => Err(format!("{text} must be formatted as key=value")),
        "Level" => level(text),
        "pattern=N,..." => vmodule(text),
        _ => Ok(()),
    }
}

/// `strconv.ParseBool`
fn boolean(text: &str) -> Result<bool, String> {
    go::boolean(text).ok_or_else(|| syntax("ParseBool", text))
}

fn syntax(function: &str, text: &str) -> String {
    format!("strconv.{function}: parsing {}: invalid syntax", go_quote(text))
}

fn out_of_range(function: &str, text: &str) -> String {
    format!("strconv.{function}: parsing {}: value out of range", go_quote(text))
}

/// `strconv.ParseInt` with base 0: `0x1f`, `0b1`, `0o7`, `07`, `1_000`.
fn integer(text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
    let (negative, unsigned) = text.strip_prefix('-').map_or((false, text.strip_prefix('+').unwrap_or(text)), |rest| (true, rest));
    let digits = Digits::of(unsigned).ok_or_else(|| syntax("ParseInt", text))?;
    let number = digits.value().map(|n| if negative { -n } else { n });
    let fits = number.and_then(|n| i64::try_from(n).ok()).filter(|n| range.contains(n));
    fits.ok_or_else(|| out_of_range("ParseInt", text))
}

/// The digits of a whole number, without what divides them.
struct Digits {
    base: u32,
    digits: String,
}

impl Digits {
    fn of(unsigned: &str) -> Option<Self> {
        let lower = unsigned.to_ascii_lowercase();
        let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
        let prefixed = prefixes.iter().find_map(|(prefix, base)| lower.strip_prefix(prefix).map(|rest| (rest, *base)));
        let (rest, base) = match prefixed {
            Some((rest, base)) => (rest.strip_prefix('_').unwrap_or(rest), base),
            None if lower.len() > 1 && lower.starts_with('0') => (lower[1..].strip_prefix('_').unwrap_or(&lower[1..]), 8),
            None => (lower.as_str(), 10),
        };
        // An underscore stands between two digits.
        let good = rest.split('_').all(|part| !part.is_empty() && part.chars().all(|c| c.is_digit(base)));
        good.then(|| Self { base, digits: rest.replace('_', "") })
    }

    /// None for what 128 bits do not hold.
    fn value(&self) -> Option<i128> {
        i128::from_str_radix(&self.digits, self.base).ok()
    }
}

/// `strconv.ParseFloat` of decimal numbers.
fn float(text: &str, max: f64) -> Result<(), String> {
    let number: f64 = text.parse().map_err(|_| syntax("ParseFloat", text))?;
    let is_named = text.chars().any(|c| matches!(c, 'i' | 'I' | 'n' | 'N'));
    if number.abs() > max && !is_named { Err(out_of_range("ParseFloat", text)) } else { Ok(()) }
}

fn int32s(text: &str) -> Result<String, String> {
    let numbers = text.split(',').map(|n| integer(n, i64::from(i32::MIN)..=i64::from(i32::MAX)).map(|n| n.to_string()));
    Ok(numbers.collect::<Result<Vec<_>, _>>()?.join(","))
}

fn ip(text: &str) -> Result<(), String> {
    let good = text.is_empty() || text.trim().parse::<IpAddr>().is_ok();
    good.then_some(()).ok_or_else(|| format!("failed to parse IP: {}", go_quote(text)))
}

fn quantity(text: &str) -> Result<(), String> {
    const WANTED: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    text.parse::<Quantity>().map(drop).map_err(|_| WANTED.to_owned())
}

fn level(text: &str) -> Result<(), String> {
    text.parse::<u32>().map(drop).map_err(|_| syntax("ParseUint", text))
}

fn vmodule(text: &str) -> Result<(), String> {
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let shown = go_quote(pair);
        let named = pair.split_once('=').filter(|(pattern, verbosity)| !pattern.is_empty() && !verbosity.is_empty());
        let (_, verbosity) = named.ok_or_else(|| format!("{shown} does not have the pattern=N format"))?;
        level(verbosity).map_err(|why| format!("parsing verbosity in {shown}: {why}"))?;
    }
    Ok(())
}

/// Ports from the first to the last: `30000-32767`, `30000+2767`, `30000` (upstream: `net.PortRange`). None for an empty text.
///
/// # Errors
/// Why it is no range.
pub fn port_range(text: &str) -> Result<Option<(u16, u16)>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let number = |n: &str| n.parse::<i64>().map_err(|_| syntax("Atoi", n));
    let (low, high) = match (text.split_once('-'), text.split_once('+')) {
        (Some(_), Some(_)) => return Err(format!("unable to parse port range: {text}")),
        (Some((low, high)), None) => (number(low)?, number(high)?),
        (None, Some((low, size))) => (number(low)?, number(low)?.saturating_add(number(size)?)),
        (None, None) => (number(text)?, number(text)?),
    };
    if high < low {
        return Err(format!("end port cannot be less than start port: {text}"));
    }
    let port = |n: i64| u16::try_from(n).map_err(|_| format!("the port range cannot be greater than 65535: {text}"));
    Ok(Some((port(low)?, port(high)?)))
}

/// A certificate, its key, and the names for which it is shown: `foo.crt,foo.key:*.foo.com,foo.com`.
#[derive(Debug, PartialEq, Eq)]
pub struct NamedCertKey {
    pub certificate: String,
    pub key: String,
    /// Empty: those that the certificate has.
    pub names: Vec<String>,
}

impl NamedCertKey {
    /// Reads one value of the flag.
    ///
    /// # Errors
    /// Text without two files, or with an empty list of names.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (files, names) = text.split_once(':').map_or((text, None), |(files, names)| (files, Some(names.trim())));
        if names.is_some_and(str::is_empty) {
            return Err("empty names list is not allowed".into());
        }
        let files: Vec<&str> = files.trim().split(',').map(str::trim).collect();
        let [certificate, key] = files[..] else { return Err("expected comma separated certificate and key file paths".into()) };
        let names = names.into_iter().flat_map(|all| all.split(',')).map(|name| name.trim().to_owned()).collect();
        Ok(Self { certificate: certificate.into(), key: key.into(), names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_value_is_refused_in_upstreams_words() {
        for (kind, text, why) in [
            ("bool", "x", "strconv.ParseBool: parsing \"x\": invalid syntax"),
            ("bool", "", "strconv.ParseBool: parsing \"\": invalid syntax"),
            ("int", "x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("int", "0x", "strconv.ParseInt: parsing \"0x\": invalid syntax"),
            ("int", "08", "strconv.ParseInt: parsing \"08\": invalid syntax"),
            ("int", "1__0", "strconv.ParseInt: parsing \"1__0\": invalid syntax"),
            ("int", "1.5", "strconv.ParseInt: parsing \"1.5\": invalid syntax"),
            ("int", "99999999999999999999", "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
            ("float", "x", "strconv.ParseFloat: parsing \"x\": invalid syntax"),
            ("float", "1e400", "strconv.ParseFloat: parsing \"1e400\": value out of range"),
            ("float32", "1e40", "strconv.ParseFloat: parsing \"1e40\": value out of range"),
            ("duration", "5", "time: missing unit in duration \"5\""),
            ("ip", "300.1.1.1", "failed to parse IP: \"300.1.1.1\""),
            ("int32Slice", "1,x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("int32Slice", "99999999999", "strconv.ParseInt: parsing \"99999999999\": value out of range"),
            ("mapStringString", "x", "malformed pair, expect string=string"),
            ("stringToString", "x", "x must be formatted as key=value"),
            ("namedCertKey", "x", "expected comma separated certificate and key file paths"),
            ("namedCertKey", "a,b:", "empty names list is not allowed"),
            ("portRange", "x", "strconv.Atoi: parsing \"x\": invalid syntax"),
            ("portRange", "5-3", "end port cannot be less than start port: 5-3"),
            ("portRange", "1-70000", "the port range cannot be greater than 65535: 1-70000"),
            ("portRange", "1+9223372036854775807", "the port range cannot be greater than 65535: 1+9223372036854775807"),
            ("portRange", "1-2+3", "unable to parse port range: 1-2+3"),
            ("quantity", "", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
            ("Level", "-1", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("pattern=N,...", "x", "\"x\" does not have the pattern=N format"),
            ("pattern=N,...", "a=x", "parsing verbosity in \"a=x\": strconv.ParseUint: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(read(kind, text), Err(why.to_owned()), "{kind} {text}");
        }
    }

    #[test]
    fn numbers_and_switches_are_given_in_one_form() {
        for (kind, text, wanted) in [
            ("bool", "T", "true"),
            ("int", "0x10", "16"),
            ("int", "0o17", "15"),
            ("int", "017", "15"),
            ("int", "-1_000", "-1000"),
            ("int", "+5", "5"),
            ("int", "0", "0"),
            ("int32Slice", "0x1d,23", "29,23"),
            ("float", "0.01", "0.01"),
            ("duration", "-5s", "-5s"),
            ("ip", "", ""),
            ("ip", "::1", "::1"),
            ("string", "x", "x"),
            ("quantity", "1Gi", "1Gi"),
        ] {
            assert_eq!(read(kind, text), Ok(wanted.to_owned()), "{kind} {text}");
        }
    }

    #[test]
    fn ranges_of_ports_have_three_forms() {
        assert_eq!(port_range("30000-32767"), Ok(Some((30000, 32767))));
        assert_eq!(port_range("30000+10"), Ok(Some((30000, 30010))));
        assert_eq!(port_range("80"), Ok(Some((80, 80))));
        assert_eq!(port_range(""), Ok(None));
    }

    #[test]
    fn a_certificate_may_name_those_who_see_it() {
        let named = |names: &[&str]| NamedCertKey { certificate: "a.crt".into(), key: "a.key".into(), names: names.iter().map(|n| (*n).to_owned()).collect() };
        assert_eq!(NamedCertKey::parse("a.crt, a.key"), Ok(named(&[])));
        assert_eq!(NamedCertKey::parse("a.crt,a.key:*.foo.com,foo.com"), Ok(named(&["*.foo.com", "foo.com"])));
    }
}
