//! [`Ledger`]: what a controller has written and not yet seen come back. Deciding again before that would do things
//! twice; upstream's expectations and consistency store serve the same end.
//!
//! Versions are global and informers deliver in order, so having seen version *n* of a resource means having seen every
//! write to it up to *n*. Deletions are kept by uid, because the answer to one does not tell its version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use knarr_client::{Informer, Key, Project};
use parking_lot::Mutex;

/// Nobody waits longer than this for an informer: then its watch is broken, and deciding must wait for a later try.
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Entry {
    /// The last version written, for each resource.
    written: BTreeMap<&'static str, u64>,
    /// Uids that were deleted and may still be seen alive.
    deleted: BTreeSet<String>,
}

/// One controller's writes, by the key of the object on whose behalf they were made.
#[derive(Default)]
pub struct Ledger(Mutex<BTreeMap<Key, Entry>>);

impl Ledger {
    /// A write to `resource` was answered with this version.
    pub fn wrote(&self, key: &Key, resource: &'static str, version: u64) {
        let mut entries = self.0.lock();
        let written = entries.entry(key.clone()).or_default().written.entry(resource).or_default();
        *written = version.max(*written);
    }

    /// The object with this uid is about to be deleted.
    pub fn deleting(&self, key: &Key, uid: &str) {
        self.0.lock().entry(key.clone()).or_default().deleted.insert(uid.to_owned());
    }

    /// The deletion failed: the object counts again.
    pub fn not_deleted(&self, key: &Key, uid: &str) {
        if let Some(entry) = self.0.lock().get_mut(key) {
            entry.deleted.remove(uid);
        }
    }

    /// Whether we deleted it already, whatever the informer says.
    pub fn is_deleted(&self, key: &Key, uid: &str) -> bool {
        self.0.lock().get(key).is_some_and(|e| e.deleted.contains(uid))
    }

    /// Forgets deletions of everything that is no longer in `alive`.
    pub fn keep_deleted(&self, key: &Key, alive: impl Fn(&str) -> bool) {
        if let Some(entry) = self.0.lock().get_mut(key) {
            entry.deleted.retain(|uid| alive(uid));
        }
    }

    /// The object is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// Waits until the informer has delivered our last write to `resource` for `key`. False when it does not come.
    #[must_use = "without our own writes a decision would repeat them"]
    pub async fn caught_up<P: Project>(&self, key: &Key, resource: &'static str, informer: &Informer<P>) -> bool {
        let version = self.0.lock().get(key).and_then(|e| e.written.get(resource).copied());
        match version {
            Some(version) => tokio::time::timeout(WAIT_MAX, informer.wait_version(version)).await.is_ok(),
            None => true,
        }
    }
}
