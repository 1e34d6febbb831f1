//! What a scalar means: the table of `yaml/v2/resolve.go` (YAML 1.1: `yes`, `on` and `n` are booleans, `0644` is octal, `1_000` is a number).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use serde_json::{Number, Value};

use crate::go;

const CORE: &str = "tag:yaml.org,2002:";

/// As Go reads it: what is left of the last byte may be anything.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// The value of a scalar.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Value(Value),
    /// As a key it is written otherwise than an integer, and JSON may have no such number.
    Float(f64),
}

impl Scalar {
    fn text(text: String) -> Self {
        Self::Value(Value::String(text))
    }

    /// What JSON has for it.
    ///
    /// # Errors
    /// The refusal of Go's encoder.
    pub(super) fn json(self) -> Result<Value, String> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Float(float) => json_number(float).ok_or_else(|| format!("json: unsupported value: {}", float_syntax(float))),
        }
    }

    /// `%#v`, as mistakes with keys are told.
    pub(super) fn go_syntax(&self) -> String {
        match self {
            Self::Value(Value::Null) => "<nil>".to_owned(),
            Self::Value(value) => go::syntax(value).replace("map[string]", "map[interface {}]"),
            Self::Float(float) => float_syntax(*float),
        }
    }
}

fn float_syntax(float: f64) -> String {
    match float {
        float if float.is_finite() => finite_syntax(float),
        float if float.is_nan() => "NaN".to_owned(),
        float => if float > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
    }
}

fn finite_syntax(float: f64) -> String {
    if float == 0.0 && float.is_sign_negative() { "-0".to_owned() } else { go::float(float) }
}

/// Go writes a whole number below 1e21 without a fraction, with the digits that tell it from others.
fn json_number(float: f64) -> Option<Value> {
    if float.fract() == 0.0 && float.abs() < 1e21 {
        let digits = float.to_string();
        let whole = digits.parse::<i64>().map(Number::from).or_else(|_| digits.parse::<u64>().map(Number::from));
        if let Ok(whole) = whole {
            return Some(Value::Number(whole));
        }
    }
    Number::from_f64(float).map(Value::Number)
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
    untagged(text).1.and_then(|scalar| scalar.json().ok()).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Whether a plain scalar without a tag is read as the text that it is, and not for a number, a date or the like.
pub(super) fn is_text(text: &str) -> bool {
    untagged(text).0 == Kind::Str
}

/// The value of any scalar; `tag` as the parser gives it, written out.
///
/// # Errors
/// goyaml's sentence, without `yaml: `.
pub(super) fn scalar(text: String, plain: bool, tag: Option<&str>) -> Result<Scalar, String> {
    let short = match tag {
        None if plain => return Ok(untagged(&text).1.unwrap_or_else(|| Scalar::text(text))),
        None => return Ok(Scalar::text(text)),
        Some(tag) => tag.strip_prefix(CORE),
    };
    if short == Some("binary") {
        let packed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let bytes = BASE64.decode(packed).map_err(|_| "!!binary value contains invalid base64 data".to_owned())?;
        return Ok(Scalar::text(as_utf8(&bytes)));
    }
    match short.and_then(Kind::of_tag) {
        None | Some(Kind::Str) => Ok(Scalar::text(text)),
        Some(wanted) => of_kind(text, wanted),
    }
}

fn of_kind(text: String, wanted: Kind) -> Result<Scalar, String> {
    let is_date = wanted != Kind::Timestamp && is_timestamp(&text);
    let (found, scalar) = if is_date { number(&text).unwrap_or((Kind::Str, None)) } else { untagged(&text) };
    match scalar {
        Some(Scalar::Value(Value::Number(whole))) if wanted == Kind::Float && whole.is_i64() => Ok(Scalar::Float(whole.as_f64().unwrap_or_default())),
        scalar if found == wanted => Ok(scalar.unwrap_or_else(|| Scalar::text(text))),
        _ => Err(format!("cannot decode !!{} `{text}` as a !!{}", found.name(), wanted.name())),
    }
}

/// With a sign for each byte that is none of UTF-8's, as Go's encoder writes them.
fn as_utf8(bytes: &[u8]) -> String {
    bytes.utf8_chunks().flat_map(|chunk| chunk.valid().chars().chain(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER))).collect()
}

