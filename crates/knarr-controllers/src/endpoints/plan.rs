//! From what is there and what should be to the slices that must be written: as few as possible, each at most full.
//! Pure. Upstream: `k8s.io/endpointslice` (`reconcileByPortMapping`, `finalize`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_core::time;

use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, controller, has_cluster_ip, owned_by, ports, prefix};

/// Endpoints in one slice (upstream: `--max-endpoints-per-slice`).
pub const ENDPOINTS_MAX: usize = 100;
/// Who writes the slices of selecting Services.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What makes two endpoints the same: addresses, host name, and the pod behind them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    addresses: Vec<String>,
    host: Option<String>,
    target: Option<(Option<String>, Option<String>)>,
}

impl Identity {
    pub fn of(e: &Endpoint) -> Self {
        let mut addresses = e.addresses.clone();
        addresses.sort();
        Self { addresses, host: e.hostname.clone(), target: e.target_ref.as_ref().map(|t| (t.namespace.clone(), t.name.clone())) }
    }
}

/// Whether endpoints of one identity differ in what else is told of them.
pub fn differs(a: &Endpoint, b: &Endpoint) -> bool {
    let target = |e: &Endpoint| e.target_ref.as_ref().map(|t| (t.kind.clone(), t.uid.clone()));
    let conditions = |e: &Endpoint| e.conditions.as_ref().map_or((None, None, None), |c| (c.ready, c.serving, c.terminating));
    (&a.node_name, &a.zone, conditions(a), target(a)) != (&b.node_name, &b.zone, conditions(b), target(b))
}

/// Endpoints that share their ports.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub ports: Vec<EndpointPort>,
    pub endpoints: BTreeMap<Identity, Endpoint>,
}

/// What should be, for one address family: groups by the key of their ports.
pub type Desired = BTreeMap<String, Group>;

/// What must be written.
#[derive(Debug, Default)]
pub struct SlicePlan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<EndpointSlice>,
}

/// The labels of a Service's slices (upstream: `setEndpointSliceLabels`).
pub fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_cluster_ip(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// Plans one address family. `changed_at` tells for an endpoint when the change happened that it shows.
pub fn plan(service: &Service, family: &str, existing: Vec<EndpointSlice>, desired: Desired, changed_at: &dyn Fn(&Endpoint) -> Option<Timestamp>) -> SlicePlan {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let mut plan = SlicePlan::default();
    let mut by_ports: BTreeMap<String, Vec<EndpointSlice>> = BTreeMap::new();
    let (mut count, mut unchanged) = (0, Vec::new());
    for slice in existing {
        count += 1;
        if owned_by(&slice.metadata, "Service", uid) {
            by_ports.entry(ports::key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
        } else {
            plan.delete.push(slice);
        }
    }
    let mut trigger = Trigger { changed_at, earliest: None };
    for (key, group) in desired {
        let slices = by_ports.remove(&key).unwrap_or_default();
        fill(service, family, slices, group, &mut plan, &mut unchanged, &mut trigger);
    }
    plan.delete.extend(by_ports.into_values().flatten());
    if plan.delete.len() == count && plan.create.is_empty() {
        keep_placeholder(service, family, &mut plan);
    }
    hint(service, &mut plan, unchanged);
    recycle(uid, &mut plan);
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        stamp(slice, trigger.earliest);
    }
    plan
}

/// The earliest of the changes that a plan shows.
struct Trigger<'a> {
    changed_at: &'a dyn Fn(&Endpoint) -> Option<Timestamp>,
    earliest: Option<Timestamp>,
}

