//! When two answers are the same: after taking away what may differ between two servers that do the same (times, uids, revisions,
//! random suffixes and addresses).

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

use super::http::Answer;

/// Headers that are part of the contract.
const HEADERS: &[&str] =
    &["content-type", "warning", "retry-after", "vary", "cache-control", "location", "www-authenticate", "x-content-type-options", "allow"];
/// Headers of which only the presence counts.
const PRESENT: &[&str] = &["audit-id", "etag", "date", "x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"];

/// Texts that differ between two good answers, and what stands for them.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
        (r"\b20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
        (r#""(resourceVersion|uid)": ?"\d+""#, r#""$1":"<n>""#),
        (r#"resourceVersion: "\d+""#, "resourceVersion: <n>"),
        (r"\b([gG]en[-_])[a-z0-9]{5}\b", "$1<random>"),
        (r#""continue": ?"[^"]+""#, r#""continue":"<token>""#),
        (r#"\b10\.0\.0\.\d+\b"#, "<cluster-ip>"),
        (r#"("(?:nodePort|healthCheckNodePort)"): ?3\d{4}"#, "$1:<port>"),
        (r"https?://127\.0\.0\.1:\d+", "<server>"),
        (r#""127\.0\.0\.1:\d+""#, r#""<server>""#),
        (r"\b10\.200\.0\.1:\d+", "<advertised>"),
        (r#"("targetPort"): ?[3-6]\d{4}\b"#, r#"$1:30000"#),
        (r#""token": ?"ey[^"]+""#, r#""token":"<token>""#),
        (r"hash=[0-9A-Fa-f]{20,}", "hash=<hash>"),
        (r"current: \d+|Current: \d+|current resource version \d+", "current: <n>"),
        (r"in record \(\d+\)|in object meta: \d+", "in record (<n>)"),
        (r#"(\\+"resourceVersion\\+":\\+")\d+"#, "$1<n>"),
        (r"\b(\d+)(s|ms)\b", "<age>"),
    ]
    .into_iter()
    .map(|(pattern, stands)| (Regex::new(pattern).expect("a constant"), stands))
    .collect()
});

fn plain(text: &str) -> String {
    let mut out = text.to_owned();
    for (pattern, stands) in VOLATILE.iter() {
        if pattern.is_match(&out) {
            out = pattern.replace_all(&out, *stands).into_owned();
        }
    }
    out
}

/// One difference: its kind (by which differences are counted), what upstream said and what knarr said.
pub struct Difference {
    pub kind: String,
    pub theirs: String,
    pub ours: String,
}

/// All differences of two answers.
pub fn differences(theirs: &Answer, ours: &Answer) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut differ = |kind: String, theirs: String, ours: String| all.push(Difference { kind, theirs, ours });
    if theirs.status != ours.status {
        differ(format!("status {} {}", theirs.status, ours.status), head(&theirs.body), head(&ours.body));
        return all;
    }
    for name in HEADERS {
        let value = |answer: &Answer| answer.headers.get(*name).map(|v| plain(v)).unwrap_or_default();
        let (a, b) = (value(theirs), value(ours));
        if a != b {
            differ(format!("header {name}"), a, b);
        }
    }
    for name in PRESENT {
        let has = |answer: &Answer| answer.headers.contains_key(*name).to_string();
        if has(theirs) != has(ours) {
            differ(format!("header {name} is there"), has(theirs), has(ours));
        }
    }
    let (a, b) = (plain(&decoded(theirs)), plain(&decoded(ours)));
    if a == b {
        return all;
    }
    match (documents(&a), documents(&b)) {
        (Some(x), Some(y)) if x == y => {
            // Managers are in the order of their seconds.
            if serde_json::from_str::<Ordered>(&a).ok() != serde_json::from_str::<Ordered>(&b).ok() {
                differ("order of fields".into(), head(&a), head(&b));
            }
        }
        (Some(x), Some(y)) => {
            let mut found = Vec::new();
            walk(&x, &y, String::new(), &mut found);
            for (at, theirs, ours) in found.into_iter().take(8) {
                differ(format!("body {at}"), theirs, ours);
            }
        }
        _ => differ("text".into(), head(&a), head(&b)),
    }
    all
}

/// How much of a text is kept: the reasons look for what they explain in it.
const SHOWN_MAX: usize = 64_000;

fn head(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// The JSON values of a body: one, or one a line.
fn documents(text: &str) -> Option<Value> {
    // What stands for a number is no JSON.
    let text = text.replace("<port>", "30000");
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
    let mut values = values.ok().filter(|v| !v.is_empty())?;
    if values.len() > 1 {
        values.retain(|value| !is_reminder(value));
    }
    values.iter_mut().for_each(sort_managers);
    Some(if values.len() == 1 { values.remove(0) } else { Value::Array(values) })
}

/// A bookmark that says how far a watch has come, and no more. Whether one falls into the time of a short watch is chance; the one that ends
/// the first state is not.
fn is_reminder(event: &Value) -> bool {
    event["type"] == "BOOKMARK" && !event.to_string().contains("k8s.io/initial-events-end")
}

/// Brings the entries of `managedFields` into one order, wherever they are: they are sorted by time.
fn sort_managers(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // Bindings are read in any order.
            for rules in ["resourceRules", "nonResourceRules"] {
                if let Some(Value::Array(list)) = map.get_mut(rules) {
                    list.sort_by_key(Value::to_string);
                }
            }
            if let Some(Value::Array(list)) = map.get_mut("managedFields") {
                list.sort_by_key(|m| ["manager", "operation", "subresource"].map(|k| m.get(k).and_then(Value::as_str).unwrap_or_default().to_owned()));
            }
            sort_causes(map);
            map.values_mut().for_each(sort_managers);
        }
        Value::Array(list) => list.iter_mut().for_each(sort_managers),
        _ => {}
    }
}

/// Causes that upstream tells in the order of a Go map, or of managers: each is compared, their order is not.
fn sort_causes(map: &mut serde_json::Map<String, Value>) {
    let Some(causes) = map.get_mut("details").and_then(|d| d.get_mut("causes")).and_then(Value::as_array_mut) else { return };
    let any_order = |c: &Value| c["reason"] == "FieldManagerConflict" || c["message"] == "Forbidden: must populate the given metric source only";
    if causes.iter().filter(|c| any_order(c)).count() < 2 {
        return;
    }
    causes.sort_by_key(Value::to_string);
    if let Some(Value::String(message)) = map.get_mut("message") {
        let mut words: Vec<&str> = message.split([',', '\n', '[', ']']).map(str::trim).collect();
        words.sort_unstable();
        *message = words.join(" ");
    }
}

/// The names of an object's fields in their order, and no more: that is what is left to compare of two equal objects.
#[derive(PartialEq)]
enum Ordered {
    Map(Vec<(String, Ordered)>),
    Other,
}

impl<'de> serde::Deserialize<'de> for Ordered {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> serde::de::Visitor<'de> for Names {
            type Value = Ordered;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Ordered::Map(all))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Ordered, A::Error> {
                while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Ordered::Other)
            }
            fn visit_unit<E>(self) -> Result<Ordered, E> {
                Ok(Ordered::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Ordered, E> {
                Ok(Ordered::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Ordered, E> {
                Ok(Ordered::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Ordered, E> {
                Ok(Ordered::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Ordered, E> {
                Ok(Ordered::Other)
            }
            fn visit_str<E>(self, _: &str) -> Result<Ordered, E> {
                Ok(Ordered::Other)
            }
        }
        deserializer.deserialize_any(Names)
    }
}

static INDEX: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[\d+\]").expect("a constant"));

fn walk(a: &Value, b: &Value, at: String, out: &mut Vec<(String, String, String)>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                walk(x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), format!("{at}.{key}"), out);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => x.iter().zip(y).for_each(|(a, b)| walk(a, b, format!("{at}[]"), out)),
        (a, b) if a != b => out.push((INDEX.replace_all(&at, "[]").into_owned(), text(a), text(b))),
        _ => {}
    }
}

fn text(value: &Value) -> String {
    head(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// A body as text; protobuf as a tree of its fields, without knowing what they mean.
fn decoded(answer: &Answer) -> String {
    let bytes: Vec<u8> = match answer.body.strip_prefix("hex:") {
        Some(hex) => (0..hex.len() / 2).filter_map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect(),
        // A short message may be text by chance.
        None if answer.body.starts_with("k8s\0") => answer.body.clone().into_bytes(),
        None => return answer.body.clone(),
    };
    match bytes.strip_prefix(b"k8s\0").or(Some(&bytes)).and_then(message) {
        Some(tree) => {
            NUMBER.replace_all(&tree.to_string(), |c: &Captures<'_>| if c[1].len() < 9 { "\"<n>\"".to_owned() } else { "\"<time>\"".to_owned() }).into_owned()
        }
        None => answer.body.clone(),
    }
}

/// Numbers as texts are revisions; large numbers are times.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""(\d+)""#).expect("a constant"));

fn message(mut bytes: &[u8]) -> Option<Value> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let (number, wire) = (key >> 3, key & 7);
        if number == 0 {
            return None;
        }
        let value = match wire {
            0 => {
                let number = varint(&mut bytes)?;
                Value::from(if number > 1_600_000_000 && number < 3_000_000_000 { 0 } else { number })
            }
            1 => Value::from(take(&mut bytes, 8)?.to_vec()),
            5 => Value::from(take(&mut bytes, 4)?.to_vec()),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = take(&mut bytes, length)?;
                let text = std::str::from_utf8(inner).ok().filter(|t| t.chars().all(|c| !c.is_control() || c == '\n'));
                match text {
                    Some(text) if text.len() < 2 || !text.starts_with('\n') => Value::from(text),
                    _ => message(inner).or_else(|| text.map(Value::from)).unwrap_or_else(|| Value::from(inner.to_vec())),
                }
            }
            _ => return None,
        };
        fields.push(Value::from(vec![Value::from(format!("f{number}")), value]));
    }
    Some(Value::from(fields))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(first)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: 200, headers: Default::default(), body: body.into() }
    }

    #[test]
    fn what_two_good_servers_may_say_differently_is_no_difference() {
        let one = answer(r#"{"metadata":{"uid":"5d1c8a2e-1111-4000-8000-000000000000","resourceVersion":"12","creationTimestamp":"2026-01-01T00:00:00Z"}}"#);
        let two = answer(r#"{"metadata":{"uid":"6d1c8a2e-2222-4000-8000-000000000000","resourceVersion":"345","creationTimestamp":"2026-11-01T00:00:09Z"}}"#);
        assert!(differences(&one, &two).is_empty());
    }

    #[test]
    fn a_difference_is_named_by_its_place() {
        let found = differences(&answer(r#"{"a":[{"b":1}]}"#), &answer(r#"{"a":[{"b":2}]}"#));
        assert_eq!(found.iter().map(|d| d.kind.as_str()).collect::<Vec<_>>(), ["body .a[].b"]);
        assert_eq!(differences(&answer(r#"{"a":1,"b":2}"#), &answer(r#"{"b":2,"a":1}"#))[0].kind, "order of fields");
    }

    #[test]
    fn only_the_bookmark_that_ends_the_first_state_must_come() {
        let (added, end, later) = (
            r#"{"type":"ADDED","object":{"kind":"A"}}"#,
            r#"{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
            r#"{"type":"BOOKMARK","object":{"metadata":{}}}"#,
        );
        let watch = |events: &[&str]| answer(&events.join("\n"));
        assert!(differences(&watch(&[added, end, later]), &watch(&[added, end])).is_empty());
        assert_eq!(differences(&watch(&[added, end]), &watch(&[added])).len(), 1);
    }

    #[test]
    fn causes_in_the_order_of_a_map_are_sorted() {
        let status = |causes: [&str; 2]| {
            let causes = causes.map(|f| serde_json::json!({"reason": "FieldManagerConflict", "field": f}));
            answer(&serde_json::json!({"kind": "Status", "message": "conflicts", "details": {"causes": causes}}).to_string())
        };
        assert!(differences(&status([".a", ".b"]), &status([".b", ".a"])).is_empty());
        assert_eq!(differences(&status([".a", ".b"]), &status([".a", ".c"])).len(), 1);
    }

    #[test]
    fn protobuf_is_compared_field_by_field() {
        assert!(differences(&answer("k8s\0\u{1a}\u{3}966"), &answer("k8s\0\u{1a}\u{3}919")).is_empty());
        assert_eq!(message(&[0x0a, 1, b'x', 0x10, 5]).unwrap().to_string(), r#"[["f1","x"],["f2",5]]"#);
    }
}
