//! The wire between a pod and its node, which also serves between a node in a network namespace of its own and the machine.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use knarr_sys::netlink::link::{self, Ipv4Setting, Mac, VethEnd};
use knarr_sys::netlink::route::{self, Route, Scope};
use knarr_sys::netlink::{NetNs, Result, RouteSocket};

/// Index of `lo` in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;
/// Where pods send everything. No interface has this address: a permanent neighbour says who it is.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The node's end of every pair has this one; no two of them share a link.
const NODE_MAC: Mac = Mac([0xee; 6]);
const POD_LINK: &str = "eth0";
const NAME_PREFIX: &str = "knarr";
/// Characters behind the prefix: together the 15 that the kernel allows.
const NAME_HASH_LEN: usize = 10;
/// What VXLAN adds to a packet: Ethernet, IPv4, UDP and VXLAN headers.
pub(crate) const OVERLAY_OVERHEAD: u32 = 50;
const MTU_WITHOUT_UPLINK: u32 = 1500;
/// IPv4 works with no less.
const LINK_MTU_MIN: u32 = 576;

/// One wire: to a pod, or to a node that has a network namespace of its own.
pub(crate) struct Wire {
    /// The near end.
    pub name: String,
    pub address: Ipv4Addr,
    /// The near side's own address towards the far one.
    pub source: Ipv4Addr,
    pub mtu: u32,
    /// Whether the far side may send from its own address only: true for pods, while nodes send for theirs.
    pub strict: bool,
}

/// The name of the node's end for a sandbox.
pub(super) fn name(sandbox: &str) -> String {
    format!("{NAME_PREFIX}{}", &format!("{:016x}", crate::rules::fnv1a(sandbox.as_bytes()))[..NAME_HASH_LEN])
}

pub(super) fn is_ours(link: &str) -> bool {
    link.strip_prefix(NAME_PREFIX).is_some_and(|rest| rest.len() == NAME_HASH_LEN && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A link-layer address made of an IPv4 address, in the range for local use.
pub(crate) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x0a, 0x58, a, b, c, d])
}

/// MTU for pods: that of the link to the outside, less the overlay's overhead.
pub(super) fn pod_mtu(host: &mut RouteSocket) -> Result<u32> {
    Ok(uplink_mtu(host)?.saturating_sub(OVERLAY_OVERHEAD).max(LINK_MTU_MIN))
}

/// MTU of the link to the outside.
pub(crate) fn uplink_mtu(host: &mut RouteSocket) -> Result<u32> {
    const SOMEWHERE_OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
    let uplink = host.path_to(SOMEWHERE_OUTSIDE)?.map(|path| path.link);
    let links = host.links()?;
    Ok(links.iter().find(|l| Some(l.index) == uplink).map_or(MTU_WITHOUT_UPLINK, |l| l.mtu))
}

/// Makes the pair and sets up the node's end. A left-over of that name is replaced.
pub(crate) fn connect_host(host: &mut RouteSocket, netns: &NetNs, wire: &Wire) -> Result<()> {
    let (near, far) = (VethEnd { name: &wire.name, mac: NODE_MAC }, VethEnd { name: POD_LINK, mac: mac_of(wire.address) });
    let pair = [link::add_veth(&near, &far, netns.as_fd(), wire.mtu)];
    match host.apply(&pair) {
        Err(e) if e.already_exists() => {
            host.remove(&[link::delete(&wire.name)])?;
            remove_pod_link(netns)?;
            host.apply(&pair)?;
        }
        other => other?,
    }
    let index = host.link(&wire.name)?.map_or(0, |l| l.index);
    host.remove(&[link::without_link_local(index)]).or_else(without_ipv6)?;
    host.apply(&[
        // A pod can send from its own address only, and is told nothing about other ways. With RouteLocalnet a node's
        // process reaches node ports on 127.0.0.1; packets to that network from outside are dropped by our rules.
        link::configure(
            index,
            &[(Ipv4Setting::RpFilter, wire.strict.into()), (Ipv4Setting::AcceptRedirects, 0), (Ipv4Setting::SendRedirects, 0), (Ipv4Setting::RouteLocalnet, 1)],
        ),
        route::set_neighbour(index, wire.address.into(), mac_of(wire.address)),
        route::set_route(&Route { source: Some(wire.source.into()), ..Route::direct(host_net(wire.address), index) }),
    ])
}

/// A namespace that is attached again may still have the far end of a pair whose near end has another name.
fn remove_pod_link(netns: &NetNs) -> Result<()> {
    netns.run(|| RouteSocket::open()?.remove(&[link::delete(POD_LINK)]))?
}

/// Sets up the pod's end, from inside its namespace.
pub(crate) fn connect_pod(wire: &Wire) -> Result<()> {
    let mut pod = RouteSocket::open()?;
    let index = pod.link(POD_LINK)?.map_or(0, |l| l.index);
    pod.remove(&[link::without_link_local(index)]).or_else(without_ipv6)?;
    pod.apply(&[
        link::set_up(LOOPBACK),
        link::set_up(index),
        route::add_address(index, host_net(wire.address), Scope::Universe),
        route::set_neighbour(index, GATEWAY.into(), NODE_MAC),
        route::set_route(&Route::direct(host_net(GATEWAY), index)),
        route::set_route(&Route::via(IpNet::V4(ipnet::Ipv4Net::default()), GATEWAY.into(), index)),
    ])
}

/// Waits until packets pass through the near end. The kernel activates it from a work queue of its own, and drops packets
/// until then: a pod's first question to DNS would be lost, and asked again only seconds later. Asking for the link makes
/// kernels from 6.8 on do it at once.
pub(crate) fn wait_until_operational(name: &str, mut look: impl FnMut() -> Result<Option<link::Link>>) -> Result<()> {
    const ATTEMPTS_MAX: usize = 200;
    const PAUSE: Duration = Duration::from_micros(500);
    for _ in 0..ATTEMPTS_MAX {
        match look()? {
            Some(link) if !link.operational => (),
            _ => return Ok(()),
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!(link = name, "a link is not operational yet, its first packets may be lost");
    Ok(())
}

/// A kernel without IPv6 needs no keeping from link-local addresses.
fn without_ipv6(error: knarr_sys::netlink::Error) -> Result<()> {
    use nix::errno::Errno::{EAFNOSUPPORT, EINVAL, EOPNOTSUPP};
    if matches!(error.errno(), Some(EAFNOSUPPORT | EINVAL | EOPNOTSUPP)) { Ok(()) } else { Err(error) }
}

/// The network of one address.
pub(crate) fn host_net(address: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_named_after_its_sandbox_within_the_kernels_limit() {
        let one = name("0123456789abcdef");
        assert_eq!((one.len(), is_ours(&one), name("0123456789abcdef") == one, name("other") == one), (15, true, true, false));
        assert!(!is_ours("knarr-vxlan") && !is_ours("knarrzzzzzzzzzz") && !is_ours("eth0"));
    }
}
