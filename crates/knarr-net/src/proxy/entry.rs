//! Entries: what the sets and maps of the proxy's table hold, as small plain values that can be compared and counted.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use knarr_sys::nft::{Element, Verdict};

use crate::pods::Protocol;
use crate::rules::tuple_key;

/// Where packets for a Service port go to: address, protocol, port. The address 0.0.0.0 stands for all addresses of the node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Front {
    pub address: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

impl Front {
    pub fn new(address: Ipv4Addr, protocol: Protocol, port: u16) -> Self {
        Self { address, protocol, port }
    }

    pub fn node_port(protocol: Protocol, port: u16) -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED, protocol, port)
    }

    pub(super) fn key(self) -> Vec<u8> {
        tuple_key(self.address, self.protocol as u8, self.port)
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{:?}", self.address, self.port, self.protocol)
    }
}

/// What a packet is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Its destination address.
    Address,
    /// 0.0.0.0, for any address of the node.
    NodePort,
}

/// Whose packets get the node's address as source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Masquerade {
    Everybody,
    /// All but pods.
    Outsiders,
    Nobody,
}

/// Which slots of a Service port to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scope {
    Cluster,
    Local,
}

impl Scope {
    /// Number of the first slot.
    pub fn first_slot(self) -> u32 {
        match self {
            Self::Cluster => 0,
            Self::Local => 1 << 31,
        }
    }
}

/// What happens to packets for a front. Every distinct action is one chain; there are few, since they differ by the number
/// of endpoints and not by Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Action {
    Drop,
    Reject,
    Forward { origin: Origin, masquerade: Masquerade, scope: Scope, endpoints: u16, affinity_seconds: u32 },
}

/// Set in every number of an action: other users of the packet priority stay below.
const ACTION_BIT: u32 = 1 << 31;
/// Set in the number of an action with affinity, which then has the seconds in place of the upper bits of the count.
const STICKY_BIT: u32 = 1 << 30;
/// Most endpoints of a port with session affinity: what the number of an action has room for.
pub(super) const STICKY_ENDPOINTS_MAX: usize = (1 << 9) - 1;
/// Most seconds of session affinity (the API allows a day).
const AFFINITY_SECONDS_MAX: u32 = (1 << 17) - 1;

impl Action {
    /// The number under which the kernel finds the chain: the same in every run.
    pub fn number(self) -> u32 {
        match self {
            Self::Drop => u32::MAX,
            Self::Reject => u32::MAX - 1,
            Self::Forward { origin, masquerade, scope, endpoints, affinity_seconds } => {
                // 3 · 2 · 2 combinations in four bits.
                let variant = (masquerade as u32) << 2 | (scope as u32) << 1 | origin as u32;
                if affinity_seconds == 0 {
                    ACTION_BIT | variant << 16 | u32::from(endpoints)
                } else {
                    ACTION_BIT | STICKY_BIT | variant << 26 | affinity_seconds.min(AFFINITY_SECONDS_MAX) << 9 | u32::from(endpoints)
                }
            }
        }
    }

    /// The name of its chain, if it has one of its own.
    pub fn chain(self) -> Option<String> {
        let Self::Forward { origin, masquerade, scope, endpoints, affinity_seconds } = self else { return None };
        let sticky = if affinity_seconds == 0 { String::new() } else { format!("-sticky-{affinity_seconds}") };
        Some(format!("{origin:?}-{scope:?}-masquerade-{masquerade:?}-{endpoints}{sticky}").to_lowercase())
    }
}

/// Who may reach a load balancer's address. Equal ones share a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Firewall(pub Vec<Ipv4Net>);

impl Firewall {
    pub fn chain(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|net| net.to_string().replace('/', "_")).collect();
        let full = format!("sources-{}", names.join("-"));
        // The kernel allows names of 255 bytes; long lists are told apart by a hash.
        const NAME_LEN_MAX: usize = 120;
        if full.len() <= NAME_LEN_MAX { full } else { format!("{}-{:016x}", &full[..NAME_LEN_MAX - 17], crate::rules::fnv1a(full.as_bytes())) }
    }
}

