//! Endpoints that users wrote for Services without a selector, mirrored into EndpointSlices: proxies read nothing else.
//! Upstream: `pkg/controller/endpointslicemirroring`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::events::reference;
use knarr_client::{Client, Deletion, EventKind, Informer, Key, Meta, Outcome, Recorder, client};
use knarr_core::Result;

use super::plan::{Identity, differs};
use super::{MANAGED_BY, SERVICE_NAME, ServiceView, SliceView, TRIGGER_TIME, controller, ports, prefix, slice_informer, slices_of, subsets};
use crate::batch::is_namespace_terminating;
use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses of one subset that are mirrored.
const ADDRESSES_MAX: usize = 1000;
/// The name of slices in the [`Ledger`].
const SLICES: &str = "endpointslices";

/// Keys are those of Endpoints.
pub fn start(context: &ControllerContext) {
    let client = context.client("endpointslicemirroring-controller");
    let this = Arc::new(Controller {
        endpoints: context.informer::<Endpoints, Meta>(),
        services: context.informer::<Service, ServiceView>(),
        slices: slice_informer(context),
        recorder: context.recorder(&client, "endpoint-slice-mirroring-controller"),
        client,
        ledger: Ledger::default(),
    });
    let queue = context.queue("endpoint_slice_mirroring");
    enqueue_all(&this.endpoints, &queue);
    enqueue_all(&this.services, &queue);
    let woken = queue.clone();
    this.slices.on_change(move |change| {
        for slice in [&change.old, &change.new].into_iter().flatten().filter(|s| s.view.manager.as_deref() == Some(MANAGER)) {
            slice.view.service.iter().for_each(|service| woken.add(Key::new(slice.key.namespace(), service)));
        }
    });
    context.run("endpointslice-mirroring", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    endpoints: Informer<Meta>,
    services: Informer<ServiceView>,
    slices: Informer<SliceView>,
    client: Client,
    recorder: Recorder,
    ledger: Ledger,
}

/// What is to be written.
#[derive(Default)]
struct Plan {
    write: Vec<EndpointSlice>,
    delete: Vec<String>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        if !self.ledger.caught_up(&key, SLICES, &self.slices).await {
            return Ok(Outcome::Retry);
        }
        let existing: Vec<EndpointSlice> = slices_of(&self.slices, &key, MANAGER).iter().map(|s| s.typed()).collect::<Result<_>>()?;
        let endpoints: Option<Endpoints> = self.endpoints.store().get(&key).map(|e| e.typed()).transpose()?;
        // A Service with a selector has slices of its own.
        let wanted = self.services.store().get(&key).is_some_and(|s| s.view.selector.is_empty());
        let plan = match endpoints.filter(|e| wanted && should_mirror(e)) {
            Some(endpoints) => {
                let (desired, problems) = desired(&endpoints);
                for (reason, text) in problems {
                    self.recorder.event(&reference(&endpoints), EventKind::Warning, reason, text);
                }
                plan(&endpoints, existing, desired)
            }
            None => Plan { delete: existing.into_iter().filter_map(|s| s.metadata.name).collect(), ..Plan::default() },
        };
        self.execute(&key, plan).await
    }

    async fn execute(&self, key: &Key, plan: Plan) -> Result<Outcome> {
        let api = self.client.within::<EndpointSlice>(key.namespace());
        for slice in &plan.write {
            let tree = client::tree(slice)?;
            let written = if slice.metadata.name.is_some() { api.dynamic().update(tree).await } else { api.dynamic().create(tree).await };
            match written {
                Ok(object) => self.ledger.wrote(key, SLICES, object.resource_version),
                Err(error) if is_namespace_terminating(&error) => return Ok(Outcome::Done),
                Err(error) => return Err(error),
            }
        }
        for name in &plan.delete {
            match api.delete(name, &Deletion::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }
}

fn should_mirror(endpoints: &Endpoints) -> bool {
    let skip = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP_MIRROR)).is_some_and(|v| v == "true");
    let elects = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    !skip && !elects
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

/// Groups by address type and ports.
type Desired = BTreeMap<(&'static str, String), Group>;

fn desired(endpoints: &Endpoints) -> (Desired, Vec<(&'static str, String)>) {
    let (mut desired, mut invalid, mut skipped) = (Desired::new(), 0_usize, 0_usize);
    for subset in subsets::repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let ports = ports_of(&subset);
        let key = ports::key(&ports);
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let all: Vec<_> = ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false))).collect();
        let mut added = 0;
        for (address, ready) in &all {
            if added >= ADDRESSES_MAX {
                break;
            }
            let Some((family, endpoint)) = endpoint(address, *ready) else {
                invalid += 1;
                continue;
            };
            added += 1;
            let group = desired.entry((family, key.clone())).or_default();
            group.ports.clone_from(&ports);
            group.endpoints.insert(Identity::of(&endpoint), endpoint);
        }
        skipped += all.len() - added;
    }
    let mut problems = Vec::new();
    if invalid > 0 {
        problems.push(("InvalidIPAddress", format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices")));
    }
    if skipped > invalid {
        let text = format!("A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped");
        problems.push(("TooManyAddressesToMirror", text));
    }
    (desired, problems)
}

fn ports_of(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |p: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(p.port),
        protocol: p.protocol.clone(),
        app_protocol: p.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
}

fn plan(endpoints: &Endpoints, existing: Vec<EndpointSlice>, desired: Desired) -> Plan {
    let mut plan = Plan::default();
    let mut by_key: BTreeMap<(String, String), Vec<EndpointSlice>> = BTreeMap::new();
    for slice in existing {
        let key = (slice.address_type.clone(), ports::key(slice.ports.as_deref().unwrap_or_default()));
        by_key.entry(key).or_default().push(slice);
    }
    for ((family, key), group) in desired {
        let mut known = by_key.remove(&(family.to_owned(), key)).unwrap_or_default().into_iter();
        let first = known.next();
        plan.delete.extend(known.filter_map(|s| s.metadata.name));
        let wanted = slice(endpoints, family, group, first.as_ref().map(|s| &s.metadata));
        if first.is_none_or(|first| needs_update(&first, &wanted)) {
            plan.write.push(wanted);
        }
    }
    plan.delete.extend(by_key.into_values().flatten().filter_map(|s| s.metadata.name));
    plan
}

fn slice(endpoints: &Endpoints, family: &str, group: Group, known: Option<&ObjectMeta>) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(LAST_APPLIED);
    let metadata = ObjectMeta {
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        namespace: endpoints.metadata.namespace.clone(),
        owner_references: controller(endpoints),
        ..known
            .cloned()
            .unwrap_or_else(|| ObjectMeta { generate_name: Some(prefix(endpoints.metadata.name.as_deref().unwrap_or_default())), ..ObjectMeta::default() })
    };
    let all = group.endpoints.into_values().take(ADDRESSES_MAX).collect();
    EndpointSlice { metadata, address_type: family.to_owned(), endpoints: Some(all), ports: Some(group.ports) }
}

fn needs_update(known: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let facts = |m: &ObjectMeta| {
        let owner = m.owner_references.iter().flatten().map(|o| o.uid.clone()).collect::<Vec<_>>();
        (m.labels.clone().unwrap_or_default(), m.annotations.clone().unwrap_or_default(), owner)
    };
    let by_identity = |s: &EndpointSlice| -> BTreeMap<Identity, Endpoint> { s.endpoints.iter().flatten().map(|e| (Identity::of(e), e.clone())).collect() };
    let (old, new) = (by_identity(known), by_identity(wanted));
    facts(&known.metadata) != facts(&wanted.metadata) || old.len() != new.len() || new.iter().any(|(id, e)| old.get(id).is_none_or(|o| differs(o, e)))
}
