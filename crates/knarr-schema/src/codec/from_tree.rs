//! From a tree to protobuf: fields in order of their numbers, value fields always, pointers only when set, lists and maps
//! only when not empty.

use knarr_core::time::Moment;
use knarr_core::{Map, Value};

use super::wire::Back;
use super::{canonical, scalar, schema_props, tree_json};
use crate::types::{self, Field, Shape, Type};

/// A value that its field cannot hold, with the path to it, innermost first.
#[derive(Debug)]
pub(super) struct Mismatch {
    path: Vec<String>,
    wanted: &'static str,
}

impl Mismatch {
    fn new(wanted: &'static str) -> Self {
        Self { path: Vec::new(), wanted }
    }

    fn under(mut self, step: &str) -> Self {
        self.path.push(step.to_owned());
        self
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
        write!(f, "cannot encode {}: not {}", path.join("."), self.wanted)
    }
}

type Result<T = ()> = std::result::Result<T, Mismatch>;

/// Writes the body of a message.
pub(super) fn message(back: &mut Back, t: &'static Type, map: &Map<String, Value>) -> Result {
    for field in t.descending() {
        field_of(back, field, map).map_err(|e| e.under(field.json))?;
    }
    Ok(())
}

fn field_of(back: &mut Back, field: &'static Field, map: &Map<String, Value>) -> Result {
    if let (Shape::Struct(id), true) = (field.shape, field.inline) {
        let before = back.len();
        message(back, types::get(id), map)?;
        back.close(field.number, before);
        return Ok(());
    }
    let given = map.get(field.json);
    let value = given.filter(|v| !v.is_null());
    match (field.shape, value) {
        (Shape::List(_) | Shape::Map(_), None) => Ok(()),
        (Shape::List(item), Some(list)) => {
            let items = list.as_array().ok_or(Mismatch::new("a list"))?;
            items.iter().rev().try_for_each(|v| one(back, field.number, item, Some(v)))
        }
        (Shape::Map(item), Some(map)) => {
            let entries = map.as_object().ok_or(Mismatch::new("an object"))?;
            entries.iter().rev().try_for_each(|(key, v)| {
                let before = back.len();
                one(back, 2, item, Some(v)).map_err(|e| e.under(key))?;
                back.bytes(1, key.as_bytes());
                back.close(field.number, before);
                Ok(())
            })
        }
        (Shape::Bytes | Shape::NamedList(_), None) => Ok(()),
        (_, None) if field.pointer && !(given.is_some() && field.may_be_zero_time()) => Ok(()),
        _ => one(back, field.number, &field.shape, value),
    }
}

/// Writes one value with its tag; an absent one as its zero.
fn one(back: &mut Back, number: u32, shape: &'static Shape, value: Option<&Value>) -> Result {
    let value = value.filter(|v| !v.is_null());
    match shape {
        Shape::String => back.bytes(number, text(value)?.as_bytes()),
        Shape::Bool => back.number(number, u64::from(value.map_or(Some(false), Value::as_bool).ok_or(Mismatch::new("a boolean"))?)),
        Shape::Int32 => back.number(number, i32::try_from(integer(value)?).map_err(|_| Mismatch::new("a 32-bit integer"))? as i64 as u64),
        Shape::Int64 => back.number(number, integer(value)? as u64),
        Shape::Double => {
            let x = value.map_or(Some(0.0), Value::as_f64).ok_or(Mismatch::new("a number"))?;
            back.raw(&x.to_le_bytes());
            back.tag(number, 1);
        }
        Shape::Bytes => {
            let decoded = canonical::bytes(text(value)?).map_err(|_| Mismatch::new("base64"))?;
            back.bytes(number, &decoded);
        }
        _ => {
            let before = back.len();
            body(back, shape, value)?;
            back.close(number, before);
        }
    }
    Ok(())
}

