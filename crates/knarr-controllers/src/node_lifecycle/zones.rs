//! How fast nodes may lose their pods. A zone of which much is down is more likely cut off than dead, and when every zone
//! is down it is probably the control plane that is cut off. Upstream: `handleDisruption`, `ComputeZoneState`.

use std::collections::{BTreeMap, HashMap};
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
    fn of(&mut self, ready: bool) -> &mut usize {
        if ready { &mut self.ready } else { &mut self.not_ready }
    }

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
    /// What each node counts as: its zone, and whether it is ready.
    nodes: HashMap<String, (String, bool)>,
    counts: BTreeMap<String, Count>,
    /// When each zone may lose its next node.
    next: BTreeMap<String, Instant>,
    all_down: bool,
}

impl Zones {
    /// Takes in zone and readiness of a node, or that it counts no more. Gives whether all zones were down before and are now.
    pub fn note(&mut self, node: &str, seen: Option<(String, bool)>) -> (bool, bool) {
        let known = match &seen {
            Some(seen) => self.nodes.insert(node.to_owned(), seen.clone()),
            None => self.nodes.remove(node),
        };
        if let Some((zone, ready)) = known {
            let count = self.counts.entry(zone.clone()).or_default();
            *count.of(ready) -= 1;
            if count.ready + count.not_ready == 0 && seen.as_ref().is_none_or(|(now, _)| *now != zone) {
                self.counts.remove(&zone);
                self.next.remove(&zone);
            }
        }
        if let Some((zone, ready)) = seen {
            *self.counts.entry(zone).or_default().of(ready) += 1;
        }
        let before = self.all_down;
        self.all_down = !self.counts.is_empty() && self.counts.values().all(|c| c.state() == State::Full);
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
        for (zone, up, down) in parts {
            for i in 0..up + down {
                zones.note(&format!("{zone}{i}"), Some(((*zone).to_owned(), i < *up)));
            }
        }
        zones
    }

    #[test]
    fn all_zones_down_is_no_reason_to_drive_anybody_out() {
        assert!(zones(&[("a", 0, 3), ("b", 0, 1)]).all_down());
        assert!(!zones(&[("a", 0, 3), ("b", 1, 1)]).all_down());
    }

    #[test]
    fn a_node_counts_once_and_where_it_is_now() {
        let mut zones = zones(&[("a", 1, 1), ("b", 0, 1)]);
        let seen = |zone: &str, ready: bool| Some((zone.to_owned(), ready));
        assert_eq!(zones.note("a0", seen("a", false)), (false, true));
        assert_eq!(zones.note("b0", seen("a", true)), (true, false), "it is in another zone now");
        assert!(!zones.counts.contains_key("b"));
        assert_eq!(zones.note("b0", None), (false, true));
        zones.note("a0", None);
        assert_eq!(zones.note("a1", None), (true, false), "nobody is there to be down");
        assert!(zones.counts.is_empty() && zones.nodes.is_empty());
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
