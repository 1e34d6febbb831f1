//! Topology spread constraints that must hold (`DoNotSchedule`).

use std::collections::HashMap;

use super::{Refusal, matches_node_affinity, tolerates};
use crate::cluster::Cluster;
use crate::node::NodeState;
use crate::pod::{PodInfo, Spread};

const PLUGIN: &str = "PodTopologySpread";

/// For each hard constraint, matching pods by value of its topology key.
pub struct Prepared {
    counts: Vec<HashMap<String, i64>>,
}

impl Prepared {
    pub fn new(pod: &PodInfo, cluster: &Cluster) -> Self {
        let hard: Vec<&Spread> = pod.spread.iter().filter(|s| s.hard).collect();
        let mut counts = vec![HashMap::new(); hard.len()];
        if !hard.is_empty() {
            for node in cluster.nodes().filter(|n| hard.iter().all(|s| n.label(&s.topology_key).is_some())) {
                for (constraint, counts) in hard.iter().zip(&mut counts).filter(|(s, _)| counts_node(s, pod, node)) {
                    if let Some(value) = node.label(&constraint.topology_key) {
                        *counts.entry(value.to_owned()).or_default() += matching(constraint, pod.namespace(), node);
                    }
                }
            }
        }
        Self { counts }
    }

    pub fn check(&self, pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
        for (constraint, counts) in pod.spread.iter().filter(|s| s.hard).zip(&self.counts) {
            let Some(value) = node.label(&constraint.topology_key) else {
                return Err(Refusal::final_(PLUGIN, "node(s) didn't match pod topology spread constraints (missing required label)"));
            };
            let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
            let least = if domains < constraint.min_domains { 0 } else { counts.values().copied().min().unwrap_or(0) };
            let own = i64::from(constraint.selector.matches_map(Some(&pod.labels)));
            let here = counts.get(value).copied().unwrap_or(0);
            if here + own - least > constraint.max_skew {
                return Err(Refusal::resolvable(PLUGIN, "node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }
}

/// Whether a node takes part in the counting.
pub fn counts_node(constraint: &Spread, pod: &PodInfo, node: &NodeState) -> bool {
    if constraint.honor_affinity && !matches_node_affinity(pod, node) {
        return false;
    }
    let hard = |t: &&k8s_openapi::api::core::v1::Taint| t.effect == "NoSchedule" || t.effect == "NoExecute";
    !constraint.honor_taints || node.facts.taints.iter().filter(hard).all(|taint| pod.tolerations.iter().any(|t| tolerates(t, taint)))
}

/// Pods of a namespace on a node that the constraint counts.
pub fn matching(constraint: &Spread, namespace: &str, node: &NodeState) -> i64 {
    let counted = node.pods().filter(|p| !p.deleting && p.namespace() == namespace && constraint.selector.matches_map(Some(&p.labels)));
    i64::try_from(counted.count()).unwrap_or(i64::MAX)
}
