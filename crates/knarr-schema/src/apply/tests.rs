//! Behaviours of ownership and apply, as upstream's tests and servers show them.

use knarr_core::{Status, Value, ValueExt as _, json};

use super::set::Set;
use super::*;
use crate::codec;
use crate::registry::Registry;
use crate::registry::Resource;
use std::sync::Arc;

fn resource(group: &str, version: &str, plural: &str) -> Arc<Resource> {
    Registry::builtin().by_resource(group, version, plural).expect("a built-in resource").clone()
}

fn deployments() -> Arc<Resource> {
    resource("apps", "v1", "deployments")
}

fn by(name: &str) -> Manager<'_> {
    Manager { name, subresource: "", now: "2026-01-02T03:04:05Z" }
}

/// A body as a handler has it after decoding.
fn decoded(resource: &Resource, body: Value) -> Value {
    codec::decode_json(resource, body.to_string().as_bytes(), codec::FieldValidation::Strict).unwrap().value
}

fn deployment(replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image, "ports": [{"containerPort": 80}]}]}}
        }
    })
}

/// Each entry as `manager operation subresource: fields`, times left out.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let text = |e: &Value, k: &str| e.str_at(&[k]).unwrap_or_default().to_owned();
    let entries = object.list_at(&["metadata", "managedFields"]).iter();
    entries
        .map(|e| (format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource")).trim_end().to_owned(), e["fieldsV1"].clone()))
        .collect()
}

fn created(resource: &Resource, body: Value, manager: &str) -> Value {
    let mut object = decoded(resource, body);
    track_update(resource, None, &mut object, by(manager));
    object.set(&["metadata", "uid"], "1");
    object
}

fn updated(resource: &Resource, old: &Value, manager: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut new = old.clone();
    change(&mut new);
    track_update(resource, Some(old), &mut new, by(manager));
    new
}

fn applied(resource: &Resource, live: Option<&Value>, config: &Value, manager: &str) -> Result<Value, Status> {
    let merged = apply(resource, live, config, by(manager), false)?;
    let mut object = codec::decode_value(resource, &merged, codec::FieldValidation::Ignore).unwrap().value;
    object.set(&["metadata", "uid"], "1");
    Ok(object)
}

#[test]
fn a_create_gives_every_field_to_its_manager() {
    let object = created(&deployments(), deployment(1, "nginx"), "kubectl-create");
    let wanted = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:resources": {}
                }}}
            }
        }
    });
    assert_eq!(owners(&object), [("kubectl-create Update".to_owned(), wanted)]);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(
        (entry["apiVersion"].as_str(), entry["fieldsType"].as_str(), entry["time"].as_str()),
        (Some("apps/v1"), Some("FieldsV1"), Some("2026-01-02T03:04:05Z"))
    );
}

/// The objects of a real server: what it wrote into `managedFields` comes out again.
#[test]
fn creates_give_the_fields_that_upstream_gives() {
    let mut proved = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let object: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let entries = object.list_at(&["metadata", "managedFields"]);
        let [entry] = entries else { continue };
        let (group, version) = object.str_at(&["apiVersion"]).unwrap().rsplit_once('/').unwrap_or(("", object.str_at(&["apiVersion"]).unwrap()));
        let registry = Registry::builtin();
        let Some(resource) = registry.by_kind(group, version, object.str_at(&["kind"]).unwrap()) else { continue };
        if entry.str_at(&["subresource"]).is_some() || entry.str_at(&["apiVersion"]) != object.str_at(&["apiVersion"]) {
            continue;
        }
        let mut new = object.clone();
        new.remove(&["metadata", "managedFields"]);
        track_update(resource, None, &mut new, Manager { name: entry.str_at(&["manager"]).unwrap(), subresource: "", now: entry.str_at(&["time"]).unwrap() });
        let (ours, theirs) = (&new["metadata"]["managedFields"][0]["fieldsV1"], &entry["fieldsV1"]);
        let (ours, theirs) = (fields::parse(ours).unwrap(), fields::parse(theirs).unwrap());
        let extra = fields::to_value(&ours.clone().difference(&theirs));
        // Its client sent an empty list; a stored object cannot tell that from none.
        let lost = Set::of_paths(["spec.drivers"]);
        let theirs = theirs.difference(&lost);
        assert_eq!(fields::to_value(&theirs.clone().difference(&ours)), json!({}), "{}: missing", path.display());
        // What admission and the strategy add comes after ownership was settled; the fixtures have it already.
        let added_later = ["Namespace", "Service", "Job", "Pod", "PersistentVolume", "PersistentVolumeClaim", "VolumeAttributesClass"];
        assert!(extra == json!({}) || added_later.contains(&resource.kind.as_str()), "{}: {extra}", path.display());
        proved += 1;
    }
    assert!(proved > 60, "{proved}");
}

