//! Events as the trees that JSON has for them, as `sigs.k8s.io/yaml` makes them: with anchors, merged maps, and keys that become texts.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::Document;
use super::parser::{Event, Kind, Properties};
use super::resolve::{self, Scalar};
use crate::deep::DEPTH_MAX;

/// Bytes of text that aliases may repeat in all, and anchors keep: a long text is one node, and could be repeated without end.
const ALIASED_BYTES_MAX: usize = 64 << 20;
/// What anchors around anchors may take in all: more than any document needs whose aliases goyaml would follow.
const ANCHORED_NODES_MAX: usize = 4_000_000;

const WANT_MAPS: &str = "map merge requires map or sequence of maps as the value";

/// What may be names of aliases: only what they mean is kept for them.
fn alias_names(text: &str) -> HashSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.split('*').skip(1).map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default()).collect()
}

/// A map or a list that is not closed yet.
struct Open<'a> {
    /// With its number.
    anchor: Option<(&'a str, usize)>,
    /// From 1.
    line: usize,
    /// What had been decoded before it, and how many duplicates had been found.
    before: Decoded,
    duplicates_before: usize,
    items: Items,
    /// What has no JSON in it, by the names in a map: the last value of a name counts. The keys that can be none have no name.
    refused: BTreeMap<Option<String>, Refusal>,
    /// Whether it is merged into another map, which tells then what is there twice.
    is_merged: bool,
    /// The entries of a map that is or may be merged; of a list of such maps those of each.
    entries: Vec<Vec<Entry>>,
    /// How deep what is in it is nested, at most.
    levels: usize,
}

/// What a map was told, be it overwritten or not.
#[derive(Clone)]
struct Entry {
    name: String,
    /// What Go prints for it, unless it is a text.
    shown: Option<String>,
    line: usize,
}

impl Entry {
    /// goyaml's complaint when it is not the first of its name.
    fn duplicate(&self) -> String {
        let key = self.shown.clone().unwrap_or_else(|| crate::field::go_quote(&self.name));
        format!("line {}: key {key} already set in map", self.line)
    }
}

/// Why something has no JSON. Go finds what is wrong with keys before it writes numbers.
#[derive(Clone)]
enum Refusal {
    Key(String),
    Number(String),
}

impl Open<'_> {
    /// Beside what is refused already; what Go finds first counts.
    fn refuse_too(&mut self, refused: Option<Refusal>) {
        let all = self.refused.remove(&None).into_iter().chain(refused);
        self.refused.extend(all.min_by_key(Refusal::is_late).map(|first| (None, first)));
    }
}

impl Refusal {
    fn is_late(&self) -> bool {
        matches!(self, Self::Number(_))
    }
}

enum Items {
    Map { map: Map<String, Value>, key: Option<Key> },
    List(Vec<Value>),
}

/// What stands before a colon.
enum Key {
    /// With what Go prints for it, unless it is a text.
    Name(String, Option<String>),
    /// `<<`
    Merge,
    /// Something that cannot be a key, and why.
    Unfit(String),
}

/// A node that is complete.
#[derive(Clone)]
struct Node {
    value: Scalar,
    line: usize,
    is_merge: bool,
    by_alias: bool,
    refused: Option<Refusal>,
    entries: Vec<Vec<Entry>>,
    /// How deep it is nested, at most: 0 for a scalar.
    levels: usize,
}

impl Node {
    fn new(value: Scalar, line: usize) -> Self {
        Self { value, line, is_merge: false, by_alias: false, refused: None, entries: Vec::new(), levels: 0 }
    }

    /// What JSON has for it.
    fn into_json(self) -> (Value, Option<Refusal>) {
        match self.value.json() {
            Ok(value) => (value, self.refused),
            Err(why) => (Value::Null, Some(Refusal::Number(why))),
        }
    }
}

/// How much has been decoded, as goyaml counts it, and how long its texts are.
#[derive(Clone, Copy, Default)]
struct Decoded {
    nodes: usize,
    bytes: usize,
}

