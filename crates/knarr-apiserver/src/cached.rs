//! Answers of others that hold for a while: one question is under way once, however many ask it.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::OnceCell, time::Instant};

type Entry<V> = Arc<OnceCell<(V, Instant)>>;

/// Answers by question, each with its end.
pub struct Cached<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
    max: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Cached<K, V> {
    /// Keeps at most `max` answers.
    pub fn new(max: usize) -> Self {
        Self { entries: Mutex::default(), max }
    }

    /// The answer that is known, or that somebody is waiting for, or else the one that `ask` gives, for as long as it says.
    pub async fn get(&self, key: &K, ask: impl AsyncFnOnce() -> (V, Duration)) -> V {
        let entry = self.entry(key);
        let asked = async || {
            let (value, time) = ask().await;
            (value, Instant::now() + time)
        };
        let (value, until) = entry.get_or_init(asked).await.clone();
        if until <= Instant::now() {
            let mut entries = self.entries.lock();
            if entries.get(key).is_some_and(|known| Arc::ptr_eq(known, &entry)) {
                entries.remove(key);
            }
        }
        value
    }

    fn entry(&self, key: &K) -> Entry<V> {
        let now = Instant::now();
        let is_over = |entry: &Entry<V>| entry.get().is_some_and(|(_, until)| *until <= now);
        let mut entries = self.entries.lock();
        if let Some(known) = entries.get(key).filter(|e| !is_over(e)) {
            return known.clone();
        }
        if entries.len() >= self.max {
            entries.retain(|_, e| !is_over(e));
        }
        if entries.len() >= self.max {
            entries.clear();
        }
        entries.entry(key.clone()).insert_entry(Entry::default()).get().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_once_for_as_long_as_its_answer_holds() {
        let (cached, asked) = (Cached::new(2), AtomicUsize::new(0));
        let ask = async |key: &'static str, seconds: u64| {
            let work = async || {
                tokio::time::sleep(Duration::from_secs(1)).await;
                (asked.fetch_add(1, Relaxed), Duration::from_secs(seconds))
            };
            cached.get(&key, work).await
        };
        assert_eq!(tokio::join!(ask("a", 10), ask("a", 10), ask("a", 10)), (0, 0, 0));
        assert_eq!(ask("a", 10).await, 0);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(ask("a", 10).await, 1);
        // What holds for no time is not kept.
        assert_eq!((ask("b", 0).await, ask("b", 0).await), (2, 3));
        for key in ["c", "d", "e"] {
            ask(key, 10).await;
            assert!(cached.entries.lock().len() <= 2);
        }
    }
}