impl Trigger<'_> {
    fn note(&mut self, e: &Endpoint) {
        self.earliest = match (self.earliest, (self.changed_at)(e)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

fn fill(
    service: &Service,
    family: &str,
    slices: Vec<EndpointSlice>,
    group: Group,
    plan: &mut SlicePlan,
    unchanged: &mut Vec<EndpointSlice>,
    trigger: &mut Trigger<'_>,
) {
    let Group { ports, endpoints: mut left } = group;
    let wanted_labels = labels(service);
    let (mut touched, mut same) = (Vec::new(), Vec::new());
    for mut slice in slices {
        let before = slice.endpoints.clone().unwrap_or_default();
        let mut kept = Vec::new();
        let mut changed = false;
        for old in &before {
            let Some(mut new) = left.remove(&Identity::of(old)) else { continue };
            if differs(old, &new) {
                changed = true;
                trigger.note(&new);
            }
            // Hints are computed afterwards; until then they stay, so that an unchanged slice is seen to be unchanged.
            new.hints.clone_from(&old.hints);
            kept.push(new);
        }
        let relabelled = slice.metadata.labels.as_ref() != Some(&wanted_labels);
        if (changed || kept.len() != before.len()) && kept.is_empty() {
            plan.delete.push(slice);
        } else if changed || kept.len() != before.len() || relabelled {
            slice.endpoints = Some(kept);
            slice.metadata.labels = Some(wanted_labels.clone());
            touched.push(slice);
        } else {
            same.push(slice);
        }
    }
    left.values().for_each(|e| trigger.note(e));
    let mut left: Vec<Endpoint> = left.into_values().collect();
    // What is written anyway is filled first, the fullest before the others.
    touched.sort_by_key(|s| std::cmp::Reverse(size(s)));
    touched.iter_mut().for_each(|slice| pour(&mut left, slice));
    while !left.is_empty() {
        let mut slice = match best_fit(&same, left.len()) {
            Some(i) => same.remove(i),
            None => fresh(service, family, ports.clone()),
        };
        pour(&mut left, &mut slice);
        if slice.metadata.name.is_some() { touched.push(slice) } else { plan.create.push(slice) }
    }
    plan.update.extend(touched);
    unchanged.extend(same);
}

fn size(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn pour(left: &mut Vec<Endpoint>, slice: &mut EndpointSlice) {
    let room = ENDPOINTS_MAX.saturating_sub(size(slice)).min(left.len());
    slice.endpoints.get_or_insert_default().extend(left.drain(..room));
}

/// The slice that will be closest to full with so many more endpoints.
fn best_fit(slices: &[EndpointSlice], count: usize) -> Option<usize> {
    let fitting = slices.iter().enumerate().filter(|(_, s)| count < ENDPOINTS_MAX && size(s) + count <= ENDPOINTS_MAX);
    fitting.max_by_key(|(_, s)| size(s)).map(|(i, _)| i)
}

fn fresh(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(prefix(service.metadata.name.as_deref().unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: controller(service),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    }
}

/// A Service without endpoints has one empty slice.
fn keep_placeholder(service: &Service, family: &str, plan: &mut SlicePlan) {
    let is_placeholder = |s: &EndpointSlice| {
        size(s) == 0 && s.ports.as_ref().is_none_or(Vec::is_empty) && s.metadata.labels.as_ref() == Some(&labels(service)) && s.address_type == family
    };
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    match plan.delete.as_slice() {
        [only] if is_placeholder(only) && owned_by(&only.metadata, "Service", uid) => plan.delete.clear(),
        _ => plan.create.push(fresh(service, family, Vec::new())),
    }
}

/// `spec.trafficDistribution` as hints: endpoints ask to be used from their own zone or node.
fn hint(service: &Service, plan: &mut SlicePlan, unchanged: Vec<EndpointSlice>) {
    let distribution = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()).unwrap_or_default();
    let zones = matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    let nodes = distribution == "PreferSameNode";
    let wanted = |e: &Endpoint| -> Option<EndpointHints> {
        let zone = e.zone.as_ref().filter(|_| zones).map(|name| vec![ForZone { name: name.clone() }]);
        let node = e.node_name.as_ref().filter(|_| nodes).map(|name| vec![ForNode { name: name.clone() }]);
        (zone.is_some() || node.is_some()).then_some(EndpointHints { for_nodes: node, for_zones: zone })
    };
    let is_ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
    let concerned = |e: &Endpoint| is_ready(e) || !zones;
    for mut slice in unchanged {
        let wrong = slice.endpoints.iter().flatten().any(|e| concerned(e) && e.hints != wanted(e));
        if wrong {
            slice.endpoints.iter_mut().flatten().filter(|e| concerned(e)).for_each(|e| e.hints = wanted(e));
            plan.update.push(slice);
        }
    }
    for e in plan.create.iter_mut().chain(&mut plan.update).flat_map(|s| s.endpoints.iter_mut().flatten()) {
        if concerned(e) {
            e.hints = wanted(e);
        }
    }
}

/// Instead of deleting one slice and creating another, the first becomes the second.
fn recycle(uid: &str, plan: &mut SlicePlan) {
    let mut kept = Vec::new();
    for old in std::mem::take(&mut plan.delete) {
        let fits = plan.create.last().is_some_and(|new| new.address_type == old.address_type) && owned_by(&old.metadata, "Service", uid);
        match plan.create.pop_if(|_| fits) {
            Some(new) => plan.update.push(EndpointSlice { metadata: ObjectMeta { labels: new.metadata.labels, ..old.metadata }, ..new }),
            None => kept.push(old),
        }
    }
    plan.delete = kept;
}

fn stamp(slice: &mut EndpointSlice, at: Option<Timestamp>) {
    let annotations = slice.metadata.annotations.get_or_insert_default();
    match at {
        Some(at) => drop(annotations.insert(TRIGGER_TIME.into(), time::format(at))),
        None => drop(annotations.remove(TRIGGER_TIME)),
    }
}
