//! Which pods go first when there are too many. Upstream: `ActivePodsWithRanks` in `pkg/controller/controller_utils.go`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{PodItem, PodView};

/// The `count` pods to delete. `related` are the pods of all replica sets of the same owner: pods that share a node with
/// many of them go first.
pub fn choose(mut pods: Vec<PodItem>, related: &[PodItem], count: usize, now: Timestamp) -> Vec<PodItem> {
    if count < pods.len() {
        let mut on_node: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for pod in related.iter().filter(|p| p.view.is_active()) {
            *on_node.entry(pod.view.node.as_deref()).or_default() += 1;
        }
        let rank = |p: &PodView| on_node.get(&p.node.as_deref()).copied().unwrap_or_default();
        pods.sort_by(|a, b| deletion_order(&a.view, &b.view, (rank(&a.view), rank(&b.view)), now));
        pods.truncate(count);
    }
    pods
}

/// `Less`: `a` is rather deleted than `b`.
fn deletion_order(a: &PodView, b: &PodView, ranks: (usize, usize), now: Timestamp) -> Ordering {
    let both_ready = || match (a.ready, b.ready) {
        (Some(x), Some(y)) => younger_first(x, y, a, b, now),
        _ => Ordering::Equal,
    };
    (a.node.is_some().cmp(&b.node.is_some()))
        .then_with(|| a.phase.cmp(&b.phase))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| a.deletion_cost.cmp(&b.deletion_cost))
        .then_with(|| ranks.1.cmp(&ranks.0))
        .then_with(both_ready)
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| younger_first(Some(a.created), Some(b.created), a, b, now))
}

/// Times are compared by the logarithm of their age, so that among pods of about one age the uid decides.
fn younger_first(x: Option<Timestamp>, y: Option<Timestamp>, a: &PodView, b: &PodView, now: Timestamp) -> Ordering {
    match (x, y) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(x), Some(y)) if x == y => Ordering::Equal,
        (Some(x), Some(y)) => age_rank(x, now).cmp(&age_rank(y, now)).then_with(|| a.uid.cmp(&b.uid)),
    }
}

fn age_rank(at: Timestamp, now: Timestamp) -> i64 {
    let age = now.duration_since(at).as_nanos();
    if age > 0 { i64::from(age.ilog2()) } else { -1 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use knarr_client::client::json_object;
    use knarr_client::{Item, Key};
    use knarr_core::json;

    use super::*;
    use crate::pods::Phase;

    fn pod(name: &str, change: impl FnOnce(&mut PodView)) -> PodItem {
        let at = Timestamp::from_second(1_000_000).unwrap();
        let mut view = PodView {
            disruption_target: false,
            uid: name.into(),
            controller: None,
            node: Some("n".into()),
            phase: Phase::Running,
            ready: Some(Some(at)),
            created: at,
            deleting: None,
            restarts: (0, 0),
            deletion_cost: 0,
            ips: Box::default(),
            host: None,
            claims: Box::default(),
        };
        change(&mut view);
        Arc::new(Item { key: Key::new("a", name), object: json_object(&json!({})), view })
    }

    fn first(pods: &[PodItem], related: &[PodItem]) -> String {
        let now = Timestamp::from_second(1_000_100).unwrap();
        choose(pods.to_vec(), related, 1, now)[0].key.name().to_owned()
    }

    #[test]
    fn pods_that_serve_least_go_first() {
        let good = pod("good", |_| {});
        let at = |s| Timestamp::from_second(s).unwrap();
        let worse: [(&str, PodItem); 7] = [
            ("unassigned", pod("bad", |p| p.node = None)),
            ("pending", pod("bad", |p| p.phase = Phase::Pending)),
            ("not ready", pod("bad", |p| p.ready = None)),
            ("cheap", pod("bad", |p| p.deletion_cost = -1)),
            ("ready for a shorter time", pod("bad", |p| p.ready = Some(Some(at(1_000_090))))),
            ("restarted", pod("bad", |p| p.restarts = (3, 0))),
            ("younger", pod("bad", |p| p.created = at(1_000_090))),
        ];
        for (why, bad) in worse {
            assert_eq!(first(&[good.clone(), bad.clone()], &[]), "bad", "{why}");
            assert_eq!(first(&[bad, good.clone()], &[]), "bad", "{why}");
        }
    }

    #[test]
    fn a_crowded_node_is_relieved() {
        let (a, b, c) = (pod("a", |_| {}), pod("b", |p| p.node = Some("m".into())), pod("c", |p| p.node = Some("m".into())));
        assert_eq!(first(&[a.clone(), b.clone()], &[a, b, c]), "b");
    }
}
