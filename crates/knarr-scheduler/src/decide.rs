//! The decision: a pod and a cluster in, a node or the reasons out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::filter::{self, Prepared, Refusal};
use crate::node::NodeState;
use crate::pod::PodInfo;
use crate::score;

/// Why no node is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoNode {
    pub nodes: usize,
    /// By the place of each node.
    pub refusals: Vec<(usize, Refusal)>,
}

impl NoNode {
    /// As upstream writes it: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) …`.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.refusals.iter().flat_map(|(_, r)| &r.reasons) {
            *counts.entry(reason.as_ref()).or_default() += 1;
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

/// Of so many nodes all are looked at.
pub const LOOKED_AT_MIN: usize = 100;

/// After how many nodes that fit no more are looked for: of a hundred nodes half, of more a smaller part, of very many a twentieth (upstream:
/// `numFeasibleNodesToFind`).
fn enough(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(LOOKED_AT_MIN)
}

/// The best node for a pod. `chance` chooses among so many: where to begin, and one of those that are equally good.
///
/// # Errors
/// The reasons against every node.
pub fn decide(pod: &PodInfo, cluster: &Cluster, chance: impl Fn(usize) -> usize) -> Result<String, NoNode> {
    let prepared = Prepared::new(pod, cluster);
    let promised = Promised::new(pod, cluster);
    let check = |node: &NodeState| promised.check(pod, node, cluster, &prepared);
    // Where room was made for it, it goes.
    if let Some(node) = cluster.node(&pod.nominated).filter(|n| !n.name().is_empty() && check(n).is_ok()) {
        return Ok(node.name().to_owned());
    }
    let enough = enough(cluster.len());
    let mut feasible: Vec<&NodeState> = Vec::new();
    let mut refusals = Vec::new();
    for node in cluster.nodes_from(if cluster.len() > LOOKED_AT_MIN { chance(cluster.len()) } else { 0 }) {
        match check(node) {
            Ok(()) => feasible.push(node),
            Err(refusal) => refusals.push((node.place, refusal)),
        }
        if feasible.len() == enough {
            break;
        }
    }
    match feasible.as_slice() {
        [] => Err(NoNode { nodes: cluster.len(), refusals }),
        [only] => Ok(only.name().to_owned()),
        many => {
            let sums = score::sums(pod, many, cluster);
            let best = sums.iter().copied().max().unwrap_or(0);
            let winners: Vec<&&NodeState> = many.iter().zip(&sums).filter(|(_, s)| **s == best).map(|(n, _)| n).collect();
            Ok(winners[chance(winners.len()).min(winners.len() - 1)].name().to_owned())
        }
    }
}

/// The pods for which room is being made: a node that is promised to pods of at least the same priority has less room than it seems.
pub struct Promised(HashMap<Box<str>, Vec<Arc<PodInfo>>>);

impl Promised {
    pub fn new(pod: &PodInfo, cluster: &Cluster) -> Self {
        let mut by_node: HashMap<Box<str>, Vec<_>> = HashMap::new();
        for other in cluster.promised().filter(|p| p.uid != pod.uid && p.priority >= pod.priority) {
            by_node.entry(other.nominated.clone()).or_default().push(other.clone());
        }
        Self(by_node)
    }

