//! API Priority and Fairness: no client can take the server from the others (upstream: `util/flowcontrol`, KEP-1040).
//!
//! ```text
//!  request ─▶ the first FlowSchema that matches ─▶ its priority level ─▶ seats, or a queue, or 429
//!                 (schema)                          (queue_set, dealer)
//!  FlowSchemas, PriorityLevelConfigurations ─▶ configuration ─▶ seats of each level ◀─ borrowing, each 10 s (allocation, demand)
//!                 (follow, ensure)
//! ```
//!
//! Which schema a request is of is found in a snapshot that is swapped when the objects change. A level's requests stand in a
//! [`QueueSet`] under a lock of their own that is held for a handful of additions; all that decides is plain and works on virtual
//! time. A [`Seat`] is held while the request runs, of a watch until its first state is told.

mod allocation;
mod configuration;
mod dealer;
mod demand;
mod dropped;
mod dump;
pub mod ensure;
mod follow;
mod metrics;
mod queue_set;
mod schema;
mod watches;
mod work;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use knarr_core::{Status, metrics::Text};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

pub use self::watches::Registration;
use self::{
    allocation::Limits,
    configuration::Configuration,
    demand::Demand,
    dropped::Dropped,
    metrics::Counts,
    queue_set::{Arrival, QueueSet, Reason, Ticket},
    schema::{LevelSpec, SchemaSpec},
    watches::Watches,
    work::{Listed, Width},
};
use crate::{authn::User, request::RequestInfo};
pub(crate) use follow::start;

/// Names of the header that tell a client how its request was classified, without telling it the names.
pub const SCHEMA_HEADER: &str = "x-kubernetes-pf-flowschema-uid";
pub const LEVEL_HEADER: &str = "x-kubernetes-pf-prioritylevel-uid";
/// Longest wait in a queue, whatever the deadline of the request.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The requests of one level: it stays when the configuration of the level changes.
struct Room {
    name: String,
    set: Mutex<QueueSet<Guest>>,
    dropped: Mutex<Dropped>,
    adjusted: Mutex<Adjusted>,
    /// No object wants it any more; it goes when it is empty.
    quiescing: AtomicBool,
    /// Somebody waits for seats that time alone sets free.
    timed: AtomicBool,
}

/// What the last adjustment found.
#[derive(Clone, Copy, Default)]
struct Adjusted {
    demand: Demand,
    target: f64,
}

/// A priority level as it is configured.
struct Level {
    spec: LevelSpec,
    limits: Limits,
    /// Most seats of one request; 0: what its kind allows.
    seats_max: u32,
    room: Arc<Room>,
}

/// A FlowSchema as it is used.
pub struct Schema {
    spec: SchemaSpec,
    level: Arc<Level>,
    counts: Arc<Counts>,
    headers: (HeaderValue, HeaderValue),
}

impl Schema {
    /// Values of [`SCHEMA_HEADER`] and [`LEVEL_HEADER`].
    pub fn headers(&self) -> (HeaderValue, HeaderValue) {
        self.headers.clone()
    }
}

/// Who stands behind a request in a set.
struct Guest {
    schema: Arc<Schema>,
    user: Arc<User>,
    info: Arc<RequestInfo>,
    waker: Option<oneshot::Sender<()>>,
}

impl queue_set::Guest for Guest {
    fn dispatched(&mut self) {
        // Whoever has given up takes itself out of the set.
        self.waker.take().map(|waker| waker.send(()));
    }

    fn not_accommodated(&self) {
        self.schema.counts.no_accommodation.fetch_add(1, Relaxed);
    }
}

/// What all seats share.
struct Shared {
    /// Requests under way that count towards the limits.
    reading: AtomicUsize,
    writing: AtomicUsize,
    /// When time began.
    origin: Instant,
    /// The configuration is to be looked at again.
    again: Notify,
}

impl Shared {
    fn executing(&self, info: &RequestInfo) -> &AtomicUsize {
        if info.is_read_only() { &self.reading } else { &self.writing }
    }

    /// So many nanoseconds have passed.
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// See the module.
pub struct FlowControl {
    config: ArcSwap<Configuration>,
    /// All seats of the server.
    seats: u32,
    watches: Arc<Watches>,
    shared: Arc<Shared>,
    counts: metrics::All,
    /// Bits of the fair fraction of the last adjustment.
    fair: AtomicU64,
    /// The objects of the default configuration are looked after.
    keeps: AtomicBool,
}

/// How a request is classified.
pub type Class = Arc<Schema>;

/// The place of a request among those that run. It is free again when this is dropped.
pub struct Seat {
    class: Class,
    ticket: Ticket,
    info: Arc<RequestInfo>,
    shared: Arc<Shared>,
    started: Instant,
    /// It runs, and is counted.
    runs: bool,
}

/// A request that found no place.
pub struct TooMany {
    pub retry_after: i64,
}

impl From<TooMany> for Status {
    fn from(refused: TooMany) -> Self {
        Status::too_many_requests("Too many requests, please try again later.", i32::try_from(refused.retry_after).unwrap_or(1))
    }
}

/// What is known of the objects of a resource: their number, and the bytes of one.
pub trait Stored: Sync {
    fn size(&self, info: &RequestInfo) -> Option<(usize, usize)>;
}

/// What the query says that decides how wide a request is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub limit: Option<i64>,
    /// A watch that begins with the state.
    pub initial_events: bool,
}

