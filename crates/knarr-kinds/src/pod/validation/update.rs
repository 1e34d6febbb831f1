//! What an update of a pod may change: images, deadlines, added tolerations, removed gates (upstream: `ValidatePodUpdate`).

use std::collections::BTreeSet;

use knarr_core::field::{Error, ErrorList, Path, go_quote};
use knarr_core::{Value, ValueExt};
use knarr_schema::internal::Step;

use super::{Options, annotations, metadata_and_spec, scheduling};
use crate::at::At;
use crate::difference;
use crate::semantic::{same, same_at};
use crate::separation::keep_at;

const MAY_CHANGE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update through the pod itself.
pub fn validate(pod: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (root, old_root) = (At::root(pod), At::root(old));
    let (spec, old_spec) = (root.get("spec"), old_root.get("spec"));
    metadata_and_spec(&root, &Options::of_pod(pod, Some(old)), &mut e);
    let metadata = root.get("metadata");
    annotations::update(&metadata.get("annotations"), old.at(&["metadata", "annotations"]), &mut e);
    for kind in ["containers", "initContainers"] {
        if !images(&spec.get(kind), old_spec.get(kind).len(), &mut e) {
            return e;
        }
    }
    if !active_deadline(&spec.get("activeDeadlineSeconds"), &old_spec.get("activeDeadlineSeconds"), &mut e) {
        return e;
    }
    only_added_tolerations(&spec.get("tolerations"), &old_spec.get("tolerations"), &mut e);
    only_removed_gates(&spec.get("schedulingGates"), &old_spec.get("schedulingGates"), &mut e);
    if !same_at(pod, old, &["spec"]) {
        immutable_rest(pod, old, &mut e);
    }
    e
}

/// Images may change, containers may not come or go.
fn images(containers: &At, before: usize, e: &mut ErrorList) -> bool {
    if containers.len() != before {
        e.push(containers.forbidden("pod updates may not add or remove containers"));
        return false;
    }
    for container in containers.items() {
        container.get("image").require(e);
        super::containers::image_without_spaces(&container, e);
    }
    true
}

fn active_deadline(new: &At, old: &At, e: &mut ErrorList) -> bool {
    match (new.is_set(), old.is_set()) {
        (true, _) => {
            if !(0..=i64::from(i32::MAX)).contains(&new.int()) {
                e.push(new.invalid(crate::at::range_text(0, i64::from(i32::MAX))));
                return false;
            }
            if old.is_set() && old.int() < new.int() {
                e.push(new.invalid("must be less than or equal to previous value"));
                return false;
            }
        }
        (false, true) => e.push(new.invalid_as(Value::Null, "must not update from a positive integer to nil value")),
        (false, false) => {}
    }
    true
}

fn only_added_tolerations(new: &At, old: &At, e: &mut ErrorList) {
    let but_seconds = |toleration: &At| {
        let mut copy = toleration.value().cloned().unwrap_or_default();
        copy.remove(&["tolerationSeconds"]);
        copy
    };
    for before in old.items() {
        if !new.items().any(|now| same(Some(&but_seconds(&now)), Some(&but_seconds(&before)))) {
            e.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
            return;
        }
    }
    scheduling::tolerations(new, e);
}

fn only_removed_gates(new: &At, old: &At, e: &mut ErrorList) {
    let before: BTreeSet<&str> = old.items().map(|g| g.str_of("name")).collect();
    for gate in new.items().filter(|g| !before.contains(g.str_of("name"))) {
        e.push(gate.get("name").forbidden(format!("only deletion is allowed, but found new scheduling gate '{}'", gate.str_of("name"))));
    }
}

