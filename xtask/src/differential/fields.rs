//! Requests that follow from a kind's fields: each field of the sample taken away, emptied, made wrong or changed; each field of
//! the schema filled with something of its type, and with something of another.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::table::{Request, create};

/// How deep a field is filled below the one that is asked for.
const DEPTH: usize = 5;

/// The table of types (`knarr-schema/data/schema.json`; its README says what the letters mean).
#[derive(Deserialize)]
pub struct Schema {
    types: BTreeMap<String, Type>,
    kinds: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Type {
    #[serde(default)]
    f: Vec<Field>,
}

type Field = Vec<Value>;

impl Schema {
    pub fn read(path: &Path) -> Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// Creates, as dry runs: the sample with one field spoilt, and with one field of the schema more.
    pub fn creates(&self, (api_version, kind): (&str, &str), sample: &Value) -> Vec<Request> {
        let mut all = spoilt(sample);
        let group_version = if api_version.contains('/') { api_version.to_owned() } else { format!("/{api_version}") };
        let Some(name) = self.kinds.get(&format!("{group_version}/{kind}")) else { return all };
        for (field, code) in self.fields(name).filter(|(f, _)| *f != "metadata") {
            let inner = code.strip_prefix('@').filter(|_| matches!(field, "spec" | "status")).map(|t| (t, field));
            match inner {
                Some((inner, outer)) => {
                    for (field, code) in self.fields(inner) {
                        all.extend(self.filled(sample, &[outer, field], code));
                    }
                }
                None => all.extend(self.filled(sample, &[field], code)),
            }
        }
        for (field, code) in self.fields("apimachinery.pkg.apis.meta.v1.ObjectMeta").filter(|(f, _)| *f != "name") {
            all.extend(self.filled(sample, &["metadata", field], code));
        }
        all
    }

    fn fields(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.types.get(name).into_iter().flat_map(|t| &t.f).filter_map(|f| Some((f.first()?.as_str()?, f.get(2)?.as_str()?))).filter(|(n, _)| !n.is_empty())
    }

    fn enumeration(&self, name: &str, field: &str) -> Option<Value> {
        let found = self.types.get(name)?.f.iter().find(|f| f.first().is_some_and(|n| n == field))?;
        found.get(4)?.get("en")?.get(0).cloned()
    }

    fn filled(&self, sample: &Value, path: &[&str], code: &str) -> Vec<Request> {
        let pointer = path.join(".");
        let with = |value: Value| {
            let mut object = sample.clone();
            put(&mut object, path, value);
            object
        };
        let mut all = vec![
            create(format!("filled/{pointer}"), "dryRun=All", &with(self.example(code, DEPTH))),
            create(format!("mistyped/{pointer}"), "dryRun=All", &with(other(code))),
            create(format!("null/{pointer}"), "dryRun=All", &with(Value::Null)),
        ];
        if code.starts_with(['[', '{', '@']) {
            let empty = if code.starts_with('[') { json!([]) } else { json!({}) };
            all.push(create(format!("empty/{pointer}"), "dryRun=All", &with(empty)));
            all.push(create(format!("shallow/{pointer}"), "dryRun=All", &with(self.example(code, 1))));
            let unknown = if code.starts_with('[') { json!([{"unknownInside": 1}]) } else { json!({"unknownInside": 1}) };
            all.push(create(format!("unknown/{pointer}"), "dryRun=All&fieldValidation=Strict", &with(unknown)));
        }
        all
    }

