//! Everything that runs, by node: kept from informers, plus what was just decided and is not seen back yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::node::{NodeFacts, NodeState};
use crate::pod::PodInfo;
use crate::volumes::Claim;

/// The scheduler's picture of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Ordered by name, so that equal inputs give equal decisions.
    nodes: BTreeMap<String, NodeState>,
    /// Node of each pod that takes something, by uid.
    placed: HashMap<String, String>,
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
    /// For each claim (`namespace/name`), what it demands of a node.
    pub volumes: HashMap<String, Claim>,
    /// Pods that wait for room that is being made for them on a node.
    pub nominated: HashMap<String, Arc<PodInfo>>,
    pub with_affinity: usize,
}

impl Cluster {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values().filter(|n| !n.facts.name.is_empty())
    }

    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name)
    }

    pub fn node_mut(&mut self, name: &str) -> Option<&mut NodeState> {
        self.nodes.get_mut(name)
    }

    pub fn set_node(&mut self, facts: NodeFacts) {
        let name = facts.name.clone();
        self.nodes.entry(name).or_default().facts = Arc::new(facts);
    }

    /// The pods stay known until they are deleted, as a node may come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            if node.pods.is_empty() {
                self.nodes.remove(name);
            } else {
                node.facts = Arc::default();
            }
        }
    }

    /// Takes in a pod that is bound, or assumed to be.
    pub fn place(&mut self, pod: Arc<PodInfo>) {
        self.displace(&pod.uid);
        if pod.node.is_empty() || pod.ended {
            return;
        }
        self.with_affinity += usize::from(pod.has_affinity());
        self.placed.insert(pod.uid.to_string(), pod.node.to_string());
        self.nodes.entry(pod.node.to_string()).or_default().add(pod);
    }

    /// Takes a pod out.
    pub fn displace(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid).and_then(|n| self.nodes.get_mut(&n)) else { return };
        self.with_affinity -= usize::from(node.pods.get(uid).is_some_and(|p| p.has_affinity()));
        node.remove(uid);
    }

    pub fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }
}
