//! Making room: which pods of lower priority would have to go, and on which node it hurts least.
//! Upstream: `k8s.io/kubernetes/pkg/scheduler/framework/preemption`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as TypedSelector;
use knarr_client::Project;
use knarr_core::selector::LabelSelector;
use knarr_core::{Object, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cluster::Cluster;
use crate::decide::{NoNode, Promised};
use crate::filter::Prepared;
use crate::pod::{PodInfo, label_selector};

/// A node, and the pods that must leave it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would keep.
    violations: usize,
}

/// What a PodDisruptionBudget lets happen.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i64,
    /// Pods whose disruption is counted already.
    counted: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    metadata: WrittenMeta,
    spec: WrittenSpec,
    status: WrittenStatus,
}

knarr_client::partial!(Written);

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenMeta {
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WrittenSpec {
    selector: Option<TypedSelector>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenStatus {
    disruptions_allowed: i64,
    disrupted_pods: BTreeMap<String, IgnoredAny>,
}

impl Project for Budget {
    fn project(object: &Object) -> Result<Self> {
        knarr_client::read::typed(object).map(Self::new)
    }
}

impl Budget {
    fn new(written: Written) -> Self {
        let selector = written.spec.selector.map(|s| label_selector(Some(&s))).filter(|s| !s.requirements.is_empty());
        Self {
            namespace: written.metadata.namespace,
            // Without a selector, and with an empty one, it speaks of no pod here.
            selector: selector.unwrap_or_else(LabelSelector::nothing),
            allowed: written.status.disruptions_allowed,
            counted: written.status.disrupted_pods.into_keys().collect(),
        }
    }

    fn is_about(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.namespace() && self.selector.matches_map(Some(&pod.labels)) && !self.counted.iter().any(|name| name == pod.name())
    }
}

/// After how many candidates no more are looked for (upstream: `DefaultPreemptionArgs`).
fn enough(nodes: usize) -> usize {
    (nodes / 10).max(100)
}

/// The best candidate, if making room helps anywhere. The cluster is left as it was.
pub fn find(pod: &PodInfo, cluster: &mut Cluster, no_node: &NoNode) -> Option<Candidate> {
    if pod.never_preempts {
        return None;
    }
    let promised = Promised::new(pod, cluster);
    let possible = no_node.refusals.iter().filter(|(_, refusal)| refusal.resolvable);
    possible.filter_map(|(place, _)| victims(pod, cluster, &promised, *place)).take(enough(no_node.nodes)).min_by_key(cost)
}

/// Whether an earlier preemption for this pod is still going on.
pub fn is_waiting(pod: &PodInfo, cluster: &Cluster) -> bool {
    cluster.node(&pod.nominated).is_some_and(|n| n.pods().any(|p| p.deleting && p.priority < pod.priority))
}

/// Takes every pod of lower priority away and puts back as many as can stay: first those that a budget would keep, then the most important.
fn victims(pod: &PodInfo, cluster: &mut Cluster, promised: &Promised, place: usize) -> Option<Candidate> {
    let fits = |cluster: &Cluster| promised.check(pod, cluster.at(place), cluster, &Prepared::new(pod, cluster)).is_ok();
    let node = cluster.at(place);
    let mut lower: Vec<Arc<PodInfo>> = node.pods().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.started.cmp(&b.started)).then_with(|| a.uid.cmp(&b.uid)));
    let node = node.name().to_owned();
    lower.iter().for_each(|p| cluster.displace(&p.uid));
    let helps = fits(cluster);
    let (kept, others) = by_budgets(lower, &cluster.budgets);
    let mut candidate = Candidate { node, victims: Vec::new(), violations: 0 };
    for (other, violates) in kept.into_iter().map(|p| (p, true)).chain(others.into_iter().map(|p| (p, false))) {
        cluster.place(other.clone());
        if helps && !fits(cluster) {
            cluster.displace(&other.uid);
            candidate.violations += usize::from(violates);
            candidate.victims.push(other);
        }
    }
    candidate.victims.iter().for_each(|p| cluster.place(p.clone()));
    helps.then_some(candidate)
}

