//! Objects against their schema, with the texts of upstream (`kube-openapi/pkg/validation/validate`, and what
//! `apiextensions-apiserver/pkg/apiserver/validation` makes of them).

use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path},
    formats,
};

use super::schema::{Additional, ListType, Rules, Schema};

/// Validates an object. What did not change since `old` may stay as wrong as it was.
pub fn validate(object: &Value, old: Option<&Value>, schema: &Schema) -> ErrorList {
    let mut errors = check(object, old, schema, "").errors;
    // Whoever had something twice may go on so.
    if old.is_none_or(|o| list_errors(o, schema, &Path::root()).is_empty()) {
        errors.extend(list_errors(object, schema, &Path::root()));
    }
    errors
}

/// Validates a value that stands at a path: a default. Texts name the place within it.
pub fn validate_at(value: &Value, schema: &Schema, at: &Path) -> ErrorList {
    let mut errors = check(value, None, schema, "").errors;
    for error in &mut errors {
        error.field = if error.field == Path::root() { at.clone() } else { at.child(error.field.as_str()) };
    }
    errors
}

/// What a check found, and how much of the value it liked: the best of several alternatives is told.
#[derive(Default)]
struct Found {
    errors: ErrorList,
    liked: usize,
}

impl Found {
    fn merge(&mut self, other: Found) {
        self.errors.extend(other.errors);
        self.liked += other.liked;
    }

