//! What happened to one resource: a bounded ring of changes that watchers read with cursors.
//!
//! ```text
//!  all:            │ 11 │ 12 │ 15 │ 16 │ 19 │   ◀─ cursors of watchers without an indexed selector
//!  namespace "a":  │ 12 │ 19 │                  ◀─ exists only while somebody watches it
//!  node "n1":      │ 15 │
//! ```
//!
//! Watchers with an indexed selector hang under that key in a lane of its own, so that a change wakes only those whom it may
//! concern. A lane holds pointers into the ring and is cut where the ring is cut.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, LazyLock};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use knarr_core::Object;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::item::Item;
use crate::{Error, Result};

/// How long a change can be resumed from, at most.
pub const WINDOW: Duration = Duration::from_secs(300);
/// How many changes a resource keeps at most.
pub const CHANGES_MAX: usize = 65_536;
/// How many bytes of objects that are no longer current a resource keeps alive at most.
pub const SUPERSEDED_BYTES_MAX: usize = 32 << 20;
/// Beyond so many of these bytes the oldest are packed: they take a few times less, and reach back as much further.
pub const WHOLE_BYTES_MAX: usize = 4 << 20;
/// How many versions are packed for one that is added: more than one, so that packing catches up.
const PACKED_AT_ONCE: usize = 2;
/// How many objects are packed against one that is like them.
const MODEL_USES_MAX: usize = 64;
/// How many changes are kept whatever they weigh, so that a few large objects leave a usable history.
pub const CHANGES_MIN: usize = 64;
/// For how many of the newest changes encoded frames are kept.
pub const FRAMES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One committed write.
pub struct Change {
    pub kind: ChangeKind,
    /// The object after the write; of a deletion, its last state at the deletion's revision.
    pub item: Arc<Item>,
    /// The object before the write.
    pub previous: Option<Arc<Item>>,
    at: Moment,
    frames: Mutex<Frames>,
}

/// Of each of thousands of changes there is one in memory: 64 bytes with the counts of their `Arc`.
const _: () = assert!(size_of::<Change>() <= 48);

/// Encoded watch events of one change. `Forgotten` once the change is old: then they are made anew for each who is that late.
enum Frames {
    Kept(Option<Box<Frame>>),
    Forgotten,
}

/// One of them, and the others: there are seldom more than two.
struct Frame {
    form: u64,
    bytes: Bytes,
    other: Option<Box<Frame>>,
}

/// When a change was, in tenths of a second from a time before this process began, rounded up.
#[derive(Clone, Copy)]
struct Moment(u32);

impl Moment {
    const TENTH: Duration = Duration::from_millis(100);

    fn origin() -> std::time::Instant {
        static ORIGIN: LazyLock<std::time::Instant> = LazyLock::new(|| {
            let now = std::time::Instant::now();
            now.checked_sub(2 * WINDOW).unwrap_or(now)
        });
        *ORIGIN
    }

    fn of(at: Instant) -> Self {
        let tenths = at.into_std().saturating_duration_since(Self::origin()).as_millis().div_ceil(Self::TENTH.as_millis());
        Self(u32::try_from(tenths).unwrap_or(u32::MAX))
    }

    fn instant(self) -> Instant {
        (Self::origin() + Self::TENTH * self.0).into()
    }
}

impl Change {
    pub(crate) fn new(kind: ChangeKind, item: Arc<Item>, previous: Option<Arc<Item>>) -> Self {
        Self { kind, item, previous, at: Moment::of(Instant::now()), frames: Mutex::new(Frames::Kept(None)) }
    }

    pub(crate) fn with_age(mut self, age: Duration) -> Self {
        self.at = Instant::now().checked_sub(age).map_or(self.at, Moment::of);
        self
    }

    pub fn revision(&self) -> u64 {
        self.item.revision()
    }

    pub fn object(&self) -> Object {
        self.item.object()
    }

