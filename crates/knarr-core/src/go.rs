//! How Go prints, quotes and compares values: kubectl's output is Go's in many places.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::num::IntErrorKind;
use std::time::Duration;

use jiff::SignedDuration;

use crate::Value;
use crate::field::go_quote;

/// `fmt.Sprint` of what JSON holds: `map[a:1 b:[x y]]`, `<nil>`.
pub fn sprint(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Number(n) => number(n),
        Value::Bool(b) => b.to_string(),
        Value::Array(list) => format!("[{}]", list.iter().map(sprint).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", sprint(v))).collect::<Vec<_>>().join(" ")),
    }
}

/// `%#v` of what JSON holds.
pub fn syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(s) => crate::field::go_quote(s),
        Value::Number(n) => number(n),
        Value::Bool(b) => b.to_string(),
        Value::Array(list) => format!("[]interface {{}}{{{}}}", list.iter().map(syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(k, v)| format!("{}:{}", crate::field::go_quote(k), syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
    }
}

/// `strconv.ParseInt(s, 10, 64)`.
///
/// # Errors
/// Go's words for what is no number or too large a one.
pub fn parse_int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|e| {
        let why = match e.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {}: {why}", go_quote(text))
    })
}

/// `strconv.ParseBool`
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `time.ParseDuration`, of what is not negative: `1m30s`, `0.5h`, `0`; at most 292 years.
pub fn duration(text: &str) -> Option<Duration> {
    parse_duration(text).ok().and_then(|d| Duration::try_from(d).ok())
}

/// `time.ParseDuration`.
///
/// # Errors
/// Go's words for what is no duration.
pub fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text.strip_prefix('+').unwrap_or(text)), |rest| (true, rest));
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (nanos, after) = leading_part(rest, text)?;
        total = total.checked_add(nanos).filter(|t| *t <= NANOS_MAX).ok_or_else(invalid)?;
        rest = after;
    }
    let nanos = if negative { 0_i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() };
    nanos.map(SignedDuration::from_nanos).ok_or_else(invalid)
}

/// Most nanoseconds that a duration has, with a sign.
const NANOS_MAX: u64 = 1 << 63;

/// The first number with its unit out of `rest`, in nanoseconds, and what follows. `whole` is named in errors.
fn leading_part<'a>(rest: &'a str, whole: &str) -> Result<(u64, &'a str), String> {
    let invalid = || format!("time: invalid duration {}", go_quote(whole));
    let (integer, after) = digits(rest);
    let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
    if integer.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let (name, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
    let unit: u64 = match name {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(format!("time: missing unit in duration {}", go_quote(whole))),
        other => return Err(format!("time: unknown unit {} in duration {}", go_quote(other), go_quote(whole))),
    };
    let integer = if integer.is_empty() { 0 } else { integer.parse::<u64>().map_err(|_| invalid())? };
    let (numerator, scale) = leading_fraction(fraction);
    let nanos = integer.checked_mul(unit).and_then(|n| n.checked_add((numerator as f64 * (unit as f64 / scale)) as u64));
    nanos.map(|nanos| (nanos, after)).ok_or_else(invalid)
}

/// Digits after a point as a whole number and what it is to be divided by. Digits beyond what 63 bits hold are left out (`time.leadingFraction`).
fn leading_fraction(digits: &str) -> (u64, f64) {
    let (mut numerator, mut scale) = (0_u64, 1.0);
    for digit in digits.bytes() {
        let Some(next) = numerator.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0'))).filter(|n| *n <= 1 << 63) else { break };
        (numerator, scale) = (next, scale * 10.0);
    }
    (numerator, scale)
}

/// The digits that a text begins with, and what follows.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `time.Duration.String`: `1m30s`, `1.5s`, `20ms`.
pub fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let short = |unit: u128, name: &str| format!("{}{name}", nanos as f64 / unit as f64);
    match nanos {
        0 => "0s".into(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => short(1_000, "µs"),
        n if n < 1_000_000_000 => short(1_000_000, "ms"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let seconds = format!("{}s", (nanos - u128::from(minutes) * 60_000_000_000) as f64 / 1e9);
            match minutes {
                0 => seconds,
                m if m < 60 => format!("{m}m{seconds}"),
                m => format!("{}h{}m{seconds}", m / 60, m % 60),
            }
        }
    }
}

/// A number: whole ones as they are, others as `%v` prints a float64.
pub fn number(n: &serde_json::Number) -> String {
    if n.is_f64() { float(n.as_f64().unwrap_or(0.0)) } else { n.to_string() }
}

/// `strconv.FormatFloat(f, 'g', -1, 64)`, which `%v` is, too: an exponent from 1e+06 on (`1.5e-07`).
pub fn float(f: f64) -> String {
    if f == 0.0 {
        return "0".into();
    }
    let scientific = format!("{f:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) { format!("{f}") } else { format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()) }
}

/// As a template prints it: text as it is, lists and maps as JSON.
pub fn text_or_json(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Array(_) | Value::Object(_) => json_compact(value),
        other => sprint(other),
    }
}

/// Go's name of a value's type.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::String(_) => "string",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Comparison of two values of one basic kind.
///
/// # Errors
/// They are not of one kind, or cannot be ordered.
pub fn compare(operator: &str, left: &Value, right: &Value) -> Result<bool, String> {
    let order = match (left, right) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        },
        (Value::Bool(a), Value::Bool(b)) if operator == "==" || operator == "!=" => a.cmp(b),
        (Value::Bool(_), Value::Bool(_)) => return Err("invalid type for comparison".into()),
        (Value::Null | Value::Array(_) | Value::Object(_), _) | (_, Value::Null | Value::Array(_) | Value::Object(_)) => {
            return Err("invalid type for comparison".into());
        }
        _ => return Err("incompatible types for comparison".into()),
    };
    Ok(match operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        other => return Err(format!("unrecognized filter operator {other}")),
    })
}

