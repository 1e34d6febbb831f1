use super::super::expression::CtKey;
use super::super::{Chain, ChainKind, Change, Compare, DataType, Expression, Hook, MetaKey, PayloadBase, Register, RejectWith, Set, SetFlags};
use super::*;
use crate::netlink::NetNs;

fn inside<T: Send>(work: impl FnOnce(&mut KernelNft) -> T + Send) -> T {
    NetNs::anonymous().unwrap().run(|| work(&mut KernelNft::open().unwrap())).unwrap()
}

fn tuple(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[6, 0, 0, 0], &80_u16.to_be_bytes(), &[0, 0]].concat()
}

/// Every kind of set and every expression, in one table.
fn everything() -> Batch {
    use DataType::{Ipv4Address, Mark, Protocol, Service};
    let r = Register;
    let mut batch = Batch::new(Family::Ip, "test");
    batch.recreate_table("stamp 1");
    let tuple = [Ipv4Address, Protocol, Service];
    batch.push(Change::AddSet(Set::map("services", &tuple, &[Mark])));
    batch.push(Change::AddSet(Set::map("endpoints", &[Ipv4Address, Protocol, Service, Mark], &[Ipv4Address, Service])));
    batch.push(Change::AddSet(Set::new("pairs", &[Ipv4Address, Ipv4Address])));
    let dynamic = SetFlags { timeout: true, dynamic: true, interval: false };
    batch.push(Change::AddSet(Set { flags: dynamic, size: Some(1000), ..Set::map("affinity", &[Ipv4Address, Mark], &[Ipv4Address, Service]) }));
    batch.push(Change::AddSet(Set { flags: SetFlags { interval: true, ..SetFlags::default() }, ..Set::new("networks", &[Ipv4Address]) }));
    batch.push(Change::AddChain(Chain::regular("target")));
    batch.push(Change::AddSet(Set::verdict_map("actions", &[Mark])));
    batch.push(Change::AddChain(Chain::base("in", ChainKind::Nat, Hook::Prerouting, -100)));
    batch.push(Change::AddChain(Chain::base("out", ChainKind::Nat, Hook::Postrouting, 100)));
    batch.push(Change::AddChain(Chain::base("raw", ChainKind::Filter, Hook::Prerouting, -300)));
    batch.rule(
        "in",
        vec![
            Expression::AddressType { of_source: false, to: r(0) },
            Expression::Compare { register: r(0), op: Compare::Equal, value: 2_u32.to_ne_bytes().to_vec() },
            Expression::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: r(0) },
            Expression::Meta { key: MetaKey::Protocol, to: r(1) },
            Expression::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: r(2) },
            Expression::Lookup { map: "services".into(), key: r(0), to: r(4) },
            Expression::Dispatch { map: "actions".into(), key: r(4) },
        ],
    );
    batch.rule(
        "target",
        vec![
            Expression::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: r(0) },
            Expression::Immediate { to: r(1), value: 1_u32.to_ne_bytes().to_vec() },
            Expression::Random { to: r(3), modulus: 5, offset: 2 },
            Expression::Hash { from: r(0), len: 4, to: r(3), modulus: 5, seed: 1, offset: 0 },
            Expression::Immediate { to: r(2), value: 1_u32.to_ne_bytes().to_vec() },
            Expression::Lookup { map: "endpoints".into(), key: r(0), to: r(4) },
            Expression::Update { set: "affinity".into(), key: r(0), data: Some(r(4)), timeout: Some(Duration::from_secs(10)) },
            Expression::Counter,
            Expression::Dnat { ipv6: false, address: r(4), port: Some(r(5)) },
        ],
    );
    batch.rule(
        "target",
        vec![
            Expression::Meta { key: MetaKey::Protocol, to: r(0) },
            Expression::Compare { register: r(0), op: Compare::Equal, value: vec![6] },
            Expression::Reject(RejectWith::TcpReset),
        ],
    );
    batch.rule("target", vec![Expression::Limit { packets: 10, per: Duration::from_secs(1), burst: 5 }, Expression::Reject(RejectWith::PortUnreachable)]);
    batch.rule(
        "out",
        vec![
            Expression::Payload { base: PayloadBase::Network, offset: 12, len: 8, to: r(0) },
            Expression::In { set: "pairs".into(), key: r(0), inverted: false },
            Expression::In { set: "networks".into(), key: r(0), inverted: true },
            Expression::Meta { key: MetaKey::Mark, to: r(2) },
            Expression::Bitwise { from: r(2), to: r(2), mask: vec![0xff; 4], xor: 0x4000_u32.to_ne_bytes().to_vec() },
            Expression::SetMark { from: r(2) },
            Expression::Masquerade { random: true },
        ],
    );
    batch.rule("raw", vec![Expression::Ct { key: CtKey::State, to: r(0) }, Expression::NoTrack]);
    batch.rule("raw", vec![Expression::Verdict(Verdict::Drop)]);
    batch.add_elements(
        "actions",
        vec![Element::verdict(1_u32.to_ne_bytes().to_vec(), Verdict::Goto("target".into())), Element::verdict(2_u32.to_ne_bytes().to_vec(), Verdict::Drop)],
    );
    let range_end = Element { interval_end: true, ..Element::key(vec![10, 1, 0, 0]) };
    batch.add_elements("networks", vec![Element::key(vec![10, 0, 0, 0]), range_end]);
    batch
}

