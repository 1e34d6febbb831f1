//! From policies, pods and namespaces to chains and sets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use knarr_client::read::Key;
use knarr_core::selector::LabelSelector;
use knarr_sys::nft::{Compare, DataType, Expression, MetaKey, PayloadBase, Verdict};

use super::view::{Labels, Peer, Pod, Policy, Port, Rule, Which};
use crate::rules::{DESTINATION, SOURCE, fnv1a, if_address_within, load_front, reg, tuple_key};

/// Everything that decides.
pub(super) struct Cluster<'a> {
    pub node_name: &'a str,
    pub policies: Vec<(&'a Key, &'a Policy)>,
    /// With their namespaces.
    pub pods: Vec<(&'a str, &'a Pod)>,
    pub namespaces: BTreeMap<&'a str, &'a Labels>,
}

/// What there should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub sets: BTreeMap<String, Members>,
    pub chains: BTreeMap<String, Vec<Vec<Expression>>>,
    /// Pods of this node that policies select, with the chain that decides.
    pub ingress: BTreeMap<Ipv4Addr, String>,
    pub egress: BTreeMap<Ipv4Addr, String>,
}

/// A set of addresses, or of (address . protocol . port).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members {
    pub with_ports: bool,
    pub keys: BTreeSet<Vec<u8>>,
}

impl Members {
    pub fn key_types(&self) -> &'static [DataType] {
        if self.with_ports { &[DataType::Ipv4Address, DataType::Protocol, DataType::Service] } else { &[DataType::Ipv4Address] }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn name(self) -> &'static str {
        if self == Self::Ingress { "in" } else { "out" }
    }

    /// Offset of the other side's address.
    fn peer(self) -> u32 {
        if self == Self::Ingress { SOURCE } else { DESTINATION }
    }

    fn rules(self, policy: &Policy) -> Option<&Vec<Rule>> {
        if self == Self::Ingress { policy.ingress.as_ref() } else { policy.egress.as_ref() }
    }
}

/// Pods that a selector picks.
struct Group<'a> {
    /// The namespace itself where no selector picks namespaces.
    namespace: &'a str,
    namespaces: Option<&'a LabelSelector>,
    pods: Option<&'a LabelSelector>,
}

impl Group<'_> {
    /// The same for all groups of the same pods.
    fn text(&self) -> String {
        let text = |s: Option<&LabelSelector>| s.map_or_else(|| "*".to_owned(), ToString::to_string);
        match self.namespaces {
            None => format!("{} {}", self.namespace, text(self.pods)),
            some => format!("({}) {}", text(some), text(self.pods)),
        }
    }
}

/// A name for something, no longer than the kernel allows (255 bytes) and telling to the reader.
fn name(prefix: &str, text: &str) -> String {
    const TEXT_LEN_MAX: usize = 80;
    let plain: String = text.chars().take(TEXT_LEN_MAX).map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
    format!("{prefix}-{plain}-{:016x}", fnv1a(text.as_bytes()))
}

/// Works out what this node has to enforce.
pub(super) fn model(cluster: &Cluster<'_>) -> Model {
    let mut builder = Builder { cluster, model: Model::default() };
    for direction in [Direction::Ingress, Direction::Egress] {
        builder.direction(direction);
    }
    builder.model
}

struct Builder<'a> {
    cluster: &'a Cluster<'a>,
    model: Model,
}

