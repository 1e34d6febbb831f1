//! Where objects live. Below, a store of versioned keys ([`Engine`]): embedded (redb), in memory for simulation, etcd. Above
//! it [`Storage`], which the API server's handlers use: reads, lists and watches come from a cache of the same bytes.
//!
//! A write is acknowledged only when it is durable; nobody, watcher or writer, sees it before.

use std::time::Duration;

use bytes::Bytes;
use knarr_core::Object;

/// A resource as the store keys it: `pods`, `apps/deployments`; upstream's key layout is
/// `/registry/RESOURCE/NAMESPACE/NAME`, with the group before the resource only where upstream has it so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceKey {
    pub group: String,
    pub resource: String,
}

/// One object's place. `namespace` is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

/// Why a read or a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("key exists")]
    Exists,
    #[error("key not found")]
    NotFound,
    /// The object is at another version than expected; this is the one that is there.
    #[error("resource version conflict")]
    Conflict(Object),
    /// Below the history that is kept: 410.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld { asked: u64, oldest: u64 },
    /// The revision has not come yet: 504 after waiting.
    #[error("too large resource version: {asked}, current: {current}")]
    TooLarge { asked: u64, current: u64 },
    /// The disk or the engine failed. Nothing was acknowledged.
    #[error("storage: {0}")]
    Engine(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// One write.
#[derive(Clone, Debug)]
pub enum Write {
    Create { bytes: Bytes, ttl: Option<Duration> },
    /// Replaces the object if it is at `expected`.
    Update { bytes: Bytes, expected: u64, ttl: Option<Duration> },
    Delete { expected: u64 },
}
