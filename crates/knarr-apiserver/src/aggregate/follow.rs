//! Follows the APIServices, and what decides whether they can be reached.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use knarr_store::{ResourceKey, WatchFilter, WatchFrom, WatchItem, Watcher};

use super::{ByGroupVersion, GROUP, PLURAL, Remote, check, local};
use crate::server::{Inner, Server};

/// How often the availability of another server is looked at when nothing has changed (upstream: resync of the controller).
const RESYNC: Duration = Duration::from_secs(30);

/// Starts following. Needs a running tokio runtime.
pub fn start(server: &Server) {
    let inner = &server.inner;
    let (weak, stop) = (Arc::downgrade(inner), inner.shutdown.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(weak) => {}
        }
    });
}

/// The watches that wake us: APIServices, Services, EndpointSlices.
struct Watches {
    services: Watcher,
    wanted: Watcher,
    endpoints: Watcher,
}

impl Watches {
    fn new(inner: &Inner) -> knarr_store::Result<Self> {
        let watch = |group: &str, resource: &str| inner.storage.watch(&ResourceKey::new(group, resource), WatchFrom::Now, WatchFilter::default());
        Ok(Self { services: watch("", "services")?, wanted: watch(GROUP, PLURAL)?, endpoints: watch("discovery.k8s.io", "endpointslices")? })
    }
}

enum Happened {
    Wanted,
    /// Namespace and name.
    Service((String, String)),
    /// The namespace.
    Endpoints(String),
    Catalog,
    Tick,
}

async fn run(weak: Weak<Inner>) {
    let Some(inner) = weak.upgrade() else { return };
    let Ok(mut watches) = Watches::new(&inner) else { return };
    local::register(&Server { inner: inner.clone() }).await;
    reload(&inner);
    look_at(&inner, |_| true);
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let catalog_changed = inner.aggregation.catalog_changed.clone();
    drop(inner);
    loop {
        let any_remote = weak.upgrade().is_some_and(|i| !i.aggregation.remotes.load().is_empty());
        let happened = tokio::select! {
            item = watches.wanted.next() => item.map(|_| Happened::Wanted),
            item = watches.services.next(), if any_remote => item.map(|i| Happened::Service(place(&i))),
            item = watches.endpoints.next(), if any_remote => item.map(|i| Happened::Endpoints(place(&i).0)),
            () = catalog_changed.notified() => Ok(Happened::Catalog),
            _ = resync.tick(), if any_remote => Ok(Happened::Tick),
        };
        let Some(inner) = weak.upgrade() else { return };
        match happened {
            Ok(Happened::Wanted) => {
                reload(&inner);
                look_at(&inner, |r| r.resources().is_none());
            }
            Ok(Happened::Service((namespace, name))) => look_at(&inner, |r| r.namespace == namespace && r.service == name),
            Ok(Happened::Endpoints(namespace)) => look_at(&inner, |r| r.namespace == namespace),
            Ok(Happened::Catalog) => local::register(&Server { inner }).await,
            Ok(Happened::Tick) => look_at(&inner, |_| true),
            Err(error) => {
                tracing::warn!(%error, "the watches of the aggregation start anew");
                match Watches::new(&inner) {
                    Ok(anew) => watches = anew,
                    Err(_) => return,
                }
                reload(&inner);
            }
        }
    }
}

fn place(item: &WatchItem) -> (String, String) {
    match item {
        WatchItem::Change(change) => (change.item.namespace().to_owned(), change.item.name().to_owned()),
        WatchItem::Initial(item) => (item.namespace().to_owned(), item.name().to_owned()),
        WatchItem::InitialEnd(_) => (String::new(), String::new()),
    }
}

/// Reads all APIServices anew. Those whose spec is as it was keep their connections.
fn reload(inner: &Inner) {
    let catalog = inner.catalog.load_full();
    let Ok(served) = catalog.need(GROUP, PLURAL) else { return };
    let before = inner.aggregation.remotes.load_full();
    let mut remotes = ByGroupVersion::new();
    for item in inner.storage.snapshot(&ResourceKey::new(GROUP, PLURAL)).iter(None, None) {
        let remote = served.load(&item.object()).and_then(|object| Remote::new(&object, inner.aggregation.identity.as_ref()));
        match remote {
            Ok(Some(remote)) => {
                let key = (remote.group.clone(), remote.version.clone());
                let known = before.get(&key).filter(|k| k.name == remote.name && k.host() == remote.host() && k.port == remote.port);
                if let Some(known) = known {
                    remote.resources.store(known.resources());
                }
                remotes.insert(key, Arc::new(remote));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(name = item.name(), %error, "an APIService cannot be used"),
        }
    }
    inner.aggregation.remotes.store(Arc::new(remotes));
    inner.aggregation.changed();
}

/// Checks those that are meant, each in a task of its own.
fn look_at(inner: &Arc<Inner>, is_meant: impl Fn(&Remote) -> bool) {
    for remote in inner.aggregation.remotes.load().values().filter(|r| is_meant(r)) {
        if !remote.checking.swap(true, Relaxed) {
            let (inner, remote) = (inner.clone(), remote.clone());
            tokio::spawn(async move {
                check::check(&inner, &remote).await;
                remote.checking.store(false, Relaxed);
            });
        }
    }
}
