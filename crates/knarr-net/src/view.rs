//! What the service proxy and DNS keep of Services, EndpointSlices and Nodes. Everything is parsed once, as the object comes
//! in; values that make no sense are left out with the object's other values kept, as upstream does.

use std::net::IpAddr;

use ipnet::IpNet;
use knarr_client::{Informer, Project, SharedInformers, read};
use knarr_core::{Object, Result};

use crate::pods::Protocol;

/// Index of slices by the key of their Service.
pub(crate) const SLICES_BY_SERVICE: &str = "service";
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Where other machines find the one that a node with a network namespace of its own is a part of: pods of the node, and the node
/// itself, are behind this address.
pub const ANNOTATION_MACHINE: &str = "knarr.io/machine-address";
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// The API server sets a timeout with every `ClientIP` affinity; this is its default.
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `spec.ports[]` of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// Zero for none.
    pub node_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub service_type: ServiceType,
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`
    pub headless: bool,
    pub external_name: Box<str>,
    pub ports: Vec<ServicePort>,
    pub external_ips: Vec<IpAddr>,
    /// Ingress addresses that nodes answer for: not those of `ipMode: Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Empty lets everybody in.
    pub source_ranges: Vec<IpNet>,
    /// Set with `sessionAffinity: ClientIP`.
    pub affinity_seconds: Option<u32>,
    pub external_local: bool,
    pub internal_local: bool,
    /// Zero for none.
    pub health_check_node_port: u16,
    pub publish_not_ready: bool,
    /// Somebody else proxies it (`service.kubernetes.io/service-proxy-name`).
    pub foreign: bool,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub hostname: Box<str>,
    pub node_name: Box<str>,
    pub zone_hints: Vec<Box<str>>,
    pub node_hints: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// An EndpointSlice with addresses (those of type FQDN have none).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The Service in the slice's namespace; empty for none.
    pub service: Box<str>,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
    /// When the change happened that led to this state, as the controller wrote it down.
    pub triggered_at: Option<jiff::Timestamp>,
}

/// The informer of all slices, with its index by Service.
pub(crate) fn slices(informers: &SharedInformers) -> Informer<Slice> {
    let slices: Informer<Slice> = informers.all::<k8s_openapi::api::discovery::v1::EndpointSlice, _>();
    slices.store().add_index(SLICES_BY_SERVICE, |item| vec![format!("{}/{}", item.key.namespace(), item.view.service)]);
    slices
}

/// What others must know of a Node to reach its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub pod_cidrs: Vec<IpNet>,
    pub internal_ips: Vec<IpAddr>,
    /// Where the machine is that the node is a part of, for one whose network is inside it.
    pub machine: Option<IpAddr>,
    pub zone: Box<str>,
}

