//! Requests about the protocol itself: every combination of what a client may say of an answer's form, of lists and watches, of
//! writes and deletes. Most are bad. A handful of kinds stands for all, since none of this is a kind's own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::table::{Request, Sample, Scenario, Tables, merge};

/// Of `objects.jsonl`.
const KINDS: [&str; 6] = [
    "v1/configmaps",
    "v1/pods",
    "v1/events",
    "apps/v1/deployments",
    "apiextensions.k8s.io/v1/customresourcedefinitions",
    "rbac.authorization.k8s.io/v1/clusterroles",
];
/// The resource of the custom objects.
const CUSTOM: &str = "matrix.example.com/v1/gadgets";
/// The kind that is also asked with bodies at the limit of their size.
const HUGE_FOR: &str = "v1/configmaps";
/// A byte more than what a body may have.
const TOO_LARGE: usize = 3 * 1024 * 1024 + 1;

const ACCEPTS: &[&str] = &[
    "*/*",
    "application/*",
    "text/*",
    "application/json;q=0",
    "application/json;q=0.1, application/yaml;q=0.9",
    "application/yaml;q=0.1, application/json;q=0.9",
    "application/json;q=2",
    "application/json;q=x",
    "application/json;q=-1, application/yaml",
    "text/plain, */*;q=0.1",
    "text/plain;q=1, application/yaml;q=0.5, */*;q=0.1",
    "application/json;stream=watch",
    "application/json;stream=nothing",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/json;charset=utf-8",
    "application/json;unknown=1",
    "application/json; pretty=1",
    "application/json;pretty=0",
    "application/json;as=Table;g=meta.k8s.io;v=v1",
    "application/json;g=meta.k8s.io;v=v1;as=Table",
    "application/json;as=Table;g=meta.k8s.io;v=v1beta1",
    "application/json;as=Table;g=meta.k8s.io;v=v2",
    "application/json;as=Table;g=other.io;v=v1",
    "application/json;as=Table;v=v1",
    "application/json;as=Table",
    "application/json;as=Other;g=meta.k8s.io;v=v1",
    "application/json;as=Other;g=meta.k8s.io;v=v1, application/json",
    "application/json;as=Table;g=meta.k8s.io;v=v1;unknown=1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1beta1",
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1",
    "application/yaml;as=Table;g=meta.k8s.io;v=v1",
    "application/yaml;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
    "application/vnd.kubernetes.protobuf, application/json",
    "application/cbor",
    "application/cbor, application/json",
    "application/cbor-seq",
    "application/cbor;as=Table;g=meta.k8s.io;v=v1",
    "application/json;",
    "application/json;;",
    "application",
    "/",
    ",",
    "application/json,",
    "APPLICATION/JSON",
    "application/vnd.kubernetes.protobuf;q=0.1, application/json;q=0.2",
];

const CONTENT_TYPES: &[&str] = &[
    "application/json",
    "application/json;charset=utf-8",
    "APPLICATION/JSON",
    "application/json;;",
    "application/yaml",
    "text/json",
    "*/*",
    "application",
    "application/cbor",
    "application/vnd.kubernetes.protobuf",
    "application/x-www-form-urlencoded",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/merge-patch+json; charset=utf-8",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
    "application/apply-patch+json",
    "application/patch+json",
];

const VERBS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO"];
const SUBRESOURCES: &[&str] = &["status", "scale", "log", "eviction", "binding", "ephemeralcontainers", "resize", "finalize", "approval", "token", "nosuch"];

/// Requests of one scenario as they come together.
#[derive(Default)]
struct Requests(Vec<Request>);

impl Requests {
    fn push(&mut self, id: String, method: &str, path: &str, query: &str, headers: &[(&str, &str)], body: Option<String>) {
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.0.push(Request { id, method: method.into(), path, headers, body, capture: BTreeMap::new(), until: None });
    }

    fn capture(&mut self, name: &str, pointer: &str) {
        if let Some(last) = self.0.last_mut() {
            last.capture.insert(name.to_owned(), pointer.to_owned());
        }
    }

    fn until(&mut self, text: &str) {
        if let Some(last) = self.0.last_mut() {
            last.until = Some(text.to_owned());
        }
    }
}

