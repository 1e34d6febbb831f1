//! Real packets between the pods of several nodes.

use k8s_openapi::api::core::v1::Node as ApiNode;
use knarr_client::fake::FakeApi;
use knarr_core::clock::Env;
use knarr_core::json;

use super::local::LocalNodes;
use super::*;
use crate::testbed::{Machine, Pod};

struct Cluster {
    runtime: tokio::runtime::Runtime,
    api: Arc<FakeApi>,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One node's agent.
struct Agent {
    pods: PodNetwork,
    routes: NodeRoutes,
}

impl Cluster {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, api: FakeApi::new(Env::system()), stop: CancellationToken::new(), folder: tempfile::tempdir().unwrap() }
    }

    fn add_node(&self, name: &str, cidr: &str, address: &str) {
        self.add_node_within(name, cidr, address, json!({}));
    }

    /// One inside a machine, as its annotations say.
    fn add_node_within(&self, name: &str, cidr: &str, address: &str, annotations: knarr_core::Value) {
        let node = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"podCIDR": cidr}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        self.api.seed::<ApiNode>(&serde_json::from_value(node).unwrap());
    }

    /// Starts a node's agent on the calling thread's network.
    fn agent(&self, name: &str, outer: Option<Outer>) -> Agent {
        let _guard = self.runtime.enter();
        let cidr: IpNet = "10.244.0.0/16".parse().unwrap();
        let pods = PodNetwork::new(crate::pods::Config::new(self.folder.path().join(name), &[cidr])).unwrap();
        let informers = SharedInformers::new(self.api.client(), Env::system(), self.stop.clone());
        let routes = start(name, &informers, pods.clone(), outer, self.stop.clone()).unwrap();
        Agent { pods, routes }
    }

    fn wait(&self, agent: &Agent) {
        self.wait_for(&agent.routes);
    }

    /// Lets all end that work on the kernel.
    fn end(&self, routes: impl Iterator<Item = NodeRoutes>) {
        self.stop.cancel();
        routes.for_each(|routes| self.runtime.block_on(routes.ended()));
    }

    fn wait_for(&self, routes: &NodeRoutes) {
        let mut synced = routes.synced();
        let done = async { tokio::time::timeout(Duration::from_secs(5), synced.wait_for(|n| *n > 0)).await.unwrap().map(|n| *n) };
        self.runtime.block_on(done).unwrap();
    }
}

#[test]
fn nodes_on_one_link_route_and_nodes_behind_a_gateway_use_the_overlay() {
    let cluster = Cluster::new();
    let (a, b, c, gateway) = (Machine::new(), Machine::new(), Machine::new(), Machine::new());
    // a and b share a cable; c is behind a gateway that knows no pods.
    a.cable(&b, "ab", "192.0.2.1/24", "192.0.2.2/24");
    a.cable(&gateway, "ag", "198.51.100.1/24", "198.51.100.254/24");
    c.cable(&gateway, "cg", "203.0.113.1/24", "203.0.113.254/24");
    gateway.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    a.route("203.0.113.0/24", "198.51.100.254");
    c.route("0.0.0.0/0", "203.0.113.254");
    b.route("0.0.0.0/0", "192.0.2.1");
    gateway.route("192.0.2.0/24", "198.51.100.1");
    cluster.add_node("a", "10.244.1.0/24", "192.0.2.1");
    cluster.add_node("b", "10.244.2.0/24", "192.0.2.2");
    cluster.add_node("c", "10.244.3.0/24", "203.0.113.1");
    let before = a.traces();
    let agents: Vec<_> = [("a", &a), ("b", &b), ("c", &c)].map(|(name, machine)| machine.run(|| cluster.agent(name, None))).into();
    agents.iter().for_each(|agent| cluster.wait(agent));
    let pods: Vec<Pod> = [&a, &b, &c].iter().zip(&agents).map(|(machine, agent)| machine.pod(&agent.pods, "one")).collect();
    for (pod, name) in pods.iter().zip(["a", "b", "c"]) {
        pod.serve_tcp(80, name);
    }
    assert_eq!(pods[0].ask("10.244.2.2:80").unwrap(), "b 10.244.1.2");
    assert_eq!(pods[0].ask("10.244.3.2:80").unwrap(), "c 10.244.1.2");
    assert_eq!(pods[2].ask("10.244.1.2:80").unwrap(), "a 10.244.3.2");
    assert_eq!(a.ask("10.244.3.2:80").unwrap(), "c 10.244.1.0");
    assert!(a.traces().contains(&"link knarr-vxlan".to_owned()));
    // A node that goes takes its way along.
    cluster.runtime.block_on(async {
        let mut synced = agents[0].routes.synced();
        cluster.api.client().all::<ApiNode>().delete("c", &knarr_client::Deletion::default()).await.unwrap();
        // An earlier change may be on its way still.
        while a.traces().contains(&"route 10.244.3.0/24".to_owned()) {
            tokio::time::timeout(Duration::from_secs(5), synced.changed()).await.expect("the route goes").unwrap();
        }
    });
    // A second agent finds what the first one made.
    let again = a.run(|| cluster.agent("a", None));
    cluster.wait(&again);
    assert_eq!(pods[0].ask("10.244.2.2:80").unwrap(), "b 10.244.1.2");
    drop(pods);
    cluster.end(agents.into_iter().chain([again]).map(|agent| agent.routes));
    a.run(|| remove().unwrap());
    let config = crate::pods::Config::new(cluster.folder.path().join("a"), &["10.244.0.0/16".parse().unwrap()]);
    a.run(|| crate::pods::remove(&config).unwrap());
    assert_eq!(a.traces(), before);
}

