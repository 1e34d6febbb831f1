//! Promises of the storage as its users see them.

pub mod contract;
mod kills;
mod reads;
mod watches;

use std::sync::Arc;

use bytes::Bytes;
use knarr_core::clock::Env;
use knarr_core::{Value, json};

use crate::history::Limits;
use crate::*;

pub fn env() -> Env {
    Env::simulated(1, jiff::Timestamp::UNIX_EPOCH)
}

/// A storage in memory on virtual time.
pub fn storage() -> Arc<Storage> {
    storage_with(Limits::default())
}

pub fn storage_with(limits: Limits) -> Arc<Storage> {
    let env = env();
    Storage::open_with(Arc::new(MemoryEngine::new(env.clock.clone())), env, limits).unwrap()
}

pub fn pods() -> ResourceKey {
    ResourceKey::new("", "pods")
}

/// `default/web` as a key.
pub fn key(path: &str) -> ObjectKey {
    let (namespace, name) = key::split_path(path);
    ObjectKey::new(namespace, name)
}

/// An object at rest; every object has metadata.
pub fn bytes(mut object: Value) -> Bytes {
    if object.get("metadata").is_none() {
        object["metadata"] = json!({});
    }
    object.to_string().into()
}

pub fn on_node(node: &str) -> Bytes {
    bytes(json!({"spec": {"nodeName": node}}))
}

pub async fn create(storage: &Storage, path: &str) -> u64 {
    storage.create(&pods(), &key(path), bytes(json!({})), None).await.unwrap().resource_version
}

pub async fn touch(storage: &Storage, path: &str, text: &str) -> u64 {
    let expected = storage.get_now(&pods(), &key(path)).unwrap().revision();
    storage.update(&pods(), &key(path), bytes(json!({"data": text})), expected, None).await.unwrap().resource_version
}

pub async fn delete(storage: &Storage, path: &str) -> u64 {
    let expected = storage.get_now(&pods(), &key(path)).unwrap().revision();
    storage.delete(&pods(), &key(path), expected).await.unwrap().resource_version
}

pub fn paths(snapshot: &Snapshot) -> String {
    snapshot.iter(None, None).map(|i| i.path()).collect::<Vec<_>>().join(" ")
}
