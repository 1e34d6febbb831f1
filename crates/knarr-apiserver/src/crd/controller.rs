//! Follows the definitions: accepts names, swaps catalogs, and empties a resource whose definition goes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use knarr_core::{
    Object, Result, Value, ValueExt,
    api::{Request, Transport, Verb},
    time,
};
use knarr_schema::apply::{self, Manager};
use knarr_store::{ChangeKind, Error, ObjectKey, ResourceKey, WatchFilter, WatchFrom, WatchItem, Watcher};

use super::{
    Converter,
    definition::{is_terminating, is_true, resources},
    names::{accept, set_condition},
};
use crate::{
    authn::{MASTERS, User},
    catalog::Catalog,
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
    let mut follower = Follower { inner: Arc::downgrade(inner), known: BTreeMap::new(), emptying: BTreeMap::new() };
    let watcher = match inner.storage.watch(&key(), WatchFrom::State, WatchFilter::default()) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::error!(%error, "definitions of custom resources cannot be followed");
            return;
        }
    };
    for item in inner.storage.snapshot(&key()).iter(None, None) {
        follower.take(item.name(), Some(&item.object));
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

struct Follower {
    inner: Weak<Inner>,
    /// In the served version, by name.
    known: BTreeMap<String, Value>,
    /// Resources that are being emptied, by name of their definition.
    emptying: BTreeMap<String, tokio::task::JoinHandle<()>>,
}

impl Follower {
    async fn run(mut self, mut watcher: Watcher) {
        loop {
            let item = match watcher.next().await {
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
                WatchItem::Initial(item) => self.take(item.name(), Some(&item.object)),
                WatchItem::Change(change) if change.kind == ChangeKind::Deleted => self.take(change.item.name(), None),
                WatchItem::Change(change) => self.take(change.item.name(), Some(&change.item.object)),
                WatchItem::InitialEnd(_) => {}
            }
            // What has piled up is looked at together.
            while let Ok(Some(item)) = watcher.try_next() {
                match item {
                    WatchItem::Initial(item) => self.take(item.name(), Some(&item.object)),
                    WatchItem::Change(change) if change.kind == ChangeKind::Deleted => self.take(change.item.name(), None),
                    WatchItem::Change(change) => self.take(change.item.name(), Some(&change.item.object)),
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
        let definition = stored.and_then(|object| served.ok()?.load(object).ok());
        match definition {
            Some(definition) => drop(self.known.insert(name.to_owned(), definition)),
            None => drop(self.known.remove(name)),
        }
    }

    /// Writes the statuses that have changed, then serves what is established.
    async fn settle(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in &names {
            let Some(before) = self.known.get(name) else { continue };
            let mut definition = before.clone();
            let others: Vec<&Value> = self.known.iter().filter(|(other, _)| *other != name).map(|(_, d)| d).collect();
            if accept(&mut definition, &others, inner.env.now()) {
                track(&inner, before, &mut definition);
                write(&inner, name, &definition).await;
                self.known.insert(name.clone(), definition);
            }
        }
        self.swap();
        let going = self.known.iter().filter(|(_, d)| d.list_at(&["metadata", "finalizers"]).iter().any(|f| f == CLEANUP) && is_terminating(d));
        let going: Vec<(String, Value)> = going.map(|(n, d)| (n.clone(), d.clone())).collect();
        self.emptying.retain(|_, task| !task.is_finished());
        for (name, definition) in going {
            self.emptying.entry(name).or_insert_with(|| tokio::spawn(empty(Server { inner: inner.clone() }, definition)));
        }
    }

    /// Puts a new catalog in place when the served definitions have changed.
    fn swap(&self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let established: Vec<&Value> = self.known.values().filter(|d| is_true(d, "Established")).collect();
        let terminating = established.iter().filter(|d| is_terminating(d)).filter_map(|d| d.str_at(&["metadata", "name"])).map(str::to_owned).collect();
        let custom: Vec<_> = established.iter().flat_map(|d| resources(d)).collect();
        let current = inner.catalog.load();
        let name = |d: &Value| d.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
        let conversions: BTreeMap<String, &Value> = established.iter().filter_map(|d| Some((name(d), d.at(&["spec", "conversion"])?))).collect();
        let tag = format!("{custom:?} {terminating:?} {conversions:?}");
        if tag != current.tag {
            let registry = current.registry.with_custom(custom);
            let objects = || Arc::new(Stored(inner.storage.clone()));
            let converters = established.iter().map(|d| (name(d), Arc::new(Converter::new(d, objects())))).collect();
            inner.catalog.store(Arc::new(Catalog::with_custom(registry, terminating, &converters, tag)));
            inner.aggregation.catalog_changed.notify_one();
        }
    }
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

async fn delete_all(server: &Server, resource: &knarr_schema::registry::Resource) -> Result<()> {
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
        let Ok(mut definition) = served.load(&item.object) else { return };
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
