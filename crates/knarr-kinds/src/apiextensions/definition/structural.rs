//! Whether a schema is structural: every part of an object has one known type, whatever values are allowed
//! (upstream: `apiextensions-apiserver/pkg/apiserver/schema/validation.go` and `complete.go`).

use knarr_core::{Value, ValueExt, field::ErrorList, json};

use crate::{at::At, tree::is_zero};

const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const KEEPS_UNKNOWN: &str = "x-kubernetes-preserve-unknown-fields";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Keywords that have no place in a structural schema, anywhere in it.
pub fn unsupported(schema: &Value) -> Option<String> {
    const KEYS: [&str; 7] = ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions"];
    let own = KEYS.into_iter().find(|key| schema.at(&[key]).is_some_and(|v| *key == "additionalItems" || !is_zero(v)));
    if let Some(key) = own {
        return Some(format!("OpenAPIV3Schema '{}' is not supported", key.trim_start_matches("$s").replace("chema", "schema")));
    }
    if schema.bool_at(&[KEEPS_UNKNOWN]) == Some(false) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".into());
    }
    if schema.get("items").is_some_and(|i| i.as_array().is_some_and(|list| !list.is_empty())) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    let one = ["not", "items", "additionalProperties"].into_iter().filter_map(|key| schema.get(key).filter(|s| s.is_object()));
    let lists = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|key| schema.list_at(&[key]));
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.values());
    one.chain(lists).chain(properties).find_map(unsupported)
}

/// Whether a schema is structural.
pub fn is_structural(schema: &Value) -> bool {
    unsupported(schema).is_none() && validate(&At::root(schema)).is_empty()
}

/// All that keeps a schema from being structural, sorted.
pub fn validate(at: &At) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(at, Level::Root, &mut errors);
    if let Some(schema) = at.value() {
        junctors_complete(at, schema, at, &mut errors);
    }
    errors.sort_by_key(ToString::to_string);
    errors
}

fn invariants(at: &At, level: Level, e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    let (kind, items, properties, additional) = (at.get("type"), at.get("items"), at.get("properties"), at.get("additionalProperties"));
    // A list without items is none of schemas, and no schema either.
    let has_items = items.is_set() && items.value() != Some(&json!([]));
    if kind.str() == "array" && !has_items {
        e.push(items.required("must be specified"));
    }
    if has_items {
        invariants(&items, Level::Item, e);
    }
    properties.entries().for_each(|(_, property)| invariants(&property, Level::Field, e));
    if additional.is_set() {
        if level == Level::Root {
            e.push(additional.forbidden("must not be used at the root"));
        }
        if additional.value().is_some_and(Value::is_object) {
            invariants(&additional, Level::Field, e);
        }
    }
    extensions(at, e);
    values(at, is_union(at.get("anyOf").value()), is_union(at.get("allOf").index(0).get("anyOf").value()), level, e);
    type_is_there(at, level, e);
    resource(at, level, e);
}

fn extensions(at: &At, e: &mut ErrorList) {
    if !at.get(INT_OR_STRING).bool() {
        return;
    }
    for key in [KEEPS_UNKNOWN, EMBEDDED] {
        if at.get(key).bool() {
            e.push(at.get(key).invalid("must be false if x-kubernetes-int-or-string is true"));
        }
    }
}

/// The one way in which a type may stand in an `anyOf`: integer or string.
fn is_union(any_of: Option<&Value>) -> bool {
    any_of.is_some_and(|list| *list == json!([{"type": "integer"}, {"type": "string"}]))
}

fn type_is_there(at: &At, level: Level, e: &mut ErrorList) {
    let kind = at.get("type");
    if at.get(EMBEDDED).bool() && kind.str() != "object" {
        const WHY: &str = "must be object if x-kubernetes-embedded-resource is true";
        e.push(if kind.is_empty() { kind.required(WHY) } else { kind.invalid(WHY) });
    } else if kind.is_empty() && !at.get(INT_OR_STRING).bool() && !at.get(KEEPS_UNKNOWN).bool() {
        e.push(kind.required(match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        }));
    }
    if level == Level::Root && !kind.is_empty() && kind.str() != "object" {
        e.push(kind.invalid("must be object at the root"));
    }
}

/// What holds for a resource, the whole or one within.
fn resource(at: &At, level: Level, e: &mut ErrorList) {
    let (embedded, properties, additional) = (at.get(EMBEDDED).bool(), at.get("properties"), at.get("additionalProperties"));
    if embedded && additional.is_set() {
        e.push(additional.forbidden("must not be used if x-kubernetes-embedded-resource is set"));
    }
    let is_resource = level == Level::Root || embedded;
    for (name, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let property = properties.key(name);
        if is_resource && property.is_set() && property.str_of("type") != wanted {
            e.push(property.get("type").invalid(format!("must be {wanted}")));
        }
    }
    let metadata = properties.key("metadata");
    if level == Level::Root && metadata.value().is_some_and(restricts_more_than_names) {
        e.push(metadata.forbidden("must not specify anything other than name and generateName, but metadata is implicitly specified"));
    }
    if embedded && !at.get(KEEPS_UNKNOWN).bool() && properties.len() == 0 {
        e.push(properties.required("must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"));
    }
}

