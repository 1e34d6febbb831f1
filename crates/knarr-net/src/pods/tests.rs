//! Real packets between namespaces that the tests make.

use std::io::ErrorKind;

use super::*;
use crate::testbed::{Machine, say};

fn network(machine: &Machine, folder: &Path) -> PodNetwork {
    let cidr: IpNet = "10.244.0.0/16".parse().unwrap();
    let network = machine.run(|| PodNetwork::new(Config::new(folder, &[cidr]))).unwrap();
    network.restore_now(&[]).unwrap();
    assert!(network.problem().borrow().is_some());
    network.set_pod_cidr("10.244.1.0/24".parse().unwrap()).unwrap();
    assert!(network.problem().borrow().is_none());
    network
}

#[test]
fn pods_reach_each_other_and_the_node_with_their_own_addresses() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let network = network(&machine, folder.path());
    let (a, b) = (machine.pod(&network, "a"), machine.pod(&network, "b"));
    assert_eq!((a.ip.as_str(), b.ip.as_str()), ("10.244.1.2", "10.244.1.3"));
    b.serve_tcp(80, "b");
    machine.serve_tcp(81, "node");
    assert_eq!(a.ask("10.244.1.3:80").unwrap(), "b 10.244.1.2");
    assert_eq!(a.ask("10.244.1.1:81").unwrap(), "node 10.244.1.2");
    assert_eq!(machine.ask("10.244.1.3:80").unwrap(), "b 10.244.1.1");
}

#[test]
fn traffic_that_leaves_the_cluster_has_the_nodes_address_and_comes_back() {
    let (machine, outside, folder) = (Machine::new(), Machine::new(), tempfile::tempdir().unwrap());
    machine.cable(&outside, "cable", "192.168.50.1/24", "192.168.50.2/24");
    let network = network(&machine, folder.path());
    let pod = machine.pod(&network, "a");
    outside.serve_tcp(80, "outside");
    assert_eq!(pod.ask("192.168.50.2:80").unwrap(), "outside 192.168.50.1");
}

#[test]
fn a_pod_cannot_use_anothers_address_or_the_nodes_loopback() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let network = network(&machine, folder.path());
    let (a, b) = (machine.pod(&network, "a"), machine.pod(&network, "b"));
    b.serve_tcp(80, "b");
    machine.serve_tcp(81, "node");
    a.run(|| {
        let mut socket = RouteSocket::open().unwrap();
        let (eth0, lo) = (socket.link("eth0").unwrap().unwrap().index, 1);
        let (stolen, loopback) = ("10.244.1.9/32".parse().unwrap(), "127.0.0.1/8".parse().unwrap());
        socket
            .apply(&[
                netlink::route::delete_address(eth0, "10.244.1.2/32".parse().unwrap()),
                netlink::route::add_address(eth0, stolen, netlink::route::Scope::Universe),
            ])
            .unwrap();
        // Nothing keeps 127.0.0.0/8 inside this pod any more.
        socket.apply(&[netlink::route::delete_address(lo, loopback)]).unwrap();
        socket.apply(&[netlink::route::set_route(&netlink::route::Route::via("0.0.0.0/0".parse().unwrap(), [169, 254, 1, 1].into(), eth0))]).unwrap();
    });
    assert_eq!(a.ask_briefly("10.244.1.3:80"), Err(ErrorKind::TimedOut));
    assert!(a.ask_briefly("127.0.0.1:81").is_err());
}

