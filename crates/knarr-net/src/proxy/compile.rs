//! From one Service and its endpoints to the entries that it needs. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::endpoints::{self, NodeView, Targets};
use super::entry::{Action, Entry, Firewall, Front, Key, Masquerade, Origin, STICKY_ENDPOINTS_MAX, Scope, Value};
use crate::pods::Protocol;
use crate::view::{Service, ServicePort, ServiceType, Slice};

/// More endpoints of one port than this are left out: an action counts them in 16 bits.
const ENDPOINTS_MAX: usize = u16::MAX as usize;

/// What a Service has in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Compiled {
    /// The entries of each of its fronts. A front belongs to one Service: with it come or go all its entries.
    pub fronts: BTreeMap<Front, FrontEntries>,
    /// Addresses that other Services may have entries for too: ClusterIPs and pods of this node. Sorted.
    pub counted: Vec<Key>,
    ports: Vec<Slots>,
    /// `healthCheckNodePort` and the number of local endpoints.
    pub health_check: Option<(u16, usize)>,
}

/// Everything that is filed under one front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrontEntries {
    /// Nobody's external IP can take it away.
    pub is_cluster_ip: bool,
    /// Sorted.
    pub entries: Arc<[Entry]>,
}

/// The slots of one port. Kept, so that an endpoint keeps its slot when others come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slots {
    /// At the ClusterIP.
    front: Front,
    /// From elsewhere.
    external: Vec<Front>,
    cluster: Vec<SocketAddrV4>,
    local: Vec<SocketAddrV4>,
    /// All endpoints that serve, where an old flow may go on.
    serving: BTreeSet<SocketAddrV4>,
}

/// Flows to a front must end at one of these endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowEnds {
    pub front: Front,
    pub endpoints: BTreeSet<SocketAddrV4>,
}

/// Fronts that this node answers itself, by a server of its own: they get no entries.
pub(super) type OwnFronts = BTreeSet<(Ipv4Addr, Protocol, u16)>;

/// Whether a Service is the proxy's business.
fn is_proxied(service: &Service) -> bool {
    !service.headless && !service.foreign && service.service_type != ServiceType::ExternalName && !service.cluster_ips.is_empty()
}

fn ipv4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    addresses.iter().filter_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None })
}

/// Compiles a Service. `before` is what it had: endpoints keep their slots.
pub(super) fn compile(service: &Service, slices: &[&Slice], node: &NodeView, own_fronts: &OwnFronts, before: &Compiled) -> Compiled {
    let mut compiled = Compiled::default();
    let Some(cluster_ip) = ipv4(&service.cluster_ips).next().filter(|_| is_proxied(service)) else { return compiled };
    if !own_fronts.iter().any(|(address, ..)| *address == cluster_ip) {
        compiled.counted.push(Key::ClusterIp(cluster_ip));
    }
    let firewall = firewall(service, node);
    for port in &service.ports {
        let candidates = endpoints::candidates(slices.iter().copied(), &port.name, port.protocol, node);
        let targets = endpoints::targets(&candidates, service, port.node_port);
        compiled.counted.extend(targets.on_this_node.iter().map(|e| Key::Hairpin(*e.ip())));
        let front = Front::new(cluster_ip, port.protocol, port.port);
        let old = before.ports.iter().find(|p| p.front == front);
        let limit = if service.affinity_seconds.is_some() { STICKY_ENDPOINTS_MAX } else { ENDPOINTS_MAX };
        let slots = Slots {
            front,
            external: external_fronts(service, port),
            cluster: keep_slots(old.map_or(&[][..], |o| &o.cluster), &targets.cluster, limit),
            local: keep_slots(old.map_or(&[][..], |o| &o.local), &targets.local, limit),
            serving: candidates.iter().filter(|c| c.serving).map(|c| c.address).collect(),
        };
        let port = Port { service, slots: &slots, targets: &targets };
        if !own_fronts.contains(&(front.address, front.protocol, front.port)) {
            compiled.fronts.insert(front, FrontEntries { is_cluster_ip: true, entries: port.at_cluster_ip() });
        }
        for external in &slots.external {
            let guard = firewall.as_ref().filter(|_| service.load_balancer_ips.contains(&external.address.into()));
            compiled.fronts.entry(*external).or_insert_with(|| FrontEntries { is_cluster_ip: false, entries: port.from_elsewhere(*external, guard) });
        }
        compiled.ports.push(slots);
    }
    if service.health_check_node_port != 0 {
        compiled.health_check = Some((service.health_check_node_port, endpoints::local_ready(slices.iter().copied(), node)));
    }
    compiled.counted.sort_unstable();
    compiled.counted.dedup();
    compiled
}

