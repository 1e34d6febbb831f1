//! The packet rules of the pod network: masquerading, host ports, a guard for 127.0.0.0/8, and an answer in the name of pods
//! that are gone.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use knarr_sys::nft::{Batch, Chain, ChainKind, Change, Compare, DataType, Element, Expression, Family, Hook, MetaKey, PayloadBase, RejectWith, Set, Verdict};

use super::{HostPort, Protocol};
use crate::rules::{
    DESTINATION, PRIORITY_DNAT, PRIORITY_FILTER, PRIORITY_RAW, PRIORITY_SNAT, SOURCE, destination_is_local, dnat, if_address_within, link_is_loopback,
    load_front, reg, tuple_key,
};

const HOST_PORTS: &str = "host-ports";
const HAIRPIN: &str = "hairpin";

/// The table as a whole, made anew in one step.
pub(super) fn table<'a>(
    name: &str,
    pod_cidr: Option<Ipv4Net>,
    cluster_cidrs: &[IpNet],
    attached: impl Iterator<Item = &'a (Ipv4Addr, Vec<HostPort>)>,
) -> Batch {
    use DataType::{Ipv4Address, Service};
    let mut batch = Batch::new(Family::Ip, name);
    batch.recreate_table("knarr pod network");
    batch.push(Change::AddSet(Set::map(HOST_PORTS, &[Ipv4Address, DataType::Protocol, Service], &[Ipv4Address, Service])));
    batch.push(Change::AddSet(Set::new(HAIRPIN, &[Ipv4Address, Ipv4Address])));
    chains(&mut batch);
    if let Some(pod_cidr) = pod_cidr {
        refuse_for_the_gone(&mut batch, pod_cidr);
        masquerade(&mut batch, pod_cidr, cluster_cidrs);
    }
    for (address, ports) in attached {
        batch.add_elements(HOST_PORTS, host_port_elements(*address, ports));
        batch.add_elements(HAIRPIN, hairpin_element(*address, ports));
    }
    batch
}