/// What an anchor stands for.
#[derive(Clone)]
enum Meaning {
    /// What is not complete yet.
    Open,
    Complete(Anchored),
    /// What need not be known: the document is refused anyway.
    Lost,
}

#[derive(Clone)]
struct Anchored {
    node: Node,
    decoded: Decoded,
    /// What was found in it, and is found again where an alias stands for it.
    duplicates: Vec<String>,
}

/// Folds parser events into trees, without recursion.
#[derive(Default)]
pub(super) struct Builder<'a> {
    aliases: HashSet<&'a str>,
    open: Vec<Open<'a>>,
    /// By name, with the number of the anchor.
    anchors: HashMap<&'a str, (usize, Meaning)>,
    anchors_seen: usize,
    /// What is remembered for anchors, that of nested ones counted each time.
    anchored: Decoded,
    root: Value,
    duplicates: Vec<String>,
    decoded: Decoded,
    aliased: Decoded,
    /// The first thing wrong in making something of the document.
    trouble: Option<String>,
    /// What is wrong in making JSON of that.
    refused: Option<Refusal>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { aliases: alias_names(text), ..Self::default() }
    }

    /// Gives a document when it is complete.
    ///
    /// # Errors
    /// What goyaml or `sigs.k8s.io/yaml` says of it.
    pub(super) fn take(&mut self, event: Event<'a>) -> Result<Option<Document>, String> {
        let line = event.line + 1;
        match event.kind {
            Kind::DocumentStart => {
                *self = Self { aliases: std::mem::take(&mut self.aliases), decoded: Decoded { nodes: 1, bytes: 0 }, ..Self::default() };
            }
            Kind::DocumentEnd => return self.finish().map(Some),
            Kind::Scalar { text, properties, plain } => self.scalar(text, &properties, plain, line),
            Kind::SequenceStart(anchor) => self.push(anchor, Items::List(Vec::new()), line),
            Kind::MappingStart(anchor) => self.push(anchor, Items::Map { map: Map::new(), key: None }, line),
            Kind::SequenceEnd | Kind::MappingEnd => self.close(),
            Kind::Alias(anchor) => self.alias(anchor, line)?,
            Kind::StreamEnd => {}
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Document, String> {
        if let Some(why) = self.trouble.take() {
            return Err(format!("yaml: {why}"));
        }
        if let Some(Refusal::Key(why) | Refusal::Number(why)) = self.refused.take() {
            return Err(why);
        }
        Ok(Document { value: std::mem::take(&mut self.root), duplicates: std::mem::take(&mut self.duplicates) })
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.trouble.get_or_insert_with(|| why.into());
    }

    fn push(&mut self, anchor: Option<&'a str>, items: Items, line: usize) {
        let before = self.decoded;
        self.decoded.nodes += 1;
        // An anchor of this name that stood before is no longer meant, also within.
        let anchor = anchor.map(|name| (name, self.name(name)));
        let is_merged = self.is_merging();
        let is_kept = is_merged || anchor.is_some_and(|(name, _)| self.aliases.contains(name));
        let entries = if is_kept && matches!(items, Items::Map { .. }) { vec![Vec::new()] } else { Vec::new() };
        self.open.push(Open { anchor, line, before, duplicates_before: self.duplicates.len(), items, refused: BTreeMap::new(), is_merged, entries, levels: 0 });
    }

    /// From here on aliases of this name mean what begins here. Tells the number of the anchor.
    fn name(&mut self, name: &'a str) -> usize {
        self.anchors_seen += 1;
        if self.aliases.contains(name) {
            self.anchors.insert(name, (self.anchors_seen, Meaning::Open));
        }
        self.anchors_seen
    }

    fn scalar(&mut self, text: String, properties: &Properties<'a>, plain: bool, line: usize) {
        let tag = properties.tag.as_deref();
        let decoded = Decoded { nodes: 1, bytes: text.len() };
        let is_merge = text == "<<" && (plain || tag == Some("tag:yaml.org,2002:merge"));
        self.decoded.nodes += decoded.nodes;
        self.decoded.bytes += decoded.bytes;
        if self.is_merging() {
            self.fail(WANT_MAPS);
        }
        let value = resolve::scalar(text, plain, tag).unwrap_or_else(|why| {
            self.fail(why);
            Scalar::Value(Value::Null)
        });
        let mut node = Node::new(value, line);
        if let Some(name) = properties.anchor {
            let number = self.name(name);
            self.remember((name, number), Anchored { node: node.clone(), decoded, duplicates: Vec::new() });
        }
        node.is_merge = is_merge;
        self.put(node);
    }

    /// Whether what comes next is merged in, alone or in a list.
    fn is_merging(&self) -> bool {
        let merges = |open: Option<&Open>| matches!(open, Some(Open { items: Items::Map { key: Some(Key::Merge), .. }, .. }));
        match self.open.as_slice() {
            [.., outer, Open { items: Items::List(_), .. }] => merges(Some(outer)),
            open => merges(open.last()),
        }
    }

    /// What an anchor stands for is complete, and aliases mean it unless its name stood for something else since.
    fn remember(&mut self, (name, number): (&'a str, usize), complete: Anchored) {
        let Some((_, meaning)) = self.anchors.get_mut(name).filter(|(current, _)| *current == number) else { return };
        self.anchored.nodes += complete.decoded.nodes;
        self.anchored.bytes += complete.decoded.bytes;
        if self.anchored.nodes > ANCHORED_NODES_MAX || self.anchored.bytes > ALIASED_BYTES_MAX {
            self.trouble.get_or_insert_with(|| "document contains excessive aliasing".into());
        }
        // Nothing is made of the document after a mistake.
        *meaning = if self.trouble.is_none() { Meaning::Complete(complete) } else { Meaning::Lost };
    }

    fn alias(&mut self, name: &str, line: usize) -> Result<(), String> {
        self.decoded.nodes += 1;
        let anchored = match self.anchors.get(name) {
            None => return Err(format!("yaml: unknown anchor '{name}' referenced")),
            Some((_, Meaning::Complete(anchored))) => anchored,
            Some((number, Meaning::Open)) => {
                let is_map = |open: &Open| matches!(open.items, Items::Map { .. }) && open.anchor.is_some_and(|(_, n)| n == *number);
                let is_no_map = self.is_merging() && !self.open.iter().any(is_map);
                self.fail(if is_no_map { WANT_MAPS.to_owned() } else { format!("anchor '{name}' value contains itself") });
                return Ok(());
            }
            Some((_, Meaning::Lost)) => return Ok(()),
        };
        let (decoded, levels) = (anchored.decoded, anchored.node.levels);
        if self.trouble.is_some() {
            return Ok(());
        }
        // Each anchor can hold an alias at its bottom: a few would be deeper together than any text may be.
        if self.open.len() + levels > DEPTH_MAX {
            self.fail(format!("exceeded max depth of {DEPTH_MAX}"));
            return Ok(());
        }
        self.decoded.nodes += decoded.nodes;
        self.aliased.nodes += decoded.nodes;
        self.aliased.bytes += decoded.bytes;
        if self.aliases_too_much() {
            self.fail("document contains excessive aliasing");
            return Ok(());
        }
        if let Some((_, Meaning::Complete(Anchored { node, duplicates, .. }))) = self.anchors.get(name).cloned() {
            if !self.is_merging() {
                self.duplicates.extend(duplicates);
            }
            self.put(Node { line, by_alias: true, ..node });
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
        let Some(Open { anchor, line, before, duplicates_before, items, refused, entries, levels, .. }) = self.open.pop() else { return };
        let value = Scalar::Value(match items {
            Items::List(items) => Value::Array(items),
            Items::Map { map, .. } => Value::Object(map),
        });
        let refused = refused.into_values().min_by_key(Refusal::is_late);
        let node = Node { refused, entries, levels: levels + 1, ..Node::new(value, line) };
        if let Some(anchor) = anchor.filter(|(name, _)| self.aliases.contains(name)) {
            let decoded = Decoded { nodes: self.decoded.nodes - before.nodes, bytes: self.decoded.bytes - before.bytes };
            let duplicates = self.duplicates.get(duplicates_before..).unwrap_or_default().to_vec();
            self.remember(anchor, Anchored { node: node.clone(), decoded, duplicates });
        }
        self.put(node);
    }

    /// A complete node goes where it belongs: it is a key, or the value of one, or an element.
    fn put(&mut self, node: Node) {
        if self.trouble.is_some() {
            return;
        }
        let Some(open) = self.open.last_mut() else {
            (self.root, self.refused) = node.into_json();
            return;
        };
        open.levels = open.levels.max(node.levels);
        match &mut open.items {
            Items::Map { key: key @ None, .. } if node.is_merge => *key = Some(Key::Merge),
            Items::Map { key: None, .. } => self.key(node),
            Items::Map { key, .. } => match key.take() {
                Some(Key::Name(name, shown)) => self.entry(Entry { name, shown, line: node.line }, node),
                Some(Key::Merge) => self.merge(node),
                Some(Key::Unfit(why)) => {
                    let why = format!("{why}, value: {}", node.value.go_syntax());
                    open.refused.insert(None, Refusal::Key(why));
                }
                None => {}
            },
            Items::List(items) => {
                if open.is_merged {
                    open.entries.extend_from_slice(&node.entries);
                }
                let (value, refused) = node.into_json();
                items.push(value);
                open.refuse_too(refused);
            }
        }
    }

    fn key(&mut self, node: Node) {
        let key = match node.value {
            ref value @ Scalar::Value(Value::Array(_) | Value::Object(_)) => {
                let why = format!("invalid map key: {}", value.go_syntax());
                self.fail(why.clone());
                Key::Unfit(why)
            }
            Scalar::Value(Value::String(name)) => Key::Name(name, None),
            scalar => resolve::key(&scalar).map_or_else(Key::Unfit, |name| Key::Name(name, Some(scalar.go_syntax()))),
        };
        if let Some(Open { items: Items::Map { key: place, .. }, .. }) = self.open.last_mut() {
            *place = Some(key);
        }
    }

    fn entry(&mut self, entry: Entry, node: Node) {
        let Some(open) = self.open.last_mut() else { return };
        let Items::Map { map, .. } = &mut open.items else { return };
        let (value, refused) = node.into_json();
        if map.contains_key(&entry.name) {
            open.refused.remove(&Some(entry.name.clone()));
            if !open.is_merged {
                let duplicate = entry.duplicate();
                // It may be repeated as texts are.
                self.decoded.bytes += duplicate.len();
                self.duplicates.push(duplicate);
            }
        }
        open.refused.extend(refused.map(|refused| (Some(entry.name.clone()), refused)));
        if let Some(entries) = open.entries.first_mut() {
            entries.push(entry.clone());
        }
        map.insert(entry.name, value);
    }

    /// What is merged in overwrites what stands before it; of several maps the first wins.
    fn merge(&mut self, node: Node) {
        let maps: Option<Vec<Map<String, Value>>> = match node.value {
            Scalar::Value(Value::Object(map)) => Some(vec![map]),
            Scalar::Value(Value::Array(items)) if !node.by_alias => items
                .into_iter()
                .map(|item| match item {
                    Value::Object(map) => Some(map),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        let Some(maps) = maps else { return self.fail(WANT_MAPS) };
        if let Some(open) = self.open.last_mut() {
            open.refuse_too(node.refused);
        }
        for (map, entries) in maps.into_iter().zip(node.entries).rev() {
            self.merge_map(map, entries);
        }
    }

    fn merge_map(&mut self, mut map: Map<String, Value>, entries: Vec<Entry>) {
        for entry in entries {
            match map.remove(&entry.name) {
                Some(value) => {
                    let node = Node::new(Scalar::Value(value), entry.line);
                    self.entry(entry, node);
                }
                // It was there twice itself.
                None => self.duplicates.push(entry.duplicate()),
            }
        }
    }
}
