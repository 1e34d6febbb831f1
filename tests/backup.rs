//! A cluster is backed up while clients write, loses everything, and comes back: with all that was acknowledged before the backup began, with
//! the keys that its clients know, and with resource versions that nobody has seen.

#[path = "cluster/mod.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cluster::{Cluster, wait_for};

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.kubectl(&["get", "configmaps", "-o", "name"]).lines().map(|l| l.trim_start_matches("configmap/").to_owned()).collect()
}

fn newest_version(cluster: &Cluster) -> u64 {
    let list = cluster.kubectl(&["get", "--raw", "/api/v1/configmaps?limit=1"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("a list");
    list["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

#[test]
fn what_was_backed_up_while_clients_wrote_comes_back() {
    let cluster = Arc::new(Cluster::start("backup", 1));
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=password=top-secret"]);
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = {
        let (cluster, stop, made) = (cluster.clone(), stop.clone(), made.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let next = made.load(Ordering::SeqCst);
                cluster.kubectl(&["create", "configmap", &format!("c-{next}")]);
                made.store(next + 1, Ordering::SeqCst);
            }
        })
    };
    wait_for("some writes", || made.load(Ordering::SeqCst) >= 5);
    let acknowledged = made.load(Ordering::SeqCst);
    let folder = cluster.write("marker", "");
    let folder = format!("{}.backup", folder);
    let said = cluster.knarr(&["backup", &folder]);
    assert!(said.contains("Backed up ") && said.contains("keys are in it"), "{said}");
    let refused = cluster.try_knarr(&["backup", &folder]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is not empty"));
    wait_for("writes after the backup", || made.load(Ordering::SeqCst) >= acknowledged + 5);
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("the writer");
    cluster.kubectl(&["delete", "secret", "s"]);
    let before = newest_version(&cluster);

    let refused = cluster.try_knarr(&["restore", &folder]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("knarr stop"), "it runs");
    cluster.knarr(&["stop"]);
    // The keys are lost, too: what the clients know is in the backup.
    cluster.forget_keys();
    let said = cluster.knarr(&["restore", &folder]);
    assert!(said.contains("Restored ") && said.contains("kept in"), "{said}");
    cluster.start_again(1);

    let there = names(&cluster);
    for n in 0..acknowledged {
        assert!(there.contains(&format!("c-{n}")), "c-{n} was acknowledged before the backup: {there:?}");
    }
    assert!(!there.contains(&format!("c-{}", made.load(Ordering::SeqCst) - 1)), "written after the backup");
    let secret = cluster.kubectl(&["get", "secret", "s", "-o", "jsonpath={.data.password}"]);
    assert_eq!(secret, "dG9wLXNlY3JldA==");
    assert!(newest_version(&cluster) > before, "no resource version names two states");
    cluster.kubectl(&["create", "configmap", "after"]);
}