/// One element of one set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// An address that belongs to a Service: unknown ports on it are refused.
    ClusterIp(Ipv4Addr),
    /// What to do for a front.
    Front(Front),
    /// The same for clients outside of the cluster, where that differs.
    OutsideFront(Front),
    /// An endpoint of a front, by its slot, or by its sticky number.
    Endpoint(Front, u32),
    /// Which sticky number a slot stands for.
    Pick(Front, u32),
    /// A pod of this node that must not see itself as the sender.
    Hairpin(Ipv4Addr),
    Firewall(Front),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Value {
    Nothing,
    Action(Action),
    Endpoint(SocketAddrV4),
    Number(u32),
    Firewall(Arc<Firewall>),
}

pub(super) type Entry = (Key, Value);

impl Key {
    /// Name of its set or map.
    pub fn set(&self) -> &'static str {
        match self {
            Self::ClusterIp(_) => "cluster-ips",
            Self::Front(_) => "services",
            Self::OutsideFront(_) => "services-for-outsiders",
            Self::Endpoint(..) => "endpoints",
            Self::Pick(..) => "picks",
            Self::Hairpin(_) => "hairpin",
            Self::Firewall(_) => "firewalls",
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::ClusterIp(address) => address.octets().to_vec(),
            Self::Front(front) | Self::OutsideFront(front) | Self::Firewall(front) => front.key(),
            Self::Endpoint(front, number) | Self::Pick(front, number) => [front.key(), number.to_ne_bytes().to_vec()].concat(),
            Self::Hairpin(address) => [address.octets(), address.octets()].concat(),
        }
    }

    pub fn element(&self, value: &Value) -> Element {
        let key = self.bytes();
        match value {
            Value::Nothing => Element::key(key),
            Value::Action(action) => Element::value(key, action.number().to_ne_bytes().to_vec()),
            Value::Endpoint(endpoint) => Element::value(key, endpoint_bytes(endpoint)),
            Value::Number(number) => Element::value(key, number.to_ne_bytes().to_vec()),
            Value::Firewall(firewall) => Element::verdict(key, Verdict::Jump(firewall.chain())),
        }
    }
}

fn endpoint_bytes(endpoint: &SocketAddrV4) -> Vec<u8> {
    [&endpoint.ip().octets()[..], &endpoint.port().to_be_bytes(), &[0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_its_own_number_and_chain() {
        let mut all = vec![Action::Drop, Action::Reject];
        for origin in [Origin::Address, Origin::NodePort] {
            for masquerade in [Masquerade::Everybody, Masquerade::Outsiders, Masquerade::Nobody] {
                for scope in [Scope::Cluster, Scope::Local] {
                    for (endpoints, affinity_seconds) in [(1, 0), (2, 0), (u16::MAX, 0), (1, 1), (511, 1), (1, 86_400), (2, 86_400)] {
                        all.push(Action::Forward { origin, masquerade, scope, endpoints, affinity_seconds });
                    }
                }
            }
        }
        let numbers: std::collections::BTreeSet<_> = all.iter().map(|a| a.number()).collect();
        let chains: std::collections::BTreeSet<_> = all.iter().filter_map(|a| a.chain()).collect();
        assert_eq!((numbers.len(), chains.len()), (all.len(), all.len() - 2));
        assert!(numbers.iter().all(|n| n & ACTION_BIT != 0));
        assert_eq!(all.iter().find_map(|a| a.chain()).unwrap(), "address-cluster-masquerade-everybody-1");
    }

    #[test]
    fn long_lists_of_sources_get_short_names_of_their_own() {
        let nets = |n: u8| Firewall((0..n).map(|i| Ipv4Net::new_assert(Ipv4Addr::new(10, i, 0, 0), 16)).collect());
        assert_eq!(nets(1).chain(), "sources-10.0.0.0_16");
        assert!(nets(50).chain().len() <= 120 && nets(50).chain() != nets(51).chain());
    }
}
