//! What the scheduler keeps of a pod: the parts that decide where it may run, read out once.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, PodAffinityTerm, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as TypedSelector;
use knarr_client::ToTree;
use knarr_client::{Key, Project};
use knarr_core::quantity::Quantity;
use knarr_core::selector::LabelSelector;
use knarr_core::{Object, Result};

use crate::manifest::{Container, Pod, PodSpec, Port, Quantities};
use crate::shared::{Fingerprint, Pool, Shared};
use crate::terms::{Term, terms};

/// What a container without a request counts as when nodes are compared (not when they are filtered).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// An amount of each resource: thousandths of a CPU, bytes, and the rest by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    pub fn from_map(map: &Quantities) -> Self {
        let mut all = Self::default();
        for (name, amount) in map {
            let Ok(amount) = amount.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => all.milli_cpu = amount.millis(),
                "memory" => all.memory = amount.value(),
                "ephemeral-storage" => all.ephemeral_storage = amount.value(),
                other => drop(all.scalar.insert(other.to_owned(), amount.value())),
            }
        }
        all
    }

    pub fn add(&mut self, other: &Self) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() -= amount;
        }
    }

    fn max(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let entry = self.scalar.entry(name.clone()).or_default();
            *entry = (*entry).max(*amount);
        }
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq)]
pub struct AffinityTerm {
    pub selector: LabelSelector,
    pub namespaces: Vec<String>,
    /// `None`: only `namespaces` count.
    pub namespace_selector: Option<LabelSelector>,
    pub topology_key: String,
    /// For preferences.
    pub weight: i64,
}

impl AffinityTerm {
    /// Whether the other pod is one that this term speaks of.
    pub fn matches(&self, other: &PodInfo, namespace_labels: &dyn Fn(&str) -> BTreeMap<String, String>) -> bool {
        let in_namespace = self.namespaces.iter().any(|n| n == other.namespace())
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches_map(Some(&namespace_labels(other.namespace()))));
        in_namespace && self.selector.matches_map(Some(&other.labels))
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    pub hard: bool,
    pub selector: LabelSelector,
    pub min_domains: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// A host port: address (empty for all), protocol, port.
pub type HostPort = (String, String, i32);

/// What pods of one template ask for alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demands {
    pub scheduler: String,
    pub gates: Vec<String>,
    pub priority: i64,
    pub never_preempts: bool,
    pub requests: Resources,
    /// Requests with what a container without any counts as: CPU and memory.
    pub weight: (i64, i64),
    pub ports: Vec<HostPort>,
    pub images: Vec<String>,
    pub node_selector: BTreeMap<String, String>,
    pub required_terms: Option<Vec<Term>>,
    pub preferred_terms: Vec<(i64, Term)>,
    pub tolerations: Vec<Toleration>,
    pub affinity: Vec<AffinityTerm>,
    pub anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<AffinityTerm>,
    pub preferred_anti_affinity: Vec<AffinityTerm>,
    pub spread: Vec<Spread>,
}

impl Fingerprint for Demands {
    fn fingerprint(&self, hasher: &mut impl Hasher) {
        (&self.scheduler, self.priority, self.weight, &self.images, &self.node_selector, self.tolerations.len()).hash(hasher);
    }
}

static DEMANDS: Pool<Demands> = Pool::new();
static LABELS: Pool<BTreeMap<String, String>> = Pool::new();

/// What the scheduler keeps of a pod: who it is, its state, and what it asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInfo {
    pub key: Key,
    pub uid: Box<str>,
    pub labels: Shared<BTreeMap<String, String>>,
    /// Empty until it is bound.
    pub node: Box<str>,
    pub nominated: Box<str>,
    pub deleting: bool,
    /// Succeeded or Failed: it takes nothing any more.
    pub ended: bool,
    pub started: i64,
    /// The owner that manages it.
    pub controller: Box<str>,
    pub claims: Box<[String]>,
    pub demands: Shared<Demands>,
}

impl Deref for PodInfo {
    type Target = Demands;
    fn deref(&self) -> &Demands {
        &self.demands
    }
}

impl Project for PodInfo {
    fn project(object: &Object) -> Result<Self> {
        Self::project_at(&knarr_client::read::key(object), object)
    }

    fn project_at(key: &Key, object: &Object) -> Result<Self> {
        knarr_client::read::typed(object).map(|pod| Self::new(key.clone(), pod))
    }
}

