//! One stored object in the cache: its bytes, its place, and the few facts that lists and watches ask for again and again.
//! What can be read out of the bytes when it is wanted is not kept: an item costs about 200 bytes beside the object.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use knarr_core::selector::{LabelSelector, Operator};
use knarr_core::{Encoding, Object};
use twox_hash::XxHash64;

use crate::body::Body;
use crate::key::split_path;
use knarr_schema::codec;

/// An object, as it was at one revision. Never changes.
pub struct Item {
    encoding: Encoding,
    superseded: AtomicBool,
    revision: u64,
    body: Body,
    /// `namespace/name`.
    path: Box<str>,
    /// The value of the resource's indexed field (`spec.nodeName` of pods); absent when it is empty or nothing is indexed.
    indexed: Option<Arc<str>>,
    /// Milliseconds since 1970; 0 for never.
    expires_ms: u64,
    /// See [`Item::label_bits`]; 0 until somebody asks.
    label_bits: AtomicU64,
}

/// With the counts of its `Arc` 128 bytes, a size of the heap.
const _: () = assert!(size_of::<Item>() <= 112);

impl Item {
    /// An object that is no part of the store.
    pub fn unstored(name: &str, object: Object) -> Self {
        Self::new(&format!("/{name}"), object, None, 0)
    }

    pub(crate) fn new(path: &str, object: Object, indexed: Option<Arc<str>>, expires_ms: u64) -> Self {
        let Object { encoding, resource_version: revision, bytes } = object;
        Self {
            encoding,
            superseded: AtomicBool::new(false),
            revision,
            body: Body::new(bytes),
            path: path.into(),
            indexed,
            expires_ms,
            label_bits: AtomicU64::new(0),
        }
    }

    /// The same place with the object in another form.
    #[must_use]
    pub fn with_object(&self, object: Object) -> Self {
        Self::new(&self.path, object, self.indexed.clone(), self.expires_ms)
    }

    /// `namespace/name`, or the name alone for cluster-scoped objects.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn namespace(&self) -> &str {
        split_path(&self.path).0
    }

    /// Whether this is its namespace; an empty one is that of cluster-scoped objects.
    pub fn is_in(&self, namespace: &str) -> bool {
        let path = self.path.as_bytes();
        if namespace.is_empty() { !path.contains(&b'/') } else { path.get(namespace.len()) == Some(&b'/') && path.starts_with(namespace.as_bytes()) }
    }

    pub fn name(&self) -> &str {
        split_path(&self.path).1
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The object: a handle to its bytes, or a copy of them where the item is history.
    pub fn object(&self) -> Object {
        Object { encoding: self.encoding, resource_version: self.revision, bytes: self.body.bytes() }
    }

    /// Length of the object's bytes.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    /// Keeps only what `next`, the version that followed, does not have.
    pub(crate) fn pack(&self, next: &Arc<Self>) {
        self.body.pack(next);
    }

    /// Keeps only what `model` does not have, and tells whether it does. Of an object that is no longer current, which is counted as it is, nothing
    /// changes.
    pub(crate) fn rest(&self, model: &Arc<Self>) -> bool {
        !self.superseded.load(Relaxed) && self.body.pack(model)
    }

    /// It is no longer current.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Relaxed);
    }

    /// The value of the resource's indexed field (`spec.nodeName` of pods), empty when it has none.
    pub fn indexed(&self) -> &str {
        self.indexed.as_deref().unwrap_or_default()
    }

    pub(crate) fn indexed_shared(&self) -> Option<&Arc<str>> {
        self.indexed.as_ref()
    }

    /// When the object expires, in milliseconds since 1970.
    pub fn expires_ms(&self) -> Option<u64> {
        (self.expires_ms != 0).then_some(self.expires_ms)
    }

    /// Reads one scalar out of the bytes (`&["status", "phase"]`). Empty when absent.
    pub fn field(&self, path: &[&str]) -> String {
        codec::scalar(&self.object(), path)
    }

    /// Two bits of 62 for each label, so that most objects which do not have a label are told apart without reading them.
    fn label_bits(&self) -> u64 {
        match self.label_bits.load(Relaxed) {
            0 => {
                let bits = codec::meta(&self.object()).labels.iter().fold(COMPUTED, |bits, (k, v)| bits | bits_of(k, v));
                self.label_bits.store(bits, Relaxed);
                bits
            }
            bits => bits,
        }
    }

    /// What the object takes in memory, about.
    pub fn weight(&self) -> usize {
        self.body.kept() + self.path.len() + size_of::<Self>() + 64
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.path, self.revision())
    }
}

