//! Everything that a query selects, followed for as long as somebody holds it: the trust bundles of the cluster, the
//! certificate requests of the node. Most nodes need neither, so nothing is watched before the first pod asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use knarr_client::informer::{Reflector, Sink};
use knarr_client::{Client, Key, Query, read};
use knarr_core::api::EventType;
use knarr_core::clock::Env;
use knarr_core::{Object, Result};
use parking_lot::Mutex;
use tokio::sync::watch;

/// How long a reader waits for the first state.
const FIRST_STATE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known now.
#[derive(Default)]
pub struct State {
    synced: bool,
    pub objects: BTreeMap<Key, Object>,
}

/// A handle. Dropping the last one ends the watch.
pub struct Followed {
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    fn start(client: Client, query: Query, env: Env) -> Self {
        let (sender, state) = watch::channel(State::default());
        let task = tokio::spawn(Reflector::new(client, query, env).run(All(sender)));
        Self { state, task }
    }

    /// A cursor that has seen everything so far.
    pub fn changes(&self) -> watch::Receiver<State> {
        let mut receiver = self.state.clone();
        receiver.mark_unchanged();
        receiver
    }

    /// Reads something out of the state, as soon as the first one is known; `None` when the API has not answered in time.
    pub async fn read<T>(&self, of: impl FnOnce(&State) -> T) -> Option<T> {
        let mut state = self.state.clone();
        let known = tokio::time::timeout(FIRST_STATE_TIMEOUT, state.wait_for(|s| s.synced)).await;
        known.ok()?.ok().map(|state| of(&state))
    }
}

struct All(watch::Sender<State>);

impl Sink for All {
    fn replace(&mut self, objects: Vec<Object>, _resource_version: u64) {
        let objects = objects.into_iter().map(|o| (read::key(&o), o)).collect();
        self.0.send_replace(State { synced: true, objects });
    }

    fn event(&mut self, event_type: EventType, object: Object) -> Result<()> {
        let key = read::key(&object);
        match event_type {
            EventType::Added | EventType::Modified => self.0.send_modify(|s| drop(s.objects.insert(key, object))),
            EventType::Deleted => self.0.send_modify(|s| drop(s.objects.remove(&key))),
            EventType::Bookmark => {}
        }
        Ok(())
    }
}

/// One query, followed at most once.
pub struct Shared {
    client: Client,
    env: Env,
    query: Query,
    held: Mutex<Weak<Followed>>,
}

impl Shared {
    pub fn new(client: Client, env: Env, query: Query) -> Self {
        Self { client, env, query, held: Mutex::default() }
    }

    /// The handle that everybody shares.
    pub fn follow(&self) -> Arc<Followed> {
        let mut held = self.held.lock();
        if let Some(followed) = held.upgrade() {
            return followed;
        }
        let followed = Arc::new(Followed::start(self.client.clone(), self.query.clone(), self.env.clone()));
        *held = Arc::downgrade(&followed);
        followed
    }
}
