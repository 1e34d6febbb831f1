use k8s_openapi::api::core::v1::{Event, Pod};
use knarr_core::json;

use super::*;
use crate::context::testing::Harness;
use crate::replicaset;

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}}))
    .unwrap()
}

fn read(api: &knarr_client::fake::FakeApi) -> Deployment {
    api.read("a", "web").unwrap()
}

fn reason(api: &knarr_client::fake::FakeApi) -> String {
    let conditions = read(api).status.and_then(|s| s.conditions).unwrap_or_default();
    conditions.into_iter().find(|c| c.type_.as_deref() == Some("Progressing")).and_then(|c| c.reason).unwrap_or_default()
}

fn change(harness: &Harness, change: impl FnOnce(&mut Deployment)) {
    harness.api.change::<Deployment>("a", "web", |d| {
        change(d);
        d.metadata.generation = d.metadata.generation.map(|g| g + 1);
    });
}

/// A cluster whose pods become ready a moment after they were made.
async fn started(d: &Deployment) -> Harness {
    let harness = Harness::new();
    start(&harness.context);
    replicaset::start(&harness.context);
    harness.run_pods();
    harness.api.seed(d);
    harness
}

async fn finished(harness: &Harness) {
    harness
        .api
        .until(|api| {
            let d = read(api);
            let observed = d.status.as_ref().and_then(|s| s.observed_generation);
            observed == d.metadata.generation && reason(api) == "NewReplicaSetAvailable" && d.status.and_then(|s| s.updated_replicas) == d.spec.replicas
        })
        .await;
    harness.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_goes_through_and_is_told() {
    let harness = started(&deployment(10, "one")).await;
    finished(&harness).await;
    change(&harness, |d| d.spec.template = deployment(10, "two").spec.template);
    harness.api.until(|api| reason(api) != "NewReplicaSetAvailable").await;
    finished(&harness).await;
    let status = read(&harness.api).status.unwrap();
    assert_eq!((status.replicas, status.updated_replicas, status.available_replicas, status.unavailable_replicas), (Some(10), Some(10), Some(10), None));
    let mut sets = harness.api.read_all::<ReplicaSet>();
    sets.sort_by_key(sets::replicas);
    assert_eq!(sets.iter().map(sets::replicas).collect::<Vec<_>>(), [0, 10]);
    assert_eq!(sets.iter().map(|s| sets::annotation(s, history::REVISION)).collect::<Vec<_>>(), [Some("1"), Some("2")]);
    assert_eq!(read(&harness.api).metadata.annotations.unwrap()[history::REVISION], "2");
    let name = sets::name(&sets[0]);
    harness.api.until(|api| api.read_all::<Event>().iter().any(|e| e.message == Some(format!("Scaled up replica set {name} from 0 to 10")))).await;
}

#[tokio::test(start_paused = true)]
async fn going_back_reuses_the_old_set_and_history_is_limited() {
    let harness = started(&deployment(3, "one")).await;
    finished(&harness).await;
    for image in ["two", "three", "one"] {
        change(&harness, |d| d.spec.template = deployment(3, image).spec.template);
        harness.api.until(|api| reason(api) != "NewReplicaSetAvailable").await;
        finished(&harness).await;
    }
    let revisions: Vec<_> = harness.api.read_all::<ReplicaSet>().iter().filter_map(history::revision).collect();
    assert_eq!(revisions.len(), 2, "{revisions:?}");
    assert_eq!(read(&harness.api).metadata.annotations.unwrap()[history::REVISION], "4");
}

#[tokio::test(start_paused = true)]
async fn a_stuck_rollout_times_out() {
    let harness = Harness::new();
    start(&harness.context);
    replicaset::start(&harness.context);
    harness.api.seed(&deployment(2, "bad"));
    harness.api.until(|api| reason(api) == "ReplicaSetUpdated").await;
    harness.api.until(|api| reason(api) == "ProgressDeadlineExceeded").await;
    let passed = harness.context.env.now().duration_since("2026-01-01T00:00:00Z".parse().unwrap()).as_secs();
    assert!((600..610).contains(&passed), "{passed}");
}

#[tokio::test(start_paused = true)]
async fn recreation_waits_until_all_old_pods_are_gone() {
    let mut d = deployment(2, "one");
    d.spec.strategy = serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    let harness = started(&d).await;
    finished(&harness).await;
    // Bound pods go away only when the node agent says so.
    for pod in harness.api.read_all::<Pod>() {
        harness.api.change::<Pod>("a", pod.metadata.name.as_deref().unwrap(), |p| p.spec.as_mut().unwrap().node_name = Some("n".into()));
    }
    change(&harness, |d| d.spec.template = deployment(2, "two").spec.template);
    harness.settle().await;
    let pods = harness.api.read_all::<Pod>();
    assert!(pods.len() == 2 && pods.iter().all(|p| p.metadata.deletion_timestamp.is_some()), "{pods:#?}");
    for pod in pods {
        let now = knarr_client::Deletion { grace_period_seconds: Some(0), ..Default::default() };
        harness.api.client().within::<Pod>("a").delete(pod.metadata.name.as_deref().unwrap(), &now).await.unwrap();
    }
    finished(&harness).await;
    assert_eq!(harness.api.read_all::<Pod>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn scaling_in_the_middle_of_a_rollout_keeps_proportions() {
    let harness = Harness::new();
    start(&harness.context);
    let set = |name: &str, size: i32, image: &str| {
        let template = deployment(1, image).spec.template;
        let set: ReplicaSet = serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"},
                "annotations": {history::DESIRED_REPLICAS: "10", history::MAX_REPLICAS: "13"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true, "blockOwnerDeletion": true}]},
            "spec": {"replicas": size, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"replicas": size}}))
        .unwrap();
        harness.api.seed(&set);
    };
    set("old", 8, "one");
    set("new", 5, "two");
    harness.api.seed(&deployment(20, "two"));
    harness.settle().await;
    let size = |name: &str| sets::replicas(&harness.api.read::<ReplicaSet>("a", name).unwrap());
    assert_eq!((size("old"), size("new")), (15, 10));
}
