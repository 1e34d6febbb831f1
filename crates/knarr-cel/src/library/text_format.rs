//! `string.format(list)` (upstream: cel-go's `ext/formatting.go`).

use knarr_core::field::go_quote;

use super::convert;
use crate::value::{Error, Value};

const PRECISION: usize = 6;
const PRECISION_MAX: usize = 100;

pub fn format(text: &str, args: &[Value<'_>]) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            let n: usize = digits.parse().map_err(|_| Error::new("error while converting precision to integer"))?;
            if n > PRECISION_MAX {
                return Err(Error::new(format!("precision {n} exceeds maximum allowed precision {PRECISION_MAX}")));
            }
            precision = Some(n);
        }
        let Some(verb) = chars.next() else { return Err(Error::new("unexpected end of string")) };
        let arg = args.get(next).ok_or_else(|| Error::new(format!("index {next} out of range")))?;
        next += 1;
        out.push_str(&clause(verb, precision, arg)?);
    }
    Ok(out)
}

fn clause(verb: char, precision: Option<usize>, arg: &Value<'_>) -> Result<String, Error> {
    let precision = precision.unwrap_or(PRECISION);
    let wrong = |what: &str| Error::new(format!("error during formatting: {what}, was given {}", arg.type_of().runtime_name()));
    match verb {
        's' => string(arg),
        'd' => match arg {
            Value::Int(n) => Ok(n.to_string()),
            Value::Uint(n) => Ok(n.to_string()),
            _ => Err(wrong("decimal clause can only be used on integers")),
        },
        'f' => Ok(fixed(double(arg).ok_or_else(|| wrong("fixed-point clause can only be used on doubles"))?, precision)),
        'e' => Ok(scientific(double(arg).ok_or_else(|| wrong("scientific clause can only be used on doubles"))?, precision)),
        'b' => match arg {
            Value::Int(n) => Ok(radix(*n, |m| format!("{m:b}"))),
            Value::Uint(n) => Ok(format!("{n:b}")),
            Value::Bool(b) => Ok(u8::from(*b).to_string()),
            _ => Err(wrong("only integers and bools can be formatted as binary")),
        },
        'x' => hex(arg, false).ok_or_else(|| wrong("only integers, byte buffers, and strings can be formatted as hex")),
        'X' => hex(arg, true).ok_or_else(|| wrong("only integers, byte buffers, and strings can be formatted as hex")),
        'o' => match arg {
            Value::Int(n) => Ok(radix(*n, |m| format!("{m:o}"))),
            Value::Uint(n) => Ok(format!("{n:o}")),
            _ => Err(wrong("octal clause can only be used on integers")),
        },
        other => Err(Error::new(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\""))),
    }
}

fn radix(n: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if n < 0 { "-" } else { "" }, digits(n.unsigned_abs()))
}

fn hex(arg: &Value<'_>, upper: bool) -> Option<String> {
    let bytes = |b: &[u8]| knarr_core::hex::encode(b);
    let shown = match arg {
        Value::Int(n) => radix(*n, |m| format!("{m:x}")),
        Value::Uint(n) => format!("{n:x}"),
        Value::String(s) => bytes(s.as_bytes()),
        Value::Bytes(b) => bytes(b),
        _ => return None,
    };
    Some(if upper { shown.to_uppercase() } else { shown })
}

fn double(arg: &Value<'_>) -> Option<f64> {
    match arg {
        Value::Double(f) => Some(*f),
        Value::String(s) => match &**s {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(f: f64) -> Option<String> {
    if f.is_nan() {
        Some("NaN".into())
    } else if f.is_infinite() {
        Some(if f > 0.0 { "\u{221e}".into() } else { "-\u{221e}".into() })
    } else {
        None
    }
}

/// With groups of three digits, as English has it.
fn fixed(f: f64, precision: usize) -> String {
    if let Some(special) = special(f) {
        return special;
    }
    let plain = format!("{f:.precision$}");
    let (sign, plain) = plain.strip_prefix('-').map_or(("", plain.as_str()), |rest| ("-", rest));
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut grouped = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(c);
    }
    format!("{sign}{grouped}{rest}")
}

fn scientific(f: f64, precision: usize) -> String {
    if let Some(special) = special(f) {
        return special;
    }
    let plain = format!("{f:.precision$e}");
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(("", exponent), |d| ("\u{207b}", d));
    let raised: String = format!("{digits:0>2}")
        .chars()
        .map(|c| match c {
            '1' => '\u{b9}',
            '2' => '\u{b2}',
            '3' => '\u{b3}',
            other => char::from_u32('\u{2070}' as u32 + other as u32 - '0' as u32).unwrap_or(other),
        })
        .collect();
    format!("{mantissa}\u{202f}\u{d7}\u{202f}10{sign}{raised}")
}

fn string(arg: &Value<'_>) -> Result<String, Error> {
    match arg {
        Value::Null => Ok("null".into()),
        Value::List(_) | Value::Map(_) => nested(arg),
        Value::Type(t) => Ok(t.runtime_name().to_owned()),
        Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Bool(_) | Value::String(_) | Value::Timestamp(_) | Value::Bytes(_) | Value::Duration(_) => {
            convert::to_text(arg)
        }
        other => Err(Error::new(format!(
            "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
            other.type_of().runtime_name()
        ))),
    }
}

/// A value within a list or map: written so that CEL could read it.
fn nested(arg: &Value<'_>) -> Result<String, Error> {
    match arg {
        Value::List(list) => {
            let items: Result<Vec<String>, Error> = list.iter().map(|i| nested(&i?)).collect();
            Ok(format!("[{}]", items?.join(", ")))
        }
        Value::Map(map) => {
            let mut pairs: Vec<(String, String)> = Vec::new();
            for (key, value) in map.entries()? {
                pairs.push((nested(&key)?, nested(&value)?));
            }
            pairs.sort();
            Ok(format!("{{{}}}", pairs.into_iter().map(|(k, v)| format!("{k}:{v}")).collect::<Vec<_>>().join(", ")))
        }
        Value::String(s) => Ok(go_quote(s)),
        Value::Bytes(b) => Ok(format!("b{}", go_quote(&String::from_utf8_lossy(b)))),
        Value::Timestamp(_) => Ok(format!("timestamp({})", go_quote(&convert::to_text(arg)?))),
        Value::Duration(_) => Ok(format!("duration({})", go_quote(&convert::to_text(arg)?))),
        Value::Double(f) if f.is_finite() => Ok(format!("{f:.PRECISION$}")),
        Value::Double(f) => Ok(go_quote(&crate::time::go_float(*f))),
        other => string(other),
    }
}
