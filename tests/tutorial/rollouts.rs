//! Rollouts: under load, back, to a revision, held and gone on with, restarted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::cluster::{Cluster, get, ready_pods, wait_for};

pub fn forth_and_back(cluster: &Cluster, address: SocketAddr) {
    rolled_under_load(cluster, address);
    cluster.kubectl(&["rollout", "undo", "deployment/hello"]);
    is_rolled_out(cluster);
    wait_for("the old greeting", || greets(address, "Hello "));
    to_a_revision(cluster, address);
    held(cluster, address);
    restarted(cluster);
    images_change(cluster);
}

fn is_rolled_out(cluster: &Cluster) {
    let said = cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    assert!(said.ends_with("deployment \"hello\" successfully rolled out\n"), "{said}");
}

fn greets(address: SocketAddr, greeting: &str) -> bool {
    (0..10).all(|_| get(address).is_ok_and(|body| body.starts_with(greeting)))
}

/// Not one request may fail while every pod is replaced.
fn rolled_under_load(cluster: &Cluster, address: SocketAddr) {
    let (stop, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = get(address) {
                        eprintln!("a request failed during the rollout: {e}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        cluster.kubectl(&["set", "env", "deployment/hello", "GREETING=Ahoy"]);
        cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]);
        wait_for("the new greeting alone", || (0..10).all(|_| get(address).is_ok_and(|body| body.starts_with("Ahoy "))));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 10, "the load was steady");
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} requests", asked.load(Ordering::Relaxed));
}

/// The history has the second greeting still.
fn to_a_revision(cluster: &Cluster, address: SocketAddr) {
    let history = cluster.kubectl(&["rollout", "history", "deployment/hello"]);
    let revisions: Vec<u32> = history.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    assert!(history.starts_with("deployment.apps/hello \nREVISION  CHANGE-CAUSE\n") && revisions.len() >= 2, "{history}");
    let of = |revision: &u32| cluster.kubectl(&["rollout", "history", "deployment/hello", &format!("--revision={revision}")]);
    let ahoy = revisions.iter().rfind(|revision| of(revision).contains("Ahoy")).expect("the revision with the other greeting");
    cluster.kubectl(&["rollout", "undo", "deployment/hello", &format!("--to-revision={ahoy}")]);
    is_rolled_out(cluster);
    wait_for("the greeting of that revision", || greets(address, "Ahoy "));
}

/// What is changed while a Deployment is held comes when it is let go.
fn held(cluster: &Cluster, address: SocketAddr) {
    cluster.kubectl(&["rollout", "pause", "deployment/hello"]);
    cluster.kubectl(&["set", "env", "deployment/hello", "GREETING=Moin"]);
    wait_for("the change to be seen", || {
        let generations = cluster.kubectl(&["get", "deployment", "hello", "-o", "jsonpath={.metadata.generation} {.status.observedGeneration}"]);
        generations.split_once(' ').is_some_and(|(spec, seen)| spec == seen)
    });
    assert!(greets(address, "Ahoy "), "nothing is rolled out while it is held");
    let undo = cluster.try_kubectl(&["rollout", "undo", "deployment/hello"]);
    assert_eq!(undo.status.code(), Some(1), "what is held is not rolled back");
    cluster.kubectl(&["rollout", "resume", "deployment/hello"]);
    is_rolled_out(cluster);
    wait_for("the change", || greets(address, "Moin "));
}

fn restarted(cluster: &Cluster) {
    let before = ready_pods(cluster);
    cluster.kubectl(&["rollout", "restart", "deployment/hello"]);
    is_rolled_out(cluster);
    wait_for("other pods alone", || {
        let pods = ready_pods(cluster);
        pods.len() == 3 && pods.iter().all(|pod| !before.contains(pod))
    });
}

/// An image that nobody has holds the rollout; the pods that run go on, and undoing it ends it.
fn images_change(cluster: &Cluster) {
    cluster.kubectl(&["set", "image", "deployment/hello", "hello=knarr.local/hello:none"]);
    wait_for("a pod without its image", || {
        let waiting = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
        cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", waiting]).contains("Image")
    });
    let status = cluster.try_kubectl(&["rollout", "status", "deployment/hello", "--timeout=1s"]);
    assert_eq!(status.status.code(), Some(1), "it is not rolled out");
    assert!(ready_pods(cluster).len() >= 2, "most pods go on");
    cluster.kubectl(&["rollout", "undo", "deployment/hello"]);
    is_rolled_out(cluster);
    wait_for("three pods alone", || cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", "name"]).lines().count() == 3);
}
