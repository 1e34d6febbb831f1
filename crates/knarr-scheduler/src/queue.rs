//! Who waits for a node: ready pods by priority, pods that failed and wait a while, pods that wait for something to change.
//! Upstream: `k8s.io/kubernetes/pkg/scheduler/backend/queue`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::pod::{ByUid, PodInfo};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that nothing happened for is tried again after this long.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// In which order pods came.
type Order = u64;

/// Milliseconds since the queue began: of thousands of pods that wait, each keeps its time twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Moment {
    const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait.as_millis() as u64))
    }

    const fn before(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(wait.as_millis() as u64))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Ready,
    /// Until then, whatever happens.
    Backoff(Moment),
    /// Until something happens, at the latest then.
    Unschedulable(Moment),
    /// Taken out to be decided.
    Deciding {
        moved: bool,
    },
}

struct Waiting {
    pod: Arc<PodInfo>,
    attempts: u32,
    place: Place,
}

#[derive(Default)]
struct Inner {
    pods: BTreeMap<Order, Waiting>,
    by_uid: HashMap<ByUid, Order>,
    /// Higher priority first, then who came first.
    ready: BTreeSet<(Reverse<i64>, Order)>,
    /// Who waits, by the time when the wait is over.
    due: BTreeSet<(Moment, Order)>,
    /// Who is tried again, or takes note, when something changes: few of many.
    attentive: BTreeSet<Order>,
    last: Order,
}

