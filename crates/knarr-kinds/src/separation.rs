//! Who may write what: the rules that hold for every kind with `spec` and `status`.
//!
//! A write to the object leaves `status` as it was, a write to `status` leaves everything else as it was, and a change of what
//! is wanted raises `metadata.generation`.

use knarr_core::{Map, Value, ValueExt};

use crate::semantic::same_at;
use crate::strategy::Shape;

/// Fields that a write to `status` leaves alone (upstream: `metav1.ResetObjectMetaForStatus`).
const METADATA_OF_OBJECT: [&str; 6] = ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"];

/// What of an object is not what its user wants.
const NOT_WISHES: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// A new object begins without status, and with generation 1 where its kind counts generations.
pub fn create(shape: Shape, object: &mut Value) {
    if shape.status {
        object.remove(&["status"]);
    }
    if shape.generation {
        object.set(&["metadata", "generation"], 1);
    }
}

/// An update leaves the status as it was and counts a changed wish.
pub fn update(shape: Shape, object: &mut Value, old: &Value) {
    if shape.status {
        keep(object, old, "status");
    }
    count(object, old, shape.generation && wish_changed(object, old));
}

/// A write to `status` changes nothing but `status` and, for most kinds, labels and annotations.
pub fn status_update(shape: Shape, object: &mut Value, old: &Value) {
    if let Some(map) = object.as_object_mut() {
        map.retain(|key, _| NOT_WISHES.contains(&key.as_str()));
    }
    for (key, value) in old.as_object().into_iter().flatten() {
        if !NOT_WISHES.contains(&key.as_str()) {
            object.set(&[key], value.clone());
        }
    }
    if shape.status_keeps_metadata {
        keep_metadata(object, old);
    }
}

/// Takes one top-level field over from the old object.
pub fn keep(object: &mut Value, old: &Value, key: &str) {
    keep_at(object, old, &[key]);
}

/// Takes the field at a path over from the old object.
pub fn keep_at(object: &mut Value, old: &Value, path: &[&str]) {
    match old.at(path) {
        Some(value) => object.set(path, value.clone()),
        None => {
            object.remove(path);
        }
    }
}

/// Takes over what of `metadata` is not a status writer's business.
pub fn keep_metadata(object: &mut Value, old: &Value) {
    for key in METADATA_OF_OBJECT {
        keep_at(object, old, &["metadata", key]);
    }
}

/// Sets the generation of the new object from that of the old one.
pub fn count(object: &mut Value, old: &Value, changed: bool) {
    match (old.i64_at(&["metadata", "generation"]), changed) {
        (generation, true) => object.set(&["metadata", "generation"], generation.unwrap_or(0) + 1),
        (Some(generation), false) => object.set(&["metadata", "generation"], generation),
        (None, false) => {
            object.remove(&["metadata", "generation"]);
        }
    }
}

/// Whether anything beside `metadata` and `status` differs.
pub fn wish_changed(object: &Value, old: &Value) -> bool {
    differs(object, old, &NOT_WISHES)
}

/// Whether any top-level field but these differs.
pub fn differs(object: &Value, old: &Value, but: &[&str]) -> bool {
    let empty = Map::new();
    let (new_keys, old_keys) = (object.as_object().unwrap_or(&empty).keys(), old.as_object().unwrap_or(&empty).keys());
    new_keys.chain(old_keys).filter(|k| !but.contains(&k.as_str())).any(|k| !same_at(object, old, &[k]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WORKLOAD: Shape = Shape::PLAIN.generation().status();

    #[test]
    fn a_changed_wish_counts_and_a_changed_label_does_not() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
        update(WORKLOAD, &mut new, &old);
        assert_eq!((new.i64_at(&["metadata", "generation"]), new.i64_at(&["status", "replicas"])), (Some(3), Some(1)));
        new.set(&["spec", "replicas"], 2);
        update(WORKLOAD, &mut new, &old);
        assert_eq!(new.i64_at(&["metadata", "generation"]), Some(4));
    }

    #[test]
    fn a_status_write_changes_only_status() {
        let old = json!({"metadata": {"generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 1}, "data": "x"});
        let mut new = json!({"metadata": {"generation": 9}, "spec": {"replicas": 7}, "status": {"replicas": 9}});
        status_update(WORKLOAD.status_keeps_metadata(), &mut new, &old);
        assert_eq!(new, json!({"metadata": {"generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 1}, "data": "x", "status": {"replicas": 9}}));
    }
}
