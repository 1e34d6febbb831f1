//! Making room: which pods of lower priority would have to go, and on which node it hurts least.
//! Upstream: `k8s.io/kubernetes/pkg/scheduler/framework/preemption`.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::decide::NoNode;
use crate::filter::{self, Prepared};
use crate::pod::PodInfo;

/// A node, and the pods that must leave it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
}

/// The best candidate, if making room helps anywhere.
pub fn find(pod: &PodInfo, cluster: &Cluster, no_node: &NoNode) -> Option<Candidate> {
    if pod.never_preempts {
        return None;
    }
    let possible = no_node.refusals.iter().filter(|(_, refusal)| refusal.resolvable);
    possible.filter_map(|(node, _)| victims(pod, cluster, node)).min_by_key(cost)
}

/// Whether an earlier preemption for this pod is still going on.
pub fn is_waiting(pod: &PodInfo, cluster: &Cluster) -> bool {
    cluster.node(&pod.nominated).is_some_and(|n| n.pods.values().any(|p| p.deleting && p.priority < pod.priority))
}

/// Takes every pod of lower priority away and puts back as many as can stay, the most important first.
fn victims(pod: &PodInfo, cluster: &Cluster, node: &str) -> Option<Candidate> {
    let mut emptier = cluster.clone();
    let mut lower: Vec<Arc<PodInfo>> = cluster.node(node)?.pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    lower.iter().for_each(|p| emptier.displace(&p.uid));
    if !fits(pod, &emptier, node) {
        return None;
    }
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.started.cmp(&b.started)).then_with(|| a.uid.cmp(&b.uid)));
    let mut victims = Vec::new();
    for other in lower {
        emptier.place(other.clone());
        if !fits(pod, &emptier, node) {
            emptier.displace(&other.uid);
            victims.push(other);
        }
    }
    Some(Candidate { node: node.to_owned(), victims })
}

fn fits(pod: &PodInfo, cluster: &Cluster, node: &str) -> bool {
    cluster.node(node).is_some_and(|n| filter::check(pod, n, cluster, &Prepared::new(pod, cluster)).is_ok())
}

/// Less is better: the highest priority that falls, the sum of them, their number, then the earliest start latest.
fn cost(candidate: &Candidate) -> (i64, i64, usize, std::cmp::Reverse<i64>, String) {
    let priorities = || candidate.victims.iter().map(|v| v.priority);
    let highest = priorities().max().unwrap_or(i64::MIN);
    let started = candidate.victims.iter().filter(|v| v.priority == highest).map(|v| v.started).min().unwrap_or(0);
    (highest, priorities().map(|p| p + (1 << 31)).sum(), candidate.victims.len(), std::cmp::Reverse(started), candidate.node.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::decide;
    use crate::node::NodeFacts;
    use crate::pod::{Demands, testing::pod};

    #[test]
    fn the_least_important_leave_and_no_more_than_needed() {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
            cluster.set_node(NodeFacts::new(&serde_json::from_value(node).unwrap()));
        }
        let placed = |name: &str, node: &str, priority: i64, cpu: &str| {
            pod(
                json!({"metadata": {"name": name, "uid": name, "namespace": "d"}, "spec": {"nodeName": node, "priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
            )
        };
        for p in [placed("low", "a", 1, "500m"), placed("mid", "a", 5, "500m"), placed("high", "b", 50, "1")] {
            cluster.place(Arc::new(p));
        }
        let new = placed("new", "", 100, "500m");
        let no_node = decide(&new, &cluster, |_| 0).unwrap_err();
        let found = find(&new, &cluster, &no_node).unwrap();
        assert_eq!((found.node.as_str(), found.victims.iter().map(|v| v.name()).collect::<Vec<_>>()), ("a", vec!["low"]));
        let demands = Demands { never_preempts: true, ..(*new.demands).clone() };
        assert!(find(&PodInfo { demands: demands.into(), ..new }, &cluster, &no_node).is_none());
    }
}