fn restricts_more_than_names(metadata: &Value) -> bool {
    let only_names = |properties: &Value| properties.as_object().is_some_and(|p| p.keys().all(|k| k == "name" || k == "generateName"));
    let allowed = |key: &str, value: &Value| matches!(key, "type" | "default") || key == "properties" && only_names(value);
    metadata.as_object().into_iter().flatten().any(|(key, value)| !is_zero(value) && !allowed(key, value))
}

/// Junctors below which no type may be told, and the pattern.
fn values(at: &At, any_is_union: bool, all_is_union: bool, level: Level, e: &mut ErrorList) {
    if !any_is_union {
        at.get("anyOf").items().for_each(|s| nested(&s, false, level, e));
    }
    at.get("allOf").items().enumerate().for_each(|(i, s)| nested(&s, all_is_union && i == 0, level, e));
    at.get("oneOf").items().for_each(|s| nested(&s, false, level, e));
    nested(&at.get("not"), false, level, e);
    let pattern = at.get("pattern");
    if let Some(why) = broken_pattern(pattern.str()) {
        e.push(pattern.invalid(format!("must be a valid regular expression, but isn't: {why}")));
    }
}

/// Why a pattern cannot be compiled. The text is Go's where the cause is a common one.
fn broken_pattern(pattern: &str) -> Option<String> {
    let translated = match knarr_core::regexp::from_go(pattern) {
        Ok(translated) => translated,
        Err(why) => return Some(format!("error parsing regexp: {why}")),
    };
    let error = regex::Regex::new(&translated).err()?.to_string();
    let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let told = match &cause[..] {
        c if c.contains("unclosed group") => format!("missing closing ): `{pattern}`"),
        c if c.contains("unopened group") => format!("unexpected ): `{pattern}`"),
        c if c.contains("unclosed character class") => format!("missing closing ]: `{}`", &pattern[pattern.find('[').unwrap_or(0)..]),
        c if c.contains("incomplete escape") => "trailing backslash at end of expression: ``".to_owned(),
        c if c.contains("repetition operator missing expression") => {
            format!("missing argument to repetition operator: `{}`", pattern.chars().find(|c| "*+?".contains(*c)).unwrap_or('*'))
        }
        c if c.contains("look-around") => {
            let at = pattern.find("(?").unwrap_or(0);
            format!("invalid or unsupported Perl syntax: `{}`", pattern[at..].chars().take(3).collect::<String>())
        }
        _ => cause,
    };
    Some(format!("error parsing regexp: {told}"))
}

fn nested(at: &At, any_is_union: bool, level: Level, e: &mut ErrorList) {
    if !at.is_set() {
        return;
    }
    values(at, any_is_union, false, level, e);
    nested(&at.get("items"), false, level, e);
    let properties = at.get("properties");
    properties.entries().for_each(|(_, property)| nested(&property, false, Level::Field, e));
    let mut forbid = |key: &str, how: &str| {
        if !at.get(key).is_empty() {
            e.push(at.get(key).forbidden(format!("must be {how} to be structural")));
        }
    };
    forbid("type", "empty");
    if at.get("additionalProperties").value().is_some_and(|a| *a != Value::Bool(false)) {
        forbid("additionalProperties", "undefined");
    }
    if at.get("default").is_set() {
        e.push(at.get("default").forbidden("must be undefined to be structural"));
    }
    let mut forbid = |key: &str, how: &str| {
        if !at.get(key).is_empty() {
            e.push(at.get(key).forbidden(format!("must be {how} to be structural")));
        }
    };
    forbid("title", "empty");
    forbid("description", "empty");
    forbid("nullable", "false");
    forbid(KEEPS_UNKNOWN, "false");
    forbid(EMBEDDED, "false");
    forbid(INT_OR_STRING, "false");
    forbid("x-kubernetes-list-map-keys", "empty");
    forbid("x-kubernetes-list-type", "undefined");
    forbid("x-kubernetes-map-type", "undefined");
    forbid("x-kubernetes-validations", "empty");
    if properties.key("metadata").is_set() {
        e.push(properties.key("metadata").forbidden("must not be specified in a nested context"));
    }
}

/// What junctors say of a part must be said of a part that the structure has.
fn junctors_complete(said: &At, schema: &Value, structure: &At, e: &mut ErrorList) {
    complete(&said.get("not"), Some(schema), structure, e);
    for key in ["allOf", "anyOf", "oneOf"] {
        said.get(key).items().for_each(|s| complete(&s, Some(schema), structure, e));
    }
}

fn complete(said: &At, schema: Option<&Value>, structure: &At, e: &mut ErrorList) {
    if !said.is_set() {
        return;
    }
    let Some(schema) = schema else { return e.push(structure.required(&format!("because it is defined in {}", said.path()))) };
    junctors_complete(said, schema, structure, e);
    complete(&said.get("items"), schema.at(&["items"]), &structure.get("items"), e);
    let (properties, known) = (said.get("properties"), structure.get("properties"));
    for (name, property) in properties.entries() {
        let place = known.key(name);
        match schema.at(&["properties", name]) {
            Some(below) => complete(&property, Some(below), &place, e),
            None => e.push(place.required(&format!("because it is defined in {}", property.path()))),
        }
    }
}
