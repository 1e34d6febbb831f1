//! The runner of controllers: takes keys from a queue, reconciles several at once (never one key twice), backs off after
//! failures, and survives a panic of one reconcile.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use knarr_core::Result;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::queue::WorkQueue;

/// What is to happen with a key after a successful reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing, until something changes.
    Done,
    /// Once more after this time.
    After(Duration),
    /// Once more, later each time (an expected failure that is no error).
    Retry,
}

/// Reconciles the keys of `queue` with up to `workers` at once until `stop` is cancelled; then waits for those at work.
///
/// An error or a panic puts the key back with backoff. `Conflict` is logged quietly: the cache was behind.
pub async fn run<K, F, R>(name: &'static str, queue: WorkQueue<K>, workers: usize, stop: CancellationToken, reconcile: F)
where
    K: Ord + Clone + Send + Sync + std::fmt::Debug + 'static,
    F: Fn(K) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Outcome>> + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let permits = Arc::new(Semaphore::new(workers));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let key = tokio::select! {
            key = queue.get() => key,
            () = stop.cancelled() => None,
        };
        let Some(key) = key else { break };
        let (queue, reconcile) = (queue.clone(), reconcile.clone());
        tokio::spawn(async move {
            let result = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind().await;
            settle(name, &queue, key, result);
            drop(permit);
        });
    }
    queue.shut_down();
    drop(permits.acquire_many(u32::try_from(workers).unwrap_or(u32::MAX)).await);
}

fn settle<K: Ord + Clone + std::fmt::Debug>(name: &str, queue: &WorkQueue<K>, key: K, result: std::thread::Result<Result<Outcome>>) {
    match result {
        Ok(Ok(Outcome::Done)) => queue.forget(&key),
        Ok(Ok(Outcome::After(delay))) => {
            queue.forget(&key);
            queue.add_after(key.clone(), delay);
        }
        Ok(Ok(Outcome::Retry)) => queue.add_rate_limited(key.clone()),
        Ok(Err(error)) => {
            if error.is_conflict() {
                tracing::debug!(controller = name, ?key, %error, "the cache was behind, trying again");
            } else {
                tracing::warn!(controller = name, ?key, %error, "reconcile failed, trying again");
            }
            queue.add_rate_limited(key.clone());
        }
        Err(_) => {
            tracing::error!(controller = name, ?key, "reconcile panicked, trying again");
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panicking_key_is_tried_again_and_others_go_on() {
        let (queue, stop, runs) = (WorkQueue::new(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        queue.add("bad");
        queue.add("good");
        let counted = runs.clone();
        let handle = tokio::spawn(run("test", queue.clone(), 2, stop.clone(), move |key| {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(key != "bad" || n > 2, "first time");
                Ok(Outcome::Done)
            }
        }));
        while !(runs.load(Ordering::SeqCst) >= 4 && queue.is_idle()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(queue.failures(&"bad"), 0);
        stop.cancel();
        handle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_wanted_number_run_at_once() {
        let (queue, stop) = (WorkQueue::new(), CancellationToken::new());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        (0..20).for_each(|k| queue.add(k));
        let (n, m) = (now.clone(), most.clone());
        let handle = tokio::spawn(run("test", queue.clone(), 3, stop.clone(), move |_| {
            let (n, m) = (n.clone(), m.clone());
            async move {
                m.fetch_max(n.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                n.fetch_sub(1, Ordering::SeqCst);
                Ok(Outcome::Done)
            }
        }));
        while !queue.is_idle() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
        stop.cancel();
        handle.await.unwrap();
    }
}