#[test]
fn an_update_gives_what_changed_and_takes_it_from_others() {
    let d = deployments();
    let old = created(&d, deployment(1, "nginx"), "creator");
    let new = updated(&d, &old, "scaler", |o| o.set(&["spec", "replicas"], 5));
    let entries = owners(&new);
    assert_eq!(entries[1], ("scaler Update".into(), json!({"f:spec": {"f:replicas": {}}})));
    assert_eq!(entries[0].1.at(&["f:spec", "f:replicas"]), None);
    let gone = updated(&d, &new, "cleaner", |o| drop(o.remove(&["metadata", "labels"])));
    assert_eq!(owners(&gone).len(), 2, "who only takes away owns nothing");
    assert_eq!(owners(&gone)[0].1.get("f:metadata"), None);
}

#[test]
fn a_write_that_changes_nothing_leaves_managed_fields_alone() {
    let d = deployments();
    let old = created(&d, deployment(1, "nginx"), "creator");
    let mut new = old.clone();
    track_update(&d, Some(&old), &mut new, Manager { name: "creator", subresource: "", now: "2030-01-01T00:00:00Z" });
    assert_eq!(new, old);
    let mut bare = old.clone();
    bare.remove(&["metadata", "managedFields"]);
    track_update(&d, Some(&old), &mut bare, by("somebody"));
    assert_eq!(bare, old, "clients that do not know managedFields do not delete them");
}

#[test]
fn an_object_that_nobody_tracks_stays_untracked_until_the_first_apply() {
    let d = deployments();
    let mut old = decoded(&d, deployment(1, "nginx"));
    old.set(&["metadata", "uid"], "1");
    let new = updated(&d, &old, "somebody", |o| o.set(&["spec", "replicas"], 5));
    assert_eq!(owners(&new), []);
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"paused": true}});
    let applied = applied(&d, Some(&new), &config, "applier").unwrap();
    let names: Vec<String> = owners(&applied).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["applier Apply", "before-first-apply Update"]);
}

#[test]
fn an_empty_entry_resets_all() {
    let d = deployments();
    let old = created(&d, deployment(1, "nginx"), "creator");
    let new = updated(&d, &old, "resetter", |o| o.set(&["metadata", "managedFields"], json!([{}])));
    assert_eq!(new.at(&["metadata", "managedFields"]), None);
}

#[test]
fn a_status_write_owns_status_only() {
    let d = deployments();
    let old = created(&d, deployment(1, "nginx"), "creator");
    let mut new = old.clone();
    new.set(&["status", "replicas"], 1);
    new.set(&["spec", "replicas"], 9);
    track_update(&d, Some(&old), &mut new, Manager { subresource: "status", ..by("kube-controller-manager") });
    assert_eq!(owners(&new)[1], ("kube-controller-manager Update status".into(), json!({"f:status": {"f:replicas": {}}})));
    let mut main = old.clone();
    main.set(&["status", "replicas"], 1);
    track_update(&d, Some(&old), &mut main, by("kubectl-edit"));
    assert_eq!(owners(&main), owners(&old));
}

