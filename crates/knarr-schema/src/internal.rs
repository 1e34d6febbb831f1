//! How upstream shows the values of its own (internal) types in the texts of errors: `{"Name":"a","Ports":null}`. Their fields have
//! Go's names, another order than those of the API, and are all written. `data/internal.txt` tells names, order and kinds of value.

use std::collections::HashMap;
use std::sync::LazyLock;

use knarr_core::Value;

use crate::codec;
use crate::types::{self, TypeId};

static TABLE: &str = include_str!("../data/internal.txt");

static TYPES: LazyLock<HashMap<&str, Vec<Field>>> = LazyLock::new(|| {
    let one = |line: &'static str| {
        let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
        (name, fields.split(' ').filter(|f| !f.is_empty()).map(Field::read).collect())
    };
    TABLE.lines().map(one).collect()
});

/// A field: as it is shown, as the API calls it, and what it holds.
struct Field {
    shown: &'static str,
    json: &'static str,
    omit_empty: bool,
    code: &'static str,
}

/// Stands for metadata, whose fields are shown as if they were the object's.
const INLINE: char = '!';

impl Field {
    fn read(text: &'static str) -> Self {
        if let Some((shown, code)) = text.split_once(INLINE) {
            return Self { shown: "", json: shown, omit_empty: true, code };
        }
        let (name, code) = text.split_once(':').unwrap_or((text, "R"));
        let (name, omit_empty) = name.strip_suffix('?').map_or((name, false), |n| (n, true));
        let (shown, json) = name.split_once('/').unwrap_or((name, name));
        Self { shown, json, omit_empty, code }
    }

    /// The API's names begin with a small letter.
    fn is(&self, json: &str) -> bool {
        self.json.eq_ignore_ascii_case(json)
    }
}

/// A step from an object down to one of its values.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    Field(&'a str),
    Item,
    Entry,
    /// Not a step: the part of a struct that upstream keeps in a struct of its own, by its name (`core.PersistentVolumeSource`).
    Part(&'a str),
}

/// The value at a place of a built-in object as upstream shows it. `None` when the place is not known.
pub fn shown(root: TypeId, steps: &[Step<'_>], value: Option<&Value>) -> Option<String> {
    let code = steps.iter().try_fold(code_of(types::get(root).name)?, |code, step| below(&code, *step))?;
    let mut out = Vec::new();
    put(&mut out, &code, value.filter(|v| !v.is_null()));
    String::from_utf8(out).ok()
}

/// Whether what stands at a place is shown as a whole (a struct, a list, a map) rather than as one text or number.
pub fn is_compound(root: TypeId, steps: &[Step<'_>]) -> bool {
    let code = code_of(types::get(root).name).and_then(|code| steps.iter().try_fold(code, |code, step| below(&code, *step)));
    code.is_some_and(|code| code.trim_start_matches('*').starts_with(['[', '{', '@', 'm']))
}

/// The same on many lines (Go: `json.MarshalIndent` with one space).
pub fn pretty(root: TypeId, steps: &[Step<'_>], value: Option<&Value>) -> Option<String> {
    shown(root, steps, value).map(|text| indent(&text))
}

/// `@core.Pod` for `api.core.v1.Pod`. Types that are shown as the API has them are `m…`.
fn code_of(name: &str) -> Option<String> {
    let mut parts = name.rsplit('.');
    let (kind, _version, group) = (parts.next()?, parts.next()?, parts.next()?);
    let group = if (group, kind) == ("events", "Event") { "core" } else { group };
    let name = format!("{group}.{kind}");
    TYPES.contains_key(name.as_str()).then(|| format!("@{name}"))
}

const META: &str = "apimachinery.pkg.apis.meta.v1.";

fn below(code: &str, step: Step<'_>) -> Option<String> {
    let code = code.trim_start_matches('*');
    match (step, code.split_at_checked(1)?) {
        (Step::Item, ("[", item)) | (Step::Entry, ("{", item)) => Some(item.to_owned()),
        (Step::Part(name), _) => Some(format!("@{name}")),
        (Step::Field(name), ("@", of)) => TYPES.get(of)?.iter().find(|f| f.is(name)).map(|f| f.code.to_owned()),
        _ => None,
    }
}

fn put(out: &mut Vec<u8>, code: &str, value: Option<&Value>) {
    let Some((first, rest)) = code.split_at_checked(1) else { return };
    match (first, value) {
        ("*" | "[" | "{" | "T" | "y" | "R", None) => out.extend_from_slice(b"null"),
        ("*", value) => put(out, rest, value),
        ("[", Some(Value::Array(items))) => {
            out.push(b'[');
            for item in items {
                put(out, rest, Some(item));
                out.push(b',');
            }
            close(out, b']');
        }
        ("{", Some(Value::Object(map))) => {
            out.push(b'{');
            for (key, item) in map {
                name(out, key);
                put(out, rest, Some(item));
                out.push(b',');
            }
            close(out, b'}');
        }
        ("@", value) => {
            out.push(b'{');
            for field in TYPES.get(rest).into_iter().flatten() {
                member(out, field, value);
            }
            close(out, b'}');
        }
        ("m", value) => as_published(out, rest, value),
        ("s", None) => out.extend_from_slice(b"\"\""),
        ("b", None) => out.extend_from_slice(b"false"),
        ("i" | "I", None) => out.push(b'0'),
        ("Q", None) => out.extend_from_slice(b"\"0\""),
        ("D", None) => out.extend_from_slice(b"\"0s\""),
        (_, Some(value)) => out.extend_from_slice(&codec::encode_json(value)),
        (_, None) => out.extend_from_slice(b"null"),
    }
}

fn member(out: &mut Vec<u8>, field: &Field, parent: Option<&Value>) {
    let value = parent.and_then(|p| find(p, field)).filter(|v| !v.is_null());
    if field.shown.is_empty() {
        // Metadata: its members without its braces.
        let before = out.len();
        put(out, field.code, value);
        out.remove(before);
        out.pop();
        if out.len() > before {
            out.push(b',');
        }
        return;
    }
    if field.omit_empty && value.is_none_or(is_empty) {
        return;
    }
    name(out, field.shown);
    put(out, field.code, value);
    out.push(b',');
}

fn find<'v>(parent: &'v Value, field: &Field) -> Option<&'v Value> {
    parent.as_object()?.iter().find(|(key, _)| field.is(key)).map(|(_, value)| value)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        Value::Null => true,
    }
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(&codec::encode_json(&name.into()));
    out.push(b':');
}