    fn add(&mut self, error: Error) {
        self.errors.push(error);
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

fn at(path: &str) -> Path {
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() { Path::root() } else { Path::new(path) }
}

fn invalid(path: &str, value: impl Into<Value>, text: String) -> Error {
    Error::invalid(&at(path), value, text)
}

/// A rule of the whole node that names no value.
fn composite(text: String) -> Error {
    Error::invalid(&Path::root(), "", text)
}

fn in_body(path: &str, text: impl std::fmt::Display) -> String {
    format!("{path} in body {text}")
}

fn check(value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Found {
    let mut found = Found { liked: 1, ..Found::default() };
    // Ratcheting: nobody is blamed for what was there before.
    if old == Some(value) {
        return found;
    }
    if let Some(error) = type_error(value, schema, path) {
        found.add(error);
    }
    if value.is_null() {
        found.errors.extend(enum_error(value, &schema.rules, path));
        return found;
    }
    found.liked += 1;
    found.merge(alternatives(value, &schema.rules, path));
    match value {
        Value::String(text) => found.errors.extend(string_error(text, schema, path)),
        Value::Number(number) => found.errors.extend(number_errors(number, schema, path)),
        Value::Array(items) => found.merge(array(items, old, schema, path)),
        Value::Object(_) => found.merge(object(value, old, schema, path)),
        _ => {}
    }
    found.errors.extend(enum_error(value, &schema.rules, path));
    found
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_error(value: &Value, schema: &Schema, path: &str) -> Option<Error> {
    let (types, found) = (&schema.types, type_name(value));
    let has = |name: &str| types.iter().any(|t| t == name);
    let fits = match value {
        _ if types.is_empty() => true,
        Value::Null => schema.nullable,
        Value::Number(n) if n.is_f64() => has("number") || has("integer") && n.as_f64().is_some_and(|f| f.fract() == 0.0),
        Value::Number(_) => has("integer") || has("number"),
        _ => has(found),
    };
    let text = in_body(path, format_args!("must be of type {}: {}", types.join(","), knarr_core::field::go_quote(found)));
    (!fits).then(|| Error::type_invalid(&at(path), found, text))
}

fn enum_error(value: &Value, rules: &Rules, path: &str) -> Option<Error> {
    if rules.enum_values.is_empty() || rules.enum_values.contains(value) {
        return None;
    }
    let shown: Vec<String> = rules.enum_values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    Some(Error::not_supported(&at(path), value.clone(), &shown))
}

fn string_error(text: &str, schema: &Schema, path: &str) -> Option<Error> {
    let (rules, length) = (&schema.rules, || text.chars().count() as i64);
    if let Some(max) = rules.max_length.filter(|max| length() > *max) {
        return Some(Error::too_long(&at(path), max));
    }
    if let Some(min) = rules.min_length.filter(|min| length() < *min) {
        return Some(invalid(path, text, in_body(path, format_args!("should be at least {min} chars long"))));
    }
    if let Some(pattern) = &rules.pattern
        && pattern.regex().is_some_and(|compiled| !compiled.is_match(text))
    {
        return Some(invalid(path, text, in_body(path, format_args!("should match '{}'", pattern.text()))));
    }
    if !rules.format.is_empty() && !formats::is_valid(&rules.format, text) {
        let why = in_body(path, format_args!("must be of type {}: {}", rules.format, knarr_core::field::go_quote(text)));
        return Some(Error::type_invalid(&at(path), text, why));
    }
    None
}

/// A number as Go's `%v` prints a float64.
fn go_float(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e21 { format!("{number:.0}") } else { number.to_string() }
}

fn number_errors(number: &serde_json::Number, schema: &Schema, path: &str) -> ErrorList {
    let (rules, value, mut errors) = (&schema.rules, number.as_f64().unwrap_or(0.0), ErrorList::new());
    let shown = || Value::Number(number.clone());
    if rules.format == "int32" && number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
        errors.push(composite(format!("Checked value must be of type integer with format int32 in {path}")));
    }
    if let Some(factor) = rules.multiple_of
        && factor > 0.0
        && (value / factor).fract() != 0.0
    {
        errors.push(invalid(path, shown(), in_body(path, format_args!("should be a multiple of {}", go_float(factor)))));
    }
    if let Some(max) = rules.maximum
        && (value > max || rules.exclusive_maximum && value >= max)
    {
        let how = if rules.exclusive_maximum { "less than" } else { "less than or equal to" };
        errors.push(invalid(path, shown(), in_body(path, format_args!("should be {how} {}", go_float(max)))));
    }
    if let Some(min) = rules.minimum
        && (value < min || rules.exclusive_minimum && value <= min)
    {
        let how = if rules.exclusive_minimum { "greater than" } else { "greater than or equal to" };
        errors.push(invalid(path, shown(), in_body(path, format_args!("should be {how} {}", go_float(min)))));
    }
    errors
}

fn array(items: &[Value], old: Option<&Value>, schema: &Schema, path: &str) -> Found {
    let mut found = Found { liked: 1, ..Found::default() };
    if let Some(of_items) = &schema.items {
        for (i, item) in items.iter().enumerate() {
            found.merge(check(item, correlated(item, old, schema), of_items, &format!("{path}[{i}]")));
        }
    }
    let (rules, count) = (&schema.rules, items.len() as i64);
    if let Some(min) = rules.min_items.filter(|min| count < *min) {
        found.add(invalid(path, count, in_body(path, format_args!("should have at least {min} items"))));
    }
    if let Some(max) = rules.max_items.filter(|max| count > *max) {
        found.add(Error::too_many(&at(path), items.len(), max));
    }
    if rules.unique_items && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
        found.add(invalid(path, "", in_body(path, "shouldn't contain duplicates")));
    }
    found
}

/// The item of the old list that is the same one by its keys.
fn correlated<'a>(item: &Value, old: Option<&'a Value>, schema: &Schema) -> Option<&'a Value> {
    if schema.list_type != ListType::Map {
        return None;
    }
    let same = |other: &&Value| schema.list_map_keys.iter().all(|key| other.get(key) == item.get(key));
    old?.as_array()?.iter().find(same)
}

