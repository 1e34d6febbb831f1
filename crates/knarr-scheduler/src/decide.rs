//! The decision: a pod and a cluster in, a node or the reasons out.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::filter::{self, Prepared, Refusal};
use crate::node::NodeState;
use crate::pod::PodInfo;
use crate::score;

/// Why no node is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoNode {
    pub nodes: usize,
    /// By node.
    pub refusals: Vec<(String, Refusal)>,
}

impl NoNode {
    /// As upstream writes it: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) …`.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.refusals.iter().flat_map(|(_, r)| &r.reasons) {
            *counts.entry(reason).or_default() += 1;
        }
        let mut reasons: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        reasons.sort();
        format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }

    pub fn plugins(&self) -> Vec<&'static str> {
        let mut plugins: Vec<&'static str> = self.refusals.iter().map(|(_, r)| r.plugin).collect();
        plugins.sort_unstable();
        plugins.dedup();
        plugins
    }
}

/// The best node for a pod. `pick` chooses among equals (it gets how many there are).
///
/// # Errors
/// The reasons against every node.
pub fn decide(pod: &PodInfo, cluster: &Cluster, pick: impl FnOnce(usize) -> usize) -> Result<String, NoNode> {
    let prepared = Prepared::new(pod, cluster);
    let mut feasible: Vec<&NodeState> = Vec::new();
    let mut refusals = Vec::new();
    let mut nodes = 0;
    for node in cluster.nodes() {
        nodes += 1;
        match check(pod, node, cluster, &prepared) {
            Ok(()) => feasible.push(node),
            Err(refusal) => refusals.push((node.name().to_owned(), refusal)),
        }
    }
    match feasible.as_slice() {
        [] => Err(NoNode { nodes, refusals }),
        [only] => Ok(only.name().to_owned()),
        many => {
            let sums = score::sums(pod, many, cluster);
            let best = sums.iter().copied().max().unwrap_or(0);
            let winners: Vec<&&NodeState> = many.iter().zip(&sums).filter(|(_, s)| **s == best).map(|(n, _)| n).collect();
            Ok(winners[pick(winners.len()).min(winners.len() - 1)].name().to_owned())
        }
    }
}

/// A node that is promised to pods of at least this priority has less room than it seems.
fn check(pod: &PodInfo, node: &NodeState, cluster: &Cluster, prepared: &Prepared) -> Result<(), Refusal> {
    let promised: Vec<_> = cluster.nominated.values().filter(|p| *p.nominated == *node.name() && p.uid != pod.uid && p.priority >= pod.priority).collect();
    if !promised.is_empty() {
        let mut fuller = node.clone();
        for other in promised {
            fuller.add(other.clone());
        }
        filter::check(pod, &fuller, cluster, prepared)?;
    }
    filter::check(pod, node, cluster, prepared)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::node::NodeFacts;
    use crate::pod::testing::pod;

    fn node(name: &str, labels: Value, extra: Value) -> NodeFacts {
        let mut spec = json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
        spec["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
        if !extra.is_null() {
            spec["spec"] = extra;
        }
        NodeFacts::new(&serde_json::from_value(spec).unwrap())
    }

    fn cluster(nodes: Vec<NodeFacts>, pods: Vec<Value>) -> Cluster {
        let mut cluster = Cluster::default();
        nodes.into_iter().for_each(|n| cluster.set_node(n));
        pods.into_iter().for_each(|p| cluster.place(Arc::new(pod(p))));
        cluster
    }

    fn running(name: &str, node: &str, app: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn wanted(spec: Value) -> PodInfo {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]);
        }
        pod(json!({"metadata": {"name": "new", "uid": "new", "namespace": "d", "labels": {"app": "web"}}, "spec": spec}))
    }

    fn outcome(spec: Value, cluster: &Cluster) -> String {
        decide(&wanted(spec), cluster, |_| 0).unwrap_or_else(|e| e.message())
    }

    #[test]
    fn the_emptier_node_wins() {
        let c = cluster(vec![node("a", json!({}), Value::Null), node("b", json!({}), Value::Null)], vec![running("p", "a", "db", "1")]);
        assert_eq!(outcome(json!({}), &c), "b");
    }

    #[test]
    fn what_does_not_fit_says_why_for_each_node() {
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let c = cluster(
            vec![node("a", json!({}), Value::Null), node("b", json!({}), taint), node("c", json!({}), json!({"unschedulable": true}))],
            vec![running("p", "a", "db", "1800m")],
        );
        assert_eq!(
            outcome(json!({}), &c),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable."
        );
        assert_eq!(outcome(json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), &c), "b");
        assert_eq!(outcome(json!({}), &Cluster::default()), "no nodes available to schedule pods");
    }

    #[test]
    fn selectors_and_node_affinity_are_kept() {
        let c = cluster(vec![node("a", json!({"disk": "hdd"}), Value::Null), node("b", json!({"disk": "ssd"}), Value::Null)], vec![]);
        assert_eq!(outcome(json!({"nodeSelector": {"disk": "ssd"}}), &c), "b");
        assert_eq!(outcome(json!({"nodeSelector": {"disk": "tape"}}), &c), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
        let required = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}});
        assert_eq!(outcome(required, &c), "a");
    }

    #[test]
    fn pods_keep_together_and_apart_as_they_ask() {
        let c = cluster(vec![node("a", json!({}), Value::Null), node("b", json!({}), Value::Null)], vec![running("p", "a", "db", "100m")]);
        let term = |app: &str| json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]);
        let near = |app: &str| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
        let away = |app: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
        assert_eq!(outcome(near("db"), &c), "a");
        assert_eq!(outcome(away("db"), &c), "b");
        assert_eq!(outcome(near("none"), &c), "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
        assert_ne!(outcome(near("web"), &c), "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
    }

    #[test]
    fn spread_constraints_bound_the_skew() {
        let c = cluster(vec![node("a", json!({}), Value::Null), node("b", json!({}), Value::Null)], vec![running("p", "a", "web", "100m")]);
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
        assert_eq!(outcome(spread, &c), "b");
    }

    #[test]
    fn a_taken_host_port_is_not_given_twice() {
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}]}]});
        let mut p = running("p", "a", "db", "1");
        p["spec"]["containers"] = port["containers"].clone();
        let c = cluster(vec![node("a", json!({}), Value::Null)], vec![p]);
        assert_eq!(outcome(port, &c), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
    }
}
