//! Defaults of a schema must be what the schema asks for (upstream: `schema/defaulting/validation.go`).

use knarr_core::{Value, ValueExt, field::ErrorList};

use crate::{
    apiextensions::custom::{Expressions, Schema, prune_part, validate_at},
    at::At,
};

const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// All that is wrong with the defaults of a schema.
pub fn validate(root: &At, must_be_pruned: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    node(root, true, must_be_pruned, &mut errors);
    errors
}

/// Whether a default has fields that its schema does not know.
pub fn are_unpruned(schema: &Value) -> bool {
    super::has(schema, &|s| s.at(&["default"]).is_some_and(|default| !is_pruned(default, s, false)))
}

fn is_pruned(default: &Value, schema: &Value, is_resource: bool) -> bool {
    let mut pruned = default.clone();
    prune_part(&mut pruned, &Schema::new(schema), is_resource);
    pruned == *default
}

fn node(at: &At, is_root: bool, must_be_pruned: bool, e: &mut ErrorList) {
    let Some(schema) = at.value() else { return };
    let is_resource = is_root || at.get(EMBEDDED).bool();
    let default = at.get("default");
    if let Some(value) = default.value() {
        if must_be_pruned && !is_pruned(value, schema, is_resource) {
            e.push(default.invalid("must not have unknown fields"));
        }
        one(&default, value, schema, is_resource, e);
    }
    // A map has no defaults in it.
    node(&at.get("items"), false, must_be_pruned, e);
    at.get("properties").entries().for_each(|(_, property)| node(&property, false, must_be_pruned, e));
}

fn one(at: &At, value: &Value, source: &Value, is_resource: bool, e: &mut ErrorList) {
    let schema = Schema::new(source);
    let place = at.path();
    let wrong = validate_at(value, &schema, &place);
    if !wrong.is_empty() {
        return e.extend(wrong);
    }
    let Some(rules) = Expressions::new(source, is_resource) else { return };
    // It must do as what is already there and as what is new.
    for old in [Some(value), None] {
        let found = rules.evaluate(&place, value, old, &schema, false);
        if !found.errors.is_empty() {
            return e.extend(found.errors);
        }
    }
}