    /// The event in an encoded form, made once for all watchers that ask for the same `form`: a number of the caller's, which
    /// must say everything the bytes depend on (event type, version, content type).
    pub fn frame(&self, form: u64, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut frames = self.frames.lock();
        let Frames::Kept(first) = &mut *frames else { return make() };
        let known = std::iter::successors(first.as_deref(), |f| f.other.as_deref()).find(|f| f.form == form);
        if let Some(known) = known {
            return known.bytes.clone();
        }
        let bytes = make();
        *first = Some(Box::new(Frame { form, bytes: bytes.clone(), other: first.take() }));
        bytes
    }

    /// What is kept alive only by this change.
    fn superseded_bytes(&self) -> usize {
        let deleted = if self.kind == ChangeKind::Deleted { self.item.weight() } else { 0 };
        deleted + self.previous.as_ref().map_or(0, |p| p.weight())
    }
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.item)
    }
}

/// Under which key a watcher hangs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaneKey {
    All,
    Namespace(Box<str>),
    Path(Box<str>),
    Indexed(Box<str>),
}

/// Changes that are read by cursors, and those who wait for more.
#[derive(Default)]
pub(crate) struct Lane {
    changes: VecDeque<Arc<Change>>,
    /// The number of the first change in `changes`.
    first: u64,
    /// The number of the next change, for those who look without the lock.
    end: Arc<AtomicU64>,
    waiting: Wakers,
    watchers: usize,
}

impl Lane {
    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn push(&mut self, change: &Arc<Change>) {
        self.changes.push_back(change.clone());
        self.end.store(self.end(), Release);
    }

    fn pop_front(&mut self) -> Option<Arc<Change>> {
        let change = self.changes.pop_front()?;
        self.first += 1;
        Some(change)
    }

    fn cut(&mut self, oldest: u64) {
        while self.changes.front().is_some_and(|c| c.revision() <= oldest) {
            self.pop_front();
        }
        if self.changes.capacity() > 4 * self.changes.len() + 64 {
            self.changes.shrink_to(2 * self.changes.len());
        }
    }
}

/// Those who wait for a change of a lane, each in a slot of its own.
#[derive(Default)]
struct Wakers {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
    waiting: usize,
}

impl Wakers {
    fn add(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    fn remove(&mut self, slot: usize) {
        self.waiting -= usize::from(self.slots[slot].take().is_some());
        self.free.push(slot);
    }

    fn wait(&mut self, slot: usize, waker: &Waker) {
        match &mut self.slots[slot] {
            Some(known) => known.clone_from(waker),
            empty => {
                *empty = Some(waker.clone());
                self.waiting += 1;
            }
        }
    }

    fn take_into(&mut self, woken: &mut Vec<Waker>) {
        if self.waiting > 0 {
            woken.extend(self.slots.iter_mut().filter_map(Option::take));
            self.waiting = 0;
        }
    }
}

/// An object that others are packed against. It is kept in memory as long as they are.
struct Model {
    item: Arc<Item>,
    uses: usize,
}

/// The history of one resource.
pub(crate) struct History {
    all: Lane,
    /// The other lanes, each in a place of its own, and where they are.
    lanes: Vec<Option<Lane>>,
    places: HashMap<LaneKey, usize>,
    free: Vec<usize>,
    /// Every change after this revision is in the ring.
    oldest: u64,
    superseded_bytes: usize,
    /// The number of the first change in `all` whose previous version was not packed yet.
    unpacked: u64,
    model: Option<Model>,
    limits: Limits,
}

/// See the constants of this module.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub changes_min: usize,
    pub changes_max: usize,
    pub superseded_bytes_max: usize,
    pub whole_bytes_max: usize,
    pub window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            changes_min: CHANGES_MIN,
            changes_max: CHANGES_MAX,
            superseded_bytes_max: SUPERSEDED_BYTES_MAX,
            whole_bytes_max: WHOLE_BYTES_MAX,
            window: WINDOW,
        }
    }
}

/// A watcher's place in a lane.
#[derive(Debug)]
pub(crate) struct Cursor {
    key: LaneKey,
    /// Where the lane stands; nowhere: in [`History::all`].
    place: Option<usize>,
    next: u64,
    slot: usize,
    end: Arc<AtomicU64>,
}

