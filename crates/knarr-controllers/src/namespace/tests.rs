use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use knarr_client::client;
use knarr_core::{Value, ValueExt, json};

use super::*;
use crate::context::testing::Harness;

fn tree(namespace: &Namespace) -> Value {
    client::tree(namespace).unwrap()
}

async fn cluster() -> Harness {
    let harness = Harness::new();
    let census = Census::start(&harness.context);
    crate::garbagecollector::start(&harness.context, &census);
    start(&harness.context, &census);
    harness.api.seed_value(
        client::gvr::<Namespace>(),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    );
    harness.api.seed_value(client::gvr::<ConfigMap>(), json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "a"}}));
    harness.settle().await;
    harness
}

async fn delete_namespace(harness: &Harness) {
    harness.api.client().all::<Namespace>().delete("a", &Default::default()).await.unwrap();
    harness.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_with_all_it_has() {
    let harness = cluster().await;
    delete_namespace(&harness).await;
    assert!(harness.api.read::<Namespace>("", "a").is_none());
    assert!(harness.api.read_all::<ConfigMap>().is_empty());
}

#[tokio::test(start_paused = true)]
async fn pods_go_first_and_the_rest_as_soon_as_the_last_one_is_gone() {
    let harness = cluster().await;
    harness.api.seed_value(
        client::gvr::<Pod>(),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30, "containers": []}}),
    );
    delete_namespace(&harness).await;
    assert!(harness.api.read::<ConfigMap>("a", "m").is_some());
    let namespace = harness.api.read::<Namespace>("", "a").unwrap();
    let conditions = tree(&namespace);
    let remaining = conditions.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "NamespaceContentRemaining").unwrap();
    assert_eq!(remaining["message"], "Some resources are remaining: pods. has 1 resource instances");
    let gone = Deletion { grace_period_seconds: Some(0), ..Deletion::default() };
    harness.api.client().within::<Pod>("a").delete("p", &gone).await.unwrap();
    harness.settle().await;
    assert!(harness.api.read::<Namespace>("", "a").is_none(), "{:?}", harness.api.log());
}

#[tokio::test(start_paused = true)]
async fn finalizers_are_waited_for_and_told() {
    let harness = cluster().await;
    harness.api.change::<ConfigMap>("a", "m", |m| m.metadata.finalizers = Some(vec!["x.io/keep".into()]));
    delete_namespace(&harness).await;
    let namespace = tree(&harness.api.read::<Namespace>("", "a").unwrap());
    let told = namespace.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "NamespaceFinalizersRemaining").unwrap();
    assert_eq!(told["message"], "Some content in the namespace has finalizers remaining: x.io/keep in 1 resource instances");
    let maps = harness.api.client().within::<ConfigMap>("a");
    maps.patch("m", knarr_client::Patch::merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    harness.settle().await;
    assert!(harness.api.read::<Namespace>("", "a").is_none());
}
