//! All controllers against the true API server of this process, with its admission and RBAC: each of them may do what it
//! must do, and the objects that they write are accepted.

mod support;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Deletion, Patch};
use knarr_core::{Value, json};
use support::{Cluster, until};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 80}]}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_lives_and_dies_with_everything_in_it() {
    let cluster = Cluster::start().await;
    cluster.create::<Namespace>("", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})).await;
    cluster.create::<Node>("", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "m"}]}});
    cluster.client.all::<Node>().dynamic().patch_status("n", Patch::strategic(ready)).await.unwrap();
    until("the node has a network and no taints", || async {
        let node = cluster.client.all::<Node>().get("n").await.unwrap().spec.unwrap_or_default();
        node.pod_cidr.is_some() && node.taints.unwrap_or_default().is_empty()
    })
    .await;
    until("the namespace has its account and CA", || async {
        let account = cluster.client.within::<ServiceAccount>("a").find("default").await.unwrap();
        account.is_some() && cluster.client.within::<ConfigMap>("a").find("kube-root-ca.crt").await.unwrap().is_some()
    })
    .await;

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template("one")}});
    cluster.create::<Deployment>("a", deployment).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.create::<Service>("a", service).await;
    let complete = || async {
        cluster.run_pods("a").await;
        let d = cluster.client.within::<Deployment>("a").get("web").await.unwrap();
        let status = d.status.unwrap_or_default();
        let reason = status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some("Progressing")).and_then(|c| c.reason.clone());
        status.observed_generation == d.metadata.generation
            && status.updated_replicas == Some(10)
            && status.available_replicas == Some(10)
            && status.replicas == Some(10)
            && reason.as_deref() == Some("NewReplicaSetAvailable")
    };
    until("the deployment is complete", complete).await;
    let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "two"}]);
    cluster.client.within::<Deployment>("a").patch("web", Patch::json(image)).await.unwrap();
    until("the update is complete", complete).await;
    until("the service shows its pods", || async {
        let slices = cluster.list::<EndpointSlice>("a").await;
        let endpoints = cluster.client.within::<Endpoints>("a").find("web").await.unwrap();
        let old = endpoints.and_then(|e| e.subsets).and_then(|s| s.into_iter().next()).and_then(|s| s.addresses);
        slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).sum::<usize>() == 10 && old.map(|a| a.len()) > Some(0)
    })
    .await;

    let stateful = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
    cluster.create::<StatefulSet>("a", stateful).await;
    until("the stateful set is complete", || async {
        cluster.run_pods("a").await;
        let status = cluster.client.within::<StatefulSet>("a").get("db").await.unwrap().status.unwrap_or_default();
        status.ready_replicas == Some(3) && status.current_revision == status.update_revision
    })
    .await;

    let foreground = Deletion { propagation_policy: Some("Foreground"), ..Deletion::default() };
    cluster.client.within::<Deployment>("a").delete("web", &foreground).await.unwrap();
    until("the deployment is gone with all it owned", || async {
        cluster.run_pods("a").await;
        let pods = cluster.list::<Pod>("a").await;
        let left = pods.iter().filter(|p| p.metadata.labels.as_ref().is_some_and(|l| l["app"] == "web")).count();
        left == 0 && cluster.client.within::<Deployment>("a").find("web").await.unwrap().is_none()
    })
    .await;
    cluster.client.all::<Namespace>().delete("a", &Deletion::default()).await.unwrap();
    until("the namespace is gone", || async {
        cluster.run_pods("a").await;
        let n = cluster.client.all::<Namespace>().find("a").await.unwrap();
        if let Some(n) = &n {
            eprintln!("{:#?}", n.status);
        }
        n.is_none()
    })
    .await;
}