/// The wire, as far as we read it.
mod wire {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Metadata {
        pub labels: BTreeMap<String, String>,
        pub annotations: BTreeMap<String, String>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Service {
        pub metadata: Metadata,
        pub spec: ServiceSpec,
        pub status: ServiceStatus,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ServiceSpec {
        pub r#type: String,
        #[serde(rename = "clusterIP")]
        pub cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        pub cluster_ips: Vec<String>,
        pub external_name: String,
        pub ports: Vec<ServicePort>,
        #[serde(rename = "externalIPs")]
        pub external_ips: Vec<String>,
        pub load_balancer_source_ranges: Vec<String>,
        pub session_affinity: String,
        pub session_affinity_config: Option<SessionAffinityConfig>,
        pub external_traffic_policy: String,
        pub internal_traffic_policy: Option<String>,
        pub health_check_node_port: i32,
        pub publish_not_ready_addresses: bool,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ServicePort {
        pub name: String,
        pub protocol: String,
        pub port: i32,
        pub node_port: i32,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct SessionAffinityConfig {
        #[serde(rename = "clientIP")]
        pub client_ip: Option<ClientIp>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ClientIp {
        pub timeout_seconds: Option<i32>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct ServiceStatus {
        pub load_balancer: LoadBalancer,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct LoadBalancer {
        pub ingress: Vec<Ingress>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Ingress {
        pub ip: String,
        pub ip_mode: Option<String>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Slice {
        pub metadata: Metadata,
        pub address_type: String,
        /// Go writes an empty list as null.
        pub endpoints: Option<Vec<Endpoint>>,
        pub ports: Option<Vec<EndpointPort>>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Endpoint {
        pub addresses: Vec<String>,
        pub conditions: Conditions,
        pub hostname: Option<String>,
        pub node_name: Option<String>,
        pub hints: Option<Hints>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Conditions {
        pub ready: Option<bool>,
        pub serving: Option<bool>,
        pub terminating: Option<bool>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Hints {
        pub for_zones: Vec<Named>,
        pub for_nodes: Vec<Named>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Named {
        pub name: String,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct EndpointPort {
        pub name: Option<String>,
        pub protocol: Option<String>,
        pub port: Option<i32>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Node {
        pub metadata: Metadata,
        pub spec: NodeSpec,
        pub status: NodeStatus,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct NodeSpec {
        #[serde(rename = "podCIDR")]
        pub pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pub pod_cidrs: Vec<String>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct NodeStatus {
        pub addresses: Vec<NodeAddress>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct NodeAddress {
        pub r#type: String,
        pub address: String,
    }
}

fn parse_all<T: std::str::FromStr>(texts: &[String]) -> Vec<T> {
    texts.iter().filter_map(|t| t.trim().parse().ok()).collect()
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p != 0)
}

knarr_client::partial!(wire::Node, wire::Service, wire::Slice);

/// Reads the part of an object that `T` declares.
fn decode<T: knarr_client::Typed>(object: &Object) -> Result<T> {
    read::typed(object)
}

impl Project for Service {
    fn project(object: &Object) -> Result<Self> {
        Ok(Self::from_wire(&decode(object)?))
    }
}

impl Service {
    fn from_wire(service: &wire::Service) -> Self {
        let (spec, labels) = (&service.spec, &service.metadata.labels);
        let service_type = match spec.r#type.as_str() {
            "NodePort" => ServiceType::NodePort,
            "LoadBalancer" => ServiceType::LoadBalancer,
            "ExternalName" => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        };
        let external = matches!(service_type, ServiceType::NodePort | ServiceType::LoadBalancer) || !spec.external_ips.is_empty();
        let external_local = external && spec.external_traffic_policy == "Local";
        let mut cluster_ips: Vec<IpAddr> = parse_all(&spec.cluster_ips);
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip.parse::<IpAddr>().ok());
        }
        let ingress = service.status.load_balancer.ingress.iter();
        let mut source_ranges: Vec<IpNet> = parse_all(&spec.load_balancer_source_ranges);
        if source_ranges.iter().any(|net| net.prefix_len() == 0) {
            source_ranges.clear();
        }
        Self {
            service_type,
            headless: spec.cluster_ip == "None",
            cluster_ips,
            external_name: spec.external_name.as_str().into(),
            ports: spec.ports.iter().filter_map(service_port).collect(),
            external_ips: parse_all(&spec.external_ips),
            load_balancer_ips: ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.parse().ok()).collect(),
            source_ranges,
            affinity_seconds: (spec.session_affinity == "ClientIP").then(|| affinity_seconds(spec)),
            external_local,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            health_check_node_port: if external_local && service_type == ServiceType::LoadBalancer {
                port(spec.health_check_node_port).unwrap_or_default()
            } else {
                0
            },
            publish_not_ready: spec.publish_not_ready_addresses,
            foreign: labels.contains_key(LABEL_SERVICE_PROXY_NAME),
        }
    }
}

fn affinity_seconds(spec: &wire::ServiceSpec) -> u32 {
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(AFFINITY_SECONDS_DEFAULT)
}

fn service_port(wire: &wire::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: wire.name.as_str().into(),
        protocol: Protocol::parse(&wire.protocol)?,
        port: port(wire.port)?,
        node_port: port(wire.node_port).unwrap_or_default(),
    })
}

impl Project for Slice {
    fn project(object: &Object) -> Result<Self> {
        const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
        let slice: wire::Slice = decode(object)?;
        let service = slice.metadata.labels.get(LABEL_SERVICE_NAME).map(String::as_str).unwrap_or_default();
        let ports = slice.ports.iter().flatten().filter_map(endpoint_port);
        let triggered_at = slice.metadata.annotations.get(TRIGGER_TIME).and_then(|t| knarr_core::time::parse(t));
        let endpoints = if slice.address_type == "FQDN" { Vec::new() } else { slice.endpoints.iter().flatten().filter_map(endpoint).collect() };
        Ok(Self { service: service.into(), ports: ports.collect(), endpoints, triggered_at })
    }
}

fn endpoint_port(wire: &wire::EndpointPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: wire.name.as_deref().unwrap_or_default().into(),
        protocol: Protocol::parse(wire.protocol.as_deref().unwrap_or_default())?,
        port: port(wire.port?)?,
    })
}

fn endpoint(wire: &wire::Endpoint) -> Option<Endpoint> {
    let names = |all: &[wire::Named]| all.iter().map(|n| n.name.as_str().into()).collect();
    let hints = wire.hints.as_ref();
    Some(Endpoint {
        address: wire.addresses.first()?.parse().ok()?,
        ready: wire.conditions.ready.unwrap_or(true),
        serving: wire.conditions.serving.unwrap_or(true),
        terminating: wire.conditions.terminating.unwrap_or(false),
        hostname: wire.hostname.as_deref().unwrap_or_default().into(),
        node_name: wire.node_name.as_deref().unwrap_or_default().into(),
        zone_hints: hints.map_or_else(Vec::new, |h| names(&h.for_zones)),
        node_hints: hints.map_or_else(Vec::new, |h| names(&h.for_nodes)),
    })
}

impl Project for Node {
    fn project(object: &Object) -> Result<Self> {
        let node: wire::Node = decode(object)?;
        let mut pod_cidrs: Vec<IpNet> = parse_all(&node.spec.pod_cidrs);
        if pod_cidrs.is_empty() {
            pod_cidrs.extend(node.spec.pod_cidr.parse::<IpNet>().ok());
        }
        let internal = node.status.addresses.iter().filter(|a| a.r#type == "InternalIP");
        Ok(Self {
            pod_cidrs,
            internal_ips: internal.filter_map(|a| a.address.parse().ok()).collect(),
            machine: node.metadata.annotations.get(ANNOTATION_MACHINE).and_then(|a| a.parse().ok()),
            zone: node.metadata.labels.get(LABEL_ZONE).map(String::as_str).unwrap_or_default().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::{Encoding, Value, json};

    use super::*;

    fn project<P: Project>(value: &Value) -> P {
        P::project(&Object { encoding: Encoding::Json, resource_version: 1, bytes: value.to_string().into() }).unwrap()
    }

    #[test]
    fn a_service_is_read_with_all_that_the_proxy_needs() {
        let service: Service = project(&json!({"spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30080, "targetPort": 8080}, {"name": "b", "protocol": "UDP", "port": 53}, {"name": "odd", "protocol": "X", "port": 1}],
            "externalIPs": ["192.0.2.9", "nonsense"], "loadBalancerSourceRanges": [" 10.0.0.0/8 "],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "internalTrafficPolicy": "Local"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "x"}]}}}));
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(service.ports.iter().map(|p| (p.port, p.node_port)).collect::<Vec<_>>(), [(80, 30080), (53, 0)]);
        assert_eq!((service.external_ips.len(), service.load_balancer_ips.len(), service.source_ranges.len()), (1, 1, 1));
        assert_eq!((service.affinity_seconds, service.external_local, service.internal_local, service.health_check_node_port), (Some(60), true, true, 31000));
    }

    #[test]
    fn a_plain_service_gets_no_policies_and_a_headless_one_no_address() {
        let service: Service = project(
            &json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8", "0.0.0.0/0"]}}),
        );
        assert!(service.headless && service.cluster_ips.is_empty() && !service.external_local && service.source_ranges.is_empty());
        assert_eq!(service.affinity_seconds, None);
    }

    #[test]
    fn missing_conditions_mean_ready_and_serving() {
        let slice: Slice = project(&json!({"metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
            "ports": [{"name": "", "protocol": "TCP", "port": 80}, {"name": "none"}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "terminating": true}}, {"addresses": []}]}));
        let states: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
        assert_eq!((&*slice.service, states, slice.ports.len()), ("s", vec![(true, true, false), (false, true, true)], 1));
    }

    #[test]
    fn a_node_tells_its_networks_and_addresses() {
        let node: Node = project(
            &json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}, "annotations": {ANNOTATION_MACHINE: "192.0.2.9"}}, "spec": {"podCIDR": "10.244.1.0/24"},
            "status": {"addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.1"}]}}),
        );
        assert_eq!((node.pod_cidrs.len(), node.internal_ips.len(), &*node.zone), (1, 1, "z"));
        assert_eq!(node.machine, "192.0.2.9".parse().ok());
    }
}
