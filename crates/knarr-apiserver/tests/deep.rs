//! What is nested as deep as JSON may be: objects, schemas, and what would become deeper than that.

mod support;

use std::time::Duration;

use knarr_apiserver::{Config, http::Codecs};
use knarr_core::{Value, json};
use support::{Cluster, cpu, with_deep_stack};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition of widgets that may hold anything, and the path to them.
async fn free_widgets(cluster: &Cluster) -> &'static str {
    let definition = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    assert_eq!(cluster.post(DEFINITIONS, &definition).await.code, 201);
    let path = "/apis/example.com/v1/namespaces/default/widgets";
    cluster.until(path, 200).await;
    path
}

/// A value within so many lists or objects.
fn nested(open: &str, depth: usize) -> String {
    let close = if open == "[" { "]" } else { "}" };
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn objects_may_be_as_deep_as_go_reads_them() {
    with_deep_stack(async || {
        let cluster = Cluster::start_with(Config { codecs: Codecs { cbor: true }, ..Config::default() }).await;
        let widgets = free_widgets(&cluster).await;
        let widget = |name: &str, rest: &str| format!("{{\"kind\":\"Widget\",\"apiVersion\":\"example.com/v1\",\"metadata\":{{\"name\":\"{name}\"}}{rest}}}");
        let json = [("content-type", "application/json")];
        // What a manager owns is told by a path to it, a few levels below the root: the deepest objects are a little too deep to be read again.
        for (name, open, depth) in [("lists", "[", 9_999), ("objects", "{\"a\":", 5_000)] {
            let one = format!("{widgets}/{name}");
            let rest = format!(",\"deep\":{}", nested(open, depth));
            let made = cluster.send("POST", widgets, &json, widget(name, &rest)).await;
            assert_eq!(made.code, 201, "{name}: {}", made.text().chars().take(300).collect::<String>());
            for media in ["application/json", "application/cbor", "application/json;as=Table;v=v1;g=meta.k8s.io"] {
                for path in [one.as_str(), widgets] {
                    assert_eq!(cluster.send("GET", path, &[("accept", media)], "").await.code, 200, "{name} {media} {path}");
                }
            }
            assert!(cluster.get(&one).await.text().contains(&rest), "{name}");
            let applied = widget(name, &format!("{rest},\"three\":3"));
            for (media, patch) in [
                ("application/merge-patch+json", "{\"one\":1}"),
                ("application/json-patch+json", "[{\"op\":\"add\",\"path\":\"/two\",\"value\":2}]"),
                ("application/apply-patch+yaml", &applied),
            ] {
                let patched = cluster.patch(&format!("{one}?fieldManager=m"), media, patch).await;
                assert_eq!(patched.code, 200, "{name} {media}: {}", patched.text().chars().take(300).collect::<String>());
            }
            let partial = [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
            let mut events = cluster.open(&format!("{widgets}?watch=1&resourceVersion=0&fieldSelector=metadata.name={name}"), &partial).await;
            assert_eq!(events.next().await.map(|event| event["type"].clone()), Some(json!("ADDED")));
            assert_eq!(cluster.delete(&one).await.code, 200);
        }
        let yaml = widget("yaml", &format!(",\"deep\":{}", nested("[", 9_999)));
        assert_eq!(cluster.send("POST", widgets, &[("content-type", "application/yaml")], yaml).await.code, 201);
        let yaml = cluster.send("GET", &format!("{widgets}/yaml"), &[("accept", "application/yaml")], "").await.text();
        assert!(yaml.starts_with("apiVersion: example.com/v1\n"), "{}", yaml.chars().take(300).collect::<String>());
        let deepest = widget("deepest", &format!(",\"deep\":{}", nested("{\"a\":", 9_999)));
        assert_eq!(cluster.send("POST", widgets, &json, deepest).await.code, 201);
        assert_eq!((cluster.get(widgets).await.code, cluster.delete(&format!("{widgets}/deepest")).await.code), (200, 200));
        let deeper = cluster.send("POST", widgets, &json, widget("deeper", &format!(",\"deep\":{}", nested("[", 10_000)))).await;
        assert_eq!(deeper.code, 400);
        assert!(deeper.text().contains("exceeded max depth"), "{}", deeper.text());
    });
}

/// A schema of so many levels, each of which has the next as a property.
fn nested_schema(levels: usize) -> String {
    let open = r#"{"type":"object","properties":{"a":"#;
    format!(r#"{}{{"type":"string"}}{}"#, open.repeat(levels), "}}".repeat(levels))
}

#[test]
fn a_schema_may_be_nested_as_deep_as_its_definition() {
    with_deep_stack(async || {
        let cluster = Cluster::start().await;
        let levels = 4_990;
        let definition = format!(
            r#"{{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{{"name":"widgets.example.com"}},"spec":{{
            "group":"example.com","scope":"Namespaced","names":{{"kind":"Widget","plural":"widgets"}},
            "versions":[{{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{}}}}}]}}}}"#,
            nested_schema(levels)
        );
        assert_eq!(cluster.send("POST", DEFINITIONS, &[("content-type", "application/json")], definition).await.code, 201);
        let path = "/apis/example.com/v1/namespaces/default/widgets";
        cluster.until(path, 200).await;
        let widget = |rest: &str| format!(r#"{{"kind":"Widget","apiVersion":"example.com/v1","metadata":{{"name":"a"}},"a":{rest}}}"#);
        let within = |bottom: &str| nested("{\"a\":", levels - 1).replacen('1', bottom, 1);
        let made = async |bottom: &str| cluster.send("POST", path, &[("content-type", "application/json")], widget(&within(bottom))).await.code;
        assert_eq!((made("1").await, made("\"x\"").await), (422, 201), "the schema counts at the bottom");
        let applied = cluster.patch(&format!("{path}/a?fieldManager=m&force=true"), "application/apply-patch+yaml", &widget(&within("\"y\""))).await;
        assert_eq!(applied.code, 200);
        for document in ["/openapi/v2", "/openapi/v3/apis/example.com/v1"] {
            assert_eq!(cluster.get(document).await.code, 200, "{document}");
        }
    });
}

