//! Strategic merge as kustomize does it (`kyaml/yaml/merge2`): the schema says by which keys the items of a list are told apart, and
//! what a patch names comes first in a merged list.

use knarr_core::{Map, Value};
use knarr_schema::types::{self, Field, ListType, Shape};

const DIRECTIVE: &str = "$patch";

/// The object with the patch laid over it; nothing when the patch deletes it.
pub fn merge(kind: Option<types::TypeId>, object: Value, patch: &Value) -> Option<Value> {
    value(kind.map(Shape::Struct), None, Some(object), patch)
}

fn value(shape: Option<Shape>, field: Option<&'static Field>, old: Option<Value>, new: &Value) -> Option<Value> {
    match (old, new) {
        (_, Value::Null) => None,
        (Some(Value::Object(old)), Value::Object(new)) => map(shape, old, new),
        (Some(Value::Array(old)), Value::Array(new)) => Some(Value::Array(list(shape, field, old, new))),
        (_, Value::Object(new)) => match new.get(DIRECTIVE).and_then(Value::as_str) {
            Some("delete") => None,
            _ => map(shape, Map::new(), new),
        },
        (_, Value::Array(new)) => Some(Value::Array(new.iter().filter(|item| directive(item) != Some("delete")).map(plain).collect())),
        (_, scalar) => Some(scalar.clone()),
    }
}

fn map(shape: Option<Shape>, mut old: Map<String, Value>, new: &Map<String, Value>) -> Option<Value> {
    match new.get(DIRECTIVE).and_then(Value::as_str) {
        Some("delete") => return None,
        Some("replace") => return Some(plain(&Value::Object(new.clone()))),
        _ => {}
    }
    for (key, change) in new.iter().filter(|(key, _)| *key != DIRECTIVE) {
        let (below, field) = part(shape, key);
        let merged = value(below, field, old.remove(key), change);
        if let Some(merged) = merged {
            old.insert(key.clone(), merged);
        }
    }
    Some(Value::Object(old))
}

/// The shape of a member, and the field that it is, if it is known.
fn part(shape: Option<Shape>, key: &str) -> (Option<Shape>, Option<&'static Field>) {
    match shape {
        Some(Shape::Struct(id)) => {
            let field = types::get(id).field(key);
            (field.map(|f| f.shape), field)
        }
        Some(Shape::Map(below)) => (Some(*below), None),
        _ => (None, None),
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).and_then(Value::as_str)
}

/// Without directives and nulls: what a patch adds.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().filter(|(k, v)| *k != DIRECTIVE && !v.is_null()).map(|(k, v)| (k.clone(), plain(v))).collect(),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

fn list(shape: Option<Shape>, field: Option<&'static Field>, old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    if new.iter().any(|item| directive(item) == Some("replace")) {
        return new.iter().filter(|item| directive(item) != Some("replace")).map(plain).collect();
    }
    let below = match shape {
        Some(Shape::List(below)) => Some(*below),
        _ => None,
    };
    let Some(keys) = keys(field) else { return new.iter().map(plain).collect() };
    if keys.is_empty() {
        // Scalars: a set.
        let mut all: Vec<Value> = new.to_vec();
        all.extend(old.into_iter().filter(|item| !new.contains(item)));
        return all;
    }
    let (mut merged, mut left) = (Vec::new(), old);
    for item in new {
        let there = left.iter().position(|other| is_same(&keys, other, item)).map(|at| left.remove(at));
        merged.extend(value(below, None, there, item));
    }
    merged.extend(left);
    merged
}

/// What tells the items of a list apart; empty for a set of scalars, nothing for a list that is taken as a whole, as all are of
/// which no schema speaks.
fn keys(field: Option<&'static Field>) -> Option<Vec<&'static str>> {
    match field {
        Some(field) if field.patch_strategy.split(',').any(|s| s == "merge") || field.list_type == Some(ListType::Map) => Some(if field.map_keys.is_empty() {
            Vec::from_iter((!field.patch_merge_key.is_empty()).then_some(field.patch_merge_key))
        } else {
            field.map_keys.to_vec()
        }),
        _ => None,
    }
}

/// A key that one of the two lacks does not tell them apart, as long as another does not either.
fn is_same(keys: &[&str], one: &Value, other: &Value) -> bool {
    let pairs = || keys.iter().map(|key| (one.get(*key), other.get(*key)));
    pairs().all(|(a, b)| a == b || a.is_none() || b.is_none()) && pairs().any(|(a, b)| a.is_some() && a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn merged(old: Value, patch: &Value) -> Option<Value> {
        merge(types::of_kind("apps", "v1", "Deployment"), json!({"spec": {"template": {"spec": old}}}), &json!({"spec": {"template": {"spec": patch}}}))
            .map(|v| v["spec"]["template"]["spec"].clone())
    }

    #[test]
    fn what_a_patch_names_comes_first() {
        let old = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "ports": [{"containerPort": 1}]}], "hostNetwork": true});
        let patch = json!({"containers": [{"name": "new"}, {"name": "b", "ports": [{"containerPort": 1, "protocol": "TCP"}]}, {"name": "a", "$patch": "delete"}], "hostNetwork": null});
        assert_eq!(merged(old, &patch).unwrap(), json!({"containers": [{"name": "new"}, {"name": "b", "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}));
    }

    #[test]
    fn lists_without_keys_are_exchanged_and_an_object_can_be_deleted() {
        let old = json!({"containers": [{"name": "a", "args": ["x", "y"]}]});
        assert_eq!(merged(old, &json!({"containers": [{"name": "a", "args": ["z"]}]})).unwrap()["containers"][0]["args"], json!(["z"]));
        assert_eq!(merge(None, json!({"kind": "A"}), &json!({"kind": "A", "$patch": "delete"})), None);
    }
}
