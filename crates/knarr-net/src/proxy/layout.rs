//! The proxy's table: its sets, its few fixed chains, and the chain of an action.
//!
//! ```text
//! prerouting ─► firewalls ─► outsiders? ─► services-for-outsiders ─┐
//! output ───────────────────────────────────────────► services ────┴─► action ─► endpoints ─► DNAT
//!                                                        └─► cluster-ips: refuse
//! postrouting ─► marked or hairpin: masquerade
//! ```
//!
//! The number of an action travels from one rule to the next in the packet's priority, which is what a rule can both set and
//! look up by, and which forwarding overwrites anyway. (A register would do, but `nft list ruleset` dies of a lookup by what
//! another lookup loaded, and so would every tool that lists rules.)
//!
//! All chains are of type nat, which see the first packet of a connection only: an established one costs nothing here.
//! Services differ in map entries alone, and the entries are plain data: a verdict in an entry would make the kernel walk
//! through every chain again with each change. The verdicts sit in the small map of actions.
//!
//! A change of many entries is one transaction, and yet a packet may meet it half way: what it looks up first is from before, and what it
//! looks up next from after. It then asks for the fourth of three endpoints, and gets the first ([`picks`]).

use std::time::Duration;

use ipnet::IpNet;
use knarr_sys::nft::{
    Batch, Chain, ChainKind, Change, Compare, DataType, Element, Expression, Family, Hook, MetaKey, PayloadBase, RejectWith, Set, SetFlags, Verdict,
};

use super::entry::{Action, Firewall, Masquerade, Origin, Scope};
use crate::pods::Protocol;
use crate::rules::{DESTINATION, PRIORITY_DNAT, PRIORITY_SNAT, SOURCE, destination_is_local, dnat, if_address_within, load_front, reg};

/// kube-proxy's bit: other software knows to leave it alone.
const MASQUERADE_MARK: u32 = 0x4000;
/// Clients that may stick to endpoints at one time. Beyond it, new ones are sent anywhere.
const AFFINITY_SIZE: u32 = 1 << 20;
/// Bumped with every change to what [`base`] writes: an older table is then replaced, not adapted.
const LAYOUT: u32 = 2;

/// Written on the table, to tell at start whether it can be kept.
pub(super) fn stamp(cluster_cidrs: &[IpNet]) -> String {
    let cidrs: Vec<_> = cluster_cidrs.iter().map(ToString::to_string).collect();
    format!("knarr services {LAYOUT} {}", cidrs.join(","))
}

/// The table without entries, in place of whatever there was.
pub(super) fn base(table: &str, cluster_cidrs: &[IpNet]) -> Batch {
    let mut batch = Batch::new(Family::Ip, table);
    batch.recreate_table(stamp(cluster_cidrs));
    sets().into_iter().for_each(|set| {
        batch.push(Change::AddSet(set));
    });
    refuse(&mut batch);
    find_service(&mut batch);
    entrances(&mut batch, cluster_cidrs);
    postrouting(&mut batch);
    let fixed = [(Action::Drop, Verdict::Drop), (Action::Reject, Verdict::Goto("refuse".into()))];
    batch.add_elements("actions", fixed.into_iter().map(|(action, verdict)| Element::verdict(action.number().to_ne_bytes().to_vec(), verdict)).collect());
    batch
}

fn sets() -> Vec<Set> {
    use DataType::{Ipv4Address as Address, Mark, Protocol, Service};
    let front = [Address, Protocol, Service];
    let slot = [Address, Protocol, Service, Mark];
    let affinity = SetFlags { timeout: true, dynamic: true, interval: false };
    vec![
        Set::new("cluster-ips", &[Address]),
        Set::map("services", &front, &[Mark]),
        Set::map("services-for-outsiders", &front, &[Mark]),
        Set::verdict_map("actions", &[Mark]),
        Set::map("endpoints", &slot, &[Address, Service]),
        Set::map("picks", &slot, &[Mark]),
        Set { flags: affinity, size: Some(AFFINITY_SIZE), ..Set::map("affinity", &[Address, Address, Protocol, Service], &[Mark]) },
        Set::new("hairpin", &[Address, Address]),
        Set::verdict_map("firewalls", &front),
    ]
}

/// TCP clients get a reset, which unlike ICMP is not rate limited.
fn refuse(batch: &mut Batch) {
    batch.push(Change::AddChain(Chain::regular("refuse")));
    let tcp = Expression::Compare { register: reg(0), op: Compare::Equal, value: vec![Protocol::Tcp as u8] };
    batch.rule("refuse", vec![Expression::Meta { key: MetaKey::Protocol, to: reg(0) }, tcp, Expression::Reject(RejectWith::TcpReset)]);
    batch.rule("refuse", vec![Expression::Reject(RejectWith::PortUnreachable)]);
}

