//! Waiting longer after each failure (upstream: `k8s.io/client-go/util/flowcontrol.Backoff`).

use jiff::{SignedDuration, Timestamp};

/// First and longest wait of crashing containers and failing pulls.
pub const BASE: SignedDuration = SignedDuration::from_secs(10);
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// How long to wait after the next failure. A quiet time of twice the longest wait begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub wait: SignedDuration,
    last_update: Timestamp,
}

impl Backoff {
    /// Counts a failure that happened at `event`.
    pub fn next(previous: Option<Self>, event: Timestamp, now: Timestamp) -> Self {
        let wait = match previous {
            Some(p) if !p.is_over(event) => (p.wait * 2).min(MAX),
            _ => BASE,
        };
        Self { wait, last_update: now }
    }

    fn is_over(&self, event: Timestamp) -> bool {
        event.duration_since(self.last_update) > MAX * 2
    }

    /// Until when a container that ended at `event` has to wait, if it has to.
    pub fn until_since(&self, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let until = event + self.wait;
        (!self.is_over(event) && now < until).then_some(until)
    }

    /// Until when to wait after the last failure, if at all.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.last_update + self.wait;
        (now < until).then_some(until)
    }
}

/// A duration, cut to milliseconds, as Go prints it: `236ms`, `1.964s`, `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: SignedDuration) -> String {
    let (seconds, millis) = (d.as_secs(), d.subsec_millis());
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if millis != 0 => format!("{millis}ms"),
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let written = |millis| go_duration(SignedDuration::from_millis(millis));
        let all = [0, 236, 1000, 1965, 2500, 60_000, 61_050, 3_600_000].map(written);
        assert_eq!(all, ["0s", "236ms", "1s", "1.965s", "2.5s", "1m0s", "1m1.05s", "1h0m0s"]);
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_are_forgotten_in_quiet_times() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut backoff = Backoff::next(None, at(0), at(0));
        let mut waits = vec![go_duration(backoff.wait)];
        for _ in 0..6 {
            backoff = Backoff::next(Some(backoff), at(0), at(0));
            waits.push(go_duration(backoff.wait));
        }
        assert_eq!(waits, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
        assert_eq!(backoff.until_since(at(5), at(100)), Some(at(305)));
        assert_eq!(backoff.until_since(at(5), at(305)), None);
        assert_eq!(Backoff::next(Some(backoff), at(601), at(601)).wait, BASE);
    }
}
