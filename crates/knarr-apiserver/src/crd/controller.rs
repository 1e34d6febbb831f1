//! Follows the definitions: accepts names, swaps catalogs, and empties a resource whose definition goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use knarr_core::{
    Object, Result, Value, ValueExt,
    api::{Request, Transport, Verb},
    time,
};
use knarr_schema::{
    apply::{self, Manager},
    registry::Resource,
};
use knarr_store::{ChangeKind, Error, ObjectKey, ResourceKey, WatchFilter, WatchFrom, WatchItem, Watcher};

use super::{
    Converter,
    definition::{is_terminating, is_true, resources},
    names::{accept, set_condition},
};
use crate::{
    authn::{MASTERS, User},
    catalog::Catalog,
    discovery::hash,
    server::{Inner, Server},
    stored::Stored,
};

pub const GROUP: &str = "apiextensions.k8s.io";
pub const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

fn key() -> ResourceKey {
    ResourceKey::new(GROUP, PLURAL)
}

/// Starts following. Definitions that are stored already are served when this returns.
pub fn start(server: &Server) {
    let inner = &server.inner;
    let mut follower = Follower { inner: Arc::downgrade(inner), known: BTreeMap::new(), touched: BTreeSet::new(), emptying: BTreeMap::new() };
    let watcher = match inner.storage.watch(&key(), WatchFrom::State, WatchFilter::default()) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::error!(%error, "definitions of custom resources cannot be followed");
            return;
        }
    };
    for item in inner.storage.snapshot(&key()).iter(None, None) {
        follower.take(item.name(), Some(&item.object()));
    }
    follower.swap();
    let stop = inner.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follower.run(watcher) => {}
        }
    });
}

/// When no definition has come for so long, memory is tidied up.
const QUIET: Duration = Duration::from_secs(5);

struct Follower {
    inner: Weak<Inner>,
    known: BTreeMap<String, Known>,
    /// Groups of which a definition has come, gone or changed: names are given anew there.
    touched: BTreeSet<String>,
    /// Resources that are being emptied, by name of their definition.
    emptying: BTreeMap<String, tokio::task::JoinHandle<()>>,
}

impl Follower {
    async fn run(mut self, mut watcher: Watcher) {
        loop {
            let next = match tokio::time::timeout(QUIET, watcher.next()).await {
                Ok(next) => next,
                Err(_) => {
                    // Definitions came as trees, of which nothing is left.
                    drop(tokio::task::spawn_blocking(knarr_sys::memory::free_heap).await);
                    watcher.next().await
                }
            };
            let item = match next {
                Ok(item) => item,
                Err(error) => {
                    let Some(inner) = self.inner.upgrade() else { return };
                    tracing::warn!(%error, "the watch of definitions starts anew");
                    match inner.storage.watch(&key(), WatchFrom::State, WatchFilter::default()) {
                        Ok(anew) => watcher = anew,
                        Err(_) => return,
                    }
                    continue;
                }
            };
            match item {
                WatchItem::Initial(item) => self.take(item.name(), Some(&item.object())),
                WatchItem::Change(change) if change.kind == ChangeKind::Deleted => self.take(change.item.name(), None),
                WatchItem::Change(change) => self.take(change.item.name(), Some(&change.item.object())),
                WatchItem::InitialEnd(_) => {}
            }
            // What has piled up is looked at together.
            while let Ok(Some(item)) = watcher.try_next() {
                match item {
                    WatchItem::Initial(item) => self.take(item.name(), Some(&item.object())),
                    WatchItem::Change(change) if change.kind == ChangeKind::Deleted => self.take(change.item.name(), None),
                    WatchItem::Change(change) => self.take(change.item.name(), Some(&change.item.object())),
                    WatchItem::InitialEnd(_) => {}
                }
            }
            if self.inner.upgrade().is_none() {
                return;
            }
            self.settle().await;
        }
    }

    fn take(&mut self, name: &str, stored: Option<&Object>) {
        let Some(inner) = self.inner.upgrade() else { return };
        let served = inner.catalog.load().need(GROUP, PLURAL).cloned();
        let definition = stored.and_then(|object| Some((object, served.ok()?.load(object).ok()?)));
        let before = self.known.remove(name);
        self.touched.extend(before.iter().map(|k| k.group().to_owned()));
        if let Some((object, definition)) = definition {
            let known = Known::new(&inner, object.clone(), definition, before.as_ref());
            self.touched.insert(known.group().to_owned());
            self.known.insert(name.to_owned(), known);
        }
    }

