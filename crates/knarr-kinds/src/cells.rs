//! What table rows of several kinds share: ages, names of containers, selectors in words
//! (upstream: `pkg/printers/internalversion`).

use std::time::Duration;

use jiff::Timestamp;
use knarr_core::{Value, ValueExt, time};

pub type Cells = Option<Vec<Value>>;

pub const NONE: &str = "<none>";
pub const UNSET: &str = "<unset>";
pub const UNKNOWN: &str = "<unknown>";

/// The text at a path, empty when absent.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    object.str_at(path).unwrap_or_default()
}

/// The text at a path, or what stands for an absent or empty one.
pub fn text_or<'a>(object: &'a Value, path: &[&str], otherwise: &'a str) -> &'a str {
    object.str_at(path).filter(|s| !s.is_empty()).unwrap_or(otherwise)
}

/// The number at a path, 0 when absent.
pub fn number(object: &Value, path: &[&str]) -> i64 {
    object.i64_at(path).unwrap_or(0)
}

pub fn name(object: &Value) -> Value {
    text(object, &["metadata", "name"]).into()
}

/// How long ago the object was made.
pub fn age(object: &Value, now: Timestamp) -> Value {
    since(object, &["metadata", "creationTimestamp"], now).into()
}

/// How long ago the time at a path was.
pub fn since(object: &Value, path: &[&str], now: Timestamp) -> String {
    time::age(object.str_at(path), now)
}

/// The time between two moments as kubectl prints it.
pub fn between(from: Timestamp, to: Timestamp) -> String {
    match Duration::try_from(to.duration_since(from)) {
        Ok(duration) => time::human_duration(duration),
        Err(_) if from.duration_since(to).as_secs() < 2 => "0s".into(),
        Err(_) => "<invalid>".into(),
    }
}

/// The moment of creation, for columns of type `date`.
pub fn created_at(object: &Value) -> Value {
    text_or(object, &["metadata", "creationTimestamp"], "0001-01-01T00:00:00Z").into()
}

pub fn is_deleting(object: &Value) -> bool {
    object.at(&["metadata", "deletionTimestamp"]).is_some()
}

/// Names and images of a pod template's containers.
pub fn containers(object: &Value, path: &[&str]) -> [Value; 2] {
    let join = |key: &str| object.list_at(path).iter().map(|c| text(c, &[key])).collect::<Vec<_>>().join(",");
    [join("name").into(), join("image").into()]
}

/// A map of labels as `k=v,k2=v2`.
pub fn labels(map: Option<&Value>) -> String {
    let pairs: Vec<String> = map.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { NONE.into() } else { pairs.join(",") }
}

/// A `metav1.LabelSelector` in one line, `None` where it is wrong (upstream: `LabelSelectorAsSelector(…).String()`).
pub fn selector_text(selector: Option<&Value>) -> Option<String> {
    let Some(selector) = selector else { return Some(String::new()) };
    let exact = selector.at(&["matchLabels"]).and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<(String, String)> = exact.map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or_default()))).collect();
    for e in selector.list_at(&["matchExpressions"]) {
        let key = text(e, &["key"]);
        let mut values: Vec<&str> = e.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(e, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    Some(parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(","))
}

/// A `metav1.LabelSelector` for a cell (upstream: `FormatLabelSelector`).
pub fn selector(selector: Option<&Value>) -> Value {
    match selector_text(selector) {
        Some(text) if text.is_empty() => NONE.into(),
        Some(text) => text.into(),
        None => "<error>".into(),
    }
}

/// The first `max` items, and how many more there are.
pub fn list_with_more(items: &[String], max: usize) -> String {
    match items.len() {
        0 => UNSET.into(),
        n if n > max => format!("{} + {} more...", items[..max].join(","), n - max),
        _ => items.join(","),
    }
}

/// A condition's status is `True`.
pub fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object.list_at(&["status", "conditions"]);
    conditions.iter().find(|c| text(c, &["type"]) == condition).is_some_and(|c| text(c, &["status"]) == "True")
}

/// A number or string of an int-or-string, in words.
pub fn int_or_string(value: Option<&Value>, otherwise: &str) -> String {
    match value {
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => otherwise.into(),
    }
}

/// Short names of access modes of volumes.
pub fn access_modes(object: &Value, path: &[&str]) -> String {
    let has = |mode: &str| object.list_at(path).iter().any(|m| m.as_str() == Some(mode));
    let all = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    all.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The class of a volume or a claim; an old annotation wins.
pub fn storage_class(object: &Value) -> &str {
    object.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]).unwrap_or_else(|| text(object, &["spec", "storageClassName"]))
}

/// A quantity as it stands, `0` when absent.
pub fn quantity(object: &Value, path: &[&str]) -> String {
    int_or_string(object.at(path), "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_read_as_upstream_prints_them() {
        let s = json!({"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "z", "operator": "DoesNotExist"}]});
        assert_eq!(selector(Some(&s)), json!("a in (x,y),b=c,!z"));
        assert_eq!((selector(Some(&json!({}))), selector(None)), (json!("<none>"), json!("<none>")));
        assert_eq!(labels(Some(&json!({"a": "b", "c": "d"}))), "a=b,c=d");
    }

    #[test]
    fn long_lists_say_how_many_more() {
        let items: Vec<String> = (0..5).map(|i| i.to_string()).collect();
        assert_eq!((list_with_more(&items, 3), list_with_more(&[], 3)), ("0,1,2 + 2 more...".into(), "<unset>".into()));
    }
}
