//! Addresses and networks (upstream: `library/ip.go` and `library/cidr.go`, which read as Go's `net/netip`).

use std::net::IpAddr;

use knarr_core::field::go_quote;

use super::{Impl, no_overload};
use crate::value::{Error, Res, Value};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "ip" => |_, a| match &a[..] {
            [Value::String(s)] => parse_ip(s).map(Value::Ip),
            [Value::Cidr(ip, _)] => Ok(Value::Ip(*ip)),
            _ => no_overload(),
        },
        "isIP" => |_, a| text(&a, |s| Ok(Value::Bool(parse_ip(s).is_ok()))),
        "ip.isCanonical" => |_, a| text(&a, |s| Ok(Value::Bool(parse_ip(s)?.to_string() == s))),
        "family" => |_, a| ip(&a, |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |_, a| ip(&a, |ip| Value::Bool(ip.is_unspecified())),
        "isLoopback" => |_, a| ip(&a, |ip| Value::Bool(ip.is_loopback())),
        "isLinkLocalMulticast" => |_, a| ip(&a, |ip| Value::Bool(is_link_local_multicast(ip))),
        "isLinkLocalUnicast" => |_, a| ip(&a, |ip| Value::Bool(is_link_local(ip))),
        "isGlobalUnicast" => |_, a| {
            ip(&a, |ip| {
                let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
                Value::Bool(!(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip)))
            })
        },
        "cidr" => |_, a| text(&a, |s| parse_cidr(s).map(|(ip, bits)| Value::Cidr(ip, bits)).map_err(conversion)),
        "isCIDR" => |_, a| text(&a, |s| Ok(Value::Bool(parse_cidr(s).is_ok()))),
        "containsIP" => |_, a| match &a[..] {
            [Value::Cidr(net, bits), Value::Ip(ip)] => Ok(Value::Bool(contains(net, *bits, ip))),
            [Value::Cidr(net, bits), Value::String(s)] => Ok(Value::Bool(contains(net, *bits, &parse_ip(s)?))),
            _ => no_overload(),
        },
        "containsCIDR" => |_, a| {
            let ([Value::Cidr(net, bits), other], (inner, inner_bits)) = (
                &a[..],
                match a.get(1) {
                    Some(Value::Cidr(ip, bits)) => (*ip, *bits),
                    Some(Value::String(s)) => parse_cidr(s).map_err(conversion)?,
                    _ => return no_overload(),
                },
            ) else {
                return no_overload();
            };
            let _ = other;
            Ok(Value::Bool(*bits <= inner_bits && contains(net, *bits, &inner)))
        },
        "prefixLength" => |_, a| match &a[..] {
            [Value::Cidr(_, bits)] => Ok(Value::Int((*bits).into())),
            _ => no_overload(),
        },
        "masked" => |_, a| match &a[..] {
            [Value::Cidr(ip, bits)] => Ok(Value::Cidr(masked(ip, *bits), *bits)),
            _ => no_overload(),
        },
        _ => return None,
    })
}

fn text<'a>(args: &[Value<'a>], f: impl FnOnce(&str) -> Res<'a>) -> Res<'a> {
    match args {
        [Value::String(s)] => f(s),
        _ => no_overload(),
    }
}

fn ip<'a>(args: &[Value<'a>], f: impl FnOnce(&IpAddr) -> Value<'a>) -> Res<'a> {
    match args {
        [Value::Ip(ip)] => Ok(f(ip)),
        _ => no_overload(),
    }
}

fn conversion(why: String) -> Error {
    Error::new(format!("network address parse error during conversion from string: {why}"))
}

fn parse_ip(text: &str) -> Result<IpAddr, Error> {
    if let Some((address, zone)) = text.split_once('%')
        && !zone.is_empty()
        && address.parse::<std::net::Ipv6Addr>().is_ok()
    {
        return Err(Error::new(format!("IP address {} with zone value is not allowed", go_quote(text))));
    }
    let why = || format!("ParseAddr({}): unable to parse IP", go_quote(text));
    let parsed: IpAddr = text.parse().map_err(|_| Error::new(format!("IP Address {} parse error during conversion from string: {}", go_quote(text), why())))?;
    if is_mapped(&parsed) {
        return Err(Error::new(format!("IPv4-mapped IPv6 address {} is not allowed", go_quote(text))));
    }
    Ok(parsed)
}

fn is_mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let why = |reason: &str| format!("network address parse error during conversion from string: netip.ParsePrefix({}): {reason}", go_quote(text));
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| why("no '/'"))?;
    let ip: IpAddr = address.parse().map_err(|_| why(&format!("ParseAddr({}): unable to parse IP", go_quote(address))))?;
    let canonical = !bits.is_empty() && bits.chars().all(|c| c.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.parse::<u8>().ok().filter(|_| canonical).ok_or_else(|| why(&format!("bad bits after slash: {}", go_quote(bits))))?;
    if bits > most {
        return Err(why("prefix length out of range"));
    }
    if is_mapped(&ip) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", go_quote(text)));
    }
    Ok((ip, bits))
}

fn masked(ip: &IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(*v4) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(*v6) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()),
    }
}

fn contains(net: &IpAddr, bits: u8, ip: &IpAddr) -> bool {
    net.is_ipv4() == ip.is_ipv4() && masked(net, bits) == masked(ip, bits)
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

pub fn cidr_text(ip: &IpAddr, bits: u8) -> String {
    format!("{ip}/{bits}")
}
