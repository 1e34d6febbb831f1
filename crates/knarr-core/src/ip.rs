//! IP addresses as Go before 1.17 read them, which Kubernetes keeps to where old objects may hold them (`k8s.io/utils/net`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address with any number of leading zeros; numbers of IPv4 are decimal all the same (upstream: `ParseIPSloppy`).
pub fn parse_sloppy(s: &str) -> Option<IpAddr> {
    if !s.contains(':') {
        return parse_v4_sloppy(s).map(IpAddr::V4);
    }
    let group = |group: &str| match group.trim_start_matches('0') {
        _ if group.contains('.') => parse_v4_sloppy(group).map(|v4| v4.to_string()),
        short if group.len() > 4 && !short.is_empty() => Some(short.to_owned()),
        _ if group.len() > 4 => Some("0".to_owned()),
        _ => Some(group.to_owned()),
    };
    let groups: Option<Vec<String>> = s.split(':').map(group).collect();
    groups?.join(":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn parse_v4_sloppy(s: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = s.split('.').collect();
    if parts.len() != 4 || parts.iter().any(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let octets: Option<Vec<u8>> = parts.iter().map(|p| p.parse().ok()).collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    Some(octets.into())
}

/// Reads an address of a range and how many of its bits are the range's (upstream: `ParseCIDRSloppy`).
pub fn parse_cidr_sloppy(s: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = s.split_once('/')?;
    let address = parse_sloppy(address)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = Some(length).filter(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    (length <= bits).then_some((address, length))
}