#[test]
fn more_than_ten_updaters_are_put_together() {
    let maps = resource("", "v1", "configmaps");
    let mut object = created(&maps, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k00": "x"}}), "m00");
    for n in 1..12 {
        let old = object.clone();
        object.set(&["data", &format!("k{n:02}")], "x");
        let (name, now) = (format!("m{n:02}"), format!("2026-01-02T03:05:{n:02}Z"));
        track_update(&maps, Some(&old), &mut object, Manager { name: &name, subresource: "", now: &now });
    }
    let entries = owners(&object);
    assert_eq!((entries.len(), entries[0].0.as_str()), (10, "ancient-changes Update"));
    assert_eq!(entries[0].1, json!({"f:data": {".": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}}}));
    assert_eq!(object["metadata"]["managedFields"][0]["time"], "2026-01-02T03:05:02Z");
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

#[test]
fn an_apply_of_a_foreign_field_conflicts_unless_forced() {
    let d = deployments();
    let live = created(&d, deployment(1, "nginx"), "kubectl-client-side-apply");
    let conflict = applied(&d, Some(&live), &config(json!({"replicas": 3})), "me").unwrap_err();
    assert_eq!((conflict.code, conflict.reason), (409, knarr_core::Reason::Conflict));
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas");
    let causes = conflict.details.unwrap().causes;
    assert_eq!((causes[0].reason.as_str(), causes[0].field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    assert_eq!(causes[0].message, "conflict with \"kubectl-client-side-apply\" using apps/v1");

    let containers = json!({"template": {"spec": {"containers": [{"name": "web", "image": "new"}]}}, "replicas": 3});
    let conflict = applied(&d, Some(&live), &config(containers.clone()), "me").unwrap_err();
    assert_eq!(
        conflict.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"web\"].image"
    );
    let forced = apply(&d, Some(&live), &config(containers), by("me"), true).unwrap();
    assert_eq!((forced.i64_at(&["spec", "replicas"]), forced["spec"]["template"]["spec"]["containers"][0]["image"].as_str()), (Some(3), Some("new")));
    assert_eq!(owners(&forced)[0].1["f:spec"]["f:replicas"], json!({}));
    assert_eq!(owners(&forced)[1].1["f:spec"].get("f:replicas"), None);
}

#[test]
fn the_same_value_is_owned_together() {
    let d = deployments();
    let live = created(&d, deployment(3, "nginx"), "creator");
    let both = applied(&d, Some(&live), &config(json!({"replicas": 3})), "me").unwrap();
    assert_eq!(owners(&both)[0], ("me Apply".into(), json!({"f:spec": {"f:replicas": {}}})));
    assert_eq!(owners(&both)[1].1["f:spec"]["f:replicas"], json!({}));
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let d = deployments();
    let full = json!({"replicas": 3, "minReadySeconds": 5, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
        {"name": "web", "image": "1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}, {"name": "side", "image": "1"}]}}});
    let one = applied(&d, None, &config(full.clone()), "one").unwrap();
    let two = applied(&d, Some(&one), &config(json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "side", "image": "1"}]}}})), "two").unwrap();
    let mut less = full;
    less.as_object_mut().unwrap().retain(|k, _| k == "selector" || k == "template");
    less["template"]["spec"]["containers"] = json!([{"name": "web", "image": "1", "env": [{"name": "B", "value": "2"}]}]);
    let after = applied(&d, Some(&two), &config(less), "one").unwrap();
    assert_eq!(after.at(&["spec", "minReadySeconds"]), None);
    assert_eq!(after.i64_at(&["spec", "replicas"]), Some(3), "two still wants it");
    let containers = after["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "side"]);
    assert_eq!(containers[0]["env"], json!([{"name": "B", "value": "2"}]));
}

#[test]
fn keys_with_defaults_are_one_entry_with_or_without_them() {
    let services = resource("", "v1", "services");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": ports}});
    let one = applied(&services, None, &service(json!([{"port": 80}])), "one").unwrap();
    assert_eq!(owners(&one)[0].1["f:spec"]["f:ports"], json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}));
    let two =
        applied(&services, Some(&one), &service(json!([{"port": 80, "protocol": "TCP", "name": "web"}, {"port": 80, "protocol": "UDP"}])), "two").unwrap();
    assert_eq!(two["spec"]["ports"].as_array().unwrap().len(), 2);
}

#[test]
fn a_repeated_apply_changes_nothing() {
    let d = deployments();
    let c = config(
        json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "web", "image": "1"}]}}}),
    );
    let one = applied(&d, None, &c, "one").unwrap();
    let again = apply(&d, Some(&one), &c, Manager { name: "one", subresource: "", now: "2030-01-01T00:00:00Z" }, false).unwrap();
    assert_eq!(again, one);
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let d = deployments();
    let mut body = deployment(1, "nginx");
    let last = body.to_string();
    body.set(&["metadata", "annotations"], json!({"kubectl.kubernetes.io/last-applied-configuration": last}));
    let live = created(&d, body, "kubectl-client-side-apply");
    let mut wanted = deployment(1, "nginx");
    wanted.set(&["spec", "replicas"], 4);
    let taken = applied(&d, Some(&live), &wanted, "kubectl").unwrap();
    assert_eq!(taken.i64_at(&["spec", "replicas"]), Some(4));
    let annotation = taken.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]).unwrap();
    assert_eq!(annotation, format!("{wanted}\n"));
    let foreign = updated(&d, &live, "scaler", |o| o.set(&["spec", "replicas"], 7));
    let conflict = applied(&d, Some(&foreign), &wanted, "kubectl").unwrap_err();
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas");
}

