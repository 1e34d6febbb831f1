//! Brings events to the API: new ones several at once, repetitions after everything before them.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use knarr_core::{GroupVersionResource, Result, Status, Value, ValueExt};

use crate::client::{Client, DynamicApi, Patch};

/// Events on their way at once.
const PARALLEL_MAX: usize = 32;
/// Tries for one event, and the pause between them (upstream: 12 and 10 s).
const TRIES_MAX: u32 = 12;
const PAUSE: Duration = Duration::from_secs(10);

/// One write of an event.
pub enum Write {
    First(Value),
    /// The event was written before: a patch, or the whole when it is gone meanwhile.
    Repeat {
        event: Value,
        patch: Value,
    },
}

pub struct Writer {
    client: Client,
    resource: GroupVersionResource,
    busy: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Writer {
    /// Core events.
    pub fn core(client: Client) -> Self {
        Self::of(client, "")
    }

    /// `events.k8s.io` events.
    pub fn series(client: Client) -> Self {
        Self::of(client, "events.k8s.io")
    }

    fn of(client: Client, group: &str) -> Self {
        Self { client, resource: GroupVersionResource::new(group, "v1", "events"), busy: FuturesUnordered::new() }
    }

    pub async fn write(&mut self, write: Write) {
        if matches!(write, Write::Repeat { .. }) {
            self.finish().await;
        }
        while self.busy.len() >= PARALLEL_MAX {
            self.busy.next().await;
        }
        let (Write::First(event) | Write::Repeat { event, .. }) = &write;
        let api = self.client.dynamic(self.resource.clone(), event.str_at(&["metadata", "namespace"]));
        self.busy.push(Box::pin(persist(api, write)));
    }

    /// Waits for `next` while the writes go on.
    pub async fn working_until<T>(&mut self, next: impl Future<Output = T>) -> T {
        tokio::pin!(next);
        loop {
            tokio::select! {
                value = &mut next => return value,
                Some(()) = self.busy.next() => {}
            }
        }
    }

    /// Waits until everything is written.
    pub async fn finish(&mut self) {
        while self.busy.next().await.is_some() {}
    }
}

async fn persist(api: DynamicApi, write: Write) {
    for _ in 0..TRIES_MAX {
        match attempt(&api, &write).await {
            Ok(()) => return,
            Err(error) if may_pass(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                tracing::debug!(%error, "an event was refused and is lost");
                return;
            }
        }
    }
    tracing::warn!("an event could not be written and is lost");
}

/// Only a server that cannot be reached or is overloaded is worth waiting for; what it refuses it will refuse again.
fn may_pass(error: &Status) -> bool {
    matches!(error.code, 429 | 503 | 504)
}

async fn attempt(api: &DynamicApi, write: &Write) -> Result<()> {
    match write {
        Write::First(event) => api.create(event.clone()).await.map(drop),
        Write::Repeat { event, patch } => {
            let name = event.str_at(&["metadata", "name"]).unwrap_or_default();
            match api.patch(name, Patch::strategic(patch.clone())).await {
                Err(error) if error.is_not_found() => api.create(event.clone()).await.map(drop),
                other => other.map(drop),
            }
        }
    }
}
