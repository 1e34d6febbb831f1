//! The way of a newcomer, as a test: deploy, look, change, scale, roll, roll back, talk to pods, take a node out, lose a pod, lose every
//! process of ours, stop, start, delete. Stock kubectl and an HTTP client are all that is used.
//!
//! `KNARR_TUTORIAL_KUBECONFIG` names another cluster to walk through instead, the real Kubernetes for one: all but what only knarr has is
//! asked of it. Its nodes must have the images `knarr.local/hello:1` and `knarr.local/tools:1` (`cargo xtask pack`).

#[path = "tutorial/changes.rs"]
mod changes;
#[path = "cluster/mod.rs"]
mod cluster;
#[path = "tutorial/kube_rs.rs"]
mod kube_rs;
#[path = "tutorial/looks.rs"]
mod looks;
#[path = "tutorial/nodes.rs"]
mod nodes;
#[path = "tutorial/ours.rs"]
mod ours;
#[path = "tutorial/programs.rs"]
mod programs;
#[path = "tutorial/rollouts.rs"]
mod rollouts;
#[path = "tutorial/streams.rs"]
mod streams;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use cluster::{Cluster, get, ready_pods, wait_for};

const NODE_PORT: u16 = 30080;

#[test]
fn a_newcomers_way_through_a_cluster() {
    match std::env::var_os("KNARR_TUTORIAL_KUBECONFIG") {
        Some(kubeconfig) => everybodys(&Cluster::given(kubeconfig.into())),
        None => knarrs(),
    }
}

/// What is knarr's alone comes around that which everybody has.
fn knarrs() {
    let before = ours::Traces::take();
    let cluster = Cluster::start("tutorial", 2);
    cluster.load_example();
    cluster.load_tools();
    let address = deployed(&cluster);
    ours::refused_starts_leave_nothing(&cluster);
    ours::runs_as_of_old(&cluster);
    ours::volumes_go_with_their_claims(&cluster);
    ours::survives_our_death(&cluster, address);
    ours::comes_back_after_a_stop(&cluster, address);
    everybodys(&cluster);
    for node in cluster.knarr(&["node", "list"]).lines().skip(1) {
        assert_eq!(cluster.knarr(&["node", "remove", node]), format!("Removed node {node:?}\n"));
    }
    // A running cluster is deleted by every other test.
    cluster.knarr(&["stop"]);
    drop(cluster);
    assert_eq!(ours::Traces::take().since(&before), ours::Traces::default(), "a deleted cluster leaves nothing behind");
}

fn everybodys(cluster: &Cluster) {
    let address = deployed(cluster);
    looks::at_everything(cluster);
    changes::all_kinds(cluster, address);
    rollouts::forth_and_back(cluster, address);
    heals(cluster);
    streams::with_pods(cluster);
    programs::go_on_a_tour(cluster);
    kube_rs::go_on_a_tour(cluster);
    nodes::leave_and_return(cluster);
    cluster.kubectl(&["delete", "-f", "examples/hello.yaml", "--timeout=60s"]);
    wait_for("the app's pods to go", || cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", "name"]).is_empty());
}

/// The example app, three pods that answer at the node's address.
fn deployed(cluster: &Cluster) -> SocketAddr {
    cluster.kubectl(&["apply", "-f", "examples/hello.yaml"]);
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let address = SocketAddr::from((cluster.address(), NODE_PORT));
    let mut seen = BTreeSet::new();
    wait_for("three pods to answer", || {
        seen.extend(get(address));
        seen.len() == 3
    });
    address
}

fn heals(cluster: &Cluster) {
    let victim = ready_pods(cluster).first().cloned().expect("a pod");
    cluster.kubectl(&["delete", "pod", &victim, "--wait=false"]);
    wait_for("another pod in its place", || {
        let pods = ready_pods(cluster);
        pods.len() == 3 && !pods.contains(&victim)
    });
}