/// So many lists at the bottom of so many objects, and beside them so many members, of which the last is this.
fn deep_and_wide(objects: usize, lists: usize, members: usize, last: usize) -> String {
    let wide = (1..=members).map(|i| format!(",\"k{i}\":{}", if i == members { last } else { 0 })).collect::<String>();
    nested("{\"a\":", objects).replacen('1', &format!("{{\"lists\":{}{wide}}}", nested("[", lists)), 1)
}

/// Makes such a widget, merges, applies twice, and applies in conflict; tells what each of these takes.
async fn write_in_all_ways(cluster: &Cluster, widgets: &str, name: &str, (objects, lists, members): (usize, usize, usize)) -> [Duration; 5] {
    let deep = |last: usize| format!("\"deep\":{}", deep_and_wide(objects, lists, members, last));
    let widget = |last: usize| format!("{{\"kind\":\"Widget\",\"apiVersion\":\"example.com/v1\",\"metadata\":{{\"name\":\"{name}\"}},{}}}", deep(last));
    let one = format!("{widgets}/{name}");
    let (forced, other) = (format!("{one}?fieldManager=m&force=true"), format!("{one}?fieldManager=other"));
    let requests = [
        ("POST", widgets, "application/json", widget(1), 201),
        ("PATCH", &one, "application/merge-patch+json", format!("{{{}}}", deep(2)), 200),
        ("PATCH", &forced, "application/apply-patch+yaml", widget(4), 200),
        ("PATCH", &forced, "application/apply-patch+yaml", widget(5), 200),
        ("PATCH", &other, "application/apply-patch+yaml", widget(6), 409),
    ];
    let mut takes = [Duration::ZERO; 5];
    for (takes, (method, path, media, body, code)) in takes.iter_mut().zip(requests) {
        let before = cpu();
        let answer = cluster.send(method, path, &[("content-type", media)], body).await;
        *takes = cpu() - before;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text().chars().take(300).collect::<String>());
    }
    takes
}

/// What is done once for each level, and not for all below it, costs in one object no more than in two.
#[test]
fn what_is_both_deep_and_wide_takes_its_length_only() {
    with_deep_stack(async || {
        let cluster = Cluster::start().await;
        let widgets = free_widgets(&cluster).await;
        let deep = write_in_all_ways(&cluster, widgets, "deep", (3_000, 5_000, 1)).await;
        let wide = write_in_all_ways(&cluster, widgets, "wide", (1, 1, 20_000)).await;
        let both = write_in_all_ways(&cluster, widgets, "both", (3_000, 5_000, 20_000)).await;
        for (i, takes) in both.iter().enumerate() {
            // Once for each level, it would be some thousand times as much.
            assert!(*takes < 10 * (deep[i] + wide[i]), "{i}: {both:?}, deep alone {deep:?}, wide alone {wide:?}");
        }
    });
}

#[test]
fn what_becomes_deeper_than_that_is_refused() {
    with_deep_stack(async || {
        let cluster = Cluster::start().await;
        let widgets = free_widgets(&cluster).await;
        let widget = json!({"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": "a"}, "spec": {}});
        assert_eq!(cluster.post(widgets, &widget).await.code, 201);
        let one = format!("{widgets}/a");
        // Each copy of all that is there doubles the depth.
        let operations: Vec<Value> = (0..18).map(|i| json!({"op": "copy", "from": "", "path": "/spec".repeat(1 << i)})).collect();
        let copies = json!(operations).to_string();
        // Each anchor holds the one before at its bottom.
        let lists = |inner: String| format!("{}{inner}{}", "[".repeat(1_000), "]".repeat(1_000));
        let chain = (1..150).map(|i| format!("a{i}: &a{i} {}\n", lists(format!("*a{}", i - 1)))).collect::<String>();
        let anchors = format!("kind: Widget\napiVersion: example.com/v1\nmetadata: {{name: b}}\na0: &a0 []\n{chain}");
        let blocks = (0..1500).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
        for (what, method, path, media, body) in [
            ("copies of copies", "PATCH", one.as_str(), "application/json-patch+json", copies),
            ("anchors at the bottom of anchors", "POST", widgets, "application/yaml", anchors),
            ("blocks without a kind", "POST", widgets, "application/yaml", blocks),
        ] {
            let refused = cluster.send(method, path, &[("content-type", media)], body).await;
            assert!((400..500).contains(&refused.code), "{what}: {} {}", refused.code, refused.text());
            assert_eq!(cluster.get(&one).await.code, 200, "after {what}");
        }
    });
}
