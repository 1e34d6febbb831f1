//! Which pods stand behind which Service, in three forms: EndpointSlices ([`slices`]), the older Endpoints ([`legacy`]), and
//! slices that mirror Endpoints which users wrote themselves ([`mirror`]).

mod legacy;
mod mirror;
mod plan;
mod ports;
mod slices;
mod subsets;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Change, Informer, Item, Key, Project, WorkQueue, read};
use knarr_core::{Object, Result};
use knarr_schema::codec;
use serde::Deserialize;

use crate::context::ControllerContext;
use crate::nodes::{self, NodeView};
use crate::ownership::{self, label};
use crate::pods::{self, BY_NODE, PodItem, PodView};

/// On slices: the Service they belong to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On slices: who writes them.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// On slices and Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// On slices and Endpoints: when the change happened that they show.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Starts all three.
pub fn start(context: &ControllerContext) {
    slices::start(context);
    legacy::start(context);
    mirror::start(context);
}

/// What is kept of a Service: whom it selects.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceView {
    pub uid: Box<str>,
    /// Empty when it selects nobody.
    pub selector: Vec<(Box<str>, Box<str>)>,
    pub external_name: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    spec: WireSpec,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    r#type: String,
    selector: std::collections::BTreeMap<String, String>,
}

impl Project for ServiceView {
    fn project(object: &Object) -> Result<Self> {
        let Wire { spec } = read::typed(object)?;
        Ok(Self {
            uid: codec::meta(object).uid.into(),
            selector: spec.selector.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            external_name: spec.r#type == "ExternalName",
        })
    }
}

impl ServiceView {
    /// Whether we write its endpoints.
    pub fn is_ours(&self) -> bool {
        !self.external_name && !self.selector.is_empty()
    }

    /// Whether it selects a pod with these labels.
    pub fn selects(&self, pod: &Object) -> bool {
        let meta = codec::meta(pod);
        self.is_ours() && self.selector.iter().all(|(k, v)| meta.labels.iter().any(|(pk, pv)| **k == **pk && **v == **pv))
    }
}

/// What is kept of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub struct SliceView {
    pub service: Option<Box<str>>,
    pub manager: Option<Box<str>>,
    pub deleting: bool,
}

impl Project for SliceView {
    fn project(object: &Object) -> Result<Self> {
        Ok(Self {
            service: label(object, SERVICE_NAME).map(Into::into),
            manager: label(object, MANAGED_BY).map(Into::into),
            deleting: codec::meta(object).deleting,
        })
    }
}

/// The index of slices by namespace, Service and manager.
const BY_SERVICE: &str = "service";

fn by_service(namespace: &str, service: &str, manager: &str) -> String {
    format!("{namespace}/{service} {manager}")
}

/// The shared informer of all slices.
pub fn slice_informer(context: &ControllerContext) -> Informer<SliceView> {
    let slices = context.informer::<EndpointSlice, SliceView>();
    slices.store().add_index(BY_SERVICE, |item| {
        let both = item.view.service.as_ref().zip(item.view.manager.as_ref());
        both.map(|(service, manager)| by_service(item.key.namespace(), service, manager)).into_iter().collect()
    });
    slices
}

/// The slices of a Service that are in our care.
pub fn slices_of(slices: &Informer<SliceView>, service: &Key, manager: &str) -> Vec<Arc<Item<SliceView>>> {
    let all = slices.store().by_index(BY_SERVICE, &by_service(service.namespace(), service.name(), manager));
    all.into_iter().filter(|s| !s.view.deleting).collect()
}

/// What both selecting controllers observe.
#[derive(Clone)]
pub struct Observed {
    pub services: Informer<ServiceView>,
    pub pods: Informer<PodView>,
    pub nodes: Informer<NodeView>,
}

impl Observed {
    pub fn new(context: &ControllerContext) -> Self {
        Self { services: context.informer::<Service, ServiceView>(), pods: pods::informer(context), nodes: nodes::informer(context) }
    }

    /// Wakes Services when they, their pods, or the nodes of their pods change in a way that matters.
    pub fn wake(&self, queue: &WorkQueue<Key>) {
        crate::context::enqueue_all(&self.services, queue);
        let (this, woken) = (self.clone(), queue.clone());
        self.pods.on_change(move |change| {
            if matters(change) {
                for pod in [&change.old, &change.new].into_iter().flatten() {
                    this.services_of(pod).into_iter().for_each(|key| woken.add(key));
                }
            }
        });
        let (this, woken) = (self.clone(), queue.clone());
        self.nodes.on_change(move |change| {
            let zone = |node: &Option<Arc<Item<NodeView>>>| node.as_ref().map(|n| label(&n.object, ZONE).map(str::to_owned));
            if zone(&change.old) != zone(&change.new) && change.new.is_some() {
                for pod in this.pods.store().by_index(BY_NODE, change.key().name()) {
                    this.services_of(&pod).into_iter().for_each(|key| woken.add(key));
                }
            }
        });
    }

    fn services_of(&self, pod: &PodItem) -> Vec<Key> {
        let services = self.services.store().within(pod.key.namespace());
        services.into_iter().filter(|s| s.view.selects(&pod.object)).map(|s| s.key.clone()).collect()
    }

    /// The pods that a Service selects.
    pub fn pods_of(&self, service: &Item<ServiceView>) -> Vec<PodItem> {
        self.pods.store().within(service.key.namespace()).into_iter().filter(|p| service.view.selects(&p.object)).collect()
    }

    /// Whether a node exists, and its zone.
    pub fn zone(&self, node: &str) -> (bool, Option<String>) {
        let node = self.nodes.store().find("", node);
        (node.is_some(), node.and_then(|n| label(&n.object, ZONE).filter(|z| !z.is_empty()).map(str::to_owned)))
    }
}

/// Whether a change of a pod can change endpoints (upstream: `podEndpointsChanged`).
fn matters(change: &Change<PodView>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let facts = |p: &PodView| (p.is_ready(), p.is_over(), p.deleting, p.node.clone());
    facts(&old.view) != facts(&new.view)
        || old.view.ips != new.view.ips
        || old.view.host != new.view.host
        || codec::meta(&old.object).labels != codec::meta(&new.object).labels
}

/// Whether the pod can be an endpoint: it has an address and is not over.
pub fn is_endpoint(pod: &PodView, include_terminating: bool) -> bool {
    !pod.is_over() && !pod.ips.is_empty() && (include_terminating || pod.deleting.is_none())
}

/// The pod's host name, where this Service is its subdomain.
pub fn host_name(pod: &PodItem, service: &Service) -> Option<String> {
    let host = pod.view.host.as_ref()?;
    let same = service.metadata.name.as_deref() == Some(host.1.as_str());
    same.then(|| host.0.clone())
}

/// Whether the Service has an address of its own.
pub fn has_cluster_ip(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| !ip.is_empty() && ip != "None")
}

/// `NAME-`, the beginning of generated names; without the dash where that would be too long.
pub fn prefix(name: &str) -> String {
    if name.len() < knarr_core::names::DNS1123_SUBDOMAIN_MAX { format!("{name}-") } else { name.to_owned() }
}

/// Whether an object is controlled by the owner with this uid.
pub fn owned_by(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, kind: &str, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|o| o.uid == uid && o.kind == kind && o.api_version == "v1")
}

/// The reference by which Services and Endpoints control slices.
fn controller<T: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>>(
    owner: &T,
) -> Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>> {
    Some(vec![ownership::controller_reference(owner)])
}

#[cfg(test)]
mod tests;