/// All scenarios: what makes the kind of the custom objects and the namespaces, and one for each kind.
pub fn scenarios(tables: &Tables) -> Vec<Scenario> {
    let samples: Vec<Sample> = KINDS.iter().filter_map(|kind| tables.sample(kind)).map(renamed).chain([custom_object()]).collect();
    let mut all = vec![Scenario { name: "matrix-setup".into(), first: true, known: BTreeMap::new(), requests: setup(&samples) }];
    all.extend(samples.iter().map(|sample| {
        let namespaced = sample.resource == CUSTOM || tables.namespaced(&sample.resource);
        let known = tables.known_in(sample, namespaced.then(|| namespace(&sample.resource)).as_deref());
        Scenario { name: format!("matrix/{}", sample.resource), first: false, known, requests: of_kind(sample) }
    }));
    all
}

fn namespace(resource: &str) -> String {
    format!("m-{}", resource.rsplit('/').next().unwrap_or_default())
}

/// The sample under a name and with labels that no other scenario has.
fn renamed(mut sample: Sample) -> Sample {
    let patch = if sample.object["kind"] == "CustomResourceDefinition" {
        json!({"metadata": {"name": "widgets.other.example.com"}, "spec": {"group": "other.example.com"}})
    } else {
        json!({"metadata": {"name": "matrix"}})
    };
    merge(&mut sample.object, &patch);
    merge(&mut sample.object, &json!({"metadata": {"labels": {"app": "a", "differential": null, "matrix": "yes"}}}));
    // An event lies where its object lies.
    if sample.object["kind"] == "Event" {
        merge(&mut sample.object, &json!({"involvedObject": {"namespace": namespace(&sample.resource)}}));
    }
    sample
}

fn custom_object() -> Sample {
    let object = json!({"apiVersion": "matrix.example.com/v1", "kind": "Gadget", "metadata": {"name": "matrix", "labels": {"app": "a", "matrix": "yes"}}, "spec": {"size": 3}});
    Sample::plain(CUSTOM, object)
}

