//! Who waits for a node: ready pods by priority, pods that failed and wait a while, pods that wait for something to change.
//! Upstream: `k8s.io/kubernetes/pkg/scheduler/backend/queue`.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::pod::PodInfo;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that nothing happened for is tried again after this long.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// Higher priority first, then who came first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ready {
    priority: i64,
    order: u64,
    uid: String,
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> Ordering {
        other.priority.cmp(&self.priority).then_with(|| self.order.cmp(&other.order)).then_with(|| self.uid.cmp(&other.uid))
    }
}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Ready,
    /// Until then, whatever happens.
    Backoff(Instant),
    /// Until something happens, at the latest then.
    Unschedulable(Instant),
    /// Taken out to be decided.
    Deciding {
        moved: bool,
    },
}

struct Waiting {
    pod: Arc<PodInfo>,
    attempts: u32,
    order: u64,
    place: Place,
    failed_at: Option<Instant>,
}

#[derive(Default)]
struct Inner {
    pods: HashMap<String, Waiting>,
    ready: BTreeSet<Ready>,
    order: u64,
}

/// The queue. Cheap to share.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

impl Inner {
    fn make_ready(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.place = Place::Ready;
            self.ready.insert(Ready { priority: waiting.pod.priority, order: waiting.order, uid: uid.to_owned() });
        }
    }

    fn unready(&mut self, uid: &str) {
        if let Some(w) = self.pods.get(uid) {
            self.ready.remove(&Ready { priority: w.pod.priority, order: w.order, uid: uid.to_owned() });
        }
    }

    /// Moves those whose time has come; gives the next time.
    fn wake(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut due = Vec::new();
        for (uid, w) in &self.pods {
            if let Place::Backoff(at) | Place::Unschedulable(at) = w.place {
                if at <= now {
                    due.push(uid.clone());
                } else {
                    next = Some(next.map_or(at, |n| n.min(at)));
                }
            }
        }
        due.iter().for_each(|uid| self.make_ready(uid));
        next
    }
}

impl Queue {
    /// Enters a pod, or takes note that it changed: a changed pod that waits is tried again.
    pub fn put(&self, pod: Arc<PodInfo>) {
        let mut inner = self.inner.lock();
        inner.unready(&pod.uid);
        let uid = pod.uid.clone();
        match inner.pods.get_mut(&uid) {
            Some(waiting) => {
                let same = *waiting.pod == *pod || only_status_differs(&waiting.pod, &pod);
                waiting.pod = pod;
                match &mut waiting.place {
                    Place::Ready => inner.make_ready(&uid),
                    Place::Deciding { moved } => *moved |= !same,
                    _ if !same => inner.make_ready(&uid),
                    _ => {}
                }
            }
            None => {
                inner.order += 1;
                let order = inner.order;
                inner.pods.insert(uid.clone(), Waiting { pod, attempts: 0, order, place: Place::Ready, failed_at: None });
                inner.make_ready(&uid);
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    pub fn remove(&self, uid: &str) {
        let mut inner = self.inner.lock();
        inner.unready(uid);
        inner.pods.remove(uid);
    }

    /// Takes the next pod, waiting until there is one.
    pub async fn next(&self) -> Arc<PodInfo> {
        loop {
            let notified = self.changed.notified();
            let next = {
                let mut inner = self.inner.lock();
                let next = inner.wake(Instant::now());
                if let Some(first) = inner.ready.pop_first()
                    && let Some(waiting) = inner.pods.get_mut(&first.uid)
                {
                    waiting.place = Place::Deciding { moved: false };
                    waiting.attempts += 1;
                    return waiting.pod.clone();
                }
                next
            };
            match next {
                Some(at) => tokio::select! { () = notified => {}, () = tokio::time::sleep_until(at) => {} },
                None => notified.await,
            }
        }
    }

    /// A pod that was taken found no node: it waits for a change, and if there was one meanwhile, only a while.
    pub fn unschedulable(&self, uid: &str) {
        self.give_back(uid, false);
    }

    /// A pod that was taken could not be bound: it is tried again after a while.
    pub fn failed(&self, uid: &str) {
        self.give_back(uid, true);
    }

    fn give_back(&self, uid: &str, retry: bool) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if let Some(waiting) = inner.pods.get_mut(uid) {
            let moved = matches!(waiting.place, Place::Deciding { moved: true });
            waiting.failed_at = Some(now);
            waiting.place = if moved || retry { Place::Backoff(now + backoff(waiting.attempts)) } else { Place::Unschedulable(now + UNSCHEDULABLE_MAX) };
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Something changed that may help: everybody who waits for a change is tried again, as soon as its backoff is over.
    pub fn something_changed(&self, may_help: impl Fn(&PodInfo) -> bool) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let mut due = Vec::new();
        for (uid, w) in &mut inner.pods {
            match &mut w.place {
                Place::Unschedulable(_) if may_help(&w.pod) => {
                    let until = w.failed_at.unwrap_or(now) + backoff(w.attempts);
                    if until <= now {
                        due.push(uid.clone());
                    } else {
                        w.place = Place::Backoff(until);
                    }
                }
                Place::Deciding { moved } => *moved = true,
                _ => {}
            }
        }
        due.iter().for_each(|uid| inner.make_ready(uid));
        drop(inner);
        self.changed.notify_one();
    }

    pub fn len(&self) -> usize {
        self.inner.lock().pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The scheduler's own writes to a pod's status are no reason to try it again.
fn only_status_differs(old: &PodInfo, new: &PodInfo) -> bool {
    PodInfo { nominated: new.nominated.clone(), started: new.started, ended: new.ended, ..old.clone() } == *new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i64) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: uid.into(), priority, ..PodInfo::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_important_comes_first_then_the_earlier() {
        let queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.put(pod(uid, priority));
        }
        for wanted in ["b", "a", "c"] {
            assert_eq!(queue.next().await.uid, wanted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_found_no_node_waits_for_a_change_and_then_for_its_backoff() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.put(pod("a", 0));
        queue.next().await;
        queue.unschedulable("a");
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
        queue.something_changed(|_| true);
        assert_eq!(queue.next().await.uid, "a");
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        queue.unschedulable("a");
        queue.something_changed(|_| true);
        queue.next().await;
        assert_eq!(start.elapsed(), Duration::from_secs(62));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_the_decision_is_not_lost() {
        let queue = Queue::default();
        queue.put(pod("a", 0));
        queue.next().await;
        queue.something_changed(|_| true);
        queue.unschedulable("a");
        let waited = Instant::now();
        queue.next().await;
        assert_eq!(waited.elapsed(), BACKOFF_FIRST);
    }
}
