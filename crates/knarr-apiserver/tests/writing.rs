//! Writes over the wire: conflicts, names, dry runs, deletes, subresources, what is allocated.

mod support;

use knarr_core::{Value, ValueExt, json};
use support::{Answer, Cluster, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn refused(answer: &Answer, code: u16, message: &str) {
    assert_eq!((answer.code, answer.json().str_at(&["message"])), (code, Some(message)), "{}", answer.text());
}

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn an_update_is_for_the_version_it_names() {
    let cluster = Cluster::start().await;
    let old = cluster.post(MAPS, &config_map("a", json!({}))).await.json();
    let path = format!("{MAPS}/a");
    let mut new = old.clone();
    new.set(&["data"], json!({"k": "v"}));
    let updated = cluster.put(&path, &new).await;
    assert_eq!(updated.code, 200);
    assert_eq!(updated.json()["metadata"]["uid"], old["metadata"]["uid"]);
    let text = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again";
    refused(&cluster.put(&path, &new).await, 409, text);
    new.remove(&["metadata", "resourceVersion"]);
    new.set(&["data", "k"], "w");
    let unconditional = cluster.put(&path, &new).await;
    assert_eq!((unconditional.code, unconditional.json()["data"]["k"].as_str()), (200, Some("w")));
    let again = cluster.put(&path, &new).await.json();
    assert_eq!(again["metadata"]["resourceVersion"], unconditional.json()["metadata"]["resourceVersion"], "what changes nothing is not written");
    refused(&cluster.put(&path, &config_map("b", json!({}))).await, 400, "the name of the object (b) does not match the name on the URL (a)");
    new.set(&["metadata", "namespace"], "other");
    refused(&cluster.put(&path, &new).await, 400, "the namespace of the provided object does not match the namespace sent on the request");
    refused(&cluster.put(&format!("{MAPS}/zzz"), &config_map("zzz", json!({}))).await, 404, "configmaps \"zzz\" not found");
}

#[tokio::test]
async fn creates_are_named_checked_and_tried() {
    let cluster = Cluster::start().await;
    let generated = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"generateName": "a-"}});
    let name = cluster.post(MAPS, &generated).await.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("a-") && name.len() == 7, "{name}");
    refused(&cluster.post(MAPS, &config_map(&name, json!({}))).await, 409, &format!("configmaps \"{name}\" already exists"));
    let tried = cluster.post(&format!("{MAPS}?dryRun=All"), &config_map("dry", json!({}))).await;
    assert_eq!((tried.code, tried.json()["metadata"]["resourceVersion"].as_str()), (201, None));
    assert_eq!(cluster.get(&format!("{MAPS}/dry")).await.code, 404);
    let bad = cluster.post(MAPS, &config_map("A_b", json!({}))).await;
    assert_eq!((bad.code, bad.json().str_at(&["reason"])), (422, Some("Invalid")));
    let unknown = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "u"}, "daata": {}});
    let warned = cluster.post(MAPS, &unknown).await;
    assert_eq!((warned.code, warned.headers["warning"].to_str().unwrap()), (201, "299 - \"unknown field \\\"daata\\\"\""));
    let strict = cluster.post(&format!("{MAPS}?fieldValidation=Strict"), &unknown).await;
    refused(&strict, 400, "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"daata\"");
    assert_eq!(cluster.send("POST", MAPS, &[("content-type", "text/plain")], "x").await.code, 415);
    let yaml =
        cluster.send("POST", MAPS, &[("content-type", "application/yaml")], "kind: ConfigMap\napiVersion: v1\nmetadata: {name: z}\ndata: {a: 'yes'}\n").await;
    assert_eq!((yaml.code, yaml.json()["data"]["a"].as_str()), (201, Some("yes")));
    let too_large = cluster.send("POST", MAPS, &[("content-type", "application/json")], vec![b' '; 4 << 20]).await;
    assert_eq!(too_large.code, 413);
}