impl Cursor {
    /// Whether there is nothing to read. Who had left a waker at that very place will still be woken by it.
    pub fn is_at_end(&self) -> bool {
        self.end.load(Acquire) == self.next
    }
}

impl History {
    pub fn new(oldest: u64, limits: Limits) -> Self {
        Self {
            all: Lane::default(),
            lanes: Vec::new(),
            places: HashMap::new(),
            free: Vec::new(),
            oldest,
            superseded_bytes: 0,
            unpacked: 0,
            model: None,
            limits,
        }
    }

    /// The lowest revision after which every change is known.
    #[cfg(test)]
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    #[cfg(test)]
    pub fn superseded_bytes(&self) -> usize {
        self.superseded_bytes
    }

    /// The revision of the last change, or one after which there was none.
    pub fn last(&self) -> u64 {
        self.all.changes.back().map_or(self.oldest, |c| c.revision())
    }

    pub fn set_oldest(&mut self, oldest: u64) {
        self.oldest = oldest;
    }

    /// Adds a change and takes the wakers of those whom it may concern.
    pub fn push(&mut self, change: Arc<Change>, woken: &mut Vec<Waker>) {
        self.superseded_bytes += change.superseded_bytes();
        if let Some(previous) = &change.previous {
            previous.supersede();
        }
        self.all.push(&change);
        self.all.waiting.take_into(woken);
        if !self.places.is_empty() {
            for_each_key(&change, |key| {
                if let Some(lane) = self.places.get(&key).and_then(|place| self.lanes[*place].as_mut()) {
                    lane.push(&change);
                    lane.waiting.take_into(woken);
                }
            });
        }
        self.let_age();
        self.pack();
        self.trim_size();
    }

    /// Packs what was superseded longest ago.
    fn pack(&mut self) {
        for _ in 0..PACKED_AT_ONCE {
            if self.superseded_bytes <= self.limits.whole_bytes_max {
                return;
            }
            self.unpacked = self.unpacked.max(self.all.first);
            let next = usize::try_from(self.unpacked - self.all.first).unwrap_or(usize::MAX);
            let Some(change) = self.all.changes.get(next) else { return };
            self.unpacked += 1;
            let Some(previous) = &change.previous else { continue };
            let before = change.superseded_bytes();
            previous.pack(&change.item);
            self.superseded_bytes = self.superseded_bytes + change.superseded_bytes() - before;
        }
    }

    /// One change is no longer among the newest.
    fn let_age(&mut self) {
        let Some(index) = self.all.changes.len().checked_sub(FRAMES_MAX + 1) else { return };
        let change = &self.all.changes[index];
        *change.frames.lock() = Frames::Forgotten;
        if change.kind != ChangeKind::Deleted && change.item.expires_ms().is_some() {
            let item = change.item.clone();
            self.rest(item);
        }
    }

    /// Packs a current object that nobody is likely to read again, against one like it. Objects that expire are such: events.
    fn rest(&mut self, item: Arc<Item>) {
        if let Some(model) = &mut self.model
            && model.uses < MODEL_USES_MAX
            && item.rest(&model.item)
        {
            model.uses += 1;
        } else {
            self.model = Some(Model { item, uses: 0 });
        }
    }

    fn trim_size(&mut self) {
        let before = self.oldest;
        let Limits { changes_min, changes_max, superseded_bytes_max, .. } = self.limits;
        while self.all.changes.len() > changes_max || self.superseded_bytes > superseded_bytes_max && self.all.changes.len() > changes_min {
            self.drop_first();
        }
        // Lanes are cut when an eighth of the ring has gone, not at each change.
        if self.oldest != before && self.all.first.is_multiple_of((changes_max as u64 / 8).max(1)) {
            self.cut_lanes();
        }
    }

    fn drop_first(&mut self) {
        if let Some(change) = self.all.pop_front() {
            self.oldest = change.revision();
            self.superseded_bytes -= change.superseded_bytes();
        }
    }