    /// Whether a node takes a pod, with those that it is promised to and without them: they may need it, or never come.
    pub fn check(&self, pod: &PodInfo, node: &NodeState, cluster: &Cluster, prepared: &Prepared) -> Result<(), Refusal> {
        if let Some(others) = self.0.get(node.name()) {
            let mut fuller = node.clone();
            others.iter().for_each(|other| fuller.add(Arc::clone(other)));
            filter::check(pod, &fuller, cluster, prepared)?;
        }
        filter::check(pod, node, cluster, prepared)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::node::NodeFacts;
    use crate::pod::{Demands, testing::pod};

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

    /// The counts of upstream's `numFeasibleNodesToFind` for its default percentage.
    #[test]
    fn of_many_nodes_some_are_enough() {
        for (nodes, wanted) in [(3, 100), (100, 100), (200, 100), (1000, 420), (5000, 500), (10_000, 500)] {
            assert_eq!(enough(nodes), wanted, "{nodes}");
        }
        let c = cluster((0..1000).map(|i| node(&format!("n{i}"), json!({}), Value::Null)).collect(), vec![]);
        let starts = |start: usize| decide(&wanted(json!({})), &c, |n| start.min(n - 1)).unwrap();
        assert_ne!(starts(0), starts(500));
        // The one that fits is found wherever it is.
        let only = json!({"nodeSelector": {"kubernetes.io/hostname": "n777"}});
        assert_eq!(outcome(only, &c), "n777");
    }

    #[test]
    fn a_pod_goes_where_room_was_made_for_it_and_others_do_not() {
        let mut c = cluster(vec![node("a", json!({}), Value::Null), node("b", json!({}), Value::Null)], vec![running("p", "a", "db", "1")]);
        let mut promised = wanted(json!({}));
        promised.nominated = "a".into();
        assert_eq!(decide(&promised, &c, |_| 0).unwrap(), "a", "though b is emptier");
        let mut large = wanted(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}));
        (large.uid, large.nominated) = ("large".into(), "b".into());
        assert!(c.promise(large).is_empty());
        assert_eq!(outcome(json!({}), &c), "a");
    }

    #[test]
    fn a_promise_is_outdone_by_a_more_important_pod_and_known_from_the_status() {
        let promised = |name: &str, node: &str, priority: i64| PodInfo {
            uid: name.into(),
            nominated: node.into(),
            demands: Demands { priority, ..(*wanted(json!({})).demands).clone() }.into(),
            ..wanted(json!({}))
        };
        let names = |pods: Vec<Arc<PodInfo>>| pods.iter().map(|p| p.uid.to_string()).collect::<Vec<_>>();
        let mut c = Cluster::default();
        assert!(c.promise(promised("low", "a", 1)).is_empty() && c.promise(promised("elsewhere", "b", 1)).is_empty());
        assert!(c.promise(promised("equal", "a", 1)).is_empty());
        let mut outdone = names(c.promise(promised("high", "a", 2)));
        outdone.sort();
        assert_eq!(outdone, ["equal", "low"]);
        // What the status says of an earlier time does not undo what was promised since.
        c.told_promise("", &Arc::new(promised("high", "z", 2)));
        c.told_promise("z", &Arc::new(promised("high", "", 2)));
        c.told_promise("", &Arc::new(promised("restored", "c", 1)));
        c.told_promise("b", &Arc::new(promised("elsewhere", "", 1)));
        let mut left: Vec<(&str, &str)> = c.promised().map(|p| (&*p.uid, &*p.nominated)).collect();
        left.sort_unstable();
        assert_eq!(left, [("high", "a"), ("restored", "c")]);
    }

    #[test]
    fn a_node_helps_those_who_could_be_there() {
        let empty = |spec: Value| NodeState::empty(node("a", json!({"disk": "ssd"}), spec));
        let helps = |spec: Value, node: &NodeState| filter::may_help(&wanted(spec), node);
        let plain = empty(Value::Null);
        assert!(helps(json!({}), &plain) && helps(json!({"nodeSelector": {"disk": "ssd"}}), &plain));
        assert!(!helps(json!({"nodeSelector": {"disk": "hdd"}}), &plain));
        assert!(!helps(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "64"}}}]}), &plain));
        assert!(!helps(json!({}), &empty(json!({"unschedulable": true}))));
        let tainted = empty(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
        assert!(!helps(json!({}), &tainted) && helps(json!({"tolerations": [{"operator": "Exists"}]}), &tainted));
        // It may be one more domain.
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]});
        assert!(helps(spread, &tainted));
    }
}