#[tokio::test]
async fn an_update_of_some_kinds_judges_the_prefix_of_the_name_again() {
    let cluster = Cluster::start().await;
    let update = async |path: &str, object: Value| {
        let made = cluster.post(path, &object).await;
        assert_eq!(made.code, 201, "{}", made.json());
        let mut object = made.json();
        object.set(&["metadata", "generateName"], "Gen_");
        cluster.put(&format!("{path}/a"), &object).await
    };
    let answer = update(MAPS, config_map("a", json!({}))).await;
    assert_eq!(answer.code, 422);
    assert_eq!(answer.json()["details"]["causes"][0]["field"], "metadata.generateName");
    let answer = update("/api/v1/namespaces/default/services", service("a", json!({"ports": [{"port": 80}]}))).await;
    assert_eq!((answer.code, answer.json().str_at(&["metadata", "generateName"])), (200, Some("Gen_")));
}

/// Upstream keeps two numbers of its internal kinds in annotations.
#[tokio::test]
async fn annotations_that_are_numbers_are_read_as_such() {
    let cluster = Cluster::start().await;
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let object =
        |kind: &str, annotations: Value| json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a", "annotations": annotations}, "spec": spec});
    for (kind, annotation, why) in [
        ("DaemonSet", "deprecated.daemonset.template.generation", ""),
        ("Deployment", "deprecated.deployment.rollback.to", "failed to parse annotation[deprecated.deployment.rollback.to]=x as int64: "),
    ] {
        let path = format!("/apis/apps/v1/namespaces/default/{}s", kind.to_lowercase());
        let why = format!("{why}strconv.ParseInt: parsing \"x\": invalid syntax");
        let bad = object(kind, json!({annotation: "x"}));
        refused(&cluster.post(&path, &bad).await, 400, &format!("{kind} in version \"v1\" cannot be handled as a {kind}: {why}"));
        let made = cluster.post(&path, &object(kind, json!({annotation: "+5"}))).await;
        assert_eq!((made.code, made.json().str_at(&["metadata", "annotations", annotation])), (201, Some("5")));
        refused(&cluster.put(&format!("{path}/a"), &bad).await, 400, &format!("{kind} in version \"v1\" cannot be handled as a {kind}: {why}"));
        let patch = json!({"metadata": {"annotations": {annotation: "x"}}}).to_string();
        let merged = cluster.patch(&format!("{path}/a"), "application/merge-patch+json", &patch).await;
        assert_eq!((merged.code, merged.json()["message"].as_str().is_some_and(|m| m.ends_with(&why))), (422, true), "{}", merged.json());
        let mut status = made.json();
        status.set(&["metadata", "annotations", annotation], "6");
        let kept = cluster.put(&format!("{path}/a/status"), &status).await;
        assert_eq!((kept.code, kept.json().str_at(&["metadata", "annotations", annotation])), (200, Some("5")), "a status says nothing of it");
        refused(&cluster.patch(&format!("{path}/a"), "application/strategic-merge-patch+json", &patch).await, 500, &why);
    }
}

#[tokio::test]
async fn finalizers_and_preconditions_hold_a_delete_back() {
    let cluster = Cluster::start().await;
    let mut held = config_map("a", json!({}));
    held.set(&["metadata", "finalizers"], json!(["example.com/hold"]));
    let created = cluster.post(MAPS, &held).await.json();
    let path = format!("{MAPS}/a");
    let json = [("content-type", "application/json")];
    let wrong = cluster.send("DELETE", &path, &json, r#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"}}"#).await;
    assert_eq!(wrong.code, 409, "{}", wrong.text());
    let deleting = cluster.delete(&path).await.json();
    assert_eq!(deleting["kind"], "ConfigMap");
    assert!(deleting.at(&["metadata", "deletionTimestamp"]).is_some());
    let mut freed = cluster.get(&path).await.json();
    freed.set(&["metadata", "finalizers"], json!([]));
    assert_eq!(cluster.put(&path, &freed).await.code, 200);
    assert_eq!(cluster.get(&path).await.code, 404);
    let plain = cluster.post(MAPS, &config_map("b", json!({}))).await.json();
    let gone = cluster.delete(&format!("{MAPS}/b")).await;
    let wanted = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "b", "kind": "configmaps", "uid": plain["metadata"]["uid"]}});
    assert_eq!((gone.code, gone.json()), (200, wanted));
    cluster.post(MAPS, &config_map("c", json!({}))).await;
    let foreground = cluster.delete(&format!("{MAPS}/c?propagationPolicy=Foreground")).await.json();
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert_ne!(created["metadata"]["uid"], plain["metadata"]["uid"]);
}