/// Undoes the changes that are allowed; what differs then is not.
fn immutable_rest(pod: &Value, old: &Value, e: &mut ErrorList) {
    let mut munged = pod.clone();
    for kind in ["containers", "initContainers"] {
        let images: Vec<Value> = old.list_at(&["spec", kind]).iter().map(|c| c.at(&["image"]).cloned().unwrap_or_default()).collect();
        for (container, image) in crate::tree::list_mut(&mut munged, &["spec", kind]).iter_mut().zip(images) {
            container.set(&["image"], image);
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep_at(&mut munged, old, &["spec", field]);
    }
    let grace = ["spec", "terminationGracePeriodSeconds"];
    if old.i64_at(&grace).is_some_and(|s| s < 0) && munged.i64_at(&grace) == Some(1) {
        keep_at(&mut munged, old, &grace);
    }
    if !old.list_at(&["spec", "schedulingGates"]).is_empty() {
        gated(&mut munged, old, e);
    }
    if !same_at(&munged, old, &["spec"]) {
        let diff = difference::of(pod, &[Step::Field("spec")], old.at(&["spec"]), munged.at(&["spec"]));
        e.push(Error::forbidden(&Path::new("spec"), format!("pod updates may not change fields other than {MAY_CHANGE}\n{diff}")));
    }
}

/// While gates hold it back a pod may narrow down where it goes.
fn gated(munged: &mut Value, old: &Value, e: &mut ErrorList) {
    let root = At::root(munged);
    let spec = root.get("spec");
    let selector = spec.get("nodeSelector");
    let before = old.at(&["spec", "nodeSelector"]).and_then(Value::as_object);
    for (key, value) in before.into_iter().flatten() {
        if selector.key(key).value() != Some(value) {
            e.push(selector.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)"));
        }
    }
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    let old_node = old.at(&["spec", "affinity", "nodeAffinity"]);
    if !node.same(old_node) {
        node_affinity(&node, old_node, e);
    }
    keep_at(munged, old, &["spec", "nodeSelector"]);
    match old_node {
        Some(affinity) => munged.set(&["spec", "affinity", "nodeAffinity"], affinity.clone()),
        None => {
            munged.remove(&["spec", "affinity", "nodeAffinity"]);
            if old.at(&["spec", "affinity"]).is_none() && munged.at(&["spec", "affinity"]).is_some_and(|a| a.as_object().is_some_and(|m| m.is_empty())) {
                munged.remove(&["spec", "affinity"]);
            }
        }
    }
}

fn node_affinity(new: &At, old: Option<&Value>, e: &mut ErrorList) {
    let path = ["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let before = old.map_or(&[][..], |o| o.list_at(&path));
    let required = new.get(path[0]);
    let terms = required.get(path[1]);
    if !before.is_empty() && before.len() != terms.len() {
        e.push(terms.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
        return;
    }
    for (term, old) in terms.items().zip(before) {
        let only_adds = |field: &str| {
            let (new, old) = (term.value().map_or(&[][..], |t| t.list_at(&[field])), old.list_at(&[field]));
            new.len() >= old.len() && new[..old.len()] == *old
        };
        let was_empty = ["matchExpressions", "matchFields"].iter().all(|f| old.list_at(&[f]).is_empty());
        let is_empty = ["matchExpressions", "matchFields"].iter().all(|f| term.get(f).is_empty());
        if was_empty && !is_empty || !only_adds("matchExpressions") || !only_adds("matchFields") {
            e.push(term.invalid("only additions are allowed (no mutations or deletions)"));
        }
    }
}

/// An update through `ephemeralcontainers` only adds (upstream: `ValidatePodEphemeralContainersUpdate`).
pub fn ephemeral(pod: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let root = At::root(pod);
    metadata_and_spec(&root, &Options::of_pod(pod, Some(old)), &mut e);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    annotations::update(&metadata.get("annotations"), old.at(&["metadata", "annotations"]), &mut e);
    if old.at(&["metadata", "annotations", annotations::MIRROR]).is_some() {
        return vec![Error::forbidden(&Path::new("[]"), "static pods do not support ephemeral containers")];
    }
    let containers = spec.get("ephemeralContainers");
    for before in old.list_at(&["spec", "ephemeralContainers"]) {
        let name = before.str_at(&["name"]).unwrap_or_default();
        let now = containers.items().rfind(|c| c.str_of("name") == name);
        match now.and_then(|c| c.value()) {
            None => e.push(containers.forbidden(format!("existing ephemeral containers {} may not be removed\n", go_quote(name)))),
            Some(now) if !same(Some(now), Some(before)) => {
                let diff = difference::of(pod, &[Step::Field("spec"), Step::Field("ephemeralContainers"), Step::Item], Some(before), Some(now));
                e.push(containers.forbidden(format!("existing ephemeral containers {} may not be changed\n{diff}", go_quote(name))));
            }
            Some(_) => {}
        }
    }
    e
}
