//! Webhooks of admission and conversion: servers of others that are asked while a request waits.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::Engine;
use knarr_apiserver::{admission, stored::Stored};
use knarr_core::{Value, ValueExt, json};
use support::{Cluster, outside::Outside};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A server whose answers a function gives by path, and its CA in base64.
async fn server(answer: impl Fn(&str, Value) -> Value + Send + Sync + 'static) -> (SocketAddr, String) {
    let outside = Outside::start(move |asked| {
        assert!(!asked.body.is_null(), "{}: no JSON was sent", asked.path);
        let path = asked.path.split_once('?').map_or(&*asked.path, |(path, _)| path);
        (200, answer(path, asked.body))
    })
    .await;
    (outside.address, base64::engine::general_purpose::STANDARD.encode(outside.ca))
}

/// An `AdmissionReview` that answers another one.
fn verdict(review: &Value, mut response: Value) -> Value {
    response.set(&["uid"], review["request"]["uid"].clone());
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
}

fn patch(operations: Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

/// A configuration of one webhook for ConfigMaps.
fn configuration(kind: &str, url: &str, ca: &str, change: Value) -> Value {
    let mut webhook = json!({
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": url, "caBundle": ca},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in change.as_object().unwrap() {
        webhook[key] = value.clone();
    }
    json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "c"}, "webhooks": [webhook]})
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    cluster
}

async fn configure(cluster: &Cluster, plural: &str, configuration: &Value) {
    let created = cluster.post(&format!("{GROUP}/{plural}"), configuration).await;
    assert_eq!(created.code, 201, "{}", created.text());
}

#[tokio::test]
async fn a_webhook_refuses_in_its_own_words() {
    let (address, ca) = server(|path, review| {
        assert_eq!(path, "/deny");
        let request = &review["request"];
        assert_eq!((&request["requestKind"]["kind"], &request["userInfo"]["username"]), (&json!("ConfigMap"), &json!("admin")));
        let shown = if request["operation"] == "DELETE" { &request["oldObject"] } else { &request["object"] };
        let bad = shown["data"]["bad"] == "yes";
        verdict(&review, json!({"allowed": !bad, "status": {"message": "it is bad", "code": 403, "reason": "Forbidden"}, "warnings": ["look out"]}))
    })
    .await;
    let cluster = cluster().await;
    let url = format!("https://{address}/deny");
    configure(&cluster, "validatingwebhookconfigurations", &configuration("ValidatingWebhookConfiguration", &url, &ca, json!({}))).await;
    let good = cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await;
    assert_eq!((good.code, good.headers["warning"].to_str().unwrap()), (201, "299 - \"look out\""));
    let bad = cluster.post(CONFIG_MAPS, &config_map("b", json!({"bad": "yes"}))).await;
    assert_eq!((bad.code, bad.json()["message"].as_str()), (403, Some("admission webhook \"a.example.com\" denied the request: it is bad")));
    let bad = cluster.put(&format!("{CONFIG_MAPS}/a"), &config_map("a", json!({"bad": "yes"}))).await;
    assert_eq!(bad.code, 403);
    // Its own configuration is no business of a webhook.
    assert_eq!(cluster.delete(&format!("{GROUP}/validatingwebhookconfigurations/c")).await.code, 200);
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("b", json!({"bad": "yes"}))).await.code, 201);
}

#[tokio::test]
async fn patches_are_applied_and_those_before_asked_again() {
    let (address, ca) = server(|path, review| {
        let data = &review["request"]["object"]["data"];
        let add = |key: &str, value: &str| patch(json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]));
        let response = match path {
            // Wants to see what the second one did.
            "/first" if data.get("second").is_some() => add("first", "after"),
            "/first" => add("first", "before"),
            _ if data.get("second").is_none() => add("second", "yes"),
            _ => json!({"allowed": true}),
        };
        verdict(&review, response)
    })
    .await;
    let cluster = cluster().await;
    let mut both = configuration("MutatingWebhookConfiguration", &format!("https://{address}/first"), &ca, json!({"reinvocationPolicy": "IfNeeded"}));
    let second = configuration("", &format!("https://{address}/second"), &ca, json!({"name": "b.example.com"}))["webhooks"][0].clone();
    both["webhooks"].as_array_mut().unwrap().push(second);
    configure(&cluster, "mutatingwebhookconfigurations", &both).await;
    let created = cluster.post(CONFIG_MAPS, &config_map("a", json!({"own": "x"}))).await;
    assert_eq!((created.code, &created.json()["data"]), (201, &json!({"own": "x", "first": "after", "second": "yes"})));
}

