//! Equality as the API means it (upstream: `apiequality.Semantic`): absent, null and empty lists are one; quantities are equal
//! when their amounts are.

use knarr_core::{Map, Value, quantity::Quantity};

/// Structs that Go holds by value: absent and `{}` are the same thing.
const VALUE_STRUCTS: [&str; 8] = ["resources", "strategy", "updateStrategy", "metadata", "status", "template", "spec", "loadBalancer"];

/// Whether two values mean the same.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (present(a), present(b)) {
        (None, None) => true,
        (Some(a), Some(b)) => same_values(a, b),
        _ => false,
    }
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty()))
}

fn same_values(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => same_objects(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b))),
        _ => a == b,
    }
}

fn same_objects(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).all(|key| {
        let (a, b) = (a.get(key), b.get(key));
        let by_value = VALUE_STRUCTS.contains(&key.as_str());
        match (a, b) {
            (Some(Value::Object(x)), None) | (None, Some(Value::Object(x))) if by_value => x.values().all(|v| same(Some(v), None)),
            (Some(Value::Object(x)), Some(Value::Object(y))) if is_amounts(key) => same_amounts(x, y),
            _ => same(a, b),
        }
    })
}

fn is_amounts(key: &str) -> bool {
    ["limits", "requests", "capacity", "hard", "overhead"].contains(&key)
}

fn same_amounts(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, x)| b.get(name).is_some_and(|y| x == y || Quantity::from_json(x).is_some_and(|x| Quantity::from_json(y) == Some(x))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_and_empty_are_one_but_an_empty_selector_is_not_absent() {
        for (a, b, wanted) in [
            (json!({"a": []}), json!({}), true),
            (json!({"a": null}), json!({}), true),
            (json!({"resources": {}}), json!({}), true),
            (json!({"podSelector": {}}), json!({}), false),
            (json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "1000m"}}), true),
            (json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}), false),
        ] {
            assert_eq!(same(Some(&a), Some(&b)), wanted, "{a} {b}");
        }
    }
}
