//! Where may a pod run at all? Each filter looks at one pod and one node and gives a reason against, or none. [`Prepared`] holds
//! what is computed once for all nodes.

mod affinity;
pub mod spread;

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cluster::Cluster;
use crate::node::NodeState;
use crate::pod::{PodInfo, Resources};
use crate::volumes;

/// Why a pod may not run on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// As the event counts it: `Insufficient cpu`.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether taking other pods away could help.
    pub resolvable: bool,
    pub plugin: &'static str,
}

impl Refusal {
    pub fn resolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: true, plugin }
    }

    pub fn final_(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
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

/// Whether a node that came or changed may be what a pod waits for. What neither asks about other pods nor fits the node when it is empty need not be
/// tried again for it (upstream: the queueing hints of the plugins).
pub fn may_help(pod: &PodInfo, node: &NodeState) -> bool {
    pod.has_affinity()
        || !pod.spread.is_empty()
        || unschedulable(pod, node).is_ok() && taints(pod, node).is_ok() && matches_node_affinity(pod, node) && fits(pod, node).is_ok()
}

fn unschedulable(pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
    if !node.facts.unschedulable {
        return Ok(());
    }
    let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    match pod.tolerations.iter().any(|t| tolerates(t, &taint)) {
        true => Ok(()),
        false => Err(Refusal::final_("NodeUnschedulable", "node(s) were unschedulable")),
    }
}

/// Whether a toleration tolerates a taint (upstream: `Toleration.ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let is_other = |wanted: &Option<String>, there: &str| wanted.as_deref().is_some_and(|w| !w.is_empty() && w != there);
    if is_other(&toleration.effect, &taint.effect) || is_other(&toleration.key, &taint.key) {
        return false;
    }
    let compare = |wanted: fn(&i64, &i64) -> bool| match (text(&taint.value).parse(), text(&toleration.value).parse()) {
        (Ok(a), Ok(b)) => wanted(&a, &b),
        _ => false,
    };
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
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
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    if i64::try_from(node.pods_count()).unwrap_or(i64::MAX) >= node.facts.pods_max {
        reasons.push("Too many pods".into());
    }
    let (wanted, taken, there) = (&pod.requests, &node.requested, &node.facts.allocatable);
    let mut compare = |reason: &dyn Fn() -> Cow<'static, str>, wanted: i64, taken: i64, there: i64| {
        if wanted > 0 && wanted > there - taken {
            reasons.push(reason());
            resolvable &= wanted <= there;
        }
    };
    compare(&|| "Insufficient cpu".into(), wanted.milli_cpu, taken.milli_cpu, there.milli_cpu);
    compare(&|| "Insufficient memory".into(), wanted.memory, taken.memory, there.memory);
    compare(&|| "Insufficient ephemeral-storage".into(), wanted.ephemeral_storage, taken.ephemeral_storage, there.ephemeral_storage);
    for (name, amount) in &wanted.scalar {
        let of = |resources: &Resources| resources.scalar.get(name).copied().unwrap_or(0);
        compare(&|| format!("Insufficient {name}").into(), *amount, of(taken), of(there));
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, resolvable, plugin: "NodeResourcesFit" }) }
}
