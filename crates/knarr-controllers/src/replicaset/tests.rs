use k8s_openapi::api::core::v1::{Event, Pod};
use knarr_core::{Reason, json};

use super::*;
use crate::context::testing::Harness;

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "a", "uid": "set", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}}}))
    .unwrap()
}

fn pod(name: &str, labels: knarr_core::Value) -> Pod {
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "labels": labels},
        "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}))
    .unwrap()
}

fn status(harness: &Harness) -> (i32, i32, Option<i64>) {
    let status = harness.api.read::<ReplicaSet>("a", "web").and_then(|s| s.status).unwrap_or_default();
    (status.replicas, status.ready_replicas.unwrap_or_default(), status.observed_generation)
}

#[test]
fn no_more_than_a_burst_is_created_or_deleted_at_once() {
    assert_eq!(decide(3, 3), Decision::Nothing);
    assert_eq!(decide(1000, 3), Decision::Create(500));
    assert_eq!(decide(1, 3), Decision::Delete(2));
}

#[tokio::test(start_paused = true)]
async fn pods_are_created_counted_and_deleted_as_wanted() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&set(30));
    harness.api.until(|_| status(&harness) == (30, 0, Some(1))).await;
    let pods = harness.api.read_all::<Pod>();
    assert_eq!(pods.len(), 30);
    assert!(pods[0].metadata.name.as_deref().unwrap().starts_with("web-"));
    for pod in &pods {
        harness.make_ready(pod);
    }
    harness.api.until(|_| status(&harness) == (30, 30, Some(1))).await;
    harness.api.change::<ReplicaSet>("a", "web", |s| {
        s.spec.replicas = Some(10);
        s.metadata.generation = Some(2);
    });
    harness.api.until(|_| status(&harness) == (10, 10, Some(2))).await;
    harness.settle().await;
    assert_eq!(harness.api.read_all::<Pod>().iter().filter(|p| p.metadata.deletion_timestamp.is_none()).count(), 10);
    let creates = harness.api.log().iter().filter(|l| l.starts_with("create pods ")).count();
    assert_eq!(creates, 30, "no pod was created twice");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_replaced_once() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&set(2));
    harness.api.until(|_| status(&harness).0 == 2).await;
    let victim = harness.api.read_all::<Pod>()[0].metadata.name.clone().unwrap();
    harness.api.client().within::<Pod>("a").delete(&victim, &Default::default()).await.unwrap();
    harness.settle().await;
    let names: Vec<_> = harness.api.read_all::<Pod>().into_iter().filter_map(|p| p.metadata.name).collect();
    assert_eq!((names.len(), names.contains(&victim)), (2, false));
}

#[tokio::test(start_paused = true)]
async fn matching_orphans_are_adopted_and_strangers_left_alone() {
    let harness = Harness::new();
    harness.api.seed(&pod("orphan", json!({"app": "web"})));
    harness.api.seed(&pod("stranger", json!({"app": "db"})));
    start(&harness.context);
    harness.api.seed(&set(1));
    harness.api.until(|_| status(&harness).0 == 1).await;
    harness.settle().await;
    let owner = |name: &str| harness.api.read::<Pod>("a", name).unwrap().metadata.owner_references.map(|o| o[0].uid.clone());
    assert_eq!((owner("orphan").as_deref(), owner("stranger")), (Some("set"), None));
    assert_eq!(harness.api.read_all::<Pod>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_told_in_condition_and_event() {
    let harness = Harness::new();
    harness
        .api
        .fail(|r| (r.resource.resource == "pods" && r.verb == knarr_core::api::Verb::Create).then(|| Status::new(403, Reason::Forbidden, "exceeded quota")));
    start(&harness.context);
    harness.api.seed(&set(5));
    let failed = |api: &knarr_client::fake::FakeApi| {
        let status = api.read::<ReplicaSet>("a", "web").and_then(|s| s.status).unwrap_or_default();
        status.conditions.into_iter().flatten().any(|c| c.reason.as_deref() == Some("FailedCreate") && c.message.as_deref() == Some("exceeded quota"))
    };
    harness.api.until(failed).await;
    harness.api.until(|api| api.read_all::<Event>().iter().any(|e| e.message.as_deref() == Some("Error creating: exceeded quota"))).await;
}