#[test]
fn local_nodes_reach_each_other_the_machine_and_the_outside() {
    let cluster = Cluster::new();
    let (machine, outside) = (Machine::new(), Machine::new());
    machine.cable(&outside, "cable", "192.0.2.1/24", "192.0.2.2/24");
    machine.route("0.0.0.0/0", "192.0.2.2");
    let before = machine.traces();
    let mut nodes = LocalNodes::new("test", "10.88.0.0/24".parse().unwrap());
    nodes.folder = cluster.folder.path().join("run");
    let (one, two) = machine.run(|| (nodes.create(1).unwrap(), nodes.create(2).unwrap()));
    assert_eq!((one.address.to_string(), nodes.node(0).is_err(), nodes.node(255).is_err()), ("10.88.0.2".to_owned(), true, true));
    cluster.add_node("one", "10.244.1.0/24", "10.88.0.2");
    cluster.add_node("two", "10.244.2.0/24", "10.88.0.3");
    let agent = |name: &str, node: &local::LocalNode| machine.run(|| cluster.agent(name, Some(node.enter().unwrap())));
    let agents = [agent("one", &one), agent("two", &two)];
    agents.iter().for_each(|agent| cluster.wait(agent));
    let inside = |node: &local::LocalNode| Machine { netns: netlink::NetNs::open(&node.netns).unwrap() };
    let (one_machine, two_machine) = (inside(&one), inside(&two));
    let (a, b) = (one_machine.pod(&agents[0].pods, "a"), two_machine.pod(&agents[1].pods, "b"));
    b.serve_tcp(80, "b");
    two_machine.serve_tcp(81, "two");
    machine.serve_tcp(82, "machine");
    outside.serve_tcp(83, "outside");
    assert_eq!(a.ask("10.244.2.2:80").unwrap(), "b 10.244.1.2");
    assert_eq!(one_machine.ask("10.88.0.3:81").unwrap(), "two 10.88.0.2");
    assert_eq!(machine.ask("10.244.2.2:80").unwrap(), "b 10.88.0.1");
    assert_eq!(a.ask("10.88.0.1:82").unwrap(), "machine 10.88.0.2");
    assert_eq!(a.ask("192.0.2.2:83").unwrap(), "outside 192.0.2.1");
    // Creating again keeps the namespace.
    let same = machine.run(|| nodes.create(1).unwrap());
    assert_eq!(same, one);
    drop((a, b, one_machine, two_machine));
    cluster.end(agents.into_iter().map(|agent| agent.routes));
    machine.run(|| nodes.delete_all().unwrap());
    machine.run(|| nodes.delete_all().unwrap());
    assert_eq!(machine.traces(), before);
    assert!(!one.netns.exists() && !two.netns.exists());
}

