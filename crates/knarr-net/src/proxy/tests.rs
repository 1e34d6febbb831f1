//! Real packets to Services, through the whole proxy: objects in a fake API, rules in namespaces that the tests make.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::fake::FakeApi;
use knarr_core::{Value, json};
use knarr_sys::nft::{Batch, Element, Family, KernelNft, Nft};

use super::*;
use crate::pods::PodNetwork;
use crate::testbed::{Machine, Pod, say};

/// A node with two pods and a machine outside, on one cable.
struct World {
    runtime: tokio::runtime::Runtime,
    api: Arc<FakeApi>,
    node: Machine,
    outside: Machine,
    network: PodNetwork,
    proxy: ServiceProxy,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(configure: impl FnOnce(&mut Config) + Send) -> Self {
        let (node, outside, folder) = (Machine::new(), Machine::new(), tempfile::tempdir().unwrap());
        // As in an agent's process, all threads are in the node's namespace.
        let home = node.netns.try_clone().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().on_thread_start(move || home.enter().unwrap()).build().unwrap();
        node.cable(&outside, "cable", "192.0.2.1/24", "192.0.2.2/24");
        outside.route("10.96.0.0/16", "192.0.2.1");
        node.route("0.0.0.0/0", "192.0.2.2");
        let cidr: IpNet = "10.244.0.0/16".parse().unwrap();
        let network = node.run(|| PodNetwork::new(crate::pods::Config::new(folder.path(), &[cidr]))).unwrap();
        network.set_pod_cidr("10.244.1.0/24".parse().unwrap()).unwrap();
        let (env, stop) = (Env::system(), CancellationToken::new());
        let api = FakeApi::new(env.clone());
        api.seed(&object::<Node>(json!({"metadata": {"name": "here"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})));
        let mut config = Config::new("here", &[cidr]);
        configure(&mut config);
        let proxy = node.run(|| {
            let _guard = runtime.enter();
            let informers = SharedInformers::new(api.client(), env.clone(), stop.clone());
            start(config, &informers, env, stop.clone()).unwrap()
        });
        Self { runtime, api, node, outside, network, proxy, stop, _folder: folder }
    }

    fn pod(&self, name: &'static str) -> Pod {
        let pod = self.node.pod(&self.network, name);
        pod.serve_tcp(8080, name);
        pod.serve_udp(5353, name);
        pod
    }

    /// Makes a change and waits until the kernel has it.
    fn change(&self, change: impl FnOnce(&FakeApi)) {
        let mut synced = self.proxy.synced();
        self.runtime.block_on(async {
            synced.wait_for(|s| s.times > 0).await.unwrap();
            synced.borrow_and_update();
            change(&self.api);
            tokio::time::timeout(Duration::from_secs(5), synced.changed()).await.expect("a sync").unwrap();
        });
    }

    /// A Service with TCP 80 and UDP 53 to the pods' 8080 and 5353, and its slice.
    fn service(&self, spec: Value, pods: &[&Pod]) {
        self.change(|api| api.seed(&slice(pods)));
        self.change(|api| api.seed(&service(spec)));
    }

    fn set_endpoints(&self, pods: &[&Pod]) {
        self.change(|api| api.change::<EndpointSlice>("a", "s-1", |s| *s = EndpointSlice { metadata: s.metadata.clone(), ..slice(pods) }));
    }

    /// Who answers, over many connections.
    fn answers(&self, from: &Machine, to: &str) -> BTreeSet<String> {
        (0..30).map(|_| from.ask(to).unwrap()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn service(spec: Value) -> Service {
    let mut all = json!({"metadata": {"namespace": "a", "name": "s"}, "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "ports": [{"name": "tcp", "protocol": "TCP", "port": 80}, {"name": "udp", "protocol": "UDP", "port": 53}]}});
    for (key, value) in spec.as_object().unwrap() {
        if key == "status" { all[key] = value.clone() } else { all["spec"][key] = value.clone() }
    }
    object(all)
}

fn slice(pods: &[&Pod]) -> EndpointSlice {
    let endpoints: Vec<_> = pods.iter().map(|p| json!({"addresses": [p.ip], "nodeName": "here", "conditions": {"ready": true}})).collect();
    object(json!({"metadata": {"namespace": "a", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "tcp", "protocol": "TCP", "port": 8080}, {"name": "udp", "protocol": "UDP", "port": 5353}]}))
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

#[test]
fn a_cluster_ip_leads_to_all_endpoints_from_pods_the_node_and_outside() {
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    world.service(json!({}), &[&a, &b]);
    assert_eq!(world.answers(&client, "10.96.0.5:80"), set(&["a 10.244.1.4", "b 10.244.1.4"]));
    assert_eq!(world.answers(&world.node, "10.96.0.5:80"), set(&["a 10.244.1.1", "b 10.244.1.1"]));
    assert_eq!(world.answers(&world.outside, "10.96.0.5:80"), set(&["a 10.244.1.1", "b 10.244.1.1"]));
    assert_eq!(world.answers(&a, "10.96.0.5:80"), set(&["a 10.244.1.1", "b 10.244.1.2"]));
    assert!(client.ask_udp("10.96.0.5:53").is_ok());
}

#[test]
fn a_service_without_endpoints_and_an_unknown_port_refuse_at_once() {
    let world = World::new();
    let client = world.pod("client");
    world.service(json!({"type": "NodePort", "ports": [{"name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30080}, {"name": "udp", "protocol": "UDP", "port": 53}]}), &[]);
    for _ in 0..20 {
        assert_eq!(client.ask("10.96.0.5:80"), Err(ErrorKind::ConnectionRefused));
    }
    assert_eq!(client.ask("10.96.0.5:81"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(client.ask_udp("10.96.0.5:53"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(world.node.ask("10.96.0.5:80"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(world.outside.ask("192.0.2.1:30080"), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn a_node_port_answers_on_the_nodes_addresses_and_on_localhost() {
    let world = World::new();
    let (a, client) = (world.pod("a"), world.pod("client"));
    world.service(json!({"type": "NodePort", "ports": [{"name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30080}]}), &[&a]);
    assert_eq!(world.outside.ask("192.0.2.1:30080").unwrap(), "a 10.244.1.1");
    assert_eq!(world.node.ask("127.0.0.1:30080").unwrap(), "a 10.244.1.1");
    assert_eq!(world.node.ask("192.0.2.1:30080").unwrap(), "a 10.244.1.1");
    assert_eq!(client.ask("192.0.2.1:30080").unwrap(), "a 10.244.1.1");
    assert_eq!(a.ask("192.0.2.1:30080").unwrap(), "a 10.244.1.1");
}

#[test]
fn the_local_policy_keeps_the_clients_address_and_this_nodes_endpoints() {
    let world = World::new();
    let (a, client) = (world.pod("a"), world.pod("client"));
    let ports = json!([{"name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30080}]);
    world.service(json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports}), &[&a]);
    assert_eq!(world.outside.ask("192.0.2.1:30080").unwrap(), "a 192.0.2.2");
    world.change(|api| {
        api.change::<EndpointSlice>("a", "s-1", |s| s.endpoints.iter_mut().flatten().for_each(|e| e.node_name = Some("elsewhere".into())));
    });
    assert_eq!(world.outside.ask_briefly("192.0.2.1:30080"), Err(ErrorKind::TimedOut));
    assert_eq!(client.ask("192.0.2.1:30080").unwrap(), "a 10.244.1.3");
}

#[test]
fn external_and_load_balancer_addresses_lead_in_and_source_ranges_keep_out() {
    let world = World::new();
    let a = world.pod("a");
    world.outside.route("198.51.100.0/24", "192.0.2.1");
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"ip": "192.0.2.1"}]}});
    world.service(json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.9"], "status": status}), &[&a]);
    for address in ["198.51.100.9:80", "198.51.100.7:80", "192.0.2.1:80"] {
        assert_eq!(world.outside.ask(address).unwrap(), "a 10.244.1.1", "{address}");
    }
    world.change(|api| api.change::<Service>("a", "s", |s| s.spec.as_mut().unwrap().load_balancer_source_ranges = Some(vec!["203.0.113.0/24".into()])));
    assert_eq!(world.outside.ask_briefly("198.51.100.7:80"), Err(ErrorKind::TimedOut));
    assert_eq!(world.outside.ask("198.51.100.9:80").unwrap(), "a 10.244.1.1");
    world.change(|api| api.change::<Service>("a", "s", |s| s.spec.as_mut().unwrap().load_balancer_source_ranges = Some(vec!["192.0.2.0/24".into()])));
    assert_eq!(world.outside.ask("198.51.100.7:80").unwrap(), "a 10.244.1.1");
}

#[test]
fn a_client_sticks_to_its_endpoint_until_that_one_is_gone() {
    let world = World::new();
    let (a, b, c, client) = (world.pod("a"), world.pod("b"), world.pod("c"), world.pod("client"));
    world.service(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}), &[&a, &b, &c]);
    let first = world.answers(&client, "10.96.0.5:80");
    assert_eq!(first.len(), 1, "{first:?}");
    let others: Vec<_> = [&a, &b, &c].into_iter().filter(|p| !first.iter().any(|f| f.starts_with(&p.sandbox.id))).collect();
    world.set_endpoints(&others);
    let second = world.answers(&client, "10.96.0.5:80");
    assert!(second.len() == 1 && second != first, "{second:?}");
    world.set_endpoints(&[&a, &b, &c]);
    assert_eq!(world.answers(&client, "10.96.0.5:80"), second);
    assert!(client.ask_udp("10.96.0.5:53").is_ok());
}

#[test]
fn a_udp_client_moves_on_when_its_endpoint_goes_away() {
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    world.service(json!({}), &[&a]);
    let socket = client.udp("10.96.0.5:53");
    assert_eq!(say(&socket).unwrap(), "a 10.244.1.4");
    world.set_endpoints(&[&b]);
    // The rules come first, then the flows are forgotten.
    let moved = (0..20).any(|_| say(&socket).is_ok_and(|s| s == "b 10.244.1.4"));
    assert!(moved);
}

#[test]
fn a_tcp_client_moves_on_when_its_endpoint_died_under_it() {
    const PORT: u16 = 40_000;
    let world = World::new();
    let (a, b) = (world.pod("a"), world.pod("b"));
    world.service(json!({}), &[&a]);
    world.network.detach_now("a").unwrap();
    assert_eq!(world.outside.ask_from(PORT, "10.96.0.5:80"), Err(ErrorKind::ConnectionRefused));
    // A pod of another node, which is gone itself: no endpoint answers, and that the packet comes back does not end the flow.
    let lost = Pod { ip: "10.244.9.9".into(), machine: Machine::new(), sandbox: a.sandbox.clone() };
    world.set_endpoints(&[&lost]);
    assert_eq!(world.outside.ask_from(PORT, "10.96.0.5:80"), Err(ErrorKind::NetworkUnreachable));
    world.set_endpoints(&[&b]);
    // The rules come first, then the flows are forgotten.
    let moved = (0..20).any(|_| world.outside.ask_from(PORT, "10.96.0.5:80").is_ok_and(|s| s.starts_with("b ")));
    assert!(moved);
}

#[test]
fn an_open_connection_survives_every_change() {
    use std::io::{Read, Write};
    let world = World::new();
    let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
    let listener = a.run(|| std::net::TcpListener::bind("0.0.0.0:8081").unwrap());
    world.service(json!({"ports": [{"name": "own", "protocol": "TCP", "port": 80}]}), &[&a, &b]);
    world.change(|api| {
        api.change::<EndpointSlice>("a", "s-1", |s| {
            s.ports.as_mut().unwrap()[0] = serde_json::from_value(json!({"name": "own", "protocol": "TCP", "port": 8081})).unwrap();
            s.endpoints.as_mut().unwrap().truncate(1);
        })
    });
    let mut stream = client.run(|| std::net::TcpStream::connect("10.96.0.5:80").unwrap());
    let (mut served, _) = listener.accept().unwrap();
    world.set_endpoints(&[&b]);
    world.change(|api| api.change::<Service>("a", "s", |s| s.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 81));
    stream.write_all(b"still").unwrap();
    let mut buffer = [0; 5];
    served.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"still");
}

/// What an HTTP server answers, asked until there is one.
fn get(from: &Machine, to: &str, path: &str) -> String {
    use std::io::{Read, Write};
    from.run(|| {
        for _ in 0..200 {
            let Ok(mut stream) = std::net::TcpStream::connect(to) else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            return answer;
        }
        panic!("nobody listens on {to}");
    })
}

#[test]
fn load_balancers_learn_whether_this_node_has_endpoints() {
    let world = World::with(|config| {
        config.health_address = Some("0.0.0.0:10256".parse().unwrap());
        config.metrics_address = Some("127.0.0.1:10249".parse().unwrap());
    });
    let a = world.pod("a");
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    world.service(spec, &[&a]);
    let answer = get(&world.outside, "192.0.2.1:31000", "/");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"localEndpoints\": 1"), "{answer}");
    world.set_endpoints(&[]);
    assert!(get(&world.outside, "192.0.2.1:31000", "/").starts_with("HTTP/1.1 503"));
    assert!(get(&world.outside, "192.0.2.1:10256", "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&world.node, "127.0.0.1:10249", "/metrics").contains("kubeproxy_sync_proxy_rules_duration_seconds_count"));
    world.change(|api| api.change::<Service>("a", "s", |s| s.spec.as_mut().unwrap().health_check_node_port = None));
    // Its socket closes as its task ends; a connection that still got in is reset.
    assert!((0..200).any(|_| world.outside.ask("192.0.2.1:31000") == Err(ErrorKind::ConnectionRefused)));
}

/// A packet may choose among endpoints of before a change and look for one after it. Here what it looks for is taken away.
#[test]
fn who_chose_an_endpoint_that_has_just_gone_gets_another() {
    for (affinity, map) in [("None", "endpoints"), ("ClientIP", "picks")] {
        let world = World::new();
        let (a, b, client) = (world.pod("a"), world.pod("b"), world.pod("client"));
        world.service(json!({"sessionAffinity": affinity}), &[&a, &b]);
        let take_away = |set: &str, is_meant: fn(&Element) -> bool| {
            world.node.run(|| {
                let mut nft = KernelNft::open().unwrap();
                let meant: Vec<_> = nft.elements(Family::Ip, TABLE_DEFAULT, set).unwrap().into_iter().filter(is_meant).collect();
                nft.apply(Batch::new(Family::Ip, TABLE_DEFAULT).delete_elements(set, meant.clone())).unwrap();
                meant.len()
            })
        };
        assert_eq!(take_away(map, |slot| slot.key.ends_with(&1_u32.to_ne_bytes())), 2, "of TCP and of UDP");
        for _ in 0..40 {
            take_away("affinity", |_| true);
            assert!(client.ask("10.96.0.5:80").is_ok(), "{affinity}");
        }
    }
}

#[test]
fn a_front_that_the_node_serves_itself_is_left_alone() {
    let own = (Ipv4Addr::new(10, 96, 0, 5), Protocol::Udp, 53);
    let world = World::with(|config| config.own_fronts = vec![own]);
    let client = world.pod("client");
    world.service(json!({}), &[]);
    world.node.run(|| {
        use knarr_sys::netlink::{RouteSocket, route};
        RouteSocket::open().unwrap().apply(&[route::add_address(1, "10.96.0.5/32".parse().unwrap(), route::Scope::Host)]).unwrap();
    });
    world.node.serve_udp_at(Ipv4Addr::new(10, 96, 0, 5), 53, "dns");
    assert_eq!(client.ask_udp("10.96.0.5:53").unwrap(), "dns 10.244.1.2");
    assert_eq!(client.ask("10.96.0.5:80"), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn the_table_comes_back_after_somebody_took_it_and_goes_when_removed() {
    let world = World::new();
    let before = world.node.traces();
    assert!(before.contains(&TABLE_DEFAULT.to_owned()) || before.len() > 1);
    let (a, client) = (world.pod("a"), world.pod("client"));
    world.service(json!({}), &[&a]);
    world.node.run(|| remove(TABLE_DEFAULT)).unwrap();
    assert!(client.ask("10.96.0.5:80").is_err());
    // The next change finds the table gone and writes all of it.
    world.api.change::<Service>("a", "s", |s| s.spec.as_mut().unwrap().external_ips = Some(vec!["192.0.2.9".into()]));
    let mut back = false;
    for _ in 0..30 {
        back |= client.ask("10.96.0.5:80").is_ok();
        if back {
            break;
        }
    }
    assert!(back);
    world.stop.cancel();
    world.node.run(|| remove(TABLE_DEFAULT)).unwrap();
    assert!(!world.node.traces().contains(&TABLE_DEFAULT.to_owned()));
}