    /// Drops what is older than the window. Gives the time at which the next change will be.
    pub fn trim_age(&mut self, now: Instant) -> Option<Instant> {
        while self.all.changes.front().is_some_and(|c| c.at.instant() + self.limits.window <= now) {
            self.drop_first();
        }
        let oldest = self.oldest;
        self.all.cut(oldest);
        self.cut_lanes();
        self.all.changes.front().map(|c| c.at.instant() + self.limits.window)
    }

    fn cut_lanes(&mut self) {
        let oldest = self.oldest;
        self.lanes.iter_mut().flatten().for_each(|lane| lane.cut(oldest));
    }

    fn lane(&mut self, place: Option<usize>) -> &mut Lane {
        match place {
            None => &mut self.all,
            Some(place) => self.lanes[place].get_or_insert_default(),
        }
    }

    /// Where the lane of this key stands; it comes into being when it is asked for first.
    fn place(&mut self, key: &LaneKey) -> Option<usize> {
        if *key == LaneKey::All {
            return None;
        }
        let known = self.places.get(key).copied();
        Some(known.unwrap_or_else(|| {
            let free = self.free.pop().unwrap_or_else(|| {
                self.lanes.push(None);
                self.lanes.len() - 1
            });
            self.lanes[free] = Some(Lane::default());
            self.places.insert(key.clone(), free);
            free
        }))
    }

    /// A cursor at the end of the lane.
    pub fn attach(&mut self, key: LaneKey) -> Cursor {
        let place = self.place(&key);
        let lane = self.lane(place);
        lane.watchers += 1;
        let (next, slot, end) = (lane.end(), lane.waiting.add(), lane.end.clone());
        Cursor { key, place, next, slot, end }
    }

    pub fn detach(&mut self, cursor: &Cursor) {
        let lane = self.lane(cursor.place);
        lane.waiting.remove(cursor.slot);
        lane.watchers -= 1;
        if lane.watchers == 0
            && let Some(place) = cursor.place
        {
            self.lanes[place] = None;
            self.free.push(place);
            self.places.remove(&cursor.key);
        }
    }

    /// The changes after a revision, oldest first.
    ///
    /// # Errors
    /// [`Error::TooOld`] when some of them are gone.
    pub fn after(&self, revision: u64) -> Result<impl DoubleEndedIterator<Item = &Arc<Change>>> {
        if revision < self.oldest {
            return Err(Error::TooOld { asked: revision, oldest: self.oldest });
        }
        let start = self.all.changes.partition_point(|c| c.revision() <= revision);
        Ok(self.all.changes.range(start..))
    }

    /// Takes up to `limit` changes at the cursor and moves it. When it stands at the end then, which is what this tells, `waker` will be woken by
    /// the next change.
    ///
    /// # Errors
    /// [`Error::TooSlow`] when the cursor's place is gone.
    pub fn read(&mut self, cursor: &mut Cursor, limit: usize, out: &mut VecDeque<Arc<Change>>, waker: Option<&Waker>) -> Result<bool> {
        let lane = self.lane(cursor.place);
        let Some(start) = cursor.next.checked_sub(lane.first) else { return Err(Error::TooSlow) };
        let start = start as usize;
        let end = lane.changes.len().min(start + limit);
        out.extend(lane.changes.range(start..end).cloned());
        cursor.next += (end - start) as u64;
        let at_end = end == lane.changes.len();
        if at_end && let Some(waker) = waker {
            lane.waiting.wait(cursor.slot, waker);
        }
        Ok(at_end)
    }

    #[cfg(test)]
    pub fn lanes(&self) -> usize {
        self.places.len()
    }
}

/// The keys under which a change is filed: its place, and its indexed value before and after.
fn for_each_key(change: &Change, mut file: impl FnMut(LaneKey)) {
    let item = &change.item;
    file(LaneKey::Path(item.path().into()));
    if !item.namespace().is_empty() {
        file(LaneKey::Namespace(item.namespace().into()));
    }
    let after = item.indexed();
    if !after.is_empty() {
        file(LaneKey::Indexed(after.into()));
    }
    if let Some(before) = change.previous.as_ref().map(|p| p.indexed())
        && !before.is_empty()
        && before != after
    {
        file(LaneKey::Indexed(before.into()));
    }
}
