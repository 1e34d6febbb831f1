//! [`WorkQueue`]: keys that wait to be reconciled.
//!
//! A key that is added twice waits once; a key that is added while it is being worked on waits until that is done, so one
//! key never runs twice at once (upstream: `k8s.io/client-go/util/workqueue`). Delays run on `tokio::time`, without a task
//! of their own: whoever waits for a key also waits for the next deadline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First delay of a failing key (upstream: `DefaultTypedControllerRateLimiter`).
pub const BACKOFF_BASE: Duration = Duration::from_millis(5);
/// Longest delay of a failing key.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// What happens in a queue, for metrics. All methods do nothing unless implemented.
pub trait QueueMetrics: Send + Sync + 'static {
    /// `workqueue_adds_total`, `workqueue_depth`.
    fn added(&self, _depth: usize) {}
    /// `workqueue_queue_duration_seconds`.
    fn taken(&self, _waited: Duration, _depth: usize) {}
    /// `workqueue_work_duration_seconds`.
    fn finished(&self, _worked: Duration) {}
    /// `workqueue_retries_total`.
    fn retried(&self) {}
}

/// For queues that nobody measures.
pub struct NoMetrics;
impl QueueMetrics for NoMetrics {}

struct State<K> {
    /// Keys in order of arrival, each with the time it came.
    ready: VecDeque<(K, Instant)>,
    /// Keys that must run: those in `ready`, and those added while in `active`.
    dirty: BTreeSet<K>,
    /// Keys being worked on, each with the time work began.
    active: BTreeMap<K, Instant>,
    /// Keys that become ready later, the earliest first.
    delayed: BTreeSet<(Instant, K)>,
    delayed_at: BTreeMap<K, Instant>,
    failures: BTreeMap<K, u32>,
    closed: bool,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    metrics: Arc<dyn QueueMetrics>,
    backoff: (Duration, Duration),
}

/// A queue of keys. Cheap to clone; all clones are one queue.
pub struct WorkQueue<K>(Arc<Inner<K>>);

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    pub fn new() -> Self {
        Self::with(Arc::new(NoMetrics), BACKOFF_BASE, BACKOFF_MAX)
    }

    /// A queue with metrics and its own first and longest backoff.
    pub fn with(metrics: Arc<dyn QueueMetrics>, backoff_base: Duration, backoff_max: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            active: BTreeMap::new(),
            delayed: BTreeSet::new(),
            delayed_at: BTreeMap::new(),
            failures: BTreeMap::new(),
            closed: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), metrics, backoff: (backoff_base, backoff_max) }))
    }

    /// Adds a key, now.
    pub fn add(&self, key: K) {
        let mut state = self.0.state.lock();
        if self.put(&mut state, key) {
            drop(state);
            self.0.wake.notify_one();
        }
    }

    fn put(&self, state: &mut State<K>, key: K) -> bool {
        if state.closed || !state.dirty.insert(key.clone()) {
            return false;
        }
        let idle = !state.active.contains_key(&key);
        if idle {
            state.ready.push_back((key, Instant::now()));
        }
        self.0.metrics.added(state.ready.len());
        idle
    }

    /// Adds a key after a while. Of several delays for one key the earliest holds.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.0.state.lock();
        if state.closed {
            return;
        }
        match state.delayed_at.get(&key).copied() {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                state.delayed.remove(&(later, key.clone()));
            }
            None => {}
        }
        state.delayed_at.insert(key.clone(), at);
        state.delayed.insert((at, key));
        drop(state);
        self.0.wake.notify_one();
    }

    /// Adds a key again after it failed, later with each failure.
    pub fn add_rate_limited(&self, key: K) {
        let failures = {
            let mut state = self.0.state.lock();
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count += 1;
            *count
        };
        self.0.metrics.retried();
        let (base, max) = self.0.backoff;
        let delay = base.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(max);
        self.add_after(key, delay);
    }

    /// Ends the key's backoff: its next failure counts as the first.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Waits for a key; `None` when the queue is shut down. [`Self::done`] must follow.
    pub async fn get(&self) -> Option<K> {
        loop {
            let next_deadline = {
                let mut state = self.0.state.lock();
                if state.closed {
                    drop(state);
                    self.0.wake.notify_one();
                    return None;
                }
                self.ripen(&mut state);
                if let Some(key) = self.take(&mut state) {
                    let more = !state.ready.is_empty() || !state.delayed.is_empty();
                    drop(state);
                    if more {
                        self.0.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.first().map(|(at, _)| *at)
            };
            match next_deadline {
                Some(at) => drop(tokio::time::timeout_at(at, self.0.wake.notified()).await),
                None => self.0.wake.notified().await,
            }
        }
    }

    fn ripen(&self, state: &mut State<K>) {
        let now = Instant::now();
        while state.delayed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = state.delayed.pop_first() {
                state.delayed_at.remove(&key);
                self.put(state, key);
            }
        }
    }

    fn take(&self, state: &mut State<K>) -> Option<K> {
        let (key, since) = state.ready.pop_front()?;
        state.dirty.remove(&key);
        state.active.insert(key.clone(), Instant::now());
        self.0.metrics.taken(since.elapsed(), state.ready.len());
        Some(key)
    }

    /// Ends the work on a key. When it was added meanwhile it becomes ready again.
    pub fn done(&self, key: &K) {
        let mut state = self.0.state.lock();
        if let Some(since) = state.active.remove(key) {
            self.0.metrics.finished(since.elapsed());
        }
        if state.dirty.contains(key) && !state.closed {
            state.ready.push_back((key.clone(), Instant::now()));
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Keys that are ready now.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing ready, nothing being worked on, nothing delayed.
    pub fn is_idle(&self) -> bool {
        let state = self.0.state.lock();
        state.ready.is_empty() && state.active.is_empty() && state.delayed.is_empty()
    }

    /// Ends the queue: waiting and later `get`s give `None`, adds do nothing.
    pub fn shut_down(&self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_waiters();
        self.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_waits_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_being_worked_on_is_not_handed_out_again() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.get().await;
        queue.add("a");
        assert_eq!(queue.len(), 0);
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_delays_the_earlier_holds() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(20));
        queue.get().await;
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_doubles_until_forgotten() {
        let queue = WorkQueue::new();
        let mut waits = Vec::new();
        for round in 0..4 {
            if round == 3 {
                queue.forget(&"a");
            }
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.get().await;
            queue.done(&"a");
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_waiting_workers_are_served() {
        let queue = WorkQueue::new();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.get().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for key in [1, 2, 3] {
            queue.add(key);
        }
        let mut got: Vec<_> = futures::future::join_all(workers).await.into_iter().map(|r| r.unwrap().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3]);
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        queue.shut_down();
        assert_eq!(waiting.await.unwrap(), None);
    }
}
