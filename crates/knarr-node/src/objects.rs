//! The ConfigMaps and Secrets that pods refer to, each watched by name for as long as somebody holds it: a node may read
//! only what its pods refer to (upstream: `pkg/kubelet/util/manager/watch_based_manager.go`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use knarr_client::informer::{Reflector, Sink};
use knarr_client::{Client, Query, read};
use knarr_core::api::EventType;
use knarr_core::clock::Env;
use knarr_core::{Object, Result};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::container::env::Data;

/// How long a reader waits for the first state (upstream: one second).
const FIRST_STATE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// As errors of the kubelet name it.
    fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    fn query(self) -> Query {
        match self {
            Self::ConfigMap => Query::all::<ConfigMap>(),
            Self::Secret => Query::all::<Secret>(),
        }
    }
}

#[derive(Clone, Debug)]
enum State {
    Unknown,
    Missing,
    Present(Object),
}

/// One object, followed. Dropping the last handle ends the watch.
pub struct Watched {
    kind: Kind,
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// The object's data now; `None` when it does not exist.
    ///
    /// # Errors
    /// The API has not answered in time, or the object cannot be read.
    pub async fn data(&self) -> std::result::Result<Option<Data>, String> {
        let mut state = self.state.clone();
        let known = tokio::time::timeout(FIRST_STATE_TIMEOUT, state.wait_for(|s| !matches!(s, State::Unknown))).await;
        let known = match known {
            Ok(Ok(state)) => state.clone(),
            _ => return Err(format!("failed to sync {} cache: timed out waiting for the condition", self.kind.as_str())),
        };
        match known {
            State::Present(object) => decode(self.kind, &object).map(Some).map_err(|e| e.to_string()),
            _ => Ok(None),
        }
    }

    /// Waits for the next change.
    pub async fn changed(&self, seen: &mut Changes) {
        if seen.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A cursor that has seen everything so far.
    pub fn changes(&self) -> Changes {
        let mut receiver = self.state.clone();
        receiver.mark_unchanged();
        Changes(receiver)
    }

    /// Whether the first state is known.
    pub fn is_known(&self) -> bool {
        !matches!(*self.state.borrow(), State::Unknown)
    }
}

pub struct Changes(watch::Receiver<State>);

fn decode(kind: Kind, object: &Object) -> Result<Data> {
    Ok(match kind {
        Kind::ConfigMap => {
            let map: ConfigMap = read::typed(object)?;
            let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
            text.chain(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0))).collect()
        }
        Kind::Secret => read::typed::<Secret>(object)?.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect(),
    })
}

type Key = (Kind, String, String);

/// All objects that are followed now.
pub struct Objects {
    client: Client,
    env: Env,
    watched: Mutex<BTreeMap<Key, Weak<Watched>>>,
}

impl Objects {
    pub fn new(client: Client, env: Env) -> Self {
        Self { client, env, watched: Mutex::default() }
    }

    /// The handle of an object, shared with everybody who holds one.
    pub fn watch(&self, kind: Kind, namespace: &str, name: &str) -> Arc<Watched> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut all = self.watched.lock();
        if let Some(watched) = all.get(&key).and_then(Weak::upgrade) {
            return watched;
        }
        all.retain(|_, w| w.strong_count() > 0);
        let (sender, state) = watch::channel(State::Unknown);
        let query = kind.query().within(namespace).fields(&format!("metadata.name={name}"));
        let reflector = Reflector::new(self.client.clone(), query, self.env.clone());
        let task = tokio::spawn(reflector.run(One(sender)));
        let watched = Arc::new(Watched { kind, state, task });
        all.insert(key, Arc::downgrade(&watched));
        watched
    }
}

/// Keeps the one object that the query selects.
struct One(watch::Sender<State>);

impl Sink for One {
    fn replace(&mut self, objects: Vec<Object>, _resource_version: u64) {
        self.0.send_replace(objects.into_iter().next().map_or(State::Missing, State::Present));
    }

    fn event(&mut self, event_type: EventType, object: Object) -> Result<()> {
        match event_type {
            EventType::Added | EventType::Modified => drop(self.0.send_replace(State::Present(object))),
            EventType::Deleted => drop(self.0.send_replace(State::Missing)),
            EventType::Bookmark => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_client::fake::FakeApi;
    use knarr_core::json;

    #[tokio::test(start_paused = true)]
    async fn an_object_is_followed_while_it_is_held() {
        let env = Env::simulated(1, jiff::Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(env.clone());
        let objects = Objects::new(api.client(), env);
        let held = objects.watch(Kind::ConfigMap, "a", "m");
        assert_eq!(held.data().await, Ok(None));
        let mut changes = held.changes();
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "a", "name": "m"}, "data": {"k": "v"}});
        api.seed::<ConfigMap>(&serde_json::from_value(map).unwrap());
        held.changed(&mut changes).await;
        assert_eq!(held.data().await.unwrap().unwrap()["k"], b"v");
        assert!(Arc::ptr_eq(&held, &objects.watch(Kind::ConfigMap, "a", "m")));
        drop(held);
        assert!(objects.watched.lock().values().all(|w| w.strong_count() == 0));
    }
}
