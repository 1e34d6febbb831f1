//! EndpointSlices of Services with a selector. Upstream: `pkg/controller/endpointslice`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use knarr_client::events::reference;
use knarr_client::{Client, Deletion, EventKind, Informer, Key, Outcome, Recorder, client};
use knarr_core::Result;

use super::plan::{self, Desired, Identity, MANAGER, SlicePlan};
use super::{Observed, SliceView, has_cluster_ip, host_name, is_endpoint, ports, slice_informer, slices_of};
use crate::batch::is_namespace_terminating;
use crate::context::ControllerContext;
use crate::ledger::Ledger;
use crate::pods::PodItem;

/// The name of slices in the [`Ledger`].
const SLICES: &str = "endpointslices";

/// Keys are those of Services.
pub fn start(context: &ControllerContext) {
    let client = context.client("endpointslice-controller");
    let this = Arc::new(Controller {
        observed: Observed::new(context),
        slices: slice_informer(context),
        recorder: context.recorder(&client, "endpoint-slice-controller"),
        client,
        ledger: Ledger::default(),
    });
    let queue = context.queue("endpoint_slice");
    this.observed.wake(&queue);
    let woken = queue.clone();
    this.slices.on_change(move |change| {
        for slice in [&change.old, &change.new].into_iter().flatten().filter(|s| s.view.manager.as_deref() == Some(MANAGER)) {
            slice.view.service.iter().for_each(|service| woken.add(Key::new(slice.key.namespace(), service)));
        }
    });
    context.run("endpointslice", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    observed: Observed,
    slices: Informer<SliceView>,
    client: Client,
    recorder: Recorder,
    ledger: Ledger,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let Some(item) = self.observed.services.store().get(&key) else {
            self.ledger.forget(&key);
            return Ok(Outcome::Done);
        };
        if !item.view.is_ours() {
            return Ok(Outcome::Done);
        }
        if !self.ledger.caught_up(&key, SLICES, &self.slices).await {
            return Ok(Outcome::Retry);
        }
        let service: Service = item.typed()?;
        let pods = self.observed.pods_of(&item);
        let existing: Vec<EndpointSlice> = slices_of(&self.slices, &key, MANAGER).iter().map(|s| s.typed()).collect::<Result<_>>()?;
        let ready_since: BTreeMap<&str, Timestamp> = pods.iter().filter_map(|p| Some((p.key.name(), p.view.ready??))).collect();
        let changed_at = |e: &Endpoint| ready_since.get(e.target_ref.as_ref()?.name.as_deref()?).copied();
        let families = families(&service);
        let (wanted, mut unwanted): (Vec<_>, Vec<_>) = existing.into_iter().partition(|s| families.contains(&s.address_type.as_str()));
        let mut whole = SlicePlan::default();
        for family in families {
            let own = wanted.iter().filter(|s| s.address_type == family).cloned().collect();
            let part = plan::plan(&service, family, own, self.desired(&service, &pods, family), &changed_at);
            whole.create.extend(part.create);
            whole.update.extend(part.update);
            whole.delete.extend(part.delete);
        }
        whole.delete.append(&mut unwanted);
        if let Err(error) = self.execute(&key, &service, whole).await {
            let text = format!("Error updating Endpoint Slices for Service {key}: {error}");
            if !error.is_conflict() {
                self.recorder.event(&reference(&service), EventKind::Warning, "FailedToUpdateEndpointSlices", text);
            }
            return Err(error);
        }
        Ok(Outcome::Done)
    }

    fn desired(&self, service: &Service, pods: &[PodItem], family: &str) -> Desired {
        let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
        let mut desired = Desired::new();
        for pod in pods.iter().filter(|p| is_endpoint(&p.view, true)) {
            let ports = ports::endpoint_ports(service, pod);
            let group = desired.entry(ports::key(&ports)).or_default();
            group.ports = ports;
            let (node_exists, zone) = pod.view.node.as_deref().map_or((false, None), |n| self.observed.zone(n));
            // The pod's node may not be known yet; its coming wakes the Service.
            if node_exists || publish {
                if let Some(e) = endpoint(service, pod, zone, publish, family) {
                    group.endpoints.insert(Identity::of(&e), e);
                }
            }
        }
        desired
    }

    async fn execute(&self, key: &Key, service: &Service, plan: SlicePlan) -> Result<()> {
        let api = self.client.within::<EndpointSlice>(key.namespace());
        if service.metadata.deletion_timestamp.is_none() {
            for slice in &plan.create {
                match api.dynamic().create(client::tree(slice)?).await {
                    Ok(object) => self.ledger.wrote(key, SLICES, object.resource_version),
                    Err(error) if is_namespace_terminating(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        for slice in &plan.update {
            let object = api.dynamic().update(client::tree(slice)?).await?;
            self.ledger.wrote(key, SLICES, object.resource_version);
        }
        for slice in &plan.delete {
            match api.delete(slice.metadata.name.as_deref().unwrap_or_default(), &Deletion::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The address types of a Service (upstream: `getAddressTypesForService`).
fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let told: Vec<&str> = spec.and_then(|s| s.ip_families.as_ref()).into_iter().flatten().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if !told.is_empty() {
        return told;
    }
    if has_cluster_ip(service) {
        let v6 = spec.and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| ip.contains(':'));
        return if v6 { vec!["IPv6"] } else { vec!["IPv4"] };
    }
    vec!["IPv4", "IPv6"]
}

/// Upstream: `podToEndpoint`.
fn endpoint(service: &Service, pod: &PodItem, zone: Option<String>, publish: bool, family: &str) -> Option<Endpoint> {
    let of_family = |ip: &&IpAddr| ip.is_ipv6() == (family == "IPv6");
    let addresses: Vec<String> = pod.view.ips.iter().filter(of_family).map(ToString::to_string).collect();
    let (serving, terminating) = (pod.view.is_ready(), pod.view.deleting.is_some());
    (!addresses.is_empty()).then(|| Endpoint {
        addresses,
        conditions: Some(EndpointConditions { ready: Some(publish || serving && !terminating), serving: Some(serving), terminating: Some(terminating) }),
        hostname: host_name(pod, service),
        node_name: pod.view.node.as_deref().map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.key.namespace().to_owned()),
            name: Some(pod.key.name().to_owned()),
            uid: Some(pod.view.uid.to_string()),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    })
}
