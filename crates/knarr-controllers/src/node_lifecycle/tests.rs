use k8s_openapi::api::core::v1::Event;
use knarr_core::ValueExt;

use super::*;
use crate::context::testing::Harness;

fn node(name: &str, ready: Option<&str>) -> Node {
    let mut value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}, "status": {}});
    if let Some(ready) = ready {
        value.set(&["status", "conditions"], json!([{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]));
    }
    serde_json::from_value(value).unwrap()
}

fn taints(harness: &Harness, name: &str) -> Vec<String> {
    let node: Node = harness.api.read("", name).unwrap();
    let mut taints: Vec<String> =
        node.spec.unwrap().taints.unwrap_or_default().iter().map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect();
    taints.sort();
    taints
}

fn condition_of(harness: &Harness, name: &str) -> (String, String) {
    let node: Node = harness.api.read("", name).unwrap();
    let ready = node.status.unwrap().conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Ready").unwrap();
    (ready.status, ready.reason.unwrap_or_default())
}

/// Lets time pass while these nodes renew their leases.
async fn pass(harness: &Harness, seconds: u64, alive: &[&str]) {
    for _ in 0..seconds / 10 {
        for name in alive {
            let now = knarr_core::time::format_micro(harness.context.env.now());
            let leases = harness.api.client().within::<Lease>(LEASES);
            let lease =
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": LEASES}, "spec": {"renewTime": now}});
            if leases.dynamic().update(lease.clone()).await.is_err() {
                leases.dynamic().create(lease).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_given_up_and_its_pods_are_marked() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&node("up", Some("True")));
    harness.api.seed(&node("down", Some("True")));
    let pod: Pod = serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "down", "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    )
    .unwrap();
    harness.api.seed(&pod);
    pass(&harness, 40, &["up"]).await;
    assert_eq!(condition_of(&harness, "down").0, "True");
    pass(&harness, 30, &["up"]).await;
    assert_eq!(condition_of(&harness, "up").0, "True");
    assert_eq!(condition_of(&harness, "down"), ("Unknown".into(), "NodeStatusUnknown".into()));
    assert_eq!(taints(&harness, "down"), ["unreachable:NoExecute", "unreachable:NoSchedule"]);
    assert!(taints(&harness, "up").is_empty());
    let pod: Pod = harness.api.read("a", "p").unwrap();
    assert_eq!(pod.status.unwrap().conditions.unwrap()[0].status, "False");
    harness.api.until(|api| api.read_all::<Event>().iter().any(|e| e.message.as_deref() == Some("Node down status is now: NodeNotReady"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_loses_its_taints() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&node("up", Some("True")));
    harness.api.seed(&node("down", Some("False")));
    harness.settle().await;
    assert_eq!(taints(&harness, "down"), ["not-ready:NoExecute", "not-ready:NoSchedule"]);
    harness.api.change::<Node>("", "down", |n| n.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into());
    harness.settle().await;
    assert!(taints(&harness, "down").is_empty());
}

#[tokio::test(start_paused = true)]
async fn when_all_are_down_nobody_is_driven_out() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&node("a", Some("True")));
    harness.api.seed(&node("b", None));
    pass(&harness, 200, &[]).await;
    assert_eq!(condition_of(&harness, "b"), ("Unknown".into(), "NodeStatusNeverUpdated".into()));
    assert_eq!((taints(&harness, "a"), taints(&harness, "b")), (vec!["unreachable:NoSchedule".to_owned()], vec!["unreachable:NoSchedule".to_owned()]));
}
