//! Which endpoints of a Service port a node sends traffic to: readiness, the fallback to terminating ones, topology hints
//! and traffic policies (upstream: `k8s.io/kubernetes/pkg/proxy/topology.go`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};

use crate::pods::Protocol;
use crate::view::{Service, Slice};

/// What the node knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    pub zone: String,
    pub ips: Vec<IpAddr>,
}

/// One endpoint of one port, as seen from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub address: SocketAddrV4,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub local: bool,
    for_this_node: Hint,
    for_this_zone: Hint,
}

/// Whether an endpoint is meant for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    Missing,
    Others,
    Us,
}

/// Where traffic of a Service port goes. Addresses are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// For traffic policy `Cluster`.
    pub cluster: Vec<SocketAddrV4>,
    /// For traffic policy `Local`.
    pub local: Vec<SocketAddrV4>,
    /// Whether any node has a usable endpoint.
    pub any: bool,
    /// Those of the above that are on this node, whatever the policy.
    pub on_this_node: Vec<SocketAddrV4>,
}

fn hint(names: &[Box<str>], ours: &str) -> Hint {
    match names {
        [] => Hint::Missing,
        names if names.iter().any(|n| **n == *ours) => Hint::Us,
        _ => Hint::Others,
    }
}

/// The IPv4 endpoints of one port over all slices of a Service, each address once.
pub(super) fn candidates<'a>(slices: impl Iterator<Item = &'a Slice>, port_name: &str, protocol: Protocol, node: &NodeView) -> Vec<Candidate> {
    let mut found: BTreeMap<SocketAddrV4, Candidate> = BTreeMap::new();
    for slice in slices {
        for port in slice.ports.iter().filter(|p| *p.name == *port_name && p.protocol == protocol) {
            for endpoint in &slice.endpoints {
                let IpAddr::V4(ip) = endpoint.address else { continue };
                let address = SocketAddrV4::new(ip, port.port);
                let candidate = Candidate {
                    address,
                    ready: endpoint.ready,
                    serving: endpoint.serving,
                    terminating: endpoint.terminating,
                    local: !node.name.is_empty() && *endpoint.node_name == *node.name,
                    for_this_node: hint(&endpoint.node_hints, &node.name),
                    for_this_zone: hint(&endpoint.zone_hints, &node.zone),
                };
                // An address may be seen twice: while it moves between slices, or when a new pod has the address of one
                // that is not quite gone. The living one counts.
                if !endpoint.terminating || !found.contains_key(&address) {
                    found.insert(address, candidate);
                }
            }
        }
    }
    found.into_values().collect()
}

/// Whether a Service is reachable by more than its ClusterIP.
fn externally_accessible(service: &Service, node_port: u16) -> bool {
    node_port != 0 || !service.load_balancer_ips.is_empty() || !service.external_ips.is_empty()
}

/// Chooses among the candidates (upstream: `CategorizeEndpoints`).
pub(super) fn targets(candidates: &[Candidate], service: &Service, node_port: u16) -> Targets {
    let external = externally_accessible(service, node_port);
    let mut targets = Targets::default();
    if !service.internal_local || external {
        targets.cluster = cluster_targets(candidates);
        targets.any = !targets.cluster.is_empty();
    }
    if service.internal_local || (service.external_local && external) {
        targets.local = ready_or_terminating(candidates, |c| c.local);
        targets.any |= candidates.iter().any(|c| c.ready || (c.serving && c.terminating));
    }
    let here = |address: &&SocketAddrV4| candidates.iter().any(|c| c.local && c.address == **address);
    targets.on_this_node = targets.cluster.iter().chain(&targets.local).filter(here).copied().collect();
    targets.on_this_node.sort_unstable();
    targets.on_this_node.dedup();
    targets
}

/// Ready endpoints that their hints leave to us; without any, terminating ones that still serve.
fn cluster_targets(candidates: &[Candidate]) -> Vec<SocketAddrV4> {
    let hinted = |hint_of: fn(&Candidate) -> Hint| {
        let mut ready = candidates.iter().filter(|c| c.ready).map(hint_of).peekable();
        let mut us = false;
        ready.peek().is_some() && ready.all(|h| (us |= h == Hint::Us, h != Hint::Missing).1) && us
    };
    let (by_node, by_zone) = (|c: &Candidate| c.for_this_node, |c: &Candidate| c.for_this_zone);
    if hinted(by_node) {
        return ready_or_terminating(candidates, |c| !c.ready || c.for_this_node == Hint::Us);
    }
    if hinted(by_zone) {
        return ready_or_terminating(candidates, |c| !c.ready || c.for_this_zone == Hint::Us);
    }
    ready_or_terminating(candidates, |_| true)
}

fn ready_or_terminating(candidates: &[Candidate], allowed: impl Fn(&Candidate) -> bool) -> Vec<SocketAddrV4> {
    let pick = |state: fn(&Candidate) -> bool| -> Vec<_> { candidates.iter().filter(|c| allowed(c) && state(c)).map(|c| c.address).collect() };
    let ready = pick(|c| c.ready);
    if ready.is_empty() { pick(|c| c.serving && c.terminating) } else { ready }
}

