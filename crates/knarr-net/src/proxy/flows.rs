//! Flows that outlive their endpoint. The kernel remembers where the first packet of a flow went and sends the others there
//! too, for as long as they come; so when endpoints of a Service go, flows to them must be forgotten (upstream, for UDP:
//! `k8s.io/kubernetes/pkg/proxy/conntrack/cleanup.go`).
//!
//! Of other protocols those that nobody has answered: a connection to a node that died waits two minutes for nothing, and so
//! does every later one from the same port of the same client. Open connections are left alone: their endpoint may live on
//! without belonging to the Service any more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use knarr_sys::netlink::Result;
use knarr_sys::netlink::conntrack::{ConntrackSocket, Flow, Which};

use super::compile::FlowEnds;
use crate::pods::Protocol;

/// Fronts by protocol, address and port.
type Fronts = HashMap<(u8, Ipv4Addr, u16), FlowEnds>;

/// Forgets the flows to these fronts that do not end at one of their endpoints. Gives their number.
pub(super) fn forget_stale(conntrack: &mut ConntrackSocket, fronts: Vec<FlowEnds>, node_ips: &[IpAddr]) -> Result<usize> {
    let which = if fronts.iter().any(|f| f.front.protocol == Protocol::Udp) { Which::All } else { Which::Unanswered };
    let fronts: Fronts = fronts.into_iter().map(|f| ((f.front.protocol as u8, f.front.address, f.front.port), f)).collect();
    let stale = conntrack.flows(false, which, |flow| is_stale(flow, &fronts, node_ips))?;
    conntrack.delete(&stale)?;
    Ok(stale.len())
}

fn is_stale(flow: &Flow, fronts: &Fronts, node_ips: &[IpAddr]) -> bool {
    let (IpAddr::V4(to), IpAddr::V4(from)) = (flow.original.destination, flow.reply.source) else { return false };
    let protocol = flow.original.protocol;
    if flow.answered && protocol != Protocol::Udp as u8 {
        return false;
    }
    let endpoint = SocketAddrV4::new(from, flow.reply.source_port);
    let port = flow.original.destination_port;
    if let Some(service) = fronts.get(&(protocol, to, port)) {
        return !service.endpoints.contains(&endpoint);
    }
    // A node port's number may be anything's elsewhere: without endpoints to compare with, only the node's own addresses count.
    let node_port = fronts.get(&(protocol, Ipv4Addr::UNSPECIFIED, port));
    node_port.is_some_and(|service| !service.endpoints.contains(&endpoint) && (!service.endpoints.is_empty() || node_ips.contains(&to.into())))
}
