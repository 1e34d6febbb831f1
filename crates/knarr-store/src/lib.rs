//! Where objects live. Below, an [`Engine`] makes writes durable: [`log::LogEngine`] on one machine's disk, [`etcd::EtcdEngine`] in
//! an etcd that several servers share, [`memory::MemoryEngine`] for simulation. Above it [`Storage`], which the API server's handlers use: reads, lists and watches come from a cache of
//! the same bytes.
//!
//! ```text
//! handler ── write ──▶ Storage ──▶ Engine: decide, make durable ──▶ Cache: one pointer swap ──▶ answer, watchers
//!         ◀─ get, snapshot, watch ───────────────────────────────────┘
//! ```
//!
//! What holds always:
//! - A write is acknowledged only when it is durable; nobody, watcher or writer, sees it before.
//! - Revisions number the writes of all resources and are never given twice.
//! - The whole state is one pointer ([`world::World`]): whoever reads it sees every write up to its revision and none after.
//! - A watcher is a cursor into one bounded history; it owns no queue.

use std::time::Duration;

use bytes::Bytes;
use knarr_core::Object;

mod body;
pub mod cache;
pub mod disk;
pub mod engine;
pub mod etcd;
pub mod grpc;
pub mod guard;
pub mod history;
mod housekeeping;
pub mod item;
pub mod key;
pub mod log;
pub mod memory;
mod passed;
pub mod seal;
mod sequence;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod watch;
pub mod world;

pub use engine::Engine;
pub use etcd::EtcdEngine;
pub use guard::Guard;
pub use history::{Change, ChangeKind};
pub use item::{Item, LabelMatcher};
pub use key::{ObjectKey, ResourceKey};
pub use log::LogEngine;
pub use memory::MemoryEngine;
pub use seal::{Sealer, SecretSealer};
pub use storage::Storage;
pub use watch::{WatchFilter, WatchFrom, WatchItem, Watcher};
pub use world::Snapshot;

/// Why a read or a write did not happen.
#[derive(Clone, Debug, thiserror::Error)]
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
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge { asked: u64, current: u64 },
    /// The watcher read too slowly and its place in the history is gone. It may resume from its last revision.
    #[error("watch fell out of the history")]
    TooSlow,
    /// Another server has given out of the same range since it was looked at: to be looked at again.
    #[error("the guard of a range was moved")]
    Moved,
    /// The disk is full: deletes still go through. 507.
    #[error("storage: no space left on device")]
    NoSpace,
    /// The disk or the engine failed. Nothing was acknowledged, and no write will be until the store is opened anew.
    #[error("storage: {0}")]
    Engine(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// One write. `bytes` are the object as `knarr_schema::codec::encode_stored` gives it, without a resource version.
#[derive(Clone, Debug)]
pub enum Write {
    Create {
        bytes: Bytes,
        ttl: Option<Duration>,
    },
    /// Replaces the object if it is at `expected`.
    Update {
        bytes: Bytes,
        expected: u64,
        ttl: Option<Duration>,
    },
    Delete {
        expected: u64,
    },
}
