//! rtnetlink: links, addresses, routes and neighbours. Changes are made as lists of [`Request`]s, sent together.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::link::{self, Link, Mac, octets};
use super::socket::{NLM_F_CREATE, NLM_F_REPLACE, NetlinkSocket, Protocol, Request, Result};
use super::wire::{Attributes, Writer, read_u32};

/// `RTA_…` and `NDA_…`, where libc has other types for them.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const RTNH_F_ONLINK: u32 = 4;
const ROUTE_HEADER_LEN: usize = 12;
const ADDRESS_HEADER_LEN: usize = 8;

/// Marks routes as ours (`RTPROT`), so that they can be told from everybody else's.
pub const ROUTE_PROTOCOL: u8 = 107;
/// Marks routes that a node with a network namespace of its own sets outside of it: nobody else's business there.
pub const ROUTE_PROTOCOL_OUTER: u8 = 108;
/// Marks routes to other machines that a machine without a node of its own has for the nodes inside it.
pub const ROUTE_PROTOCOL_MACHINE: u8 = 109;

/// How far an address or route reaches (`RT_SCOPE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    #[default]
    Universe = 0,
    Link = 253,
    /// Known to this machine only: never chosen as the source of a packet that leaves.
    Host = 254,
}

/// A unicast route in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// Index of the link.
    pub link: u32,
    /// Address that local processes get as source.
    pub source: Option<IpAddr>,
    /// Use the gateway even if no route leads to it.
    pub onlink: bool,
    /// Smaller wins.
    pub metric: u32,
    /// Who set it.
    pub protocol: u8,
}

impl Route {
    /// Straight out of a link.
    pub fn direct(destination: IpNet, link: u32) -> Self {
        Self { destination, gateway: None, link, source: None, onlink: false, metric: 0, protocol: ROUTE_PROTOCOL }
    }

    pub fn via(destination: IpNet, gateway: IpAddr, link: u32) -> Self {
        Self { gateway: Some(gateway), onlink: true, ..Self::direct(destination, link) }
    }
}

/// Where a packet would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    pub link: u32,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn address_attribute(out: &mut Writer, kind: u16, address: IpAddr) {
    let (bytes, len) = octets(address);
    out.bytes(kind, &bytes[..len]);
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Gives a link an address; the same one again is no error.
pub fn add_address(link: u32, address: IpNet, scope: Scope) -> Request {
    address_request("add", libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, link, address, scope)
}

pub fn delete_address(link: u32, address: IpNet) -> Request {
    address_request("delete", libc::RTM_DELADDR, 0, link, address, Scope::Universe)
}

fn address_request(verb: &str, kind: u16, flags: u16, link: u32, address: IpNet, scope: Scope) -> Request {
    Request::new(format!("{verb} address {address} on link {link}"), kind, flags, |m| {
        m.fixed(&[family(address.addr()), address.prefix_len(), 0, scope as u8]);
        m.fixed(&link.to_ne_bytes());
        address_attribute(m, libc::IFA_LOCAL, address.addr());
        address_attribute(m, libc::IFA_ADDRESS, address.addr());
    })
}

