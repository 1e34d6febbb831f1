//! From a tree to JSON as Go writes it: fields of built-in kinds in the table's order, with what Go always writes; any
//! other tree with sorted keys, as `unstructured` objects are.

use knarr_core::{Map, Value};

use super::{schema_props, text};
use crate::types::{self, Field, Shape, Type};

/// A tree of no known type. `html` escapes `&<>` as Go's encoder does; bytes that only rest are written without.
pub(super) fn plain(out: &mut Vec<u8>, value: &Value, html: bool) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => number(out, n),
        Value::String(s) => string(out, s, html),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                plain(out, item, html);
                out.push(b',');
            }
            close(out, b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (key, item) in map {
                string(out, key, html);
                out.push(b':');
                plain(out, item, html);
                out.push(b',');
            }
            close(out, b'}');
        }
    }
}

fn string(out: &mut Vec<u8>, s: &str, html: bool) {
    if html {
        return text::string(out, s.as_bytes());
    }
    // A string's JSON without the escapes that only HTML needs: serde_json's. Writing to memory cannot fail.
    if serde_json::to_writer(&mut *out, s).is_err() {
        text::string(out, s.as_bytes());
    }
}

fn number(out: &mut Vec<u8>, n: &serde_json::Number) {
    match (n.as_i64(), n.as_u64(), n.as_f64()) {
        (Some(n), _, _) => text::integer(out, n),
        (None, Some(n), _) => out.extend_from_slice(n.to_string().as_bytes()),
        (None, None, x) => text::float(out, x.unwrap_or(0.0)),
    }
}

fn close(out: &mut Vec<u8>, bracket: u8) {
    match out.last_mut() {
        Some(last @ b',') => *last = bracket,
        _ => out.push(bracket),
    }
}

/// An object of a known type. Fields that the type does not have are left out.
pub(super) fn object(out: &mut Vec<u8>, t: &'static Type, map: &Map<String, Value>) {
    out.push(b'{');
    members(out, t, map);
    close(out, b'}');
}

fn members(out: &mut Vec<u8>, t: &'static Type, map: &Map<String, Value>) {
    for field in t.fields {
        match field.shape {
            Shape::TypeMeta => type_meta(out, map),
            Shape::Struct(id) if field.inline => members(out, types::get(id), map),
            _ => match map.get(field.json) {
                Some(Value::Null) if field.may_be_zero_time() => {
                    out.extend_from_slice(field.key.as_bytes());
                    out.extend_from_slice(b"null,");
                }
                value => member(out, field, value.unwrap_or(&Value::Null)),
            },
        }
    }
}

fn type_meta(out: &mut Vec<u8>, map: &Map<String, Value>) {
    for key in ["kind", "apiVersion"] {
        if let Some(Value::String(s)) = map.get(key).filter(|v| *v != "") {
            text::string(out, key.as_bytes());
            out.push(b':');
            text::string(out, s.as_bytes());
            out.push(b',');
        }
    }
}

fn member(out: &mut Vec<u8>, field: &'static Field, value: &Value) {
    if is_omitted(field, value) {
        return;
    }
    out.extend_from_slice(field.key.as_bytes());
    match (field.shape, value) {
        (Shape::List(_) | Shape::Map(_), Value::Null) => out.extend_from_slice(b"null"),
        (_, Value::Null) if field.pointer => out.extend_from_slice(b"null"),
        _ => typed(out, &field.shape, value),
    }
    out.push(b',');
}

/// Whether Go leaves the field out when it holds this value (null stands for absent too).
pub(super) fn is_omitted(field: &Field, value: &Value) -> bool {
    if value.is_null() {
        return !field.is_always_written();
    }
    field.omits_zero()
        && match (field.shape, value) {
            (Shape::String | Shape::Bytes, Value::String(s)) => s.is_empty(),
            (Shape::Bool, Value::Bool(b)) => !b,
            (Shape::Int32 | Shape::Int64 | Shape::Double, Value::Number(n)) => n.as_f64() == Some(0.0),
            (Shape::List(_) | Shape::NamedList(_), Value::Array(items)) => items.is_empty(),
            (Shape::Map(_), Value::Object(map)) => map.is_empty(),
            _ => false,
        }
}

fn typed(out: &mut Vec<u8>, shape: &'static Shape, value: &Value) {
    match (shape, value) {
        (Shape::List(item), Value::Array(items)) => list(out, item, items),
        (Shape::NamedList(id), Value::Array(items)) => match &types::get(*id).alias {
            Some(Shape::List(item)) => list(out, item, items),
            _ => plain(out, value, true),
        },
        (Shape::Map(item), Value::Object(map)) => {
            out.push(b'{');
            for (key, v) in map {
                text::string(out, key.as_bytes());
                out.push(b':');
                typed(out, item, v);
                out.push(b',');
            }
            close(out, b'}');
        }
        (Shape::Struct(id), Value::Object(map)) => object(out, types::get(*id), map),
        (Shape::Struct(id), Value::Null) => object(out, types::get(*id), &Map::new()),
        (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, Value::Object(map)) => object(out, schema_props(), map),
        (Shape::SchemaOrArray, Value::Array(items)) => {
            out.push(b'[');
            for item in items {
                match item {
                    Value::Object(map) => object(out, schema_props(), map),
                    _ => plain(out, item, true),
                }
                out.push(b',');
            }
            close(out, b']');
        }
        (Shape::String, Value::Null) => out.extend_from_slice(b"\"\""),
        (Shape::Bool | Shape::SchemaOrBool, Value::Null) => out.extend_from_slice(b"false"),
        (Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString, Value::Null) => out.push(b'0'),
        (Shape::Quantity, Value::Null) => out.extend_from_slice(b"\"0\""),
        (Shape::Duration, Value::Null) => out.extend_from_slice(b"\"0s\""),
        _ => plain(out, value, true),
    }
}

fn list(out: &mut Vec<u8>, item: &'static Shape, items: &[Value]) {
    out.push(b'[');
    for v in items {
        typed(out, item, v);
        out.push(b',');
    }
    close(out, b']');
}
