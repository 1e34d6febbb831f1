use k8s_openapi::api::core::v1::ConfigMap;
use knarr_client::Deletion;
use knarr_core::json;

use super::*;
use crate::context::testing::Harness;

fn map(name: &str, owners: &[&str]) -> ConfigMap {
    let owners: Vec<_> = owners.iter().map(|o| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": o, "uid": o, "blockOwnerDeletion": true})).collect();
    serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": owners}}),
    )
    .unwrap()
}

async fn cluster(maps: &[ConfigMap]) -> Harness {
    let harness = Harness::new();
    maps.iter().for_each(|m| harness.api.seed(m));
    start(&harness.context, &Census::start(&harness.context));
    harness.settle().await;
    harness
}

async fn delete(harness: &Harness, name: &str, policy: &'static str) {
    let deletion = Deletion { propagation_policy: Some(policy), ..Deletion::default() };
    harness.api.client().within::<ConfigMap>("a").delete(name, &deletion).await.unwrap();
    harness.settle().await;
}

fn names(harness: &Harness) -> Vec<String> {
    harness.api.read_all::<ConfigMap>().into_iter().filter_map(|m| m.metadata.name).collect()
}

#[tokio::test(start_paused = true)]
async fn dependents_follow_their_owner_through_generations() {
    let harness = cluster(&[map("owner", &[]), map("child", &["owner"]), map("grandchild", &["child"]), map("other", &[])]).await;
    assert_eq!(names(&harness).len(), 4);
    delete(&harness, "owner", "Background").await;
    assert_eq!(names(&harness), ["other"]);
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_the_owner_goes_last() {
    let harness = cluster(&[map("owner", &[]), map("child", &["owner"])]).await;
    delete(&harness, "owner", "Foreground").await;
    assert!(names(&harness).is_empty());
    let deletes: Vec<String> = harness.api.log().into_iter().filter(|l| l.contains("configmaps")).skip_while(|l| !l.starts_with("delete")).collect();
    assert_eq!(deletes, ["delete configmaps a/owner", "delete configmaps a/child", "patch configmaps a/owner"]);
}

#[tokio::test(start_paused = true)]
async fn orphans_are_left_without_their_owner() {
    let harness = cluster(&[map("owner", &[]), map("child", &["owner"])]).await;
    delete(&harness, "owner", "Orphan").await;
    assert_eq!(names(&harness), ["child"]);
    assert!(harness.api.read::<ConfigMap>("a", "child").unwrap().metadata.owner_references.is_none_or(|o| o.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn with_a_living_owner_only_the_dead_one_is_forgotten() {
    let harness = cluster(&[map("dead", &[]), map("alive", &[]), map("child", &["dead", "alive"])]).await;
    delete(&harness, "dead", "Background").await;
    assert_eq!(names(&harness), ["alive", "child"]);
    let owners = harness.api.read::<ConfigMap>("a", "child").unwrap().metadata.owner_references.unwrap();
    assert_eq!(owners.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>(), ["alive"]);
}

#[tokio::test(start_paused = true)]
async fn what_refers_to_nobody_goes_also_when_nobody_was_ever_seen() {
    let harness = cluster(&[map("child", &["never"])]).await;
    assert!(names(&harness).is_empty());
    harness.api.seed(&map("late", &["never"]));
    harness.settle().await;
    assert!(names(&harness).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_circle_in_the_foreground_ends() {
    let harness = cluster(&[map("a", &["b"]), map("b", &["a"])]).await;
    delete(&harness, "a", "Foreground").await;
    assert!(names(&harness).is_empty(), "{:?}", names(&harness));
}