/// Sets a route; one to the same destination with the same metric is replaced.
pub fn set_route(route: &Route) -> Request {
    route_request("set", libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
}

pub fn delete_route(route: &Route) -> Request {
    route_request("delete", libc::RTM_DELROUTE, 0, route)
}

fn route_request(verb: &str, kind: u16, flags: u16, route: &Route) -> Request {
    let scope = if route.gateway.is_some() { Scope::Universe } else { Scope::Link };
    Request::new(format!("{verb} route to {}", route.destination), kind, flags, |m| {
        let prefix_len = route.destination.prefix_len();
        m.fixed(&[family(route.destination.addr()), prefix_len, 0, 0, libc::RT_TABLE_MAIN, route.protocol, scope as u8, libc::RTN_UNICAST]);
        m.fixed(&if route.onlink { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
        if prefix_len > 0 {
            address_attribute(m, RTA_DST, route.destination.network());
        }
        if let Some(gateway) = route.gateway {
            address_attribute(m, RTA_GATEWAY, gateway);
        }
        if let Some(source) = route.source {
            address_attribute(m, RTA_PREFSRC, source);
        }
        if route.link != 0 {
            m.u32(RTA_OIF, route.link);
        }
        if route.metric != 0 {
            m.u32(RTA_PRIORITY, route.metric);
        }
    })
}

/// A neighbour that needs no asking and never goes stale.
pub fn set_neighbour(link: u32, address: IpAddr, mac: Mac) -> Request {
    Request::new(format!("set neighbour {address}"), libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |m| {
        neighbour_header(m, family(address), link, 0);
        address_attribute(m, NDA_DST, address);
        m.bytes(NDA_LLADDR, &mac.0);
    })
}

pub fn delete_neighbour(link: u32, address: IpAddr) -> Request {
    Request::new(format!("delete neighbour {address}"), libc::RTM_DELNEIGH, 0, |m| {
        neighbour_header(m, family(address), link, 0);
        address_attribute(m, NDA_DST, address);
    })
}

/// Tells a VXLAN device behind which machine a link-layer address is.
pub fn set_forwarding(link: u32, mac: Mac, machine: IpAddr) -> Request {
    Request::new(format!("set forwarding of {mac} to {machine}"), libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |m| forwarding(m, link, mac, machine))
}

pub fn delete_forwarding(link: u32, mac: Mac, machine: IpAddr) -> Request {
    Request::new(format!("delete forwarding of {mac}"), libc::RTM_DELNEIGH, 0, |m| forwarding(m, link, mac, machine))
}

fn forwarding(m: &mut Writer, link: u32, mac: Mac, machine: IpAddr) {
    neighbour_header(m, libc::AF_BRIDGE as u8, link, NTF_SELF);
    m.bytes(NDA_LLADDR, &mac.0);
    address_attribute(m, NDA_DST, machine);
}

fn neighbour_header(m: &mut Writer, family: u8, link: u32, flags: u8) {
    m.fixed(&[family, 0, 0, 0]);
    m.fixed(&link.to_ne_bytes());
    let [low, high] = NUD_PERMANENT.to_ne_bytes();
    m.fixed(&[low, high, flags, 0]);
}

/// A socket for rtnetlink, in the network namespace of the thread that opened it.
pub struct RouteSocket(NetlinkSocket);

impl RouteSocket {
    pub fn open() -> Result<Self> {
        Ok(Self(NetlinkSocket::open(Protocol::Route)?))
    }

    /// Makes changes in order, in one call to the kernel. All are tried; the first refusal is the error.
    pub fn apply(&mut self, changes: &[Request]) -> Result<()> {
        self.0.request(changes)
    }

    /// Like [`Self::apply`]; what is already gone is no error.
    pub fn remove(&mut self, changes: &[Request]) -> Result<()> {
        self.0.request_tolerating(changes, |_, e| matches!(e, Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL))
    }

    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.0.dump(&link::list(), |found: &mut Vec<Link>, _, body| found.extend(link::read(body)))
    }

    /// One link by its name; absent when there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        match self.0.get(&link::get(name), |_, body| link::read(body)) {
            Ok(link) => Ok(Some(link)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Addresses with the index of their link and their scope's number.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet, u8)>> {
        let request = Request::new("list addresses", libc::RTM_GETADDR, 0, |m| m.fixed(&[0; ADDRESS_HEADER_LEN]));
        self.0.dump(&request, |found: &mut Vec<_>, _, body| {
            let Some(rest) = body.get(ADDRESS_HEADER_LEN..) else { return };
            let attributes = Attributes(rest);
            let address = attributes.find(libc::IFA_LOCAL).or_else(|| attributes.find(libc::IFA_ADDRESS)).and_then(read_address);
            if let Some(net) = address.and_then(|a| IpNet::new(a, body[1]).ok()) {
                found.push((read_u32(body, 4), net, body[3]));
            }
        })
    }

    /// Our own routes of one family, by [`ROUTE_PROTOCOL`].
    pub fn own_routes(&mut self, ipv6: bool) -> Result<Vec<Route>> {
        self.routes_by(ROUTE_PROTOCOL, ipv6)
    }

    /// Routes of one family that were set under a protocol number.
    pub fn routes_by(&mut self, protocol: u8, ipv6: bool) -> Result<Vec<Route>> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let request = Request::new("list routes", libc::RTM_GETROUTE, 0, |m| {
            m.fixed(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        });
        self.0.dump(&request, |found: &mut Vec<_>, _, body| found.extend(read_route(body).filter(|r| r.protocol == protocol)))
    }

    /// Where a packet to `address` would go. Absent when nowhere.
    pub fn path_to(&mut self, address: IpAddr) -> Result<Option<Path>> {
        let (_, len) = octets(address);
        let request = Request::new(format!("find route to {address}"), libc::RTM_GETROUTE, 0, |m| {
            m.fixed(&[family(address), (len * 8) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            address_attribute(m, RTA_DST, address);
        });
        let found = self.0.get(&request, |_, body| {
            let attributes = Attributes(body.get(ROUTE_HEADER_LEN..)?);
            Some(Path {
                link: attributes.find_u32(RTA_OIF)?,
                gateway: attributes.find(RTA_GATEWAY).and_then(read_address),
                source: attributes.find(RTA_PREFSRC).and_then(read_address),
            })
        });
        match found {
            Ok(path) => Ok(Some(path)),
            Err(e) if matches!(e.errno(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Permanent neighbours and forwarding entries of a link: `(address, link-layer address)`.
    pub fn neighbours(&mut self, link: u32, bridge: bool) -> Result<Vec<(IpAddr, Mac)>> {
        let family = if bridge { libc::AF_BRIDGE } else { libc::AF_UNSPEC } as u8;
        let request = Request::new("list neighbours", libc::RTM_GETNEIGH, 0, |m| {
            neighbour_header(m, family, if bridge { link } else { 0 }, 0);
        });
        self.0.dump(&request, |found: &mut Vec<_>, _, body| {
            let Some(rest) = body.get(ROUTE_HEADER_LEN..) else { return };
            let attributes = Attributes(rest);
            let mac = attributes.find(NDA_LLADDR).and_then(|m| <[u8; 6]>::try_from(m).ok());
            if let (Some(mac), Some(address), true) = (mac, attributes.find(NDA_DST).and_then(read_address), read_u32(body, 4) == link) {
                found.push((address, Mac(mac)));
            }
        })
    }
}

fn read_route(body: &[u8]) -> Option<Route> {
    let attributes = Attributes(body.get(ROUTE_HEADER_LEN..)?);
    let (prefix_len, table, protocol) = (body[1], body[4], body[5]);
    if table != libc::RT_TABLE_MAIN {
        return None;
    }
    let unspecified: IpAddr = if i32::from(body[0]) == libc::AF_INET6 { [0_u8; 16].into() } else { [0_u8; 4].into() };
    let address = attributes.find(RTA_DST).map_or(Some(unspecified), read_address)?;
    Some(Route {
        destination: IpNet::new(address, prefix_len).ok()?,
        gateway: attributes.find(RTA_GATEWAY).and_then(read_address),
        link: attributes.find_u32(RTA_OIF).unwrap_or_default(),
        source: attributes.find(RTA_PREFSRC).and_then(read_address),
        onlink: read_u32(body, 8) & RTNH_F_ONLINK != 0,
        metric: attributes.find_u32(RTA_PRIORITY).unwrap_or_default(),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::super::NetNs;
    use super::super::link::{Ipv4Setting, VethEnd};
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_veth_pair_gets_address_route_and_neighbour_and_leaves_nothing() {
        let (near, far) = (NetNs::anonymous().unwrap(), NetNs::anonymous().unwrap());
        let (mac, far_mac) = (Mac([0xee; 6]), Mac([2, 0, 0, 0, 0, 9]));
        near.run(|| {
            let mut socket = RouteSocket::open().unwrap();
            let before = (socket.links().unwrap(), socket.own_routes(false).unwrap());
            socket
                .apply(&[link::add_veth(&VethEnd { name: "near", mac }, &VethEnd { name: "far", mac: far_mac }, std::os::fd::AsFd::as_fd(&far), 1400)])
                .unwrap();
            let made = socket.link("near").unwrap().unwrap();
            assert_eq!((made.mtu, made.up, made.kind.as_str()), (1400, true, "veth"));
            let route = Route::direct(net("10.1.0.5/32"), made.index);
            socket
                .apply(&[
                    link::configure(made.index, &[(Ipv4Setting::RpFilter, 1)]),
                    set_route(&route),
                    set_neighbour(made.index, [10, 1, 0, 5].into(), far_mac),
                    add_address(made.index, net("10.1.0.1/32"), Scope::Universe),
                ])
                .unwrap();
            assert_eq!(socket.own_routes(false).unwrap(), std::slice::from_ref(&route));
            assert_eq!(socket.path_to([10, 1, 0, 5].into()).unwrap().unwrap().link, made.index);
            assert_eq!(socket.neighbours(made.index, false).unwrap(), [([10, 1, 0, 5].into(), far_mac)]);
            assert_eq!(std::fs::read_to_string("/proc/thread-self/net/route").unwrap().lines().count(), 2);
            socket.remove(&[delete_route(&route), delete_route(&route), link::delete("near")]).unwrap();
            assert_eq!((socket.links().unwrap(), socket.own_routes(false).unwrap()), before);
        })
        .unwrap();
        assert_eq!(far.run(|| RouteSocket::open().unwrap().link("far").unwrap()).unwrap(), None);
    }

    #[test]
    fn a_refusal_names_the_change_and_the_kernels_reason() {
        let error = NetNs::anonymous().unwrap().run(|| RouteSocket::open().unwrap().apply(&[link::set_up(77)])).unwrap().unwrap_err();
        assert!(error.is_absent() && error.to_string().contains("bring link 77 up: No such device"), "{error}");
    }
}
