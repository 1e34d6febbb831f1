//! The requests of one priority level: which run, which wait, and who is next (upstream: `fairqueuing/queueset`).
//!
//! ```text
//!  flow ─ hash ─▶ a hand of queues ─▶ the shortest ─▶ │▒▒▒│ ─┐
//!                                                     │▒│   ─┼─▶ the one that would be done first in virtual time ─▶ seats
//!                                                     │ │   ─┘
//! ```
//!
//! Virtual time R is the work that each busy queue would have been given by now if all of them were served at once, bit by bit.
//! A queue's next request begins in that world where its last one ended; the one that ends first there is sent first here. When
//! a request is done, its queue is charged for the time that it took instead of the time that was guessed.
//!
//! All of this is plain: time comes in as a number of nanoseconds that never falls. While nobody waits, a request passes in a
//! handful of additions.

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque};

use super::{
    dealer,
    demand::Integrator,
    work::{Width, Work},
};

/// How long a request is thought to take before anybody knows (upstream: `estimatedServiceDuration`).
const GUESS_NANOS: f64 = 3e6;

/// What happens to requests for which there are no seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// There are always seats.
    Exempt,
    Reject,
    Queue {
        queues: usize,
        hand_size: usize,
        length_limit: usize,
    },
}

/// Why a request is turned away; the words are those of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

/// A request as the set knows it.
pub type Ticket = usize;

/// What came of a request that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Rejected(Reason),
    Executing(Ticket),
    /// Its guest will be told when it may go on.
    Waiting(Ticket),
}

/// Who stands behind a request.
pub trait Guest {
    /// It waited, and may go on.
    fn dispatched(&mut self);
    /// It is next, but wider than what is free.
    fn not_accommodated(&self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Executing,
    /// Done for its client; what it caused still takes seats.
    Lingering,
}

/// One request of the set.
pub struct Request<G> {
    pub guest: G,
    pub state: State,
    /// Absent where there are no queues.
    pub queue: Option<usize>,
    pub width: Width,
    work: Work,
    arrival_r: Work,
    /// When it came and when it went on, in nanoseconds.
    pub arrived: u64,
    pub started: u64,
}

/// One queue, as it is shown.
#[derive(Debug, Default)]
pub struct Queue {
    pub waiting: VecDeque<Ticket>,
    pub next_dispatch: Work,
    pub executing: usize,
    pub seats: u32,
    pub initial_sum: u64,
    pub max_sum: u64,
    pub work_sum: Work,
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    fn is_unused(&self) -> bool {
        !self.is_active() && self.seats == 0
    }
}

/// What a set has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub dispatched: u64,
    pub rejected: u64,
    pub cancelled: u64,
}

/// See the module.
pub struct QueueSet<G> {
    discipline: Discipline,
    limit: u32,
    pub queues: Vec<Queue>,
    requests: Vec<Option<Request<G>>>,
    free: Vec<Ticket>,
    /// Virtual time, and the real time up to which it is right.
    r: Work,
    last: u64,
    /// The queue that was dispatched from last.
    robin: usize,
    enqueued: usize,
    pub waiting: usize,
    pub executing: usize,
    pub seats_in_use: u32,
    pub seats_waiting: u64,
    /// Seats in use by requests that came out of a queue, and queues that are active.
    queue_seats: u32,
    active: usize,
    lingering: BinaryHeap<Reverse<(u64, Ticket)>>,
    pub demand: Integrator,
    pub totals: Totals,
}

impl<G: Guest> QueueSet<G> {
    pub fn new(now: u64, discipline: Discipline, limit: u32) -> Self {
        let mut set = Self {
            discipline,
            limit,
            queues: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            r: Work::default(),
            last: now,
            robin: 0,
            enqueued: 0,
            waiting: 0,
            executing: 0,
            seats_in_use: 0,
            seats_waiting: 0,
            queue_seats: 0,
            active: 0,
            lingering: BinaryHeap::new(),
            demand: Integrator::default(),
            totals: Totals::default(),
        };
        set.configure(now, discipline, limit);
        set
    }