fn external_fronts(service: &Service, port: &ServicePort) -> Vec<Front> {
    let addresses = ipv4(&service.external_ips).chain(ipv4(&service.load_balancer_ips));
    let mut fronts: Vec<_> = addresses.map(|address| Front::new(address, port.protocol, port.port)).collect();
    if port.node_port != 0 {
        fronts.push(Front::node_port(port.protocol, port.node_port));
    }
    fronts
}

/// Who may reach the load balancer's addresses, unless everybody may.
fn firewall(service: &Service, node: &NodeView) -> Option<Arc<Firewall>> {
    if service.source_ranges.is_empty() {
        return None;
    }
    let mut sources: Vec<_> = service.source_ranges.iter().filter_map(|net| if let IpNet::V4(v4) = net { Some(v4.trunc()) } else { None }).collect();
    // A node that is allowed may reach the address from itself, with that very address as source.
    if service.source_ranges.iter().any(|net| node.ips.iter().any(|ip| net.contains(ip))) {
        sources.extend(ipv4(&service.load_balancer_ips).map(Ipv4Net::from));
    }
    sources.sort_unstable();
    sources.dedup();
    Some(Arc::new(Firewall(sources)))
}

/// Gives each wanted endpoint a slot: its old one where that is below the new count, else one that became free.
fn keep_slots(old: &[SocketAddrV4], wanted: &[SocketAddrV4], limit: usize) -> Vec<SocketAddrV4> {
    let count = wanted.len().min(limit);
    let wanted_set: BTreeSet<_> = wanted.iter().copied().collect();
    let mut slots: Vec<Option<SocketAddrV4>> = old.iter().take(count).map(|e| wanted_set.contains(e).then_some(*e)).collect();
    slots.resize(count, None);
    let kept: BTreeSet<_> = slots.iter().flatten().copied().collect();
    let mut rest = wanted.iter().filter(|e| !kept.contains(e));
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next().copied())).collect()
}

/// One port on its way to entries.
struct Port<'a> {
    service: &'a Service,
    slots: &'a Slots,
    targets: &'a Targets,
}

