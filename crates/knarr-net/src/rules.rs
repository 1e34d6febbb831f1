//! Pieces of packet rules that the pod network and the service proxy share. IPv4.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use knarr_sys::nft::{Compare, Expression, MetaKey, PayloadBase, Register};

use crate::pods::link::LOOPBACK;

/// Priorities of base chains, as `nft` names them: raw, dstnat, filter, srcnat.
pub(crate) const PRIORITY_RAW: i32 = -300;
pub(crate) const PRIORITY_DNAT: i32 = -100;
pub(crate) const PRIORITY_FILTER: i32 = 0;
pub(crate) const PRIORITY_SNAT: i32 = 100;

/// Offsets of the addresses in an IPv4 header.
pub(crate) const SOURCE: u32 = 12;
pub(crate) const DESTINATION: u32 = 16;
const ROUTE_TYPE_LOCAL: u32 = libc::RTN_LOCAL as u32;

pub(crate) fn reg(number: u8) -> Register {
    Register(number)
}

/// The key (address . protocol . port) as registers hold it.
pub(crate) fn tuple_key(address: Ipv4Addr, protocol: u8, port: u16) -> Vec<u8> {
    [&address.octets()[..], &[protocol, 0, 0, 0], &port.to_be_bytes(), &[0, 0]].concat()
}

/// Loads (destination address . protocol . destination port) into three registers from `first` on. With `any_address`
/// 0.0.0.0 stands in for the address: entries for every address of the node.
pub(crate) fn load_front(first: u8, any_address: bool) -> Vec<Expression> {
    let address = if any_address {
        Expression::Immediate { to: reg(first), value: vec![0; 4] }
    } else {
        Expression::Payload { base: PayloadBase::Network, offset: DESTINATION, len: 4, to: reg(first) }
    };
    vec![
        address,
        Expression::Meta { key: MetaKey::Protocol, to: reg(first + 1) },
        Expression::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: reg(first + 2) },
    ]
}

/// Goes on only for packets to an address of this machine (or to anywhere else, with `NotEqual`). Uses register 0.
pub(crate) fn destination_is_local(op: Compare) -> Vec<Expression> {
    vec![Expression::AddressType { of_source: false, to: reg(0) }, Expression::Compare { register: reg(0), op, value: ROUTE_TYPE_LOCAL.to_ne_bytes().to_vec() }]
}

/// Goes on only if a packet's link is the loopback one (or is not, with `NotEqual`). Uses register 0.
pub(crate) fn link_is_loopback(key: MetaKey, op: Compare) -> Vec<Expression> {
    vec![Expression::Meta { key, to: reg(0) }, Expression::Compare { register: reg(0), op, value: LOOPBACK.to_ne_bytes().to_vec() }]
}

/// Goes on only if the address at `offset` is in the network (or is not, with `NotEqual`). Uses register 0.
pub(crate) fn if_address_within(offset: u32, network: &Ipv4Net, op: Compare) -> Vec<Expression> {
    vec![
        Expression::Payload { base: PayloadBase::Network, offset, len: 4, to: reg(0) },
        Expression::Bitwise { from: reg(0), to: reg(0), mask: network.netmask().octets().to_vec(), xor: vec![0; 4] },
        Expression::Compare { register: reg(0), op, value: network.network().octets().to_vec() },
    ]
}

/// Translates the destination to (address . port) in two registers from `first` on.
pub(crate) fn dnat(first: u8) -> Expression {
    Expression::Dnat { ipv6: false, address: reg(first), port: Some(reg(first + 1)) }
}

/// The 64-bit FNV-1a hash: the same in every build, unlike the standard library's.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