#[tokio::test]
async fn a_webhook_that_cannot_be_called_closes_or_opens() {
    let (address, ca) = server(|_, review| json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": review["kind"]}})).await;
    let cluster = cluster().await;
    let url = format!("https://{address}/x");
    let mut wanted = configuration("ValidatingWebhookConfiguration", &url, &ca, json!({"failurePolicy": "Fail"}));
    configure(&cluster, "validatingwebhookconfigurations", &wanted).await;
    let message = |answer: support::Answer| answer.json()["message"].as_str().unwrap().to_owned();
    let refused = cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await;
    assert_eq!(refused.code, 500);
    let text = message(refused);
    assert!(
        text.starts_with("Internal error occurred: failed calling webhook \"a.example.com\": received invalid webhook response: expected response.uid="),
        "{text}"
    );
    let path = format!("{GROUP}/validatingwebhookconfigurations/c");
    for (url, ca, wanted_text) in [
        (
            "https://127.0.0.1:1/x",
            ca.as_str(),
            "failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (&url, "", "failed to call webhook: Post"),
    ] {
        cluster.delete(&path).await;
        configure(&cluster, "validatingwebhookconfigurations", &configuration("ValidatingWebhookConfiguration", url, ca, json!({}))).await;
        let text = message(cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await);
        assert!(text.contains(wanted_text), "{text}");
    }
    wanted["webhooks"][0]["failurePolicy"] = "Ignore".into();
    cluster.delete(&path).await;
    configure(&cluster, "validatingwebhookconfigurations", &wanted).await;
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await.code, 201);
}

#[tokio::test]
async fn selectors_and_scopes_exempt() {
    let (address, ca) = server(|_, review| verdict(&review, json!({"allowed": false}))).await;
    let cluster = cluster().await;
    let change = json!({"objectSelector": {"matchLabels": {"guarded": "yes"}}, "namespaceSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]}});
    configure(&cluster, "validatingwebhookconfigurations", &configuration("ValidatingWebhookConfiguration", &format!("https://{address}"), &ca, change)).await;
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "free", "labels": {"free": "yes"}}});
    assert_eq!(cluster.post("/api/v1/namespaces", &namespace).await.code, 201);
    let mut guarded = config_map("a", json!({}));
    assert_eq!(cluster.post(CONFIG_MAPS, &guarded).await.code, 201);
    guarded.set(&["metadata"], json!({"name": "b", "labels": {"guarded": "yes"}}));
    let refused = cluster.post(CONFIG_MAPS, &guarded).await;
    assert_eq!(refused.json()["message"], "admission webhook \"a.example.com\" denied the request without explanation");
    assert_eq!(cluster.post("/api/v1/namespaces/free/configmaps", &guarded).await.code, 201);
}

#[tokio::test]
async fn match_conditions_exempt() {
    let (address, ca) = server(|_, review| verdict(&review, json!({"allowed": false}))).await;
    let cluster = cluster().await;
    let change = json!({"matchConditions": [
        {"name": "creates", "expression": "request.operation == 'CREATE'"},
        {"name": "not-spared", "expression": "!(object.metadata.name in ['spared'])"},
    ]});
    configure(&cluster, "validatingwebhookconfigurations", &configuration("ValidatingWebhookConfiguration", &format!("https://{address}"), &ca, change)).await;
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("spared", json!({}))).await.code, 201);
    assert_eq!(cluster.put(&format!("{CONFIG_MAPS}/spared"), &config_map("spared", json!({"a": "b"}))).await.code, 200);
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("other", json!({}))).await.code, 400);
}

fn definition(conversion: Value) -> Value {
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "places.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "places", "singular": "place", "kind": "Place", "listKind": "PlaceList"},
            "versions": [version("v1", true), version("v2", false)], "conversion": conversion,
        },
    })
}

