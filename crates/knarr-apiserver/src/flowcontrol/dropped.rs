//! How long those are told to stay away who were refused: longer while many are, shorter as it gets quiet
//! (upstream: `dropped_requests_tracker.go`).

use std::collections::VecDeque;

/// Longest `Retry-After`, in seconds.
const RETRY_AFTER_MAX: i64 = 32;

/// What was refused at one level.
#[derive(Debug)]
pub struct Dropped {
    /// Second and number, of the seconds before the current one.
    history: VecDeque<(i64, i64)>,
    current: (i64, i64),
    retry_after: i64,
    raised_at: i64,
}

impl Default for Dropped {
    fn default() -> Self {
        Self { history: VecDeque::new(), current: (0, 0), retry_after: 1, raised_at: 0 }
    }
}

impl Dropped {
    /// Notes a refusal in this second; gives the `Retry-After` of it.
    pub fn note(&mut self, second: i64) -> i64 {
        if self.current.0 == second {
            self.current.1 += 1;
            return self.retry_after;
        }
        self.history.push_back(self.current);
        let oldest = self.current.0 - (2 * self.retry_after).min(RETRY_AFTER_MAX);
        while self.history.front().is_some_and(|(at, _)| *at < oldest) {
            self.history.pop_front();
        }
        self.current = (second, 1);
        self.adapt(second);
        self.retry_after
    }

    /// Doubles the time when at least three a second were refused, shortens it when there was less than one.
    fn adapt(&mut self, second: i64) {
        let since = second - self.retry_after;
        let refused: i64 = self.history.iter().filter(|(at, _)| *at >= since && *at < second).map(|(_, n)| n).sum();
        if second - self.raised_at >= self.retry_after && refused >= 3 * self.retry_after {
            self.retry_after = (self.retry_after * 2).min(RETRY_AFTER_MAX);
            self.raised_at = second;
        } else if refused < self.retry_after && self.retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_storms_is_sent_away_for_longer_and_longer() {
        let mut dropped = Dropped::default();
        let mut second = 1000;
        assert_eq!(dropped.note(second), 1);
        let mut told = Vec::new();
        for _ in 0..40 {
            for _ in 0..200 {
                dropped.note(second);
            }
            second += 1;
            told.push(dropped.note(second));
        }
        assert_eq!(told.first(), Some(&2));
        assert_eq!(told.last(), Some(&32));
        assert!(told.windows(2).all(|w| w[0] <= w[1]), "{told:?}");
        // Quiet: one refusal now and then.
        let later: Vec<i64> = (1..5).map(|i| dropped.note(second + i * 40)).collect();
        assert_eq!(later, [31, 30, 29, 28]);
    }
}
