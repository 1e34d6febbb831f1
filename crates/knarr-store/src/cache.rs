//! The current state and the recent past of everything stored. An engine writes into it what has become durable; everybody
//! else reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Waker;

use arc_swap::ArcSwap;
use imbl::OrdSet;
use knarr_core::Object;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::history::{Change, ChangeKind, History, Limits};
use crate::item::{Entry, Item};
use crate::key::ResourceKey;
use crate::world::{Snapshot, World};
use crate::{Error, Result};
use knarr_schema::codec;

/// A resource in the cache.
pub struct Resource {
    pub key: ResourceKey,
    /// Its place in [`World::sets`].
    pub(crate) id: usize,
    /// The field whose value items carry and watchers can hang under.
    indexed_field: Option<&'static [&'static str]>,
    pub(crate) history: Mutex<History>,
}

/// Resources of which one field is indexed, as in upstream's watch cache.
fn indexed_field(key: &ResourceKey) -> Option<&'static [&'static str]> {
    match (key.group.as_str(), key.resource.as_str()) {
        ("", "pods") | ("resource.k8s.io", "resourceslices") | ("certificates.k8s.io", "podcertificaterequests") => Some(&["spec", "nodeName"]),
        _ => None,
    }
}

impl Resource {
    /// The dotted name of the field that is indexed, if any: `spec.nodeName`.
    pub fn indexed_field(&self) -> Option<String> {
        self.indexed_field.map(|path| path.join("."))
    }

    pub(crate) fn make_item(&self, path: &str, object: Object, expires_ms: u64, previous: Option<&Item>) -> Arc<Item> {
        let indexed = self.indexed_field.and_then(|field| {
            let value = codec::scalar(&object, field);
            match previous.and_then(Item::indexed_shared) {
                Some(known) if **known == *value => Some(known.clone()),
                _ => (!value.is_empty()).then(|| value.into()),
            }
        });
        Arc::new(Item::new(path, object, indexed, expires_ms))
    }
}

/// More watchers than this are not woken by the writer's thread.
const WAKES_MAX: usize = 16;

/// See the module.
pub struct Cache {
    world: ArcSwap<World>,
    /// Held while the world is replaced.
    writing: Mutex<()>,
    resources: ArcSwap<HashMap<ResourceKey, Arc<Resource>>>,
    limits: Limits,
    /// What happened before this revision to a resource that was empty then, nobody knows.
    known_from: AtomicU64,
    /// Up to here, watchers have been given everything.
    delivered: AtomicU64,
    revision: tokio::sync::watch::Sender<u64>,
    /// Set once, when the engine can write no more.
    failure: tokio::sync::watch::Sender<Option<String>>,
    /// Whether the housekeeper knows that there is history that will age.
    is_aging: AtomicBool,
    /// Told when something was written that will expire, or age while nothing else does.
    pub(crate) aging: Notify,
    /// Watchers that are to be woken, and the task that does it.
    waking: Mutex<Vec<Waker>>,
    wakes: Notify,
    /// Written since the housekeeper looked last.
    pub(crate) expiring: Mutex<Vec<(Arc<Resource>, Arc<Item>)>>,
}

