//! Which revisions are past: those that had been replaced a window of time ago.
//!
//! A resource in which nothing happens could be shown at any earlier revision for ever, since nothing has to be undone. Clients are promised
//! something else: a list in pages ends with 410 when it is left lying for too long, whatever happened meanwhile (upstream: the compaction of
//! etcd). So the revision of the store as a whole is noted from time to time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Revisions of the store with the time at which each was the current one, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    noted: VecDeque<(Instant, u64)>,
}

impl Passed {
    /// Notes the current revision and forgets what no question can be about any more.
    pub fn note(&mut self, now: Instant, revision: u64, window: Duration) {
        if self.noted.back().is_none_or(|(_, last)| *last != revision) {
            self.noted.push_back((now, revision));
        }
        while self.noted.get(1).is_some_and(|(at, _)| *at + window <= now) {
            self.noted.pop_front();
        }
    }

    /// Every revision below this one is past.
    pub fn begin(&self, now: Instant, window: Duration) -> u64 {
        self.noted.iter().take_while(|(at, _)| *at + window <= now).last().map_or(0, |(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    #[test]
    fn a_revision_is_past_when_it_was_replaced_a_window_ago() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut passed = Passed::default();
        passed.note(at(0), 7, WINDOW);
        passed.note(at(60), 9, WINDOW);
        passed.note(at(120), 9, WINDOW);
        assert_eq!(passed.begin(at(299), WINDOW), 0);
        assert_eq!(passed.begin(at(300), WINDOW), 7, "7 was current until 60, so only what is below is past");
        assert_eq!(passed.begin(at(360), WINDOW), 9);
        passed.note(at(400), 12, WINDOW);
        assert_eq!(passed.begin(at(100_000), WINDOW), 12);
        assert_eq!(passed.noted.len(), 2);
    }
}
