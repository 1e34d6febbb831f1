//! YAML as Kubernetes reads it: a document becomes the JSON tree that Go's `sigs.k8s.io/yaml` would make of it.
//!
//! This is the one place that knows YAML. Plain scalars are resolved by the table of `goyaml.v2/resolve.go` (YAML 1.1:
//! `yes`, `on` and `n` are booleans, `0644` is octal, `1_000` is a number), never by a Rust crate's own rules. `<<` merges.

mod complaint;
mod write;

use std::collections::HashMap;

use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Tag};

pub use complaint::has_surrogates;
pub use write::{key_order, to_string};

/// Most nodes that aliases may add to a document (a guard against "billion laughs").
const ALIASED_NODES_MAX: usize = 400_000;
/// Deepest nesting.
const DEPTH_MAX: usize = 1_000;

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
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| complaint::in_goyamls_words(text, e.marker().line(), &e.info().to_string()))?;
        if let Some(document) = builder.take(event, span.start.line())? {
            documents.push(document);
            if first_only {
                break;
            }
        }
    }
    Ok(documents)
}

enum Open {
    Map { anchor: usize, map: Map<String, Value>, key: Option<String>, merges: Vec<Value> },
    List { anchor: usize, items: Vec<Value> },
}

/// Folds parser events into trees, without recursion.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Value, usize)>,
    root: Value,
    duplicates: Vec<String>,
    aliased: usize,
}