/// `strconv.Unquote` of what stands between the quotes; single quotes may hold any number of characters.
pub fn unquote(text: &str, quote: char) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let kind = chars.next()?;
        let mut hex = |digits: usize| u32::from_str_radix(&chars.by_ref().take(digits).collect::<String>(), 16).ok().and_then(char::from_u32);
        out.push(match kind {
            'x' => hex(2)?,
            'u' => hex(4)?,
            'U' => hex(8)?,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\\' => '\\',
            c if c == quote => c,
            _ => return None,
        });
    }
    Some(out)
}

/// What `encoding/json` escapes beside what every writer does: `<`, `>`, `&` and the two line separators.
fn escape_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out += &format!("\\u{:04x}", u32::from(c)),
            // serde writes these two by name, Go from 1.22 on as well.
            c => out.push(c),
        }
    }
    out
}

/// `json.Marshal`
pub fn json_compact(value: &Value) -> String {
    escape_html(&serde_json::to_string(&go_numbers(value)).unwrap_or_default())
}

/// `json.MarshalIndent(v, "", "    ")`
pub fn json_indent(value: &Value) -> String {
    json_indent_by(value, b"    ")
}

/// The same with another indentation.
pub fn json_indent_by(value: &Value, indent: &[u8]) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, serde_json::ser::PrettyFormatter::with_indent(indent));
    // A tree always serializes into memory.
    serde::Serialize::serialize(&go_numbers(value), &mut serializer).unwrap_or_default();
    escape_html(&String::from_utf8_lossy(&out))
}

/// Whole floats lose their fraction, as Go writes them.
fn go_numbers(value: &Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => match n.as_f64() {
            Some(f) if f.fract() == 0.0 && f.abs() < 1e15 => Value::from(f as i64),
            _ => value.clone(),
        },
        Value::Array(list) => Value::Array(list.iter().map(go_numbers).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), go_numbers(v))).collect()),
        other => other.clone(),
    }
}

/// Control characters that would steer a terminal are shown instead (`printers.EscapeTerminal`).
pub fn escape_terminal(text: &str) -> String {
    text.replace('\x1b', "^[").replace('\r', "\\r")
}

/// Bytes as a text: where they are no UTF-8, each byte is a replacement character of its own, as Go has it when it goes through a string.
pub fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn fractions_of_durations_are_exact() {
        for (text, nanos) in [
            ("1m5.532565s", 65_532_565_000),
            ("0.000000001s", 1),
            ("1.1ms", 1_100_000),
            (".29s", 290_000_000),
            ("1.s", 1_000_000_000),
            ("0.9999999999999999999999s", 1_000_000_000),
            ("1.000000000000000000000000000001h", 3_600_000_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(duration(".s"), None);
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, nanos) in [("1m30s", 90_000_000_000), ("1.5s", 1_500_000_000), ("20ms", 20_000_000), ("1h0m5s", 3_605_000_000_000), ("0s", 0)] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!((super::duration(text), duration_text(duration).as_str()), (Some(duration), text));
        }
        for bad in ["", "5", "x", "5 s", "-1s", "1.2.3s"] {
            assert_eq!(super::duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_gos_words() {
        for (text, why) in [
            ("x", "time: invalid duration \"x\""),
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
        ] {
            assert_eq!(parse_duration(text), Err(why.to_owned()));
        }
        assert_eq!(parse_duration("-1m5s"), Ok(SignedDuration::from_secs(-65)));
        assert_eq!(parse_duration("-9223372036854775808ns"), Ok(SignedDuration::from_nanos(i64::MIN)));
    }

    #[test]
    fn values_print_as_go_prints_them() {
        assert_eq!(sprint(&json!({"b": [1, "x"], "a": null})), "map[a:<nil> b:[1 x]]");
        for (f, wanted) in [(1e21, "1e+21"), (0.5, "0.5"), (1e-7, "1e-07"), (1_234_567.0, "1.234567e+06"), (100_000.0, "100000"), (1.5e300, "1.5e+300")] {
            assert_eq!(float(f), wanted);
        }
        assert_eq!(json_compact(&json!("a<b&")), "\"a\\u003cb\\u0026\"");
        assert_eq!(unquote("a\\n\\\"", '"').as_deref(), Some("a\n\""));
    }

    // Asked of Go: `[]rune(string)`.
    #[test]
    fn each_byte_that_is_no_text_is_replaced() {
        for (bytes, wanted) in [(&b"a\xff\xfeb"[..], "a\u{fffd}\u{fffd}b"), (b"\xe1\xbe\xf4\x85Y", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}Y"), ("é".as_bytes(), "é")]
        {
            assert_eq!(utf8(bytes), wanted);
        }
    }
}