/// How many pods of this node are ready, for `healthCheckNodePort`: each address once, whatever its ports.
pub(super) fn local_ready<'a>(slices: impl Iterator<Item = &'a Slice>, node: &NodeView) -> usize {
    let here = slices.flat_map(|s| &s.endpoints).filter(|e| e.ready && *e.node_name == *node.name);
    here.map(|e| e.address).collect::<std::collections::BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Endpoint, EndpointPort};

    /// `address state node [zone=…] [node=…]`, state being some of r(eady), s(erving), t(erminating).
    fn slice(lines: &[&str]) -> Slice {
        let endpoint = |line: &&str| {
            let words: Vec<_> = line.split(' ').collect();
            let hints = |key: &str| words[3..].iter().filter_map(|w| w.strip_prefix(key)).map(Into::into).collect();
            Endpoint {
                address: words[0].parse().unwrap(),
                ready: words[1].contains('r'),
                serving: words[1].contains('s'),
                terminating: words[1].contains('t'),
                hostname: "".into(),
                node_name: words[2].into(),
                zone_hints: hints("zone="),
                node_hints: hints("node="),
            }
        };
        Slice {
            service: "s".into(),
            ports: vec![EndpointPort { name: "p".into(), protocol: Protocol::Tcp, port: 80 }],
            endpoints: lines.iter().map(endpoint).collect(),
            triggered_at: None,
        }
    }

    /// `cluster | local | any`
    fn check(service: &Service, node_port: u16, lines: &[&str], wanted: &str) {
        let node = NodeView { name: "here".into(), zone: "z".into(), ips: Vec::new() };
        let slice = slice(lines);
        let targets = targets(&candidates([&slice].into_iter(), "p", Protocol::Tcp, &node), service, node_port);
        let show = |all: &[SocketAddrV4]| all.iter().map(|a| a.ip().octets()[3].to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(format!("{} | {} | {}", show(&targets.cluster), show(&targets.local), targets.any), wanted, "{lines:?}");
    }

    #[test]
    fn only_ready_endpoints_get_traffic_and_terminating_ones_when_there_are_no_others() {
        let plain = Service::default();
        check(&plain, 0, &["10.0.0.1 rs here", "10.0.0.2 - there", "10.0.0.3 st there"], "1 |  | true");
        check(&plain, 0, &["10.0.0.2 - there", "10.0.0.3 st there", "10.0.0.4 t there"], "3 |  | true");
        check(&plain, 0, &["10.0.0.2 - there"], " |  | false");
    }

    #[test]
    fn local_policies_keep_to_this_node_and_know_of_others() {
        let internal = Service { internal_local: true, ..Service::default() };
        check(&internal, 0, &["10.0.0.1 rs here", "10.0.0.2 rs there"], " | 1 | true");
        check(&internal, 0, &["10.0.0.2 rs there"], " |  | true");
        let external = Service { external_local: true, ..Service::default() };
        check(&external, 30000, &["10.0.0.1 st here", "10.0.0.2 rs there"], "2 | 1 | true");
        check(&external, 0, &["10.0.0.1 rs here", "10.0.0.2 rs there"], "1,2 |  | true");
    }

    #[test]
    fn hints_are_followed_only_if_every_ready_endpoint_has_one_and_one_is_ours() {
        let plain = Service::default();
        check(&plain, 0, &["10.0.0.1 rs a zone=z", "10.0.0.2 rs b zone=y"], "1 |  | true");
        check(&plain, 0, &["10.0.0.1 rs a zone=z", "10.0.0.2 rs b"], "1,2 |  | true");
        check(&plain, 0, &["10.0.0.1 rs a zone=x", "10.0.0.2 rs b zone=y"], "1,2 |  | true");
        check(&plain, 0, &["10.0.0.1 rs a zone=z node=there", "10.0.0.2 rs b zone=y node=here"], "2 |  | true");
        check(&plain, 0, &["10.0.0.1 rs a zone=z node=there", "10.0.0.2 rs b zone=y node=there"], "1 |  | true");
    }

    #[test]
    fn of_two_endpoints_with_one_address_the_living_counts() {
        check(&Service::default(), 0, &["10.0.0.1 rs a", "10.0.0.1 st b"], "1 |  | true");
        check(&Service::default(), 0, &["10.0.0.1 st b", "10.0.0.1 rs a"], "1 |  | true");
    }

    #[test]
    fn local_pods_are_counted_once_each() {
        let node = NodeView { name: "here".into(), ..NodeView::default() };
        assert_eq!(local_ready([&slice(&["10.0.0.1 rs here", "10.0.0.1 rs here", "10.0.0.2 s here", "10.0.0.3 rs b"])].into_iter(), &node), 1);
    }
}
