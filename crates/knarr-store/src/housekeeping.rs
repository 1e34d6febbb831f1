//! What happens in a store because time passes: objects expire, and history that is too old to resume from is dropped.
//! Sleeps until the next of these is due; with nothing to expire or to drop it sleeps for ever.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::cache::{Cache, Resource};
use crate::item::Item;
use crate::storage::Storage;
use crate::{Error, Write};

/// Due things less than this apart are done together, so that a thousand events of one second wake us once.
const EXPIRY_GRAIN: Duration = Duration::from_secs(1);

/// History and kept snapshots may stay this much longer than promised.
const AGING_GRAIN: Duration = Duration::from_secs(10);

/// While history ages, the revision is noted at least this often: a page of a list may be asked for this much longer than promised.
const NOTES: Duration = Duration::from_secs(60);

/// An object that will expire, unless it is written again before.
struct Expiry {
    at_ms: u64,
    revision: u64,
    resource: Arc<Resource>,
    item: Weak<Item>,
}

impl Expiry {
    fn order(&self) -> (u64, u64) {
        (self.at_ms, self.revision)
    }
}

impl PartialEq for Expiry {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Expiry {}

impl PartialOrd for Expiry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expiry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Runs until the storage is dropped, then ends `other`.
pub(crate) async fn run(storage: Weak<Storage>, cache: Arc<Cache>, other: AbortHandle) {
    run_until_dropped(storage, cache).await;
    other.abort();
}

async fn run_until_dropped(storage: Weak<Storage>, cache: Arc<Cache>) {
    let mut expiries = BinaryHeap::new();
    loop {
        let woken = cache.aging.notified();
        let Some(alive) = storage.upgrade() else { return };
        gather(&cache, &mut expiries);
        expire(&alive, &mut expiries).await;
        let now = Instant::now();
        alive.note_revision(now);
        let aging = [cache.trim_age(now), alive.trim_kept(now)].into_iter().flatten().min().map(|at| at.clamp(now + AGING_GRAIN, now + NOTES));
        let next = [aging, expiries.peek().map(|Reverse(e)| alive.instant_of(e.at_ms))].into_iter().flatten().min();
        drop(alive);
        match next {
            Some(at) => {
                let at = at.max(Instant::now() + EXPIRY_GRAIN);
                tokio::select! { () = woken => tokio::time::sleep(EXPIRY_GRAIN).await, () = sleep_until(at) => {} }
            }
            None => woken.await,
        }
    }
}

fn gather(cache: &Cache, expiries: &mut BinaryHeap<Reverse<Expiry>>) {
    for (resource, item) in std::mem::take(&mut *cache.expiring.lock()) {
        let Some(at_ms) = item.expires_ms() else { continue };
        expiries.push(Reverse(Expiry { at_ms, revision: item.revision(), resource, item: Arc::downgrade(&item) }));
    }
}

async fn expire(storage: &Storage, expiries: &mut BinaryHeap<Reverse<Expiry>>) {
    let now = storage.now_ms();
    let mut deletions = Vec::new();
    while expiries.peek().is_some_and(|Reverse(e)| e.at_ms <= now) {
        let Some(Reverse(Expiry { resource, item, revision, .. })) = expiries.pop() else { break };
        // Written again or deleted since, unless it is still there.
        let Some(item) = item.upgrade() else { continue };
        deletions.push((item.path().to_owned(), storage.submit(&resource, item.path(), Write::Delete { expected: revision })));
    }
    for (path, deletion) in deletions {
        match deletion.await {
            Ok(_) | Err(Error::NotFound | Error::Conflict(_)) => {}
            Err(error) => tracing::warn!(%path, %error, "an expired object could not be deleted"),
        }
    }
}
