//! Text in, text out: a Service and its endpoints become lines.

use super::*;
use crate::view::{Endpoint, EndpointPort};

fn node() -> NodeView {
    NodeView { name: "here".into(), zone: String::new(), ips: vec!["192.0.2.1".parse().unwrap()] }
}

fn web() -> Service {
    let port = ServicePort { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    Service { cluster_ips: vec!["10.96.0.5".parse().unwrap()], ports: vec![port], ..Service::default() }
}

fn slice(endpoints: &[(u8, &str)]) -> Slice {
    let endpoint = |(last, node): &(u8, &str)| Endpoint {
        address: Ipv4Addr::new(10, 244, 0, *last).into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: "".into(),
        node_name: (*node).into(),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    let ports = vec![EndpointPort { name: "p".into(), protocol: Protocol::Tcp, port: 8080 }];
    Slice { service: "s".into(), ports, endpoints: endpoints.iter().map(endpoint).collect(), triggered_at: None }
}

fn line((key, value): &Entry) -> String {
    let number = |n: &u32| match n {
        n if n & 1 << 31 != 0 => format!("local {}", n & !(1 << 31)),
        n if n & 1 << 30 != 0 => "sticky".to_owned(),
        n => n.to_string(),
    };
    let key = match key {
        Key::ClusterIp(a) => format!("cluster-ip {a}"),
        Key::Front(f) => format!("to {f:?}"),
        Key::OutsideFront(f) => format!("outsiders to {f:?}"),
        Key::Endpoint(f, n) => format!("endpoint {f:?} {}", number(n)),
        Key::Pick(f, n) => format!("pick {f:?} {}", number(n)),
        Key::Hairpin(a) => format!("hairpin {a}"),
        Key::Firewall(f) => format!("firewall {f:?}"),
    };
    match value {
        Value::Nothing => key,
        Value::Action(a) => format!("{key}: {}", a.chain().unwrap_or_else(|| format!("{a:?}").to_lowercase())),
        Value::Endpoint(e) => format!("{key}: {e}"),
        Value::Number(n) => format!("{key}: {}", number(n)),
        Value::Firewall(f) => format!("{key}: {}", f.chain()),
    }
}

fn all_lines(compiled: &Compiled) -> Vec<String> {
    let counted = compiled.counted.iter().map(|key| line(&(*key, Value::Nothing)));
    counted.chain(compiled.fronts.values().flat_map(|f| f.entries.iter().map(line))).collect()
}

fn lines(service: &Service, endpoints: &[(u8, &str)]) -> Vec<String> {
    all_lines(&compile(service, &[&slice(endpoints)], &node(), &OwnFronts::new(), &Compiled::default()))
}

fn check(service: &Service, endpoints: &[(u8, &str)], wanted: &[&str]) {
    assert_eq!(lines(service, endpoints), wanted);
}

#[test]
fn a_cluster_ip_has_one_entry_and_one_for_each_endpoint() {
    check(
        &web(),
        &[(2, "there"), (1, "here")],
        &[
            "cluster-ip 10.96.0.5",
            "hairpin 10.244.0.1",
            "to 10.96.0.5:80/Tcp: address-cluster-masquerade-outsiders-2",
            "endpoint 10.96.0.5:80/Tcp 0: 10.244.0.1:8080",
            "endpoint 10.96.0.5:80/Tcp 1: 10.244.0.2:8080",
        ],
    );
}

#[test]
fn without_endpoints_a_service_is_refused_on_every_address() {
    let mut service = Service { external_ips: vec!["192.0.2.9".parse().unwrap()], ..web() };
    service.ports[0].node_port = 30080;
    check(&service, &[], &["cluster-ip 10.96.0.5", "to 0.0.0.0:30080/Tcp: reject", "to 10.96.0.5:80/Tcp: reject", "to 192.0.2.9:80/Tcp: reject"]);
}

#[test]
fn a_node_port_is_filed_under_any_address() {
    let mut service = web();
    service.ports[0].node_port = 30080;
    check(
        &service,
        &[(1, "there")],
        &[
            "cluster-ip 10.96.0.5",
            "to 0.0.0.0:30080/Tcp: nodeport-cluster-masquerade-everybody-1",
            "endpoint 0.0.0.0:30080/Tcp 0: 10.244.0.1:8080",
            "to 10.96.0.5:80/Tcp: address-cluster-masquerade-outsiders-1",
            "endpoint 10.96.0.5:80/Tcp 0: 10.244.0.1:8080",
        ],
    );
}

#[test]
fn outsiders_of_a_local_policy_go_to_local_endpoints_or_nowhere() {
    let service = |here| {
        let service = Service { load_balancer_ips: vec!["192.0.2.1".parse().unwrap()], external_local: true, ..web() };
        let all = lines(&service, &[(1, here), (2, "there")]);
        all.into_iter().filter(|l| l.contains("to 192.0.2.1:80/Tcp: ") || l.contains("local 0")).collect::<Vec<_>>()
    };
    assert_eq!(
        service("here"),
        [
            "to 192.0.2.1:80/Tcp: address-cluster-masquerade-outsiders-2",
            "outsiders to 192.0.2.1:80/Tcp: address-local-masquerade-nobody-1",
            "endpoint 192.0.2.1:80/Tcp local 0: 10.244.0.1:8080",
        ]
    );
    assert_eq!(service("there"), ["to 192.0.2.1:80/Tcp: address-cluster-masquerade-outsiders-2", "outsiders to 192.0.2.1:80/Tcp: drop"]);
}

#[test]
fn an_internal_local_policy_without_local_endpoints_is_silent() {
    let service = Service { internal_local: true, ..web() };
    check(&service, &[(1, "there")], &["cluster-ip 10.96.0.5", "to 10.96.0.5:80/Tcp: drop"]);
}

#[test]
fn sticky_services_pick_numbers_that_clients_are_remembered_with() {
    let service = Service { affinity_seconds: Some(60), ..web() };
    check(
        &service,
        &[(1, "there")],
        &[
            "cluster-ip 10.96.0.5",
            "to 10.96.0.5:80/Tcp: address-cluster-masquerade-outsiders-1-sticky-60",
            "endpoint 10.96.0.5:80/Tcp sticky: 10.244.0.1:8080",
            "pick 10.96.0.5:80/Tcp 0: sticky",
        ],
    );
}

#[test]
fn a_sticky_number_depends_on_nobody_else() {
    let at = |last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 80);
    let (few, many) = (sticky_numbers(&[at(7)]), sticky_numbers(&(0..=255).map(at).collect::<Vec<_>>()));
    assert_eq!(few[&at(7)], many[&at(7)]);
    assert_eq!(many.values().collect::<BTreeSet<_>>().len(), 256);
}

#[test]
fn source_ranges_guard_load_balancer_addresses_only() {
    let ranges = |net: &str| Service {
        source_ranges: vec![net.parse().unwrap()],
        load_balancer_ips: vec!["198.51.100.1".parse().unwrap()],
        external_ips: vec!["192.0.2.9".parse().unwrap()],
        ..web()
    };
    let firewall = |net| lines(&ranges(net), &[(1, "there")]).into_iter().filter(|l| l.starts_with("firewall")).collect::<Vec<_>>();
    assert_eq!(firewall("10.0.0.0/8"), ["firewall 198.51.100.1:80/Tcp: sources-10.0.0.0_8"]);
    assert_eq!(firewall("192.0.2.0/24"), ["firewall 198.51.100.1:80/Tcp: sources-192.0.2.0_24-198.51.100.1_32"]);
}

#[test]
fn services_that_are_not_proxied_have_no_entries() {
    for service in [
        Service { headless: true, cluster_ips: Vec::new(), ..web() },
        Service { foreign: true, ..web() },
        Service { service_type: ServiceType::ExternalName, ..web() },
    ] {
        check(&service, &[(1, "here")], &[]);
    }
}

#[test]
fn a_front_that_the_node_answers_itself_gets_no_entry() {
    let own = OwnFronts::from([(Ipv4Addr::new(10, 96, 0, 5), Protocol::Tcp, 80)]);
    let compiled = compile(&web(), &[&slice(&[(1, "there")])], &node(), &own, &Compiled::default());
    assert!(all_lines(&compiled).is_empty());
}

#[test]
fn endpoints_keep_their_slots_when_others_come_and_go() {
    let at = |last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 80);
    let all = |lasts: &[u8]| lasts.iter().map(|l| at(*l)).collect::<Vec<_>>();
    for (old, wanted, slots) in [
        (&[][..], &[1, 2][..], &[1, 2][..]),
        (&[1, 2, 3], &[1, 3], &[1, 3]),
        (&[1, 2, 3], &[2, 3], &[3, 2]),
        (&[3, 2], &[1, 2, 3], &[3, 2, 1]),
        (&[1, 2, 3], &[4, 5, 6], &[4, 5, 6]),
        (&[1, 2], &[], &[]),
        (&[], &[1, 2, 3, 4], &[1, 2, 3]),
    ] {
        assert_eq!(keep_slots(&all(old), &all(wanted), 3), all(slots), "{old:?} {wanted:?}");
    }
}
