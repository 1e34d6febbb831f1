//! A node is taken out of service and put back: cordon, drain, taint.

use crate::cluster::{Cluster, ready_pods, wait_for};

pub fn leave_and_return(cluster: &Cluster) {
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]);
    let node = nodes.split(' ').next_back().expect("a node");
    drained(cluster, node);
    tainted(cluster, node);
}

/// Pods of a node.
fn on(cluster: &Cluster, node: &str) -> usize {
    cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", "name", "--field-selector", &format!("spec.nodeName={node}")]).lines().count()
}

fn drained(cluster: &Cluster, node: &str) {
    cluster.kubectl(&["cordon", node]);
    assert!(cluster.kubectl(&["get", "node", node]).contains("Ready,SchedulingDisabled"));
    let drained = cluster.kubectl(&["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app=hello", "--timeout=60s"]);
    assert!(drained.ends_with(&format!("node/{node} drained\n")), "{drained}");
    assert_eq!(on(cluster, node), 0, "nothing is left on a drained node");
    cluster.kubectl(&["uncordon", node]);
    wait_for("three pods", || ready_pods(cluster).len() == 3);
}

/// A taint that pods do not tolerate drives them away; it is taken off again.
fn tainted(cluster: &Cluster, node: &str) {
    cluster.kubectl(&["taint", "node", node, "example.com/quiet=yes:NoExecute"]);
    wait_for("the pods to leave", || on(cluster, node) == 0);
    assert!(cluster.kubectl(&["describe", "node", node]).contains("example.com/quiet=yes:NoExecute"));
    cluster.kubectl(&["taint", "node", node, "example.com/quiet-"]);
    wait_for("three pods", || ready_pods(cluster).len() == 3);
}