impl FlowControl {
    /// A server of so many seats, with nothing but what is always there.
    pub fn new(seats: u32) -> Arc<Self> {
        let counts = metrics::All::default();
        let config = Configuration::mandatory(seats, &counts);
        let shared = Shared { reading: AtomicUsize::new(0), writing: AtomicUsize::new(0), origin: Instant::now(), again: Notify::new() };
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            seats,
            watches: Arc::default(),
            shared: Arc::new(shared),
            counts,
            fair: AtomicU64::new(0),
            keeps: AtomicBool::new(false),
        })
    }

    /// From here on the objects of the default configuration are made again when they are gone, and brought up to date.
    pub fn keep_defaults(&self) {
        self.keeps.store(true, Relaxed);
        self.shared.again.notify_one();
    }

    /// Requests under way: reading, writing.
    pub fn current(&self) -> (usize, usize) {
        (self.shared.reading.load(Relaxed), self.shared.writing.load(Relaxed))
    }

    pub fn write_metrics(&self, out: &mut Text) {
        self.counts.write(out, self);
    }

    fn rooms(&self) -> Vec<Arc<Room>> {
        self.config.load().levels.values().map(|l| l.room.clone()).collect()
    }

    /// The class of a request.
    pub fn classify(&self, user: &User, info: &RequestInfo) -> Class {
        let config = self.config.load();
        let found = config.schemas.iter().find(|s| s.spec.matches(user, info));
        found.unwrap_or(&config.catch_all).clone()
    }

    /// How many seats a request takes.
    fn width(&self, class: &Class, info: &RequestInfo, asked: Asked, stored: &dyn Stored) -> Width {
        let seats_max = class.level.seats_max;
        match info.verb.as_str() {
            "watch" if !asked.initial_events => Width::ONE,
            "list" | "watch" => {
                let Some((count, average_bytes)) = stored.size(info) else { return Width::ONE };
                Width::of_list(Listed { count, average_bytes, limit: asked.limit, single: !info.name.is_empty() }, seats_max)
            }
            // A token makes no event.
            "create" if info.resource == "serviceaccounts" && info.subresource == "token" => Width::ONE,
            "create" | "update" | "patch" | "delete" => {
                let watchers = self.watches.interested(info);
                class.counts.watch_counts.observe(watchers as f64);
                Width::of_write(watchers, seats_max)
            }
            _ => Width::ONE,
        }
    }

    /// Counts a watch as long as the registration lives.
    pub fn register(&self, info: &Arc<RequestInfo>) -> Option<Registration> {
        self.watches.register(info)
    }

    /// Finds a place for a request that came at `arrived` and may wait so long from then. Gives with it how long it waited.
    ///
    /// # Errors
    /// When there is none, or none came free in time.
    pub async fn enter(
        &self,
        class: &Class,
        user: &Arc<User>,
        info: &Arc<RequestInfo>,
        asked: Asked,
        stored: &dyn Stored,
        (arrived, patience): (Instant, Duration),
    ) -> Result<(Seat, Duration), TooMany> {
        let (level, counts) = (&class.level, &class.counts);
        let width = self.width(class, info, asked, stored);
        counts.estimated.observe(f64::from(width.seats()));
        let now = Instant::now();
        let (nanos, hash) = (self.shared.nanos(now), flow_hash(class, user, info));
        let (mut waiter, mut length) = (None, 0);
        let arrival = {
            let mut set = level.room.set.lock();
            let arrival = set.arrive(nanos, width, hash, |waits| {
                let (sender, receiver) = if waits { Some(oneshot::channel()).unzip() } else { (None, None) };
                waiter = receiver;
                Guest { schema: class.clone(), user: user.clone(), info: info.clone(), waker: sender }
            });
            if let Arrival::Waiting(ticket) = arrival {
                length = set.request(ticket).and_then(|r| r.queue).map_or(0, |q| set.queues[q].waiting.len());
            }
            arrival
        };
        let ticket = match arrival {
            Arrival::Rejected(reason) => return Err(self.refuse(class, reason, Duration::ZERO)),
            Arrival::Executing(ticket) | Arrival::Waiting(ticket) => ticket,
        };
        let mut seat = Seat { class: class.clone(), ticket, info: info.clone(), shared: self.shared.clone(), started: now, runs: false };
        if let Some(waiter) = waiter {
            counts.length.observe(length.max(1) as f64);
            release_in_time(&level.room, &self.shared);
            if timeout_at(arrived + patience.min(WAIT_MAX), waiter).await.is_err() && seat.give_up() {
                return Err(self.refuse(class, Reason::TimeOut, now.elapsed()));
            }
            seat.started = Instant::now();
        }
        let waited = seat.started - now;
        seat.begin();
        if level.spec.discipline != queue_set::Discipline::Exempt {
            counts.waited(true, waited.as_secs_f64());
        }
        counts.dispatched.fetch_add(1, Relaxed);
        Ok((seat, waited))
    }

    #[cold]
    fn refuse(&self, class: &Class, reason: Reason, waited: Duration) -> TooMany {
        class.counts.reject(reason);
        class.counts.waited(false, waited.as_secs_f64());
        TooMany { retry_after: class.level.room.dropped.lock().note(SECOND_MIN + self.shared.origin.elapsed().as_secs() as i64) }
    }
}