#[test]
fn nodes_inside_a_machine_are_reached_from_others_near_and_far_and_reach_them() {
    let cluster = Cluster::new();
    let (machine, near, far, gateway) = (Machine::new(), Machine::new(), Machine::new(), Machine::new());
    machine.cable(&near, "mn", "192.0.2.1/24", "192.0.2.2/24");
    machine.cable(&gateway, "mg", "198.51.100.1/24", "198.51.100.254/24");
    far.cable(&gateway, "fg", "203.0.113.1/24", "203.0.113.254/24");
    gateway.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    gateway.route("192.0.2.0/24", "198.51.100.1");
    machine.route("203.0.113.0/24", "198.51.100.254");
    near.route("0.0.0.0/0", "192.0.2.1");
    far.route("0.0.0.0/0", "203.0.113.254");
    let before = machine.traces();
    let mut nodes = LocalNodes::new("test", "10.88.0.0/24".parse().unwrap());
    nodes.folder = cluster.folder.path().join("run");
    let inner = machine.run(|| (nodes.create(1).unwrap(), nodes.create(2).unwrap()));
    let annotations = || json!({crate::view::ANNOTATION_MACHINE: "192.0.2.1"});
    cluster.add_node_within("one", "10.244.1.0/24", "10.88.0.2", annotations());
    cluster.add_node_within("two", "10.244.2.0/24", "10.88.0.3", annotations());
    cluster.add_node("near", "10.244.3.0/24", "192.0.2.2");
    cluster.add_node("far", "10.244.4.0/24", "203.0.113.1");
    let cidrs: [IpNet; 1] = ["10.244.0.0/16".parse().unwrap()];
    let inside = |name: &str, node: &local::LocalNode| machine.run(|| cluster.agent(name, Some(node.enter().unwrap())));
    let agents = [inside("one", &inner.0), inside("two", &inner.1), near.run(|| cluster.agent("near", None)), far.run(|| cluster.agent("far", None))];
    let ways = |stop: &CancellationToken| {
        machine.run(|| {
            let _guard = cluster.runtime.enter();
            let informers = SharedInformers::new(cluster.api.client(), Env::system(), stop.clone());
            start_machine("192.0.2.1".parse().unwrap(), &cidrs, &informers, stop.clone()).unwrap()
        })
    };
    let first = cluster.stop.child_token();
    let (first_ways, second) = (ways(&first), cluster.stop.child_token());
    cluster.wait_for(&first_ways);
    agents.iter().for_each(|agent| cluster.wait(agent));
    let within = |node: &local::LocalNode| Machine { netns: netlink::NetNs::open(&node.netns).unwrap() };
    let machines = [&within(&inner.0), &within(&inner.1), &near, &far];
    let pods: Vec<Pod> = machines.iter().zip(&agents).map(|(machine, agent)| machine.pod(&agent.pods, "pod")).collect();
    let addresses = ["10.244.1.2", "10.244.2.2", "10.244.3.2", "10.244.4.2"];
    pods.iter().zip(addresses).for_each(|(pod, name)| pod.serve_tcp(80, name));
    // Each from each, with its own address.
    for (from, own) in pods.iter().zip(addresses) {
        for to in addresses.iter().filter(|to| **to != own) {
            assert_eq!(from.ask(&format!("{to}:80")).unwrap(), format!("{to} {own}"));
        }
    }
    // The machines themselves, as an API server does, and the nodes inside.
    assert_eq!(machine.ask("10.244.3.2:80").unwrap(), "10.244.3.2 192.0.2.1");
    assert_eq!(machine.ask("10.244.4.2:80").unwrap(), "10.244.4.2 10.244.1.0");
    assert!(machines[0].ask("10.244.3.2:80").is_ok() && machines[1].ask("10.244.4.2:80").is_ok());
    machines[0].serve_tcp(81, "one");
    assert!(near.ask("10.88.0.2:81").is_ok() && far.ask("10.88.0.2:81").is_ok() && pods[3].ask("10.88.0.2:81").is_ok());
    // Whoever comes next finds what was made; a cluster of other addresses takes nothing away.
    first.cancel();
    cluster.runtime.block_on(first_ways.ended());
    let second_ways = ways(&second);
    cluster.wait_for(&second_ways);
    machine.run(|| remove_machine(&["10.243.0.0/16".parse().unwrap()]).unwrap());
    assert!(pods[0].ask("10.244.4.2:80").is_ok() && pods[3].ask("10.244.1.2:80").is_ok());
    drop(pods);
    cluster.end(agents.into_iter().map(|agent| agent.routes).chain([second_ways]));
    machine.run(|| {
        remove_machine(&cidrs).unwrap();
        nodes.delete_all().unwrap();
    });
    assert_eq!(machine.traces(), before);
}
