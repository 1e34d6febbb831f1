//! Watches: a cursor of the store seen through a selection, with bookmarks, a deadline and the rules of `resourceVersion` and
//! `sendInitialEvents` (upstream: `storage/cacher`).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::task::AtomicWaker;
use knarr_core::{
    Encoding, GroupVersionKind, Object, Result, Status, ValueExt,
    api::{Event, EventType},
    json,
};
use knarr_schema::codec;
use knarr_store::{Change, ChangeKind, Error, Item, WatchFrom, WatchItem, Watcher, storage::FRESH_TIMEOUT};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{INITIAL_EVENTS_END, parse_revision, selection::Selection, store_error};
use crate::{
    audit::Ending,
    call::{Exchange, Outcome},
    catalog::Served,
    flowcontrol::{Registration, Seat},
    request::{validate_list_options, watch_defaults},
};

/// How often a watcher that wants bookmarks gets one (upstream: `defaultBookmarkFrequency`).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A last bookmark comes this long before the deadline.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// What a watcher is shown.
#[derive(Clone, Debug)]
pub enum Shown {
    /// An object of the first state.
    Initial(Arc<Item>),
    /// A change as it happened: its frame can be shared with others.
    Whole(EventType, Arc<Change>),
    /// An object that left the selection: its state before, at the revision of the change.
    Left(Object),
    Bookmark(Object, bool),
}

/// What the timers of a watch wake: it tells the task that sends events that one of them is due. So the task need not ask them after each event.
struct Bell {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, SeqCst);
        self.task.wake();
    }
}

/// A watch under way. It ends at its deadline, when the server stops, or with an error.
pub struct Watching {
    served: Arc<Served>,
    selection: Selection,
    /// Absent when the watch could not begin: then `failed` says why.
    watcher: Option<Watcher>,
    failed: Option<Status>,
    bookmarks: bool,
    /// The end of the first state is to be told.
    marks_initial_end: bool,
    next_bookmark: Pin<Box<Sleep>>,
    deadline: Instant,
    end: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    bell: Arc<Bell>,
    /// Kept until the first state has been told.
    seat: Option<Seat>,
    registration: Option<Registration>,
    /// What is written down when it ends.
    ending: Option<Ending>,
}

/// Starts a watch.
///
/// # Errors
/// `BadRequest` and `Invalid` for bad options. A revision that is gone is told by an event, as upstream does.
pub async fn watch(ex: &Exchange<'_>) -> Result<Outcome> {
    let options = &*watch_defaults(&ex.call.options);
    validate_list_options(options, true)?;
    let storage = &ex.server.storage;
    let indexed = storage.resource(&ex.served.key).indexed_field();
    let selection = Selection::new(&ex.served, ex.namespace(), &ex.call.info.name, options, indexed.as_deref())?;
    let wanted = parse_revision(options.resource_version.as_deref())?;
    let initial = options.send_initial_events;
    let from = match (initial, wanted) {
        (Some(true), _) | (None, 0) => WatchFrom::State,
        (Some(false), 0) => WatchFrom::Now,
        (_, revision) => WatchFrom::After(revision),
    };
    let mut started = Ok(());
    if initial == Some(true) {
        started = storage.wait_for_revision(wanted, FRESH_TIMEOUT).await;
    }
    let watcher = started.and_then(|()| storage.watch(&ex.served.key, from, selection.filter(ex.served.resource.namespaced)));
    let timeout = options.timeout.filter(|t| !t.is_zero()).unwrap_or_else(|| {
        let least = ex.server.config.watch_timeout_min;
        least + Duration::from_millis(ex.server.env.below(least.as_millis().max(1) as u64))
    });
    let marks = initial == Some(true) && options.allow_watch_bookmarks;
    let watching = Watching::new(ex.served.clone(), selection, watcher, options.allow_watch_bookmarks, marks, timeout, ex.server.shutdown.clone());
    Ok(Outcome::Watch { served: ex.served.clone(), watching: Box::new(watching) })
}