/// The number of the first second: nothing was refused for a long time before it.
const SECOND_MIN: i64 = 1000;

/// Sees to it that seats which only the passing of time sets free are given to those who wait for them.
fn release_in_time(room: &Arc<Room>, shared: &Arc<Shared>) {
    {
        let set = room.set.lock();
        if set.next_release().is_none() || room.timed.swap(true, Relaxed) {
            return;
        }
    }
    let (room, shared) = (room.clone(), shared.clone());
    tokio::spawn(async move {
        loop {
            let Some(next) = room.next_release_or_rest() else { break };
            tokio::time::sleep_until(shared.origin + Duration::from_nanos(next)).await;
            room.set.lock().advance(shared.nanos(Instant::now()));
        }
    });
}

impl Room {
    /// When time will next set seats free for somebody; else nobody looks at the clock any more.
    fn next_release_or_rest(&self) -> Option<u64> {
        let set = self.set.lock();
        let next = set.next_release();
        if next.is_none() {
            // Within the lock, so that whoever comes next sees it.
            self.timed.store(false, Relaxed);
        }
        next
    }
}

/// What decides which queues a flow may stand in.
fn flow_hash(class: &Class, user: &User, info: &RequestInfo) -> u64 {
    if !matches!(class.level.spec.discipline, queue_set::Discipline::Queue { queues, .. } if queues > 1) {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    class.spec.name.hash(&mut hasher);
    class.spec.distinguisher.of(user, info).hash(&mut hasher);
    hasher.finish()
}

impl Seat {
    fn begin(&mut self) {
        self.shared.executing(&self.info).fetch_add(1, Relaxed);
        self.runs = true;
    }

    /// Leaves the queue; `false` when the request was let in at the last moment.
    fn give_up(&mut self) -> bool {
        let mut set = self.class.level.room.set.lock();
        let waits = set.request(self.ticket).is_some_and(|r| r.state == queue_set::State::Waiting);
        if waits {
            set.leave(self.shared.nanos(Instant::now()), self.ticket);
            self.ticket = Ticket::MAX;
        }
        waits
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.ticket == Ticket::MAX {
            return;
        }
        let (room, now) = (&self.class.level.room, Instant::now());
        let (gave_up, idle, timed) = {
            let mut set = room.set.lock();
            (set.leave(self.shared.nanos(now), self.ticket), set.is_idle(), set.next_release().is_some())
        };
        if self.runs {
            self.shared.executing(&self.info).fetch_sub(1, Relaxed);
            self.class.counts.ran(self.info.verb == "watch", (now - self.started).as_secs_f64());
        }
        if gave_up {
            // Its client went away, or its deadline passed, while it waited.
            self.class.counts.reject(Reason::TimeOut);
        }
        if timed && tokio::runtime::Handle::try_current().is_ok() {
            release_in_time(room, &self.shared);
        }
        if idle && room.quiescing.load(Relaxed) {
            self.shared.again.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Stored for Nothing {
        fn size(&self, _: &RequestInfo) -> Option<(usize, usize)> {
            None
        }
    }

    #[tokio::test]
    async fn a_request_that_no_schema_is_made_for_gets_seats_of_the_default_level() {
        let flow = FlowControl::new(600);
        let levels: Vec<_> = ensure::defaults().into_iter().filter(|o| o["kind"] == "PriorityLevelConfiguration").collect();
        let schemas: Vec<_> = ensure::defaults().into_iter().filter(|o| o["kind"] == "FlowSchema").collect();
        let config = flow.config.load().next(
            levels.iter().filter_map(|o| LevelSpec::new(o).ok()).collect(),
            schemas.iter().map(SchemaSpec::new).collect(),
            600,
            0,
            &flow.counts,
        );
        flow.config.store(Arc::new(config));
        let user = Arc::new(User { name: "jane".into(), groups: vec!["a".into(), "system:authenticated".into()], ..User::default() });
        let info = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            version: "v1".into(),
            namespace: "a".into(),
            resource: "pods".into(),
            ..RequestInfo::default()
        };
        let info = Arc::new(info);
        let class = flow.classify(&user, &info);
        assert_eq!(class.spec.name, "global-default");
        // More of them than there are seats: each gives its own back.
        for _ in 0..1000 {
            let entered = flow.enter(&class, &user, &info, Asked::default(), &Nothing, (Instant::now(), Duration::from_secs(1))).await;
            assert!(entered.is_ok());
        }
    }
}
