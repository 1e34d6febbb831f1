//! Reading replica sets: sizes, owners, templates.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use knarr_core::Value;

/// The label that tells the sets of one Deployment apart.
pub const HASH_LABEL: &str = "pod-template-hash";

pub fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// `spec.replicas`.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub fn set_replicas(set: &mut ReplicaSet, replicas: i32) {
    set.spec.replicas = Some(replicas);
}

/// `status.replicas`.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn controller_uid(set: &ReplicaSet) -> Option<&str> {
    set.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str())
}

/// Whether two templates are equal but for the hash label (upstream: `EqualIgnoreHash`). Empty and absent are the same.
pub fn same_template(a: Option<&PodTemplateSpec>, b: Option<&PodTemplateSpec>) -> bool {
    a == b || bare(a) == bare(b)
}

fn bare(template: Option<&PodTemplateSpec>) -> Option<Value> {
    let mut template = template?.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let mut value = serde_json::to_value(template).ok()?;
    prune(&mut value);
    Some(value)
}

/// Takes out what is empty: lists, maps and null.
fn prune(value: &mut Value) {
    let is_empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            // An empty object may mean something (`emptyDir: {}`): only metadata's maps may be left out.
            map.retain(|key, v| {
                !is_empty(v)
                    && !(matches!(key.as_str(), "labels" | "annotations" | "metadata" | "nodeSelector") && v.as_object().is_some_and(serde_json::Map::is_empty))
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Oldest first; names decide among equals (upstream: `ReplicaSetsByCreationTimestamp`).
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let created = |s: &ReplicaSet| s.metadata.creation_timestamp.as_ref().map(|t| t.0);
    created(a).cmp(&created(b)).then_with(|| name(a).cmp(name(b)))
}