impl Port<'_> {
    fn at_cluster_ip(&self) -> Arc<[Entry]> {
        let scope = if self.service.internal_local { Scope::Local } else { Scope::Cluster };
        let front = self.slots.front;
        let mut entries = vec![(Key::Front(front), Value::Action(self.forward(Origin::Address, Masquerade::Outsiders, scope)))];
        self.endpoints(front, scope, &mut entries);
        sorted(entries)
    }

    /// For an address from outside. With the policy `Local` outsiders go to this node's endpoints and keep their address,
    /// while pods and the node itself go to any.
    fn from_elsewhere(&self, front: Front, firewall: Option<&Arc<Firewall>>) -> Arc<[Entry]> {
        let origin = if front.address.is_unspecified() { Origin::NodePort } else { Origin::Address };
        let masquerade = if self.service.external_local { Masquerade::Outsiders } else { Masquerade::Everybody };
        let mut entries = vec![(Key::Front(front), Value::Action(self.forward(origin, masquerade, Scope::Cluster)))];
        self.endpoints(front, Scope::Cluster, &mut entries);
        if self.service.external_local {
            entries.push((Key::OutsideFront(front), Value::Action(self.forward(origin, Masquerade::Nobody, Scope::Local))));
            self.endpoints(front, Scope::Local, &mut entries);
        }
        entries.extend(firewall.map(|f| (Key::Firewall(front), Value::Firewall(f.clone()))));
        sorted(entries)
    }

    fn in_scope(&self, scope: Scope) -> &[SocketAddrV4] {
        if scope == Scope::Local { &self.slots.local } else { &self.slots.cluster }
    }

    fn forward(&self, origin: Origin, masquerade: Masquerade, scope: Scope) -> Action {
        match u16::try_from(self.in_scope(scope).len()) {
            _ if !self.targets.any => Action::Reject,
            // Endpoints elsewhere, but the policy keeps to this node: silence, so that the client tries another node.
            Ok(0) | Err(_) => Action::Drop,
            Ok(endpoints) => Action::Forward { origin, masquerade, scope, endpoints, affinity_seconds: self.service.affinity_seconds.unwrap_or_default() },
        }
    }

    /// With affinity a slot leads to the endpoint's sticky number, which clients are remembered with; else to the endpoint.
    fn endpoints(&self, front: Front, scope: Scope, entries: &mut Vec<Entry>) {
        let slots = (scope.first_slot()..).zip(self.in_scope(scope));
        if self.service.affinity_seconds.is_none() {
            entries.extend(slots.map(|(slot, endpoint)| (Key::Endpoint(front, slot), Value::Endpoint(*endpoint))));
            return;
        }
        let numbers = sticky_numbers(self.in_scope(scope));
        entries.extend(slots.map(|(slot, endpoint)| (Key::Pick(front, slot), Value::Number(numbers[endpoint]))));
        entries.extend(numbers.into_iter().map(|(endpoint, number)| (Key::Endpoint(front, number), Value::Endpoint(endpoint))));
    }
}

/// A number for each endpoint that depends on its address alone: clients stay where they are when other endpoints come and
/// go, and when the agent restarts. Only two addresses with one hash depend on each other.
fn sticky_numbers(endpoints: &[SocketAddrV4]) -> BTreeMap<SocketAddrV4, u32> {
    /// Above the slots of either scope, of which there are no more than [`ENDPOINTS_MAX`].
    const FIRST: u32 = 1 << 30;
    let mut taken = BTreeSet::new();
    let endpoints: BTreeSet<_> = endpoints.iter().copied().collect();
    let number = |endpoint: SocketAddrV4| {
        let hash = crate::rules::fnv1a(&[&endpoint.ip().octets()[..], &endpoint.port().to_be_bytes()].concat()) as u32 & (FIRST - 1);
        let free = (0..FIRST).map(|step| FIRST | (hash + step) & (FIRST - 1)).find(|n| taken.insert(*n));
        (endpoint, free.unwrap_or(FIRST))
    };
    endpoints.into_iter().map(number).collect()
}

fn sorted(mut entries: Vec<Entry>) -> Arc<[Entry]> {
    entries.sort_unstable();
    entries.dedup_by(|a, b| a.0 == b.0);
    entries.into()
}

impl Compiled {
    /// Fronts whose flows may have lost their way since `before`, and where they may end now. Those of UDP also when endpoints
    /// came: until then their packets went through untranslated.
    pub fn lost_since(&self, before: &Self) -> Vec<FlowEnds> {
        let nothing = BTreeSet::new();
        let mut all = Vec::new();
        for port in &self.ports {
            let old = before.ports.iter().find(|p| p.front == port.front);
            let was = old.map_or(&nothing, |p| &p.serving);
            let udp = port.front.protocol == Protocol::Udp;
            let is_lost = if udp { old.is_none_or(|old| old.serving != port.serving || old.external != port.external) } else { !was.is_subset(&port.serving) };
            if is_lost {
                all.extend(std::iter::once(&port.front).chain(&port.external).map(|front| FlowEnds { front: *front, endpoints: port.serving.clone() }));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
