//! Which addresses a Service of type LoadBalancer gets, as a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use knarr_client::Key;

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of type LoadBalancer, in the care of no other controller.
    pub balanced: bool,
    pub created: Timestamp,
    /// Protocol and port.
    pub ports: Vec<(Box<str>, u16)>,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Only nodes that have a ready endpoint take its packets.
    pub local: bool,
    /// The addresses in its status.
    pub told: Vec<IpAddr>,
}

/// A node that can take packets from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Why a Service gets no address.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    pub protocol: Box<str>,
    pub port: u16,
    /// Who has the port; none: the cluster itself.
    pub by: Option<Key>,
}

/// The Service to which each port of the nodes' addresses belongs: the one that was there first.
pub fn owners<'a>(services: impl IntoIterator<Item = (&'a Key, &'a Wanted)>) -> BTreeMap<(Box<str>, u16), Key> {
    let mut all: Vec<(&Key, &Wanted)> = services.into_iter().filter(|(_, s)| s.balanced).collect();
    all.sort_by_key(|(key, service)| (service.created, *key));
    let mut owners = BTreeMap::new();
    for (key, service) in all {
        // A Service is answered on all of its ports or not at all.
        if service.ports.iter().all(|port| !owners.contains_key(port)) {
            owners.extend(service.ports.iter().map(|port| (port.clone(), key.clone())));
        }
    }
    owners
}

/// The port that keeps a Service from being answered.
pub fn taken(key: &Key, service: &Wanted, owners: &BTreeMap<(Box<str>, u16), Key>, reserved: &[u16]) -> Option<Taken> {
    service.ports.iter().find_map(|port| {
        let (protocol, number) = port;
        let by = owners.get(port).filter(|owner| *owner != key);
        let is_reserved = &**protocol == "TCP" && reserved.contains(number);
        (is_reserved || by.is_some()).then(|| Taken { protocol: protocol.clone(), port: *number, by: by.filter(|_| !is_reserved).cloned() })
    })
}

/// The addresses at which a Service is answered. `endpoints` are the nodes that have a ready one.
pub fn addresses(service: &Wanted, nodes: &[Entrance], endpoints: &BTreeSet<String>) -> Vec<IpAddr> {
    let serves = |node: &&Entrance| !service.local || endpoints.contains(&node.name);
    let fits = |ip: &IpAddr| if ip.is_ipv4() { service.ipv4 } else { service.ipv6 };
    nodes.iter().filter(serves).flat_map(|node| node.addresses.iter().copied().filter(fits)).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(created: i64, ports: &[u16]) -> Wanted {
        let created = Timestamp::from_second(created).unwrap();
        Wanted { balanced: true, created, ports: ports.iter().map(|p| ("TCP".into(), *p)).collect(), ipv4: true, ipv6: false, local: false, told: Vec::new() }
    }

    #[test]
    fn a_port_belongs_to_the_service_that_was_first() {
        let (first, second, third) = (Key::new("b", "s"), Key::new("a", "s"), Key::new("a", "t"));
        let (one, two, three) = (service(1, &[80, 443]), service(2, &[80, 81]), service(3, &[81]));
        let owners = owners([(&second, &two), (&first, &one), (&third, &three)]);
        assert_eq!(taken(&first, &one, &owners, &[]), None);
        assert_eq!(taken(&second, &two, &owners, &[]), Some(Taken { protocol: "TCP".into(), port: 80, by: Some(first) }));
        assert_eq!(taken(&third, &three, &owners, &[]), None);
        assert_eq!(taken(&third, &three, &owners, &[81]), Some(Taken { protocol: "TCP".into(), port: 81, by: None }));
    }

    #[test]
    fn addresses_are_those_of_the_nodes_that_serve_in_the_services_families() {
        let node = |name: &str, addresses: &[&str]| Entrance { name: name.into(), addresses: addresses.iter().map(|a| a.parse().unwrap()).collect() };
        let nodes = [node("n", &["192.0.2.2", "fd00::2"]), node("m", &["192.0.2.1"])];
        let texts = |service: &Wanted, endpoints: &[&str]| {
            let endpoints = endpoints.iter().map(|e| (*e).to_owned()).collect();
            addresses(service, &nodes, &endpoints).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut wanted = service(1, &[80]);
        assert_eq!(texts(&wanted, &[]), ["192.0.2.1", "192.0.2.2"]);
        wanted.ipv6 = true;
        wanted.local = true;
        assert_eq!(texts(&wanted, &["n"]), ["192.0.2.2", "fd00::2"]);
        assert!(texts(&wanted, &[]).is_empty());
    }
}