impl PodInfo {
    pub(crate) fn new(key: Key, pod: Pod) -> Self {
        let (meta, status) = (pod.metadata, pod.status);
        let Some(spec) = &pod.spec else { return Self::default() };
        let labels = LABELS.share(meta.labels);
        Self {
            demands: DEMANDS.share(Demands::new(spec, key.namespace(), &labels)),
            key,
            uid: meta.uid.into(),
            labels,
            node: spec.node_name.as_str().into(),
            nominated: status.nominated_node_name.into(),
            deleting: meta.deletion_timestamp.is_some(),
            ended: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            started: status.start_time.map_or(i64::MAX, |t| t.0.as_second()),
            controller: meta.owner_references.into_iter().find(|o| o.controller == Some(true)).map(|o| o.uid.into()).unwrap_or_default(),
            claims: claims(spec, &meta.name),
        }
    }

    pub fn namespace(&self) -> &str {
        self.key.namespace()
    }

    pub fn name(&self) -> &str {
        self.key.name()
    }
}

/// A pod that is found by its uid.
#[derive(Clone, Debug)]
pub struct ByUid(pub Arc<PodInfo>);

impl Borrow<str> for ByUid {
    fn borrow(&self) -> &str {
        &self.0.uid
    }
}

impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for ByUid {}

impl Demands {
    /// What a pod of this namespace with these labels asks for.
    fn new(spec: &PodSpec, namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let (requests, weight) = requests(spec);
        let mut demands = Self {
            scheduler: spec.scheduler_name.clone(),
            gates: spec.scheduling_gates.iter().map(|g| g.name.clone()).collect(),
            priority: spec.priority,
            never_preempts: spec.preemption_policy == "Never",
            requests,
            weight,
            ports: ports(spec),
            images: spec.containers.iter().map(|c| c.image.clone()).filter(|i| !i.is_empty()).collect(),
            node_selector: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
            spread: spec.topology_spread_constraints.iter().map(|c| spread(c, labels)).collect(),
            ..Self::default()
        };
        demands.read_affinity(spec, namespace, labels);
        demands
    }

    fn read_affinity(&mut self, spec: &PodSpec, namespace: &str, labels: &BTreeMap<String, String>) {
        let Some(affinity) = &spec.affinity else { return };
        if let Some(node) = &affinity.node_affinity {
            self.required_terms = terms(node.required_during_scheduling_ignored_during_execution.as_ref());
            let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            self.preferred_terms = preferred.map(|p| (i64::from(p.weight), Term::new(&p.preference))).collect();
        }
        let required = |terms: &Option<Vec<PodAffinityTerm>>| terms.iter().flatten().map(|t| affinity_term(t, 0, namespace, labels)).collect();
        let preferred = |terms: &Option<Vec<core::WeightedPodAffinityTerm>>| {
            terms.iter().flatten().map(|t| affinity_term(&t.pod_affinity_term, i64::from(t.weight), namespace, labels)).collect()
        };
        if let Some(pods) = &affinity.pod_affinity {
            self.affinity = required(&pods.required_during_scheduling_ignored_during_execution);
            self.preferred_affinity = preferred(&pods.preferred_during_scheduling_ignored_during_execution);
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            self.anti_affinity = required(&pods.required_during_scheduling_ignored_during_execution);
            self.preferred_anti_affinity = preferred(&pods.preferred_during_scheduling_ignored_during_execution);
        }
    }

    pub fn has_affinity(&self) -> bool {
        !self.affinity.is_empty() || !self.anti_affinity.is_empty() || !self.preferred_affinity.is_empty() || !self.preferred_anti_affinity.is_empty()
    }
}

pub fn label_selector(selector: Option<&TypedSelector>) -> LabelSelector {
    let value = selector.and_then(|s| s.to_tree().ok());
    LabelSelector::from_value(value.as_ref()).unwrap_or_else(|_| LabelSelector::nothing())
}

fn affinity_term(term: &PodAffinityTerm, weight: i64, namespace: &str, labels: &BTreeMap<String, String>) -> AffinityTerm {
    let mut selector = label_selector(term.label_selector.as_ref());
    add_label_keys(&mut selector, term.match_label_keys.as_deref(), labels, false);
    add_label_keys(&mut selector, term.mismatch_label_keys.as_deref(), labels, true);
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(namespace.to_owned());
    }
    AffinityTerm {
        selector,
        namespaces,
        namespace_selector: term.namespace_selector.as_ref().map(|s| label_selector(Some(s))),
        topology_key: term.topology_key.clone(),
        weight,
    }
}