/// The two chains that look a front up: by its address, then as a port of the node.
fn find_service(batch: &mut Batch) {
    for (chain, map) in [("inside", "services"), ("outside", "services-for-outsiders")] {
        batch.push(Change::AddChain(Chain::regular(chain)));
        // Kernels before 6.17 may find nothing in the moment in which an entry is replaced; whoever asks again finds the new one.
        for node_port in [false, true, false, true] {
            let mut find = if node_port { destination_is_local(Compare::Equal) } else { Vec::new() };
            find.extend(load_front(0, node_port));
            find.push(Expression::Lookup { map: map.into(), key: reg(0), to: reg(0) });
            find.push(Expression::SetPriority { from: reg(0) });
            batch.rule(chain, find);
            batch.rule(chain, vec![Expression::Meta { key: MetaKey::Priority, to: reg(0) }, Expression::Dispatch { map: "actions".into(), key: reg(0) }]);
        }
    }
    let to_cluster_ip = vec![
        Expression::Payload { base: PayloadBase::Network, offset: DESTINATION, len: 4, to: reg(0) },
        Expression::In { set: "cluster-ips".into(), key: reg(0), inverted: false },
    ];
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let mut rule = to_cluster_ip.clone();
        rule.push(Expression::Meta { key: MetaKey::Protocol, to: reg(0) });
        rule.push(Expression::Compare { register: reg(0), op: Compare::Equal, value: vec![protocol as u8] });
        rule.push(Expression::Verdict(Verdict::Goto("refuse".into())));
        batch.rule("inside", rule);
    }
    batch.rule("outside", vec![Expression::Verdict(Verdict::Goto("inside".into()))]);
}

fn entrances(batch: &mut Batch, cluster_cidrs: &[IpNet]) {
    let mut firewalls = load_front(0, false);
    firewalls.push(Expression::Dispatch { map: "firewalls".into(), key: reg(0) });
    let mut from_outside = outsiders(cluster_cidrs);
    from_outside.push(Expression::Verdict(Verdict::Goto("outside".into())));
    for (chain, hook) in [("nat-prerouting", Hook::Prerouting), ("nat-output", Hook::Output)] {
        batch.push(Change::AddChain(Chain::base(chain, ChainKind::Nat, hook, PRIORITY_DNAT)));
        batch.rule(chain, firewalls.clone());
        if hook == Hook::Prerouting {
            batch.rule(chain, from_outside.clone());
        }
        batch.rule(chain, vec![Expression::Verdict(Verdict::Goto("inside".into()))]);
    }
}