#[test]
fn a_configuration_that_does_not_fit_is_told_as_upstream_tells_it() {
    let d = deployments();
    let refused = |c: Value| {
        let status = applied(&d, None, &c, "me").unwrap_err();
        (status.code, status.message)
    };
    let typed = "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): ";
    assert_eq!(refused(config(json!({"bogus": 1}))), (500, format!("{typed}.spec.bogus: field not declared in schema")));
    assert_eq!(refused(config(json!({"replicas": "x"}))), (500, format!("{typed}.spec.replicas: expected numeric (int or float), got string")));
    let twice = json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}});
    assert_eq!(refused(config(twice)), (500, format!("{typed}.spec.template.spec.containers: duplicate entries for key [name=\"a\"]")));
    let mut other = config(json!({}));
    other["kind"] = "Pod".into();
    assert_eq!(refused(other), (400, "invalid object type: apps/v1, Kind=Pod".into()));
    let mut managed = config(json!({}));
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(refused(managed), (400, "metadata.managedFields must be nil".into()));
}

#[test]
fn times_alone_are_no_change() {
    let d = deployments();
    let old = created(&d, deployment(1, "nginx"), "creator");
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    let mut other = new.clone();
    keep_times(&old, &mut new);
    assert_eq!(new, old);
    other.set(&["spec", "replicas"], 2);
    let before = other.clone();
    keep_times(&old, &mut other);
    assert_eq!(other, before);
}

#[test]
fn custom_resources_merge_as_their_schema_says() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
    }}, "status": {"type": "object", "properties": {"n": {"type": "integer"}}}}});
    let custom = crate::registry::Custom {
        definition: "widgets.example.com".into(),
        schema: Arc::new((&schema).into()),
        selectable_fields: Vec::new(),
        status_subresource: true,
        scale: None,
        preserve_unknown_fields: false,
    };
    let mut widgets = (*scale::resource()).clone();
    (widgets.group, widgets.version, widgets.kind) = ("example.com".into(), "v1".into(), "Widget".into());
    (widgets.type_id, widgets.custom) = (None, Some(Arc::new(custom)));
    let widget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec});
    let full = widget(json!({"items": [{"id": "a", "n": 1}], "set": ["x"], "plain": ["p"], "whole": {"k": "v"}, "free": {"deep": {"er": 1}}}));
    let mut live = full.clone();
    track_update(&widgets, None, &mut live, by("creator"));
    let wanted = json!({"f:spec": {".": {}, "f:items": {".": {}, "k:{\"id\":\"a\"}": {".": {}, "f:id": {}, "f:n": {}}}, "f:set": {".": {}, "v:\"x\"": {}}, "f:plain": {}, "f:whole": {},
        "f:free": {".": {}, "f:deep": {".": {}, "f:er": {}}}}});
    assert_eq!(owners(&live)[0].1, wanted);
    live.set(&["metadata", "uid"], "1");
    let merged = apply(&widgets, Some(&live), &widget(json!({"items": [{"id": "b", "n": 2}], "set": ["y"]})), by("me"), false).unwrap();
    assert_eq!(merged["spec"]["items"], json!([{"id": "a", "n": 1}, {"id": "b", "n": 2}]));
    assert_eq!(merged["spec"]["set"], json!(["x", "y"]));
    let other_kind = apply(&widgets, Some(&live), &widget(json!({"free": {"deep": [1]}})), by("me"), true).unwrap();
    let back = apply(&widgets, Some(&other_kind), &widget(json!({"free": {"deep": {}}})), by("me"), true).unwrap();
    assert_eq!((&other_kind["spec"]["free"], &back["spec"]["free"]), (&json!({"deep": [1]}), &json!({"deep": {}})), "a value may change its kind");
    let conflict = apply(&widgets, Some(&live), &widget(json!({"plain": ["q"]})), by("me"), false).unwrap_err();
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"creator\" using example.com/v1: .spec.plain");
}

#[test]
fn who_scales_owns_the_replicas_of_the_object() {
    let d = deployments();
    let live = created(&d, deployment(1, "nginx"), "creator");
    let scale_fields = scale::to_scale(&d, &live).unwrap();
    assert_eq!(scale_fields[0]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "uid": "1", "managedFields": scale_fields}, "spec": {"replicas": 1}, "status": {"replicas": 0}});
    let mut new = old.clone();
    new["spec"]["replicas"] = 4.into();
    track_update(scale::resource(), Some(&old), &mut new, Manager { subresource: "scale", ..by("hpa") });
    let entries = scale::to_object(&d, &live, new["metadata"]["managedFields"].as_array().unwrap()).unwrap();
    let mut object = live.clone();
    object.set(&["metadata", "managedFields"], Value::Array(entries));
    let found = owners(&object);
    assert_eq!(found[0], ("hpa Update scale".into(), json!({"f:spec": {"f:replicas": {}}})));
    assert_eq!(found[1].1["f:spec"].get("f:replicas"), None);
    assert_eq!(object["metadata"]["managedFields"][0]["apiVersion"], "apps/v1");
}