fn setup(samples: &[Sample]) -> Vec<Request> {
    let mut all = Requests::default();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let names = json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gadgets.matrix.example.com"},
        "spec": {"group": "matrix.example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    });
    all.push(
        "definition".into(),
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "fieldValidation=Strict",
        &[],
        Some(definition.to_string()),
    );
    for sample in samples {
        let name = namespace(&sample.resource);
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
        all.push(name, "POST", "/api/v1/namespaces", "", &[], Some(body));
    }
    all.push("served".into(), "GET", "/apis/matrix.example.com/v1/namespaces/m-gadgets/gadgets", "", &[], None);
    all.until("200 ");
    all.0
}

fn of_kind(sample: &Sample) -> Vec<Request> {
    let mut all = Requests::default();
    let body = sample.object.to_string();
    all.push("create".into(), "POST", "{collection}", "", &[], Some(body.clone()));
    accepts(&mut all, &body);
    lists(&mut all);
    watches(&mut all);
    writes(&mut all, &body);
    content_types(&mut all, &body);
    bodies(&mut all, &body, sample.resource == HUGE_FOR);
    metadata(&mut all, &sample.object);
    subresources(&mut all);
    deletes(&mut all);
    // Some combinations come to the same.
    let mut seen = BTreeSet::new();
    all.0.retain(|request| seen.insert(request.id.clone()) && !drops_the_connection(sample, &request.id));
    all.0
}

/// What upstream's server gives no answer to: it ends the connection.
fn drops_the_connection(sample: &Sample, id: &str) -> bool {
    sample.resource == CUSTOM && ["type-post application/vnd.kubernetes.protobuf", "type-put application/vnd.kubernetes.protobuf"].contains(&id)
}

fn accepts(all: &mut Requests, body: &str) {
    for accept in ACCEPTS {
        let headers = &[("Accept", *accept)];
        all.push(format!("accept-get {accept}"), "GET", "{item}", "", headers, None);
        all.push(format!("accept-list {accept}"), "GET", "{collection}", "labelSelector=matrix%3Dyes", headers, None);
        all.push(format!("accept-missing {accept}"), "GET", "{collection}/missing", "", headers, None);
        all.push(format!("accept-create {accept}"), "POST", "{collection}", "dryRun=All", headers, Some(body.replace("\"matrix\"", "\"matrix2\"")));
        all.push(format!("accept-delete {accept}"), "DELETE", "{item}", "dryRun=All", headers, None);
        let query = "watch=1&timeoutSeconds=1&resourceVersion=x";
        all.push(format!("accept-watch {accept}"), "GET", "{collection}", query, headers, None);
    }
}

/// `name=value` for each value; nothing for none.
fn parameters(name: &str, values: &[Option<&str>]) -> Vec<String> {
    values.iter().map(|v| v.map_or_else(String::new, |v| format!("&{name}={v}"))).collect()
}

/// All combinations of parameters, each list's texts one behind another.
fn combined(lists: &[Vec<String>]) -> Vec<String> {
    lists.iter().fold(vec![String::new()], |all, list| all.iter().flat_map(|a| list.iter().map(move |b| format!("{a}{b}"))).collect())
}

fn lists(all: &mut Requests) {
    const SELECTED: &str = "labelSelector=matrix%3Dyes";
    all.push("list".into(), "GET", "{collection}", SELECTED, &[], None);
    all.capture("listrv", "/metadata/resourceVersion");
    let versions = parameters("resourceVersion", &[None, Some(""), Some("0"), Some("{listrv}"), Some("x"), Some("-1")]);
    let matches = parameters("resourceVersionMatch", &[None, Some(""), Some("Exact"), Some("NotOlderThan"), Some("Bad")]);
    let limits = parameters("limit", &[None, Some("1"), Some("0"), Some("-1"), Some("x")]);
    let continues = parameters("continue", &[None, Some("x"), Some("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MX0")]);
    for query in combined(&[versions.clone(), matches.clone(), limits, continues]) {
        all.push(format!("list{query}"), "GET", "{collection}", &format!("{SELECTED}{query}"), &[], None);
    }
    let initial = parameters("sendInitialEvents", &[None, Some("true"), Some("false"), Some("x")]);
    let bookmarks = parameters("allowWatchBookmarks", &[None, Some("true"), Some("x")]);
    let timeouts = parameters("timeoutSeconds", &[None, Some("1"), Some("-1"), Some("x")]);
    let few = |list: &[String], count: usize| list.iter().take(count).cloned().collect::<Vec<_>>();
    for query in combined(&[few(&versions, 3), few(&matches, 4), initial, bookmarks, timeouts]) {
        all.push(format!("list{query}"), "GET", "{collection}", &format!("{SELECTED}{query}"), &[], None);
    }
    for query in ["", "&resourceVersionMatch=NotOlderThan", "&resourceVersionMatch=Exact"] {
        all.push(format!("list-future{query}"), "GET", "{collection}", &format!("{SELECTED}&resourceVersion=99999999999{query}"), &[], None);
    }
}

fn watches(all: &mut Requests) {
    const SELECTED: &str = "watch=1&labelSelector=matrix%3Dyes";
    let versions = parameters("resourceVersion", &[None, Some("0"), Some("{listrv}"), Some("x")]);
    let matches = parameters("resourceVersionMatch", &[None, Some("NotOlderThan"), Some("Exact"), Some("Bad")]);
    let initial = parameters("sendInitialEvents", &[None, Some("true"), Some("false"), Some("x")]);
    for query in combined(&[versions, matches, initial]) {
        // When a bookmark comes within the time of a short watch is not told; the one after the first state is.
        let marked = if query.contains("sendInitialEvents=true") { "&allowWatchBookmarks=true" } else { "" };
        all.push(format!("watch{query}"), "GET", "{collection}", &format!("{SELECTED}&timeoutSeconds=1{query}{marked}"), &[], None);
    }
    let odd = [
        "allowWatchBookmarks=x",
        "timeoutSeconds=x",
        "limit=x",
        "limit=1&continue=x",
        "continue=x",
        "sendInitialEvents=true&continue=x",
        "fieldSelector=a",
        "resourceVersion=99999999999",
    ];
    for query in odd {
        let time = if query.starts_with("timeout") { "" } else { "&timeoutSeconds=1" };
        all.push(format!("watch-odd {query}"), "GET", "{collection}", &format!("{SELECTED}{time}&{query}"), &[], None);
        all.push(format!("watch-item {query}"), "GET", "{item}", &format!("watch=1{time}&{query}"), &[], None);
    }
    for value in ["0", "false", "x", "", "TRUE"] {
        all.push(format!("watch-said {value}"), "GET", "{collection}", &format!("watch={value}&labelSelector=matrix%3Dyes&timeoutSeconds=1"), &[], None);
    }
}

/// How an object is written: method, path, content type and body.
fn ways(body: &str) -> [(&'static str, &'static str, &'static str, String); 5] {
    [
        ("POST", "{collection}", "application/json", body.replace("\"matrix\"", "\"matrix2\"")),
        ("PUT", "{item}", "application/json", body.to_owned()),
        ("PATCH", "{item}", "application/merge-patch+json", r#"{"metadata":{"annotations":{"a":"b"}}}"#.into()),
        ("PATCH", "{item}", "application/apply-patch+yaml", body.to_owned()),
        ("DELETE", "{item}", "application/json", String::new()),
    ]
}

fn writes(all: &mut Requests, body: &str) {
    let long = "m".repeat(129);
    let managers = parameters("fieldManager", &[None, Some(""), Some("me"), Some("a%20b"), Some("%01"), Some(long.as_str())]);
    let validations = parameters("fieldValidation", &[None, Some(""), Some("Strict"), Some("strict"), Some("Warn"), Some("x")]);
    let runs = ["dryRun=All", "dryRun=all", "dryRun=All&dryRun=All", "dryRun=All&dryRun=x", "dryRun=x"];
    let forces = parameters("force", &[Some("false"), Some("x"), Some("")]);
    for (method, path, media, body) in ways(body) {
        let mut queries = combined(&[runs[..2].iter().map(|r| (*r).to_owned()).collect(), managers.clone()]);
        queries.extend(combined(&[runs.iter().map(|r| (*r).to_owned()).collect(), validations.clone()]));
        queries.extend(combined(&[vec!["dryRun=All".into()], managers.clone(), forces.clone()]));
        queries.extend(combined(&[vec!["dryRun=All".into()], parameters("pretty", &[Some("true"), Some("x"), Some("")])]));
        for query in queries {
            let body = (!body.is_empty()).then(|| body.clone());
            all.push(format!("write {method} {media} {query}"), method, path, &query, &[("Content-Type", media)], body);
        }
    }
}

fn content_types(all: &mut Requests, body: &str) {
    let operations = json!([{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]).to_string();
    for media in CONTENT_TYPES {
        let headers = &[("Content-Type", *media)];
        for (number, text) in ["{}", r#"{"metadata":{"labels":{"x":"y"}}}"#, operations.as_str(), body, "x: [", "null"].iter().enumerate() {
            all.push(format!("type-patch {media} {number}"), "PATCH", "{item}", "dryRun=All&fieldManager=m", headers, Some((*text).to_owned()));
        }
        all.push(format!("type-put {media}"), "PUT", "{item}", "dryRun=All", headers, Some(body.to_owned()));
        all.push(format!("type-post {media}"), "POST", "{collection}", "dryRun=All", headers, Some(body.replace("\"matrix\"", "\"matrix2\"")));
        all.push(
            format!("type-delete {media}"),
            "DELETE",
            "{item}",
            "dryRun=All",
            headers,
            Some(r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}"#.into()),
        );
    }
}

/// Bodies that are no objects, or barely.
fn malformed(body: &str) -> Vec<String> {
    let cut = |part: usize| body.chars().take(body.len() * part / 4).collect::<String>();
    let with = |text: &str| body.replacen('{', &format!("{{{text},"), 1);
    vec![
        String::new(),
        " ".into(),
        "null".into(),
        "true".into(),
        "7".into(),
        "\"text\"".into(),
        "[]".into(),
        "{}".into(),
        "{".into(),
        "}".into(),
        cut(1),
        cut(3),
        format!("{body}x"),
        format!("{body}{body}"),
        format!("\u{feff}{body}"),
        format!("\n\n {body} \n"),
        format!("// a comment\n{body}"),
        format!("{body}\0"),
        with(r#""kind":"Other""#),
        with(r#""metadata":null"#),
        with(r#""KIND":"x""#),
        with(r#""number":1e400"#),
        with(r#""number":01"#),
        with(r#""text":"\ud800""#),
        with(r#""text":"\x""#),
        with("\"text\":\"a\nb\""),
        with(r#""":1"#),
        with(&format!("\"deep\":{}1{}", "[".repeat(5_000), "]".repeat(5_000))),
        with(&format!("\"deep\":{}1{}", "[".repeat(20_000), "]".repeat(20_000))),
        "[".repeat(20_000),
        r#"{"a":"#.repeat(20_000),
        "a: &a [x]\nb: [*a,*a]".into(),
        "k8s\0".into(),
        // The object itself is the first of the 10,000 levels that are read.
        with(&format!("\"deep\":{}1{}", "[".repeat(9_999), "]".repeat(9_999))),
        with(&format!("\"deep\":{}1{}", "[".repeat(10_000), "]".repeat(10_000))),
        with(&format!("\"deep\":{}1{}", r#"{"a":"#.repeat(9_999), "}".repeat(9_999))),
    ]
}

fn bodies(all: &mut Requests, body: &str, huge: bool) {
    for (method, path, media, good) in ways(body) {
        let good = if good.is_empty() { r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}"#.to_owned() } else { good };
        for (number, text) in malformed(&good).into_iter().enumerate() {
            // A delete without options would be one.
            if method == "DELETE" && text.trim().is_empty() {
                continue;
            }
            // Options in a body stand for those in the query: without any there it is no dry run.
            let deletes = method == "DELETE" && ["null", "{}"].contains(&text.as_str());
            all.push(format!("body {method} {media} {number}"), method, path, "dryRun=All&fieldManager=m", &[("Content-Type", media)], Some(text));
            if deletes {
                again(all, body, number);
            }
        }
        if huge {
            let text = format!("{{\"metadata\":{{\"annotations\":{{\"a\":\"{}\"}}}}}}", "x".repeat(TOO_LARGE));
            all.push(format!("huge {method} {media}"), method, path, "dryRun=All&fieldManager=m", &[("Content-Type", media)], Some(text));
        }
    }
}

/// What is said in `metadata`: the rules for it are not the same for all kinds, nor for a create and an update.
fn metadata(all: &mut Requests, object: &Value) {
    let said = [
        json!({"finalizers": ["x"]}),
        json!({"finalizers": ["example.com"]}),
        json!({"finalizers": ["example.com/x", "kubernetes"]}),
        json!({"finalizers": ["a/b/c"]}),
        json!({"finalizers": [""]}),
        json!({"finalizers": ["orphan", "foregroundDeletion"]}),
        json!({"ownerReferences": [{}]}),
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "a", "uid": "b"}]}),
        json!({"ownerReferences": [{"apiVersion": "v", "kind": "A", "name": "a", "uid": "b", "controller": true}, {"apiVersion": "v", "kind": "A", "name": "c", "uid": "d", "controller": true}]}),
        json!({"labels": {"a b": "c"}}),
        json!({"labels": {"a": "b c"}}),
        json!({"annotations": {"a b": "c"}}),
        json!({"annotations": {"A": "c"}}),
        json!({"generation": -1}),
        json!({"generation": 7}),
        json!({"deletionGracePeriodSeconds": 5}),
        json!({"deletionTimestamp": "2020-01-01T00:00:00Z"}),
        json!({"creationTimestamp": null}),
        json!({"selfLink": "x"}),
        json!({"managedFields": [{"operation": "x"}]}),
        json!({"managedFields": [{"operation": "Update", "fieldsType": "x"}]}),
        json!({"managedFields": []}),
    ];
    for (number, said) in said.iter().enumerate() {
        let patch = json!({"metadata": said});
        let mut whole = object.clone();
        merge(&mut whole, &patch);
        let fresh = whole.to_string().replace("\"matrix\"", "\"matrix2\"");
        all.push(format!("metadata POST {number}"), "POST", "{collection}", "dryRun=All", &[], Some(fresh));
        all.push(format!("metadata PUT {number}"), "PUT", "{item}", "dryRun=All", &[], Some(whole.to_string()));
        let headers = &[("Content-Type", "application/merge-patch+json")];
        all.push(format!("metadata PATCH {number}"), "PATCH", "{item}", "dryRun=All", headers, Some(patch.to_string()));
    }
}

/// Makes the object once more when it is gone.
fn again(all: &mut Requests, body: &str, number: usize) {
    all.push(format!("gone {number}"), "GET", "{item}", "", &[], None);
    all.until("404 ");
    all.push(format!("create again {number}"), "POST", "{collection}", "", &[], Some(body.to_owned()));
}

fn subresources(all: &mut Requests) {
    for name in SUBRESOURCES {
        for verb in VERBS {
            let body = matches!(*verb, "POST" | "PUT" | "PATCH").then(|| "{}".to_owned());
            let headers: &[(&str, &str)] = if *verb == "PATCH" { &[("Content-Type", "application/merge-patch+json")] } else { &[] };
            all.push(format!("sub {verb} {name}"), verb, &format!("{{item}}/{name}"), "dryRun=All", headers, body);
        }
    }
    for verb in VERBS.iter().filter(|v| !matches!(**v, "DELETE" | "PATCH")) {
        all.push(format!("odd {verb} collection"), verb, "{collection}", "dryRun=All&labelSelector=none%3Dx", &[], None);
        all.push(format!("odd {verb} item"), verb, "{item}", "dryRun=All", &[], None);
        all.push(format!("odd {verb} slash"), verb, "{item}/", "dryRun=All", &[], None);
        all.push(format!("odd {verb} deep"), verb, "{item}/status/more", "dryRun=All", &[], None);
    }
}

fn deletes(all: &mut Requests) {
    let values = |list: &[Value]| list.to_vec();
    let policies = values(&[Value::Null, json!("Orphan"), json!("Background"), json!("Foreground"), json!("Bad"), json!(""), json!(5)]);
    let orphans = values(&[Value::Null, json!(true), json!(false), json!("x")]);
    let graces = values(&[Value::Null, json!(0), json!(-1), json!("x"), json!(1.5)]);
    for policy in &policies {
        for orphan in &orphans {
            for grace in &graces {
                let asked = [("propagationPolicy", policy), ("orphanDependents", orphan), ("gracePeriodSeconds", grace)];
                options(all, &asked);
            }
        }
    }
    let zero = "00000000-0000-4000-8000-000000000000";
    let preconditions = [
        json!({}),
        json!({"uid": zero}),
        json!({"uid": ""}),
        json!({"uid": 5}),
        json!({"resourceVersion": "1"}),
        json!({"resourceVersion": 1}),
        json!([]),
        json!("x"),
    ];
    for precondition in preconditions {
        options(all, &[("preconditions", &precondition)]);
    }
    for kind in ["Pod", "deleteOptions", ""] {
        let body = json!({"kind": kind, "apiVersion": "v1", "dryRun": ["All"]}).to_string();
        all.push(format!("delete-kind {kind}"), "DELETE", "{item}", "", &[], Some(body));
    }
    for run in [json!(["all"]), json!(["All", "x"]), json!("All"), json!([5])] {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": run}).to_string();
        all.push(format!("delete-run {run}"), "DELETE", "{item}", "", &[], Some(body));
    }
}

/// A delete with these options in its body, and one with them in its query; both dry. Of collections, nothing is deleted.
fn options(all: &mut Requests, asked: &[(&str, &Value)]) {
    let said: Vec<_> = asked.iter().filter(|(_, v)| !v.is_null()).collect();
    let mut body: Map<String, Value> = said.iter().map(|(name, value)| ((*name).to_owned(), (*value).clone())).collect();
    body.extend([("kind".to_owned(), json!("DeleteOptions")), ("apiVersion".into(), json!("v1")), ("dryRun".into(), json!(["All"]))]);
    let body = Value::Object(body).to_string();
    let shown = said.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    all.push(format!("delete-body {shown}"), "DELETE", "{item}", "", &[], Some(body.clone()));
    all.push(format!("deletecollection-body {shown}"), "DELETE", "{collection}", "labelSelector=none%3Dx", &[], Some(body));
    let query = said.iter().map(|(name, value)| format!("&{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))).collect::<String>();
    if !query.contains(['{', '[']) {
        all.push(format!("delete-query {shown}"), "DELETE", "{item}", &format!("dryRun=All{query}"), &[], None);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_request_of_a_scenario_has_a_name_of_its_own() {
        let tables = Tables::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        for scenario in tables.scenarios() {
            let names: BTreeSet<&str> = scenario.requests.iter().map(|r| r.id.as_str()).collect();
            assert_eq!(names.len(), scenario.requests.len(), "{}", scenario.name);
        }
    }
}
