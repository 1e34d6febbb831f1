//! A resize changes processor and memory and nothing else (upstream: `ValidatePodResize`).

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt};

use super::annotations::MIRROR;
use super::{Options, metadata_and_spec};
use crate::at::At;
use crate::pod::qos;
use crate::semantic::{same, same_at};
use crate::separation::keep_at;

const ONLY_RESOURCES: &str = "only cpu and memory resources are mutable";

pub fn validate(pod: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let root = At::root(pod);
    metadata_and_spec(&root, &Options::of_pod(pod, Some(old)), &mut e);
    if old.at(&["metadata", "annotations", MIRROR]).is_some() {
        return vec![Error::forbidden(&Path::new("[]"), "static pods cannot be resized")];
    }
    if old.str_at(&["spec", "os", "name"]) == Some("windows") {
        return vec![Error::forbidden(&Path::new("[]"), "windows pods cannot be resized")];
    }
    let spec = root.get("spec");
    if qos::of_pod(old) != qos::class(spec.value().unwrap_or(&Value::Null)) {
        let class = pod.str_at(&["status", "qosClass"]).unwrap_or_default();
        e.push(spec.invalid_as(class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !node_supports_resize(old) {
        e.push(spec.forbidden("Pod running on node without support for resize"));
    }
    let mut munged = pod.clone();
    own_resources(&spec, old, &mut munged, &mut e);
    if !same_containers(&spec, old, &mut e) {
        return e;
    }
    for kind in ["initContainers", "containers"] {
        for (container, before) in spec.get(kind).items().zip(old.list_at(&["spec", kind])) {
            nothing_removed(&container.get("resources"), before.at(&["resources"]), &mut e);
        }
    }
    only_resources(&spec, old, &mut munged, &mut e);
    if !same_at(pod, old, &["spec", "volumes"]) {
        e.push(spec.get("volumes").forbidden("volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled"));
    }
    if e.is_empty() && !same_at(&munged, old, &["spec"]) {
        e.push(spec.forbidden(ONLY_RESOURCES));
    }
    e
}

/// A node that reports the resources of running containers can change them.
fn node_supports_resize(pod: &Value) -> bool {
    let running = pod.list_at(&["status", "containerStatuses"]).iter().find(|s| s.at(&["state", "running"]).is_some());
    running.is_none_or(|s| s.at(&["resources"]).is_some())
}

fn own_resources(spec: &At, old: &Value, munged: &mut Value, e: &mut ErrorList) {
    let (own, before) = (spec.get("resources"), old.at(&["spec", "resources"]));
    let amounts = |v: Option<&Value>| v.is_some_and(|v| ["requests", "limits"].iter().any(|k| !crate::tree::is_zero_at(v, &[k])));
    if !amounts(own.value()) && !amounts(before) {
        return;
    }
    if before.is_some() && !own.is_set() {
        e.push(own.forbidden("pod-level resources cannot be removed"));
        return;
    }
    for kind in ["requests", "limits"] {
        if was_removed(own.value(), before, kind) {
            e.push(own.get(kind).forbidden(format!("pod-level resource {kind} cannot be removed")));
        }
    }
    let mut copy = own.value().cloned().unwrap_or_default();
    keep_compute(&mut copy, before);
    if before.is_none() && ["requests", "limits", "claims"].iter().all(|k| crate::tree::is_zero_at(&copy, &[k])) {
        munged.remove(&["spec", "resources"]);
        return;
    }
    if !same(Some(&copy), before) {
        e.push(spec.forbidden("only cpu and memory resources are mutable at pod-level"));
    }
    munged.set(&["spec", "resources"], copy);
}

fn was_removed(new: Option<&Value>, old: Option<&Value>, kind: &str) -> bool {
    let before = old.and_then(|o| o.at(&[kind])).and_then(Value::as_object);
    before.into_iter().flatten().any(|(name, _)| new.is_none_or(|n| n.at(&[kind, name]).is_none()))
}

/// Undoes changes of processor and memory.
fn keep_compute(resources: &mut Value, old: Option<&Value>) {
    let none = Value::Null;
    let old = old.unwrap_or(&none);
    for kind in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            keep_at(resources, old, &[kind, name]);
        }
        if crate::tree::is_zero_at(resources, &[kind]) {
            resources.remove(&[kind]);
        }
    }
}

fn same_containers(spec: &At, old: &Value, e: &mut ErrorList) -> bool {
    let before = e.len();
    for kind in ["containers", "initContainers"] {
        let (now, was) = (spec.get(kind), old.list_at(&["spec", kind]));
        if now.len() != was.len() {
            e.push(now.forbidden(format!("{kind} may not be added or removed on resize")));
            continue;
        }
        for (container, was) in now.items().zip(was) {
            if container.str_of("name") != was.str_at(&["name"]).unwrap_or_default() {
                e.push(container.get("name").forbidden(format!("{kind} may not be renamed or reordered on resize")));
            }
        }
    }
    e.len() == before
}

fn nothing_removed(resources: &At, old: Option<&Value>, e: &mut ErrorList) {
    for kind in ["requests", "limits"] {
        if was_removed(resources.value(), old, kind) {
            e.push(resources.get(kind).forbidden(format!("resource {kind} cannot be removed")));
        }
    }
}

/// Containers differ in processor and memory only.
fn only_resources(spec: &At, old: &Value, munged: &mut Value, e: &mut ErrorList) {
    for kind in ["containers", "initContainers"] {
        for (i, (container, before)) in spec.get(kind).items().zip(old.list_at(&["spec", kind])).enumerate() {
            let mut copy = container.value().cloned().unwrap_or_default();
            let changed = !same(Some(&copy), Some(before));
            let mut resources = copy.at(&["resources"]).cloned().unwrap_or_else(|| knarr_core::json!({}));
            keep_compute(&mut resources, before.at(&["resources"]));
            copy.set(&["resources"], resources);
            let mut was = before.clone();
            if was.at(&["resources"]).is_none() {
                was.set(&["resources"], knarr_core::json!({}));
            }
            if !same(Some(&copy), Some(&was)) {
                e.push(match kind {
                    "containers" => spec.forbidden(ONLY_RESOURCES),
                    _ => container.forbidden("only cpu and memory resources for init or sidecar containers are mutable"),
                });
            }
            let restarts = container.get("resizePolicy").items().any(|p| p.str_of("restartPolicy") == "RestartContainer");
            let sidecar = container.value().is_some_and(crate::pod::resources::is_sidecar);
            if kind == "initContainers" && changed && !sidecar && restarts {
                e.push(container.forbidden("non-sidecar init containers with a resize policy of RestartContainer cannot be resized"));
            }
            if let Some(slot) = crate::tree::list_mut(munged, &["spec", kind]).get_mut(i) {
                *slot = if was == *before { copy } else { before.clone() };
            }
        }
    }
}
