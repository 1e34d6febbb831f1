//! The cluster's zone: which records a name has (the Kubernetes DNS specification 1.1.0; where it leaves room, as CoreDNS'
//! kubernetes plugin answers).

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use knarr_client::Item;

use super::directory::Directory;
use crate::pods::Protocol;
use crate::view::{EndpointPort, Service, ServiceType, Slice};

/// Seconds that answers may be kept, negative ones too (kubeadm's setting for CoreDNS).
const TTL: u32 = 30;
const SPECIFICATION_VERSION: &str = "1.1.0";

/// What a question comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name exists, but has no records of this type.
    NoData,
    NxDomain,
    /// The records are those of another name.
    Alias {
        record: Record,
        target: Name,
    },
    /// Somebody else knows.
    NotOurs,
}

/// The zone of one cluster.
pub(super) struct Zone {
    origin: Name,
    /// Where this server answers.
    server: Option<IpAddr>,
}

/// One thing behind a Service name.
struct Target {
    /// The name of the thing itself: the Service, or an endpoint of it.
    name: Name,
    address: IpAddr,
    /// Absent when the slice names no port.
    port: Option<u16>,
}

/// The part of a name in front of the Service: nothing, an endpoint, or a port.
enum Within<'a> {
    Service,
    Endpoint(&'a str),
    Port { name: &'a str, protocol: &'a str },
}

