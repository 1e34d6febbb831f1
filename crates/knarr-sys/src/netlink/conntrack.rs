//! Connection tracking: finding and ending flows. A UDP flow has no end of its own, and neither has the beginning of a
//! connection that nobody answers: when an endpoint goes away such flows must be ended, or their packets go on to nowhere
//! until they time out.

use std::net::IpAddr;

use super::socket::{NetlinkSocket, Protocol, Request, Result};
use super::wire::{Attributes, Writer};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_STATUS_MASK: u16 = 26;
/// Bit of the status: packets were seen in both directions.
const SEEN_REPLY: u32 = 1 << 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const HEADER_LEN: usize = 4;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A tracked flow: as it came, and as its answers come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub original: Tuple,
    pub reply: Tuple,
    /// Whether packets came in both directions.
    pub answered: bool,
    id: Option<u32>,
}

/// Which flows to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those without an answer. Newer kernels (5.15) pick them themselves, which is much cheaper where many flows are.
    Unanswered,
}

/// A socket for connection tracking in the network namespace of the thread that opened it.
pub struct ConntrackSocket(NetlinkSocket);

impl ConntrackSocket {
    pub fn open() -> Result<Self> {
        Ok(Self(NetlinkSocket::open(Protocol::Netfilter)?))
    }

    /// The flows of a family that `wanted` picks.
    pub fn flows(&mut self, ipv6: bool, which: Which, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let request = Request::new("list connections", GET, 0, |m| {
            m.fixed(&[family, 0, 0, 0]);
            if which == Which::Unanswered {
                m.be32(CTA_STATUS, 0);
                m.be32(CTA_STATUS_MASK, SEEN_REPLY);
            }
        });
        let wanted = |flow: &Flow| (which == Which::All || !flow.answered) && wanted(flow);
        self.0.dump(&request, |found: &mut Vec<Flow>, _, body| found.extend(read_flow(body).filter(|f| wanted(f))))
    }

    /// Ends flows; one that ended meanwhile is no error.
    pub fn delete(&mut self, flows: &[Flow]) -> Result<()> {
        let requests: Vec<_> = flows.iter().map(delete_request).collect();
        requests.chunks(64).try_for_each(|some| self.0.request_tolerating(some, |_, e| e == nix::errno::Errno::ENOENT))
    }
}

fn read_flow(body: &[u8]) -> Option<Flow> {
    let attributes = Attributes(body.get(HEADER_LEN..)?);
    Some(Flow {
        original: read_tuple(attributes.find(CTA_TUPLE_ORIG)?)?,
        reply: read_tuple(attributes.find(CTA_TUPLE_REPLY)?)?,
        answered: attributes.find_be32(CTA_STATUS).is_some_and(|status| status & SEEN_REPLY != 0),
        id: attributes.find_be32(CTA_ID),
    })
}

fn read_tuple(bytes: &[u8]) -> Option<Tuple> {
    let addresses = Attributes(Attributes(bytes).find(CTA_TUPLE_IP)?);
    let ports = Attributes(Attributes(bytes).find(CTA_TUPLE_PROTO)?);
    let address = |v4, v6| {
        let four = addresses.find(v4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
        four.or_else(|| addresses.find(v6).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from))
    };
    let port = |kind| ports.find(kind).and_then(|b| <[u8; 2]>::try_from(b).ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: *ports.find(CTA_PROTO_NUM)?.first()?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    })
}

fn delete_request(flow: &Flow) -> Request {
    let family = if flow.original.source.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
    Request::new("delete connection", DELETE, 0, |m| {
        m.fixed(&[family, 0, 0, 0]);
        m.nest(CTA_TUPLE_ORIG, |t| write_tuple(t, &flow.original));
        if let Some(id) = flow.id {
            m.be32(CTA_ID, id);
        }
    })
}

fn write_tuple(m: &mut Writer, tuple: &Tuple) {
    m.nest(CTA_TUPLE_IP, |ip| match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ip.bytes(CTA_IP_V4_SRC, &source.octets());
            ip.bytes(CTA_IP_V4_DST, &destination.octets());
        }
        (source, destination) => {
            for (kind, address) in [(CTA_IP_V6_SRC, source), (CTA_IP_V6_DST, destination)] {
                ip.bytes(kind, &super::link::octets(address).0);
            }
        }
    });
    m.nest(CTA_TUPLE_PROTO, |p| {
        p.u8(CTA_PROTO_NUM, tuple.protocol);
        p.bytes(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes());
        p.bytes(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes());
    });
}