impl Builder<'_> {
    fn direction(&mut self, direction: Direction) {
        let cluster = self.cluster;
        let local = cluster.pods.iter().filter(|(_, pod)| *pod.node_name == *cluster.node_name);
        for (namespace, pod) in local {
            let Some(address) = pod.address else { continue };
            let selecting = cluster
                .policies
                .iter()
                .filter(|(key, policy)| key.namespace() == *namespace && direction.rules(policy).is_some() && pod.labels.fulfil(&policy.pods));
            let selecting: Vec<_> = selecting.collect();
            if selecting.is_empty() {
                continue;
            }
            let chain = self.pod_chain(direction, &selecting);
            let map = if direction == Direction::Ingress { &mut self.model.ingress } else { &mut self.model.egress };
            map.insert(address, chain);
        }
    }

    /// The chain for pods that these policies select: each may accept, none drops, the end does.
    fn pod_chain(&mut self, direction: Direction, policies: &[&(&Key, &Policy)]) -> String {
        let all: Vec<&str> = policies.iter().map(|(key, _)| key.as_str()).collect();
        let chain = name(&format!("pods-{}", direction.name()), &all.join(" "));
        if !self.model.chains.contains_key(&chain) {
            let mut rules: Vec<_> =
                policies.iter().map(|(key, policy)| vec![Expression::Verdict(Verdict::Jump(self.policy_chain(direction, key, policy)))]).collect();
            rules.push(vec![Expression::Verdict(Verdict::Drop)]);
            self.model.chains.insert(chain.clone(), rules);
        }
        chain
    }

    fn policy_chain(&mut self, direction: Direction, key: &Key, policy: &Policy) -> String {
        let chain = name(direction.name(), key.as_str());
        if !self.model.chains.contains_key(&chain) {
            let rules = direction.rules(policy).into_iter().flatten();
            let rules = rules.flat_map(|rule| self.rule(direction, key.namespace(), policy, rule)).collect();
            self.model.chains.insert(chain.clone(), rules);
        }
        chain
    }

    /// One packet rule for each peer and port.
    fn rule(&mut self, direction: Direction, namespace: &str, policy: &Policy, rule: &Rule) -> Vec<Vec<Expression>> {
        let mut all = Vec::new();
        let peers: Vec<Option<&Peer>> = if rule.peers.is_empty() { vec![None] } else { rule.peers.iter().map(Some).collect() };
        let ports: Vec<Option<&Port>> = if rule.ports.is_empty() { vec![None] } else { rule.ports.iter().map(Some).collect() };
        for peer in peers {
            let Some(from) = self.peer(direction, namespace, peer) else { continue };
            for port in &ports {
                // A named port is looked up at whoever receives.
                let receiver = match (direction, peer) {
                    (Direction::Ingress, _) => Some(Group { namespace, namespaces: None, pods: Some(&policy.pods) }),
                    (Direction::Egress, None) => Some(Group { namespace, namespaces: Some(&EVERYTHING), pods: None }),
                    (Direction::Egress, Some(Peer::Pods { namespaces, pods })) => {
                        Some(Group { namespace, namespaces: namespaces.as_ref(), pods: pods.as_ref() })
                    }
                    (Direction::Egress, Some(Peer::Block { .. })) => None,
                };
                let Some(to) = self.port(receiver, *port) else { continue };
                all.push([from.clone(), to, vec![Expression::Verdict(Verdict::Accept)]].concat());
            }
        }
        all
    }

    /// Goes on only for packets from or to a peer. Absent when there can be none.
    fn peer(&mut self, direction: Direction, namespace: &str, peer: Option<&Peer>) -> Option<Vec<Expression>> {
        let offset = direction.peer();
        match peer {
            None => Some(Vec::new()),
            Some(Peer::Block { network, except }) => {
                let mut inside = if_address_within(offset, network.as_ref()?, Compare::Equal);
                inside.extend(except.iter().flat_map(|net: &Ipv4Net| if_address_within(offset, net, Compare::NotEqual)));
                Some(inside)
            }
            Some(Peer::Pods { namespaces, pods }) => {
                let set = self.group_set(&Group { namespace, namespaces: namespaces.as_ref(), pods: pods.as_ref() });
                let load = Expression::Payload { base: PayloadBase::Network, offset, len: 4, to: reg(0) };
                Some(vec![load, Expression::In { set, key: reg(0), inverted: false }])
            }
        }
    }

    /// Goes on only for packets to a port. Absent when there can be none.
    fn port(&mut self, receiver: Option<Group<'_>>, port: Option<&Port>) -> Option<Vec<Expression>> {
        let Some(port) = port else { return Some(Vec::new()) };
        let mut checks = vec![
            Expression::Meta { key: MetaKey::Protocol, to: reg(0) },
            Expression::Compare { register: reg(0), op: Compare::Equal, value: vec![port.protocol as u8] },
        ];
        let load = Expression::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: reg(0) };
        let compare = |op, number: u16| Expression::Compare { register: reg(0), op, value: number.to_be_bytes().to_vec() };
        match &port.which {
            Which::All => (),
            Which::Range(first, last) if first == last => checks.extend([load, compare(Compare::Equal, *first)]),
            Which::Range(first, last) => checks.extend([load, compare(Compare::GreaterOrEqual, *first), compare(Compare::LessOrEqual, *last)]),
            Which::Named(name) => {
                let set = self.named_port_set(&receiver?, name, port);
                checks = load_front(0, false);
                checks.push(Expression::In { set, key: reg(0), inverted: false });
            }
        }
        Some(checks)
    }

    fn members<'b>(&'b self, group: &'b Group<'_>) -> impl Iterator<Item = (Ipv4Addr, &'b Pod)> {
        let chosen: BTreeSet<&str> = match group.namespaces {
            None => BTreeSet::from([group.namespace]),
            Some(selector) => self.cluster.namespaces.iter().filter(|(_, labels)| labels.fulfil(selector)).map(|(name, _)| *name).collect(),
        };
        let pods = self.cluster.pods.iter().filter(move |(namespace, pod)| chosen.contains(namespace) && group.pods.is_none_or(|s| pod.labels.fulfil(s)));
        pods.filter_map(|(_, pod)| Some((pod.address?, *pod)))
    }

    fn group_set(&mut self, group: &Group<'_>) -> String {
        let set = name("pods", &group.text());
        if !self.model.sets.contains_key(&set) {
            let keys = self.members(group).map(|(address, _)| address.octets().to_vec()).collect();
            self.model.sets.insert(set.clone(), Members { with_ports: false, keys });
        }
        set
    }

    fn named_port_set(&mut self, group: &Group<'_>, port_name: &str, port: &Port) -> String {
        let set = name("ports", &format!("{port_name} {:?} {}", port.protocol, group.text()));
        if !self.model.sets.contains_key(&set) {
            let mut keys = BTreeSet::new();
            for (address, pod) in self.members(group) {
                let named = pod.ports.iter().filter(|(n, protocol, _)| **n == *port_name && *protocol == port.protocol);
                keys.extend(named.map(|(_, protocol, number)| tuple_key(address, *protocol as u8, *number)));
            }
            self.model.sets.insert(set.clone(), Members { with_ports: true, keys });
        }
        set
    }
}

static EVERYTHING: std::sync::LazyLock<LabelSelector> = std::sync::LazyLock::new(LabelSelector::everything);
