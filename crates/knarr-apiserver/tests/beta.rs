//! Versions that are served where `--runtime-config` asks for them.

mod support;

use knarr_apiserver::Config;
use knarr_core::{Value, json};
use knarr_schema::registry::{Registry, RuntimeConfig};
use support::{Answer, Cluster};

async fn start(runtime_config: &str) -> Cluster {
    let registry = Registry::everything().chosen(&RuntimeConfig::parse(runtime_config).unwrap());
    Cluster::start_built(Config::default(), |builder| builder.registry(registry)).await
}

fn versions(group: &Value) -> Vec<&str> {
    group["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect()
}

fn warning(answer: &Answer) -> &str {
    answer.headers.get("warning").map_or("", |w| w.to_str().unwrap())
}

const RESOURCE: &str = "/apis/resource.k8s.io";

#[tokio::test]
async fn versions_are_served_where_they_are_asked_for() {
    let (plain, beta) = (Cluster::start().await, start("api/beta=true").await);
    assert_eq!(plain.get("/apis/resource.k8s.io/v1beta1/deviceclasses").await.code, 404);
    assert_eq!(versions(&plain.get(RESOURCE).await.json()), ["v1"]);
    let group = beta.get(RESOURCE).await.json();
    assert_eq!(versions(&group), ["v1", "v1beta2", "v1beta1"]);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let aggregated = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList";
    let all = beta.send("GET", "/apis", &[("accept", aggregated)], "").await.json();
    let group = all["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "resource.k8s.io").unwrap();
    assert_eq!(versions(group), ["v1", "v1beta2", "v1beta1"]);
    let document = beta.get("/openapi/v3/apis/resource.k8s.io/v1beta1").await.json();
    assert!(document["components"]["schemas"]["io.k8s.api.resource.v1beta1.BasicDevice"]["description"].is_string());
    assert_eq!(plain.get("/openapi/v3/apis/resource.k8s.io/v1beta1").await.code, 404);
    let without = start("apps/v1=false,batch/v1/jobs=false").await;
    assert_eq!(without.get("/apis/apps").await.code, 404);
    assert_eq!((without.get("/apis/batch/v1/jobs").await.code, without.get("/apis/batch/v1/cronjobs").await.code), (404, 200));
}

#[tokio::test]
async fn one_object_is_seen_in_every_version() {
    let cluster = start("api/beta=true").await;
    let claims = |version: &str| format!("{RESOURCE}/{version}/namespaces/default/resourceclaims");
    let mut watch = cluster.open(&format!("{}?watch=true", claims("v1beta1")), &[]).await;
    let spec = json!({"devices": {"requests": [{"name": "r", "deviceClassName": "gpu"}]}});
    let created = cluster.post(&claims("v1beta1"), &json!({"metadata": {"name": "c"}, "spec": spec})).await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(warning(&created), "299 - \"resource.k8s.io/v1beta1 ResourceClaim is deprecated in v1.35+, unavailable in v1.38+\"");
    let created = created.json();
    assert_eq!(created["spec"]["devices"]["requests"], json!([{"name": "r", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}]));
    assert_eq!(created["metadata"]["managedFields"][0]["apiVersion"], "resource.k8s.io/v1beta1");
    let exactly = json!([{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}}]);
    for version in ["v1", "v1beta2"] {
        let read = cluster.get(&format!("{}/c", claims(version))).await.json();
        assert_eq!((&read["apiVersion"], &read["spec"]["devices"]["requests"]), (&json!(format!("resource.k8s.io/{version}")), &exactly));
        assert_eq!(read["metadata"]["uid"], created["metadata"]["uid"]);
    }
    assert_eq!(warning(&cluster.get(&claims("v1")).await), "");
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["spec"]), (&json!("ADDED"), &created["spec"]));
    let list = cluster.get(&claims("v1beta1")).await.json();
    assert_eq!((&list["apiVersion"], &list["items"][0]["spec"]), (&json!("resource.k8s.io/v1beta1"), &created["spec"]));
    let table = cluster.send("GET", &claims("v1beta2"), &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.json();
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("c"), json!("pending")]);
    // What is wrong is told in the words of v1.
    let wrong = cluster.post(&claims("v1beta1"), &json!({"metadata": {"name": "w"}, "spec": {"devices": {"requests": [{"name": "r"}]}}})).await.json();
    assert!(wrong["message"].as_str().unwrap().contains("spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable`"), "{wrong}");
    assert_eq!(cluster.delete(&format!("{}/c", claims("v1beta2"))).await.json()["apiVersion"], "resource.k8s.io/v1beta2");
}

