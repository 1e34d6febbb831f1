//! `apiserver_flowcontrol_*` (upstream: `flowcontrol/metrics/metrics.go`). What can be counted when somebody asks is counted then;
//! a request itself touches a few atomics that it reaches without a look-up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use knarr_core::metrics::{Desc, Histogram, Text, Vector, refs};

use super::{
    FlowControl, Room,
    queue_set::{Reason, State},
};

const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHERS: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

const BOTH: &[&str] = &["flow_schema", "priority_level"];
const LEVEL: &[&str] = &["priority_level"];

static REJECTED: Desc = Desc::counter(
    "apiserver_flowcontrol_rejected_requests_total",
    "Requests that were turned away, by priority level, flow schema and reason.",
    &["flow_schema", "priority_level", "reason"],
);
static DISPATCHED: Desc =
    Desc::counter("apiserver_flowcontrol_dispatched_requests_total", "Requests that were let in, by priority level and flow schema.", BOTH);
static WAITING: Desc = Desc::gauge("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait in queues, by priority level and flow schema.", BOTH);
static WAITING_SEATS: Desc =
    Desc::gauge("apiserver_flowcontrol_current_inqueue_seats", "Seats that waiting requests will take, by priority level and flow schema.", BOTH);
static EXECUTING: Desc =
    Desc::gauge("apiserver_flowcontrol_current_executing_requests", "Requests that run, by priority level and flow schema; of a watch, its beginning.", BOTH);
static EXECUTING_SEATS: Desc = Desc::gauge("apiserver_flowcontrol_current_executing_seats", "Seats that are taken, by priority level and flow schema.", BOTH);
static WAITED: Desc = Desc::histogram(
    "apiserver_flowcontrol_request_wait_duration_seconds",
    "Time that requests waited in their queues, by priority level, flow schema and whether they were let in.",
    &["execute", "flow_schema", "priority_level"],
    &SECONDS,
);
static RAN: Desc = Desc::histogram(
    "apiserver_flowcontrol_request_execution_seconds",
    "Time that requests ran, by priority level, flow schema and type; of a watch, its beginning.",
    &["flow_schema", "priority_level", "type"],
    &SECONDS,
);
static LENGTH: Desc = Desc::histogram(
    "apiserver_flowcontrol_request_queue_length_after_enqueue",
    "Length of the queue that a request came into, itself counted, by priority level and flow schema.",
    BOTH,
    &LENGTHS,
);
static ESTIMATED: Desc =
    Desc::histogram("apiserver_flowcontrol_work_estimated_seats", "Estimated seats of requests, by priority level and flow schema.", BOTH, &SEATS);
static WATCH_COUNTS: Desc =
    Desc::histogram("apiserver_flowcontrol_watch_count_samples", "Watchers that hear of a write, by priority level and flow schema.", BOTH, &WATCHERS);
static NO_ACCOMMODATION: Desc = Desc::counter(
    "apiserver_flowcontrol_request_dispatch_no_accommodation_total",
    "How often the next request was wider than the free seats, by priority level and flow schema.",
    BOTH,
);
static NOMINAL: Desc = Desc::gauge("apiserver_flowcontrol_nominal_limit_seats", "Seats that the configuration gives a priority level.", LEVEL);
static LOWER: Desc = Desc::gauge("apiserver_flowcontrol_lower_limit_seats", "Seats of a priority level when it has lent all that it may.", LEVEL);
static UPPER: Desc = Desc::gauge("apiserver_flowcontrol_upper_limit_seats", "Seats of a priority level when it has borrowed all that it may.", LEVEL);
static CURRENT: Desc = Desc::gauge("apiserver_flowcontrol_current_limit_seats", "Seats that a priority level has now.", LEVEL);
static HIGH: Desc =
    Desc::gauge("apiserver_flowcontrol_demand_seats_high_watermark", "Most seats that a priority level could use within the last period.", LEVEL);
static AVERAGE: Desc =
    Desc::gauge("apiserver_flowcontrol_demand_seats_average", "Seats that a priority level could use within the last period, on average.", LEVEL);
