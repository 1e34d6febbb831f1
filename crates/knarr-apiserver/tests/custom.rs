//! Custom resources: from a definition to objects and back to nothing.

mod support;

use std::{sync::Arc, time::Duration};

use knarr_apiserver::{admission, stored::Stored};
use knarr_core::{Value, ValueExt, json};
use support::{Cluster, with_deep_stack};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Value {
    json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                        "cronSpec": {"type": "string"}, "replicas": {"type": "integer", "minimum": 1, "default": 1}, "color": {"type": "string"},
                    }},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}},
                }}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"}],
            }],
        },
    })
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"kind": "CronTab", "apiVersion": "stable.example.com/v1", "metadata": {"name": name}, "spec": spec})
}

/// Asks until the answer is as wanted.
async fn until(cluster: &Cluster, path: &str, wanted: impl Fn(u16, Value) -> bool) {
    for _ in 0..500 {
        let answer = cluster.get(path).await;
        let json = serde_json::from_slice(&answer.body).unwrap_or_default();
        if wanted(answer.code, json) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{path} did not become what was wanted: {}", cluster.get(path).await.text());
}

fn is_true(definition: &Value, kind: &str) -> bool {
    definition.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

async fn with_definition() -> Cluster {
    let cluster = Cluster::start().await;
    let created = cluster.post(DEFINITIONS, &definition()).await;
    assert_eq!(created.code, 201, "{}", created.text());
    until(&cluster, &format!("{DEFINITIONS}/crontabs.stable.example.com"), |_, d| is_true(&d, "Established") && is_true(&d, "NamesAccepted")).await;
    until(&cluster, "/apis/stable.example.com/v1", |code, _| code == 200).await;
    cluster
}

#[tokio::test]
async fn a_definition_makes_a_resource_with_rules() {
    let cluster = with_definition().await;
    let created = cluster.post(TABS, &tab("a", json!({"cronSpec": "* * * * *", "unknown": 1}))).await;
    assert_eq!((created.code, created.headers["warning"].to_str().unwrap()), (201, "299 - \"unknown field \\\"spec.unknown\\\"\""), "{}", created.text());
    assert_eq!(created.json()["spec"], json!({"cronSpec": "* * * * *", "replicas": 1}));
    assert_eq!(created.json()["metadata"]["generation"], 1);
    let bad = cluster.post(TABS, &tab("b", json!({"replicas": 0}))).await;
    let text = "CronTab.stable.example.com \"b\" is invalid: [spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1, spec.cronSpec: Required value]";
    assert_eq!((bad.code, bad.json()["message"].as_str()), (422, Some(text)));
    let strict = cluster.post(&format!("{TABS}?fieldValidation=Strict"), &tab("c", json!({"cronSpec": "x", "unknown": 1}))).await;
    let text = "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: unknown field \"spec.unknown\"";
    assert_eq!((strict.code, strict.json()["message"].as_str()), (400, Some(text)));
    let list = cluster.get(TABS).await.json();
    assert_eq!((list["kind"].as_str(), list["items"][0]["kind"].as_str()), (Some("CronTabList"), Some("CronTab")));
    let table = cluster.send("GET", TABS, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.json();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * * * *"]));
    assert_eq!(cluster.send("GET", TABS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await.code, 406);
    let none = cluster.get(&format!("{TABS}?fieldSelector=spec.color%3Dred")).await.json();
    assert_eq!(none.list_at(&["items"]).len(), 0);
}

#[tokio::test]
async fn a_definitions_status_has_an_owner() {
    let cluster = with_definition().await;
    let stored = cluster.get(&format!("{DEFINITIONS}/crontabs.stable.example.com")).await.json();
    let owner = stored.list_at(&["metadata", "managedFields"]).iter().find(|m| m["subresource"] == "status").expect("the status has an owner");
    assert_eq!((owner["manager"].as_str(), owner["operation"].as_str()), (Some("kube-apiserver"), Some("Update")));
    assert!(owner["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Established\"}"].is_object(), "{owner}");
}

#[tokio::test]
async fn finalizers_without_a_path_are_taken_with_a_warning() {
    let cluster = with_definition().await;
    let mut object = tab("a", json!({"cronSpec": "x"}));
    object.set(&["metadata", "finalizers"], json!(["resources-finalizer.argocd.argoproj.io"]));
    let created = cluster.post(TABS, &object).await;
    let warning = "299 - \"metadata.finalizers: \\\"resources-finalizer.argocd.argoproj.io\\\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers\"";
    assert_eq!((created.code, created.headers["warning"].to_str().unwrap()), (201, warning), "{}", created.text());
    let patched = cluster.patch(&format!("{TABS}/a"), "application/merge-patch+json", r#"{"metadata":{"finalizers":["mine"]}}"#).await;
    assert_eq!((patched.code, patched.headers.contains_key("warning")), (200, true), "{}", patched.text());
    let status = cluster.put(&format!("{TABS}/a/status"), &patched.json()).await;
    assert_eq!(status.code, 200, "{}", status.text());
}

#[tokio::test]
async fn a_null_goes_when_it_is_sent_and_stays_when_it_is_applied() {
    let cluster = with_definition().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    let with_null = tab("a", json!({"cronSpec": null, "replicas": null}));
    let created = cluster.post(TABS, &with_null).await;
    assert_eq!((created.code, created.text().contains("spec.cronSpec: Required value")), (422, true), "{}", created.text());
    let applied = cluster.patch(&format!("{TABS}/a?fieldManager=m"), "application/apply-patch+yaml", &with_null.to_string()).await;
    let text = "CronTab.stable.example.com \"a\" is invalid: spec.cronSpec: Invalid value: \"null\": spec.cronSpec in body must be of type string: \"null\"";
    assert_eq!((applied.code, applied.json()["message"].as_str()), (422, Some(text)));
}

#[tokio::test]
async fn status_and_scale_are_sides_of_their_own() {
    let cluster = with_definition().await;
    let mut object = cluster.post(TABS, &tab("a", json!({"cronSpec": "x"}))).await.json();
    object.set(&["status"], json!({"replicas": 2, "labelSelector": "a=b"}));
    object.set(&["spec", "cronSpec"], "y");
    let updated = cluster.put(&format!("{TABS}/a/status"), &object).await.json();
    assert_eq!(
        (updated["spec"]["cronSpec"].as_str(), updated["status"]["replicas"].as_i64(), updated["metadata"]["generation"].as_i64()),
        (Some("x"), Some(2), Some(1))
    );
    let mut scale = cluster.get(&format!("{TABS}/a/scale")).await.json();
    assert_eq!((scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()), (Some(1), Some("a=b")));
    scale.set(&["spec", "replicas"], 5);
    assert_eq!(cluster.put(&format!("{TABS}/a/scale"), &scale).await.code, 200);
    let table = cluster.send("GET", &format!("{TABS}/a/scale"), &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.json();
    assert_eq!((table["kind"].as_str(), table["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("a")));
    let scaled = cluster.get(&format!("{TABS}/a")).await.json();
    assert_eq!((scaled["spec"]["replicas"].as_i64(), scaled["metadata"]["generation"].as_i64()), (Some(5), Some(2)));
}

#[tokio::test]
async fn a_default_declared_later_reaches_objects_that_are_stored() {
    let cluster = with_definition().await;
    cluster.post(TABS, &tab("a", json!({"cronSpec": "x"}))).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let mut changed = cluster.get(&path).await.json();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]["default"] = "red".into();
    assert_eq!(cluster.put(&path, &changed).await.code, 200);
    until(&cluster, &format!("{TABS}/a"), |_, tab| tab["spec"]["color"] == "red").await;
    until(&cluster, &format!("{TABS}?fieldSelector=spec.color%3Dred"), |_, list| list.list_at(&["items"]).len() == 1).await;
}

#[tokio::test]
async fn a_definition_goes_when_its_objects_are_gone() {
    let cluster = with_definition().await;
    let mut held = tab("a", json!({"cronSpec": "x"}));
    held.set(&["metadata", "finalizers"], json!(["example.com/hold"]));
    cluster.post(TABS, &held).await;
    cluster.post(TABS, &tab("b", json!({"cronSpec": "x"}))).await;
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let going = cluster.delete(&path).await.json();
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&cluster, TABS, |_, list| list.list_at(&["items"]).len() == 1).await;
    let refused = cluster.post(TABS, &tab("c", json!({"cronSpec": "x"}))).await;
    assert!(refused.code == 403 && refused.text().contains("create not allowed while custom resource definition is terminating"), "{}", refused.text());
    let mut freed = cluster.get(&format!("{TABS}/a")).await.json();
    freed.set(&["metadata", "finalizers"], json!([]));
    assert_eq!(cluster.put(&format!("{TABS}/a"), &freed).await.code, 200);
    until(&cluster, &path, |code, _| code == 404).await;
    until(&cluster, TABS, |code, _| code == 404).await;
    assert_eq!(cluster.get("/apis/stable.example.com/v1").await.code, 404);
}

/// The definition with rules in CEL.
fn with_rules() -> Value {
    let mut definition = definition();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["x-kubernetes-validations"] = json!([{"rule": "self.metadata.name.size() < 9", "message": "the name is too long"}]);
    let spec = &mut schema["properties"]["spec"];
    spec["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 10", "messageExpression": "self.replicas > 100 ? 'far too many' : 'at most 10 replicas'", "fieldPath": ".replicas"},
        {"rule": "self.replicas >= oldSelf.replicas", "message": "replicas may not become fewer", "reason": "FieldValueForbidden", "fieldPath": ".replicas"},
    ]);
    spec["properties"]["color"] = json!({"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self in ['red', 'blue']"}]});
    schema["properties"]["status"]["x-kubernetes-validations"] =
        json!([{"rule": "!has(self.replicas) || self.replicas >= 0", "message": "no fewer than none"}]);
    definition
}

#[tokio::test]
async fn rules_in_cel_hold_for_every_write() {
    let cluster = Cluster::start().await;
    let created = cluster.post(DEFINITIONS, &with_rules()).await;
    assert_eq!(created.code, 201, "{}", created.text());
    until(&cluster, "/apis/stable.example.com/v1", |code, _| code == 200).await;
    let message = |answer: &support::Answer| answer.json()["message"].as_str().unwrap_or_default().to_owned();

    let bad = cluster.post(TABS, &tab("far-too-long", json!({"cronSpec": "x", "replicas": 11, "color": "green"}))).await;
    let told = "CronTab.stable.example.com \"far-too-long\" is invalid: [<nil>: Invalid value: the name is too long, spec.replicas: Invalid value: at most 10 replicas, spec.color: Invalid value: \"green\": failed rule: self in ['red', 'blue']]";
    assert_eq!((bad.code, message(&bad).as_str()), (422, told));
    // What is wrong already says enough.
    let broken = cluster.post(TABS, &tab("b", json!({"cronSpec": 1, "replicas": 11}))).await;
    assert!(message(&broken).ends_with("<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"), "{}", broken.text());

    let made = cluster.post(TABS, &tab("a", json!({"cronSpec": "x", "replicas": 5}))).await;
    assert_eq!(made.code, 201, "{}", made.text());
    let fewer = cluster.patch(&format!("{TABS}/a"), "application/merge-patch+json", r#"{"spec":{"replicas":4}}"#).await;
    assert_eq!(
        (fewer.code, message(&fewer).as_str()),
        (422, "CronTab.stable.example.com \"a\" is invalid: spec.replicas: Forbidden: replicas may not become fewer")
    );
    let mut object = made.json();
    object.set(&["spec", "replicas"], 4);
    assert_eq!(cluster.put(&format!("{TABS}/a"), &object).await.code, 422);
    let apply = |replicas: i64| {
        format!("{{\"apiVersion\":\"stable.example.com/v1\",\"kind\":\"CronTab\",\"metadata\":{{\"name\":\"a\"}},\"spec\":{{\"replicas\":{replicas}}}}}")
    };
    let target = format!("{TABS}/a?fieldManager=test&force=true");
    let applied = async |replicas| cluster.patch(&target, "application/apply-patch+yaml", &apply(replicas)).await;
    assert_eq!((applied(4).await.code, applied(6).await.code), (422, 200));
    let status = cluster.patch(&format!("{TABS}/a/status"), "application/merge-patch+json", r#"{"status":{"replicas":-1}}"#).await;
    assert_eq!((status.code, message(&status).as_str()), (422, "CronTab.stable.example.com \"a\" is invalid: status: Invalid value: no fewer than none"));
}

#[tokio::test]
async fn what_a_new_rule_forbids_may_stay_until_it_is_changed() {
    let cluster = with_definition().await;
    assert_eq!(cluster.post(TABS, &tab("a", json!({"cronSpec": "x", "color": "green"}))).await.code, 201);
    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let mut changed = cluster.get(&path).await.json();
    changed["spec"] = with_rules()["spec"].clone();
    assert_eq!(cluster.put(&path, &changed).await.code, 200);
    let green = |name: &str| tab(name, json!({"cronSpec": "x", "color": "green"}));
    for _ in 0..500 {
        if cluster.post(&format!("{TABS}?dryRun=All"), &green("b")).await.code == 422 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let kept = cluster.patch(&format!("{TABS}/a"), "application/merge-patch+json", r#"{"spec":{"cronSpec":"y"}}"#).await;
    let warning = "299 - \"spec.color: Invalid value: \\\"green\\\": failed rule: self in ['red', 'blue']\"";
    assert_eq!((kept.code, kept.headers["warning"].to_str().unwrap()), (200, warning), "{}", kept.text());
    let other = cluster.patch(&format!("{TABS}/a"), "application/merge-patch+json", r#"{"spec":{"color":"pink"}}"#).await;
    assert_eq!(other.code, 422, "{}", other.text());
}

#[tokio::test]
async fn rules_that_cannot_be_kept_are_refused_with_the_definition() {
    let cluster = Cluster::start().await;
    let refused = |rule: &str| {
        let mut definition = definition();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": rule}]);
        definition
    };
    let place = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
    let unknown = cluster.post(DEFINITIONS, &refused("self.nope == 1")).await;
    let cause = unknown.json()["details"]["causes"][0].clone();
    assert_eq!((unknown.code, cause["reason"].as_str(), cause["field"].as_str()), (422, Some("FieldValueInvalid"), Some(place)), "{}", unknown.text());
    assert!(
        cause["message"].as_str().is_some_and(|m| m.ends_with("compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^"))
    );
    let expensive = cluster.post(DEFINITIONS, &refused("self.cronSpec.split('').all(x, self.color.split('').all(y, x == y))")).await;
    let cause = expensive.json()["details"]["causes"][0].clone();
    assert_eq!((expensive.code, cause["reason"].as_str(), cause["field"].as_str()), (422, Some("FieldValueForbidden"), Some(place)));
    assert_eq!(
        cause["message"],
        "Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    );
}

#[tokio::test]
async fn custom_resources_are_routed_and_listed_as_upstreams_trees_are() {
    let cluster = with_definition().await;
    assert_eq!(cluster.post(TABS, &tab("a", json!({"cronSpec": "x"}))).await.code, 201);
    let list = cluster.get(TABS).await.text();
    assert!(list.starts_with(r#"{"apiVersion":"stable.example.com/v1","items":[{"#), "{list}");
    assert!(list.contains(r#"],"kind":"CronTabList","metadata":{"continue":"","resourceVersion":""#), "{list}");
    let message = async |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        let answer = cluster.send(method, path, headers, body.to_owned()).await;
        (answer.code, answer.json().str_at(&["message"]).unwrap_or_default().to_owned())
    };
    let one = format!("{TABS}/a");
    assert_eq!(cluster.send("HEAD", &one, &[], "").await.code, 200);
    assert_eq!(message("GET", &format!("{one}/nosuch"), &[], "").await, (404, r#"crontabs.stable.example.com "a" not found"#.into()));
    assert_eq!(message("FOO", &one, &[], "").await, (405, r#" is not supported on resources of kind "crontabs.stable.example.com""#.into()));
    assert_eq!(message("PUT", TABS, &[], "").await, (400, "name must be provided".into()));
    let types = "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    assert_eq!(message("PATCH", &one, &[("Content-Type", "application/strategic-merge-patch+json")], "{}").await, (415, types.into()));
    let other = cluster.patch(&one, "application/merge-patch+json", r#"{"kind":"Other"}"#).await;
    let why = r#"Other.stable.example.com "a" is invalid: kind: Invalid value: "Other": must be CronTab"#;
    assert_eq!((other.code, other.json()["message"].as_str().unwrap()), (422, why));
}

#[test]
fn what_is_nested_deep_is_pruned_or_refused_where_the_schema_has_no_place_for_it() {
    with_deep_stack(async || {
        let cluster = with_definition().await;
        let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
        let body =
            |place: &str| format!(r#"{{"kind":"CronTab","apiVersion":"stable.example.com/v1","metadata":{{"name":"a"}},"spec":{{"cronSpec":"x"}}{place}}}"#);
        let pruned = cluster.send("POST", TABS, &[], body(&format!(r#","unknown":{deep}"#))).await;
        assert_eq!((pruned.code, pruned.json().get("unknown")), (201, None), "{}", pruned.text());
        let kept = cluster.patch(&format!("{TABS}/a"), "application/merge-patch+json", &format!(r#"{{"spec":{{"color":{deep}}}}}"#)).await;
        assert_eq!(kept.code, 422, "{}", kept.text());
    });
}
