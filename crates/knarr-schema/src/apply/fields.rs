//! Sets of fields as `managedFields` carry them (`FieldsV1`), and paths as conflicts print them.

use std::borrow::Cow;
use std::cmp::Ordering;

use knarr_core::field::go_quote;
use knarr_core::{Map, Value};

use super::set::{Element, Set};
use crate::codec;

/// Reads a `fieldsV1`. Elements of kinds that are not known are dropped, as upstream does.
///
/// # Errors
/// What is wrong with a key.
pub fn parse(fields: &Value) -> Result<Set<'_>, String> {
    match fields {
        Value::Object(map) => Ok(node(map)?.with_member(false)),
        _ => Ok(Set::new()),
    }
}

fn node(map: &Map<String, Value>) -> Result<Set<'_>, String> {
    let mut set = Set::new();
    for (key, value) in map {
        if key == "." {
            set.member = true;
            continue;
        }
        let Some(element) = element(key)? else { continue };
        let child = match value {
            Value::Object(map) => node(map)?,
            _ => Set::leaf(),
        };
        set.insert(element, child);
    }
    // An empty object says that the field itself is meant.
    set.member |= set.children().is_empty();
    Ok(set)
}

/// Whether fields can be read, without reading them: only elements that are no field names are looked at.
///
/// # Errors
/// As [`parse`].
pub fn check(fields: &Value) -> Result<(), String> {
    for (key, value) in fields.as_object().into_iter().flatten() {
        if key != "." && !key.starts_with("f:") {
            element(key)?;
        }
        check(value)?;
    }
    Ok(())
}

/// Whether fields have a member of a set.
pub fn touches(fields: &Value, set: &Set<'_>) -> bool {
    let Value::Object(map) = fields else { return false };
    set.children().iter().any(|(element, child)| {
        let Some(below) = map.get(&key(element)) else { return false };
        let is_member = || below.as_object().is_none_or(|b| b.is_empty() || b.contains_key("."));
        child.member && is_member() || touches(below, child)
    })
}

fn element(key: &str) -> Result<Option<Element<'_>>, String> {
    let (kind, text) = key
        .split_at_checked(2)
        .filter(|(kind, _)| kind.ends_with(':'))
        .ok_or_else(|| if key.len() < 2 { "key must be 2 characters long:".to_owned() } else { format!("missing colon: {key}") })?;
    Ok(Some(match kind {
        "f:" => Element::Field(text.into()),
        "k:" => Element::Key(canonical(text, true)?),
        "v:" => Element::Value(canonical(text, false)?),
        "i:" => Element::Index(text.parse::<i64>().map_err(|e| e.to_string())?.to_string().into()),
        _ => return Ok(None),
    }))
}

/// JSON in its one form: no spaces, keys sorted, Go's escapes. Most texts have that form already.
fn canonical(text: &str, is_object: bool) -> Result<Cow<'_, str>, String> {
    let plain = text.bytes().all(|b| b != b'\\' && b != b' ' && b.is_ascii_graphic() && !b"<>&".contains(&b));
    let single = if is_object { text.starts_with("{\"") && text.ends_with('}') && !text.contains(",\"") } else { text.starts_with('"') };
    if plain && single && text.matches('"').count() == if is_object { if text.ends_with("\"}") { 4 } else { 2 } } else { 2 } {
        return Ok(text.into());
    }
    let value = codec::parse_json(text.as_bytes())?;
    if is_object && !value.is_object() {
        return Err(format!("not an object: {text}"));
    }
    Ok(json_text(&value).into())
}

