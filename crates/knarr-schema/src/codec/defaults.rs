//! Defaults that the published schema declares. Most declared defaults only say that Go has no absent value there; those
//! that mean something are not zero, or zero on a pointer. What Kubernetes defaults by code is not here.

use knarr_core::{Map, Value};

use crate::types::{self, Field, Shape, Type};

pub(super) fn apply(t: &'static Type, value: &mut Value) {
    let Value::Object(map) = value else { return };
    members(t, map);
}

fn members(t: &'static Type, map: &mut Map<String, Value>) {
    for field in t.json_fields() {
        let absent = map.get(field.json).is_none_or(|v| v.is_null() || (!field.pointer && is_zero(v)));
        if absent {
            if let Some(default) = declared(field) {
                map.insert(field.json.to_owned(), default);
            }
        } else if let (Some(id), Some(value)) = (field.shape.struct_id(), map.get_mut(field.json)) {
            nested(&field.shape, types::get(id), value);
        }
    }
}

fn nested(shape: &Shape, t: &'static Type, value: &mut Value) {
    match (shape, value) {
        (Shape::List(_), Value::Array(items)) => items.iter_mut().for_each(|item| apply(t, item)),
        (Shape::Map(_), Value::Object(map)) => map.values_mut().for_each(|item| apply(t, item)),
        (_, value) => apply(t, value),
    }
}

/// The default that a create fills in.
pub(crate) fn declared(field: &Field) -> Option<Value> {
    let default: Value = serde_json::from_str(field.default?).ok()?;
    (field.pointer || !is_zero(&default)).then_some(default)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
