//! What an informer knows: items ordered by key, with indexes that are computed as items come in.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use knarr_core::{Object, Result};
use parking_lot::RwLock;

use crate::read::{self, Key, Meta};
use crate::typed::Typed;

/// A projection: the few fields of an object that its consumers keep.
pub trait Project: Send + Sync + Sized + 'static {
    /// # Errors
    /// The object cannot be read. It is then logged and left out.
    fn project(object: &Object) -> Result<Self>;

    /// The same for a consumer that keeps the object's key, too, and can share it.
    ///
    /// # Errors
    /// As [`Self::project`].
    fn project_at(_: &Key, object: &Object) -> Result<Self> {
        Self::project(object)
    }
}

impl Project for () {
    fn project(_: &Object) -> Result<Self> {
        Ok(())
    }
}

/// A projection that others keep, too.
impl<P: Project> Project for Arc<P> {
    fn project(object: &Object) -> Result<Self> {
        P::project(object).map(Self::new)
    }

    fn project_at(key: &Key, object: &Object) -> Result<Self> {
        P::project_at(key, object).map(Self::new)
    }
}

impl Project for Meta {
    fn project(object: &Object) -> Result<Self> {
        read::meta(object)
    }
}

/// One object in a store.
#[derive(Debug)]
pub struct Item<P = ()> {
    pub key: Key,
    pub object: Object,
    pub view: P,
}

impl<P> Item<P> {
    /// The whole object, decoded for this call.
    ///
    /// # Errors
    /// As [`read::typed`].
    pub fn typed<T: Typed>(&self) -> Result<T> {
        read::typed(&self.object)
    }
}

/// What changed: added without `old`, deleted without `new`.
pub struct Change<P = ()> {
    pub old: Option<Arc<Item<P>>>,
    pub new: Option<Arc<Item<P>>>,
}

impl<P> Change<P> {
    /// The newest that is known of the object.
    ///
    /// # Panics
    /// Never: a change has at least one side.
    pub fn item(&self) -> &Arc<Item<P>> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has at least one side")
    }

    pub fn key(&self) -> &Key {
        &self.item().key
    }
}

/// Items are equal and ordered by their keys alone.
struct ByKey<P>(Arc<Item<P>>);

impl<P> PartialEq for ByKey<P> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}
impl<P> Eq for ByKey<P> {}
impl<P> PartialOrd for ByKey<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<P> Ord for ByKey<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.as_str().cmp(other.0.key.as_str())
    }
}
impl<P> Borrow<str> for ByKey<P> {
    fn borrow(&self) -> &str {
        self.0.key.as_str()
    }
}

type IndexFunction<P> = Box<dyn Fn(&Item<P>) -> Vec<String> + Send + Sync>;

struct Index<P> {
    of: IndexFunction<P>,
    entries: BTreeMap<Box<str>, BTreeSet<ByKey<P>>>,
}

impl<P> Index<P> {
    fn put(&mut self, item: &Arc<Item<P>>) {
        for value in (self.of)(item) {
            self.entries.entry(value.into()).or_default().replace(ByKey(item.clone()));
        }
    }

    fn remove(&mut self, item: &Item<P>) {
        for value in (self.of)(item) {
            if let Some(set) = self.entries.get_mut(value.as_str()) {
                set.remove(item.key.as_str());
                if set.is_empty() {
                    self.entries.remove(value.as_str());
                }
            }
        }
    }
}

struct State<P> {
    items: BTreeSet<ByKey<P>>,
    indexes: BTreeMap<&'static str, Index<P>>,
}

impl<P> State<P> {
    fn put(&mut self, item: Arc<Item<P>>) -> Option<Arc<Item<P>>> {
        let old = self.items.replace(ByKey(item.clone())).map(|b| b.0);
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(old);
            }
            index.put(&item);
        }
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Item<P>>> {
        let old = self.items.take(key.as_str())?.0;
        self.indexes.values_mut().for_each(|index| index.remove(&old));
        Some(old)
    }
}

/// The items of one informer. Readers never wait for the network, only for a change being written in.
pub struct Store<P = ()> {
    state: RwLock<State<P>>,
}

