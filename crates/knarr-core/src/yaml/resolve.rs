//! What a scalar means: the table of `yaml/v2/resolve.go` (YAML 1.1: `yes`, `on` and `n` are booleans, `0644` is octal, `1_000` is a number).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};

use crate::go;

const CORE: &str = "tag:yaml.org,2002:";

/// The value of a scalar.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Value(Value),
    /// JSON has no such number: its name as a key, and as Go's encoder refuses it.
    NotFinite(&'static str, &'static str),
}

/// What a scalar is, in the names of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Float,
    Null,
    Str,
    Timestamp,
}

impl Kind {
    fn of_tag(tag: &str) -> Option<Self> {
        Some(match tag {
            "bool" => Self::Bool,
            "int" => Self::Int,
            "float" => Self::Float,
            "null" => Self::Null,
            "str" => Self::Str,
            "timestamp" => Self::Timestamp,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Null => "null",
            Self::Str => "str",
            Self::Timestamp => "timestamp",
        }
    }
}

/// The value of a plain scalar without a tag; `.nan` and `.inf`, which have no JSON, stay texts.
pub fn resolve(text: &str) -> Value {
    match untagged(text).1 {
        Scalar::Value(value) => value,
        Scalar::NotFinite(..) => Value::String(text.to_owned()),
    }
}

/// Whether a plain scalar without a tag is read as the text that it is, and not for a number, a date or the like.
pub(super) fn is_text(text: &str) -> bool {
    untagged(text).0 == Kind::Str
}

/// The value of any scalar; `tag` as the parser gives it, written out.
///
/// # Errors
/// goyaml's sentence, without `yaml: `.
pub(super) fn scalar(text: &str, plain: bool, tag: Option<&str>) -> Result<Scalar, String> {
    let string = || Scalar::Value(Value::String(text.to_owned()));
    let Some(tag) = tag else { return Ok(if plain { untagged(text).1 } else { string() }) };
    let Some(short) = tag.strip_prefix(CORE) else { return Ok(string()) };
    if short == "binary" {
        let packed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let bytes = STANDARD.decode(packed).map_err(|_| "!!binary value contains invalid base64 data".to_owned())?;
        return Ok(Scalar::Value(Value::String(String::from_utf8_lossy(&bytes).into_owned())));
    }
    let Some(wanted) = Kind::of_tag(short) else { return Ok(string()) };
    if wanted == Kind::Str {
        return Ok(string());
    }
    let (found, value) = if wanted == Kind::Timestamp || !is_timestamp(text) { untagged(text) } else { number(text).unwrap_or((Kind::Str, string())) };
    if found == wanted || (found, wanted) == (Kind::Int, Kind::Float) {
        return Ok(value);
    }
    Err(format!("cannot decode !!{} `{text}` as a !!{short}", found.name()))
}

/// A scalar as a key of JSON; `text` is as it was written.
///
/// # Errors
/// The refusal of `sigs.k8s.io/yaml`, up to the key's value: JSON has no such key.
pub(super) fn key(scalar: &Scalar, text: &str) -> Result<String, String> {
    Ok(match scalar {
        Scalar::Value(Value::String(key)) => key.clone(),
        Scalar::Value(Value::Bool(key)) => key.to_string(),
        Scalar::Value(Value::Number(key)) if key.is_f64() || integer(&text.replace('_', "")).is_none() => {
            // As a float32 is printed.
            go::float(key.as_f64().map_or(0.0, |f| (f as f32).to_string().parse().unwrap_or(f)))
        }
        Scalar::Value(Value::Number(key)) if !key.is_i64() => {
            return Err(format!("unsupported map key of type: uint64, key: 0x{:x}", key.as_u64().unwrap_or_default()));
        }
        Scalar::Value(Value::Number(key)) => key.to_string(),
        Scalar::Value(_) => return Err("unsupported map key of type: %!s(<nil>), key: <nil>".to_owned()),
        Scalar::NotFinite(key, _) => (*key).to_owned(),
    })
}

fn untagged(text: &str) -> (Kind, Scalar) {
    let value = |kind, value| (kind, Scalar::Value(value));
    let known = match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(value(Kind::Bool, Value::Bool(true))),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(value(Kind::Bool, Value::Bool(false))),
        "" | "~" | "null" | "Null" | "NULL" => Some(value(Kind::Null, Value::Null)),
        ".nan" | ".NaN" | ".NAN" => Some((Kind::Float, Scalar::NotFinite(".nan", "NaN"))),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some((Kind::Float, Scalar::NotFinite(".inf", "+Inf"))),
        "-.inf" | "-.Inf" | "-.INF" => Some((Kind::Float, Scalar::NotFinite("-.inf", "-Inf"))),
        _ => None,
    };
    let string = |kind| value(kind, Value::String(text.to_owned()));
    known.unwrap_or_else(|| match text.as_bytes()[0] {
        b'.' | b'0'..=b'9' | b'+' | b'-' if is_timestamp(text) => string(Kind::Timestamp),
        b'.' => float(text).map_or_else(|| string(Kind::Str), |v| value(Kind::Float, v)),
        b'0'..=b'9' | b'+' | b'-' => number(text).unwrap_or_else(|| string(Kind::Str)),
        _ => string(Kind::Str),
    })
}