/// Says that the bits were computed, also when there are no labels.
const COMPUTED: u64 = 1 << 63;

fn bits_of(key: &str, value: &str) -> u64 {
    let hasher = BuildHasherDefault::<XxHash64>::default();
    let hash = hasher.hash_one((key, value));
    1 << (hash % 62) | 1 << ((hash >> 32) % 62)
}

/// A label selector made ready for asking many items.
pub struct LabelMatcher<'a> {
    selector: &'a LabelSelector,
    /// The bits of all values that must be there.
    needed: u64,
    /// For each requirement that names several values, the bits of each: one of them must be there.
    choices: Vec<Vec<u64>>,
}

impl<'a> LabelMatcher<'a> {
    pub fn new(selector: &'a LabelSelector) -> Self {
        let (mut needed, mut choices) = (0, Vec::new());
        for requirement in selector.requirements.iter().filter(|r| r.operator == Operator::In) {
            match requirement.values.as_slice() {
                [only] => needed |= bits_of(&requirement.key, only),
                many => choices.push(many.iter().map(|v| bits_of(&requirement.key, v)).collect()),
            }
        }
        Self { selector, needed, choices }
    }

    /// Whether bits tell nothing.
    fn admits_all(&self) -> bool {
        self.needed == 0 && self.choices.is_empty()
    }

    /// Whether an item with these bits may match.
    #[inline]
    fn admits(&self, bits: u64) -> bool {
        bits & self.needed == self.needed && self.choices.iter().all(|values| values.iter().any(|v| bits & v == *v))
    }

    pub fn matches(&self, item: &Item) -> bool {
        if self.selector.is_everything() {
            return true;
        }
        if self.selector.is_nothing() || !self.admits_all() && !self.admits(item.label_bits()) {
            return false;
        }
        let object = item.object();
        let meta = codec::meta(&object);
        self.selector.matches_by(|key| meta.labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }
}

/// An item in the ordered set of its resource, compared by its path. Beside it stand the bits of its labels, so that whoever looks for a few of many
/// need not go to each: it lies anywhere in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub item: Arc<Item>,
    /// [`Item::label_bits`]; 0 until somebody asks.
    label_bits: AtomicU64,
}

impl Entry {
    pub fn new(item: Arc<Item>) -> Self {
        Self { item, label_bits: AtomicU64::new(0) }
    }

    /// Whether its labels do not rule it out.
    #[inline]
    pub fn may_match(&self, labels: &LabelMatcher<'_>) -> bool {
        match self.label_bits.load(Relaxed) {
            // Nobody has asked yet, perhaps since nobody need.
            0 => labels.admits_all() || self.learn(labels),
            bits => labels.admits(bits),
        }
    }

    #[cold]
    fn learn(&self, labels: &LabelMatcher<'_>) -> bool {
        let bits = self.item.label_bits();
        self.label_bits.store(bits, Relaxed);
        labels.admits(bits)
    }
}

impl Clone for Entry {
    fn clone(&self) -> Self {
        Self { item: self.item.clone(), label_bits: AtomicU64::new(self.label_bits.load(Relaxed)) }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.item.path == other.item.path
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.item.path.cmp(&other.item.path)
    }
}

impl Borrow<str> for Entry {
    fn borrow(&self) -> &str {
        &self.item.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn item(labels: knarr_core::Value) -> Item {
        let bytes = json!({"metadata": {"labels": labels}}).to_string();
        Item::new("default/a", codec::with_resource_version(bytes.as_bytes(), 1), None, 0)
    }

    #[test]
    fn a_prepared_selector_agrees_with_the_plain_one() {
        let items = [json!({}), json!({"app": "web"}), json!({"app": "db", "tier": "back"}), json!({"tier": "web"})];
        for text in ["", "app=web", "app", "!app", "app!=web", "app in (web,db),tier=back", "app notin (web)", "tier=web", "nothing=here"] {
            let selector = LabelSelector::parse(text).unwrap();
            for labels in &items {
                assert_eq!(LabelMatcher::new(&selector).matches(&item(labels.clone())), selector.matches(Some(labels)), "{text} on {labels}");
            }
        }
        assert!(!LabelMatcher::new(&LabelSelector::nothing()).matches(&item(json!({"app": "web"}))));
    }
}
