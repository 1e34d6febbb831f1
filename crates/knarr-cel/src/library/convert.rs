//! Conversions between types (upstream: cel-go's `ConvertToType` of each type).

use super::{Impl, fail, net, no_overload};
use crate::{
    time,
    value::{Error, Res, Value},
};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "bool" => |_, a| match &a[..] {
            [Value::Bool(b)] => Ok(Value::Bool(*b)),
            [Value::String(s)] => match &**s {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                _ => fail(format!("type conversion error from 'string' to 'bool': {}", &**s)),
            },
            _ => no_overload(),
        },
        "bytes" => |_, a| match &a[..] {
            [v @ Value::Bytes(_)] => Ok(v.clone()),
            [Value::String(s)] => Ok(Value::Bytes(s.as_bytes().into())),
            _ => no_overload(),
        },
        "double" => |_, a| match &a[..] {
            [v @ Value::Double(_)] => Ok(v.clone()),
            [Value::Int(n)] => Ok(Value::Double(*n as f64)),
            [Value::Uint(n)] => Ok(Value::Double(*n as f64)),
            [Value::String(s)] => s.parse().map(Value::Double).map_err(|_| parse_error("ParseFloat", s)),
            _ => no_overload(),
        },
        "int" => |_, a| to_int(&a),
        "uint" => |_, a| to_uint(&a),
        "duration" => |_, a| match &a[..] {
            [v @ Value::Duration(_)] => Ok(v.clone()),
            [Value::String(s)] => {
                time::parse_duration(s).map(Value::Duration).ok_or_else(|| Error::new(format!("time: invalid duration {}", knarr_core::field::go_quote(s))))
            }
            _ => no_overload(),
        },
        "timestamp" => |_, a| match &a[..] {
            [v @ Value::Timestamp(_)] => Ok(v.clone()),
            [Value::Int(n)] => {
                jiff::Timestamp::from_second(*n).ok().filter(time::in_range).map(Value::Timestamp).ok_or_else(|| Error::new("timestamp overflow"))
            }
            [Value::String(s)] => time::parse_timestamp(s)
                .map(Value::Timestamp)
                .ok_or_else(|| Error::new(format!("parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse", knarr_core::field::go_quote(s)))),
            _ => no_overload(),
        },
        "string" => |_, a| match &a[..] {
            [v @ Value::String(_)] => Ok(v.clone()),
            [v] => to_text(v).map(Value::text),
            _ => no_overload(),
        },
        _ => return None,
    })
}

fn parse_error(function: &str, text: &str) -> Error {
    Error::new(format!("strconv.{function}: parsing {}: invalid syntax", knarr_core::field::go_quote(text)))
}

fn to_int<'a>(args: &[Value<'a>]) -> Res<'a> {
    let overflow = || Error::new("integer overflow");
    match args {
        [v @ Value::Int(_)] => Ok(v.clone()),
        [Value::Uint(n)] => i64::try_from(*n).map(Value::Int).map_err(|_| overflow()),
        [Value::Double(f)] if f.abs() < 9.223_372_036_854_775e18 => Ok(Value::Int(*f as i64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::String(s)] => s.parse().map(Value::Int).map_err(|_| parse_error("ParseInt", s)),
        [Value::Timestamp(t)] => Ok(Value::Int(t.as_second())),
        [Value::Duration(n)] => Ok(Value::Int(*n)),
        _ => no_overload(),
    }
}

fn to_uint<'a>(args: &[Value<'a>]) -> Res<'a> {
    let overflow = || Error::new("unsigned integer overflow");
    match args {
        [v @ Value::Uint(_)] => Ok(v.clone()),
        [Value::Int(n)] => u64::try_from(*n).map(Value::Uint).map_err(|_| overflow()),
        [Value::Double(f)] if *f > -1.0 && *f < 1.844_674_407_370_955e19 => Ok(Value::Uint(*f as u64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::String(s)] => s.parse().map(Value::Uint).map_err(|_| parse_error("ParseUint", s)),
        _ => no_overload(),
    }
}

/// `string(value)`.
///
/// # Errors
/// For values that have no text.
pub fn to_text(value: &Value<'_>) -> Result<String, Error> {
    Ok(match value {
        Value::String(s) => (**s).to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(f) => go_g(*f),
        Value::Duration(n) => time::seconds(*n),
        Value::Timestamp(t) => t.to_string(),
        Value::Bytes(b) => String::from_utf8(b.to_vec()).map_err(|_| Error::new("invalid UTF-8 in bytes, cannot convert to string"))?,
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(ip, bits) => net::cidr_text(ip, *bits),
        _ => return Err(Error::no_overload()),
    })
}

/// Go's `%g`: an exponent for very large and very small numbers.
fn go_g(f: f64) -> String {
    let size = f.abs();
    if f.is_finite() && size != 0.0 && !(1e-4..1e21).contains(&size) {
        let plain = format!("{f:e}");
        let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    time::go_float(f)
}