fn chains(batch: &mut Batch) {
    batch.push(Change::AddChain(Chain::base("raw-prerouting", ChainKind::Filter, Hook::Prerouting, PRIORITY_RAW)));
    let mut guard = link_is_loopback(MetaKey::IncomingLink, Compare::NotEqual);
    guard.extend(if_address_within(DESTINATION, &loopback(), Compare::Equal));
    guard.push(Expression::Verdict(Verdict::Drop));
    batch.rule("raw-prerouting", guard);

    batch.push(Change::AddChain(Chain::regular("to-host-ports")));
    for any in [false, true] {
        let mut rule = if any { destination_is_local(Compare::Equal) } else { Vec::new() };
        rule.extend(load_front(0, any));
        rule.push(Expression::Lookup { map: HOST_PORTS.into(), key: reg(0), to: reg(4) });
        rule.push(dnat(4));
        batch.rule("to-host-ports", rule);
    }
    // Behind the service proxy: a node port wins over a host port of the same number.
    for (chain, hook) in [("nat-prerouting", Hook::Prerouting), ("nat-output", Hook::Output)] {
        batch.push(Change::AddChain(Chain::base(chain, ChainKind::Nat, hook, PRIORITY_DNAT + 1)));
        batch.rule(chain, vec![Expression::Verdict(Verdict::Jump("to-host-ports".into()))]);
    }
    batch.push(Change::AddChain(Chain::base("nat-postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT + 1)));
    batch.rule(
        "nat-postrouting",
        vec![
            Expression::Payload { base: PayloadBase::Network, offset: SOURCE, len: 4, to: reg(0) },
            Expression::Payload { base: PayloadBase::Network, offset: DESTINATION, len: 4, to: reg(1) },
            Expression::In { set: HAIRPIN.into(), key: reg(0), inverted: false },
            Expression::Masquerade { random: true },
        ],
    );
    let mut from_localhost = link_is_loopback(MetaKey::OutgoingLink, Compare::NotEqual);
    from_localhost.extend(if_address_within(SOURCE, &loopback(), Compare::Equal));
    from_localhost.push(Expression::Masquerade { random: true });
    batch.rule("nat-postrouting", from_localhost);
}

/// Addresses that no pod has lead to the loopback link ([`super::way_of_the_gone`]): what others send there is refused while
/// it is passed on, what the node itself sends when it arrives. A client learns at once that its pod is gone instead of
/// asking again for minutes, and no flow to it stays behind in the memory of any node: the next connection from the same
/// port would follow it there.
fn refuse_for_the_gone(batch: &mut Batch, pod_cidr: Ipv4Net) {
    // Behind network policies: who may not reach a pod is not told that it is gone.
    const BEHIND_POLICIES: i32 = PRIORITY_FILTER + 2;
    batch.push(Change::AddChain(Chain::base("forward", ChainKind::Filter, Hook::Forward, BEHIND_POLICIES)));
    let gone = |key| [link_is_loopback(key, Compare::Equal), if_address_within(DESTINATION, &pod_cidr, Compare::Equal)].concat();
    batch.rule("forward", [gone(MetaKey::OutgoingLink), is_tcp(), vec![Expression::Reject(RejectWith::TcpReset)]].concat());
    batch.rule("forward", [gone(MetaKey::OutgoingLink), vec![Expression::Reject(RejectWith::PortUnreachable)]].concat());
    let arrived = [gone(MetaKey::IncomingLink), destination_is_local(Compare::NotEqual), is_tcp(), vec![Expression::Reject(RejectWith::TcpReset)]];
    batch.rule("raw-prerouting", arrived.concat());
}

fn is_tcp() -> Vec<Expression> {
    vec![
        Expression::Meta { key: MetaKey::Protocol, to: reg(0) },
        Expression::Compare { register: reg(0), op: Compare::Equal, value: vec![Protocol::Tcp as u8] },
    ]
}

fn loopback() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)
}

/// What pods of this node send out of the cluster gets the node's address.
fn masquerade(batch: &mut Batch, pod_cidr: Ipv4Net, cluster_cidrs: &[IpNet]) {
    const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    let inside = cluster_cidrs.iter().filter_map(|net| if let IpNet::V4(v4) = net { Some(*v4) } else { None });
    let mut rule = if_address_within(SOURCE, &pod_cidr, Compare::Equal);
    for net in inside.chain([pod_cidr, MULTICAST]) {
        rule.extend(if_address_within(DESTINATION, &net, Compare::NotEqual));
    }
    rule.push(Expression::Masquerade { random: true });
    batch.rule("nat-postrouting", rule);
}

/// The changes that exchange one pod's host ports for others.
pub(super) fn replace_host_ports(table: &str, old: Option<&(Ipv4Addr, Vec<HostPort>)>, new: Option<&(Ipv4Addr, Vec<HostPort>)>) -> Batch {
    let mut batch = Batch::new(Family::Ip, table);
    if old == new {
        return batch;
    }
    if let Some((address, ports)) = old {
        batch.delete_elements(HOST_PORTS, host_port_elements(*address, ports)).delete_elements(HAIRPIN, hairpin_element(*address, ports));
    }
    if let Some((address, ports)) = new {
        batch.add_elements(HOST_PORTS, host_port_elements(*address, ports)).add_elements(HAIRPIN, hairpin_element(*address, ports));
    }
    batch
}

fn host_port_elements(address: Ipv4Addr, ports: &[HostPort]) -> Vec<Element> {
    let element = |port: &HostPort| {
        let host = match port.host_ip {
            None => Ipv4Addr::UNSPECIFIED,
            Some(IpAddr::V4(v4)) => v4,
            Some(IpAddr::V6(_)) => return None,
        };
        let key = tuple_key(host, port.protocol as u8, port.host_port);
        Some(Element::value(key, [&address.octets()[..], &port.container_port.to_be_bytes(), &[0, 0]].concat()))
    };
    // A pod that names one port twice gets one entry.
    let mut elements: Vec<_> = ports.iter().filter_map(element).collect();
    elements.sort();
    elements.dedup_by(|a, b| a.key == b.key);
    elements
}

/// A pod that reaches itself through its host port must not see its own address as the sender's.
fn hairpin_element(address: Ipv4Addr, ports: &[HostPort]) -> Vec<Element> {
    if ports.is_empty() { Vec::new() } else { vec![Element::key([address.octets(), address.octets()].concat())] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_host_ports_are_exchanged_in_one_batch() {
        let port = |host_port| HostPort { protocol: Protocol::Tcp, host_ip: None, host_port, container_port: 80 };
        let (old, new) = ((Ipv4Addr::new(10, 0, 0, 2), vec![port(8080)]), (Ipv4Addr::new(10, 0, 0, 2), vec![port(8080), port(9090)]));
        let kinds = |b: Batch| b.changes.iter().map(|c| format!("{c:?}").split([' ', '{']).next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(kinds(replace_host_ports("t", Some(&old), Some(&new))), ["DeleteElements", "DeleteElements", "AddElements", "AddElements"]);
        assert!(replace_host_ports("t", Some(&old), Some(&old)).is_empty());
        assert!(replace_host_ports("t", None, None).is_empty());
    }
}
