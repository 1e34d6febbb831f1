//! Our documents beside the published ones, where the release's module has been downloaded. Descriptions are left out of
//! the comparison, and so are enums, which a live server shows and the published files do not.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use knarr_core::json;

use super::*;
use crate::registry::{Custom, Resource};

fn published(file: &str) -> Option<Value> {
    let cache = std::env::var("GOMODCACHE").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/go/pkg/mod"))).unwrap_or_default();
    let path = PathBuf::from(cache).join("k8s.io/kubernetes@v1.37.2/api/openapi-spec").join(file);
    Some(serde_json::from_slice(&std::fs::read(path).ok()?).unwrap())
}

/// A document without texts and enums, and without CBOR, which the published documents promise and no server serves by default; a reference in `allOf` with nothing beside it is the reference.
fn bare(value: &Value, inside_properties: bool) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, v)| inside_properties || !(*key == "enum" || *key == "description" && v.is_string() || is_cbor(key)));
            let out: serde_json::Map<String, Value> = kept.map(|(key, v)| (key.clone(), bare(v, key == "properties"))).collect();
            match out.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
                Some([one]) if out.len() == 1 => one.clone(),
                _ => out.into(),
            }
        }
        Value::Array(items) => items.iter().filter(|v| !v.as_str().is_some_and(is_cbor)).map(|v| bare(v, false)).collect(),
        other => other.clone(),
    }
}

fn is_cbor(media: &str) -> bool {
    media.starts_with("application/cbor") || media == "application/apply-patch+cbor"
}

/// What differs, each with its path.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(&format!("{path} > {key}"), a, b, found),
                    (Some(a), None) => found.push(format!("{path}: {key} is ours alone: {a:.80}")),
                    (None, b) => found.push(format!("{path}: {key} is missing: {:.80}", b.unwrap_or(&Value::Null).to_string())),
                }
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{path}: {a:.200} instead of {b:.200}")),
    }
}

#[test]
fn documents_of_every_group_version_are_the_published_ones() {
    let registry = Registry::builtin();
    let mut found = Vec::new();
    for path in v3_paths(&registry) {
        let Some(theirs) = published(&format!("v3/{}_openapi.json", path.replace('/', "__"))) else { continue };
        let ours = bare(&v3(&registry, &path).unwrap(), false);
        let mut theirs = bare(&theirs, false);
        theirs["info"]["version"] = "1.37".into();
        differences(&path, &ours, &theirs, &mut found);
    }
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found[..found.len().min(60)].join("\n"));
}

/// Replaces references to shared parameters by what they refer to, and drops texts before, which are part of their names.
fn with_parameters(mut document: Value) -> Value {
    fn resolve(value: &mut Value, shared: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/parameters/")) {
                    *value = shared[name].clone();
                } else {
                    map.values_mut().for_each(|v| resolve(v, shared));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|v| resolve(v, shared)),
            _ => {}
        }
    }
    let shared = document["parameters"].take();
    resolve(&mut document["paths"], &shared);
    document
}

#[test]
fn the_document_of_openapi_2_is_the_published_one_for_what_is_served() {
    let Some(theirs) = published("swagger.json") else { return };
    let ours = bare(&with_parameters(v2(&Registry::builtin())), false);
    let theirs = bare(&with_parameters(theirs), false);
    let mut found = Vec::new();
    for section in ["paths", "definitions"] {
        for (key, value) in ours[section].as_object().unwrap() {
            match theirs[section].get(key) {
                Some(published) => differences(key, value, published, &mut found),
                None => found.push(format!("{key} is ours alone")),
            }
        }
    }
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found[..found.len().min(60)].join("\n"));
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, root: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    assert!(root.pointer(&reference[1..]).is_some(), "{reference}");
                }
                map.values().for_each(|v| check(v, root));
            }
            Value::Array(items) => items.iter().for_each(|v| check(v, root)),
            _ => {}
        }
    }
    let registry = Registry::builtin().with_custom(vec![Arc::new(widget())]);
    let v2 = v2(&registry);
    check(&v2, &v2);
    for path in v3_paths(&registry) {
        let v3 = v3(&registry, &path).unwrap();
        check(&v3, &v3);
    }
    assert!(v3(&registry, "apis/nope/v1").is_none());
}

fn widget() -> Resource {
    let pods = Registry::builtin().by_resource("", "v1", "pods").unwrap().clone();
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size", "maybe"], "properties": {
            "maybe": {"type": "string", "nullable": true},
            "size": {"type": "integer", "minimum": 1}, "port": {"x-kubernetes-int-or-string": true}, "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "string", "nullable": true}}}}}}});
    Resource {
        group: "stable.example.com".into(),
        plural: "widgets".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        type_id: None,
        deprecated: None,
        lenient: false,
        subresources: vec![],
        custom: Some(Arc::new(Custom {
            definition: "widgets.stable.example.com".into(),
            schema: Arc::new((&schema).into()),
            selectable_fields: vec![".spec.size".into()],
            status_subresource: false,
            scale: None,
            preserve_unknown_fields: false,
        })),
        ..(*pods).clone()
    }
}

#[test]
fn a_custom_resource_is_published_as_far_as_each_dialect_goes() {
    let registry = Registry::builtin().with_custom(vec![Arc::new(widget())]);
    assert!(v3_paths(&registry).contains(&"apis/stable.example.com/v1".to_owned()));
    let (v2, v3) = (bare(&v2(&registry), false), bare(&v3(&registry, "apis/stable.example.com/v1").unwrap(), false));
    let (v2, v3) = (&v2["definitions"]["com.example.stable.v1.Widget"], &v3["components"]["schemas"]["com.example.stable.v1.Widget"]);
    assert_eq!(v3["x-kubernetes-group-version-kind"], json!([{"group": "stable.example.com", "version": "v1", "kind": "Widget"}]));
    assert_eq!(v3["x-kubernetes-selectable-fields"], json!([{"fieldPath": ".spec.size"}]));
    assert_eq!(v3["properties"]["spec"]["required"], json!(["size", "maybe"]));
    assert_eq!(v3["properties"]["spec"]["properties"]["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!(v3["properties"]["metadata"], json!({"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}));
    assert_eq!(v2["properties"]["metadata"]["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let spec = &v2["properties"]["spec"];
    assert_eq!(spec["properties"]["size"], json!({"type": "integer", "minimum": 1}));
    assert_eq!(spec["required"], json!(["size"]));
    assert_eq!(spec["properties"]["open"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(spec["properties"]["template"]["required"], json!(["kind", "apiVersion"]));
    assert_eq!(spec["properties"]["template"]["properties"]["spec"], json!({}));
}