    /// Something of the type, which need not be valid.
    fn example(&self, code: &str, depth: usize) -> Value {
        let (first, rest) = code.split_at(1);
        match first {
            "[" => json!([self.example(rest, depth)]),
            "{" => json!({"key": self.example(rest, depth)}),
            "@" if depth == 0 => json!({}),
            "@" => {
                let mut map = Map::new();
                for (field, code) in self.fields(rest) {
                    map.insert(field.to_owned(), self.enumeration(rest, field).unwrap_or_else(|| self.example(code, depth - 1)));
                }
                Value::Object(map)
            }
            "b" => json!(true),
            "i" | "l" => json!(7),
            "d" => json!(1.5),
            "T" => json!("2024-01-01T00:00:00Z"),
            "U" => json!("2024-01-01T00:00:00.000000Z"),
            "D" => json!("5m0s"),
            "Q" => json!("1500m"),
            "I" => json!("50%"),
            "y" => json!("eHl6"),
            "R" | "F" | "J" => json!({"a": "b"}),
            _ => json!("text-7"),
        }
    }
}

/// A value of another type.
fn other(code: &str) -> Value {
    match code.chars().next() {
        Some('[' | 'b' | '@') => json!("text"),
        Some('{') => json!(["text"]),
        Some('i' | 'l' | 'd') => json!("7"),
        _ => json!({"a": {"b": 1}}),
    }
}

fn put(object: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    if let Value::Object(map) = object {
        put(map.entry(*first).or_insert(Value::Null), rest, value);
    }
}

/// Pointers to everything below the sample's own fields.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    let mut down = |key: String, value: &Value| {
        let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        out.push(pointer.clone());
        pointers(value, &pointer, out);
    };
    match value {
        Value::Object(map) => {
            map.iter().filter(|(k, _)| !at.is_empty() || !matches!(k.as_str(), "apiVersion" | "kind" | "metadata")).for_each(|(k, v)| down(k.clone(), v))
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| down(i.to_string(), v)),
        _ => {}
    }
}

fn without(sample: &Value, pointer: &str) -> Option<Value> {
    let mut object = sample.clone();
    let (parent, key) = pointer.rsplit_once('/')?;
    match object.pointer_mut(parent)? {
        Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
        Value::Array(list) => drop(list.remove(key.parse().ok()?)),
        _ => return None,
    }
    Some(object)
}

fn with(sample: &Value, pointer: &str, value: Value) -> Value {
    let mut object = sample.clone();
    if let Some(place) = object.pointer_mut(pointer) {
        *place = value;
    }
    object
}

/// Values that the field hardly allows.
fn bad(value: &Value) -> Vec<Value> {
    match value {
        Value::String(_) => vec![json!(""), json!("Not Valid!")],
        Value::Number(_) => vec![json!(-1), json!(0), json!(2_147_483_647)],
        Value::Bool(b) => vec![json!(!b)],
        Value::Array(list) => vec![json!([]), Value::Array(list.iter().chain(list).cloned().collect())],
        Value::Object(_) => vec![json!({})],
        Value::Null => vec![],
    }
}

/// The sample with the revision that was looked up last.
fn with_revision(sample: &Value) -> Value {
    let mut object = sample.clone();
    put(&mut object, &["metadata", "resourceVersion"], json!("{rv}"));
    object
}

fn spoilt(sample: &Value) -> Vec<Request> {
    let mut all = Vec::new();
    let mut places = Vec::new();
    pointers(sample, "", &mut places);
    for pointer in places {
        let Some(value) = sample.pointer(&pointer) else { continue };
        all.extend(without(sample, &pointer).map(|object| create(format!("without{pointer}"), "dryRun=All", &object)));
        for (index, value) in bad(value).into_iter().enumerate() {
            all.push(create(format!("bad{index}{pointer}"), "dryRun=All", &with(sample, &pointer, value)));
        }
    }
    all
}

/// Updates of the stored sample, as dry runs: each field taken away, and changed.
pub fn updates(sample: &Value) -> Vec<Request> {
    let mut places = Vec::new();
    pointers(sample, "", &mut places);
    let revision = BTreeMap::from([("rv".to_owned(), "/metadata/resourceVersion".to_owned())]);
    let look =
        Request { id: "update-look".into(), method: "GET".into(), path: "{item}".into(), headers: BTreeMap::new(), body: None, capture: revision, until: None };
    let mut all = vec![look];
    let sample = &with_revision(sample);
    let update = |id: String, object: &Value| Request {
        id,
        method: "PUT".into(),
        path: "{item}?dryRun=All".into(),
        headers: BTreeMap::new(),
        body: Some(object.to_string()),
        capture: BTreeMap::new(),
        until: None,
    };
    for pointer in places {
        let changed = match sample.pointer(&pointer) {
            Some(Value::String(s)) => json!(format!("{s}x")),
            Some(Value::Number(n)) => json!(n.as_i64().unwrap_or(0) + 1),
            Some(Value::Bool(b)) => json!(!b),
            Some(Value::Array(list)) => Value::Array(list.iter().rev().chain(list.first()).cloned().collect()),
            _ => Value::Null,
        };
        all.extend(without(sample, &pointer).map(|object| update(format!("update-without{pointer}"), &object)));
        if !changed.is_null() {
            all.push(update(format!("update-changed{pointer}"), &with(sample, &pointer, changed)));
        }
    }
    all
}