/// A number, with underscores anywhere.
fn number(text: &str) -> Option<(Kind, Scalar)> {
    let plain = text.replace('_', "");
    let whole = integer(&plain).map(|n| (Kind::Int, Scalar::Value(n.into())));
    whole.or_else(|| float(&plain).map(|v| (Kind::Float, Scalar::Value(v))))
}

/// `strconv.ParseInt(s, 0, 64)` and its unsigned sister: `0x`, `0o`, `0b` and a leading zero choose the base.
fn integer(plain: &str) -> Option<Number> {
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| (b as char).is_digit(base)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, base).ok()?;
    match (negative, i64::try_from(magnitude)) {
        (false, _) if !plain.starts_with('+') || magnitude <= i64::MAX as u64 => Some(magnitude.into()),
        (true, Ok(n)) => Some((-n).into()),
        (true, Err(_)) if magnitude == 1 << 63 => Some(i64::MIN.into()),
        _ => None,
    }
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn is_float_syntax(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let mantissa_good = digits(whole) && fraction.is_none_or(digits) && (!whole.is_empty() || fraction.is_some_and(|f| !f.is_empty()));
    let exponent_good = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_good && exponent_good
}

/// `None` also for what is too large.
fn float(text: &str) -> Option<Value> {
    if !is_float_syntax(text) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    // Go writes a whole float64 below 1e21 without a fraction.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return Some(Value::Number((number as i64).into()));
    }
    Number::from_f64(number).map(Value::Number)
}

/// `2006-1-2`, alone or with a time, as the reader takes it for a timestamp.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || !bytes[..4].iter().all(u8::is_ascii_digit) || bytes[4] != b'-' {
        return false;
    }
    let (date, time) = text.find(['T', 't', ' ']).map_or((text, None), |at| (&text[..at], Some(&text[at..])));
    let mut parts = date.split('-');
    let within = |part: Option<&str>, low: u32, high: u32| {
        part.is_some_and(|p| (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()) && p.parse().is_ok_and(|n: u32| (low..=high).contains(&n)))
    };
    parts.next();
    if !within(parts.next(), 1, 12) || !within(parts.next(), 1, 31) || parts.next().is_some() {
        return false;
    }
    let Some(time) = time else { return true };
    let (space, time) = (time.starts_with(' '), &time[1..]);
    let zone = time.find(['Z', '+', '-']);
    let clock = &time[..zone.unwrap_or(time.len())];
    let zone_good = match zone.map(|at| &time[at..]) {
        None => space,
        Some(_) if space => false,
        Some("Z") => true,
        Some(z) => z.len() == 6 && z.as_bytes()[3] == b':' && z[1..3].bytes().chain(z[4..].bytes()).all(|b| b.is_ascii_digit()),
    };
    let mut clock_parts = clock.splitn(3, ':');
    let (h, m, s) = (clock_parts.next(), clock_parts.next(), clock_parts.next());
    let seconds = s.map(|s| s.split_once('.').map_or((s, None), |(s, f)| (s, Some(f))));
    zone_good
        && within(h, 0, 23)
        && within(m, 0, 59)
        && seconds.is_some_and(|(s, f)| within(Some(s), 0, 59) && f.is_none_or(|f| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit())))
}
