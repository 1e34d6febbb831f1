//! What a schema does to an object before anybody looks at it: unknown fields go, defaults come
//! (upstream: `schema/pruning`, `schema/defaulting`).

use knarr_core::Value;

use super::schema::{Additional, Schema};

const TYPE_AND_METADATA: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes what the schema does not know. Gives the paths of what went, sorted.
pub fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut pruner = Pruner { path: String::new(), unknown: Vec::new() };
    pruner.node(object, Some(schema), true);
    pruner.unknown.sort();
    pruner.unknown
}

/// The same for a part of an object: a default. `is_resource`: it has type and metadata of its own.
pub fn prune_part(value: &mut Value, schema: &Schema, is_resource: bool) {
    Pruner { path: String::new(), unknown: Vec::new() }.node(value, Some(schema), is_resource);
}

struct Pruner {
    path: String,
    unknown: Vec<String>,
}

impl Pruner {
    /// Runs `f` with a longer path.
    fn below(&mut self, step: &str, f: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        f(self);
        self.path.truncate(length);
    }

    fn node(&mut self, value: &mut Value, schema: Option<&Schema>, is_root: bool) {
        let keeps_unknown = schema.is_some_and(|s| s.preserves_unknown);
        match value {
            Value::Object(map) => {
                let keeps_meta = is_root || schema.is_some_and(|s| s.is_embedded_resource);
                let keys: Vec<String> = map.keys().filter(|k| !(keeps_meta && TYPE_AND_METADATA.contains(&k.as_str()))).cloned().collect();
                for key in keys {
                    let known = schema.and_then(|s| member(s, &key));
                    match (known, map.get_mut(&key)) {
                        (Some(member), Some(child)) => self.below(&key, |p| p.node(child, member, false)),
                        _ if keeps_unknown => {}
                        _ => {
                            self.below(&key, |p| p.unknown.push(p.path.clone()));
                            map.remove(&key);
                        }
                    }
                }
            }
            Value::Array(items) => {
                let of_items = schema.and_then(|s| s.items.as_deref());
                if keeps_unknown && of_items.is_none() {
                    return;
                }
                for (i, item) in items.iter_mut().enumerate() {
                    self.below(&format!("[{i}]"), |p| p.node(item, of_items, false));
                }
            }
            _ => {}
        }
    }
}

/// The schema of a property: `None` when it is unknown, `Some(None)` when nothing below it is known.
fn member<'a>(schema: &'a Schema, key: &str) -> Option<Option<&'a Schema>> {
    match (schema.properties.get(key), &schema.additional) {
        (Some(property), _) => Some(Some(property)),
        (None, Additional::Of(other)) => Some(Some(other)),
        (None, Additional::Any(true)) => Some(None),
        _ => None,
    }
}

/// Removes nulls where none may be, unless a default takes their place (upstream: `PruneNonNullableNullsWithoutDefaults`). What
/// clients send and what lies in the store is read this way; what apply makes is not.
pub fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|key, v| !v.is_null() || property(schema, key).is_none_or(|s| s.nullable || s.default.is_some()));
            for (key, child) in map.iter_mut() {
                if let Some(below) = property(schema, key) {
                    drop_nulls(child, below);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(item, below));
            }
        }
        _ => {}
    }
}

/// Fills in defaults, also in place of a null where none may be.
pub fn fill_defaults(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (key, property) in &schema.properties {
                if let Some(default) = &property.default
                    && map.get(key).is_none_or(|v| v.is_null() && !property.nullable)
                {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, child) in map.iter_mut() {
                if let Some(below) = property(schema, key) {
                    replace_null(child, below);
                    fill_defaults(child, below);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                for item in items {
                    replace_null(item, below);
                    fill_defaults(item, below);
                }
            }
        }
        _ => {}
    }
}

fn property<'a>(schema: &'a Schema, key: &str) -> Option<&'a Schema> {
    schema.properties.get(key).or(match &schema.additional {
        Additional::Of(other) => Some(other),
        _ => None,
    })
}

fn replace_null(value: &mut Value, schema: &Schema) {
    if let (Value::Null, false, Some(default)) = (&*value, schema.nullable, &schema.default) {
        *value = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn unknown_fields_go_and_are_told() {
        let schema = Schema::new(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"closed": {"type": "object"}}},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true},
            }},
        }}));
        let mut object = json!({"kind": "Foo", "apiVersion": "g/v1", "metadata": {"name": "n"}, "other": 1, "spec": {
            "a": "1", "b": 2, "list": [{"x": "1", "z": 1}], "map": {"k": {"y": 1, "z": 2}},
            "free": {"q": [{"r": 1}], "closed": {"s": 1}}, "pod": {"kind": "Pod", "apiVersion": "v1", "spec": {}}}});
        let gone = prune(&mut object, &schema);
        assert_eq!(gone, ["other", "spec.b", "spec.free.closed.s", "spec.list[0].z", "spec.map.k.z", "spec.pod.spec"]);
        assert_eq!(
            object["spec"],
            json!({"a": "1", "list": [{"x": "1"}], "map": {"k": {"y": 1}}, "free": {"q": [{"r": 1}], "closed": {}}, "pod": {"kind": "Pod", "apiVersion": "v1"}})
        );
    }

    #[test]
    fn defaults_fill_what_is_missing_or_may_not_be_null() {
        let schema = Schema::new(&json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "x"},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "integer", "default": 3}}},
            "d": {"type": "array", "items": {"type": "object", "properties": {"e": {"type": "boolean", "default": true}}}},
            "n": {"type": "string", "nullable": true, "default": "y"},
            "m": {"type": "string"},
        }}));
        let mut object = json!({"a": null, "d": [{}], "n": null, "m": null});
        let mut applied = object.clone();
        drop_nulls(&mut object, &schema);
        assert_eq!(object, json!({"a": null, "d": [{}], "n": null}));
        fill_defaults(&mut object, &schema);
        assert_eq!(object, json!({"a": "x", "b": {"c": 3}, "d": [{"e": true}], "n": null}));
        fill_defaults(&mut applied, &schema);
        assert_eq!(applied["m"], Value::Null, "defaults alone remove nothing");
        assert!(applied.as_object().unwrap().contains_key("m"));
    }
}
