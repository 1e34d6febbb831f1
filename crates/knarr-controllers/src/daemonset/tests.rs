use k8s_openapi::api::core::v1::{Event, Node};
use knarr_core::json;
use knarr_core::{Value, ValueExt};

use super::*;
use crate::context::testing::Harness;

fn set(change: impl FnOnce(&mut Value)) -> DaemonSet {
    let mut value = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "a", "uid": "d", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"nodeSelector": {"os": "linux"}, "containers": [{"name": "c", "image": "one"}]}}}});
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn node(harness: &Harness, name: &str, os: &str) {
    harness.api.seed_value(client::gvr::<Node>(), json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"os": os}}, "spec": {}}));
}

/// Which node has a pod with which image.
fn pods(harness: &Harness) -> Vec<(String, String)> {
    let image = |p: &Pod| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let target = |p: &Pod| {
        let affinity = p.spec.as_ref().unwrap().affinity.as_ref().unwrap();
        affinity.node_affinity.as_ref().unwrap().required_during_scheduling_ignored_during_execution.as_ref().unwrap().node_selector_terms[0]
            .match_fields
            .as_ref()
            .unwrap()[0]
            .values
            .as_ref()
            .unwrap()[0]
            .clone()
    };
    let mut all: Vec<_> = harness.api.read_all::<Pod>().iter().map(|p| (target(p), image(p))).collect();
    all.sort();
    all
}

fn status(harness: &Harness) -> DaemonStatus {
    DaemonStatus::of(&harness.api.read("a", "d").unwrap())
}

async fn running(set: &DaemonSet) -> Harness {
    let harness = Harness::new();
    start(&harness.context);
    harness.run_pods();
    for (name, os) in [("n1", "linux"), ("n2", "linux"), ("n3", "linux"), ("w", "windows")] {
        node(&harness, name, os);
    }
    harness.api.seed(set);
    harness.api.until(|_| status(&harness).available == 3).await;
    harness.settle().await;
    harness
}

#[tokio::test(start_paused = true)]
async fn each_fitting_node_has_one_pod() {
    let harness = running(&set(|_| {})).await;
    let one = |n: &str| (n.to_owned(), "one".to_owned());
    assert_eq!(pods(&harness), [one("n1"), one("n2"), one("n3")]);
    assert_eq!(
        status(&harness),
        DaemonStatus { observed_generation: 1, desired: 3, current: 3, ready: 3, updated: 3, available: 3, ..DaemonStatus::default() }
    );
    node(&harness, "n4", "linux");
    harness.settle().await;
    assert_eq!(pods(&harness).len(), 4);
    harness.api.change::<Node>("", "n1", |n| n.metadata.labels = None);
    harness.settle().await;
    assert_eq!(pods(&harness), [one("n2"), one("n3"), one("n4")]);
}

#[tokio::test(start_paused = true)]
async fn an_update_replaces_one_pod_after_the_other() {
    let harness = running(&set(|_| {})).await;
    harness.api.change::<DaemonSet>("a", "d", |s| {
        s.spec.template.spec.as_mut().unwrap().containers[0].image = Some("two".into());
        s.metadata.generation = Some(2);
    });
    harness
        .api
        .until(|_| {
            let status = status(&harness);
            assert!(status.available >= 2, "no more than one may be missing");
            status.observed_generation == 2 && status.updated == 3 && status.available == 3
        })
        .await;
    assert!(pods(&harness).iter().all(|(_, image)| image == "two"));
    assert_eq!(harness.api.read_all::<ControllerRevision>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn with_surge_the_new_pod_comes_before_the_old_one_goes() {
    let surge = |v: &mut Value| v.set(&["spec", "updateStrategy", "rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let harness = running(&set(surge)).await;
    harness.api.change::<DaemonSet>("a", "d", |s| s.spec.template.spec.as_mut().unwrap().containers[0].image = Some("two".into()));
    let mut most = 0;
    harness
        .api
        .until(|_| {
            let all = pods(&harness);
            most = most.max(all.len());
            assert!(all.len() >= 3);
            all.iter().all(|(_, image)| image == "two")
        })
        .await;
    assert_eq!(most, 4);
}

#[tokio::test(start_paused = true)]
async fn a_failed_pod_is_replaced_with_growing_pauses() {
    let harness = running(&set(|_| {})).await;
    for _ in 0..2 {
        let name = harness.api.read_all::<Pod>()[0].metadata.name.clone().unwrap();
        harness.api.change::<Pod>("a", &name, |p| p.status.get_or_insert_default().phase = Some("Failed".into()));
        harness.settle().await;
        harness.settle().await;
    }
    assert_eq!(pods(&harness).len(), 3);
    harness.api.until(|api| api.read_all::<Event>().iter().any(|e| e.reason.as_deref() == Some("FailedDaemonPod"))).await;
}
