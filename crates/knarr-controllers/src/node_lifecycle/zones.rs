//! How fast nodes may lose their pods. A zone of which much is down is more likely cut off than dead, and when every zone
//! is down it is probably the control plane that is cut off. Upstream: `handleDisruption`, `ComputeZoneState`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Between two nodes of a zone (upstream: `--node-eviction-rate`, 0.1 a second).
const INTERVAL: Duration = Duration::from_secs(10);
/// The same in a large zone of which much is down (upstream: `--secondary-node-eviction-rate`, 0.01 a second).
const SLOW_INTERVAL: Duration = Duration::from_secs(100);
/// A zone is large beyond this size; small zones of which much is down lose nothing (upstream: 50).
const LARGE: usize = 50;
/// Much is down: more than two nodes, and this share of them (upstream: `--unhealthy-zone-threshold`).
const UNHEALTHY_SHARE: f64 = 0.55;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ready: usize,
    not_ready: usize,
}

impl Count {
    fn state(self) -> State {
        let all = (self.ready + self.not_ready) as f64;
        match self {
            Self { ready: 0, not_ready } if not_ready > 0 => State::Full,
            Self { not_ready, .. } if not_ready > 2 && not_ready as f64 / all >= UNHEALTHY_SHARE => State::Partial,
            _ => State::Normal,
        }
    }
}

/// All zones.
#[derive(Debug, Default)]
pub struct Zones {
    counts: BTreeMap<String, Count>,
    /// When each zone may lose its next node.
    next: BTreeMap<String, Instant>,
    all_down: bool,
}

impl Zones {
    /// Takes in zone and readiness of all nodes. Gives whether all zones were down before and are now.
    pub fn assess(&mut self, nodes: impl Iterator<Item = (String, bool)>) -> (bool, bool) {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for (zone, ready) in nodes {
            let count = counts.entry(zone).or_default();
            *(if ready { &mut count.ready } else { &mut count.not_ready }) += 1;
        }
        let before = self.all_down;
        self.all_down = !counts.is_empty() && counts.values().all(|c| c.state() == State::Full);
        self.next.retain(|zone, _| counts.contains_key(zone));
        self.counts = counts;
        (before, self.all_down)
    }

    pub fn all_down(&self) -> bool {
        self.all_down
    }

    /// Lets a node of this zone lose its pods now, or tells when to ask again.
    pub fn admit(&mut self, zone: &str, _node: &str, now: Instant) -> Result<(), Duration> {
        let count = self.counts.get(zone).copied().unwrap_or_default();
        let interval = match count.state() {
            State::Normal | State::Full => INTERVAL,
            State::Partial if count.ready + count.not_ready > LARGE => SLOW_INTERVAL,
            State::Partial => return Err(INTERVAL),
        };
        match self.next.get(zone) {
            Some(at) if *at > now => Err(*at - now),
            _ => {
                self.next.insert(zone.to_owned(), now + interval);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(parts: &[(&str, usize, usize)]) -> Zones {
        let mut zones = Zones::default();
        let nodes =
            parts.iter().flat_map(|(zone, up, down)| (0..*up).map(|_| ((*zone).to_owned(), true)).chain((0..*down).map(|_| ((*zone).to_owned(), false))));
        zones.assess(nodes);
        zones
    }

    #[test]
    fn all_zones_down_is_no_reason_to_drive_anybody_out() {
        assert!(zones(&[("a", 0, 3), ("b", 0, 1)]).all_down());
        assert!(!zones(&[("a", 0, 3), ("b", 1, 1)]).all_down());
    }

    #[test]
    fn nodes_go_one_after_the_other_and_slower_when_much_is_down() {
        let now = Instant::now();
        let mut normal = zones(&[("a", 9, 2)]);
        assert_eq!(normal.admit("a", "n", now), Ok(()));
        assert_eq!(normal.admit("a", "m", now), Err(INTERVAL));
        assert_eq!(normal.admit("a", "m", now + INTERVAL), Ok(()));
        assert!(zones(&[("a", 4, 6)]).admit("a", "n", now).is_err());
        let mut large = zones(&[("a", 40, 60)]);
        assert_eq!((large.admit("a", "n", now), large.admit("a", "m", now)), (Ok(()), Err(SLOW_INTERVAL)));
    }
}