fn object(value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Found {
    let (mut found, rules) = (Found::default(), &schema.rules);
    let Some(map) = value.as_object() else { return found };
    let count = map.len() as i64;
    if let Some(min) = rules.min_properties.filter(|min| count < *min) {
        found.add(invalid(path, count, in_body(path, format_args!("should have at least {min} properties"))));
    }
    if let Some(max) = rules.max_properties.filter(|max| count > *max) {
        found.add(Error::too_many(&at(path), map.len(), max));
    }
    let child = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in map {
        let below = match (schema.properties.get(key), &schema.additional) {
            (Some(property), _) => property,
            (None, Additional::Of(other)) => other,
            (None, Additional::Any(false)) => {
                found.add(invalid(path, key.as_str(), format!("{path}.{key} in body is a forbidden property")));
                continue;
            }
            _ => continue,
        };
        found.merge(check(value, old.and_then(|o| o.get(key)), below, &child(key)));
    }
    for key in rules.required.iter().filter(|k| !map.contains_key(*k)) {
        found.add(Error::required(&at(&child(key)), ""));
    }
    found
}

/// `anyOf`, `oneOf`, `allOf` and `not`. They look at the value alone.
fn alternatives(value: &Value, rules: &Rules, path: &str) -> Found {
    let mut found = Found { liked: 1, ..Found::default() };
    let quoted = knarr_core::field::go_quote(path);
    let checked = |schemas: &[Schema]| schemas.iter().map(|s| check(value, None, s, path)).collect::<Vec<_>>();
    if !rules.any_of.is_empty() {
        let results = checked(&rules.any_of);
        match results.iter().position(Found::is_valid) {
            Some(good) => found.liked += results[good].liked,
            None => {
                found.add(composite(format!("{quoted} must validate at least one schema (anyOf)")));
                found.merge(best(results));
            }
        }
    }
    if !rules.one_of.is_empty() {
        let results = checked(&rules.one_of);
        match results.iter().filter(|r| r.is_valid()).count() {
            1 => found.liked += results.iter().find(|r| r.is_valid()).map_or(0, |r| r.liked),
            0 => {
                found.add(composite(format!("{quoted} must validate one and only one schema (oneOf). Found none valid")));
                found.merge(best(results));
            }
            n => found.add(composite(format!("{quoted} must validate one and only one schema (oneOf). Found {n} valid alternatives"))),
        }
    }
    if !rules.all_of.is_empty() {
        let results = checked(&rules.all_of);
        let good = results.iter().filter(|r| r.is_valid()).count();
        let (all, none) = (good == results.len(), good == 0);
        results.into_iter().for_each(|r| found.merge(r));
        if !all {
            found.add(composite(format!("{quoted} must validate all the schemas (allOf){}", if none { ". None validated" } else { "" })));
        }
    }
    if rules.not.as_ref().is_some_and(|not| check(value, None, not, path).is_valid()) {
        found.add(composite(format!("{quoted} must not validate the schema (not)")));
    }
    found
}

/// The alternative that liked most of the value; the first of several.
fn best(results: Vec<Found>) -> Found {
    results.into_iter().reduce(|best, next| if next.liked > best.liked { next } else { best }).unwrap_or_default()
}

/// Lists of type `set` and `map` hold nothing twice (upstream: `schema/listtype`).
fn list_errors(value: &Value, schema: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                if let Some(property) = schema.properties.get(key) {
                    errors.extend(list_errors(child, property, &path.child(key)));
                } else if let Additional::Of(other) = &schema.additional {
                    errors.extend(list_errors(child, other, &path.key(key)));
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                ListType::Atomic => {}
                ListType::Set => errors.extend(repeated(items).map(|i| Error::duplicate(&path.index(i), items[i].clone()))),
                ListType::Map => {
                    let keys: Vec<Value> = items.iter().map(|item| keys_of(item, schema)).collect();
                    errors.extend(repeated(&keys).map(|i| Error::duplicate(&path.index(i), keys[i].clone())));
                }
            }
            if let Some(of_items) = &schema.items {
                errors.extend(items.iter().enumerate().flat_map(|(i, item)| list_errors(item, of_items, &path.index(i))));
            }
        }
        _ => {}
    }
    errors
}

