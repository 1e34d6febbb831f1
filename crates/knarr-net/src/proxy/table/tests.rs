use std::net::Ipv4Addr;

use knarr_sys::nft::{KernelNft, RecordedNft};

use super::super::compile::{OwnFronts, compile};
use super::super::endpoints::NodeView;
use super::*;
use crate::pods::Protocol;
use crate::testbed::Machine;
use crate::view::{Endpoint, EndpointPort, Service, ServicePort, Slice};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("a", name)
}

fn service(number: u8) -> Service {
    let port = ServicePort { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    Service { cluster_ips: vec![Ipv4Addr::new(10, 96, 0, number).into()], ports: vec![port], ..Service::default() }
}

fn slice(endpoints: &[u8]) -> Slice {
    let endpoint = |last: &u8| Endpoint {
        address: Ipv4Addr::new(10, 244, 0, *last).into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: "".into(),
        node_name: "here".into(),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    let ports = vec![EndpointPort { name: "p".into(), protocol: Protocol::Tcp, port: 80 }];
    Slice { service: "s".into(), ports, endpoints: endpoints.iter().map(endpoint).collect(), triggered_at: None }
}

fn compiled(table: &Table, name: &str, service: &Service, endpoints: &[u8]) -> (ServiceKey, Compiled) {
    let node = NodeView { name: "here".into(), ..NodeView::default() };
    let before = table.compiled(&key(name)).cloned().unwrap_or_default();
    (key(name), compile(service, &[&slice(endpoints)], &node, &OwnFronts::new(), &before))
}

fn change(table: &mut Table, name: &str, service: &Service, endpoints: &[u8]) {
    let new = compiled(table, name, service, endpoints);
    table.sync(vec![new]).unwrap();
}

fn cidrs() -> Vec<IpNet> {
    vec!["10.244.0.0/16".parse().unwrap()]
}

/// A recording door that stays readable while the table has it.
#[derive(Clone, Default)]
struct Shared(std::sync::Arc<parking_lot::Mutex<RecordedNft>>);

impl Nft for Shared {
    fn apply(&mut self, batch: &Batch) -> Result<()> {
        self.0.lock().apply(batch)
    }
    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>> {
        self.0.lock().elements(family, table, set)
    }
    fn table(&mut self, family: Family, table: &str) -> Result<Option<knarr_sys::nft::TableInfo>> {
        self.0.lock().table(family, table)
    }
    fn tables(&mut self, family: Family) -> Result<Vec<String>> {
        self.0.lock().tables(family)
    }
}

impl Shared {
    /// The last batch: numbers of elements by what was done.
    fn last(&self) -> Vec<String> {
        let line = |c: &Change| match c {
            Change::AddElements { set, elements } => format!("+{} {set}", elements.len()),
            Change::DeleteElements { set, elements } => format!("-{} {set}", elements.len()),
            Change::AddChain(c) => format!("chain {}", c.name),
            Change::FlushChain(_) | Change::AddRule { .. } => String::new(),
            other => format!("{other:?}"),
        };
        self.0.lock().batches.last().unwrap().changes.iter().map(line).filter(|l| !l.is_empty()).collect()
    }

    fn all(&mut self) -> Vec<(String, Vec<Element>)> {
        layout::ENTRY_SETS.iter().map(|set| (set.to_string(), self.elements(Family::Ip, "t", set).unwrap())).collect()
    }
}

fn recorded() -> (Shared, Table) {
    let nft = Shared::default();
    let mut table = Table::new(Box::new(nft.clone()), "t", &cidrs());
    table.resync().unwrap();
    (nft, table)
}

#[test]
fn a_change_touches_only_the_elements_concerned() {
    let (nft, mut table) = recorded();
    change(&mut table, "s", &service(1), &[1, 2]);
    assert_eq!(nft.last(), ["chain address-cluster-masquerade-outsiders-2", "+1 actions", "+2 endpoints", "+2 hairpin", "+1 services", "+1 cluster-ips"]);
    change(&mut table, "s", &service(1), &[1, 2, 3]);
    assert_eq!(nft.last(), ["-1 services", "chain address-cluster-masquerade-outsiders-3", "+1 actions", "+1 endpoints", "+1 hairpin", "+1 services"]);
    change(&mut table, "s", &service(1), &[2, 3]);
    assert_eq!(nft.last(), ["-1 services", "-1 hairpin", "-2 endpoints", "+1 endpoints", "+1 services"]);
    change(&mut table, "s", &service(1), &[4, 3]);
    assert_eq!(nft.last(), ["-1 hairpin", "-1 endpoints", "+1 endpoints", "+1 hairpin"]);
    let before = nft.0.lock().batches.len();
    change(&mut table, "s", &service(1), &[3, 4]);
    assert!(nft.0.lock().batches[before..].iter().all(Batch::is_empty));
    table.sync(vec![(key("s"), Compiled::default())]).unwrap();
    assert!(nft.clone().all().iter().all(|(_, elements)| elements.is_empty()));
    assert!(table.claims.is_empty() && table.counts.is_empty() && table.compiled.is_empty());
}

fn at(elements: Vec<Element>, address: [u8; 4]) -> Vec<Element> {
    elements.into_iter().filter(|e| e.key[..4] == address).collect()
}

#[test]
fn an_external_ip_goes_to_the_first_who_wanted_it_and_then_to_the_next() {
    let (mut nft, mut table) = recorded();
    let external = |number| Service { external_ips: vec!["192.0.2.9".parse().unwrap()], ..service(number) };
    let mut theirs = || at(nft.elements(Family::Ip, "t", "endpoints").unwrap(), [192, 0, 2, 9]);
    change(&mut table, "z", &external(1), &[1]);
    let first = theirs();
    change(&mut table, "a", &external(2), &[2, 3]);
    assert_eq!(theirs(), first);
    table.sync(vec![(key("z"), Compiled::default())]).unwrap();
    assert_eq!(theirs().len(), 2);
}

#[test]
fn nobody_takes_a_cluster_ip_by_an_external_ip() {
    let (mut nft, mut table) = recorded();
    let thief = Service { external_ips: vec!["10.96.0.1".parse().unwrap()], ..service(2) };
    change(&mut table, "a-thief", &thief, &[9]);
    change(&mut table, "victim", &service(1), &[1, 2]);
    let mut victims = || at(nft.elements(Family::Ip, "t", "endpoints").unwrap(), [10, 96, 0, 1]);
    let right = victims();
    assert_eq!(right.len(), 2);
    change(&mut table, "a-thief", &thief, &[8]);
    assert_eq!(victims(), right);
}

#[test]
fn after_a_failure_the_next_change_repairs_everything() {
    let (mut nft, mut table) = recorded();
    change(&mut table, "s", &service(1), &[1]);
    nft.0.lock().failure = Some(nix::errno::Errno::ENOMEM);
    let new = compiled(&table, "s", &service(1), &[1, 2]);
    assert!(table.sync(vec![new]).is_err());
    assert!(!table.is_intact().unwrap());
    change(&mut table, "t", &service(2), &[3]);
    assert!(table.is_intact().unwrap());
    assert_eq!(nft.elements(Family::Ip, "t", "endpoints").unwrap().len(), 3);
}

/// Many random changes, then: what the kernel holds is what a fresh start would write.
#[test]
fn the_sum_of_small_changes_is_the_whole() {
    let machine = Machine::new();
    machine.run(|| {
        let env = knarr_core::clock::Env { rng: Arc::new(knarr_core::clock::SeededRng::from_seed(7)), ..knarr_core::clock::Env::system() };
        let mut table = Table::new(Box::new(KernelNft::open().unwrap()), "t", &cidrs());
        for _ in 0..300 {
            let number = env.below(6) as u8;
            let name = format!("s{number}");
            let mut service = service(number);
            service.ports[0].node_port = if env.below(2) == 0 { 0 } else { 30_000 + env.below(4) as u16 };
            service.affinity_seconds = (env.below(3) == 0).then_some(60);
            service.external_local = env.below(3) == 0;
            service.external_ips = (0..env.below(3)).map(|_| Ipv4Addr::new(192, 0, 2, env.below(3) as u8).into()).collect();
            service.load_balancer_ips = (0..env.below(2)).map(|_| Ipv4Addr::new(198, 51, 100, env.below(3) as u8).into()).collect();
            service.source_ranges = (0..env.below(2)).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect();
            let endpoints: Vec<u8> = (0..env.below(6)).map(|_| env.below(8) as u8).collect();
            let new = if env.below(5) == 0 { (key(&name), Compiled::default()) } else { compiled(&table, &name, &service, &endpoints) };
            table.sync(vec![new]).unwrap();
        }
        let mut kernel = KernelNft::open().unwrap();
        let desired = table.desired();
        for set in layout::ENTRY_SETS {
            let found: BTreeMap<_, _> = kernel.elements(Family::Ip, "t", set).unwrap().into_iter().map(|e| (e.key.clone(), e)).collect();
            assert_eq!(found, desired.elements.get(set).cloned().unwrap_or_default(), "{set}");
        }
    });
}

#[test]
fn a_restart_keeps_a_right_table_and_repairs_a_wrong_one() {
    let machine = Machine::new();
    machine.run(|| {
        let mut kernel = KernelNft::open().unwrap();
        let start = |endpoints: &[u8]| {
            let mut table = Table::new(Box::new(KernelNft::open().unwrap()), "t", &cidrs());
            change(&mut table, "s", &service(1), endpoints);
            table
        };
        let handle = |k: &mut KernelNft| k.table(Family::Ip, "t").unwrap().unwrap().handle;
        start(&[1, 2, 3]);
        let before = (handle(&mut kernel), kernel.elements(Family::Ip, "t", "endpoints").unwrap().len());
        start(&[1, 2, 3]);
        assert_eq!((handle(&mut kernel), kernel.elements(Family::Ip, "t", "endpoints").unwrap().len()), before);
        let mut third = start(&[1]);
        assert_eq!(kernel.elements(Family::Ip, "t", "endpoints").unwrap().len(), 1);
        assert_eq!(kernel.elements(Family::Ip, "t", "actions").unwrap().len(), 3);
        assert_eq!(handle(&mut kernel), before.0);
        assert!(third.is_intact().unwrap());
        kernel.apply(Batch::new(Family::Ip, "t").remove_table()).unwrap();
        assert!(!third.is_intact().unwrap());
        third.resync().unwrap();
        assert_eq!(kernel.elements(Family::Ip, "t", "endpoints").unwrap().len(), 1);
        super::super::remove("t").unwrap();
        assert!(kernel.tables(Family::Ip).unwrap().is_empty());
    });
}
