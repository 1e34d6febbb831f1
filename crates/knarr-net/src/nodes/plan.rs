//! Which ways there should be to the pods of other nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use knarr_sys::netlink::link::Mac;

use crate::view::Node;

/// How a node's address is reached from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is on a link of ours.
    Direct {
        link: u32,
    },
    /// Somebody passes packets on who knows nothing of pods.
    Gateway,
    /// It is our own.
    Own,
    Nowhere,
}

/// A node behind the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub address: Ipv4Addr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Pod CIDR to next hop and link.
    pub routes: BTreeMap<Ipv4Net, (Ipv4Addr, u32)>,
    /// Pod CIDR to the node behind the overlay.
    pub peers: BTreeMap<Ipv4Net, Peer>,
}

/// A node's first internal IPv4 address.
pub(super) fn internal_v4(node: &Node) -> Option<Ipv4Addr> {
    node.internal_ips.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None })
}

/// The link-layer address of a node's VXLAN device.
pub(super) fn vtep_mac(node: Ipv4Addr) -> Mac {
    let [a, b, c, d] = node.octets();
    Mac([0x0a, 0x59, a, b, c, d])
}

/// Where a node is found from outside, and what is there: its pods, and the node itself when it is inside a machine.
fn place(node: &Node) -> Option<(Ipv4Addr, Vec<Ipv4Net>)> {
    let mut nets: Vec<Ipv4Net> = node.pod_cidrs.iter().filter_map(|net| if let IpNet::V4(v4) = net { Some(v4.trunc()) } else { None }).collect();
    let own = internal_v4(node)?;
    match node.machine {
        Some(IpAddr::V4(machine)) => {
            nets.push(own.into());
            Some((machine, nets))
        }
        _ => Some((own, nets)),
    }
}

/// Addresses to which ways are needed: those of nodes, or of the machines that they are in.
pub(super) fn places(nodes: &[(String, Node)]) -> impl Iterator<Item = IpAddr> {
    nodes.iter().filter_map(|(_, node)| place(node)).map(|(address, _)| address.into())
}

/// The ways from `own` to the pods of all other nodes. Nodes that have no pod CIDR or no address yet are left out, and so are those
/// inside this very machine, which announce themselves.
pub(super) fn plan(own: &str, nodes: &[(String, Node)], reach: &BTreeMap<IpAddr, Reach>) -> Plan {
    let mut plan = Plan::default();
    for (_, node) in nodes.iter().filter(|(name, _)| name != own) {
        let Some((address, nets)) = place(node) else { continue };
        for net in nets {
            match reach.get(&address.into()) {
                Some(Reach::Direct { link }) => {
                    plan.routes.insert(net, (address, *link));
                }
                Some(Reach::Gateway) => {
                    plan.peers.insert(net, Peer { address });
                }
                Some(Reach::Own | Reach::Nowhere) | None => (),
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(cidr: &str, address: &str) -> Node {
        let some = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
        Node {
            pod_cidrs: some(cidr).map(|c| c.parse().unwrap()).into_iter().collect(),
            internal_ips: some(address).map(|a| a.parse().unwrap()).into_iter().collect(),
            machine: None,
            zone: "".into(),
        }
    }

    fn inside(cidr: &str, address: &str, machine: &str) -> Node {
        Node { machine: machine.parse().ok(), ..node(cidr, address) }
    }

    #[test]
    fn neighbours_get_routes_and_the_others_the_overlay() {
        let nodes: Vec<(String, Node)> = [
            ("own", node("10.244.0.0/24", "192.0.2.1")),
            ("near", node("10.244.1.0/24", "192.0.2.2")),
            ("far", node("10.244.2.0/24", "198.51.100.2")),
            ("lost", node("10.244.3.0/24", "203.0.113.1")),
            ("new", node("", "192.0.2.3")),
            ("silent", node("10.244.4.0/24", "")),
        ]
        .into_iter()
        .map(|(name, node)| (name.to_owned(), node))
        .collect();
        let reach = BTreeMap::from([
            ("192.0.2.1".parse().unwrap(), Reach::Own),
            ("192.0.2.2".parse().unwrap(), Reach::Direct { link: 3 }),
            ("198.51.100.2".parse().unwrap(), Reach::Gateway),
            ("203.0.113.1".parse().unwrap(), Reach::Nowhere),
        ]);
        let plan = plan("own", &nodes, &reach);
        let show: Vec<_> = plan.routes.iter().map(|(net, (via, link))| format!("{net} via {via} on {link}")).collect();
        assert_eq!(show, ["10.244.1.0/24 via 192.0.2.2 on 3"]);
        let show: Vec<_> = plan.peers.iter().map(|(net, peer)| format!("{net} behind {}", peer.address)).collect();
        assert_eq!(show, ["10.244.2.0/24 behind 198.51.100.2"]);
    }

    #[test]
    fn a_node_inside_a_machine_is_behind_it_and_nobody_s_business_within() {
        let nodes: Vec<(String, Node)> = [
            ("here", inside("10.244.1.0/24", "10.89.0.2", "192.0.2.1")),
            ("near", inside("10.244.2.0/24", "10.89.1.2", "192.0.2.2")),
            ("far", inside("10.244.3.0/24", "10.89.2.2", "198.51.100.2")),
        ]
        .into_iter()
        .map(|(name, node)| (name.to_owned(), node))
        .collect();
        assert_eq!(places(&nodes).map(|a| a.to_string()).collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2", "198.51.100.2"]);
        let reach = BTreeMap::from([
            ("192.0.2.1".parse().unwrap(), Reach::Own),
            ("192.0.2.2".parse().unwrap(), Reach::Direct { link: 3 }),
            ("198.51.100.2".parse().unwrap(), Reach::Gateway),
        ]);
        let plan = plan("", &nodes, &reach);
        let show: Vec<_> = plan.routes.iter().map(|(net, (via, link))| format!("{net} via {via} on {link}")).collect();
        assert_eq!(show, ["10.89.1.2/32 via 192.0.2.2 on 3", "10.244.2.0/24 via 192.0.2.2 on 3"]);
        let show: Vec<_> = plan.peers.iter().map(|(net, peer)| format!("{net} behind {}", peer.address)).collect();
        assert_eq!(show, ["10.89.2.2/32 behind 198.51.100.2", "10.244.3.0/24 behind 198.51.100.2"]);
    }
}