#[test]
fn the_kernel_takes_every_set_and_expression_and_tells_elements_back() {
    inside(|nft| {
        assert_eq!(nft.table(Family::Ip, "test").unwrap(), None);
        nft.apply(&everything()).unwrap();
        let first = nft.table(Family::Ip, "test").unwrap().unwrap();
        assert_eq!(first.stamp, "stamp 1");
        let mut actions = nft.elements(Family::Ip, "test", "actions").unwrap();
        actions.sort();
        assert_eq!(actions[0].data, Some(Data::Verdict(Verdict::Goto("target".into()))));
        assert_eq!(nft.elements(Family::Ip, "test", "networks").unwrap().iter().filter(|e| e.interval_end).count(), 1);
        nft.apply(&everything()).unwrap();
        assert_ne!(nft.table(Family::Ip, "test").unwrap().unwrap().handle, first.handle);
        nft.apply(Batch::new(Family::Ip, "test").remove_table()).unwrap();
        assert_eq!(nft.tables(Family::Ip).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn twenty_thousand_elements_go_in_with_one_batch() {
    inside(|nft| {
        nft.apply(&everything()).unwrap();
        let elements: Vec<_> = (0..20_000).map(|i| Element::value(tuple(i), 1_u32.to_ne_bytes().to_vec())).collect();
        nft.apply(Batch::new(Family::Ip, "test").add_elements("services", elements.clone())).unwrap();
        let mut found = nft.elements(Family::Ip, "test", "services").unwrap();
        found.sort();
        let differs = found.iter().zip(&elements).find(|(f, e)| f != e);
        assert!(found == elements, "{} found, first difference: {differs:?}", found.len());
        nft.apply(Batch::new(Family::Ip, "test").delete_elements("services", elements)).unwrap();
        assert!(nft.elements(Family::Ip, "test", "services").unwrap().is_empty());
    });
}

#[test]
fn a_refused_change_is_named_and_leaves_nothing_of_its_batch() {
    inside(|nft| {
        nft.apply(&everything()).unwrap();
        let one = Element::value(tuple(1), 1_u32.to_ne_bytes().to_vec());
        let mut batch = Batch::new(Family::Ip, "test");
        batch.add_elements("services", vec![one.clone()]).delete_elements("services", vec![Element::key(tuple(2))]);
        let error = nft.apply(&batch).unwrap_err();
        assert!(error.is_absent() && error.to_string().contains("table test: delete 1 elements from services"), "{error}");
        assert!(nft.elements(Family::Ip, "test", "services").unwrap().is_empty());
        nft.apply(Batch::new(Family::Ip, "test").add_elements("services", vec![one])).unwrap();
    });
}

#[test]
fn a_set_goes_with_the_last_rule_that_used_it() {
    inside(|nft| {
        nft.apply(&everything()).unwrap();
        let delete = |set: &str| Change::DeleteSet(set.into());
        assert!(nft.apply(Batch::new(Family::Ip, "test").push(delete("pairs"))).is_err());
        nft.apply(Batch::new(Family::Ip, "test").push(Change::FlushChain("out".into())).push(delete("pairs"))).unwrap();
        assert!(nft.elements(Family::Ip, "test", "pairs").unwrap_err().is_absent());
    });
}

#[test]
fn an_element_is_exchanged_within_one_batch() {
    inside(|nft| {
        nft.apply(&everything()).unwrap();
        let with = |mark: u32| vec![Element::value(tuple(1), mark.to_ne_bytes().to_vec())];
        nft.apply(Batch::new(Family::Ip, "test").add_elements("services", with(1))).unwrap();
        nft.apply(Batch::new(Family::Ip, "test").delete_elements("services", with(1)).add_elements("services", with(2))).unwrap();
        assert_eq!(nft.elements(Family::Ip, "test", "services").unwrap(), with(2));
    });
}
