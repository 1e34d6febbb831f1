//! Rules for small texts that many kinds share, with upstream's words (`k8s.io/apimachinery/pkg/util/validation`). Each function
//! gives the problems found; the rules for names of objects are in `knarr_core::names`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use knarr_core::{ip, names};

fn only(good: bool, problem: impl Into<String>) -> Vec<String> {
    if good { Vec::new() } else { vec![problem.into()] }
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

/// A domain, where too much is counted in bytes (upstream: `validate.LongName`).
pub fn long_name(s: &str) -> Vec<String> {
    bytes(names::is_dns1123_subdomain(s))
}

fn bytes(problems: Vec<String>) -> Vec<String> {
    problems.into_iter().map(|p| if p.starts_with("must be no more than") { p.replace("characters", "bytes") } else { p }).collect()
}

/// The number of a port, 1 to 65535.
pub fn port_number(port: i64) -> Vec<String> {
    only((1..=65535).contains(&port), "must be between 1 and 65535, inclusive")
}

/// The name of a port.
pub fn port_name(s: &str) -> Vec<String> {
    let bytes = s.as_bytes();
    let mut problems = Vec::new();
    if s.len() > 15 {
        problems.push("must be no more than 15 characters".into());
    }
    if bytes.is_empty() || !bytes.iter().all(|&b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// The name of an environment variable, as 1.37 relaxes it.
pub fn env_name(s: &str) -> Vec<String> {
    let mut problems = only(!s.is_empty(), "environment variable name must be non-empty");
    if !s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        problems.push("a valid environment variable name must consist only of printable ASCII characters other than '='".into());
    }
    problems
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(s: &str) -> Vec<String> {
    let mut problems = only(s.len() <= names::DNS1123_SUBDOMAIN_MAX, "must be no more than 253 characters");
    if s.is_empty() || !s.bytes().all(|b| word(b) || b"-_.".contains(&b)) {
        problems.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".into());
    }
    match s {
        "." => problems.push("must not be '.'".into()),
        ".." => problems.push("must not be '..'".into()),
        _ if s.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    problems
}

/// The name of an HTTP header.
pub fn http_header(s: &str) -> Vec<String> {
    let good = !s.is_empty() && s.bytes().all(|b| word(b) || b == b'-');
    only(good, "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')")
}

/// The path of a URL.
pub fn http_path(s: &str) -> Vec<String> {
    let good = !s.is_empty() && s.bytes().all(|b| word(b) || b"/-._~%!$&'()*+,;=:".contains(&b));
    only(good, "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')")
}

/// `25%`.
pub fn percent(s: &str) -> Vec<String> {
    let good = s.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    only(good, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")
}

/// The reason of a condition.
pub fn condition_reason(s: &str) -> Vec<String> {
    let b = s.as_bytes();
    let good =
        !b.is_empty() && b[0].is_ascii_alphabetic() && b.iter().all(|&c| word(c) || b"_,:".contains(&c)) && (word(b[b.len() - 1]) || b[b.len() - 1] == b'_');
    only(
        good,
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
    )
}

/// The id of a user or group.
pub fn user_id(id: i64) -> Vec<String> {
    only((0..=i64::from(i32::MAX)).contains(&id), "must be between 0 and 2147483647, inclusive")
}

/// A domain in which labels may hold underscores.
pub fn dns_subdomain_with_underscore(s: &str) -> Vec<String> {
    let label = |l: &str| {
        let b = l.as_bytes();
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let b = b.strip_prefix(b"_").unwrap_or(b);
        !b.is_empty() && lower(b[0]) && lower(b[b.len() - 1]) && b.iter().all(|&c| lower(c) || c == b'-' || c == b'_')
    };
    let mut problems = only(s.len() <= names::DNS1123_SUBDOMAIN_MAX, "must be no more than 253 characters");
    if !s.split('.').all(label) {
        problems.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')".into());
    }
    problems
}

/// `*.example.com`.
pub fn wildcard_dns_subdomain(s: &str) -> Vec<String> {
    let mut problems = only(s.len() <= names::DNS1123_SUBDOMAIN_MAX, "must be no more than 253 characters");
    if !s.strip_prefix("*.").is_some_and(|rest| names::is_dns1123_subdomain(rest).is_empty()) {
        problems.push("a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".into());
    }
    problems
}

/// A path that stays below where it begins (upstream: `validateLocalDescendingPath`).
pub fn local_descending_path(s: &str) -> Vec<String> {
    let mut problems = only(!s.starts_with('/'), "must be a relative path");
    problems.extend(no_backsteps(s));
    problems
}

/// A path without `..`.
pub fn no_backsteps(s: &str) -> Vec<String> {
    only(!s.split('/').any(|part| part == ".."), "must not contain '..'")
}

/// A path below where it begins, whose first name does not begin with two dots.
pub fn local_non_reserved_path(s: &str) -> Vec<String> {
    let mut problems = local_descending_path(s);
    if s.starts_with("..") && !s.starts_with("../") {
        problems.push("must not start with '..'".into());
    }
    problems
}

/// Reads a range as old fields take it.
pub fn parse_cidr_sloppy(s: &str) -> Option<ipnet::IpNet> {
    let (address, length) = ip::parse_cidr_sloppy(s)?;
    ipnet::IpNet::new(address, length).ok()
}

fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// An IP address without leading zeros, not IPv4 in IPv6 clothes (upstream: `IsValidIPForLegacyField`).
pub fn ip(s: &str) -> Vec<String> {
    match (ip::parse_sloppy(s), s.parse::<IpAddr>()) {
        (None, _) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
        (Some(_), Err(_)) => vec!["must not have leading 0s".into()],
        (Some(_), Ok(ip)) => only(!mapped(ip), "must not be an IPv4-mapped IPv6 address"),
    }
}

/// An IP address in its one canonical form (upstream: `IsValidIP`).
pub fn canonical_ip(s: &str) -> Vec<String> {
    let problems = ip(s);
    match s.parse::<IpAddr>() {
        Ok(parsed) if problems.is_empty() && parsed.to_string() != s => vec![format!("must be in canonical form (\"{parsed}\")")],
        _ => problems,
    }
}

/// A range of addresses (upstream: `IsValidCIDRForLegacyField`).
pub fn cidr(s: &str) -> Vec<String> {
    let Some(sloppy) = parse_cidr_sloppy(s) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()];
    };
    let strict = s.split_once('/').is_some_and(|(address, length)| address.parse::<IpAddr>().is_ok() && (length == "0" || !length.starts_with('0')));
    if !strict {
        return vec!["must not have leading 0s in IP or prefix length".into()];
    }
    if mapped(sloppy.addr()) {
        return vec!["must not have an IPv4-mapped IPv6 address".into()];
    }
    only(sloppy.addr() == sloppy.network(), "must not have bits set beyond the prefix length")
}

/// A range in its one canonical form (upstream: `IsValidCIDR`).
pub fn canonical_cidr(s: &str) -> Vec<String> {
    let problems = cidr(s);
    match parse_cidr_sloppy(s) {
        Some(parsed) if problems.is_empty() && parsed.to_string() != s => vec![format!("must be in canonical form (\"{parsed}\")")],
        _ => problems,
    }
}

/// Whether the addresses are of both families.
pub fn is_dual_stack(ips: impl Iterator<Item = IpAddr>) -> bool {
    let (mut v4, mut v6) = (false, false);
    for ip in ips {
        v4 |= ip.is_ipv4();
        v6 |= ip.is_ipv6();
    }
    v4 && v6
}

/// An address that a packet from another machine can reach (upstream: `ValidateEndpointIP`).
pub fn endpoint_ip(s: &str) -> Vec<String> {
    let Some(ip) = ip::parse_sloppy(s) else { return vec!["must be a valid IP address".into()] };
    let v4 = |f: fn(&Ipv4Addr) -> bool| matches!(ip, IpAddr::V4(v4) if f(&v4));
    let v6 = |f: fn(&Ipv6Addr) -> bool| matches!(ip, IpAddr::V6(v6) if f(&v6));
    let mut problems = only(!ip.is_unspecified(), format!("may not be unspecified ({s})"));
    if ip.is_loopback() {
        problems.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    if v4(Ipv4Addr::is_link_local) || v6(|ip| (ip.segments()[0] & 0xffc0) == 0xfe80) {
        problems.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if v4(|ip| ip.octets()[..3] == [224, 0, 0]) || v6(|ip| ip.segments()[0] & 0xff0f == 0xff02) {
        problems.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_as_old_fields_take_them() {
        for good in ["10.0.0.1", "::1", "2001:db8::1", "2001:DB8::1"] {
            assert!(ip(good).is_empty(), "{good}");
        }
        for (bad, wanted) in [
            ("10.0.0.01", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            ("1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ] {
            assert_eq!(ip(bad), [wanted]);
        }
        assert_eq!(canonical_ip("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert_eq!(cidr("10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert!(cidr("10.0.0.0/8").is_empty());
    }

    #[test]
    fn texts_are_checked_in_upstreams_words() {
        assert_eq!(port_name("-A").len(), 3);
        assert!(port_name("http-2").is_empty() && config_map_key("a.b_c").is_empty() && env_name("a b").is_empty());
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
        assert_eq!(local_non_reserved_path("..a"), ["must not start with '..'"]);
    }
}
