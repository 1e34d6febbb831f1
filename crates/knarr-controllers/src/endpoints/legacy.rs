//! Endpoints of Services with a selector: the older form, which some clients still read. Upstream: `pkg/controller/endpoint`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::events::reference;
use knarr_client::{Client, Deletion, EventKind, Informer, Key, Meta, Outcome, Recorder, client};
use knarr_core::{Result, time};
use parking_lot::Mutex;

use super::{HEADLESS, Observed, TRIGGER_TIME, has_cluster_ip, host_name, is_endpoint, ports, subsets};
use crate::batch::is_namespace_terminating;
use crate::context::ControllerContext;
use crate::ledger::Ledger;
use crate::pods::PodItem;

/// Addresses that one Endpoints object holds.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The name of Endpoints in the [`Ledger`].
const OWN: &str = "endpoints";

/// Keys are those of Services, which are those of their Endpoints.
pub fn start(context: &ControllerContext) {
    let client = context.client("endpoint-controller");
    let this = Arc::new(Controller {
        observed: Observed::new(context),
        endpoints: context.informer::<Endpoints, Meta>(),
        recorder: context.recorder(&client, "endpoint-controller"),
        client,
        ledger: Ledger::default(),
        lost: Mutex::default(),
    });
    let me = this.clone();
    this.observed.services.on_change(move |change| {
        if change.new.is_none() {
            me.lost.lock().insert(change.key().clone());
        }
    });
    let queue = context.queue("endpoint");
    this.observed.wake(&queue);
    crate::context::enqueue_all(&this.endpoints, &queue);
    context.run("endpoints", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    observed: Observed,
    endpoints: Informer<Meta>,
    client: Client,
    recorder: Recorder,
    ledger: Ledger,
    /// Services that were seen to go: their Endpoints go too, whoever wrote them.
    lost: Mutex<BTreeSet<Key>>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let Some(item) = self.observed.services.store().get(&key) else {
            return self.delete_leftover(&key).await;
        };
        if !item.view.is_ours() {
            return Ok(Outcome::Done);
        }
        if !self.ledger.caught_up(&key, OWN, &self.endpoints).await {
            return Ok(Outcome::Retry);
        }
        let service: Service = item.typed()?;
        let pods = self.observed.pods_of(&item);
        let subsets = subsets::repack(&subsets_of(&service, &pods));
        let current: Option<Endpoints> = self.endpoints.store().get(&key).map(|e| e.typed()).transpose()?;
        if current.as_ref().is_some_and(|c| is_current(c, &service, &subsets)) {
            return Ok(Outcome::Done);
        }
        let trigger = pods.iter().filter_map(|p| p.view.ready?).max().map(time::format);
        let is_new = current.is_none();
        let wanted = write_into(current.unwrap_or_else(|| fresh(&key)), &service, subsets, trigger);
        let api = self.client.within::<Endpoints>(key.namespace());
        let tree = client::tree(&wanted)?;
        let written = if is_new { api.dynamic().create(tree).await } else { api.dynamic().update(tree).await };
        match written {
            Ok(object) => self.ledger.wrote(&key, OWN, object.resource_version),
            Err(error) if is_namespace_terminating(&error) => {}
            Err(error) => {
                let (reason, verb) =
                    if is_new { ("FailedToCreateEndpoint", "create endpoint for service") } else { ("FailedToUpdateEndpoint", "update endpoint") };
                if !error.is_conflict() {
                    self.recorder.event(&reference(&wanted), EventKind::Warning, reason, format!("Failed to {verb} {key}: {error}"));
                }
                return Err(error);
            }
        }
        Ok(Outcome::Done)
    }

    /// The Service is gone: its Endpoints go with it. Those that elect leaders, or that somebody made without a Service, stay.
    async fn delete_leftover(&self, key: &Key) -> Result<Outcome> {
        self.ledger.forget(key);
        let lost = self.lost.lock().remove(key);
        let Some(left) = self.endpoints.store().get(key) else { return Ok(Outcome::Done) };
        let endpoints: Endpoints = left.typed()?;
        let elects = endpoints.metadata.annotations.is_some_and(|a| a.contains_key("control-plane.alpha.kubernetes.io/leader"));
        let ours = endpoints.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER);
        if elects || !ours && !lost {
            return Ok(Outcome::Done);
        }
        match self.client.within::<Endpoints>(key.namespace()).delete(key.name(), &Deletion::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

fn fresh(key: &Key) -> Endpoints {
    let metadata = ObjectMeta { name: Some(key.name().into()), namespace: Some(key.namespace().into()), ..ObjectMeta::default() };
    Endpoints { metadata, subsets: None }
}

/// One subset for each pod and port, before packing.
fn subsets_of(service: &Service, pods: &[PodItem]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let portless = spec.ports.as_ref().is_none_or(Vec::is_empty);
    let mut subsets = Vec::new();
    for pod in pods.iter().filter(|p| is_endpoint(&p.view, publish)) {
        let Some(address) = address(service, pod) else { continue };
        let ports: Vec<Option<EndpointPort>> = if portless {
            // Only headless Services may do without ports.
            if has_cluster_ip(service) { Vec::new() } else { vec![None] }
        } else {
            ports::endpoint_ports(service, pod).into_iter().map(|p| Some(port(p))).collect()
        };
        let ready = publish || pod.view.is_ready();
        for port in ports {
            let addresses = Some(vec![address.clone()]);
            let ports = port.map(|p| vec![p]);
            subsets.push(if ready {
                EndpointSubset { addresses, not_ready_addresses: None, ports }
            } else {
                EndpointSubset { addresses: None, not_ready_addresses: addresses, ports }
            });
        }
    }
    subsets
}

fn port(p: k8s_openapi::api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort { name: p.name.filter(|n| !n.is_empty()), port: p.port.unwrap_or_default(), protocol: p.protocol, app_protocol: p.app_protocol }
}

/// The pod's address in the Service's first family (upstream: `podToEndpointAddressForService`).
fn address(service: &Service, pod: &PodItem) -> Option<EndpointAddress> {
    let spec = service.spec.as_ref()?;
    let v6 = match spec.ip_families.as_ref().and_then(|f| f.first()) {
        Some(family) => family == "IPv6",
        None if has_cluster_ip(service) => spec.cluster_ip.as_ref().is_some_and(|ip| ip.contains(':')),
        None => pod.view.ips.first()?.is_ipv6(),
    };
    let ip = pod.view.ips.iter().find(|ip| ip.is_ipv6() == v6)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: host_name(pod, service),
        node_name: pod.view.node.as_deref().map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.key.namespace().to_owned()),
            name: Some(pod.key.name().to_owned()),
            uid: Some(pod.view.uid.to_string()),
            ..ObjectReference::default()
        }),
    })
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_cluster_ip(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn count(subsets: &[EndpointSubset]) -> usize {
    subsets.iter().map(|s| s.addresses.as_ref().map_or(0, Vec::len) + s.not_ready_addresses.as_ref().map_or(0, Vec::len)).sum()
}

fn is_current(current: &Endpoints, service: &Service, subsets: &[EndpointSubset]) -> bool {
    let known = current.subsets.as_deref().unwrap_or_default();
    let marked = current.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OVER_CAPACITY));
    let mut wanted = subsets.to_vec();
    let truncated = truncate(&mut wanted);
    subsets::same(known, &wanted) && current.metadata.labels.as_ref() == Some(&labels(service)) && marked == truncated
}

fn write_into(mut endpoints: Endpoints, service: &Service, mut subsets: Vec<EndpointSubset>, trigger: Option<String>) -> Endpoints {
    let truncated = truncate(&mut subsets);
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    endpoints.metadata.labels = Some(labels(service));
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(at) => drop(annotations.insert(TRIGGER_TIME.into(), at)),
        None => drop(annotations.remove(TRIGGER_TIME)),
    }
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    endpoints
}

/// Keeps what one object can hold, ready addresses before others (upstream: `truncateEndpoints`).
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    if count(subsets) <= ADDRESSES_MAX {
        return false;
    }
    let mut room = ADDRESSES_MAX;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(all) = list {
            all.truncate(room);
            room -= all.len();
        }
        list.take_if(|all| all.is_empty());
    };
    subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
    subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    true
}
