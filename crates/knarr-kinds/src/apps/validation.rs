//! What workloads share: selector, template, rollout numbers, counts in the status (upstream: `pkg/apis/apps/validation`).

use knarr_core::field::ErrorList;
use knarr_core::selector::LabelSelector;
use knarr_core::{Value, ValueExt, names};

use crate::at::At;
use crate::pod::validation::{self, Options};
use crate::{pod, rules, warnings};

const NO_MATCH: &str = "`selector` does not match template `labels`";

/// A selector that is there and selects something. `kind` is how upstream calls the workload.
pub fn selector(spec: &At, kind: &str, e: &mut ErrorList) {
    let selector = spec.get("selector");
    if !selector.is_set() {
        e.push(selector.required(""));
        return;
    }
    selector.label_selector(e);
    not_empty(&selector, kind, e);
}

pub fn not_empty(selector: &At, kind: &str, e: &mut ErrorList) {
    if selector.get("matchLabels").len() + selector.get("matchExpressions").len() == 0 {
        e.push(selector.invalid(format!("empty selector is invalid for {kind}")));
    }
}

/// The selector as a matcher, or an error with this text.
pub fn matcher(spec: &At, problem: &str, e: &mut ErrorList) -> Option<LabelSelector> {
    let selector = spec.get("selector");
    let parsed = matcher_of(&selector);
    if parsed.is_none() {
        e.push(selector.invalid(problem));
    }
    parsed
}

/// A selector as a matcher, if it is one.
pub fn matcher_of(selector: &At) -> Option<LabelSelector> {
    let mut problems = ErrorList::new();
    selector.label_selector(&mut problems);
    LabelSelector::from_value(selector.value()).ok().filter(|_| problems.is_empty())
}

/// The pods that a workload makes are its own.
pub fn matches_template(selector: &LabelSelector, template: &At, e: &mut ErrorList) {
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    if !selector.is_everything() && !selector.matches(labels.value()) {
        e.push(labels.invalid_as(labels.value().cloned().unwrap_or_default(), NO_MATCH));
    }
}

/// Pods of workloads that keep running are restarted, always and without end.
pub fn runs_forever(template: &At, kind: &str, e: &mut ErrorList) {
    let spec = template.get("spec");
    spec.get("restartPolicy").if_set_one_of(e, &["Always"]);
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        e.push(deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

/// The template of a ReplicaSet or Deployment (upstream: `ValidatePodTemplateSpecForReplicaSet`).
pub fn replica_template(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(selector) = matcher(spec, "invalid label selector", e) {
        let template = spec.get("template");
        matches_template(&selector, &template, e);
        validation::template(&template, &template_options(old), e);
        runs_forever(&template, "ReplicaSet", e);
    }
}

/// What the template of the old object may keep.
pub fn template_options(old: Option<&Value>) -> Options {
    Options::of_template(old.map(|o| o.at(&["spec", "template"]).unwrap_or(&Value::Null)))
}

/// A number or a percentage, not below zero.
pub fn int_or_percent(place: &At, e: &mut ErrorList) {
    match place.value() {
        Some(Value::String(s)) => place.problems(e, rules::percent(s)),
        _ => place.nonnegative(e),
    }
}

pub fn at_most_all(place: &At, e: &mut ErrorList) {
    if percent_of(place.value()).is_some_and(|p| p > 100) {
        e.push(place.invalid("must not be greater than 100%"));
    }
}

fn percent_of(value: Option<&Value>) -> Option<i64> {
    value?.as_str().filter(|s| rules::percent(s).is_empty())?.trim_end_matches('%').parse().ok()
}

/// The number, or that before the `%`.
pub fn int_or_percent_value(place: &At) -> i64 {
    let number = || place.value().and_then(|v| v.as_i64().or_else(|| v.as_str()?.parse().ok()));
    percent_of(place.value()).or_else(number).unwrap_or(0)
}

/// Counts, none below zero.
pub fn counts(parent: &At, fields: &[&'static str], e: &mut ErrorList) {
    fields.iter().for_each(|field| parent.get(field).nonnegative(e));
}

/// Of all replicas, no more than all can be this or that; and who is available is ready.
pub fn part_of_replicas(status: &At, fields: &[&'static str], ready: &str, e: &mut ErrorList) {
    let all = status.get("replicas").int();
    for field in fields {
        let place = status.get(field);
        if place.int() > all {
            e.push(place.invalid_as(place.int(), "cannot be greater than status.replicas"));
        }
    }
    let available = status.get("availableReplicas");
    if available.int() > status.get("readyReplicas").int() {
        e.push(available.invalid_as(available.int(), format!("cannot be greater than {ready}")));
    }
}

/// Collisions of names are only ever added.
pub fn collisions(status: &At, old: &Value, e: &mut ErrorList) {
    let place = status.get("collisionCount");
    let before = old.i64_at(&["status", "collisionCount"]);
    if before.is_some_and(|before| !place.is_set() || place.int() < before) {
        e.push(place.invalid_as(place.int(), "cannot be decremented"));
    }
}

/// Fields of the spec that are as they were.
pub fn immutable(spec: &At, old: &Value, fields: &[&'static str], e: &mut ErrorList) {
    fields.iter().for_each(|field| spec.get(field).immutable(old.at(&["spec", field]), e));
}

/// Warnings about a name that becomes part of pod names, and about the template when it is new or the wish changed.
pub fn warn(object: &Value, old: Option<&Value>, names_hosts: bool) -> Vec<String> {
    let mut out = Vec::new();
    if names_hosts && old.is_none() {
        warnings::host_name_of_pods(object, "Pod names and hostnames", &mut out);
    }
    let generation = |o: &Value| o.i64_at(&["metadata", "generation"]);
    if old.is_none_or(|old| generation(old) != generation(object)) {
        let root = At::root(object);
        pod::warnings::of_template(&root.get("spec").get("template"), &mut out);
    }
    out
}

/// The name of a service.
pub fn service_name(spec: &At, e: &mut ErrorList) {
    spec.get("serviceName").optional_name(e, names::is_dns1123_label);
}

/// A strategy of another type: the whole strategy is shown.
pub fn unsupported_strategy(strategy: &At, types: &[&str], e: &mut ErrorList) {
    let empty = knarr_core::json!({});
    e.push(strategy.with_value(strategy.value().or(Some(&empty))).not_supported(types));
}