/// A type of the machinery, which is shown as the API has it.
fn as_published(out: &mut Vec<u8>, name: &str, value: Option<&Value>) {
    let empty = Value::Object(knarr_core::Map::new());
    match types::by_name(&format!("{META}{name}")) {
        Some(id) => codec::write_json_of_type(out, id, value.unwrap_or(&empty)),
        None => out.extend_from_slice(&codec::encode_json(value.unwrap_or(&Value::Null))),
    }
}

fn close(out: &mut Vec<u8>, bracket: u8) {
    match out.last_mut() {
        Some(last @ b',') => *last = bracket,
        _ => out.push(bracket),
    }
}

/// JSON on many lines, as Go indents it: empty lists and objects stay on theirs.
fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut chars = text.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        (0..depth).for_each(|_| out.push(' '));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                if let Some(end) = chars.next_if(|n| matches!(n, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn root(kind: &str) -> TypeId {
        let (group, kind) = kind.split_once('/').unwrap();
        types::of_kind(group, "v1", kind).unwrap()
    }

    #[test]
    fn values_are_shown_with_gos_names_and_all_fields() {
        let steps = [Step::Field("roleRef")];
        let value = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "<y>"});
        assert_eq!(
            shown(root("rbac.authorization.k8s.io/RoleBinding"), &steps, Some(&value)).unwrap(),
            r#"{"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"\u003cy\u003e"}"#
        );
        let steps = [Step::Field("spec"), Step::Field("updateStrategy"), Step::Field("rollingUpdate")];
        assert_eq!(shown(root("apps/StatefulSet"), &steps, Some(&json!({"partition": 0}))).unwrap(), r#"{"Partition":0,"MaxUnavailable":null}"#);
        let steps = [Step::Field("spec"), Step::Field("selector")];
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "In"}], "matchLabels": {"a": "b"}});
        assert_eq!(
            shown(root("apps/Deployment"), &steps, Some(&selector)).unwrap(),
            r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"a","operator":"In"}]}"#
        );
        assert!(is_compound(root("apps/Deployment"), &steps) && !is_compound(root("apps/Deployment"), &[Step::Field("spec"), Step::Field("paused")]));
    }

    #[test]
    fn metadata_is_shown_without_a_name_of_its_own() {
        let steps = [Step::Field("spec"), Step::Field("template")];
        let text = shown(root("batch/Job"), &steps, Some(&json!({"metadata": {"labels": {"app": "a"}}, "spec": {}}))).unwrap();
        assert!(text.starts_with(r#"{"labels":{"app":"a"},"Spec":{"Volumes":null,"InitContainers":null,"#), "{text}");
    }

    #[test]
    fn many_lines_are_indented_by_one_space() {
        assert_eq!(indent(r#"{"a":{},"b":["x, {",null]}"#), "{\n \"a\": {},\n \"b\": [\n  \"x, {\",\n  null\n ]\n}");
    }
}
