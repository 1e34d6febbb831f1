//! YAML as Kubernetes reads it: a document becomes the JSON tree that Go's `sigs.k8s.io/yaml` would make of it.
//!
//! This is the one place that knows YAML. The scanner and the grammar are libyaml's, as goyaml's are: both take the YAML of 1.1 with the
//! same liberties, and miss the same things at the same lines ([`source`] has what little differs). What a scalar means is in [`resolve`], never a Rust crate's own rules.
//! As goyaml does, a document is read to its end before anything is made of it: what is no YAML is told first.

mod complaint;
mod resolve;
mod source;
mod write;

use std::collections::{HashMap, HashSet};

use libyaml_safer::{Event, EventData, ScalarStyle};
use serde_json::{Map, Value};

use crate::go;
use resolve::Scalar;
use source::Source;

pub use complaint::has_surrogates;
pub use resolve::resolve;
pub use write::{key_order, to_string};

/// Deepest nesting: more than any object may have. goyaml reads 10,000 levels.
const DEPTH_MAX: usize = 300;
/// Bytes of text that aliases may repeat in all, and anchors keep: a long text is one node, and could be repeated without end.
const ALIASED_BYTES_MAX: usize = 64 << 20;
/// What anchors around anchors may take in all: more than any document needs whose aliases goyaml would follow.
const ANCHORED_NODES_MAX: usize = 4_000_000;

/// What a strict reader complains about beside the tree.
#[derive(Debug, Default, PartialEq)]
pub struct Document {
    pub value: Value,
    /// `line 3: key "a" already set in map`, in goyaml's words.
    pub duplicates: Vec<String>,
}

/// Reads the first document; an empty text is null.
///
/// # Errors
/// A sentence with the line, when the text is no YAML.
pub fn parse(text: &str) -> Result<Value, String> {
    parse_document(text).map(|d| d.value)
}

/// Reads the first document and tells which keys came twice (the last one wins).
///
/// # Errors
/// As [`parse`].
pub fn parse_document(text: &str) -> Result<Document, String> {
    Ok(read(text, true)?.into_iter().next().unwrap_or_default())
}

/// Reads all documents of a stream, empty ones left out.
///
/// # Errors
/// As [`parse`].
pub fn parse_all(text: &str) -> Result<Vec<Value>, String> {
    Ok(read(text, false)?.into_iter().map(|d| d.value).filter(|v| !v.is_null()).collect())
}

fn read(text: &str, first_only: bool) -> Result<Vec<Document>, String> {
    complaint::check_characters(text)?;
    let mut documents = Vec::new();
    let mut builder = Builder { aliases: alias_names(text), ..Builder::default() };
    let source = Source::new(text);
    for event in source.events() {
        if let Some(document) = builder.take(event?)? {
            documents.push(document);
            if first_only {
                break;
            }
        }
    }
    Ok(documents)
}

/// What may be names of aliases: only what they mean is kept for them.
fn alias_names(text: &str) -> HashSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.split('*').skip(1).map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default()).collect()
}

/// A map or a list that is not closed yet.
struct Open {
    anchor: Option<String>,
    /// From 1.
    line: usize,
    /// What had been decoded before it.
    before: Decoded,
    items: Items,
}

enum Items {
    Map { map: Map<String, Value>, key: Option<Key> },
    List(Vec<Value>),
}

/// What stands before a colon.
enum Key {
    Name(String),
    /// `<<`
    Merge,
    /// Something that cannot be a key, and why.
    Unfit(String),
}

/// A node that is complete.
struct Node {
    value: Scalar,
    line: usize,
    /// A scalar as it is written; of other nodes nothing.
    text: String,
    is_merge: bool,
    by_alias: bool,
}

/// How much has been decoded, as goyaml counts it, and how long its texts are.
#[derive(Clone, Copy, Default)]
struct Decoded {
    nodes: usize,
    bytes: usize,
}

/// What an anchor stands for.
#[derive(Clone)]
struct Anchored {
    value: Scalar,
    text: String,
    decoded: Decoded,
}

