//! What policy enforcement keeps of NetworkPolicies, pods and namespaces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use knarr_client::{Project, read};
use knarr_core::selector::LabelSelector;
use knarr_core::{Object, Result, Status, Value, ValueExt};
use serde::Deserialize;

use crate::pods::Protocol;

/// Labels of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels(BTreeMap<Box<str>, Box<str>>);

impl Labels {
    pub fn fulfil(&self, selector: &LabelSelector) -> bool {
        selector.matches_by(|key| self.0.get(key).map(|v| &**v))
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    labels: BTreeMap<Box<str>, Box<str>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OnlyMetadata {
    metadata: Metadata,
}

knarr_client::partial!(OnlyMetadata);

impl Project for Labels {
    fn project(object: &Object) -> Result<Self> {
        Ok(Self(read::typed::<OnlyMetadata>(object)?.metadata.labels))
    }
}

/// A pod that has an address of its own and may still send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    /// Absent before it has one, with the node's network, and once it has ended: the address may be another's by then.
    pub address: Option<Ipv4Addr>,
    pub node_name: Box<str>,
    pub labels: Labels,
    /// Names and numbers of container ports.
    pub ports: Vec<(Box<str>, Protocol, u16)>,
}

mod wire {
    use serde::Deserialize;

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Pod {
        pub metadata: super::Metadata,
        pub spec: Spec,
        pub status: Status,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Spec {
        pub node_name: String,
        pub host_network: bool,
        pub containers: Vec<Container>,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct Container {
        pub ports: Vec<Port>,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Port {
        pub name: String,
        pub protocol: String,
        pub container_port: i32,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    pub struct Status {
        pub phase: String,
        #[serde(rename = "podIPs")]
        pub pod_ips: Vec<PodIp>,
        #[serde(rename = "podIP")]
        pub pod_ip: String,
    }

    #[derive(Deserialize, Default)]
    #[serde(default)]
    pub struct PodIp {
        pub ip: String,
    }
}

knarr_client::partial!(wire::Pod);

impl Project for Pod {
    fn project(object: &Object) -> Result<Self> {
        let pod: wire::Pod = read::typed(object)?;
        let ended = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let ips = pod.status.pod_ips.iter().map(|p| &p.ip).chain([&pod.status.pod_ip]);
        let address = ips.filter_map(|ip| ip.parse().ok()).next().filter(|_| !ended && !pod.spec.host_network);
        let ports = pod.spec.containers.iter().flat_map(|c| &c.ports).filter(|p| !p.name.is_empty());
        let port = |p: &wire::Port| Some((p.name.as_str().into(), Protocol::parse(&p.protocol)?, u16::try_from(p.container_port).ok()?));
        Ok(Self { address, node_name: pod.spec.node_name.as_str().into(), labels: Labels(pod.metadata.labels), ports: ports.filter_map(port).collect() })
    }
}

/// `spec` of a NetworkPolicy. A direction that it does not speak of is absent; one without rules allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub pods: LabelSelector,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

/// One way that is open. Nobody named means everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub ports: Vec<Port>,
    pub peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub protocol: Protocol,
    pub which: Which,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    Range(u16, u16),
    /// As the receiving pod's containers name it.
    Named(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Pods; without a selector of namespaces, of the policy's own.
    Pods { namespaces: Option<LabelSelector>, pods: Option<LabelSelector> },
    /// Addresses; absent for another family's.
    Block { network: Option<Ipv4Net>, except: Vec<Ipv4Net> },
}

impl Project for Policy {
    fn project(object: &Object) -> Result<Self> {
        policy(&read::value(object)?).map_err(Status::internal)
    }
}

fn policy(object: &Value) -> Result<Policy, String> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let types: Vec<_> = array(spec.get("policyTypes")).iter().filter_map(Value::as_str).collect();
    // Before types were defaulted: ingress always, egress if there are rules.
    let speaks_of = |kind: &str, field: &str| if types.is_empty() { kind == "Ingress" || spec.get(field).is_some() } else { types.contains(&kind) };
    let rules = |kind, field, peers| speaks_of(kind, field).then(|| array(spec.get(field)).iter().map(|r| rule(r, peers)).collect()).transpose();
    Ok(Policy {
        pods: LabelSelector::from_value(spec.get("podSelector").or(Some(&Value::Object(Default::default()))))?,
        ingress: rules("Ingress", "ingress", "from")?,
        egress: rules("Egress", "egress", "to")?,
    })
}

fn array(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn rule(rule: &Value, peers: &str) -> Result<Rule, String> {
    Ok(Rule { ports: array(rule.get("ports")).iter().filter_map(port).collect(), peers: array(rule.get(peers)).iter().map(peer).collect::<Result<_, _>>()? })
}

fn port(port: &Value) -> Option<Port> {
    let number = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok());
    let which = match port.get("port").filter(|p| !p.is_null()) {
        None => Which::All,
        Some(Value::String(name)) => Which::Named(name.as_str().into()),
        Some(first) => {
            let first = number(first)?;
            Which::Range(first, port.get("endPort").and_then(number).unwrap_or(first))
        }
    };
    Some(Port { protocol: Protocol::parse(port.str_at(&["protocol"]).unwrap_or_default())?, which })
}

fn peer(peer: &Value) -> Result<Peer, String> {
    if let Some(block) = peer.get("ipBlock").filter(|b| !b.is_null()) {
        let network = |text: &str| text.parse::<ipnet::IpNet>().ok().and_then(|net| if let ipnet::IpNet::V4(v4) = net.trunc() { Some(v4) } else { None });
        let except = array(block.get("except")).iter().filter_map(|e| network(e.as_str()?)).collect();
        return Ok(Peer::Block { network: block.str_at(&["cidr"]).and_then(network), except });
    }
    let selector = |field: &str| peer.get(field).filter(|s| !s.is_null()).map(|s| LabelSelector::from_value(Some(s))).transpose();
    Ok(Peer::Pods { namespaces: selector("namespaceSelector")?, pods: selector("podSelector")? })
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    #[test]
    fn a_direction_is_spoken_of_by_its_type_or_by_its_rules() {
        let directions = |spec: Value| {
            let policy = policy(&json!({"spec": spec})).unwrap();
            (policy.ingress.map(|r| r.len()), policy.egress.map(|r| r.len()))
        };
        assert_eq!(directions(json!({"podSelector": {}})), (Some(0), None));
        assert_eq!(directions(json!({"podSelector": {}, "policyTypes": ["Egress"]})), (None, Some(0)));
        assert_eq!(directions(json!({"podSelector": {}, "egress": [{}]})), (Some(0), Some(1)));
    }

    #[test]
    fn ports_and_peers_are_read_in_all_their_forms() {
        let policy = policy(&json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{
            "ports": [{"port": 80}, {"protocol": "UDP", "port": 100, "endPort": 200}, {"port": "web"}, {"protocol": "SCTP"}],
            "from": [{"podSelector": {}}, {"namespaceSelector": {}, "podSelector": {"matchLabels": {"x": "y"}}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}}))
        .unwrap();
        let rule = &policy.ingress.unwrap()[0];
        let which: Vec<_> = rule.ports.iter().map(|p| p.which.clone()).collect();
        assert_eq!(which, [Which::Range(80, 80), Which::Range(100, 200), Which::Named("web".into()), Which::All]);
        assert!(matches!(&rule.peers[0], Peer::Pods { namespaces: None, pods: Some(_) }));
        assert!(matches!(&rule.peers[2], Peer::Block { network: Some(_), except } if except.len() == 1));
    }

    #[test]
    fn a_pod_counts_while_it_can_send() {
        let pod = |spec: Value, phase: &str| {
            let value =
                json!({"metadata": {"labels": {"a": "b"}}, "spec": spec, "status": {"phase": phase, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
            Pod::project(&Object { encoding: knarr_core::Encoding::Json, resource_version: 1, bytes: value.to_string().into() }).unwrap()
        };
        let running = pod(json!({"containers": [{"ports": [{"name": "web", "containerPort": 80}, {"containerPort": 81}]}]}), "Running");
        assert_eq!((running.address, running.ports.len()), (Some(Ipv4Addr::new(10, 0, 0, 1)), 1));
        assert_eq!(pod(json!({}), "Succeeded").address, None);
        assert_eq!(pod(json!({"hostNetwork": true}), "Running").address, None);
    }
}