static DEVIATION: Desc =
    Desc::gauge("apiserver_flowcontrol_demand_seats_stdev", "Standard deviation of the seats that a priority level could use within the last period.", LEVEL);
static SMOOTHED: Desc = Desc::gauge("apiserver_flowcontrol_demand_seats_smoothed", "Smoothed demand of a priority level.", LEVEL);
static TARGET: Desc = Desc::gauge("apiserver_flowcontrol_target_seats", "Seats that a priority level should have.", LEVEL);
static CURRENT_R: Desc = Desc::gauge("apiserver_flowcontrol_current_r", "Virtual time of a priority level when it last changed.", LEVEL);
static FAIR: Desc = Desc::gauge("apiserver_flowcontrol_seat_fair_frac", "Part of its target that each priority level gets that is within its bounds.", &[]);

/// All that is counted of the requests of one schema on one level.
pub struct Counts {
    pub dispatched: AtomicU64,
    rejected: [AtomicU64; 3],
    pub no_accommodation: AtomicU64,
    waited: Histogram,
    gave_up: Histogram,
    ran: Histogram,
    watches: Histogram,
    pub length: Histogram,
    pub estimated: Histogram,
    pub watch_counts: Histogram,
}

const REASONS: [(Reason, &str); 3] = [(Reason::ConcurrencyLimit, "concurrency-limit"), (Reason::QueueFull, "queue-full"), (Reason::TimeOut, "time-out")];

impl Counts {
    pub fn new() -> Self {
        Self {
            dispatched: AtomicU64::new(0),
            rejected: Default::default(),
            no_accommodation: AtomicU64::new(0),
            waited: Histogram::new(&WAITED),
            gave_up: Histogram::new(&WAITED),
            ran: Histogram::new(&RAN),
            watches: Histogram::new(&RAN),
            length: Histogram::new(&LENGTH),
            estimated: Histogram::new(&ESTIMATED),
            watch_counts: Histogram::new(&WATCH_COUNTS),
        }
    }

    pub fn reject(&self, reason: Reason) {
        let place = REASONS.iter().position(|(r, _)| *r == reason).unwrap_or_default();
        self.rejected[place].fetch_add(1, Relaxed);
    }

    pub fn waited(&self, let_in: bool, seconds: f64) {
        if let_in { &self.waited } else { &self.gave_up }.observe(seconds);
    }

    pub fn ran(&self, is_watch: bool, seconds: f64) {
        if is_watch { &self.watches } else { &self.ran }.observe(seconds);
    }
}

/// The counts of all schemas that there have been, by schema and level.
pub struct All(Vector<Counts>);

impl Default for All {
    fn default() -> Self {
        Self(Vector::new(2, Counts::new))
    }
}

/// What goes on now: requests and seats, waiting and running.
#[derive(Clone, Copy, Default)]
struct Now {
    waiting: usize,
    waiting_seats: u64,
    executing: usize,
    executing_seats: u64,
}

fn now(rooms: &[Arc<Room>]) -> BTreeMap<(String, String), Now> {
    let mut all: BTreeMap<_, Now> = BTreeMap::new();
    for room in rooms {
        let set = room.set.lock();
        for (_, request) in set.requests() {
            let now = all.entry((request.guest.schema.spec.name.clone(), room.name.clone())).or_default();
            let seats = u64::from(request.width.seats());
            match request.state {
                State::Waiting => (now.waiting, now.waiting_seats) = (now.waiting + 1, now.waiting_seats + seats),
                State::Executing => (now.executing, now.executing_seats) = (now.executing + 1, now.executing_seats + seats),
                State::Lingering => now.executing_seats += seats,
            }
        }
    }
    all
}

impl All {
    pub fn of(&self, schema: &str, level: &str) -> Arc<Counts> {
        self.0.get(&[schema, level])
    }