#[tokio::test]
async fn devices_are_changed_in_every_version() {
    let cluster = start("resource.k8s.io/v1beta1=true").await;
    let slices = |version: &str| format!("{RESOURCE}/{version}/resourceslices");
    let device = json!({"name": "d", "basic": {"attributes": {"model": {"string": "m"}}}});
    let slice = json!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": {
        "driver": "x.example.com", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}, "devices": [device]}});
    let apply = "application/apply-patch+yaml";
    let applied = cluster.patch(&format!("{}/s?fieldManager=a", slices("v1beta1")), apply, &slice.to_string()).await;
    assert_eq!(applied.code, 201, "{}", applied.text());
    assert_eq!(applied.json()["spec"]["devices"], json!([device]));
    let read = cluster.get(&format!("{}?fieldSelector=spec.nodeName%3Dn", slices("v1"))).await.json();
    assert_eq!(read["items"][0]["spec"]["devices"], json!([{"name": "d", "attributes": {"model": {"string": "m"}}}]));
    // Applied again in the other version, nothing changes hands.
    let mut stable = slice.clone();
    stable["apiVersion"] = "resource.k8s.io/v1".into();
    stable["spec"]["devices"] = json!([{"name": "d", "attributes": {"model": {"string": "n"}}}]);
    let applied = cluster.patch(&format!("{}/s?fieldManager=a", slices("v1")), apply, &stable.to_string()).await.json();
    assert_eq!(applied["metadata"]["managedFields"].as_array().unwrap().len(), 1, "{applied}");
    let merged = cluster.patch(&format!("{}/s", slices("v1beta1")), "application/merge-patch+json", r#"{"spec":{"nodeName":"","allNodes":true}}"#).await.json();
    assert!(merged["message"].as_str().unwrap().contains("field is immutable"), "{merged}");
    assert_eq!(cluster.get(&format!("{}/s", slices("v1beta1"))).await.json()["spec"]["devices"][0]["basic"]["attributes"]["model"]["string"], "n");
}

#[tokio::test]
async fn versions_that_look_alike_share_what_is_stored() {
    let cluster = start("api/beta=true").await;
    let migration = json!({"metadata": {"name": "m"}, "spec": {"resource": {"group": "apps", "resource": "deployments"}}});
    let created = cluster.post("/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations", &migration).await;
    assert_eq!((created.code, &created.json()["apiVersion"]), (201, &json!("storagemigration.k8s.io/v1beta1")), "{}", created.text());
    let read = cluster.get("/apis/storagemigration.k8s.io/v1/storageversionmigrations/m").await.json();
    assert_eq!((&read["apiVersion"], &read["spec"]), (&json!("storagemigration.k8s.io/v1"), &migration["spec"]));
    let status = json!({"status": {"resourceVersion": "5"}}).to_string();
    let path = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations/m/status";
    assert_eq!(cluster.patch(path, "application/merge-patch+json", &status).await.json()["status"]["resourceVersion"], "5");
}

#[tokio::test]
async fn candidates_for_leases_are_checked() {
    let cluster = start("coordination.k8s.io/v1beta1=true").await;
    let path = "/apis/coordination.k8s.io/v1beta1/namespaces/default/leasecandidates";
    let spec = json!({"leaseName": "l", "binaryVersion": "1.37.0", "emulationVersion": "1.36.0", "strategy": "OldestEmulationVersion"});
    let created = cluster.post(path, &json!({"metadata": {"name": "A_b"}, "spec": spec})).await;
    assert_eq!((created.code, &created.json()["spec"]), (201, &spec), "{}", created.text());
    assert_eq!(warning(&created), "299 - \"coordination.k8s.io/v1beta1 LeaseCandidate is deprecated in v1.36+, unavailable in v1.39+\"");
    for (spec, wanted) in [
        (json!({}), "[spec.leaseName: Required value, spec.binaryVersion: Required value, spec.strategy: Required value]"),
        (
            json!({"leaseName": "x", "binaryVersion": "1.37", "emulationVersion": "v1", "strategy": "Foo"}),
            "[spec.emulationVersion: Invalid value: \"v1\": must be a valid semantic version, spec.binaryVersion: Invalid value: \"1.37\": must be a valid semantic version, spec.strategy.strategy: Unsupported value: \"Foo\": supported values: \"OldestEmulationVersion\"]",
        ),
        (
            json!({"leaseName": "x", "binaryVersion": "1.36.0", "emulationVersion": "1.37.0", "strategy": "OldestEmulationVersion"}),
            "spec.binaryVersion: Invalid value: \"1.36.0\": must be greater than or equal to `emulationVersion`",
        ),
        (
            json!({"leaseName": "x", "binaryVersion": "1.36.0", "strategy": "OldestEmulationVersion"}),
            "spec.emulationVersion: Required value: must be specified when `strategy` is 'OldestEmulationVersion'",
        ),
    ] {
        let refused = cluster.post(path, &json!({"metadata": {"name": "ab"}, "spec": spec})).await.json();
        assert_eq!(refused["message"], format!("LeaseCandidate.coordination.k8s.io \"ab\" is invalid: {wanted}"));
    }
    let table = cluster.send("GET", path, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.json();
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..4], [json!("A_b"), json!("l"), json!("1.37.0"), json!("1.36.0")]);
}