    /// Writes the statuses that have changed, then serves what is established. Names matter within a group only.
    async fn settle(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let touched = std::mem::take(&mut self.touched);
        let names: Vec<String> = self.known.iter().filter(|(_, k)| touched.contains(k.group())).map(|(n, _)| n.clone()).collect();
        for name in &names {
            let Some(known) = self.known.get(name) else { continue };
            let mut outline = known.outline.clone();
            let others: Vec<&Value> = names.iter().filter(|other| *other != name).filter_map(|other| Some(&self.known.get(other)?.outline)).collect();
            if accept(&mut outline, &others, inner.env.now())
                && let Some(before) = known.whole(&inner)
            {
                let mut definition = before.clone();
                definition.set(&["status"], outline.at(&["status"]).cloned().unwrap_or_default());
                track(&inner, &before, &mut definition);
                write(&inner, name, &definition).await;
                let known = Known::new(&inner, known.object.clone(), definition, Some(known));
                self.known.insert(name.clone(), known);
            }
        }
        self.swap();
        let is_going = |d: &Value| d.list_at(&["metadata", "finalizers"]).iter().any(|f| f == CLEANUP) && is_terminating(d);
        let going: Vec<(String, Value)> = self.known.iter().filter(|(_, k)| is_going(&k.outline)).map(|(n, k)| (n.clone(), k.outline.clone())).collect();
        self.emptying.retain(|_, task| !task.is_finished());
        for (name, outline) in going {
            self.emptying.entry(name).or_insert_with(|| tokio::spawn(empty(Server { inner: inner.clone() }, outline)));
        }
    }

    /// Puts a new catalog in place when the served definitions have changed.
    fn swap(&self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let established: Vec<(&String, &Known)> = self.known.iter().filter(|(_, k)| is_true(&k.outline, "Established")).collect();
        let terminating: BTreeSet<String> = established.iter().filter(|(_, k)| is_terminating(&k.outline)).map(|(n, _)| (*n).clone()).collect();
        let mut facts = format!("{terminating:?}");
        established.iter().for_each(|(name, known)| facts += &format!(" {name} {}", known.tag));
        let (current, tag) = (inner.catalog.load(), hash(facts.as_bytes()));
        if tag != current.tag {
            let registry = current.registry.with_custom(established.iter().flat_map(|(_, k)| k.resources.iter().cloned()).collect());
            let converters = established.iter().map(|(n, k)| ((*n).clone(), k.converter.clone())).collect();
            inner.catalog.store(Arc::new(Catalog::with_custom(registry, terminating, &converters, tag, Some(&current))));
            inner.aggregation.catalog_changed.notify_one();
        }
    }
}

/// What is kept of a definition. Its schemas are a hundred times as large as all the rest: they are in `resources`, compressed, and in the stored object.
struct Known {
    /// As it is stored.
    object: Object,
    /// The definition in the served version without its schemas, and without what only its owners want to know.
    outline: Value,
    /// Its served versions.
    resources: Vec<Arc<Resource>>,
    converter: Arc<Converter>,
    /// Tells what follows from it from what would follow from another.
    tag: String,
}

impl Known {
    /// What is the same as before stays as it is, so that what was made of it need not be made again.
    fn new(inner: &Inner, object: Object, definition: Value, before: Option<&Self>) -> Self {
        let resources = resources(&definition);
        let outline = outline(definition);
        let tag = hash(format!("{resources:?} {:?}", outline.at(&["spec", "conversion"])).as_bytes());
        match before.filter(|b| b.tag == tag) {
            Some(before) => Self { object, outline, resources: before.resources.clone(), converter: before.converter.clone(), tag },
            None => {
                let converter = Arc::new(Converter::new(&outline, Arc::new(Stored(inner.storage.clone()))));
                Self { object, outline, resources: resources.into_iter().map(Arc::new).collect(), converter, tag }
            }
        }
    }

    fn group(&self) -> &str {
        self.outline.str_at(&["spec", "group"]).unwrap_or_default()
    }

    /// All of it, read once more.
    fn whole(&self, inner: &Inner) -> Option<Value> {
        inner.catalog.load().need(GROUP, PLURAL).ok()?.load(&self.object).ok()
    }
}

/// The annotation in which kubectl keeps all that was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn outline(mut definition: Value) -> Value {
    drop(definition.remove(&["metadata", "managedFields"]));
    drop(definition.remove(&["metadata", "annotations", LAST_APPLIED]));
    if let Some(versions) = definition.get_mut("spec").and_then(|s| s.get_mut("versions")).and_then(Value::as_array_mut) {
        versions.iter_mut().for_each(|v| drop(v.remove(&["schema"])));
    }
    definition
}