#[tokio::test]
async fn a_running_pod_is_given_its_grace() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("p")).await;
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = cluster.post(&format!("{PODS}/p/binding"), &binding).await;
    assert_eq!((bound.code, bound.json()), (201, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})));
    let again = cluster.post(&format!("{PODS}/p/binding"), &binding).await;
    refused(&again, 409, "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"");
    let on_node = cluster.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.json();
    assert_eq!(on_node.list_at(&["items"]).len(), 1);
    let mut running = cluster.get(&format!("{PODS}/p")).await.json();
    running.set(&["status", "phase"], "Running");
    assert_eq!(cluster.put(&format!("{PODS}/p/status"), &running).await.code, 200);
    let dying = cluster.delete(&format!("{PODS}/p")).await.json();
    assert_eq!(dying.i64_at(&["metadata", "deletionGracePeriodSeconds"]), Some(30));
    let shorter = cluster.delete(&format!("{PODS}/p?gracePeriodSeconds=5")).await.json();
    assert_eq!(shorter.i64_at(&["metadata", "deletionGracePeriodSeconds"]), Some(5));
    assert_eq!(cluster.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.code, 200);
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn an_eviction_asks_the_budget() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("p")).await;
    let mut running = cluster.get(&format!("{PODS}/p")).await.json();
    running.set(&["status"], json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
    assert_eq!(cluster.put(&format!("{PODS}/p/status"), &running).await.code, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let mut budget = cluster.post(budgets, &budget).await.json();
    budget.set(&["status"], json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}));
    let set = cluster.put(&format!("{budgets}/b/status"), &budget).await;
    assert_eq!(set.code, 200, "{}", set.text());
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p", "namespace": "default"}});
    let no = cluster.post(&format!("{PODS}/p/eviction"), &eviction).await;
    refused(&no, 429, "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(no.json()["details"]["causes"][0]["message"], "The disruption budget b needs 1 healthy pods and has 1 currently");
    let mut budget = set.json();
    budget.set(&["status", "disruptionsAllowed"], 1);
    assert_eq!(cluster.put(&format!("{budgets}/b/status"), &budget).await.code, 200);
    assert_eq!(cluster.post(&format!("{PODS}/p/eviction"), &eviction).await.code, 201);
    assert_eq!(cluster.get(&format!("{budgets}/b")).await.json().i64_at(&["status", "disruptionsAllowed"]), Some(0));
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn a_service_gets_an_address_and_ports_of_its_own() {
    let cluster = Cluster::start().await;
    let ports = json!([{"port": 80}]);
    let first = cluster.post(SERVICES, &service("a", json!({"type": "NodePort", "ports": ports, "clusterIP": "10.96.0.10"}))).await;
    assert_eq!(first.code, 201, "{}", first.text());
    let first = first.json();
    assert_eq!(first["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    assert!((30000..=32767).contains(&first["spec"]["ports"][0]["nodePort"].as_i64().unwrap()));
    assert_eq!(cluster.get("/apis/networking.k8s.io/v1/ipaddresses/10.96.0.10").await.json()["spec"]["parentRef"]["name"], "a");
    let taken = cluster.post(SERVICES, &service("b", json!({"ports": ports, "clusterIP": "10.96.0.10"}))).await;
    refused(
        &taken,
        422,
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated",
    );
    let port = first["spec"]["ports"][0]["nodePort"].clone();
    let taken = cluster.post(SERVICES, &service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}))).await;
    refused(&taken, 422, &format!("Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"));
    assert_eq!(cluster.get("/apis/networking.k8s.io/v1/ipaddresses").await.json().list_at(&["items"]).len(), 1, "what a refused write took goes back");
    let headless = cluster.post(SERVICES, &service("h", json!({"ports": ports, "clusterIP": "None", "selector": {"a": "b"}}))).await.json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(cluster.delete(&format!("{SERVICES}/a")).await.code, 200);
    let again = cluster.post(SERVICES, &service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}], "clusterIP": "10.96.0.10"}))).await;
    assert_eq!(again.code, 201, "{}", again.text());
    let mut external = again.json();
    external.set(&["spec"], json!({"type": "ExternalName", "externalName": "example.com"}));
    let external = cluster.put(&format!("{SERVICES}/b"), &external).await;
    assert_eq!(external.code, 200, "{}", external.text());
    assert_eq!(cluster.get("/apis/networking.k8s.io/v1/ipaddresses").await.json().list_at(&["items"]).len(), 0);
}

