//! Keeps the cache where etcd is: one watch over all keys, taken up again where it broke.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Shared;
use super::message::{self, Event, EventType, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, WatchWish};
use crate::cache::{Cache, Resource};
use crate::grpc::{Failure, Messages, framed};
use crate::history::{Change, ChangeKind};
use crate::item::Item;
use crate::sequence::deletion;

/// How long to wait before a broken watch is taken up again.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Questions that may wait to be sent.
const WISHES_MAX: usize = 16;

/// Why a watch is over.
enum End {
    Broken(String),
    /// etcd no longer has what comes next.
    Compacted(i64),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure.to_string())
    }
}

/// Follows until the engine is stopped, or can follow no more.
pub async fn run(shared: Arc<Shared>, cache: Arc<Cache>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = cache.revision();
        match watch(&shared, &cache).await {
            End::Broken(why) => {
                tracing::warn!(why, "the watch of etcd broke; it is taken up again");
                *shared.trouble.lock() = Some(why);
            }
            End::Compacted(to) => {
                let why = format!("etcd has compacted its past up to {to}, and this server has followed up to {} only", cache.revision());
                *shared.trouble.lock() = Some(why.clone());
                cache.report_failure(why);
                return;
            }
        }
        backoff = if cache.revision() > before { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        tokio::time::sleep(backoff).await;
    }
}

async fn watch(shared: &Shared, cache: &Cache) -> End {
    match try_watch(shared, cache).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn try_watch(shared: &Shared, cache: &Cache) -> Result<std::convert::Infallible, End> {
    let (wishes, receiver) = mpsc::channel(WISHES_MAX);
    let (key, range_end) = shared.places.range();
    let start_revision = i64::try_from(cache.revision() + 1).unwrap_or(i64::MAX);
    let create = WatchWish::Create(WatchCreateRequest { key, range_end, start_revision, progress_notify: true });
    // There is room for the first.
    wishes.try_send(framed(&WatchRequest { wish: Some(create) })).ok();
    let mut messages: Messages = shared.channel.stream("Watch/Watch", receiver).await?;
    let progress = framed(&WatchRequest { wish: Some(WatchWish::Progress(WatchProgressRequest {})) });
    loop {
        tokio::select! {
            response = messages.next::<WatchResponse>() => {
                let response = response?.ok_or_else(|| End::Broken("etcd ended the watch".into()))?;
                take(shared, cache, response)?;
            }
            // While as many wait to be sent as may, one more would say nothing new.
            () = shared.hurry.notified() => drop(wishes.try_send(progress.clone())),
        }
    }
}

fn take(shared: &Shared, cache: &Cache, response: WatchResponse) -> Result<(), End> {
    if response.canceled {
        return Err(if response.compact_revision > 0 { End::Compacted(response.compact_revision) } else { End::Broken(response.cancel_reason) });
    }
    if response.created {
        *shared.trouble.lock() = None;
        return Ok(());
    }
    if response.events.is_empty() {
        // Everything up to here has been sent.
        cache.advance(message::revision(response.header.as_ref()));
    } else {
        apply(shared, cache, response.events);
    }
    shared.arrivals.come(cache.revision());
    Ok(())
}

/// Shows events in the cache, all that came together in one step.
fn apply(shared: &Shared, cache: &Cache, events: Vec<Event>) {
    let newest = events.iter().filter_map(|e| e.kv.as_ref()).filter_map(|kv| u64::try_from(kv.mod_revision).ok()).max().unwrap_or(0);
    let mut pending: HashMap<(usize, String), Option<Arc<Item>>> = HashMap::new();
    let changes: Vec<_> = events.into_iter().filter_map(|event| change(shared, cache, &mut pending, event)).collect();
    let woken = cache.apply(&changes);
    cache.advance(newest);
    cache.wake(woken);
}

fn change(shared: &Shared, cache: &Cache, pending: &mut HashMap<(usize, String), Option<Arc<Item>>>, event: Event) -> Option<(Arc<Resource>, Arc<Change>)> {
    let kv = event.kv?;
    let (key, path) = shared.places.find(&kv.key)?;
    let resource = cache.resource(&key);
    let place = (resource.id, path);
    let previous = match pending.get(&place) {
        Some(pending) => pending.clone(),
        None => cache.get(&resource, &place.1),
    };
    let change = if event.kind == EventType::Delete as i32 {
        deletion(&resource, previous?, u64::try_from(kv.mod_revision).ok()?)
    } else {
        let item = resource.make_item(&place.1, shared.object(&resource.key, &kv)?, 0, previous.as_deref());
        Change::new(if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added }, item, previous)
    };
    let after = (change.kind != ChangeKind::Deleted).then(|| change.item.clone());
    pending.insert(place, after);
    Some((resource, Arc::new(change)))
}
