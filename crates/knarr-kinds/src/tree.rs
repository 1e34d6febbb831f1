//! Short ways to fill in a tree: defaulting reads as a list of lines.

use knarr_core::{Map, Value, ValueExt, quantity::Quantity};

/// Makes an object of null, so that fields can be set in it.
pub fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Sets a field that is absent or null: the default of a pointer.
pub fn default_to(parent: &mut Value, key: &str, value: impl Into<Value>) {
    let map = object(parent);
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a field that is absent, null, zero or empty: the default of a value.
pub fn default_if_zero(parent: &mut Value, key: &str, value: impl Into<Value>) {
    let map = object(parent);
    if map.get(key).is_none_or(is_zero) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Whether Go would see the zero value of a string, number, bool, list or map.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Whether the field is there and not null (a pointer that is set).
pub fn is_set(parent: &Value, key: &str) -> bool {
    parent.get(key).is_some_and(|v| !v.is_null())
}

/// Whether there is no value at the path, or a zero one.
pub fn is_zero_at(value: &Value, path: &[&str]) -> bool {
    value.at(path).is_none_or(is_zero)
}

/// Calls `f` with each item of the list at the path.
pub fn each(value: &mut Value, path: &[&str], mut f: impl FnMut(&mut Value)) {
    for item in list_mut(value, path) {
        f(item);
    }
}

/// The items of the list at the path, or none.
pub fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    value.at_mut(path).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Calls `f` with the struct at the path if there is one.
pub fn with(value: &mut Value, path: &[&str], f: impl FnOnce(&mut Value)) {
    if let Some(found) = value.at_mut(path).filter(|v| v.is_object()) {
        f(found);
    }
}

/// Rounds the amounts of a ResourceList up to thousandths (upstream: `SetDefaults_ResourceList`).
pub fn round_amounts(value: &mut Value, path: &[&str]) {
    let Some(list) = value.at_mut(path).and_then(Value::as_object_mut) else { return };
    for amount in list.values_mut() {
        let Some(exact) = Quantity::from_json(amount) else { continue };
        let mut rounded = Quantity::from_millis(exact.millis());
        if rounded != exact && exact.millis().abs() < i64::MAX {
            rounded.format = exact.format;
            *amount = rounded.to_string().into();
        }
    }
}

/// The strings of the list at the path.
pub fn strings<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a str> {
    value.list_at(path).iter().filter_map(Value::as_str)
}

/// The entries of the object at the path.
pub fn entries<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value.at(path).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_rounded_up_to_thousandths() {
        let mut v = json!({"limits": {"cpu": "1u", "memory": "1Gi"}});
        round_amounts(&mut v, &["limits"]);
        assert_eq!(v, json!({"limits": {"cpu": "1m", "memory": "1Gi"}}));
    }
}
