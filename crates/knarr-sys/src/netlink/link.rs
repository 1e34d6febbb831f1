//! Network links: veth pairs, VXLAN devices, and what is set on a link.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::socket::{NLM_F_CREATE, NLM_F_EXCL, Request};
use super::wire::{Attributes, Writer, as_text, read_u32};

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// `IF_OPER_UP`
const OPERATIONAL: u8 = 6;
pub(super) const LINK_HEADER_LEN: usize = 16;

/// A link-layer address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What we ask about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `vxlan`, …; empty for hardware and `lo`.
    pub kind: String,
    pub mtu: u32,
    pub up: bool,
    /// Packets pass: the kernel activates a link some time after both ends are up.
    pub operational: bool,
}

/// One end of a veth pair.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Mac,
}

/// Settings of `/proc/sys/net/ipv4/conf/LINK`, by the kernel's numbers (`linux/ip.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ipv4Setting {
    Forwarding = 1,
    ProxyArp = 3,
    AcceptRedirects = 4,
    SendRedirects = 6,
    /// 1 drops packets whose source is not reached through this link.
    RpFilter = 8,
    /// Lets 127.0.0.0/8 be routed through this link.
    RouteLocalnet = 26,
}

fn header(out: &mut Writer, index: u32, flags: u32, change: u32) {
    out.fixed(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
    out.fixed(&index.to_ne_bytes());
    out.fixed(&flags.to_ne_bytes());
    out.fixed(&change.to_ne_bytes());
}

const UP: u32 = libc::IFF_UP as u32;

/// A veth pair: `near` in the namespace of the socket, up; `far` in `far_netns`, down (the kernel refuses to bring it up
/// before the pair is complete).
pub fn add_veth(near: &VethEnd<'_>, far: &VethEnd<'_>, far_netns: BorrowedFd<'_>, mtu: u32) -> Request {
    Request::new(format!("add veth pair {} {}", near.name, far.name), libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |m| {
        header(m, 0, UP, UP);
        end(m, near, mtu);
        m.nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    header(peer, 0, 0, 0);
                    end(peer, far, mtu);
                    peer.u32(libc::IFLA_NET_NS_FD, far_netns.as_raw_fd() as u32);
                });
            });
        });
    })
}

fn end(m: &mut Writer, end: &VethEnd<'_>, mtu: u32) {
    m.text(libc::IFLA_IFNAME, end.name);
    m.u32(libc::IFLA_MTU, mtu);
    m.bytes(libc::IFLA_ADDRESS, &end.mac.0);
}

/// A VXLAN device, up, that learns nothing by itself: peers are told to it by neighbours and forwarding entries.
pub struct Vxlan<'a> {
    pub name: &'a str,
    pub id: u32,
    /// The address that outer packets leave from.
    pub local: Ipv4Addr,
    /// Index of the link they leave through, for its MTU and fate; zero for none.
    pub link: u32,
    pub port: u16,
    pub mac: Mac,
    pub mtu: u32,
}

pub fn add_vxlan(vxlan: &Vxlan<'_>) -> Request {
    Request::new(format!("add VXLAN device {}", vxlan.name), libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |m| {
        header(m, 0, UP, UP);
        end(m, &VethEnd { name: vxlan.name, mac: vxlan.mac }, vxlan.mtu);
        m.nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "vxlan");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.u32(IFLA_VXLAN_ID, vxlan.id);
                data.bytes(IFLA_VXLAN_LOCAL, &vxlan.local.octets());
                data.u8(IFLA_VXLAN_LEARNING, 0);
                data.bytes(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
                if vxlan.link != 0 {
                    data.u32(IFLA_VXLAN_LINK, vxlan.link);
                }
            });
        });
    })
}

pub fn set_up(index: u32) -> Request {
    Request::new(format!("bring link {index} up"), libc::RTM_NEWLINK, 0, |m| header(m, index, UP, UP))
}

/// Sets IPv4 settings of a link without going through `/proc/sys`, and keeps IPv6 from giving it a link-local address.
pub fn configure(index: u32, settings: &[(Ipv4Setting, u32)]) -> Request {
    Request::new(format!("configure link {index}"), libc::RTM_SETLINK, 0, |m| {
        header(m, index, 0, 0);
        m.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET as u16, |inet| {
                inet.nest(IFLA_INET_CONF, |conf| settings.iter().for_each(|(setting, value)| conf.u32(*setting as u16, *value)));
            });
        });
    })
}

/// No IPv6 link-local address for this link. Refused by a kernel without IPv6.
pub fn without_link_local(index: u32) -> Request {
    Request::new(format!("keep link {index} free of link-local addresses"), libc::RTM_SETLINK, 0, |m| {
        header(m, index, 0, 0);
        m.nest(libc::IFLA_AF_SPEC, |families| families.nest(libc::AF_INET6 as u16, |inet6| inet6.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)));
    })
}

pub fn set_mtu(index: u32, mtu: u32) -> Request {
    Request::new(format!("set the MTU of link {index} to {mtu}"), libc::RTM_NEWLINK, 0, |m| {
        header(m, index, 0, 0);
        m.u32(libc::IFLA_MTU, mtu);
    })
}

/// Deletes a link by name; of a veth pair both ends go.
pub fn delete(name: &str) -> Request {
    Request::new(format!("delete link {name}"), libc::RTM_DELLINK, 0, |m| {
        header(m, 0, 0, 0);
        m.text(libc::IFLA_IFNAME, name);
    })
}

/// Puts a link into a group.
pub fn set_group(name: &str, group: u32) -> Request {
    Request::new(format!("put link {name} into group {group}"), libc::RTM_NEWLINK, 0, |m| {
        header(m, 0, 0, 0);
        m.text(libc::IFLA_IFNAME, name);
        m.u32(libc::IFLA_GROUP, group);
    })
}

/// Deletes all links of a group together. The kernel waits once for everybody who may still use them, instead of once for
/// each: the wait is what takes the time (some 20 ms).
pub fn delete_group(group: u32) -> Request {
    Request::new(format!("delete the links of group {group}"), libc::RTM_DELLINK, 0, |m| {
        header(m, 0, 0, 0);
        m.u32(libc::IFLA_GROUP, group);
    })
}

pub(super) fn get(name: &str) -> Request {
    Request::new(format!("get link {name}"), libc::RTM_GETLINK, 0, |m| {
        header(m, 0, 0, 0);
        m.text(libc::IFLA_IFNAME, name);
    })
}

pub(super) fn list() -> Request {
    Request::new("list links", libc::RTM_GETLINK, 0, |m| header(m, 0, 0, 0))
}

pub(super) fn read(body: &[u8]) -> Option<Link> {
    let attributes = Attributes(body.get(LINK_HEADER_LEN..)?);
    let kind = attributes.find(libc::IFLA_LINKINFO).and_then(|info| Attributes(info).find(libc::IFLA_INFO_KIND)).and_then(as_text).unwrap_or_default();
    Some(Link {
        index: read_u32(body, 4),
        name: attributes.find_text(libc::IFLA_IFNAME)?.to_owned(),
        kind: kind.to_owned(),
        mtu: attributes.find_u32(libc::IFLA_MTU).unwrap_or_default(),
        up: read_u32(body, 8) & UP != 0,
        operational: attributes.find(libc::IFLA_OPERSTATE) == Some(&[OPERATIONAL]),
    })
}

pub(super) fn octets(address: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(a) => {
            bytes[..4].copy_from_slice(&a.octets());
            (bytes, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    }
}