/// The queue. Cheap to share.
pub struct Queue {
    began: Instant,
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Default for Queue {
    fn default() -> Self {
        Self { began: Instant::now(), inner: Mutex::default(), changed: Notify::default() }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

impl Inner {
    /// Takes a pod out of its place and puts it into the one that `change` gives it.
    fn change(&mut self, order: Order, change: impl FnOnce(&mut Waiting)) {
        let Some(waiting) = self.pods.get_mut(&order) else { return };
        let old = (waiting.place, waiting.pod.priority);
        change(waiting);
        let new = (waiting.place, waiting.pod.priority);
        if old == new {
            return;
        }
        match old {
            (Place::Ready, priority) => drop(self.ready.remove(&(Reverse(priority), order))),
            (Place::Backoff(at) | Place::Unschedulable(at), _) => drop(self.due.remove(&(at, order))),
            (Place::Deciding { .. }, _) => {}
        }
        match new {
            (Place::Ready, priority) => drop(self.ready.insert((Reverse(priority), order))),
            (Place::Backoff(at) | Place::Unschedulable(at), _) => drop(self.due.insert((at, order))),
            (Place::Deciding { .. }, _) => {}
        }
        match new.0 {
            Place::Unschedulable(_) | Place::Deciding { .. } => self.attentive.insert(order),
            Place::Ready | Place::Backoff(_) => self.attentive.remove(&order),
        };
    }

    fn move_to(&mut self, order: Order, place: Place) {
        self.change(order, |w| w.place = place);
    }

    /// Moves those whose time has come; gives the next time.
    fn wake(&mut self, now: Moment) -> Option<Moment> {
        loop {
            let (at, order) = *self.due.first()?;
            if at > now {
                return Some(at);
            }
            self.due.pop_first();
            self.move_to(order, Place::Ready);
        }
    }
}

impl Queue {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Enters a pod, or takes note that it changed: a changed pod that waits is tried again.
    pub fn put(&self, pod: Arc<PodInfo>) {
        let mut inner = self.inner.lock();
        // The old entry goes, or it would keep what the pod was.
        let known = inner.by_uid.remove(&*pod.uid);
        let order = known.unwrap_or(inner.last + 1);
        inner.by_uid.insert(ByUid(pod.clone()), order);
        match known {
            Some(_) => inner.change(order, |waiting| {
                let same = *waiting.pod == *pod || only_status_differs(&waiting.pod, &pod);
                waiting.pod = pod;
                match &mut waiting.place {
                    Place::Deciding { moved } => *moved |= !same,
                    place if !same => *place = Place::Ready,
                    _ => {}
                }
            }),
            None => {
                inner.last = order;
                inner.pods.insert(order, Waiting { pod, attempts: 0, place: Place::Deciding { moved: false } });
                inner.move_to(order, Place::Ready);
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    pub fn remove(&self, uid: &str) {
        let mut inner = self.inner.lock();
        if let Some(order) = inner.by_uid.remove(uid) {
            inner.move_to(order, Place::Deciding { moved: false });
            inner.attentive.remove(&order);
            inner.pods.remove(&order);
        }
    }

    /// Takes the next pod, waiting until there is one.
    pub async fn next(&self) -> Arc<PodInfo> {
        loop {
            let notified = self.changed.notified();
            let next = {
                let mut inner = self.inner.lock();
                let next = inner.wake(self.now());
                if let Some((_, order)) = inner.ready.first().copied() {
                    inner.move_to(order, Place::Deciding { moved: false });
                    if let Some(waiting) = inner.pods.get_mut(&order) {
                        waiting.attempts += 1;
                        return waiting.pod.clone();
                    }
                }
                next
            };
            match next {
                Some(at) => tokio::select! { () = notified => {}, () = tokio::time::sleep_until(self.began + Duration::from_millis(at.0)) => {} },
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
        let now = self.now();
        let mut inner = self.inner.lock();
        if let Some(order) = inner.by_uid.get(uid).copied() {
            inner.change(order, |waiting| {
                let moved = matches!(waiting.place, Place::Deciding { moved: true });
                waiting.place =
                    if moved || retry { Place::Backoff(now.after(backoff(waiting.attempts))) } else { Place::Unschedulable(now.after(UNSCHEDULABLE_MAX)) };
            });
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Something changed that may help: everybody who waits for a change is tried again, as soon as its backoff is over.
    pub fn something_changed(&self, may_help: impl Fn(&PodInfo) -> bool) {
        let now = self.now();
        let mut inner = self.inner.lock();
        let Inner { pods, attentive, .. } = &mut *inner;
        let mut moved = Vec::new();
        for order in attentive.iter() {
            let Some(w) = pods.get_mut(order) else { continue };
            match &mut w.place {
                Place::Unschedulable(until) if may_help(&w.pod) => {
                    let until = until.before(UNSCHEDULABLE_MAX).after(backoff(w.attempts));
                    moved.push((*order, if until <= now { Place::Ready } else { Place::Backoff(until) }));
                }
                Place::Deciding { moved } => *moved = true,
                _ => {}
            }
        }
        for (order, place) in moved {
            inner.move_to(order, place);
        }
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
    use crate::pod::Demands;

    fn pod(uid: &str, priority: i64) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: uid.into(), demands: Demands { priority, ..Demands::default() }.into(), ..PodInfo::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_important_comes_first_then_the_earlier() {
        let queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.put(pod(uid, priority));
        }
        for wanted in ["b", "a", "c"] {
            assert_eq!(*queue.next().await.uid, *wanted);
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
        assert_eq!(*queue.next().await.uid, *"a");
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

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_in_one_place_only() {
        let queue = Queue::default();
        queue.put(pod("a", 0));
        queue.put(pod("b", 0));
        // Another priority moves it, its going takes it out, wherever it is.
        queue.put(pod("b", 5));
        assert_eq!(*queue.next().await.uid, *"b");
        queue.failed("b");
        queue.put(pod("b", 1));
        queue.remove("a");
        assert_eq!(*queue.next().await.uid, *"b");
        queue.unschedulable("b");
        queue.remove("b");
        let inner = queue.inner.lock();
        assert!(inner.pods.is_empty() && inner.by_uid.is_empty() && inner.ready.is_empty() && inner.due.is_empty() && inner.attentive.is_empty());
    }
}
