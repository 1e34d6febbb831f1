//! [`SharedInformers`]: one informer for each query and projection, however many ask for it.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use knarr_core::clock::Env;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Informer, Project, Query};
use crate::client::Client;

struct Shared {
    informer: Box<dyn Any + Send + Sync>,
    synced: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

struct Inner {
    client: Client,
    env: Env,
    stop: CancellationToken,
    shared: Mutex<BTreeMap<(Query, TypeId), Shared>>,
}

/// A factory of informers over one client. Cheap to clone.
#[derive(Clone)]
pub struct SharedInformers(Arc<Inner>);

impl SharedInformers {
    /// All informers made here stop with `stop`.
    pub fn new(client: Client, env: Env, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { client, env, stop, shared: Mutex::new(BTreeMap::new()) }))
    }

    /// The client that the informers ask by.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The informer of this query with this projection, started on first use.
    ///
    /// # Panics
    /// Never: entries are found by the type they were made with.
    pub fn get<P: Project>(&self, query: Query) -> Informer<P> {
        let mut shared = self.0.shared.lock();
        let entry = shared.entry((query.clone(), TypeId::of::<P>())).or_insert_with(|| {
            let informer = Informer::<P>::start(self.0.client.clone(), query, self.0.env.clone(), self.0.stop.clone());
            let waiter = informer.clone();
            let synced = move || -> BoxFuture<'static, ()> {
                let informer = waiter.clone();
                Box::pin(async move { informer.wait_synced().await })
            };
            Shared { informer: Box::new(informer), synced: Box::new(synced) }
        });
        entry.informer.downcast_ref::<Informer<P>>().expect("found by its type").clone()
    }

    /// The informer of everything of a typed resource.
    pub fn all<T: k8s_openapi::Resource, P: Project>(&self) -> Informer<P> {
        self.get(Query::all::<T>())
    }

    /// Waits until every informer that was asked for so far has its first state.
    pub async fn wait_synced(&self) {
        let all: Vec<_> = self.0.shared.lock().values().map(|s| (s.synced)()).collect();
        futures::future::join_all(all).await;
    }
}