/// A value as Go's encoder writes it.
pub fn json_text(value: &Value) -> String {
    if let Value::String(s) = value
        && s.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\<>&".contains(&b))
    {
        return format!("\"{s}\"");
    }
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // These stand only in strings.
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// The `fieldsV1` of a set.
pub fn to_value(set: &Set<'_>) -> Value {
    let children = set.children().iter().map(|(element, child)| (key(element), to_value(child)));
    let mut map: Map<String, Value> = children.collect();
    if set.member && !map.is_empty() {
        map.insert(".".into(), Value::Object(Map::new()));
    }
    Value::Object(map)
}

fn key(element: &Element<'_>) -> String {
    let (kind, text) = match element {
        Element::Field(text) => ("f:", text),
        Element::Key(text) => ("k:", text),
        Element::Value(text) => ("v:", text),
        Element::Index(text) => ("i:", text),
    };
    let mut key = String::with_capacity(2 + text.len());
    key.push_str(kind);
    key.push_str(text);
    key
}

/// A path as conflicts print it: `.spec.ports[port=80,protocol="TCP"].name`.
pub fn print(path: &[&Element<'_>]) -> String {
    path.iter().map(|element| print_element(element)).collect()
}

/// One step of a path: `.name`, `[name="web"]`, `[="web"]`, `[0]`.
pub fn print_element(element: &Element<'_>) -> String {
    match element {
        Element::Field(name) => format!(".{name}"),
        Element::Index(index) => format!("[{index}]"),
        Element::Value(text) => format!("[={}]", print_value(&read(text))),
        Element::Key(text) => {
            let keys = read(text);
            let keys = keys.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", print_value(value)));
            format!("[{}]", keys.collect::<Vec<_>>().join(","))
        }
    }
}

fn print_value(value: &Value) -> String {
    match value {
        Value::String(s) => go_quote(s),
        other => other.to_string(),
    }
}

fn read(text: &str) -> Value {
    codec::parse_json(text.as_bytes()).unwrap_or_default()
}

/// The order of paths in messages: upstream compares numbers as numbers, where our sets compare texts.
pub fn print_order(a: &[&Element<'_>], b: &[&Element<'_>]) -> Ordering {
    let steps = a.iter().zip(b).map(|(a, b)| element_order(a, b)).find(|order| order.is_ne());
    steps.unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn element_order(a: &Element<'_>, b: &Element<'_>) -> Ordering {
    match (a, b) {
        (Element::Key(x), Element::Key(y)) | (Element::Value(x), Element::Value(y)) => value_order(&read(x), &read(y)),
        _ => a.cmp(b),
    }
}

/// `value.Compare`: numbers, strings, booleans, lists, maps.
fn value_order(a: &Value, b: &Value) -> Ordering {
    let rank = |v: &Value| match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Null => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal),
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Object(x), Value::Object(y)) => {
            let fields = x.iter().zip(y).map(|((k, v), (l, w))| k.cmp(l).then_with(|| value_order(v, w))).find(|order| order.is_ne());
            fields.unwrap_or_else(|| x.len().cmp(&y.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn fields_are_read_into_one_form_and_written_back() {
        let given = json!({"f:a": {".": {}, "k:{ \"port\": 80, \"b\": \"x\" }": {"f:c": {}}, "v:\"a<b\"": {}, "i:1": {}, "x:unknown": {}}});
        let wanted = json!({"f:a": {".": {}, "k:{\"b\":\"x\",\"port\":80}": {"f:c": {}}, "v:\"a\\u003cb\"": {}, "i:1": {}}});
        assert_eq!(to_value(&parse(&given).unwrap()), wanted);
        assert!(parse(&json!({"bad": {}})).is_err());
        assert!(parse(&json!({"k:[]": {}})).is_err());
    }

    #[test]
    fn paths_are_printed_as_kubectl_users_know_them() {
        let value = json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:name": {}}}, "f:finalizers": {"v:\"a/b\"": {}}}});
        let set = parse(&value).unwrap();
        let mut printed = Vec::new();
        set.each(&mut Vec::new(), &mut |path| printed.push(print(path)));
        assert_eq!(printed, [".spec.finalizers[=\"a/b\"]", ".spec.ports[port=80,protocol=\"TCP\"].name"]);
    }
}