impl Watching {
    fn new(
        served: Arc<Served>,
        selection: Selection,
        watcher: Result<Watcher, Error>,
        bookmarks: bool,
        marks_initial_end: bool,
        timeout: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        let deadline = Instant::now() + timeout;
        let (watcher, failed) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(e) => (None, Some(store_error(&e, &served.group_resource, ""))),
        };
        let mut watching = Self {
            watcher,
            failed,
            selection,
            bookmarks,
            marks_initial_end,
            next_bookmark: Box::pin(tokio::time::sleep_until(deadline)),
            deadline,
            end: Box::pin(tokio::time::sleep_until(deadline)),
            stopped: Box::pin(shutdown.cancelled_owned()),
            bell: Arc::new(Bell { rang: AtomicBool::new(true), task: AtomicWaker::new() }),
            seat: None,
            registration: None,
            ending: None,
            served,
        };
        watching.plan_bookmark();
        watching
    }

    /// Keeps the seat of the request until the first state has been told, and the registration until the end.
    pub fn hold(&mut self, seat: Option<Seat>, registration: Option<Registration>) {
        (self.seat, self.registration) = (seat, registration);
    }

    /// Keeps what writes down its end.
    pub fn hold_ending(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }

    fn plan_bookmark(&mut self) {
        let now = Instant::now();
        let last = self.deadline.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(now);
        let next = now + BOOKMARK_EVERY;
        self.next_bookmark.as_mut().reset(if last > now { next.min(last) } else { next });
    }

    /// The next event, `None` at the end of the watch. An error is the last thing it says.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Shown>>> {
        if let Some(status) = self.failed.take() {
            return Poll::Ready(Some(Err(status)));
        }
        let Some(watcher) = &mut self.watcher else { return Poll::Ready(None) };
        while let Poll::Ready(item) = watcher.poll_next(cx) {
            let shown = match item {
                Ok(WatchItem::Initial(item)) => self.selection.matcher(&self.served).matches(&item).then_some(Shown::Initial(item)),
                Ok(WatchItem::InitialEnd(revision)) if self.marks_initial_end => Some(Shown::Bookmark(bookmark(&self.served, revision, true), true)),
                Ok(WatchItem::InitialEnd(_)) => None,
                Ok(WatchItem::Change(change)) => seen_through(&self.served, &self.selection, change),
                // The watcher may come back to where it was.
                Err(Error::TooSlow) => {
                    self.watcher = None;
                    return Poll::Ready(None);
                }
                Err(e) => {
                    self.watcher = None;
                    return Poll::Ready(Some(Err(store_error(&e, &self.served.group_resource, ""))));
                }
            };
            if let Some(shown) = shown {
                return Poll::Ready(Some(Ok(shown)));
            }
        }
        self.seat = None;
        self.poll_timers(cx)
    }

    /// Whether the next event is likely to be there already.
    pub fn has_more(&self) -> bool {
        self.watcher.as_ref().is_some_and(Watcher::has_more)
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Shown>>> {
        self.bell.task.register(cx.waker());
        if !self.bell.rang.swap(false, SeqCst) {
            return Poll::Pending;
        }
        let waker = Waker::from(self.bell.clone());
        let cx = &mut Context::from_waker(&waker);
        if self.end.as_mut().poll(cx).is_ready() || self.stopped.as_mut().poll(cx).is_ready() {
            self.watcher = None;
            return Poll::Ready(None);
        }
        if self.bookmarks && self.next_bookmark.as_mut().poll(cx).is_ready() {
            self.plan_bookmark();
            // Registers the new time with the timer.
            if self.next_bookmark.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            if let Some(watcher) = &mut self.watcher {
                let revision = watcher.revision();
                return Poll::Ready(Some(Ok(Shown::Bookmark(bookmark(&self.served, revision, false), false))));
            }
        }
        Poll::Pending
    }

    /// The next event as a component of this process sees it: objects in the served version.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let served = self.served.clone();
        self.poll_next(cx).map(|next| {
            next.map(|shown| {
                let (event_type, object, initial_events_end) = match shown? {
                    Shown::Initial(item) => (EventType::Added, item.object(), false),
                    Shown::Whole(event_type, change) => (event_type, change.object(), false),
                    Shown::Left(object) => (EventType::Deleted, object, false),
                    Shown::Bookmark(object, end) => (EventType::Bookmark, object, end),
                };
                let object = if event_type == EventType::Bookmark { object } else { served.present(&object)?.into_owned() };
                Ok(Event { event_type, object, initial_events_end })
            })
        })
    }
}

/// How a change looks to a watcher with a selection: an object may enter it or leave it.
fn seen_through(served: &Served, selection: &Selection, change: Arc<Change>) -> Option<Shown> {
    // The store tells a watcher only of objects in its place, and these stay there.
    if selection.is_everything_there() {
        let event_type = match change.kind {
            ChangeKind::Added => EventType::Added,
            ChangeKind::Modified => EventType::Modified,
            ChangeKind::Deleted => EventType::Deleted,
        };
        return Some(Shown::Whole(event_type, change));
    }
    let matcher = selection.matcher(served);
    let concerns = |item: &Item| matcher.matches(item);
    let before = change.previous.as_deref().is_some_and(concerns);
    if change.kind == ChangeKind::Deleted {
        return before.then_some(Shown::Whole(EventType::Deleted, change));
    }
    match (before, concerns(&change.item)) {
        (false, true) => Some(Shown::Whole(EventType::Added, change)),
        (true, true) => Some(Shown::Whole(EventType::Modified, change)),
        (true, false) => change.previous.as_ref().map(|p| Shown::Left(codec::with_resource_version(&p.object().bytes, change.revision()))),
        (false, false) => None,
    }
}

/// Kinds whose number of replicas is no pointer within upstream: one of nothing is sent with the zero that conversion finds there.
const COUNTS_REPLICAS: [(&str, &str); 3] = [("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "StatefulSet")];

/// An object of the kind with nothing in it but the resource version.
fn bookmark(served: &Served, revision: u64, initial_end: bool) -> Object {
    let GroupVersionKind { kind, .. } = &served.gvk;
    let mut value = json!({"kind": kind, "apiVersion": served.gvk.api_version(), "metadata": {"resourceVersion": revision.to_string()}});
    if initial_end {
        value.set(&["metadata", "annotations"], json!({INITIAL_EVENTS_END: "true"}));
    }
    if COUNTS_REPLICAS.contains(&(served.gvk.group.as_str(), kind.as_str())) {
        value.set(&["spec", "replicas"], 0);
    }
    let (encoding, bytes) = if served.resource.custom.is_some() {
        (Encoding::Json, codec::encode_json(&value))
    } else {
        (Encoding::Protobuf, codec::encode_protobuf(&value).unwrap_or_default())
    };
    Object { encoding, resource_version: revision, bytes: bytes.into() }
}