fn postrouting(batch: &mut Batch) {
    batch.push(Change::AddChain(Chain::base("nat-postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT)));
    batch.rule(
        "nat-postrouting",
        vec![
            Expression::Meta { key: MetaKey::Mark, to: reg(0) },
            Expression::Bitwise { from: reg(0), to: reg(1), mask: MASQUERADE_MARK.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expression::Compare { register: reg(1), op: Compare::NotEqual, value: vec![0; 4] },
            Expression::Bitwise { from: reg(0), to: reg(0), mask: (!MASQUERADE_MARK).to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expression::SetMark { from: reg(0) },
            Expression::Masquerade { random: true },
        ],
    );
    batch.rule(
        "nat-postrouting",
        vec![
            Expression::Payload { base: PayloadBase::Network, offset: SOURCE, len: 4, to: reg(0) },
            Expression::Payload { base: PayloadBase::Network, offset: DESTINATION, len: 4, to: reg(1) },
            Expression::In { set: "hairpin".into(), key: reg(0), inverted: false },
            Expression::Masquerade { random: true },
        ],
    );
}

/// Goes on only for packets that no pod sent. Uses register 0.
fn outsiders(cluster_cidrs: &[IpNet]) -> Vec<Expression> {
    let inside = cluster_cidrs.iter().filter_map(|net| if let IpNet::V4(v4) = net { Some(v4) } else { None });
    inside.flat_map(|net| if_address_within(SOURCE, net, Compare::NotEqual)).collect()
}

/// The changes that make the chain of an action, or make it anew.
pub(super) fn action(batch: &mut Batch, action: Action, cluster_cidrs: &[IpNet]) {
    let (Action::Forward { origin, masquerade, scope, endpoints, affinity_seconds }, Some(chain)) = (action, action.chain()) else { return };
    batch.push(Change::AddChain(Chain::regular(&chain))).push(Change::FlushChain(chain.clone()));
    let mark = [
        Expression::Meta { key: MetaKey::Mark, to: reg(0) },
        Expression::Bitwise { from: reg(0), to: reg(0), mask: (!MASQUERADE_MARK).to_ne_bytes().to_vec(), xor: MASQUERADE_MARK.to_ne_bytes().to_vec() },
        Expression::SetMark { from: reg(0) },
    ];
    match masquerade {
        Masquerade::Everybody => {
            batch.rule(&chain, mark.to_vec());
        }
        Masquerade::Outsiders => {
            batch.rule(&chain, [outsiders(cluster_cidrs), mark.to_vec()].concat());
        }
        Masquerade::Nobody => (),
    }
    let picks = picks(origin, scope, endpoints);
    if affinity_seconds == 0 {
        batch.rule(&chain, reset_priority());
        for pick in picks {
            batch.rule(&chain, [pick, to_endpoint()].concat());
        }
    } else {
        sticky(batch, &chain, origin, picks, affinity_seconds);
    }
    // The last endpoint has just gone.
    batch.rule(&chain, vec![Expression::Verdict(Verdict::Goto("refuse".into()))]);
    batch.add_elements("actions", vec![Element::verdict(action.number().to_ne_bytes().to_vec(), Verdict::Goto(chain))]);
}

/// The front in registers 1 to 3 and a slot of it in register 4: any, and the first one, for whoever finds nothing there because there are fewer
/// endpoints by now.
fn picks(origin: Origin, scope: Scope, endpoints: u16) -> [Vec<Expression>; 2] {
    [endpoints, 1].map(|modulus| {
        let mut pick = load_front(1, origin == Origin::NodePort);
        pick.push(Expression::Random { to: reg(4), modulus: modulus.into(), offset: scope.first_slot() });
        pick
    })
}

/// What travelled in the priority is not to be seen behind the table.
fn reset_priority() -> Vec<Expression> {
    vec![Expression::Immediate { to: reg(8), value: vec![0; 4] }, Expression::SetPriority { from: reg(8) }]
}

/// Sends the packet to the endpoint whose front is in registers 1 to 3 and whose slot or number is in register 4.
fn to_endpoint() -> Vec<Expression> {
    vec![Expression::Lookup { map: "endpoints".into(), key: reg(1), to: reg(6) }, dnat(6)]
}

/// A client that is known goes to the endpoint with its number, if there is still one; any other gets a number.
fn sticky(batch: &mut Batch, chain: &str, origin: Origin, picks: [Vec<Expression>; 2], seconds: u32) {
    let (front, timeout) = (load_front(1, origin == Origin::NodePort), Some(Duration::from_secs(seconds.into())));
    let client = vec![Expression::Payload { base: PayloadBase::Network, offset: SOURCE, len: 4, to: reg(0) }];
    let number = vec![Expression::Meta { key: MetaKey::Priority, to: reg(4) }];
    let set_number = |map: &str, key: u8| vec![Expression::Lookup { map: map.into(), key: reg(key), to: reg(5) }, Expression::SetPriority { from: reg(5) }];
    let go = |remember: bool| {
        let find = Expression::Lookup { map: "endpoints".into(), key: reg(1), to: reg(6) };
        let update = remember.then(|| Expression::Update { set: "affinity".into(), key: reg(0), data: Some(reg(4)), timeout });
        [client.clone(), front.clone(), number.clone(), vec![find], update.into_iter().collect(), reset_priority(), vec![dnat(6)]].concat()
    };
    batch.rule(chain, [client.clone(), front.clone(), set_number("affinity", 0)].concat());
    batch.rule(chain, go(true));
    let forget = vec![Expression::Forget { set: "affinity".into(), key: reg(0), data: Some(reg(4)) }];
    batch.rule(chain, [client.clone(), front.clone(), number.clone(), forget].concat());
    for pick in picks {
        batch.rule(chain, [pick, set_number("picks", 1)].concat());
        batch.rule(chain, go(true));
        // When no more clients can be remembered.
        batch.rule(chain, go(false));
    }
}

/// The changes that make the chain of a firewall, or make it anew.
pub(super) fn firewall(batch: &mut Batch, firewall: &Firewall) {
    let chain = firewall.chain();
    batch.push(Change::AddChain(Chain::regular(&chain))).push(Change::FlushChain(chain.clone()));
    for net in &firewall.0 {
        let mut rule = if_address_within(SOURCE, net, Compare::Equal);
        rule.push(Expression::Verdict(Verdict::Return));
        batch.rule(&chain, rule);
    }
    batch.rule(&chain, vec![Expression::Verdict(Verdict::Drop)]);
}

/// Sets whose elements are entries, those first that others refer to.
pub(super) const ENTRY_SETS: [&str; 7] = ["endpoints", "picks", "hairpin", "firewalls", "services-for-outsiders", "services", "cluster-ips"];
