//! Annotations of pods that the API itself reads: mirror pods, deletion cost, and the old places of seccomp and AppArmor.

use knarr_core::field::{Error, ErrorList};
use knarr_core::{Value, ValueExt};

use super::{Options, security};
use crate::at::At;
use crate::pod::defaults::CONTAINERS;
use crate::rules;

pub const MIRROR: &str = "kubernetes.io/config.mirror";
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Upstream: `ValidatePodSpecificAnnotations`.
pub fn validate(annotations: &At, spec: &At, options: &Options, e: &mut ErrorList) {
    let mirror = annotations.key(MIRROR);
    if mirror.is_set() && spec.get("nodeName").is_empty() {
        e.push(mirror.invalid("must set spec.nodeName if mirror pod annotation is set"));
    }
    let tolerations = annotations.str_of(TOLERATIONS);
    if !tolerations.is_empty() {
        match serde_json::from_str::<Value>(tolerations) {
            Ok(list) => super::tolerations(&annotations.shown_as(TOLERATIONS, Some(&list)), e),
            Err(problem) => e.push(Error::invalid(&annotations.path(), TOLERATIONS, problem.to_string())),
        }
    }
    let cost = annotations.key(DELETION_COST);
    if !options.invalid_deletion_cost && cost.is_set() && !is_deletion_cost(cost.str()) {
        e.push(cost.invalid("must be a 32bit integer"));
    }
    for (key, value) in annotations.entries() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(&annotations.shown_as(key, value.value()), e);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            app_armor(&value, container, spec, e);
        }
    }
}

/// A number as Go writes it: no plus sign, no leading zero.
fn is_deletion_cost(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|n| n.to_string() == text)
}

fn seccomp(profile: &At, e: &mut ErrorList) {
    match profile.str() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        local if local.starts_with("localhost/") => {
            e.extend(rules::local_descending_path(&local["localhost/".len()..]).into_iter().map(|p| profile.invalid_as(&local["localhost/".len()..], p)));
        }
        _ => e.push(profile.invalid("must be a valid seccomp profile")),
    }
}

fn app_armor(profile: &At, container: &str, spec: &At, e: &mut ErrorList) {
    let known = CONTAINERS.iter().any(|kind| spec.get(kind).items().any(|c| c.str_of("name") == container));
    if !known {
        e.push(profile.invalid_as(container, "container not found"));
    }
    let text = profile.str();
    if !["", "runtime/default", "unconfined"].contains(&text) && !text.starts_with("localhost/") {
        e.push(profile.invalid(format!("invalid AppArmor profile name: {}", knarr_core::field::go_quote(text))));
    }
}

/// Annotations of a pod that an update may not touch (upstream: `ValidatePodSpecificAnnotationUpdates`).
pub fn update(annotations: &At, old: Option<&Value>, e: &mut ErrorList) {
    let before = |key: &str| old.and_then(|o| o.get(key));
    let watched = |key: &str| key.starts_with(APP_ARMOR) || key == MIRROR;
    let what = |key: &str| if key == MIRROR { "mirror pod annotation" } else { "AppArmor annotations" };
    for (key, value) in old.and_then(Value::as_object).into_iter().flatten().filter(|(key, _)| watched(key)) {
        let now = annotations.key(key);
        if now.value() != Some(value) {
            e.push(now.forbidden(format!("may not remove or update {}", what(key))));
        }
    }
    for (key, value) in annotations.entries().filter(|(key, _)| watched(key) && before(key).is_none()) {
        e.push(value.forbidden(format!("may not add {}", what(key))));
    }
}

/// Where a profile stands in an annotation and in a field, both say the same.
pub fn match_fields(metadata: &At, spec: &At, e: &mut ErrorList) {
    let annotations = metadata.get("annotations");
    if !annotations.is_set() {
        return;
    }
    let note = |key: &str| annotations.value().and_then(|a| a.str_at(&[key]));
    let context = spec.get("securityContext");
    if let Some(text) = note(SECCOMP_POD) {
        security::profile_matches(&context.get("seccompProfile"), text, &["runtime/default", "docker/default"], "seccomp", e);
    }
    let windows = spec.get("os").str_of("name") == "windows";
    for kind in CONTAINERS {
        for container in spec.get(kind).items() {
            let (name, own) = (container.str_of("name"), container.get("securityContext"));
            if let Some(text) = note(&format!("{SECCOMP_CONTAINER}{name}")) {
                security::profile_matches(&own.get("seccompProfile"), text, &["runtime/default", "docker/default"], "seccomp", e);
            }
            if let Some(text) = note(&format!("{APP_ARMOR}{name}")).filter(|_| !windows) {
                let profile = own.get("appArmorProfile").value().or(context.get("appArmorProfile").value());
                security::profile_matches(&own.shown_as("appArmorProfile", profile), text, &["runtime/default"], "apparmor", e);
            }
        }
    }
}