async fn served(cluster: &Cluster, path: &str) {
    for _ in 0..500 {
        if cluster.get(path).await.code == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{path} is not served");
}

/// `hostPort` of v1 is `host` and `port` in v2.
fn convert(object: &Value, wanted: &str) -> Value {
    let mut object = object.clone();
    object.set(&["apiVersion"], wanted);
    match object.remove(&["hostPort"]) {
        Some(both) => {
            let (host, port) = both.as_str().unwrap().split_once(':').unwrap();
            object.set(&["host"], host);
            object.set(&["port"], port);
        }
        None => {
            let both = format!("{}:{}", object["host"].as_str().unwrap(), object["port"].as_str().unwrap());
            object.remove(&["host"]);
            object.remove(&["port"]);
            object.set(&["hostPort"], both);
        }
    }
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_converts_custom_resources() {
    let (address, ca) = server(|_, review| {
        let request = &review["request"];
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        let objects: Vec<Value> = request.list_at(&["objects"]).iter().map(|o| convert(o, wanted)).collect();
        let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
        json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
    })
    .await;
    let cluster = cluster().await;
    let webhook = json!({"clientConfig": {"url": format!("https://{address}/convert"), "caBundle": ca}, "conversionReviewVersions": ["v1"]});
    let mut definition = definition(json!({"strategy": "Webhook", "webhook": webhook}));
    assert_eq!(cluster.post(DEFINITIONS, &definition).await.code, 201);
    let (v1, v2) = ("/apis/example.com/v1/namespaces/default/places", "/apis/example.com/v2/namespaces/default/places");
    served(&cluster, v2).await;
    let place = |name: &str, version: &str, rest: Value| {
        let mut object = json!({"kind": "Place", "apiVersion": format!("example.com/{version}"), "metadata": {"name": name}});
        rest.as_object().unwrap().iter().for_each(|(k, v)| object.set(&[k], v.clone()));
        object
    };
    assert_eq!(cluster.post(v1, &place("a", "v1", json!({"hostPort": "h:1"}))).await.code, 201);
    let as_v2 = cluster.get(&format!("{v2}/a")).await.json();
    assert_eq!((&as_v2["apiVersion"], &as_v2["host"], &as_v2["port"]), (&json!("example.com/v2"), &json!("h"), &json!("1")));

    // Objects of both versions at rest make one list.
    let path = format!("{DEFINITIONS}/places.example.com");
    definition = cluster.get(&path).await.json();
    definition["spec"]["versions"][0]["storage"] = false.into();
    definition["spec"]["versions"][1]["storage"] = true.into();
    assert_eq!(cluster.put(&path, &definition).await.code, 200);
    assert_eq!(cluster.post(v2, &place("b", "v2", json!({"host": "h", "port": "2"}))).await.code, 201);
    for (path, wanted) in [(v1, json!(["h:1", "h:2"])), (v2, json!([null, null]))] {
        let list = cluster.get(path).await.json();
        let found: Vec<Value> = list.list_at(&["items"]).iter().map(|i| i["hostPort"].clone()).collect();
        assert_eq!(Value::from(found), wanted, "{list}");
    }
    // A patch in one version reaches an object at rest in the other.
    let patched = cluster.send("PATCH", &format!("{v2}/a"), &[("content-type", "application/merge-patch+json")], r#"{"port":"9"}"#).await.json();
    assert_eq!((&patched["host"], &patched["port"]), (&json!("h"), &json!("9")));
    assert_eq!(cluster.get(&format!("{v1}/a")).await.json()["hostPort"], "h:9");
}

#[tokio::test]
async fn without_a_webhook_versions_differ_in_their_names() {
    let cluster = cluster().await;
    assert_eq!(cluster.post(DEFINITIONS, &definition(json!({"strategy": "None"}))).await.code, 201);
    let (v1, v2) = ("/apis/example.com/v1/namespaces/default/places", "/apis/example.com/v2/namespaces/default/places");
    served(&cluster, v2).await;
    let object = json!({"kind": "Place", "apiVersion": "example.com/v2", "metadata": {"name": "a"}, "x": 1});
    assert_eq!(cluster.post(v2, &object).await.json()["apiVersion"], "example.com/v2");
    assert_eq!(cluster.get(&format!("{v1}/a")).await.json()["apiVersion"], "example.com/v1");
    assert_eq!(cluster.get(v2).await.json()["items"][0]["apiVersion"], "example.com/v2");
}