/// `matchLabelKeys`: the pod's own values of these keys join the selector.
fn add_label_keys(selector: &mut LabelSelector, keys: Option<&[String]>, labels: &BTreeMap<String, String>, negated: bool) {
    use knarr_core::selector::{Operator, Requirement};
    for key in keys.unwrap_or_default() {
        if let Some(value) = labels.get(key) {
            let operator = if negated { Operator::NotIn } else { Operator::In };
            selector.requirements.push(Requirement { key: key.clone(), operator, values: vec![value.clone()] });
        }
    }
}

fn spread(constraint: &core::TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Spread {
    let mut selector = label_selector(constraint.label_selector.as_ref());
    add_label_keys(&mut selector, constraint.match_label_keys.as_deref(), labels, false);
    Spread {
        max_skew: i64::from(constraint.max_skew),
        topology_key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn claims(spec: &PodSpec, pod: &str) -> Box<[String]> {
    let of = |v: &crate::manifest::Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", v.name)),
        _ => None,
    };
    spec.volumes.iter().filter_map(of).collect()
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|c| c.is_sidecar());
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
    let on_host = |p: &Port| p.host_port.or(spec.host_network.then_some(p.container_port)).filter(|n| *n > 0);
    ports
        .filter_map(|p| {
            let address = if p.host_ip == "0.0.0.0" { String::new() } else { p.host_ip.clone() };
            let protocol = if p.protocol.is_empty() { "TCP" } else { &p.protocol };
            Some((address, protocol.to_owned(), on_host(p)?))
        })
        .collect()
}

/// Requests of a whole pod (upstream: `resourcehelper.PodRequests`): the sum of the containers and sidecars, or what an init
/// container needs beside the sidecars before it, whichever is more; pod-level requests instead where given; and overhead.
fn requests(spec: &PodSpec) -> (Resources, (i64, i64)) {
    let of = |c: &Container| Resources::from_map(&c.resources.requests);
    let (mut sum, mut weight) = (Resources::default(), (0, 0));
    let mut count = |r: &Resources| {
        weight.0 += if r.milli_cpu == 0 { DEFAULT_MILLI_CPU } else { r.milli_cpu };
        weight.1 += if r.memory == 0 { DEFAULT_MEMORY } else { r.memory };
    };
    for container in &spec.containers {
        let own = of(container);
        count(&own);
        sum.add(&own);
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in &spec.init_containers {
        let own = of(container);
        if container.is_sidecar() {
            count(&own);
            sum.add(&own);
            sidecars.add(&own);
            peak.max(&sidecars);
        } else {
            let mut with = sidecars.clone();
            with.add(&own);
            peak.max(&with);
        }
    }
    sum.max(&peak);
    weight = (weight.0.max(peak.milli_cpu), weight.1.max(peak.memory));
    let pod = &spec.resources.requests;
    let whole = Resources::from_map(pod);
    if pod.contains_key("cpu") {
        (sum.milli_cpu, weight.0) = (whole.milli_cpu, whole.milli_cpu);
    }
    if pod.contains_key("memory") {
        (sum.memory, weight.1) = (whole.memory, whole.memory);
    }
    let overhead = Resources::from_map(&spec.overhead);
    sum.add(&overhead);
    (sum, (weight.0 + overhead.milli_cpu, weight.1 + overhead.memory))
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A pod out of JSON; `metadata` and `spec` as given.
    pub fn pod(value: serde_json::Value) -> PodInfo {
        let pod: Pod = serde_json::from_value(value).expect("a pod");
        PodInfo::new(Key::new(&pod.metadata.namespace, &pod.metadata.name), pod)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::pod;
    use serde_json::json;

    #[test]
    fn an_init_container_counts_where_it_needs_more_than_all_others() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}});
        let info = pod(json!({"spec": {"containers": [container("100m"), container("100m")], "initContainers": [sidecar, container("500m")]}}));
        assert_eq!(info.requests.milli_cpu, 700);
        let info = pod(json!({"spec": {"containers": [container("1")], "initContainers": [container("500m")]}}));
        assert_eq!(info.requests.milli_cpu, 1000);
    }
}