/// Those whose going a budget does not allow any more, and the others; both in their order.
fn by_budgets(pods: Vec<Arc<PodInfo>>, budgets: &BTreeMap<String, Budget>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut budgets: Vec<(&Budget, i64)> = budgets.values().map(|b| (b, b.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (_, left) in budgets.iter_mut().filter(|(b, _)| b.is_about(pod)) {
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

/// Less is better: broken budgets, the highest priority that falls, the sum of them, their number, then the earliest start latest.
fn cost(candidate: &Candidate) -> (usize, i64, i64, usize, std::cmp::Reverse<i64>, String) {
    let priorities = || candidate.victims.iter().map(|v| v.priority);
    let highest = priorities().max().unwrap_or(i64::MIN);
    let started = candidate.victims.iter().filter(|v| v.priority == highest).map(|v| v.started).min().unwrap_or(0);
    let sum = priorities().map(|p| p + (1 << 31)).sum();
    (candidate.violations, highest, sum, candidate.victims.len(), std::cmp::Reverse(started), candidate.node.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::decide;
    use crate::node::NodeFacts;
    use crate::pod::{Demands, testing::pod};

    fn placed(name: &str, node: &str, priority: i64, cpu: &str) -> PodInfo {
        pod(
            json!({"metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": name}}, "spec": {"nodeName": node, "priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
        )
    }

    fn cluster(pods: Vec<PodInfo>) -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
            cluster.set_node(NodeFacts::new(&serde_json::from_value(node).unwrap()));
        }
        pods.into_iter().for_each(|p| cluster.place(Arc::new(p)));
        cluster
    }

    /// Where a pod of priority 100 would go, and who would leave.
    fn found(cluster: &mut Cluster, cpu: &str) -> Option<(String, Vec<String>)> {
        let new = placed("new", "", 100, cpu);
        let before = format!("{:?}", cluster.nodes().map(|n| (n.pods_count(), n.requested.clone(), n.weight)).collect::<Vec<_>>());
        let no_node = decide(&new, cluster, |_| 0).unwrap_err();
        let found = find(&new, cluster, &no_node);
        let after = format!("{:?}", cluster.nodes().map(|n| (n.pods_count(), n.requested.clone(), n.weight)).collect::<Vec<_>>());
        assert_eq!(before, after);
        found.map(|f| (f.node, f.victims.iter().map(|v| v.name().to_owned()).collect()))
    }

    #[test]
    fn the_least_important_leave_and_no_more_than_needed() {
        let mut c = cluster(vec![placed("low", "a", 1, "500m"), placed("mid", "a", 5, "500m"), placed("high", "b", 50, "1")]);
        assert_eq!(found(&mut c, "500m"), Some(("a".into(), vec!["low".into()])));
        assert_eq!(found(&mut c, "2"), None);
        let new = placed("new", "", 100, "500m");
        let no_node = decide(&new, &c, |_| 0).unwrap_err();
        let demands = Demands { never_preempts: true, ..(*new.demands).clone() };
        assert!(find(&PodInfo { demands: demands.into(), ..new }, &mut c, &no_node).is_none());
    }

    #[test]
    fn room_that_is_made_for_one_is_not_made_again_for_another() {
        let mut c = cluster(vec![placed("low", "a", 1, "1"), placed("mid", "b", 5, "1")]);
        assert_eq!(found(&mut c, "500m"), Some(("a".into(), vec!["low".into()])));
        let first = PodInfo { nominated: "a".into(), ..placed("first", "", 100, "600m") };
        c.promise(first);
        assert_eq!(found(&mut c, "500m"), Some(("b".into(), vec!["mid".into()])));
        assert_eq!(found(&mut c, "400m"), Some(("a".into(), vec!["low".into()])), "there is room for both");
    }

    #[test]
    fn a_budget_is_broken_only_where_nothing_else_helps() {
        let budget = |app: &str, allowed: i64| {
            let written =
                json!({"metadata": {"namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": app}}}, "status": {"disruptionsAllowed": allowed}});
            Budget::new(serde_json::from_value(written).unwrap())
        };
        let mut c = cluster(vec![placed("low", "a", 1, "500m"), placed("mid", "a", 5, "500m"), placed("high", "b", 50, "1")]);
        c.budgets.insert("d/low".into(), budget("low", 0));
        assert_eq!(found(&mut c, "500m"), Some(("a".into(), vec!["mid".into()])));
        c.budgets.insert("d/mid".into(), budget("mid", 0));
        assert_eq!(found(&mut c, "500m"), Some(("b".into(), vec!["high".into()])));
        c.budgets.insert("d/high".into(), budget("high", 0));
        assert_eq!(found(&mut c, "500m"), Some(("a".into(), vec!["low".into()])));
        c.budgets.insert("d/mid".into(), budget("mid", 1));
        assert_eq!(found(&mut c, "500m"), Some(("a".into(), vec!["mid".into()])));
    }
}
