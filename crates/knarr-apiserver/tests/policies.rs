//! Policies of admission: expressions that refuse and change writes.

mod support;

use std::sync::Arc;

use knarr_apiserver::{admission, stored::Stored};
use knarr_core::{Value, ValueExt, json};
use support::Cluster;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    cluster
}

/// Creates a policy and a binding of it, `p` and `b`.
async fn configure(cluster: &Cluster, prefix: &str, plural: &str, resource: (&str, &str), spec: Value, binding: Value) {
    let head = |kind: String, name: &str, spec: Value| json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}, "spec": spec});
    let mut policy = head(format!("{prefix}AdmissionPolicy"), "p", spec);
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [resource.0], "apiVersions": ["v1"], "resources": [resource.1]});
    policy.set(&["spec", "matchConstraints"], json!({"resourceRules": [rule]}));
    let created = cluster.post(&format!("{GROUP}/{plural}admissionpolicies"), &policy).await;
    assert_eq!(created.code, 201, "{}", created.text());
    let mut binding = head(format!("{prefix}AdmissionPolicyBinding"), "b", binding);
    binding.set(&["spec", "policyName"], "p");
    let created = cluster.post(&format!("{GROUP}/{plural}admissionpolicybindings"), &binding).await;
    assert_eq!(created.code, 201, "{}", created.text());
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}

fn deployment(name: &str) -> Value {
    let labels = json!({"app": "a"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}})
}

#[tokio::test]
async fn what_is_not_true_is_refused() {
    let cluster = cluster().await;
    let spec = json!({
        "variables": [{"name": "n", "expression": "object.spec.replicas"}, {"name": "odd", "expression": "variables.n % 2 == 1"}],
        "matchConditions": [{"name": "named", "expression": "object.metadata.name != 'free'"}],
        "validations": [
            {"expression": "variables.n > 1", "messageExpression": "'wants more than 1, got ' + string(variables.n)", "reason": "Forbidden"},
            {"expression": "variables.odd"},
            {"expression": "namespaceObject.metadata.name == 'default'"},
        ],
    });
    configure(&cluster, "Validating", "validating", ("apps", "deployments"), spec, json!({"validationActions": ["Deny"]})).await;
    let refused = cluster.post(DEPLOYMENTS, &deployment("a")).await;
    let wanted = "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: wants more than 1, got 1";
    assert_eq!((refused.code, refused.json()["message"].as_str()), (403, Some(wanted)));
    let mut even = deployment("a");
    even.set(&["spec", "replicas"], 2);
    let refused = cluster.post(DEPLOYMENTS, &even).await;
    let wanted = "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: variables.odd";
    assert_eq!((refused.code, refused.json()["message"].as_str(), refused.json()["reason"].as_str()), (422, Some(wanted), Some("Invalid")));
    even.set(&["spec", "replicas"], 3);
    assert_eq!(cluster.post(DEPLOYMENTS, &even).await.code, 201);
    assert_eq!(cluster.post(DEPLOYMENTS, &deployment("free")).await.code, 201);
}

#[tokio::test]
async fn parameters_are_read_and_warnings_told() {
    let cluster = cluster().await;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "object.data.key == params.data.key"}]});
    let reference = json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"});
    let binding = json!({"validationActions": ["Warn"], "paramRef": reference});
    let limits = config_map("limits", json!({"key": "x"}));
    assert_eq!(cluster.post(CONFIG_MAPS, &limits).await.code, 201);
    configure(&cluster, "Validating", "validating", ("", "configmaps"), spec, binding).await;
    let good = cluster.post(CONFIG_MAPS, &config_map("a", json!({"key": "x"}))).await;
    assert_eq!((good.code, good.headers.get("warning")), (201, None));
    let bad = cluster.post(CONFIG_MAPS, &config_map("b", json!({"key": "y"}))).await;
    let wanted = "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: object.data.key == params.data.key\"";
    assert_eq!((bad.code, bad.headers["warning"].to_str().unwrap()), (201, wanted));
    assert_eq!(cluster.delete(&format!("{CONFIG_MAPS}/limits")).await.code, 200);
    let refused = cluster.post(CONFIG_MAPS, &config_map("c", json!({"key": "x"}))).await;
    let text = refused.json()["message"].as_str().unwrap_or_default().to_owned();
    let wanted = "denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(text.ends_with(wanted), "{text}");
}

#[tokio::test]
async fn configurations_are_merged_and_patches_applied() {
    let cluster = cluster().await;
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'patched': string(object.spec.replicas)}}]";
    let never = "[JSONPatch{op: 'test', path: '/spec/replicas', value: 6}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 7}]";
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [
        apply("Object{metadata: Object.metadata{annotations: {'by': 'policy'}}, spec: Object.spec{replicas: 5}}"),
        apply("Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [
            Object.spec.template.spec.containers{name: 'side', image: 'j'}]}}}}"),
        {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression": never}},
    ]});
    configure(&cluster, "Mutating", "mutating", ("apps", "deployments"), spec, json!({})).await;
    let created = cluster.post(DEPLOYMENTS, &deployment("a")).await;
    assert_eq!(created.code, 201, "{}", created.text());
    let object = created.json();
    assert_eq!((&object["metadata"]["annotations"]["by"], &object["spec"]["replicas"]), (&json!("policy"), &json!(5)));
    assert_eq!(object["metadata"]["labels"], json!({"patched": "5"}));
    let names: Vec<&str> = object.list_at(&["spec", "template", "spec", "containers"]).iter().filter_map(|c| c.str_at(&["name"])).collect();
    assert_eq!(names, ["c", "side"]);
}

#[tokio::test]
async fn what_cannot_be_merged_is_refused() {
    let cluster = cluster().await;
    let expression = "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}";
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    configure(&cluster, "Mutating", "mutating", ("apps", "deployments"), spec, json!({})).await;
    let refused = cluster.post(DEPLOYMENTS, &deployment("a")).await;
    let wanted = "policy 'p' with binding 'b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector";
    assert_eq!((refused.code, refused.json()["message"].as_str()), (403, Some(wanted)));
}