    /// New rules. Queues that are too many are used up before they go.
    pub fn configure(&mut self, now: u64, discipline: Discipline, limit: u32) {
        self.advance(now);
        self.discipline = discipline;
        self.limit = limit;
        if let Discipline::Queue { queues, .. } = discipline
            && queues > self.queues.len()
        {
            self.queues.resize_with(queues, Queue::default);
        }
        self.trim();
        self.dispatch();
    }

    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.executing == 0
    }

    pub fn virtual_time(&self) -> Work {
        self.r
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// All requests, with their tickets.
    pub fn requests(&self) -> impl Iterator<Item = (Ticket, &Request<G>)> {
        self.requests.iter().enumerate().filter_map(|(ticket, r)| r.as_ref().map(|r| (ticket, r)))
    }

    pub fn request(&self, ticket: Ticket) -> Option<&Request<G>> {
        self.requests.get(ticket)?.as_ref()
    }

    /// When somebody who waits may be let in by nothing but the passing of time.
    pub fn next_release(&self) -> Option<u64> {
        let Reverse((at, _)) = self.lingering.peek()?;
        (self.waiting > 0).then_some(*at)
    }

    /// Brings everything up to this time.
    pub fn advance(&mut self, now: u64) {
        while let Some(&Reverse((at, ticket))) = self.lingering.peek()
            && at <= now
        {
            self.lingering.pop();
            self.sync(at);
            self.release(ticket);
            self.dispatch();
        }
        self.sync(now);
    }

    fn sync(&mut self, now: u64) {
        let passed = now.saturating_sub(self.last);
        if passed == 0 {
            return;
        }
        self.last = now;
        self.demand.pass(passed);
        if self.active > 0 {
            let wanted = u64::from(self.queue_seats) + self.seats_waiting;
            let rate = wanted.min(u64::from(self.limit)) as f64 / self.active as f64;
            self.r += Work::of(rate, passed as f64);
        }
    }

    /// A request comes. `guest` is made once, when it is not turned away at once; it is told whether it waits.
    pub fn arrive(&mut self, now: u64, width: Width, hash: u64, guest: impl FnOnce(bool) -> G) -> Arrival {
        self.advance(now);
        let Discipline::Queue { queues, hand_size, length_limit } = self.discipline else {
            if !self.has_room(width.seats()) {
                return self.reject(Reason::ConcurrencyLimit);
            }
            let ticket = self.admit(None, width, guest(false));
            self.start(ticket);
            return Arrival::Executing(ticket);
        };
        let queue = self.pick(hash, queues, hand_size);
        if self.seats_in_use >= self.limit && self.queues[queue].waiting.len() >= length_limit {
            return self.reject(Reason::QueueFull);
        }
        let at_once = self.waiting == 0 && self.seats_in_use < self.limit && self.has_room(width.seats());
        let ticket = self.admit(Some(queue), width, guest(!at_once));
        if !self.queues[queue].is_active() {
            self.queues[queue].next_dispatch = self.r;
        }
        if at_once {
            // What would be enqueued and dispatched in the same breath.
            self.bound(queue, self.r);
            self.robin = queue;
            self.start(ticket);
            return Arrival::Executing(ticket);
        }
        self.enqueue(queue, ticket);
        self.dispatch();
        Arrival::Waiting(ticket)
    }

    fn reject(&mut self, reason: Reason) -> Arrival {
        self.totals.rejected += 1;
        Arrival::Rejected(reason)
    }

    fn admit(&mut self, queue: Option<usize>, width: Width, guest: G) -> Ticket {
        let work = Work::of(f64::from(width.initial), GUESS_NANOS) + Work::of(f64::from(width.last), width.after as f64);
        let request = Request { guest, state: State::Waiting, queue, width, work, arrival_r: self.r, arrived: self.last, started: 0 };
        if let Some(ticket) = self.free.pop() {
            self.requests[ticket] = Some(request);
            return ticket;
        }
        self.requests.push(Some(request));
        self.requests.len() - 1
    }

    /// The queue of the flow's hand that holds the least work. The hand is looked at from another card each time.
    fn pick(&mut self, hash: u64, queues: usize, hand_size: usize) -> usize {
        let (cards, size) = dealer::deal(hash, queues, hand_size);
        let first = self.enqueued % size;
        self.enqueued = self.enqueued.wrapping_add(1);
        let order = (0..size).map(|i| cards[(first + i) % size]);
        order.min_by_key(|card| self.queues[*card].work_sum).unwrap_or_default()
    }

    fn enqueue(&mut self, queue: usize, ticket: Ticket) {
        let Some(request) = &self.requests[ticket] else { return };
        let (width, work) = (request.width, request.work);
        self.with_queue(queue, |q| {
            q.waiting.push_back(ticket);
            q.initial_sum += u64::from(width.initial);
            q.max_sum += u64::from(width.seats());
            q.work_sum += work;
        });
        self.waiting += 1;
        self.seats_waiting += u64::from(width.seats());
        self.note_demand();
        self.bound_by_head(queue);
    }

    /// Takes a request out of its queue.
    fn unqueue(&mut self, queue: usize, ticket: Ticket) {
        let Some(request) = &self.requests[ticket] else { return };
        let (width, work) = (request.width, request.work);
        self.with_queue(queue, |q| {
            // The next to go is the first; only who gives up stands elsewhere.
            if let Some(place) = q.waiting.iter().position(|t| *t == ticket) {
                q.waiting.remove(place);
            }
            q.initial_sum -= u64::from(width.initial);
            q.max_sum -= u64::from(width.seats());
            q.work_sum -= work;
        });
        self.waiting -= 1;
        self.seats_waiting -= u64::from(width.seats());
    }

    /// Sends as many as there are seats for.
    fn dispatch(&mut self) {
        while self.waiting > 0 && self.seats_in_use < self.limit && self.dispatch_one() {}
    }

    fn dispatch_one(&mut self) -> bool {
        let Some((queue, ticket)) = self.next() else { return false };
        let Some(request) = &self.requests[ticket] else { return false };
        if !self.has_room(request.width.seats()) {
            request.guest.not_accommodated();
            return false;
        }
        self.unqueue(queue, ticket);
        self.narrow(ticket);
        self.robin = queue;
        self.start(ticket);
        if let Some(request) = &mut self.requests[ticket] {
            request.guest.dispatched();
        }
        self.bound_by_head(queue);
        true
    }

    /// The oldest request of the queue that would be done first; among equals, of the one after the last that was served.
    fn next(&self) -> Option<(usize, Ticket)> {
        let count = self.queues.len();
        let order = (1..=count).map(|i| (self.robin + i) % count);
        let heads = order.filter_map(|queue| self.queues[queue].waiting.front().map(|ticket| (queue, *ticket)));
        heads.min_by_key(|(queue, ticket)| self.queues[*queue].next_dispatch + self.requests[*ticket].as_ref().map_or(Work::MAX, |r| r.work))
    }

    /// Last seats beyond the limit are held for longer instead.
    fn narrow(&mut self, ticket: Ticket) {
        let limit = self.limit;
        if let Some(request) = &mut self.requests[ticket]
            && request.width.last > limit
        {
            let work = Work::of(f64::from(request.width.last), request.width.after as f64);
            request.width.last = limit;
            request.width.after = work.nanos_on(f64::from(limit));
        }
    }

    fn has_room(&self, seats: u32) -> bool {
        match self.discipline {
            Discipline::Exempt => true,
            // One that is wider than the limit runs alone.
            _ if seats > self.limit => self.executing == 0,
            _ => self.seats_in_use + seats <= self.limit,
        }
    }

    fn start(&mut self, ticket: Ticket) {
        let now = self.last;
        let Some(request) = &mut self.requests[ticket] else { return };
        request.state = State::Executing;
        request.started = now;
        let (queue, seats, work) = (request.queue, request.width.seats(), request.work);
        self.executing += 1;
        self.seats_in_use += seats;
        self.totals.dispatched += 1;
        if let Some(queue) = queue {
            self.queue_seats += seats;
            self.with_queue(queue, |q| {
                q.executing += 1;
                q.seats += seats;
                q.next_dispatch += work;
            });
        }
        self.note_demand();
    }

    /// A request is done, or given up while it waited: then `true`.
    pub fn leave(&mut self, now: u64, ticket: Ticket) -> bool {
        self.advance(now);
        let Some(request) = self.requests.get(ticket).and_then(Option::as_ref) else { return false };
        if request.state == State::Waiting {
            self.cancel(ticket);
            return true;
        }
        let (queue, width, took) = (request.queue, request.width, self.last.saturating_sub(request.started));
        self.executing -= 1;
        if let Some(queue) = queue {
            self.with_queue(queue, |q| {
                q.executing -= 1;
                q.next_dispatch -= Work::of(f64::from(width.initial), GUESS_NANOS - took as f64);
            });
            self.bound_by_head(queue);
        }
        if width.after == 0 {
            self.release(ticket);
        } else {
            if let Some(request) = &mut self.requests[ticket] {
                request.state = State::Lingering;
            }
            self.lingering.push(Reverse((self.last + width.after, ticket)));
        }
        self.dispatch();
        false
    }

    fn cancel(&mut self, ticket: Ticket) {
        let Some(queue) = self.requests[ticket].as_ref().and_then(|r| r.queue) else { return };
        self.unqueue(queue, ticket);
        self.requests[ticket] = None;
        self.free.push(ticket);
        self.totals.rejected += 1;
        self.totals.cancelled += 1;
        self.note_demand();
        self.bound_by_head(queue);
        self.trim();
        self.dispatch();
    }

    /// The seats of a request are free again.
    fn release(&mut self, ticket: Ticket) {
        let Some(request) = self.requests[ticket].take() else { return };
        self.free.push(ticket);
        let seats = request.width.seats();
        self.seats_in_use -= seats;
        if let Some(queue) = request.queue {
            self.queue_seats -= seats;
            self.with_queue(queue, |q| q.seats -= seats);
            self.trim();
        }
        self.note_demand();
    }

    fn note_demand(&mut self) {
        self.demand.set(f64::from(self.seats_in_use) + self.seats_waiting as f64);
    }

    fn with_queue(&mut self, queue: usize, change: impl FnOnce(&mut Queue)) {
        let queue = &mut self.queues[queue];
        let before = queue.is_active();
        change(queue);
        match (before, queue.is_active()) {
            (false, true) => self.active += 1,
            (true, false) => self.active -= 1,
            _ => {}
        }
    }

    /// Nothing begins in the virtual world before it came: a queue that uses less than its part saves nothing up
    /// (upstream: the anti-windup hack).
    fn bound_by_head(&mut self, queue: usize) {
        let head = self.queues[queue].waiting.front().and_then(|ticket| self.requests[*ticket].as_ref());
        if let Some(arrival) = head.map(|r| r.arrival_r) {
            self.bound(queue, arrival);
        }
    }

    fn bound(&mut self, queue: usize, arrival: Work) {
        let next = &mut self.queues[queue].next_dispatch;
        *next = (*next).max(arrival);
    }

    /// Queues beyond the wanted number go when nobody is in them.
    fn trim(&mut self) {
        let wanted = if let Discipline::Queue { queues, .. } = self.discipline { queues } else { 0 };
        while self.queues.len() > wanted && self.queues.last().is_some_and(Queue::is_unused) {
            self.queues.pop();
        }
        self.robin = self.robin.min(self.queues.len().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    const MS: u64 = 1_000_000;

    /// Writes down who was let in.
    struct Noted(u64, Rc<RefCell<Vec<u64>>>);

    impl Guest for Noted {
        fn dispatched(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    struct Story {
        set: QueueSet<Noted>,
        let_in: Rc<RefCell<Vec<u64>>>,
    }

    impl Story {
        fn new(discipline: Discipline, limit: u32) -> Self {
            Self { set: QueueSet::new(0, discipline, limit), let_in: Rc::default() }
        }

        fn arrive(&mut self, now: u64, id: u64, width: Width) -> Arrival {
            let let_in = self.let_in.clone();
            // The flow's number is its hash: with hands of one card it is its queue.
            self.set.arrive(now, width, id / 1000, |_| Noted(id, let_in))
        }

        fn ticket(&mut self, now: u64, id: u64) -> Ticket {
            match self.arrive(now, id, Width::ONE) {
                Arrival::Executing(ticket) | Arrival::Waiting(ticket) => ticket,
                Arrival::Rejected(reason) => panic!("{id}: {reason:?}"),
            }
        }

        fn let_in(&self) -> Vec<u64> {
            std::mem::take(&mut self.let_in.borrow_mut())
        }

        fn is_empty(&self) -> bool {
            let s = &self.set;
            s.is_idle() && s.seats_in_use == 0 && s.seats_waiting == 0 && s.active == 0 && s.queue_seats == 0 && s.requests().count() == 0
        }
    }

    fn queues(queues: usize, hand_size: usize, length_limit: usize) -> Discipline {
        Discipline::Queue { queues, hand_size, length_limit }
    }

    #[test]
    fn without_queues_too_many_are_turned_away() {
        let mut story = Story::new(Discipline::Reject, 2);
        let first = story.ticket(0, 1);
        story.ticket(0, 2);
        assert_eq!(story.arrive(0, 3, Width::ONE), Arrival::Rejected(Reason::ConcurrencyLimit));
        story.set.leave(MS, first);
        assert!(matches!(story.arrive(MS, 4, Width::ONE), Arrival::Executing(_)));
        assert_eq!(story.set.totals, Totals { dispatched: 3, rejected: 1, cancelled: 0 });
        let mut exempt = Story::new(Discipline::Exempt, 0);
        for id in 0..1000 {
            exempt.ticket(0, id);
        }
        assert_eq!((exempt.set.executing, exempt.set.seats_in_use), (1000, 1000));
    }

    #[test]
    fn a_queue_has_an_end() {
        let mut story = Story::new(queues(1, 1, 2), 1);
        let running = story.ticket(0, 1);
        assert!(matches!(story.arrive(0, 2, Width::ONE), Arrival::Waiting(_)));
        let given_up = story.ticket(0, 3);
        assert_eq!(story.arrive(0, 4, Width::ONE), Arrival::Rejected(Reason::QueueFull));
        assert!(story.set.leave(MS, given_up), "it waited");
        assert!(!story.set.leave(2 * MS, running), "it ran");
        assert_eq!(story.let_in(), [2]);
        assert_eq!(story.set.totals, Totals { dispatched: 2, rejected: 2, cancelled: 1 });
    }

    #[test]
    fn a_flood_does_not_drown_the_others() {
        let mut story = Story::new(queues(8, 1, 100), 1);
        let mut running = story.ticket(0, 1000);
        let flood: Vec<Ticket> = (1..=50).map(|i| story.ticket(0, 1000 + i)).collect();
        let quiet = story.ticket(MS, 2001);
        story.set.leave(5 * MS, running);
        let served = story.let_in();
        // Of the two flows that wait, the one that has had nothing comes first.
        assert_eq!(served, [2001]);
        running = quiet;
        story.set.leave(10 * MS, running);
        assert_eq!(story.let_in(), [1001]);
        // From here on they take turns as long as both have something to do.
        running = flood[0];
        let mut now = 10 * MS;
        for round in 2..6 {
            let quiet = story.ticket(now, 2000 + round);
            now += 5 * MS;
            story.set.leave(now, running);
            assert_eq!(story.let_in(), [2000 + round], "round {round}");
            now += 5 * MS;
            story.set.leave(now, quiet);
            assert_eq!(story.let_in(), [1000 + round]);
            running = flood[round as usize - 1];
        }
    }

    #[test]
    fn who_takes_longer_is_let_in_less_often() {
        let mut story = Story::new(queues(4, 1, 1000), 1);
        let mut running = (1000, story.ticket(0, 1000));
        let mut tickets: std::collections::HashMap<u64, Ticket> = std::collections::HashMap::new();
        for i in 1..200 {
            tickets.insert(1000 + i, story.ticket(0, 1000 + i));
        }
        for i in 0..200 {
            tickets.insert(2000 + i, story.ticket(0, 2000 + i));
        }
        let (mut now, mut slow, mut fast) = (0, 0u64, 0u64);
        while now < 300 * MS {
            // Requests of the first flow take four times as long.
            let took = if running.0 < 2000 { 4 * MS } else { MS };
            now += took;
            *(if running.0 < 2000 { &mut slow } else { &mut fast }) += took;
            story.set.leave(now, running.1);
            let next = story.let_in()[0];
            running = (next, tickets[&next]);
        }
        let ratio = slow as f64 / fast as f64;
        assert!((0.8..1.25).contains(&ratio), "each has half of the time: {slow} {fast}");
    }

    #[test]
    fn a_wide_request_waits_for_its_seats_and_none_overtakes_it() {
        let mut story = Story::new(queues(1, 1, 10), 4);
        let narrow: Vec<Ticket> = (0..3).map(|id| story.ticket(0, id)).collect();
        let wide = Width { initial: 3, ..Width::ONE };
        let Arrival::Waiting(wide_ticket) = story.arrive(0, 10, wide) else { panic!("there is one seat") };
        story.ticket(0, 11);
        story.set.leave(MS, narrow[0]);
        assert_eq!(story.let_in(), [] as [u64; 0]);
        story.set.leave(MS, narrow[1]);
        assert_eq!(story.let_in(), [10]);
        // Wider than the level: alone.
        story.set.leave(2 * MS, wide_ticket);
        assert_eq!(story.let_in(), [11]);
    }

    #[test]
    fn what_a_write_caused_holds_its_seats_for_a_while() {
        let mut story = Story::new(queues(1, 1, 10), 2);
        let write = Width { initial: 1, last: 2, after: 5 * MS };
        let Arrival::Executing(ticket) = story.arrive(0, 1, write) else { panic!("it is empty") };
        story.set.leave(MS, ticket);
        assert!(matches!(story.arrive(2 * MS, 2, Width::ONE), Arrival::Waiting(_)));
        assert_eq!(story.set.next_release(), Some(6 * MS));
        story.set.advance(6 * MS - 1);
        assert_eq!(story.let_in(), [] as [u64; 0]);
        story.set.advance(6 * MS);
        assert_eq!(story.let_in(), [2]);
        assert_eq!(story.set.next_release(), None);
    }

    #[test]
    fn nothing_is_left_of_a_thousand_random_requests() {
        for seed in 0..30u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9) + 1;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let mut story = Story::new(queues(16, 4, 8), 5);
            let (mut now, mut present) = (0, Vec::new());
            for id in 0..1000 {
                now += random(2 * MS);
                let width = Width { initial: 1 + random(3) as u32, last: random(3) as u32, after: random(2) * MS };
                if let Arrival::Executing(t) | Arrival::Waiting(t) = story.arrive(now, id * 37, width) {
                    present.push(t);
                }
                while random(2) == 0 && !present.is_empty() {
                    let gone = present.swap_remove(random(present.len() as u64) as usize);
                    story.set.leave(now, gone);
                }
                if random(100) == 0 {
                    let size = 4 + random(20) as usize;
                    story.set.configure(now, queues(size, 4, 8), 1 + random(8) as u32);
                }
                let seats: u32 = story.set.requests().filter(|(_, r)| r.state != State::Waiting).map(|(_, r)| r.width.seats()).sum();
                assert_eq!(seats, story.set.seats_in_use);
                let idle_while_waiting = story.set.waiting > 0 && story.set.executing == 0 && story.set.seats_in_use == 0;
                assert!(!idle_while_waiting, "seed {seed}, request {id}");
            }
            for ticket in present {
                story.set.leave(now, ticket);
            }
            story.set.advance(now + 10 * MS);
            assert!(story.is_empty(), "seed {seed}");
            story.set.configure(now + 10 * MS, Discipline::Reject, 5);
            assert!(story.set.queues.is_empty());
        }
    }
}
