//! Inter-pod affinity: near these pods, and not near those; and no closer to others than they allow.

use std::collections::{HashMap, HashSet};

use super::Refusal;
use crate::cluster::Cluster;
use crate::node::NodeState;
use crate::pod::{AffinityTerm, PodInfo};

const PLUGIN: &str = "InterPodAffinity";

/// A topology domain: key and value.
type Domain = (String, String);

/// Domains in which there is a pod that matters.
pub struct Prepared {
    /// For each required affinity term, the domains that have a matching pod.
    near: Vec<HashSet<String>>,
    /// Nothing matches any term anywhere, and the pod matches its own terms: it is the first of its group.
    is_first: bool,
    /// For each required anti-affinity term, the domains that have a matching pod.
    away: Vec<HashSet<String>>,
    /// Domains in which some pod does not want this one.
    unwelcome: HashSet<Domain>,
}

impl Prepared {
    pub fn new(pod: &PodInfo, cluster: &Cluster) -> Self {
        let labels = |namespace: &str| cluster.namespace_labels(namespace);
        let domains = |terms: &[AffinityTerm]| -> Vec<HashSet<String>> { terms.iter().map(|t| domains_of(t, cluster)).collect() };
        let near = domains(&pod.affinity);
        let is_first = near.iter().all(HashSet::is_empty) && pod.affinity.iter().all(|t| t.matches(pod, &labels));
        let mut unwelcome = HashSet::new();
        if cluster.with_affinity > 0 {
            for node in cluster.nodes().filter(|n| n.with_affinity > 0) {
                for term in node.pods().flat_map(|p| &p.anti_affinity).filter(|t| t.matches(pod, &labels)) {
                    unwelcome.extend(node.label(&term.topology_key).map(|value| (term.topology_key.clone(), value.to_owned())));
                }
            }
        }
        Self { near, is_first, away: domains(&pod.anti_affinity), unwelcome }
    }

    pub fn check(&self, pod: &PodInfo, node: &NodeState) -> Result<(), Refusal> {
        for (term, domains) in pod.affinity.iter().zip(&self.near) {
            let here = node.label(&term.topology_key);
            if here.is_none_or(|value| !domains.contains(value) && !self.is_first) {
                return Err(Refusal::final_(PLUGIN, "node(s) didn't match pod affinity rules"));
            }
        }
        let blocked = |(term, domains): (&AffinityTerm, &HashSet<String>)| node.label(&term.topology_key).is_some_and(|value| domains.contains(value));
        if pod.anti_affinity.iter().zip(&self.away).any(blocked) {
            return Err(Refusal::resolvable(PLUGIN, "node(s) didn't match pod anti-affinity rules"));
        }
        if self.unwelcome.iter().any(|(key, value)| node.label(key) == Some(value)) {
            return Err(Refusal::resolvable(PLUGIN, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }
}

fn domains_of(term: &AffinityTerm, cluster: &Cluster) -> HashSet<String> {
    let labels = |namespace: &str| cluster.namespace_labels(namespace);
    let mut found: HashMap<&str, bool> = HashMap::new();
    for node in cluster.nodes() {
        let Some(value) = node.label(&term.topology_key) else { continue };
        let known = found.entry(value).or_default();
        *known = *known || node.pods().any(|p| term.matches(p, &labels));
    }
    found.into_iter().filter(|(_, has)| *has).map(|(value, _)| value.to_owned()).collect()
}
