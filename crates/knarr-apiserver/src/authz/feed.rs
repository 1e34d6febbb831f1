//! Keeps the authorizers' indexes in step with the stored objects: a watch for each kind that they look at.

use std::sync::Arc;

use knarr_core::Value;
use knarr_schema::codec;
use knarr_store::{ChangeKind, Item, ResourceKey, Storage, WatchFilter, WatchFrom, WatchItem, Watcher};
use tokio::sync::oneshot;

use super::node::NodeAuthorizer;
use super::rbac::{self, Rbac};

/// What an index is told.
enum Told<'a> {
    /// The first state follows (again): forget everything of this kind.
    Anew,
    Put(&'a Item),
    Gone(&'a str, &'a str),
}

type Sink = Box<dyn FnMut(Told<'_>) + Send>;

/// Starts the watches and returns when each index holds the first state.
pub async fn start(storage: &Arc<Storage>, rbac: &Arc<Rbac>, node: &Arc<NodeAuthorizer>) {
    let mut synced = Vec::new();
    for resource in ["clusterroles", "roles", "clusterrolebindings", "rolebindings"] {
        let rbac = Arc::clone(rbac);
        let sink = Box::new(move |told: Told<'_>| {
            rbac.index.rcu(|index| {
                let mut index = index.as_ref().clone();
                match told {
                    Told::Anew => index.clear(resource),
                    Told::Put(item) => read(item, |object| index.set(resource, item.namespace(), item.name(), Some(object))),
                    Told::Gone(namespace, name) => index.set(resource, namespace, name, None),
                }
                index
            });
        });
        synced.push(follow(storage, ResourceKey::new(rbac::GROUP, resource), sink));
    }
    let pods = Arc::clone(node);
    let sink = Box::new(move |told: Told<'_>| match told {
        Told::Anew => pods.graph.write().clear_pods(),
        // Until it is bound, it concerns no node.
        Told::Put(item) if item.indexed().is_empty() => pods.graph.write().set_pod(item.namespace(), item.name(), None),
        Told::Put(item) => read(item, |pod| pods.graph.write().set_pod(item.namespace(), item.name(), Some(pod))),
        Told::Gone(namespace, name) => pods.graph.write().set_pod(namespace, name, None),
    });
    synced.push(follow(storage, ResourceKey::new("", "pods"), sink));
    let claims = Arc::clone(node);
    let sink = Box::new(move |told: Told<'_>| match told {
        Told::Anew => claims.graph.write().clear_claims(),
        Told::Put(item) => read(item, |claim| claims.graph.write().set_claim(item.namespace(), item.name(), Some(claim))),
        Told::Gone(namespace, name) => claims.graph.write().set_claim(namespace, name, None),
    });
    synced.push(follow(storage, ResourceKey::new("", "persistentvolumeclaims"), sink));
    let requests = Arc::clone(node);
    let sink = Box::new(move |told: Told<'_>| match told {
        Told::Anew => requests.graph.write().clear_requests(),
        Told::Put(item) => read(item, |request| requests.graph.write().set_request(item.namespace(), item.name(), Some(request))),
        Told::Gone(namespace, name) => requests.graph.write().set_request(namespace, name, None),
    });
    synced.push(follow(storage, ResourceKey::new("certificates.k8s.io", "podcertificaterequests"), sink));
    for first_state in synced {
        // A watch that ended before its first state has logged why.
        first_state.await.unwrap_or_default();
    }
}

fn follow(storage: &Arc<Storage>, resource: ResourceKey, mut sink: Sink) -> oneshot::Receiver<()> {
    let (synced, first_state) = oneshot::channel();
    let storage = Arc::clone(storage);
    tokio::spawn(async move {
        let mut synced = Some(synced);
        loop {
            sink(Told::Anew);
            match storage.watch(&resource, WatchFrom::State, WatchFilter::default()) {
                Ok(watcher) => drain(watcher, &mut sink, &mut synced).await,
                Err(error) => {
                    tracing::error!(?resource, %error, "an authorizer's watch cannot start");
                    return;
                }
            }
        }
    });
    first_state
}

/// Until the watch falls behind; it then starts anew from the state.
async fn drain(mut watcher: Watcher, sink: &mut Sink, synced: &mut Option<oneshot::Sender<()>>) {
    loop {
        match watcher.next().await {
            Ok(WatchItem::Initial(item)) => sink(Told::Put(&item)),
            Ok(WatchItem::InitialEnd(_)) => {
                if let Some(synced) = synced.take() {
                    // Nobody waits any more when the server is stopping.
                    synced.send(()).unwrap_or_default();
                }
            }
            Ok(WatchItem::Change(change)) if change.kind == ChangeKind::Deleted => sink(Told::Gone(change.item.namespace(), change.item.name())),
            Ok(WatchItem::Change(change)) => sink(Told::Put(&change.item)),
            Err(error) => {
                tracing::warn!(%error, "an authorizer's watch starts anew");
                return;
            }
        }
    }
}

fn read(item: &Item, take: impl FnOnce(&Value)) {
    match codec::to_value(&item.object()) {
        Ok(value) => take(&value),
        Err(error) => tracing::error!(name = item.path(), %error, "a stored object cannot be read"),
    }
}