#[tokio::test]
async fn replicas_are_set_through_the_scale() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "web"});
    let deployment = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(cluster.post(deployments, &deployment).await.code, 201);
    let path = format!("{deployments}/d/scale");
    let mut scale = cluster.get(&path).await.json();
    assert_eq!((scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()), (Some(1), Some("app=web")));
    scale.set(&["spec", "replicas"], 3);
    assert_eq!(cluster.put(&path, &scale).await.json()["spec"]["replicas"], 3);
    let table = cluster.send("GET", &path, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")], "").await.json();
    let names: Vec<&str> = table.list_at(&["columnDefinitions"]).iter().filter_map(|c| c.str_at(&["name"])).collect();
    assert_eq!((table["kind"].as_str(), names), (Some("Table"), vec!["Name", "Desired", "Available", "Age"]));
    let whole = cluster.send("GET", &format!("{path}?includeObject=Object"), &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await;
    let version = format!("\"resourceVersion\":{}", whole.json()["metadata"]["resourceVersion"]);
    assert_eq!((whole.json()["rows"][0]["object"]["kind"].as_str(), whole.text().matches(&version).count()), (Some("Scale"), 2), "{}", whole.text());
    let row = &table["rows"][0];
    assert_eq!(
        (&row["cells"].as_array().unwrap()[..3], row["object"]["kind"].as_str()),
        (&[json!("d"), json!(3), json!(0)][..], Some("PartialObjectMetadata"))
    );
    let scaled = cluster.get(&format!("{deployments}/d")).await.json();
    assert_eq!((scaled["spec"]["replicas"].as_i64(), scaled["metadata"]["generation"].as_i64()), (Some(3), Some(2)));
    refused(
        &cluster.put(&path, &scale).await,
        409,
        "Operation cannot be fulfilled on deployments.apps \"d\": the object has been modified; please apply your changes to the latest version and try again",
    );
}

#[tokio::test]
async fn a_namespace_waits_for_its_finalizer_and_a_collection_goes_at_once() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.post(MAPS, &config_map(name, json!({}))).await;
    }
    let deleted = cluster.delete(MAPS).await;
    assert_eq!((deleted.code, deleted.json()["kind"].as_str(), deleted.json().list_at(&["items"]).len()), (200, Some("ConfigMapList"), 3));
    assert_eq!(cluster.get(MAPS).await.json().list_at(&["items"]).len(), 0);
    let dying = cluster.delete("/api/v1/namespaces/default").await.json();
    assert_eq!((dying["status"]["phase"].as_str(), dying["spec"]["finalizers"][0].as_str()), (Some("Terminating"), Some("kubernetes")));
    let mut empty = dying.clone();
    empty.set(&["spec", "finalizers"], json!([]));
    assert_eq!(cluster.put("/api/v1/namespaces/default/finalize", &empty).await.code, 200);
    assert_eq!(cluster.get("/api/v1/namespaces/default").await.code, 404);
}

#[tokio::test]
async fn questions_are_answered_and_refusals_say_who_may_not_what() {
    let cluster = Cluster::start().await;
    let alice = [("x-user", "alice"), ("content-type", "application/json")];
    let text = "configmaps is forbidden: User \"alice\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    refused(&cluster.send("GET", MAPS, &alice, "").await, 403, text);
    let review = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"});
    let answer = cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.json();
    assert_eq!(answer["status"]["userInfo"]["username"], "admin");
    let review = json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"user": "bob", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let answer = cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    assert_eq!((answer.code, answer.json()["status"]["allowed"].as_bool()), (201, Some(false)), "{}", answer.text());
    let impersonating = cluster.send("GET", MAPS, &[("impersonate-user", "bob")], "").await;
    assert!(impersonating.text().contains("User \\\"bob\\\" cannot list"), "{}", impersonating.text());
}