/// Who writes statuses, as `managedFields` name it.
const MANAGER: &str = "kube-apiserver";

/// The status is a write like any other, and its fields are owned by who wrote them.
fn track(inner: &Inner, before: &Value, definition: &mut Value) {
    if let Ok(served) = inner.catalog.load().need(GROUP, PLURAL) {
        let now = time::format(inner.env.now());
        let manager = Manager { name: MANAGER, subresource: "status", now: &now };
        apply::track_update(&served.resource, Some(before), definition, manager);
    }
}

/// Stores a definition's status. Whoever changed it meanwhile makes us look at it again.
async fn write(inner: &Inner, name: &str, definition: &Value) {
    let result: Result<()> = async {
        let catalog = inner.catalog.load_full();
        let served = catalog.need(GROUP, PLURAL)?;
        let expected = crate::write::meta::resource_version(definition)?;
        let bytes = served.store_form(definition)?;
        match inner.storage.update(&key(), &ObjectKey::new("", name), bytes, expected, None).await {
            Ok(_) | Err(Error::Conflict(_) | Error::NotFound) => Ok(()),
            Err(e) => Err(knarr_core::Status::internal(e)),
        }
    }
    .await;
    if let Err(error) = result {
        tracing::error!(%error, definition = name, "the status of a definition could not be written");
    }
}

/// Deletes all objects of a definition that goes, waits until they are gone, and lets it go.
async fn empty(server: Server, definition: Value) {
    let name = definition.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
    if is_true(&definition, "Established")
        && let Some(resource) = resources(&definition).into_iter().next()
    {
        mark(&server, &name, "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress", false).await;
        if let Err(error) = delete_all(&server, &resource).await {
            let text = format!("could not issue all deletes: {error}");
            mark(&server, &name, "True", "InstanceDeletionFailed", &text, false).await;
            return;
        }
        mark(&server, &name, "False", "InstanceDeletionCompleted", "removed all instances", true).await;
    } else {
        mark(&server, &name, "False", "NeverEstablished", "resource was never established", true).await;
    }
}

async fn delete_all(server: &Server, resource: &Resource) -> Result<()> {
    let transport = server.transport(User { name: "system:apiserver".into(), groups: vec![MASTERS.into()], ..User::default() });
    let stored = ResourceKey::new(&resource.storage.0, &resource.plural);
    let storage = &server.inner.storage;
    let mut watcher = storage.watch(&stored, WatchFrom::Now, WatchFilter::default()).map_err(knarr_core::Status::internal)?;
    for item in storage.snapshot(&stored).iter(None, None) {
        let mut request = Request::new(Verb::Delete, resource.gvr());
        request.name = Some(item.name().to_owned());
        request.namespace = resource.namespaced.then(|| item.namespace().to_owned());
        match transport.call(request).await {
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
    }
    while !storage.snapshot(&stored).is_empty() {
        watcher.next().await.map_err(knarr_core::Status::internal)?;
    }
    Ok(())
}

/// Writes the condition `Terminating`, and takes our finalizer off when all is done.
async fn mark(server: &Server, name: &str, status: &str, reason: &str, message: &str, done: bool) {
    let inner = &server.inner;
    loop {
        let Some(item) = inner.storage.get_now(&key(), &ObjectKey::new("", name)) else { return };
        let catalog = inner.catalog.load_full();
        let Ok(served) = catalog.need(GROUP, PLURAL) else { return };
        let Ok(mut definition) = served.load(&item.object()) else { return };
        let before = definition.clone();
        set_condition(&mut definition, "Terminating", status, reason, message, inner.env.now());
        track(inner, &before, &mut definition);
        let mut finalizers = definition.list_at(&["metadata", "finalizers"]).to_vec();
        if done {
            finalizers.retain(|f| f != CLEANUP);
            definition.set(&["metadata", "finalizers"], finalizers.clone());
        }
        let Ok(bytes) = served.store_form(&definition) else { return };
        let place = ObjectKey::new("", name);
        let written = if done && finalizers.is_empty() {
            inner.storage.delete(&key(), &place, item.revision()).await
        } else {
            inner.storage.update(&key(), &place, bytes, item.revision(), None).await
        };
        match written {
            Ok(_) | Err(Error::NotFound) => return,
            Err(Error::Conflict(_)) => {}
            Err(error) => {
                tracing::error!(%error, definition = name, "a definition that goes could not be written");
                return;
            }
        }
    }
}
