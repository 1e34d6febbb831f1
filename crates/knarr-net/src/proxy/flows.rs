//! UDP flows that outlive their endpoint. The kernel remembers where the first packet of a flow went and sends the others
//! there too, for as long as they come; so when a Service's endpoints change, flows to others must be forgotten (upstream:
//! `k8s.io/kubernetes/pkg/proxy/conntrack/cleanup.go`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use knarr_sys::netlink::Result;
use knarr_sys::netlink::conntrack::{ConntrackSocket, Flow};

use super::compile::UdpFront;
use crate::pods::Protocol;

/// Forgets the flows to these fronts that do not end at one of their endpoints. Gives their number.
pub(super) fn forget_stale(conntrack: &mut ConntrackSocket, fronts: Vec<UdpFront>, node_ips: &[IpAddr]) -> Result<usize> {
    let fronts: HashMap<_, _> = fronts.into_iter().map(|f| ((f.front.address, f.front.port), f)).collect();
    let stale = conntrack.flows(false, |flow| is_stale(flow, &fronts, node_ips))?;
    conntrack.delete(&stale)?;
    Ok(stale.len())
}

fn is_stale(flow: &Flow, fronts: &HashMap<(Ipv4Addr, u16), UdpFront>, node_ips: &[IpAddr]) -> bool {
    let (IpAddr::V4(to), IpAddr::V4(from)) = (flow.original.destination, flow.reply.source) else { return false };
    if flow.original.protocol != Protocol::Udp as u8 {
        return false;
    }
    let endpoint = SocketAddrV4::new(from, flow.reply.source_port);
    let port = flow.original.destination_port;
    if let Some(service) = fronts.get(&(to, port)) {
        return !service.endpoints.contains(&endpoint);
    }
    // A node port's number may be anything's elsewhere: without endpoints to compare with, only the node's own addresses count.
    let node_port = fronts.get(&(Ipv4Addr::UNSPECIFIED, port));
    node_port.is_some_and(|service| !service.endpoints.contains(&endpoint) && (!service.endpoints.is_empty() || node_ips.contains(&to.into())))
}
