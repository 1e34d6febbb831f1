//! Whether a configuration fits its type (`typed/validate.go`), told in upstream's words, Go's way of printing values included.

use std::collections::BTreeSet;

use knarr_core::{Map, Value};

use super::fields::print_element;
use super::schema::{Kind, List, MapType, Scalar, Schema};
use super::set::Element;

/// A path and what is wrong there.
pub type Errors = Vec<(String, String)>;

pub fn validate(schema: Schema<'_>, value: &Value) -> Errors {
    let mut errors = Errors::new();
    check(schema, value, &mut String::new(), &mut errors);
    errors
}

/// All errors as one text.
pub fn message(errors: &Errors) -> String {
    let text = |(path, what): &(String, String)| if path.is_empty() { what.clone() } else { format!("{path}: {what}") };
    match errors.as_slice() {
        [only] => text(only),
        many => std::iter::once("errors:".to_owned()).chain(many.iter().map(|e| format!("  {}", text(e)))).collect::<Vec<_>>().join("\n"),
    }
}

fn check(schema: Schema<'_>, value: &Value, path: &mut String, errors: &mut Errors) {
    match (schema.kind(Some(value)), value) {
        (_, Value::Null) => {}
        (Kind::Scalar(scalar), value) => errors.extend(scalar_error(scalar, value).map(|what| (path.clone(), what))),
        (Kind::List(list), Value::Array(items)) => check_items(&list, items, path, errors),
        (Kind::List(_), other) => errors.push((path.clone(), format!("expected list, got &{{{}}}", go_v(other)))),
        (Kind::Map(map), Value::Object(entries)) => check_entries(&map, entries, path, errors),
        (Kind::Map(_), other) => errors.push((path.clone(), format!("expected map, got &{{{}}}", go_v(other)))),
    }
}

fn scalar_error(scalar: Scalar, value: &Value) -> Option<String> {
    let is_scalar = !value.is_array() && !value.is_object();
    match scalar {
        Scalar::Numeric if !value.is_number() => Some(format!("expected numeric (int or float), got {}", go_type(value))),
        Scalar::String if !value.is_string() => Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_sharp_v(value))),
        Scalar::Boolean if !value.is_boolean() => Some(format!("expected boolean, got &{{{}}}", go_v(value))),
        Scalar::Untyped if !is_scalar => Some(format!("expected any scalar, got &{{{}}}", go_v(value))),
        _ => None,
    }
}

fn check_items(list: &List<'_>, items: &[Value], path: &mut String, errors: &mut Errors) {
    let (mut seen, length) = (BTreeSet::new(), path.len());
    for (i, item) in items.iter().enumerate() {
        let element = if list.is_atomic() { Ok(Element::Index(i.to_string().into())) } else { list.element(item) };
        let element = match element {
            Ok(element) => element,
            Err(why) => return errors.push((path.clone(), format!("element {i}: {why}"))),
        };
        let step = print_element(&element);
        path.push_str(&step);
        check(list.item, item, path, errors);
        path.truncate(length);
        if !seen.insert(element) {
            errors.push((path.clone(), format!("duplicate entries for key {step}")));
        }
    }
}

fn check_entries(map: &MapType<'_>, entries: &Map<String, Value>, path: &mut String, errors: &mut Errors) {
    let length = path.len();
    for (name, value) in entries {
        path.push('.');
        path.push_str(name);
        match map.field(name) {
            Some((schema, _)) => check(schema, value, path, errors),
            None => errors.push((path.clone(), "field not declared in schema".into())),
        }
        path.truncate(length);
    }
}

/// Go's `%T`.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's `%v`.
fn go_v(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_v).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", go_v(v))).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

/// Go's `%#v`.
fn go_sharp_v(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(s) => knarr_core::field::go_quote(s),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(go_sharp_v).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(k, v)| format!("{}:{}", knarr_core::field::go_quote(k), go_sharp_v(v)));
            format!("map[string]interface {{}}{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