/// The key of YAML's merge, kept apart from a quoted `"<<"`.
const MERGE: &str = "\0<<";

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<Option<Document>, String> {
        match event {
            Event::DocumentStart(..) => *self = Self::default(),
            Event::DocumentEnd => {
                return Ok(Some(Document { value: std::mem::take(&mut self.root), duplicates: std::mem::take(&mut self.duplicates) }));
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), line)?,
            Event::SequenceStart(_, anchor, _) => self.push(Open::List { anchor, items: Vec::new() }, line)?,
            Event::MappingStart(_, anchor, _) => self.push(Open::Map { anchor, map: Map::new(), key: None, merges: Vec::new() }, line)?,
            Event::SequenceEnd | Event::MappingEnd => self.close(line)?,
            Event::Alias(anchor) => {
                let (value, size) = self.anchors.get(&anchor).cloned().ok_or_else(|| format!("yaml: line {line}: unknown anchor"))?;
                self.aliased += size;
                if self.aliased > ALIASED_NODES_MAX {
                    return Err("yaml: document contains excessive aliasing".into());
                }
                self.put(value, line)?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn push(&mut self, open: Open, line: usize) -> Result<(), String> {
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err(format!("yaml: line {line}: unsupported map key: only scalars can be keys"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("yaml: line {line}: exceeded max depth of {DEPTH_MAX}"));
        }
        self.open.push(open);
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>, line: usize) -> Result<(), String> {
        let tag = tag.map(|t| if t.is_yaml_core_schema() { t.suffix() } else { "" });
        let resolved = match (style, tag) {
            (ScalarStyle::Plain, None) => resolve(text),
            (_, Some("str" | "") | None) => Value::String(text.to_owned()),
            (_, Some("binary")) => return Err(format!("yaml: line {line}: !!binary is not supported")),
            (_, Some(tag)) => tagged(tag, text).ok_or_else(|| format!("yaml: line {line}: cannot decode `{text}` as a !!{tag}"))?,
        };
        if let Some(Open::Map { key: key @ None, .. }) = self.open.last_mut() {
            *key = Some(if style == ScalarStyle::Plain && text == "<<" { MERGE.to_owned() } else { key_text(&resolved, text) });
            return Ok(());
        }
        self.remember(anchor, &resolved);
        self.put(resolved, line)
    }

    fn remember(&mut self, anchor: usize, value: &Value) {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), count(value)));
        }
    }

    fn close(&mut self, line: usize) -> Result<(), String> {
        let (anchor, value) = match self.open.pop() {
            Some(Open::List { anchor, items }) => (anchor, Value::Array(items)),
            Some(Open::Map { anchor, mut map, merges, .. }) => {
                for merged in merges {
                    merge(&mut map, merged).map_err(|()| format!("yaml: line {line}: map merge requires map or sequence of maps as the value"))?;
                }
                (anchor, Value::Object(map))
            }
            None => return Ok(()),
        };
        self.remember(anchor, &value);
        self.put(value, line)
    }

    fn put(&mut self, value: Value, line: usize) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.root = value,
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { map, key, merges, .. }) => match key.take() {
                None => *key = Some(value.as_str().map(str::to_owned).ok_or_else(|| format!("yaml: line {line}: unsupported map key"))?),
                Some(k) if k == MERGE => merges.push(value),
                Some(k) => {
                    if map.contains_key(&k) {
                        self.duplicates.push(format!("line {line}: key {} already set in map", crate::field::go_quote(&k)));
                    }
                    map.insert(k, value);
                }
            },
        }
        Ok(())
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// What is in the map already wins over what is merged in.
fn merge(into: &mut Map<String, Value>, from: Value) -> Result<(), ()> {
    match from {
        Value::Object(map) => {
            for (key, value) in map {
                into.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| if item.is_object() { merge(into, item) } else { Err(()) }),
        _ => Err(()),
    }
}

fn key_text(resolved: &Value, text: &str) -> String {
    match resolved {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        _ => text.to_owned(),
    }
}

fn tagged(tag: &str, text: &str) -> Option<Value> {
    let resolved = resolve(text);
    match (tag, &resolved) {
        ("bool", Value::Bool(_)) | ("null", Value::Null) | ("float", Value::Number(_)) => Some(resolved),
        ("int", Value::Number(n)) if !n.is_f64() => Some(resolved),
        ("timestamp", Value::String(_)) => Some(resolved),
        _ => None,
    }
}

/// The value of a plain scalar (goyaml.v2 `resolve`). `.nan` and `.inf` have no JSON: they stay strings.
pub fn resolve(text: &str) -> Value {
    let Some(first) = text.bytes().next() else { return Value::Null };
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Value::Bool(false),
        "~" | "null" | "Null" | "NULL" => return Value::Null,
        _ => {}
    }
    let found = match first {
        b'.' => float(text),
        b'0'..=b'9' | b'+' | b'-' if !is_timestamp(text) => {
            let plain = text.replace('_', "");
            integer(&plain).map(Value::Number).or_else(|| if is_float_syntax(&plain) { float(&plain) } else { None })
        }
        _ => None,
    };
    found.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// `strconv.ParseInt(s, 0, 64)` and its unsigned sister: `0x`, `0o`, `0b` and a leading zero choose the base.
fn integer(plain: &str) -> Option<Number> {
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| (b as char).is_digit(base)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, base).ok()?;
    match (negative, i64::try_from(magnitude)) {
        (false, _) if !plain.starts_with('+') || magnitude <= i64::MAX as u64 => Some(magnitude.into()),
        (true, Ok(n)) => Some((-n).into()),
        (true, Err(_)) if magnitude == 1 << 63 => Some(i64::MIN.into()),
        _ => None,
    }
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn is_float_syntax(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let mantissa_good = digits(whole) && fraction.is_none_or(digits) && (!whole.is_empty() || fraction.is_some_and(|f| !f.is_empty()));
    let exponent_good = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_good && exponent_good
}

fn float(text: &str) -> Option<Value> {
    if !is_float_syntax(text) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    // Go writes a whole float64 below 1e21 without a fraction.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return Some(Value::Number((number as i64).into()));
    }
    Number::from_f64(number).map(Value::Number)
}

/// Dates stay strings: `2006-1-2`, with or without a time.
fn is_timestamp(text: &str) -> bool {
    let (date, time) = text.split_once(['T', 't', ' ']).map_or((text, None), |(d, t)| (d, Some(t)));
    let mut parts = date.split('-');
    let number = |part: Option<&str>, lengths: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|p| lengths.contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    number(parts.next(), 4..=4) && number(parts.next(), 1..=2) && number(parts.next(), 1..=2) && parts.next().is_none() && time.is_none_or(|t| t.contains(':'))
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
    }
}