/// Folds parser events into trees, without recursion.
#[derive(Default)]
struct Builder<'a> {
    aliases: HashSet<&'a str>,
    open: Vec<Open>,
    anchors: HashMap<String, Anchored>,
    /// What is remembered for anchors, that of nested ones counted each time.
    anchored: Decoded,
    root: Value,
    duplicates: Vec<String>,
    decoded: Decoded,
    aliased: Decoded,
    /// The first thing wrong in making something of the document, and in making JSON of that.
    trouble: Option<String>,
    not_json: Option<String>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event) -> Result<Option<Document>, String> {
        let line = event.start_mark.line as usize + 1;
        match event.data {
            EventData::DocumentStart { .. } => {
                *self = Self { aliases: std::mem::take(&mut self.aliases), decoded: Decoded { nodes: 1, bytes: 0 }, ..Self::default() };
            }
            EventData::DocumentEnd { .. } => return self.finish().map(Some),
            EventData::Scalar { anchor, tag, value, plain_implicit, style, .. } => self.scalar(value, anchor, tag.as_deref(), (plain_implicit, style), line),
            EventData::SequenceStart { anchor, .. } => self.push(anchor, Items::List(Vec::new()), line)?,
            EventData::MappingStart { anchor, .. } => self.push(anchor, Items::Map { map: Map::new(), key: None }, line)?,
            EventData::SequenceEnd | EventData::MappingEnd => self.close(),
            EventData::Alias { anchor } => self.alias(&anchor, line)?,
            EventData::StreamStart { .. } | EventData::StreamEnd => {}
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Document, String> {
        if let Some(why) = self.trouble.take() {
            return Err(format!("yaml: {why}"));
        }
        if let Some(why) = self.not_json.take() {
            return Err(why);
        }
        Ok(Document { value: std::mem::take(&mut self.root), duplicates: std::mem::take(&mut self.duplicates) })
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.trouble.get_or_insert_with(|| why.into());
    }

    fn push(&mut self, anchor: Option<String>, items: Items, line: usize) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(complaint::at(line as u64 - 1, 1, "exceeded max depth of 10000"));
        }
        let before = self.decoded;
        self.decoded.nodes += 1;
        // An anchor of this name that stood before is no longer meant, also within.
        if let Some(name) = &anchor {
            self.anchors.remove(name);
        }
        self.open.push(Open { anchor, line, before, items });
        Ok(())
    }

    fn scalar(&mut self, text: String, anchor: Option<String>, tag: Option<&str>, (implicit, style): (bool, ScalarStyle), line: usize) {
        self.decoded.nodes += 1;
        self.decoded.bytes += text.len();
        let value = resolve::scalar(&text, implicit, tag).unwrap_or_else(|why| {
            self.fail(why);
            Scalar::Value(Value::Null)
        });
        self.remember(anchor, &value, &text, Decoded { nodes: 1, bytes: text.len() });
        let is_merge = text == "<<" && (tag == Some("tag:yaml.org,2002:merge") || implicit && style == ScalarStyle::Plain);
        self.put(Node { value, line, text, is_merge, by_alias: false });
    }

    fn remember(&mut self, anchor: Option<String>, value: &Scalar, text: &str, decoded: Decoded) {
        let Some(name) = anchor.filter(|name| self.aliases.contains(name.as_str())) else { return };
        self.anchored.nodes += decoded.nodes;
        self.anchored.bytes += decoded.bytes;
        if self.anchored.nodes > ANCHORED_NODES_MAX || self.anchored.bytes > ALIASED_BYTES_MAX {
            self.fail("document contains excessive aliasing");
        }
        if self.trouble.is_none() {
            self.anchors.insert(name, Anchored { value: value.clone(), text: text.to_owned(), decoded });
        }
    }

    fn alias(&mut self, name: &str, line: usize) -> Result<(), String> {
        self.decoded.nodes += 1;
        if self.open.iter().any(|open| open.anchor.as_deref() == Some(name)) {
            self.fail(format!("anchor '{name}' value contains itself"));
            return Ok(());
        }
        if self.trouble.is_some() {
            return Ok(());
        }
        let decoded = self.anchors.get(name).ok_or_else(|| format!("yaml: unknown anchor '{name}' referenced"))?.decoded;
        self.decoded.nodes += decoded.nodes;
        self.aliased.nodes += decoded.nodes;
        self.aliased.bytes += decoded.bytes;
        if self.aliases_too_much() {
            self.fail("document contains excessive aliasing");
            return Ok(());
        }
        if let Some(Anchored { value, text, .. }) = self.anchors.get(name).cloned() {
            self.put(Node { value, line, text, is_merge: false, by_alias: true });
        }
        Ok(())
    }

    /// goyaml's measure: 99 of 100 nodes of a small document may come from aliases, 10 of 100 of a large one; and one of ours.
    fn aliases_too_much(&self) -> bool {
        const SMALL: f64 = 400_000.0;
        const LARGE: f64 = 4_000_000.0;
        let (all, aliased) = (self.decoded.nodes as f64, self.aliased.nodes as f64);
        let allowed = 0.99 - 0.89 * ((all - SMALL) / (LARGE - SMALL)).clamp(0.0, 1.0);
        (aliased > 100.0 && all > 1000.0 && aliased / all > allowed) || self.aliased.bytes > ALIASED_BYTES_MAX
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let value = match open.items {
            Items::List(items) => Value::Array(items),
            Items::Map { map, .. } => Value::Object(map),
        };
        let value = Scalar::Value(value);
        let decoded = Decoded { nodes: self.decoded.nodes - open.before.nodes, bytes: self.decoded.bytes - open.before.bytes };
        self.remember(open.anchor, &value, "", decoded);
        self.put(Node { value, line: open.line, text: String::new(), is_merge: false, by_alias: false });
    }

    /// A complete node goes where it belongs: it is a key, or the value of one, or an element.
    fn put(&mut self, node: Node) {
        if self.trouble.is_some() {
            return;
        }
        let Some(open) = self.open.last_mut() else {
            self.root = self.json(node.value);
            return;
        };
        match &mut open.items {
            Items::Map { key: key @ None, .. } if node.is_merge => *key = Some(Key::Merge),
            Items::Map { key: None, .. } => self.key(node),
            Items::Map { key, .. } => match key.take() {
                Some(Key::Name(name)) => self.entry(name, node),
                Some(Key::Merge) => self.merge(node),
                Some(Key::Unfit(why)) => {
                    let value = self.json(node.value);
                    self.not_json.get_or_insert_with(|| format!("{why}, value: {}", go_syntax(&value)));
                }
                None => {}
            },
            Items::List(_) => {
                let value = self.json(node.value);
                if let Some(Open { items: Items::List(items), .. }) = self.open.last_mut() {
                    items.push(value);
                }
            }
        }
    }

    /// What JSON has for it.
    fn json(&mut self, scalar: Scalar) -> Value {
        match scalar {
            Scalar::Value(value) => value,
            Scalar::NotFinite(_, name) => {
                self.not_json.get_or_insert_with(|| format!("json: unsupported value: {name}"));
                Value::Null
            }
        }
    }

    fn map(&mut self) -> Option<(&mut Map<String, Value>, &mut Option<Key>)> {
        match &mut self.open.last_mut()?.items {
            Items::Map { map, key } => Some((map, key)),
            Items::List(_) => None,
        }
    }

    fn key(&mut self, node: Node) {
        let key = match &node.value {
            Scalar::Value(value @ (Value::Array(_) | Value::Object(_))) => {
                let why = format!("invalid map key: {}", go_syntax(value));
                self.fail(why.clone());
                Key::Unfit(why)
            }
            scalar => resolve::key(scalar, &node.text).map_or_else(Key::Unfit, Key::Name),
        };
        if let Some((_, place)) = self.map() {
            *place = Some(key);
        }
    }

    fn entry(&mut self, name: String, node: Node) {
        let value = self.json(node.value);
        let Some((map, _)) = self.map() else { return };
        let duplicate = map.contains_key(&name).then(|| format!("line {}: key {} already set in map", node.line, crate::field::go_quote(&name)));
        map.insert(name, value);
        self.duplicates.extend(duplicate);
    }

    /// What is merged in overwrites what stands before it; of several maps the first wins.
    fn merge(&mut self, node: Node) {
        let maps: Option<Vec<Map<String, Value>>> = match node.value {
            Scalar::Value(Value::Object(map)) => Some(vec![map]),
            Scalar::Value(Value::Array(items)) if !node.by_alias => items
                .into_iter()
                .rev()
                .map(|item| match item {
                    Value::Object(map) => Some(map),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        match maps {
            Some(maps) => {
                for (name, value) in maps.into_iter().flatten() {
                    self.entry(name, Node { value: Scalar::Value(value), line: node.line, text: String::new(), is_merge: false, by_alias: false });
                }
            }
            None => self.fail("map merge requires map or sequence of maps as the value"),
        }
    }
}

/// `%#v` of what goyaml reads.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        value => go::syntax(value).replace("map[string]", "map[interface {}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(yaml: &str, wanted: Value) {
        assert_eq!(parse(yaml).unwrap(), wanted, "{yaml}");
    }

    #[test]
    fn plain_scalars_mean_what_go_means() {
        check("a: yes", json!({"a": true}));
        check("a: off", json!({"a": false}));
        check("a: y", json!({"a": true}));
        check("a: 'yes'", json!({"a": "yes"}));
        check("a: 0644", json!({"a": 420}));
        check("a: 0o17", json!({"a": 15}));
        check("a: 0x1F", json!({"a": 31}));
        check("a: 0b11", json!({"a": 3}));
        check("a: 1_000", json!({"a": 1000}));
        check("a: 1.5", json!({"a": 1.5}));
        check("a: 1e3", json!({"a": 1000}));
        check("a: 089", json!({"a": 89}));
        check("a: ~", json!({"a": null}));
        check("a:", json!({"a": null}));
        check("a: 2020-01-02", json!({"a": "2020-01-02"}));
        check("a: 2020-01-02T03:04:05Z", json!({"a": "2020-01-02T03:04:05Z"}));
        check("a: 1.2.3", json!({"a": "1.2.3"}));
        check("a: 10Gi", json!({"a": "10Gi"}));
        check("a: 12:30", json!({"a": "12:30"}));
        check("a: -5", json!({"a": -5}));
        check("a: 18446744073709551615", json!({"a": 18446744073709551615u64}));
        check("a: !!str 5", json!({"a": "5"}));
        check("a: |\n  x\n  y\n", json!({"a": "x\ny\n"}));
    }

    #[test]
    fn keys_become_strings_and_maps_merge() {
        check("1: a\ny: b\n", json!({"1": "a", "true": "b"}));
        check("x: &x {a: 1, b: 2}\nz:\n  <<: *x\n  b: 3\n", json!({"x": {"a": 1, "b": 2}, "z": {"a": 1, "b": 3}}));
        assert_eq!(
            parse_document("a: 1\na: 2\n").unwrap(),
            Document { value: json!({"a": 2}), duplicates: vec!["line 2: key \"a\" already set in map".into()] }
        );
    }

    #[test]
    fn a_stream_holds_many_documents() {
        assert_eq!(parse_all("---\na: 1\n---\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(parse("").unwrap(), Value::Null);
        assert_eq!(parse("{\"kind\": \"Pod\", \"n\": 1}").unwrap(), json!({"kind": "Pod", "n": 1}));
    }

    #[test]
    fn hostile_text_is_refused() {
        assert!(parse("a: [").is_err());
        assert!(parse("a: *b").is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(parse(&bomb).unwrap_err().contains("aliasing"));
        let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(10_000));
        assert!(parse(&long_text).unwrap_err().contains("aliasing"));
        let nested: String = (0..200).map(|n| format!("&a{n} [")).collect();
        let names: String = (0..200).map(|n| format!("*a{n},")).collect();
        assert!(parse(&format!("[{nested}{}{}, {names}]", "x".repeat(400_000), "]".repeat(200))).unwrap_err().contains("aliasing"));
        let around: String = (0..200).map(|n| format!("&a{n} [*a{n}, ")).collect();
        assert_eq!(parse(&format!("{around}{}{}", "x,".repeat(100_000), "]".repeat(200))).unwrap_err(), "yaml: anchor 'a0' value contains itself");
    }

    #[test]
    fn what_has_no_json_is_refused_in_the_words_of_gos_encoders() {
        for (text, wanted) in [
            ("a: .nan", "json: unsupported value: NaN"),
            ("a: -.inf", "json: unsupported value: -Inf"),
            ("~: b", "unsupported map key of type: %!s(<nil>), key: <nil>, value: \"b\""),
            ("? [a]\n: b", "yaml: invalid map key: []interface {}{\"a\"}"),
            ("a: !!int b", "yaml: cannot decode !!str `b` as a !!int"),
            ("a: *b", "yaml: unknown anchor 'b' referenced"),
            ("a: &a [*a]", "yaml: anchor 'a' value contains itself"),
            ("<<: 1", "yaml: map merge requires map or sequence of maps as the value"),
            ("a: !!int b\n}", "yaml: line 1: did not find expected key"),
        ] {
            assert_eq!(parse(text).unwrap_err(), wanted, "{text}");
        }
        check(".inf: 1\n1.5: 2\n1000000.0: 3", json!({".inf": 1, "1.5": 2, "1e+06": 3}));
        check("a: !!binary aGk=", json!({"a": "hi"}));
        check("a: !!float 3", json!({"a": 3}));
        check("a: !mine 3", json!({"a": "3"}));
    }

    #[test]
    fn what_is_merged_overwrites_what_stands_before_it() {
        check("x: &x {a: 1, b: 2}\nz:\n  b: 3\n  <<: *x\n", json!({"x": {"a": 1, "b": 2}, "z": {"b": 2, "a": 1}}));
        check("z:\n  <<: [{a: 1}, {a: 2, b: 2}]\n", json!({"z": {"a": 1, "b": 2}}));
    }
}