/// Writes what a length-delimited value holds.
fn body(back: &mut Back, shape: &'static Shape, value: Option<&Value>) -> Result {
    match shape {
        Shape::Struct(id) => return object(back, types::get(*id), value),
        Shape::NamedList(id) => {
            let (Some(Shape::List(item)), Some(list)) = (types::get(*id).alias, value) else { return Ok(()) };
            let items = list.as_array().ok_or(Mismatch::new("a list"))?;
            return items.iter().rev().try_for_each(|v| one(back, 1, item, Some(v)));
        }
        Shape::Quantity => match value {
            None => back.bytes(1, b"0"),
            Some(Value::String(s)) => back.bytes(1, s.as_bytes()),
            Some(Value::Number(n)) => back.bytes(1, n.to_string().as_bytes()),
            Some(_) => return Err(Mismatch::new("a quantity")),
        },
        Shape::IntOrString => {
            let (kind, number, string) = match value {
                Some(Value::String(s)) => (1, 0, s.as_str()),
                _ => (0, i32::try_from(integer(value)?).map_err(|_| Mismatch::new("a 32-bit integer or a string"))?, ""),
            };
            back.bytes(3, string.as_bytes());
            back.number(2, i64::from(number) as u64);
            back.number(1, kind);
        }
        Shape::Time | Shape::MicroTime => {
            let Some(value) = value else { return Ok(()) };
            let at = value.as_str().and_then(Moment::parse).ok_or(Mismatch::new("a time"))?;
            back.number(2, if *shape == Shape::MicroTime { at.nanos.into() } else { 0 });
            back.number(1, at.seconds as u64);
        }
        Shape::Duration => {
            let nanos = value.map_or(Some(0), |v| v.as_str().and_then(scalar::parse_duration)).ok_or(Mismatch::new("a duration"))?;
            back.number(1, nanos as u64);
        }
        Shape::RawExtension | Shape::FieldsV1 | Shape::Json => {
            if let Some(value) = value {
                let mut json = Vec::new();
                tree_json::plain(&mut json, value, false);
                back.bytes(1, &json);
            }
        }
        Shape::SchemaOrBool => {
            let schema = value.filter(|v| v.is_object());
            if schema.is_some() {
                let before = back.len();
                object(back, schema_props(), schema)?;
                back.close(2, before);
            }
            back.number(1, u64::from(schema.is_some() || value.and_then(Value::as_bool).unwrap_or(false)));
        }
        Shape::SchemaOrArray | Shape::SchemaOrStrings => return schema_or_list(back, shape, value),
        _ => return Err(Mismatch::new("a value that protobuf can hold")),
    }
    Ok(())
}

fn schema_or_list(back: &mut Back, shape: &'static Shape, value: Option<&Value>) -> Result {
    match value {
        Some(Value::Array(items)) => items.iter().rev().try_for_each(|v| match shape {
            Shape::SchemaOrStrings => one(back, 2, &Shape::String, Some(v)),
            _ => {
                let before = back.len();
                object(back, schema_props(), Some(v))?;
                back.close(2, before);
                Ok(())
            }
        }),
        Some(schema) => {
            let before = back.len();
            object(back, schema_props(), Some(schema))?;
            back.close(1, before);
            Ok(())
        }
        None => Ok(()),
    }
}

fn object(back: &mut Back, t: &'static Type, value: Option<&Value>) -> Result {
    match value {
        None => message(back, t, &Map::new()),
        Some(v) => message(back, t, v.as_object().ok_or(Mismatch::new("an object"))?),
    }
}

fn text(value: Option<&Value>) -> Result<&str> {
    value.map_or(Some(""), Value::as_str).ok_or(Mismatch::new("a string"))
}

/// An integer, also where it came as a float without a fraction.
fn integer(value: Option<&Value>) -> Result<i64> {
    let whole = |v: &Value| v.as_i64().or_else(|| v.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64));
    value.map_or(Some(0), whole).ok_or(Mismatch::new("an integer"))
}