impl Within<'_> {
    fn accepts(&self, port_name: &str, protocol: Protocol) -> bool {
        match self {
            Self::Port { name, protocol: wanted } => *name == port_name && *wanted == protocol_name(protocol),
            _ => true,
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl Zone {
    /// The zone of a cluster domain (`cluster.local`).
    pub fn new(domain: &str, server: Option<IpAddr>) -> Result<Self, hickory_proto::ProtoError> {
        let mut origin = Name::from_ascii(domain)?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Self { origin, server })
    }

    /// Whether a name is in the zone.
    pub fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// The record that goes with answers of nothing.
    pub fn soa(&self) -> Record {
        let (refresh, retry, expire) = (7200, 1800, 86_400);
        let soa = SOA::new(self.below(&["ns", "dns"]), self.below(&["hostmaster"]), 1, refresh, retry, expire, TTL);
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    /// Answers a question. `name` may be in any case; records carry it as it was asked.
    pub fn resolve(&self, directory: &dyn Directory, name: &Name, wanted: RecordType) -> Outcome {
        if let Ok(net) = name.parse_arpa_name() {
            return if net.prefix_len() == net.max_prefix_len() { self.reverse(directory, name, net.addr(), wanted) } else { Outcome::NotOurs };
        }
        if !self.contains(name) {
            return Outcome::NotOurs;
        }
        let depth = usize::from(name.num_labels() - self.origin.num_labels());
        let labels: Option<Vec<String>> = name.iter().take(depth).map(|l| std::str::from_utf8(l).ok().map(str::to_ascii_lowercase)).collect();
        let Some(labels) = labels else { return Outcome::NxDomain };
        let labels: Vec<&str> = labels.iter().rev().map(String::as_str).collect();
        self.descend(directory, name, wanted, &labels)
    }

    /// `labels` begin at the zone and go outwards.
    fn descend(&self, directory: &dyn Directory, name: &Name, wanted: RecordType, labels: &[&str]) -> Outcome {
        match labels {
            [] => self.apex(name, wanted),
            ["dns-version"] => found(wanted == RecordType::TXT, || record(name, RData::TXT(TXT::new(vec![SPECIFICATION_VERSION.into()])))),
            ["dns"] | ["svc"] | ["pod"] => Outcome::NoData,
            ["dns", "ns"] => self.addresses(name, wanted, self.server.into_iter()),
            ["svc" | "pod", namespace] if directory.has_namespace(namespace) => Outcome::NoData,
            ["pod", namespace, pod] if directory.has_namespace(namespace) => match pod_address(pod) {
                Some(address) => self.addresses(name, wanted, std::iter::once(address)),
                None => Outcome::NxDomain,
            },
            ["svc", namespace, service] => self.service(directory, name, wanted, (namespace, service), &Within::Service),
            ["svc", namespace, service, endpoint] => self.service(directory, name, wanted, (namespace, service), &Within::Endpoint(endpoint)),
            ["svc", namespace, service, protocol, port] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else { return Outcome::NxDomain };
                self.service(directory, name, wanted, (namespace, service), &Within::Port { name: port, protocol })
            }
            _ => Outcome::NxDomain,
        }
    }

    fn apex(&self, name: &Name, wanted: RecordType) -> Outcome {
        match wanted {
            RecordType::SOA => Outcome::Found { answers: vec![self.soa()], additionals: Vec::new() },
            RecordType::NS => {
                let server = self.below(&["ns", "dns"]);
                let additionals = self.server.map(|address| record(&server, address_data(address))).into_iter().collect();
                Outcome::Found { answers: vec![record(name, RData::NS(NS(server)))], additionals }
            }
            _ => Outcome::NoData,
        }
    }

    fn service(&self, directory: &dyn Directory, name: &Name, wanted: RecordType, of: (&str, &str), within: &Within<'_>) -> Outcome {
        let (namespace, service_name) = of;
        let Some(service) = directory.service(namespace, service_name) else { return Outcome::NxDomain };
        if service.view.service_type == ServiceType::ExternalName {
            return external_name(name, &service.view, within);
        }
        let targets = if service.view.headless || matches!(within, Within::Endpoint(_)) {
            self.endpoints(&directory.slices(namespace, service_name), of, within)
        } else {
            self.cluster_ips(&service.view, of, within)
        };
        if targets.is_empty() {
            return Outcome::NxDomain;
        }
        match wanted {
            RecordType::SRV => srv(name, &targets),
            _ => self.addresses(name, wanted, targets.iter().map(|t| t.address)),
        }
    }

    fn cluster_ips(&self, service: &Service, of: (&str, &str), within: &Within<'_>) -> Vec<Target> {
        let name = self.below(&[of.1, of.0, "svc"]);
        let ports = service.ports.iter().filter(|p| within.accepts(&p.name, p.protocol));
        ports.flat_map(|p| service.cluster_ips.iter().map(|ip| Target { name: name.clone(), address: *ip, port: Some(p.port) })).collect()
    }

    fn endpoints(&self, slices: &[std::sync::Arc<Item<Slice>>], of: (&str, &str), within: &Within<'_>) -> Vec<Target> {
        let mut targets = Vec::new();
        for slice in slices.iter().map(|s| &s.view) {
            let no_port = || slice.ports.is_empty() && !matches!(within, Within::Port { .. });
            let accepted = |p: &&EndpointPort| within.accepts(&p.name, p.protocol);
            let ports: Vec<Option<u16>> = if no_port() { vec![None] } else { slice.ports.iter().filter(accepted).map(|p| Some(p.port)).collect() };
            for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                let host = host_label(&endpoint.hostname, endpoint.address);
                if matches!(within, Within::Endpoint(wanted) if *wanted != host) {
                    continue;
                }
                let name = self.below(&[&host, of.1, of.0, "svc"]);
                targets.extend(ports.iter().map(|port| Target { name: name.clone(), address: endpoint.address, port: *port }));
            }
        }
        targets
    }

    fn addresses(&self, name: &Name, wanted: RecordType, addresses: impl Iterator<Item = IpAddr>) -> Outcome {
        let mut answers: Vec<Record> = Vec::new();
        for address in addresses.filter(|a| wanted == if a.is_ipv4() { RecordType::A } else { RecordType::AAAA }) {
            let data = address_data(address);
            if !answers.iter().any(|r| r.data == data) {
                answers.push(record(name, data));
            }
        }
        if answers.is_empty() { Outcome::NoData } else { Outcome::Found { answers, additionals: Vec::new() } }
    }

    /// The names of an address. One that nothing in the cluster has is somebody else's business.
    fn reverse(&self, directory: &dyn Directory, name: &Name, address: IpAddr, wanted: RecordType) -> Outcome {
        let mut names: Vec<Name> = directory.services_at(address).iter().map(|s| self.below(&[s.key.name(), s.key.namespace(), "svc"])).collect();
        if names.is_empty() {
            for slice in directory.slices_at(address) {
                let hosts = slice.view.endpoints.iter().filter(|e| e.address == address && e.ready && !slice.view.service.is_empty());
                names.extend(hosts.map(|e| self.below(&[&host_label(&e.hostname, address), &slice.view.service, slice.key.namespace(), "svc"])));
            }
        }
        names.sort_unstable();
        names.dedup();
        match (names.is_empty(), wanted) {
            (true, _) => Outcome::NotOurs,
            (false, RecordType::PTR) => {
                Outcome::Found { answers: names.into_iter().map(|n| record(name, RData::PTR(PTR(n)))).collect(), additionals: Vec::new() }
            }
            (false, _) => Outcome::NoData,
        }
    }

    /// A name in the zone. Labels come from names of objects, which are valid labels; one that is not gives the zone itself.
    fn below(&self, labels: &[&str]) -> Name {
        let name = Name::from_labels(labels.iter().map(|l| l.as_bytes())).and_then(|n| n.append_domain(&self.origin));
        name.unwrap_or_else(|_| self.origin.clone())
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn found(it: bool, make: impl FnOnce() -> Record) -> Outcome {
    if it { Outcome::Found { answers: vec![make()], additionals: Vec::new() } } else { Outcome::NoData }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// An endpoint's hostname, or its address with dashes.
fn host_label(hostname: &str, address: IpAddr) -> String {
    match address {
        _ if !hostname.is_empty() => hostname.to_owned(),
        IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
        IpAddr::V6(v6) => v6.to_string().replace(':', "-"),
    }
}

/// `10-244-1-5` as an address.
fn pod_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok())
}

/// The name is the record's, so it can be asked for only by itself.
fn external_name(name: &Name, service: &Service, within: &Within<'_>) -> Outcome {
    let target = Name::from_ascii(&service.external_name).map(|mut n| {
        n.set_fqdn(true);
        n
    });
    match (within, target) {
        (Within::Service, Ok(target)) if service.external_name.parse::<IpAddr>().is_err() => {
            Outcome::Alias { record: record(name, RData::CNAME(CNAME(target.clone()))), target }
        }
        _ => Outcome::NxDomain,
    }
}

/// A record for each port, all of the same weight, and the addresses of their targets.
fn srv(name: &Name, targets: &[Target]) -> Outcome {
    const PRIORITY: u16 = 0;
    const WEIGHT_SUM: usize = 100;
    let weight = u16::try_from((WEIGHT_SUM / targets.len()).max(1)).unwrap_or(1);
    let (mut answers, mut additionals): (Vec<Record>, Vec<Record>) = Default::default();
    for target in targets {
        let Some(port) = target.port else { continue };
        let answer = record(name, RData::SRV(SRV::new(PRIORITY, weight, port, target.name.clone())));
        if !answers.contains(&answer) {
            answers.push(answer);
        }
        let address = record(&target.name, address_data(target.address));
        if !additionals.contains(&address) {
            additionals.push(address);
        }
    }
    if answers.is_empty() { Outcome::NoData } else { Outcome::Found { answers, additionals } }
}

#[cfg(test)]
mod tests;