impl Cache {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            world: ArcSwap::default(),
            writing: Mutex::new(()),
            resources: ArcSwap::default(),
            limits,
            known_from: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            revision: tokio::sync::watch::Sender::new(0),
            failure: tokio::sync::watch::Sender::new(None),
            is_aging: AtomicBool::new(false),
            aging: Notify::new(),
            waking: Mutex::default(),
            wakes: Notify::new(),
            expiring: Mutex::new(Vec::new()),
        }
    }

    pub fn world(&self) -> Arc<World> {
        self.world.load_full()
    }

    pub fn revision(&self) -> u64 {
        self.world.load().revision
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(SeqCst)
    }

    pub(crate) fn revisions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Tells everybody that the engine can write no more, and why.
    pub fn report_failure(&self, failure: String) {
        self.failure.send_replace(Some(failure));
    }

    pub(crate) fn failures(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    pub fn get(&self, resource: &Resource, path: &str) -> Option<Arc<Item>> {
        self.world.load().get(resource.id, path).cloned()
    }

    pub fn snapshot(&self, resource: &Resource) -> Snapshot {
        let world = self.world.load();
        Snapshot { revision: world.revision, set: world.sets.get(resource.id).cloned().unwrap_or_default() }
    }

    /// The resource under this key; it comes into being when it is asked for first.
    pub fn resource(&self, key: &ResourceKey) -> Arc<Resource> {
        if let Some(resource) = self.resources.load().get(key) {
            return resource.clone();
        }
        let _writing = self.writing.lock();
        let mut resources = HashMap::clone(&self.resources.load());
        if let Some(resource) = resources.get(key) {
            return resource.clone();
        }
        let mut world = World::clone(&self.world.load());
        world.sets.push(OrdSet::new());
        // Nothing of it is stored: what happened to it since the engine began to tell would have made it known.
        let history = Mutex::new(History::new(self.known_from.load(SeqCst), self.limits));
        let resource = Arc::new(Resource { key: key.clone(), id: world.sets.len() - 1, indexed_field: indexed_field(key), history });
        resources.insert(key.clone(), resource.clone());
        self.world.store(Arc::new(world));
        self.resources.store(Arc::new(resources));
        resource
    }

    /// All resources, in the order in which they came into being.
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        let mut all: Vec<_> = self.resources.load().values().cloned().collect();
        all.sort_by_key(|r| r.id);
        all
    }

    /// Wakes watchers. Many are woken by a task of their own, so that no writer waits for it.
    pub(crate) fn wake(&self, woken: Vec<Waker>) {
        if woken.len() <= WAKES_MAX {
            woken.into_iter().for_each(Waker::wake);
        } else {
            self.waking.lock().extend(woken);
            self.wakes.notify_one();
        }
    }

    /// Wakes those who were left by [`Self::wake`], for ever.
    pub(crate) async fn run_wakes(&self) {
        loop {
            self.wakes.notified().await;
            let woken = std::mem::take(&mut *self.waking.lock());
            woken.into_iter().for_each(Waker::wake);
        }
    }

    /// Lets everybody see changes that have become durable. They come in the order of their revisions.
    /// Gives those who wait for them, to be woken after the writers have their answers.
    #[must_use]
    pub fn apply(&self, changes: &[(Arc<Resource>, Arc<Change>)]) -> Vec<Waker> {
        let Some(revision) = changes.last().map(|(_, c)| c.revision()) else { return Vec::new() };
        let _writing = self.writing.lock();
        // The state comes first: who has seen an event finds it there.
        let mut world = World::clone(&self.world.load());
        world.revision = revision;
        for (resource, change) in changes {
            change_set(&mut world.sets[resource.id], change);
        }
        self.world.store(Arc::new(world));
        let woken = self.deliver(changes);
        self.delivered.store(revision, SeqCst);
        self.revision.send_replace(revision);
        woken
    }

    /// Says that nothing but what was applied has happened up to a revision.
    pub(crate) fn advance(&self, revision: u64) {
        let _writing = self.writing.lock();
        let world = self.world.load();
        if world.revision >= revision {
            return;
        }
        self.world.store(Arc::new(World { revision, sets: world.sets.clone() }));
        self.delivered.store(revision, SeqCst);
        self.revision.send_replace(revision);
    }

    fn deliver(&self, changes: &[(Arc<Resource>, Arc<Change>)]) -> Vec<Waker> {
        let mut woken = Vec::new();
        for (resource, change) in changes {
            resource.history.lock().push(change.clone(), &mut woken);
            if change.item.expires_ms().is_some() && change.kind != ChangeKind::Deleted {
                self.expiring.lock().push((resource.clone(), change.item.clone()));
            }
        }
        if !self.is_aging.swap(true, SeqCst) || !self.expiring.lock().is_empty() {
            self.aging.notify_one();
        }
        woken
    }

    /// The state of a resource at an earlier revision, by undoing what came after.
    ///
    /// # Errors
    /// [`Error::TooOld`] when that is no longer known, [`Error::TooLarge`] when it has not come yet.
    pub(crate) fn snapshot_at(&self, resource: &Resource, revision: u64) -> Result<Snapshot> {
        // So that the state and the history are of one revision.
        let _writing = self.writing.lock();
        let history = resource.history.lock();
        let mut snapshot = self.snapshot(resource);
        if snapshot.revision < revision {
            return Err(Error::TooLarge { asked: revision, current: snapshot.revision });
        }
        for change in history.after(revision)?.rev() {
            match &change.previous {
                Some(previous) => snapshot.set.insert(Entry::new(previous.clone())),
                None => snapshot.set.remove(change.item.path()),
            };
        }
        snapshot.revision = revision;
        Ok(snapshot)
    }

    /// Fills an empty cache at start; see [`Loader`].
    pub(crate) fn load(&self) -> Loader<'_> {
        Loader { cache: self, sets: Vec::new() }
    }

    /// Drops history beyond the window. Gives the time when this is due again.
    pub(crate) fn trim_age(&self, now: Instant) -> Option<Instant> {
        self.is_aging.store(false, SeqCst);
        let next = self.resources.load().values().filter_map(|r| r.history.lock().trim_age(now)).min();
        if next.is_some() {
            self.is_aging.store(true, SeqCst);
        }
        next
    }
}