/// A scalar as a key of JSON.
///
/// # Errors
/// The refusal of `sigs.k8s.io/yaml`, up to the key's value: JSON has no such key.
pub(super) fn key(scalar: &Scalar) -> Result<String, String> {
    Ok(match scalar {
        Scalar::Value(Value::String(key)) => key.clone(),
        Scalar::Value(Value::Bool(key)) => key.to_string(),
        Scalar::Value(Value::Number(key)) if !key.is_i64() => {
            return Err(format!("unsupported map key of type: uint64, key: 0x{:x}", key.as_u64().unwrap_or_default()));
        }
        Scalar::Value(Value::Number(key)) => key.to_string(),
        Scalar::Value(_) => return Err("unsupported map key of type: %!s(<nil>), key: <nil>".to_owned()),
        Scalar::Float(key) => float_key(*key as f32),
    })
}

fn float_key(float: f32) -> String {
    match float {
        float if float.is_finite() => finite_syntax(float.to_string().parse().unwrap_or_default()),
        float if float.is_nan() => ".nan".to_owned(),
        float => if float > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
    }
}

/// What a scalar is, and its value, unless that is its text.
type Found = (Kind, Option<Scalar>);

fn untagged(text: &str) -> Found {
    let found = |kind, value| (kind, Some(Scalar::Value(value)));
    let float_found = |float| (Kind::Float, Some(Scalar::Float(float)));
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => found(Kind::Bool, Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => found(Kind::Bool, Value::Bool(false)),
        "" | "~" | "null" | "Null" | "NULL" => found(Kind::Null, Value::Null),
        ".nan" | ".NaN" | ".NAN" => float_found(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => float_found(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => float_found(f64::NEG_INFINITY),
        _ => by_first_sign(text),
    }
}

fn by_first_sign(text: &str) -> Found {
    let found = match text.as_bytes().first() {
        Some(b'0'..=b'9') if is_timestamp(text) => Some((Kind::Timestamp, None)),
        Some(b'.') if are_separators(text) => float(&text.replace('_', "")),
        Some(b'0'..=b'9' | b'+' | b'-') => number(text),
        _ => None,
    };
    found.unwrap_or((Kind::Str, None))
}

/// Whether all underscores stand between digits.
fn are_separators(text: &str) -> bool {
    let is_digit = |part: Option<char>| part.is_some_and(|c| c.is_ascii_digit());
    let (before, after) = (text.split('_'), text.split('_').skip(1));
    before.zip(after).all(|(before, after)| is_digit(before.chars().next_back()) && is_digit(after.chars().next()))
}

/// A number, with underscores anywhere.
fn number(text: &str) -> Option<Found> {
    let plain = text.replace('_', "");
    integer(&plain).map(|whole| (Kind::Int, Some(Scalar::Value(whole.into())))).or_else(|| float(&plain))
}

/// `strconv.ParseInt(s, 0, 64)` and its unsigned sister: `0x`, `0o`, `0b` and a leading zero choose the base.
fn integer(plain: &str) -> Option<Number> {
    // goyaml's own way to read binary ones lets the sign stand behind the prefix, too.
    if let Some(signed) = plain.strip_prefix("0b").filter(|digits| digits.starts_with(['-', '+'])) {
        return i64::from_str_radix(signed, 2).ok().map(Number::from);
    }
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
fn float(text: &str) -> Option<Found> {
    let float: f64 = text.parse().ok().filter(|_| is_float_syntax(text))?;
    float.is_finite().then_some((Kind::Float, Some(Scalar::Float(float))))
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
