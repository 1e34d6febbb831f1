//! What the scheduler knows of a node: what it offers, and what is taken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use knarr_client::Project;
use knarr_core::{Object, Result};

use crate::pod::{ByUid, HostPort, PodInfo, Resources};

/// What is kept of a Node object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_max: i64,
    /// Size of each image that is there, by each of its names.
    pub images: HashMap<String, i64>,
}

impl Project for NodeFacts {
    fn project(object: &Object) -> Result<Self> {
        knarr_client::read::typed::<Node>(object).map(|node| Self::new(&node))
    }
}

impl NodeFacts {
    pub fn new(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let mut allocatable = Resources::from_map(&status.allocatable.unwrap_or_default());
        let pods_max = allocatable.scalar.remove("pods").unwrap_or(0);
        let images = status.images.iter().flatten();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable,
            pods_max,
            images: images.flat_map(|i| i.names.iter().flatten().map(move |n| (n.clone(), i.size_bytes.unwrap_or(0)))).collect(),
        }
    }
}

/// A node with the pods on it.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// Where the cluster keeps it.
    pub place: usize,
    /// Without a name while only pods speak of it.
    pub facts: Arc<NodeFacts>,
    pods: HashSet<ByUid>,
    pub requested: Resources,
    /// CPU and memory, with what pods without requests count as.
    pub weight: (i64, i64),
    ports: HashSet<HostPort>,
    /// How many of the pods have affinity of any kind.
    pub with_affinity: usize,
}

impl NodeState {
    /// A node with no pod on it.
    pub fn empty(facts: NodeFacts) -> Self {
        Self { facts: Arc::new(facts), ..Self::default() }
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.pods.iter().map(|p| &p.0)
    }

    pub fn pods_count(&self) -> usize {
        self.pods.len()
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.uid);
        self.requested.add(&pod.requests);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        self.ports.extend(pod.ports.iter().cloned());
        self.with_affinity += usize::from(pod.has_affinity());
        self.pods.insert(ByUid(pod));
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let ByUid(pod) = self.pods.take(uid)?;
        self.requested.subtract(&pod.requests);
        self.weight = (self.weight.0 - pod.weight.0, self.weight.1 - pod.weight.1);
        self.with_affinity -= usize::from(pod.has_affinity());
        if !pod.ports.is_empty() {
            self.ports = self.pods.iter().flat_map(|p| p.0.ports.iter().cloned()).collect();
        }
        Some(pod)
    }

    /// Whether one of these host ports is taken.
    pub fn has_port_of(&self, wanted: &[HostPort]) -> bool {
        let clash = |a: &HostPort, b: &HostPort| a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0.is_empty() || b.0.is_empty());
        wanted.iter().any(|w| self.ports.iter().any(|t| clash(w, t)))
    }

    pub fn name(&self) -> &str {
        &self.facts.name
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.labels.get(key).map(String::as_str)
    }
}