#[tokio::test]
async fn every_patch_changes_what_it_says() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("p")).await;
    let path = format!("{PODS}/p");
    let image = |answer: &Answer| answer.json()["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    let strategic = r#"{"spec":{"containers":[{"name":"c","image":"j"}]}}"#;
    assert_eq!(image(&cluster.patch(&path, "application/strategic-merge-patch+json", strategic).await), "j");
    let json = r#"[{"op":"replace","path":"/spec/containers/0/image","value":"k"}]"#;
    assert_eq!(image(&cluster.patch(&path, "application/json-patch+json", json).await), "k");
    let labelled = cluster.patch(&path, "application/merge-patch+json", r#"{"metadata":{"labels":{"app":null,"x":"y"}}}"#).await;
    assert_eq!(labelled.json()["metadata"]["labels"], json!({"x": "y"}));
    let stale = cluster.patch(&path, "application/merge-patch+json", r#"{"metadata":{"resourceVersion":"1","labels":{"x":"z"}}}"#).await;
    assert_eq!(stale.code, 409);
    let bad = cluster.patch(&path, "application/json-patch+json", r#"[{"op":"test","path":"/spec/containers/0/image","value":"zzz"}]"#).await;
    assert_eq!(bad.code, 422, "{}", bad.text());
    assert_eq!(cluster.patch(&path, "application/json", "{}").await.code, 415);
    assert_eq!(cluster.patch(&format!("{PODS}/zzz"), "application/merge-patch+json", "{}").await.code, 404);
}

#[tokio::test]
async fn a_patch_leaves_the_object_its_name() {
    let cluster = Cluster::start().await;
    let path = format!("{MAPS}/a");
    let why = "the name of the object (a based on URL) was undeterminable: name must be provided";
    let apply = "application/apply-patch+yaml";
    let nameless = "{kind: ConfigMap, apiVersion: v1, data: {k: v}}";
    refused(&cluster.patch(&format!("{path}?fieldManager=me"), apply, nameless).await, 400, why);
    assert_eq!(cluster.post(MAPS, &config_map("a", json!({}))).await.code, 201);
    // What is there has a name already.
    assert_eq!(cluster.patch(&format!("{path}?fieldManager=me"), apply, nameless).await.code, 200);
    for (content_type, patch) in [
        ("application/merge-patch+json", r#"{"metadata":{"name":null}}"#),
        ("application/strategic-merge-patch+json", r#"{"metadata":{"name":""}}"#),
        ("application/json-patch+json", r#"[{"op":"remove","path":"/metadata/name"}]"#),
    ] {
        refused(&cluster.patch(&path, content_type, patch).await, 400, why);
    }
}

#[tokio::test]
async fn apply_creates_owns_and_respects_other_owners() {
    let cluster = Cluster::start().await;
    let path = format!("{MAPS}/a");
    let apply = async |manager: &str, force: &str, data: &str| {
        let body = format!("kind: ConfigMap\napiVersion: v1\nmetadata: {{name: a}}\ndata: {data}\n");
        cluster.patch(&format!("{path}?fieldManager={manager}{force}"), "application/apply-patch+yaml", &body).await
    };
    let created = apply("one", "", "{k: v}").await;
    assert_eq!(created.code, 201, "{}", created.text());
    let fields = created.json()["metadata"]["managedFields"].clone();
    assert_eq!(
        (fields[0]["manager"].as_str(), fields[0]["operation"].as_str(), &fields[0]["fieldsV1"]),
        (Some("one"), Some("Apply"), &json!({"f:data": {"f:k": {}}}))
    );
    let same = apply("one", "", "{k: v}").await;
    assert_eq!((same.code, &same.json()["metadata"]["resourceVersion"]), (200, &created.json()["metadata"]["resourceVersion"]));
    let conflict = apply("two", "", "{k: w}").await;
    refused(&conflict, 409, "Apply failed with 1 conflict: conflict with \"one\": .data.k");
    assert_eq!(apply("two", "&force=true", "{k: w}").await.json()["data"]["k"], "w");
    refused(
        &cluster.patch(&path, "application/apply-patch+yaml", "kind: ConfigMap\napiVersion: v1\n").await,
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
}

#[tokio::test]
async fn what_is_applied_is_spelt_as_what_is_sent() {
    let cluster = Cluster::start().await;
    let resources = json!({"requests": {"cpu": "1.0", "memory": "1024Mi"}, "limits": {"cpu": 1.5, "memory": "3072Mi"}});
    let pod = |resources: Value| json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
    let apply =
        async |name: &str, body: Value| cluster.patch(&format!("{PODS}/{name}?fieldManager=m"), "application/apply-patch+yaml", &body.to_string()).await;
    let applied = apply("a", pod(resources)).await;
    let spelt = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1500m", "memory": "3Gi"}});
    assert_eq!((applied.code, &applied.json()["spec"]["containers"][0]["resources"]), (201, &spelt), "{}", applied.text());
    let odd = apply("a", pod(json!({"requests": {"cpu": "much"}}))).await;
    let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    let text =
        format!("failed to convert new object (default/a; /v1, Kind=Pod) to proper version: unable to convert unstructured object to /v1, Kind=Pod: {why}");
    assert_eq!((odd.code, odd.json()["message"].as_str()), (500, Some(&text[..])));
}

/// Typed clients name the group of what they delete.
#[tokio::test]
async fn delete_options_may_be_of_any_group() {
    let cluster = Cluster::start().await;
    let path = format!("{MAPS}/a");
    for version in ["v1", "apps/v1", "admissionregistration.k8s.io/v1"] {
        assert_eq!(cluster.post(MAPS, &config_map("a", json!({}))).await.code, 201);
        let options = |preconditions: Value| json!({"kind": "DeleteOptions", "apiVersion": version, "preconditions": preconditions}).to_string();
        let headers = [("content-type", "application/json")];
        assert_eq!(cluster.send("DELETE", &path, &headers, options(json!({"uid": "another"}))).await.code, 409, "{version}: the options are read");
        assert_eq!(cluster.send("DELETE", &path, &headers, options(json!({}))).await.code, 200, "{version}");
    }
}

#[tokio::test]
async fn options_in_a_body_stand_for_those_in_the_query_also_when_it_is_null() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({}))).await;
    let delete = async |headers: &[(&str, &str)], body: &str| cluster.send("DELETE", &format!("{MAPS}/a?dryRun=All"), headers, body.to_owned()).await;
    assert_eq!(delete(&[("Content-Type", "application/json;;")], "{}").await.code, 415);
    assert_eq!(delete(&[], "").await.code, 200);
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.code, 200);
    assert_eq!(delete(&[], "null").await.code, 200);
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn a_patch_is_judged_where_there_is_something_to_patch() {
    let cluster = Cluster::start().await;
    const MAP: &str = "/api/v1/namespaces/default/configmaps/a";
    let message =
        async |content_type: &str, body: &str| cluster.patch(MAP, content_type, body).await.json().str_at(&["message"]).unwrap_or_default().to_owned();
    assert_eq!(message("application/merge-patch+json", "{").await, "invalid JSON patch");
    assert_eq!(message("application/merge-patch+json", "[]").await, r#"configmaps "a" not found"#);
    cluster.post("/api/v1/namespaces/default/configmaps", &config_map("a", json!({}))).await;
    assert!(message("application/merge-patch+json", "[]").await.starts_with("error decoding patch: "));
    let twice = cluster.patch(MAP, "application/merge-patch+json", r#"{"data":null,"data":{"k":"v"}}"#).await;
    assert_eq!((twice.code, twice.headers["warning"].to_str().unwrap()), (200, r#"299 - "duplicate field \"data\"""#));
    let strict = cluster.patch(&format!("{MAP}?fieldValidation=Strict"), "application/merge-patch+json", r#"{"data":null,"data":{}}"#).await;
    assert!(strict.code == 422 && strict.text().contains(r#"strict decoding error: duplicate field \"data\""#), "{}", strict.text());
}
