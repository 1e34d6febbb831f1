//! Decides about writes, one after the other: which of them may happen, and at which revision. Pure but for the clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use knarr_core::clock::Clock;
use tokio::sync::oneshot;

use crate::cache::{Cache, Resource};
use crate::engine::Request;
use crate::history::{Change, ChangeKind};
use crate::item::Item;
use crate::{Error, Result, Write};
use knarr_schema::codec;

/// Decided writes, not durable yet.
#[derive(Default)]
pub(crate) struct Batch {
    pub changes: Vec<(Arc<Resource>, Arc<Change>)>,
    answers: Vec<(oneshot::Sender<Result<Arc<Item>>>, Result<Arc<Item>>)>,
}

impl Batch {
    /// Shows the changes to everybody, then answers the writers, then wakes the watchers.
    pub fn publish(self, cache: &Cache) {
        let woken = cache.apply(&self.changes);
        for (reply, answer) in self.answers {
            // A writer that has gone away does not want to know.
            reply.send(answer).ok();
        }
        cache.wake(woken);
    }

    /// Answers every writer with the same failure; nothing was written.
    pub fn fail(self, error: &Error) {
        for (reply, answer) in self.answers {
            // Refusals may tell of writes in this batch that did not happen after all: they fail with them.
            let keeps = matches!(answer, Err(Error::Exists | Error::NotFound)) && self.changes.is_empty();
            reply.send(if keeps { answer } else { Err(error.clone()) }).ok();
        }
    }
}

/// Decides on requests in their order, each against the state that those before it leave behind.
pub(crate) fn decide(cache: &Cache, clock: &dyn Clock, requests: Vec<Request>) -> Batch {
    let mut run = Run {
        cache,
        now_ms: u64::try_from(clock.now().as_millisecond()).unwrap_or(0),
        revision: cache.revision(),
        pending: HashMap::new(),
        alone: requests.len() == 1,
    };
    let mut batch = Batch::default();
    for Request { resource, path, write, reply, .. } in requests {
        let answer = run.decide(&resource, &path, write).map(|change| {
            let item = change.item.clone();
            batch.changes.push((resource, change));
            item
        });
        batch.answers.push((reply, answer));
    }
    batch
}

struct Run<'a> {
    cache: &'a Cache,
    now_ms: u64,
    revision: u64,
    /// What earlier requests of this batch did to a place.
    pending: HashMap<(usize, String), Option<Arc<Item>>>,
    alone: bool,
}

impl Run<'_> {
    fn decide(&mut self, resource: &Arc<Resource>, path: &str, write: Write) -> Result<Arc<Change>> {
        let previous = match self.pending.get(&(resource.id, path.to_owned())) {
            Some(pending) => pending.clone(),
            None => self.cache.get(resource, path),
        };
        let change = match (write, previous) {
            (Write::Create { .. }, Some(_)) => return Err(Error::Exists),
            (Write::Create { bytes, ttl }, None) => self.put(ChangeKind::Added, resource, path, &bytes, ttl, None),
            (Write::Update { .. } | Write::Delete { .. }, None) => return Err(Error::NotFound),
            (Write::Update { expected, .. } | Write::Delete { expected }, Some(there)) if there.revision() != expected => {
                return Err(Error::Conflict(there.object()));
            }
            (Write::Update { bytes, ttl, .. }, Some(there)) => self.put(ChangeKind::Modified, resource, path, &bytes, ttl, Some(there)),
            (Write::Delete { .. }, Some(there)) => self.delete(resource, there),
        };
        if !self.alone {
            let after = (change.kind != ChangeKind::Deleted).then(|| change.item.clone());
            self.pending.insert((resource.id, path.to_owned()), after);
        }
        Ok(Arc::new(change))
    }

    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn put(&mut self, kind: ChangeKind, resource: &Resource, path: &str, bytes: &Bytes, ttl: Option<Duration>, previous: Option<Arc<Item>>) -> Change {
        let object = codec::with_resource_version(bytes, self.next_revision());
        let expires_ms = ttl.map_or(0, |ttl| self.now_ms + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2));
        let item = resource.make_item(path, object, expires_ms, previous.as_deref());
        Change::new(kind, item, previous)
    }

    fn delete(&mut self, resource: &Resource, previous: Arc<Item>) -> Change {
        let revision = self.next_revision();
        deletion(resource, previous, revision)
    }
}

/// The deletion of an object at a revision: its last state carries that revision.
pub(crate) fn deletion(resource: &Resource, previous: Arc<Item>, revision: u64) -> Change {
    let object = codec::with_resource_version(&previous.object().bytes, revision);
    let item = resource.make_item(previous.path(), object, 0, Some(&previous));
    Change::new(ChangeKind::Deleted, item, Some(previous))
}
