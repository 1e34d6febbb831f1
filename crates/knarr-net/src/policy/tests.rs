//! Real packets between pods that policies stand between.

use std::io::ErrorKind;

use knarr_client::fake::FakeApi;
use knarr_core::clock::Env;
use knarr_core::{Value, json};

use super::*;
use crate::pods::PodNetwork;
use crate::testbed::{Machine, Pod as TestPod};

struct World {
    runtime: tokio::runtime::Runtime,
    api: Arc<FakeApi>,
    node: Machine,
    outside: Machine,
    network: PodNetwork,
    enforcer: Enforcer,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (node, outside, folder) = (Machine::new(), Machine::new(), tempfile::tempdir().unwrap());
        node.cable(&outside, "cable", "192.0.2.1/24", "192.0.2.2/24");
        outside.route("10.244.0.0/16", "192.0.2.1");
        let network = node.run(|| PodNetwork::new(crate::pods::Config::new(folder.path(), &["10.244.0.0/16".parse().unwrap()]))).unwrap();
        network.set_pod_cidr("10.244.1.0/24".parse().unwrap()).unwrap();
        let (stop, api) = (CancellationToken::new(), FakeApi::new(Env::system()));
        for (name, team) in [("a", "red"), ("b", "blue")] {
            api.seed::<Namespace>(&typed(json!({"metadata": {"name": name, "labels": {"team": team}}})));
        }
        let enforcer = node.run(|| {
            let _guard = runtime.enter();
            let informers = SharedInformers::new(api.client(), Env::system(), stop.clone());
            start("here", TABLE_DEFAULT, &informers, stop.clone()).unwrap()
        });
        Self { runtime, api, node, outside, network, enforcer, stop, _folder: folder }
    }

    /// A pod that serves on 80, which it calls `web`, and on 81.
    fn pod(&self, namespace: &str, name: &'static str) -> TestPod {
        let pod = self.node.pod(&self.network, name);
        pod.serve_tcp(80, name);
        pod.serve_tcp(81, name);
        self.api.seed::<ApiPod>(&typed(json!({"metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "here", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": pod.ip, "podIPs": [{"ip": pod.ip}]}})));
        pod
    }

    /// Makes a change and waits until nothing more comes of it.
    fn change(&self, change: impl FnOnce(&FakeApi)) {
        let mut synced = self.enforcer.synced();
        self.runtime.block_on(async {
            synced.wait_for(|n| *n > 0).await.unwrap();
            synced.borrow_and_update();
            change(&self.api);
            tokio::time::timeout(Duration::from_secs(5), synced.changed()).await.expect("a sync").unwrap();
        });
    }

    /// A policy in namespace `a` for the pod of a name.
    fn policy(&self, name: &str, app: &str, spec: Value) {
        let mut all = json!({"metadata": {"namespace": "a", "name": name}, "spec": {"podSelector": {"matchLabels": {"app": app}}}});
        for (key, value) in spec.as_object().unwrap() {
            all["spec"][key] = value.clone();
        }
        self.change(|api| api.seed::<NetworkPolicy>(&typed(all)));
    }

    fn delete_policy(&self, name: &str) {
        let policies = self.api.client().within::<NetworkPolicy>("a");
        self.change(|_| {
            let name = name.to_owned();
            self.runtime.spawn(async move { policies.delete(&name, &knarr_client::Deletion::default()).await.map(drop) });
        });
    }
}

fn reaches(from: &Machine, to: &TestPod, port: u16) -> bool {
    from.ask(&format!("{}:{port}", to.ip)).is_ok()
}

/// What is forbidden meets silence.
fn is_kept_from(from: &Machine, to: &TestPod, port: u16) -> bool {
    from.ask_briefly(&format!("{}:{port}", to.ip)) == Err(ErrorKind::TimedOut)
}

#[test]
fn a_selected_pod_lets_in_only_whom_a_policy_names() {
    let world = World::new();
    let (server, friend, other) = (world.pod("a", "server"), world.pod("a", "friend"), world.pod("b", "other"));
    assert!(reaches(&friend, &server, 80) && reaches(&other, &server, 80));
    world.policy("friends", "server", json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": 80}]}]}));
    assert!(reaches(&friend, &server, 80));
    assert!(is_kept_from(&friend, &server, 81));
    assert!(is_kept_from(&other, &server, 80));
    assert!(is_kept_from(&world.outside, &server, 80));
    // The node and the pod itself are always let in; others are not concerned.
    assert!(reaches(&world.node, &server, 81) && reaches(&server, &server, 81) && reaches(&other, &friend, 81));
    // Policies add up.
    world.policy("blue", "server", json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]}));
    assert!(reaches(&other, &server, 81));
    world.policy(
        "block",
        "server",
        json!({"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}], "ports": [{"port": 70, "endPort": 80}]}]}),
    );
    assert!(reaches(&world.outside, &server, 80));
    assert!(is_kept_from(&world.outside, &server, 81));
    for name in ["friends", "blue", "block"] {
        world.delete_policy(name);
    }
    assert!(reaches(&world.outside, &server, 81));
    assert!(!world.node.traces().contains(&TABLE_DEFAULT.to_owned()));
}

#[test]
fn a_pod_sends_only_where_a_policy_lets_it_and_named_ports_are_the_receivers() {
    let world = World::new();
    let (sender, server) = (world.pod("a", "sender"), world.pod("b", "server"));
    world.outside.serve_tcp(80, "outside");
    world.policy("shut", "sender", json!({"policyTypes": ["Egress"]}));
    assert!(is_kept_from(&sender, &server, 80));
    assert_eq!(sender.ask_briefly("192.0.2.2:80"), Err(ErrorKind::TimedOut));
    // What the node itself serves, DNS above all, is always open; answers to others go out.
    world.node.serve_tcp(82, "node");
    assert!(sender.ask("10.244.1.1:82").is_ok() && reaches(&server, &sender, 80));
    world.policy("web", "sender", json!({"policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "server"}}}], "ports": [{"port": "web"}]}]}));
    assert!(reaches(&sender, &server, 80));
    assert!(is_kept_from(&sender, &server, 81));
    assert!(world.node.traces().contains(&TABLE_DEFAULT.to_owned()));
    world.node.run(|| remove(TABLE_DEFAULT).unwrap());
    assert!(!world.node.traces().contains(&TABLE_DEFAULT.to_owned()));
}

#[test]
fn a_pod_that_comes_later_changes_elements_only_and_open_connections_go_on() {
    use std::io::{Read, Write};
    let world = World::new();
    let server = world.pod("a", "server");
    let early = world.pod("a", "early");
    let listener = server.run(|| std::net::TcpListener::bind("0.0.0.0:90").unwrap());
    let mut open = early.run(|| std::net::TcpStream::connect((server.ip.as_str(), 90)).unwrap());
    let (mut served, _) = listener.accept().unwrap();
    world.policy("late", "server", json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "late"}}}]}]}));
    assert!(is_kept_from(&early, &server, 80));
    open.write_all(b"still").unwrap();
    let mut buffer = [0; 5];
    served.read_exact(&mut buffer).unwrap();
    let mut late = None;
    world.change(|_| late = Some(world.pod("a", "late")));
    let late = late.unwrap();
    assert!(reaches(&late, &server, 80));
    world.change(|api| api.change::<ApiPod>("a", "late", |p| p.status.as_mut().unwrap().phase = Some("Succeeded".into())));
    assert!(is_kept_from(&late, &server, 80));
}
