//! A watch: a cursor into the history of one resource, which may begin with the state that is there.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Bound;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use imbl::OrdSet;

use crate::Result;
use crate::cache::{Cache, Resource};
use crate::history::{Change, Cursor, LaneKey};
use crate::item::{Entry, Item};

/// How many changes or objects are taken out of the cache at once.
const BATCH: usize = 64;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the next write.
    Now,
    /// With the first write after this revision.
    After(u64),
    /// With every object that is there, then [`WatchItem::InitialEnd`].
    State,
}

/// Which changes a watch is about. What is named here is indexed: changes elsewhere do not even wake the watcher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchFilter {
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// The value of the resource's indexed field ([`Resource::indexed_field`]). Changes come where it holds before or after.
    pub indexed: Option<String>,
}

impl WatchFilter {
    /// The narrowest lane that holds all that this filter wants.
    fn lane(&self) -> LaneKey {
        match self {
            Self { name: Some(name), namespace: Some(namespace), .. } if !namespace.is_empty() => LaneKey::Path(format!("{namespace}/{name}").into()),
            Self { indexed: Some(value), .. } if !value.is_empty() => LaneKey::Indexed(value.as_str().into()),
            Self { namespace: Some(namespace), .. } if !namespace.is_empty() => LaneKey::Namespace(namespace.as_str().into()),
            _ => LaneKey::All,
        }
    }

    fn matches(&self, item: &Item) -> bool {
        self.namespace.as_ref().is_none_or(|n| item.is_in(n))
            && self.name.as_ref().is_none_or(|n| n == item.name())
            && self.indexed.as_ref().is_none_or(|v| v == item.indexed())
    }

    fn concerns(&self, change: &Change) -> bool {
        self.matches(&change.item) || change.previous.as_ref().is_some_and(|p| self.matches(p))
    }
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// An object of the first state.
    Initial(Arc<Item>),
    /// The first state is complete; it was the state at this revision.
    InitialEnd(u64),
    Change(Arc<Change>),
}

/// The first state, as far as it has not been given out.
struct Initial {
    set: OrdSet<Entry>,
    last: Option<Arc<Item>>,
    ready: VecDeque<Arc<Item>>,
    revision: u64,
}

/// See the module. Dropping it ends the watch.
pub struct Watcher {
    cache: Arc<Cache>,
    resource: Arc<Resource>,
    filter: WatchFilter,
    cursor: Cursor,
    /// Nothing up to here was asked for.
    floor: u64,
    /// Everything up to here has been given out or was not asked for.
    seen: u64,
    initial: Option<Initial>,
    ready: VecDeque<Arc<Change>>,
    /// Who will be woken by what comes after `ready`, if `hangs`.
    waker: Option<Waker>,
    hangs: bool,
}

impl Watcher {
    pub(crate) fn new(cache: Arc<Cache>, resource: Arc<Resource>, from: WatchFrom, filter: WatchFilter) -> Result<Self> {
        let mut history = resource.history.lock();
        let mut ready = VecDeque::new();
        if let WatchFrom::After(revision) = from {
            ready.extend(history.after(revision)?.filter(|c| filter.concerns(c)).cloned());
        }
        let cursor = history.attach(filter.lane());
        drop(history);
        // Loaded after the cursor was placed: what comes twice, here and by the cursor, is told apart by its revision.
        let snapshot = cache.snapshot(&resource);
        let (seen, initial) = match from {
            WatchFrom::Now => (snapshot.revision, None),
            WatchFrom::After(revision) => (revision, None),
            WatchFrom::State => (snapshot.revision, Some(Initial { revision: snapshot.revision, set: snapshot.set, last: None, ready: VecDeque::new() })),
        };
        Ok(Self { cache, resource, filter, cursor, floor: seen, seen, initial, ready, waker: None, hangs: false })
    }

    /// Waits for the next item.
    ///
    /// # Errors
    /// [`crate::Error::TooSlow`] when the history went over this watcher. The watch is over then.
    pub async fn next(&mut self) -> Result<WatchItem> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`], for those who write their own futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem>> {
        if let Some(item) = self.next_initial() {
            return Poll::Ready(Ok(item));
        }
        loop {
            while let Some(change) = self.ready.pop_front() {
                // Several may have one revision: what one lease held goes in one go.
                if change.revision() > self.floor && self.filter.concerns(&change) {
                    self.seen = change.revision();
                    return Poll::Ready(Ok(WatchItem::Change(change)));
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Whether more has been read already than was given out.
    pub fn has_more(&self) -> bool {
        self.initial.is_some() || !self.ready.is_empty()
    }

    /// Reads what has come. The waker is left there in the same go, so that whoever takes all there is and asks for more need not look again.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let is_known = self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
        if self.hangs && is_known && self.cursor.is_at_end() {
            return Poll::Pending;
        }
        let at_end = self.resource.history.lock().read(&mut self.cursor, BATCH, &mut self.ready, Some(cx.waker()))?;
        self.hangs = at_end;
        if at_end && !is_known {
            self.waker = Some(cx.waker().clone());
        }
        if self.ready.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// The next item if it is there already.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<WatchItem>> {
        match self.poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(item) => item.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    fn next_initial(&mut self) -> Option<WatchItem> {
        let initial = self.initial.as_mut()?;
        loop {
            if let Some(item) = initial.ready.pop_front() {
                return Some(WatchItem::Initial(item));
            }
            if !initial.refill(&self.filter) {
                let revision = initial.revision;
                self.initial = None;
                return Some(WatchItem::InitialEnd(revision));
            }
        }
    }

    /// Up to here the watcher has yielded everything that concerns it: what a bookmark may say.
    pub fn revision(&mut self) -> u64 {
        // Read first: what is delivered by now is in the history that is looked at next.
        let delivered = self.cache.delivered();
        if self.initial.is_none() && self.ready.is_empty() && self.cursor.is_at_end() {
            self.seen = self.seen.max(delivered);
        }
        self.seen
    }
}

impl Initial {
    /// Takes the next objects out of the set; false when there are none.
    fn refill(&mut self, filter: &WatchFilter) -> bool {
        if let (Some(namespace), Some(name)) = (&filter.namespace, &filter.name) {
            let path = crate::ObjectKey::new(namespace, name).path();
            let found = std::mem::take(&mut self.set).get(path.as_str()).map(|entry| entry.item.clone());
            self.ready.extend(found.filter(|item| filter.matches(item)));
            return !self.ready.is_empty();
        }
        let prefix = filter.namespace.as_ref().map(|n| format!("{n}/")).filter(|p| p.len() > 1);
        let start = match (&self.last, &prefix) {
            (Some(last), _) => Bound::Excluded(last.path()),
            (None, Some(prefix)) => Bound::Included(prefix.as_str()),
            (None, None) => Bound::Unbounded,
        };
        let rest = self.set.range::<(Bound<&str>, Bound<&str>), str>((start, Bound::Unbounded));
        let batch: Vec<_> = rest.take(BATCH).map(|e| e.item.clone()).take_while(|i| prefix.as_ref().is_none_or(|p| i.path().starts_with(p.as_str()))).collect();
        let Some(last) = batch.last() else { return false };
        self.last = Some(last.clone());
        self.ready.extend(batch.into_iter().filter(|item| filter.matches(item)));
        true
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.resource.history.lock().detach(&self.cursor);
    }
}

impl futures::Stream for Watcher {
    type Item = Result<WatchItem>;

    /// Never ends by itself.
    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Watcher::poll_next(self.get_mut(), cx).map(Some)
    }
}
