//! Where may a pod run at all? Each filter looks at one pod and one node and gives a reason against, or none. [`Prepared`] holds
//! what is computed once for all nodes.

mod affinity;
pub mod spread;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cluster::Cluster;
use crate::node::NodeState;
use crate::pod::{PodInfo, Resources};
use crate::volumes;

/// Why a pod may not run on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// As the event counts it: `Insufficient cpu`.
    pub reasons: Vec<String>,
    /// Whether taking other pods away could help.
    pub resolvable: bool,
    pub plugin: &'static str,
}

impl Refusal {
    pub fn resolvable(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: true, plugin }
    }

    pub fn final_(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false, plugin }
    }
}

/// What is computed once for a pod before the nodes are looked at.
pub struct Prepared {
    affinity: affinity::Prepared,
    spread: spread::Prepared,
}

impl Prepared {
    pub fn new(pod: &PodInfo, cluster: &Cluster) -> Self {
        Self { affinity: affinity::Prepared::new(pod, cluster), spread: spread::Prepared::new(pod, cluster) }
    }
}

/// All filters in upstream's order; the first refusal counts.
pub fn check(pod: &PodInfo, node: &NodeState, cluster: &Cluster, prepared: &Prepared) -> Result<(), Refusal> {
    unschedulable(pod, node)?;
    taints(pod, node)?;
    node_affinity(pod, node)?;
    ports(pod, node)?;
    fits(pod, node)?;
    volumes::check(pod, node, cluster)?;
    prepared.spread.check(pod, node)?;
    prepared.affinity.check(pod, node)
}

fn unschedulable(pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
    let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    if node.facts.unschedulable && !pod.tolerations.iter().any(|t| tolerates(t, &taint)) {
        return Err(Refusal::final_("NodeUnschedulable", "node(s) were unschedulable"));
    }
    Ok(())
}

/// Whether a toleration tolerates a taint (upstream: `Toleration.ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (effect, key, value) = (text(&toleration.effect), text(&toleration.key), text(&toleration.value));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let taint_value = text(&taint.value);
    let compare = |wanted: fn(&i64, &i64) -> bool| match (taint_value.parse(), value.parse()) {
        (Ok(a), Ok(b)) => wanted(&a, &b),
        _ => false,
    };
    match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => value == taint_value,
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn taints(pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
    let hard = node.facts.taints.iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    match hard.into_iter().find(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint))) {
        None => Ok(()),
        Some(taint) => {
            let value = taint.value.clone().unwrap_or_default();
            Err(Refusal::final_("TaintToleration", format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)))
        }
    }
}

/// Whether a node fulfils node selector and required node affinity.
pub fn matches_node_affinity(pod: &PodInfo, node: &NodeState) -> bool {
    pod.node_selector.iter().all(|(key, value)| node.label(key) == Some(value))
        && pod.required_terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node.name(), &node.facts.labels)))
}

fn node_affinity(pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
    if matches_node_affinity(pod, node) { Ok(()) } else { Err(Refusal::final_("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")) }
}

fn ports(pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
    if !pod.ports.is_empty() && node.has_port_of(&pod.ports) {
        return Err(Refusal::resolvable("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn fits(pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
    let mut reasons = Vec::new();
    let mut resolvable = true;
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.facts.pods_max {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted, taken, there) in lines(&pod.requests, &node.requested, &node.facts.allocatable) {
        if wanted > 0 && wanted > there - taken {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= wanted <= there;
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, resolvable, plugin: "NodeResourcesFit" }) }
}

/// Name, wanted, taken and offered of each resource that is wanted.
fn lines<'a>(wanted: &'a Resources, taken: &'a Resources, there: &'a Resources) -> Vec<(&'a str, i64, i64, i64)> {
    let mut lines = vec![
        ("cpu", wanted.milli_cpu, taken.milli_cpu, there.milli_cpu),
        ("memory", wanted.memory, taken.memory, there.memory),
        ("ephemeral-storage", wanted.ephemeral_storage, taken.ephemeral_storage, there.ephemeral_storage),
    ];
    let of = |map: &BTreeMap<String, i64>, name: &str| map.get(name).copied().unwrap_or(0);
    lines.extend(wanted.scalar.iter().map(|(name, amount)| (name.as_str(), *amount, of(&taken.scalar, name), of(&there.scalar, name))));
    lines
}