    /// Writes everything that is told of flow control.
    pub fn write(&self, out: &mut Text, flow: &FlowControl) {
        let all = self.0.all();
        let rooms = flow.rooms();
        let now = now(&rooms);
        let counter = |out: &mut Text, desc: &'static Desc, of: &dyn Fn(&Counts) -> u64| {
            out.open(desc);
            for (values, counts) in &all {
                out.sample(desc, &refs(values), of(counts) as f64);
            }
        };
        let gauge = |out: &mut Text, desc: &'static Desc, of: &dyn Fn(Now) -> f64| {
            out.open(desc);
            for (values, _) in &all {
                let found = now.get(&(values[0].to_string(), values[1].to_string())).copied().unwrap_or_default();
                out.sample(desc, &refs(values), of(found));
            }
        };
        let histogram = |out: &mut Text, desc: &'static Desc, of: &dyn Fn(&Counts) -> &Histogram| {
            out.open(desc);
            for (values, counts) in all.iter().filter(|(_, c)| of(c).count() > 0) {
                out.histogram(desc, &refs(values), of(counts));
            }
        };
        out.open(&REJECTED);
        for (values, counts) in &all {
            for (count, (_, reason)) in counts.rejected.iter().zip(REASONS).filter(|(c, _)| c.load(Relaxed) > 0) {
                out.sample(&REJECTED, &[&values[0], &values[1], reason], count.load(Relaxed) as f64);
            }
        }
        counter(out, &DISPATCHED, &|c| c.dispatched.load(Relaxed));
        counter(out, &NO_ACCOMMODATION, &|c| c.no_accommodation.load(Relaxed));
        gauge(out, &WAITING, &|n| n.waiting as f64);
        gauge(out, &WAITING_SEATS, &|n| n.waiting_seats as f64);
        gauge(out, &EXECUTING, &|n| n.executing as f64);
        gauge(out, &EXECUTING_SEATS, &|n| n.executing_seats as f64);
        out.open(&WAITED);
        for (values, counts) in &all {
            for (histogram, execute) in [(&counts.gave_up, "false"), (&counts.waited, "true")] {
                if histogram.count() > 0 {
                    out.histogram(&WAITED, &[execute, &values[0], &values[1]], histogram);
                }
            }
        }
        out.open(&RAN);
        for (values, counts) in &all {
            for (histogram, kind) in [(&counts.ran, "regular"), (&counts.watches, "watch")] {
                if histogram.count() > 0 {
                    out.histogram(&RAN, &[&values[0], &values[1], kind], histogram);
                }
            }
        }
        histogram(out, &LENGTH, &|c| &c.length);
        histogram(out, &ESTIMATED, &|c| &c.estimated);
        histogram(out, &WATCH_COUNTS, &|c| &c.watch_counts);
        write_levels(out, flow);
    }
}

fn write_levels(out: &mut Text, flow: &FlowControl) {
    let config = flow.config.load();
    let level = |out: &mut Text, desc: &'static Desc, of: &dyn Fn(&super::Level) -> f64| {
        out.open(desc);
        for (name, level) in &config.levels {
            out.sample(desc, &[name], of(level));
        }
    };
    level(out, &NOMINAL, &|l| f64::from(l.limits.nominal));
    level(out, &LOWER, &|l| f64::from(l.limits.min));
    level(out, &UPPER, &|l| f64::from(l.limits.max));
    level(out, &CURRENT, &|l| f64::from(l.room.set.lock().limit()));
    level(out, &CURRENT_R, &|l| l.room.set.lock().virtual_time().seat_seconds());
    level(out, &HIGH, &|l| f64::from(l.room.adjusted.lock().demand.high));
    level(out, &AVERAGE, &|l| l.room.adjusted.lock().demand.average);
    level(out, &DEVIATION, &|l| l.room.adjusted.lock().demand.deviation);
    level(out, &SMOOTHED, &|l| l.room.adjusted.lock().demand.smoothed);
    level(out, &TARGET, &|l| l.room.adjusted.lock().target);
    out.single(&FAIR, f64::from_bits(flow.fair.load(Relaxed)));
}