fn keys_of(item: &Value, schema: &Schema) -> Value {
    schema.list_map_keys.iter().filter_map(|key| Some((key.clone(), item.at(&[key])?.clone()))).collect::<serde_json::Map<_, _>>().into()
}

/// Where something comes for the second time.
fn repeated(items: &[Value]) -> impl Iterator<Item = usize> + '_ {
    items.iter().enumerate().filter(|(i, item)| items[..*i].iter().filter(|other| other == item).count() == 1).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn check(schema: Value, object: Value, wanted: &[&str]) {
        let schema = Schema::new(&json!({"type": "object", "properties": {"spec": schema}}));
        let got: Vec<String> = validate(&json!({"spec": object}), None, &schema).iter().map(ToString::to_string).collect();
        assert_eq!(got, wanted);
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        check(json!({"type": "integer"}), json!("x"), &["spec: Invalid value: \"string\": spec in body must be of type integer: \"string\""]);
        check(json!({"type": "object", "required": ["a"]}), json!({}), &["spec.a: Required value"]);
        check(json!({"type": "string", "enum": ["a", "b"]}), json!("c"), &["spec: Unsupported value: \"c\": supported values: \"a\", \"b\""]);
        check(json!({"type": "integer", "minimum": 1, "maximum": 5}), json!(0), &["spec: Invalid value: 0: spec in body should be greater than or equal to 1"]);
        check(json!({"type": "integer", "maximum": 5, "exclusiveMaximum": true}), json!(5), &["spec: Invalid value: 5: spec in body should be less than 5"]);
        check(json!({"type": "string", "minLength": 2}), json!("a"), &["spec: Invalid value: \"a\": spec in body should be at least 2 chars long"]);
        check(json!({"type": "string", "maxLength": 2}), json!("abc"), &["spec: Too long: may not be more than 2 bytes"]);
        check(json!({"type": "string", "pattern": "^a+$"}), json!("b"), &["spec: Invalid value: \"b\": spec in body should match '^a+$'"]);
        check(json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}), json!(["a", "b"]), &["spec: Too many: 2: must have at most 1 item"]);
        check(json!({"type": "array", "minItems": 1}), json!([]), &["spec: Invalid value: 0: spec in body should have at least 1 items"]);
        check(json!({"type": "string", "format": "date-time"}), json!("x"), &["spec: Invalid value: \"x\": spec in body must be of type date-time: \"x\""]);
        check(json!({"type": "string"}), Value::Null, &["spec: Invalid value: \"null\": spec in body must be of type string: \"null\""]);
        check(
            json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "boolean"}}}}),
            json!([{"a": 1}]),
            &["spec[0].a: Invalid value: \"integer\": spec[0].a in body must be of type boolean: \"integer\""],
        );
        check(
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            &["spec: Invalid value: \"boolean\": spec in body must be of type integer,string: \"boolean\""],
        );
        check(
            json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"a": 1, "b": 1}),
            &["<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives"],
        );
        check(json!({"type": "number"}), json!(3), &[]);
        check(json!({"type": "string", "nullable": true}), Value::Null, &[]);
    }

    #[test]
    fn sets_and_maps_hold_nothing_twice() {
        check(
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a", "b", "a"]),
            &["spec[2]: Duplicate value: \"a\""],
        );
        check(
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"], "items": {"type": "object", "properties": {"n": {"type": "string"}}}}),
            json!([{"n": "x"}, {"n": "x"}]),
            &["spec[1]: Duplicate value: {\"n\":\"x\"}"],
        );
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let schema = Schema::new(&json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}));
        let old = json!({"a": "x", "b": 1});
        assert!(validate(&json!({"a": "x", "b": 2}), Some(&old), &schema).is_empty());
        assert_eq!(validate(&json!({"a": "y", "b": 2}), Some(&old), &schema).len(), 1);
    }
}
