//! How long a Job waits before it replaces failed pods: twice as long with each failure since the last success.
//! Upstream: `backoff_utils.go`.

use std::time::Duration;

use jiff::Timestamp;

use super::pod::JobPod;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// Failures of a Job since its last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: i32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// The state after these pods ended too.
    pub fn after(self, succeeded: &[&JobPod], failed: &[&JobPod]) -> Self {
        let ends = |pods: &[&JobPod]| -> Vec<Timestamp> { pods.iter().map(|p| p.finished_at()).collect() };
        let failures = ends(failed);
        match ends(succeeded).into_iter().max() {
            None if failures.is_empty() => self,
            None => Self { failures: self.failures + count(failures.len()), last: failures.into_iter().max() },
            Some(success) => {
                let later: Vec<Timestamp> = failures.into_iter().filter(|f| *f > success).collect();
                Self { failures: count(later.len()), last: later.into_iter().max() }
            }
        }
    }

    /// How long no pod may be created yet.
    pub fn remaining(self, now: Timestamp) -> Duration {
        remaining(self.failures, self.last, now)
    }
}

/// How long an index may not be tried again yet, after this pod of it failed.
pub fn of_index(last: Option<&JobPod>, now: Timestamp) -> Duration {
    let Some(pod) = last else { return Duration::ZERO };
    let (counted, ignored) = pod.failures_before();
    remaining(counted.saturating_add(ignored).saturating_add(1), Some(pod.finished_at()), now)
}

fn remaining(failures: i32, last: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(last) = last.filter(|_| failures > 0) else { return Duration::ZERO };
    let doubled = u32::try_from(failures - 1).ok().and_then(|n| 2_u32.checked_pow(n)).and_then(|factor| FIRST.checked_mul(factor));
    let pause = doubled.unwrap_or(LONGEST).min(LONGEST);
    Duration::try_from((last + pause).duration_since(now)).unwrap_or(Duration::ZERO)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_ten_minutes() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let pause = |failures| remaining(failures, Some(now), now).as_secs();
        assert_eq!([0, 1, 2, 3, 6, 7, 100].map(pause), [0, 10, 20, 40, 320, 600, 600]);
        let later = now + Duration::from_secs(15);
        assert_eq!((remaining(1, Some(now), later).as_secs(), remaining(2, Some(now), later).as_secs()), (0, 5));
    }
}