fn change_set(set: &mut OrdSet<Entry>, change: &Change) {
    match change.kind {
        ChangeKind::Deleted => set.remove(change.item.path()),
        ChangeKind::Added | ChangeKind::Modified => set.insert(Entry::new(change.item.clone())),
    };
}

/// Fills a cache with what an engine had stored, before anybody reads it.
pub(crate) struct Loader<'a> {
    cache: &'a Cache,
    sets: Vec<OrdSet<Entry>>,
}

impl Loader<'_> {
    pub fn resource(&mut self, key: &ResourceKey) -> Arc<Resource> {
        let resource = self.cache.resource(key);
        if self.sets.len() <= resource.id {
            self.sets.resize_with(resource.id + 1, OrdSet::new);
        }
        resource
    }

    /// Says that all changes of this resource after `revision` will be replayed.
    pub fn history_begins(&mut self, resource: &Resource, revision: u64) {
        resource.history.lock().set_oldest(revision);
    }

    pub fn put(&mut self, resource: &Arc<Resource>, path: &str, object: Object, expires_ms: u64) {
        let item = resource.make_item(path, object, expires_ms, None);
        self.expire_later(resource, &item);
        self.sets[resource.id].insert(Entry::new(item));
    }

    pub fn get(&self, resource: &Resource, path: &str) -> Option<Arc<Item>> {
        self.sets[resource.id].get(path).map(|entry| entry.item.clone())
    }

    /// Makes a change again that happened `age` ago.
    pub fn replay(&mut self, resource: &Arc<Resource>, change: Change, age: std::time::Duration) {
        let change = Arc::new(change.with_age(age));
        change_set(&mut self.sets[resource.id], &change);
        if change.kind != ChangeKind::Deleted {
            self.expire_later(resource, &change.item);
        }
        resource.history.lock().push(change, &mut Vec::new());
    }

    fn expire_later(&self, resource: &Arc<Resource>, item: &Arc<Item>) {
        if item.expires_ms().is_some() {
            self.cache.expiring.lock().push((resource.clone(), item.clone()));
        }
    }

    /// As [`Self::finish`], for an engine that knows the state at `revision` and nothing of what led to it.
    pub fn finish_without_history(self, revision: u64) {
        self.cache.known_from.store(revision, SeqCst);
        for resource in self.cache.resources() {
            resource.history.lock().set_oldest(revision);
        }
        self.finish(revision);
    }

    pub fn finish(mut self, revision: u64) {
        let _writing = self.cache.writing.lock();
        self.sets.resize_with(self.cache.world.load().sets.len(), OrdSet::new);
        self.cache.world.store(Arc::new(World { revision, sets: self.sets }));
        self.cache.delivered.store(revision, SeqCst);
        self.cache.revision.send_replace(revision);
    }
}