impl<P: Project> Store<P> {
    pub(super) fn new() -> Self {
        Self { state: RwLock::new(State { items: BTreeSet::new(), indexes: BTreeMap::new() }) }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Item<P>>> {
        self.state.read().items.get(key.as_str()).map(|b| b.0.clone())
    }

    /// The item of that name, in that namespace (empty: cluster-scoped).
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Item<P>>> {
        self.get(&Key::new(namespace, name))
    }

    /// Everything, ordered by key.
    pub fn list(&self) -> Vec<Arc<Item<P>>> {
        self.state.read().items.iter().map(|b| b.0.clone()).collect()
    }

    /// Everything in one namespace, ordered by name.
    pub fn within(&self, namespace: &str) -> Vec<Arc<Item<P>>> {
        // '0' is the character after '/', so this range holds all keys that start with "namespace/".
        let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
        let state = self.state.read();
        state.items.range::<str, _>((Bound::Included(from.as_str()), Bound::Excluded(to.as_str()))).map(|b| b.0.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.state.read().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index, unless one of that name is there already. Existing items enter it at once.
    pub fn add_index(&self, name: &'static str, of: impl Fn(&Item<P>) -> Vec<String> + Send + Sync + 'static) {
        let mut state = self.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { of: Box::new(of), entries: BTreeMap::new() };
        state.items.iter().for_each(|b| index.put(&b.0));
        state.indexes.insert(name, index);
    }

    /// The items for which the index function gave this value, ordered by key. An unknown index has none.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Item<P>>> {
        let state = self.state.read();
        let entries = state.indexes.get(name).and_then(|index| index.entries.get(value));
        entries.map_or_else(Vec::new, |set| set.iter().map(|b| b.0.clone()).collect())
    }

    pub(super) fn put(&self, object: Object) -> Option<Change<P>> {
        let new = item(object)?;
        let old = self.state.write().put(new.clone());
        Some(Change { old, new: Some(new) })
    }

    pub(super) fn remove(&self, last: &Object) -> Option<Change<P>> {
        let old = self.state.write().remove(&read::key(last))?;
        // The event carries the final state, which may be newer than what is stored.
        Some(Change { old: item(last.clone()).or(Some(old)), new: None })
    }

    /// Makes `objects` the whole content and gives the differences, deletions first.
    pub(super) fn replace(&self, objects: Vec<Object>) -> Vec<Change<P>> {
        let mut fresh = BTreeSet::new();
        for item in objects.into_iter().filter_map(item) {
            // Of two states of one object the later one counts.
            fresh.replace(ByKey(item));
        }
        let mut state = self.state.write();
        let gone: Vec<Key> = state.items.iter().filter(|b| !fresh.contains(b.0.key.as_str())).map(|b| b.0.key.clone()).collect();
        let mut changes: Vec<Change<P>> = gone.iter().filter_map(|key| state.remove(key)).map(|old| Change { old: Some(old), new: None }).collect();
        for ByKey(new) in fresh {
            let known = state.items.get(new.key.as_str()).is_some_and(|b| b.0.object.resource_version == new.object.resource_version);
            if !known {
                let old = state.put(new.clone());
                changes.push(Change { old, new: Some(new) });
            }
        }
        changes
    }
}

fn item<P: Project>(object: Object) -> Option<Arc<Item<P>>> {
    let key = read::key(&object);
    match P::project_at(&key, &object) {
        Ok(view) => Some(Arc::new(Item { key, object, view })),
        Err(error) => {
            tracing::error!(?key, %error, "an object could not be read and is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::client::json_object;

    fn pod(namespace: &str, name: &str, app: &str, version: &str) -> Object {
        json_object(&json!({"metadata": {"namespace": namespace, "name": name, "resourceVersion": version, "labels": {"app": app}}}))
    }

    fn by_app(store: &Store<Meta>) {
        store.add_index("app", |item| item.view.labels.get("app").cloned().into_iter().collect());
    }

    fn keys(items: &[Arc<Item<Meta>>]) -> Vec<&str> {
        items.iter().map(|i| i.key.as_str()).collect()
    }

    #[test]
    fn an_index_follows_its_items() {
        let store = Store::new();
        store.put(pod("a", "early", "x", "1"));
        by_app(&store);
        store.put(pod("a", "p", "x", "2"));
        assert_eq!(keys(&store.by_index("app", "x")), ["a/early", "a/p"]);
        store.put(pod("a", "p", "y", "3"));
        assert_eq!(keys(&store.by_index("app", "x")), ["a/early"]);
        assert_eq!(store.by_index("app", "y")[0].object.resource_version, 3);
        store.remove(&pod("a", "p", "y", "4"));
        assert!(store.by_index("app", "y").is_empty());
    }

    #[test]
    fn a_namespace_is_a_range_of_keys() {
        let store: Store<Meta> = Store::new();
        for (namespace, name) in [("a", "2"), ("a", "1"), ("a-b", "1"), ("b", "1")] {
            store.put(pod(namespace, name, "x", "1"));
        }
        assert_eq!(keys(&store.within("a")), ["a/1", "a/2"]);
    }

    #[test]
    fn a_relist_tells_only_the_differences() {
        let store: Store<Meta> = Store::new();
        for name in ["gone", "same", "changed"] {
            store.put(pod("a", name, "x", "1"));
        }
        let changes = store.replace(vec![pod("a", "same", "x", "1"), pod("a", "changed", "x", "2"), pod("a", "new", "x", "3")]);
        let told: Vec<_> = changes.iter().map(|c| (c.key().name().to_owned(), c.old.is_some(), c.new.is_some())).collect();
        assert_eq!(told, [("gone".into(), true, false), ("changed".into(), true, true), ("new".into(), false, true)]);
    }
}
