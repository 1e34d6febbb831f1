use std::time::Duration;

use knarr_core::{Value, ValueExt, json};

use super::*;
use crate::context::testing::Harness;

fn set(change: impl FnOnce(&mut Value)) -> StatefulSet {
    let mut value = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "a", "uid": "s", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 1,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}});
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn pods(harness: &Harness) -> Vec<String> {
    harness.api.read_all::<Pod>().into_iter().filter_map(|p| p.metadata.name).collect()
}

fn status(harness: &Harness) -> plan::SetStatus {
    plan::SetStatus::of(&harness.api.read("a", "web").unwrap())
}

async fn running(set: &StatefulSet) -> Harness {
    let harness = Harness::new();
    start(&harness.context);
    harness.run_pods();
    harness.api.seed(set);
    let wanted = set.spec.replicas.unwrap();
    harness.api.until(|_| status(&harness).ready_replicas == wanted && status(&harness).updated_replicas == wanted).await;
    harness.settle().await;
    harness
}

#[tokio::test(start_paused = true)]
async fn pods_come_in_order_with_their_claims() {
    let harness = running(&set(|_| {})).await;
    let creates: Vec<String> = harness.api.log().into_iter().filter(|l| l.starts_with("create p")).collect();
    let wanted = ["0", "1", "2"].iter().flat_map(|n| [format!("create persistentvolumeclaims a/data-web-{n}"), format!("create pods a/web-{n}")]);
    assert_eq!(creates, wanted.collect::<Vec<_>>());
    let pod: Pod = harness.api.read("a", "web-1").unwrap();
    let labels = pod.metadata.labels.unwrap();
    assert_eq!((labels["statefulset.kubernetes.io/pod-name"].as_str(), labels["apps.kubernetes.io/pod-index"].as_str()), ("web-1", "1"));
    let spec = pod.spec.unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-1"), Some("svc")));
    assert_eq!(spec.volumes.unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-1");
    let status = status(&harness);
    assert_eq!((status.current_revision == status.update_revision, status.current_replicas), (true, 3));
}

#[tokio::test(start_paused = true)]
async fn an_update_goes_from_the_top_and_one_at_a_time() {
    let harness = running(&set(|_| {})).await;
    let before = harness.api.log().len();
    harness.api.change::<StatefulSet>("a", "web", |s| {
        s.spec.template.spec.as_mut().unwrap().containers[0].image = Some("two".into());
        s.metadata.generation = Some(2);
    });
    harness
        .api
        .until(|_| {
            status(&harness).current_revision == status(&harness).update_revision
                && status(&harness).observed_generation == 2
                && status(&harness).updated_replicas == 3
        })
        .await;
    let log: Vec<String> = harness.api.log()[before..].iter().filter(|l| l.contains("te pods ")).cloned().collect();
    assert_eq!(log, ["delete pods a/web-2", "create pods a/web-2", "delete pods a/web-1", "create pods a/web-1", "delete pods a/web-0", "create pods a/web-0"]);
    assert_eq!(harness.api.read_all::<ControllerRevision>().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_partition_keeps_what_is_below_it() {
    let harness = running(&set(|_| {})).await;
    harness.api.change::<StatefulSet>("a", "web", |s| {
        s.spec.template.spec.as_mut().unwrap().containers[0].image = Some("two".into());
        s.spec.update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap().partition = Some(2);
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let image = |n: u32| harness.api.read::<Pod>("a", &format!("web-{n}")).unwrap().spec.unwrap().containers[0].image.clone().unwrap();
    assert_eq!([image(0), image(1), image(2)], ["one", "one", "two"]);
    harness.api.client().within::<Pod>("a").delete("web-0", &Default::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(image(0), "one", "a pod below the partition comes back as it was");
}

#[tokio::test(start_paused = true)]
async fn scaling_down_takes_the_highest_and_keeps_claims_unless_told() {
    let harness = running(&set(|_| {})).await;
    harness.api.change::<StatefulSet>("a", "web", |s| s.spec.replicas = Some(1));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pods(&harness), ["web-0"]);
    assert_eq!(harness.api.read_all::<PersistentVolumeClaim>().len(), 3);
    let deletes: Vec<String> = harness.api.log().into_iter().filter(|l| l.starts_with("delete pods")).collect();
    assert_eq!(deletes, ["delete pods a/web-2", "delete pods a/web-1"]);
}

#[tokio::test(start_paused = true)]
async fn parallel_sets_do_not_wait() {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&set(|v| v.set(&["spec", "podManagementPolicy"], "Parallel")));
    harness.settle().await;
    assert_eq!(pods(&harness), ["web-0", "web-1", "web-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_pod_is_replaced_under_its_name() {
    let harness = running(&set(|_| {})).await;
    let uid = |harness: &Harness| harness.api.read::<Pod>("a", "web-1").and_then(|p| p.metadata.uid);
    let before = uid(&harness);
    harness.api.change::<Pod>("a", "web-1", |p| p.status.get_or_insert_default().phase = Some("Failed".into()));
    harness.settle().await;
    assert!(uid(&harness).is_some() && uid(&harness) != before);
    assert_eq!(pods(&harness).len(), 3);
}