#[test]
fn a_host_port_leads_to_the_pod_from_outside_the_node_localhost_and_the_pod_itself() {
    let (machine, outside, folder) = (Machine::new(), Machine::new(), tempfile::tempdir().unwrap());
    machine.cable(&outside, "cable", "192.168.50.1/24", "192.168.50.2/24");
    let network = network(&machine, folder.path());
    let (mut pod, other) = (machine.pod(&network, "a"), machine.pod(&network, "b"));
    pod.serve_tcp(80, "pod");
    pod.serve_udp(53, "pod");
    let port = |protocol, host_ip: Option<&str>, host_port, container_port| HostPort {
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port,
    };
    pod.sandbox.host_ports =
        vec![port(Protocol::Tcp, None, 8080, 80), port(Protocol::Tcp, Some("192.168.50.1"), 9090, 80), port(Protocol::Udp, None, 5353, 53)];
    assert_eq!(network.attach_now(&pod.sandbox).unwrap(), pod.sandbox.ips);
    assert_eq!(outside.ask("192.168.50.1:8080").unwrap(), "pod 192.168.50.2");
    assert_eq!(outside.ask("192.168.50.1:9090").unwrap(), "pod 192.168.50.2");
    assert_eq!(outside.ask_udp("192.168.50.1:5353").unwrap(), "pod 192.168.50.2");
    assert_eq!(other.ask("192.168.50.1:8080").unwrap(), "pod 10.244.1.3");
    assert_eq!(machine.ask("192.168.50.1:8080").unwrap(), "pod 192.168.50.1");
    assert_eq!(machine.ask("127.0.0.1:8080").unwrap(), "pod 10.244.1.1");
    assert_eq!(pod.ask("192.168.50.1:8080").unwrap(), "pod 10.244.1.1");
    assert_eq!(machine.ask("127.0.0.1:9090"), Err(ErrorKind::ConnectionRefused));
    network.detach_now("a").unwrap();
    assert_eq!(outside.ask("192.168.50.1:8080"), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn whoever_asks_a_pod_that_is_gone_is_told_so_at_once() {
    let (machine, outside, folder) = (Machine::new(), Machine::new(), tempfile::tempdir().unwrap());
    machine.cable(&outside, "cable", "192.168.50.1/24", "192.168.50.2/24");
    outside.route("10.244.1.0/24", "192.168.50.1");
    let network = network(&machine, folder.path());
    let (gone, other) = (machine.pod(&network, "a"), machine.pod(&network, "b"));
    gone.serve_tcp(80, "a");
    gone.serve_udp(53, "a");
    let askers: [&Machine; 3] = [&outside, &other, &machine];
    // The node's own datagrams are lost, as anywhere.
    let udp: Vec<_> = askers[..2].iter().map(|asker| asker.udp("10.244.1.2:53")).collect();
    assert!(askers.iter().all(|asker| asker.ask("10.244.1.2:80").unwrap().starts_with("a ")));
    assert!(udp.iter().all(|socket| say(socket).unwrap().starts_with("a ")));
    network.detach_now("a").unwrap();
    for never_or_no_more in ["10.244.1.77:80", "10.244.1.2:80"] {
        assert!(askers.iter().all(|asker| asker.ask(never_or_no_more) == Err(ErrorKind::ConnectionRefused)));
    }
    assert!(udp.iter().all(|socket| say(socket) == Err(ErrorKind::ConnectionRefused)));
    let next = machine.pod(&network, "c");
    next.serve_tcp(80, "c");
    assert!(askers.iter().all(|asker| asker.ask(&format!("{}:80", next.ip)).unwrap().starts_with("c ")));
}

#[test]
fn a_restarted_agent_keeps_living_pods_and_frees_the_rest() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let first = network(&machine, folder.path());
    let (mut a, b) = (machine.pod(&first, "a"), machine.pod(&first, "b"));
    a.serve_tcp(80, "a");
    a.sandbox.host_ports = vec![HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8080, container_port: 80 }];
    drop(first);
    let second = machine.run(|| PodNetwork::new(Config::new(folder.path(), &["10.244.0.0/16".parse().unwrap()]))).unwrap();
    second.restore_now(std::slice::from_ref(&a.sandbox)).unwrap();
    second.set_pod_cidr("10.244.1.0/24".parse().unwrap()).unwrap();
    assert_eq!(machine.ask("127.0.0.1:8080").unwrap(), "a 10.244.1.1");
    assert_eq!(machine.traces().iter().filter(|t| super::link::is_ours(t.trim_start_matches("link "))).count(), 1);
    assert!(b.run(|| RouteSocket::open().unwrap().link("eth0").unwrap()).is_none());
    assert_eq!(second.attach_now(&a.sandbox).unwrap(), a.sandbox.ips);
}

#[test]
fn nothing_is_left_behind() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let before = machine.traces();
    let network = network(&machine, folder.path());
    let _pods = [machine.pod(&network, "a"), machine.pod(&network, "b")];
    assert!(machine.traces().len() > before.len() + 4);
    network.detach_now("a").unwrap();
    network.detach_now("a").unwrap();
    assert!(!machine.traces().contains(&"route 10.244.1.2/32".to_owned()));
    network.bury_now().unwrap();
    let links = || machine.traces().iter().filter(|t| super::link::is_ours(t.trim_start_matches("link "))).count();
    assert_eq!(links(), 1);
    machine.run(|| remove(&Config::new(folder.path(), &["10.244.0.0/16".parse().unwrap()]))).unwrap();
    assert_eq!(machine.traces(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let network = network(&machine, folder.path());
    let before = machine.traces();
    let sandbox = Sandbox { id: "x".into(), netns: folder.path().to_owned(), ..Sandbox::default() };
    assert!(network.attach_now(&sandbox).is_err());
    network.bury_now().unwrap();
    assert_eq!((machine.traces(), std::fs::read_dir(folder.path()).unwrap().count()), (before, 0));
}

#[test]
fn a_sandbox_that_is_attached_again_keeps_its_link_when_the_dead_are_buried() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let network = network(&machine, folder.path());
    let (a, b) = (machine.pod(&network, "a"), machine.pod(&network, "b"));
    network.detach_now("a").unwrap();
    network.detach_now("b").unwrap();
    let address = network.attach_now(&a.sandbox).unwrap()[0];
    a.serve_tcp(80, "a");
    network.bury_now().unwrap();
    assert_eq!(machine.ask(&format!("{address}:80")).unwrap(), "a 10.244.1.1");
    assert!(b.run(|| RouteSocket::open().unwrap().link("eth0").unwrap()).is_none());
}
