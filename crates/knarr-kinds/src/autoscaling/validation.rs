//! What a HorizontalPodAutoscaler may say, in the words of `autoscaling/v2` (upstream: `pkg/apis/autoscaling/validation`).

use knarr_core::field::ErrorList;
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt, names};

use crate::at::At;
use crate::resource_names::container_resource;

const PERIOD_MAX: i64 = 1800;
const WINDOW_MAX: i64 = 3600;
const ONE_OF_TWO: &str = "must set either a target raw value or a target utilization";
const NOT_BOTH: &str = "may not set both a target raw value and a target utilization";

/// Sorted; each with the field that tells more.
const SOURCES: [(&str, &str); 5] =
    [("ContainerResource", "containerResource"), ("External", "external"), ("Object", "object"), ("Pods", "pods"), ("Resource", "resource")];

/// The order in which upstream looks for fields.
const SOURCE_FIELDS: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];

/// How an `apiVersion` may look.
#[derive(Clone, Copy)]
struct Versions {
    any: bool,
    without_group: bool,
}

pub fn spec(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let (min, max, target) = (spec.get("minReplicas"), spec.get("maxReplicas"), spec.get("scaleTargetRef"));
    min.nonnegative(e);
    if min.is_set() && max.int() < min.int() {
        e.push(max.invalid_as(max.int(), "must be greater than or equal to `minReplicas`"));
    }
    let as_before = |field: &str| old.is_some_and(|o| o.str_at(&["spec", "scaleTargetRef", field]).unwrap_or_default() == target.str_of(field));
    let versions = Versions { any: as_before("apiVersion") && as_before("kind"), without_group: target.str_of("kind") == "ReplicationController" };
    reference(&target, versions, e);
    let bad_before = old.is_some_and(|o| o.list_at(&["spec", "metrics"]).iter().any(has_bad_version));
    metrics(&spec.get("metrics"), Versions { any: bad_before, without_group: true }, e);
    if min.is_set() && min.int() == 0 && !spec.get("metrics").items().any(|m| matches!(m.str_of("type"), "Object" | "External")) {
        e.push(spec.get("metrics").forbidden("must specify at least one Object or External metric to support scaling to zero replicas"));
    }
    let behavior = spec.get("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        scaling(&behavior.get(direction), e);
    }
    // Upstream declares this one.
    match max.int() {
        0 => e.push(max.required("")),
        n if n < 0 => max.at_least(e, 1),
        _ => {}
    }
}

fn has_bad_version(metric: &Value) -> bool {
    let version = metric.str_at(&["object", "describedObject", "apiVersion"]).unwrap_or_default();
    metric.str_at(&["type"]) == Some("Object") && version.matches('/').count() > 1
}

fn reference(place: &At, versions: Versions, e: &mut ErrorList) {
    place.get("kind").name(e, names::is_path_segment);
    place.get("name").name(e, names::is_path_segment);
    let version = place.get("apiVersion");
    if versions.any {
        return;
    }
    match version.str().matches('/').count() {
        0 if !versions.without_group => e.push(version.invalid("apiVersion must specify API group")),
        0 => {}
        1 if version.str().starts_with('/') && !versions.without_group => e.push(version.invalid("apiVersion must specify API group")),
        1 => {}
        _ => e.push(version.invalid(format!("unexpected GroupVersion string: {}", version.str()))),
    }
}

fn metrics(list: &At, versions: Versions, e: &mut ErrorList) {
    for metric in list.items() {
        let kind = metric.get("type");
        let kinds = SOURCES.map(|(kind, _)| kind);
        if kind.str().is_empty() {
            e.push(kind.required("must specify a metric source type"));
        }
        let expected = SOURCES.iter().find(|(name, _)| *name == kind.str()).map(|(_, field)| *field);
        if expected.is_none() {
            // Upstream says it twice.
            e.extend([kind.not_supported(&kinds), kind.not_supported(&kinds)]);
        }
        let present: Vec<&str> = SOURCE_FIELDS.into_iter().filter(|field| metric.get(field).is_set()).collect();
        if let Some(first) = present.first() {
            source(&metric.get(first), first, versions, e);
        }
        if let Some(expected) = expected.filter(|field| !present.contains(field)) {
            e.push(metric.get(expected).required("must populate information for the given metric source"));
        }
        if present.len() != 1 {
            let others = present.iter().filter(|field| Some(**field) != expected);
            e.extend(others.map(|field| metric.get(field).forbidden("must populate the given metric source only")));
        }
    }
}

fn source(source: &At, field: &str, versions: Versions, e: &mut ErrorList) {
    let target = source.get("target");
    let (value, average, share) = (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match field {
        "object" | "external" | "pods" => {
            if field == "object" {
                reference(&source.get("describedObject"), versions, e);
            }
            identifier(&source.get("metric"), e);
        }
        _ => resource(source, field, e),
    }
    metric_target(&target, e);
    match field {
        "object" if !value.is_set() && !average.is_set() => e.push(average.required("must set either a target value or averageValue")),
        "external" if !value.is_set() && !average.is_set() => e.push(average.required("must set either a target value for metric or a per-pod target")),
        "external" if value.is_set() && average.is_set() => e.push(value.forbidden("may not set both a target value for metric and a per-pod target")),
        "pods" if !average.is_set() => e.push(average.required("must specify a positive target averageValue")),
        "resource" | "containerResource" if !share.is_set() && !average.is_set() => e.push(share.required(ONE_OF_TWO)),
        "resource" | "containerResource" if share.is_set() && average.is_set() => e.push(average.forbidden(NOT_BOTH)),
        _ => {}
    }
}

fn resource(source: &At, field: &str, e: &mut ErrorList) {
    let (name, container) = (source.get("name"), source.get("container"));
    if name.is_empty() {
        e.push(name.required("must specify a resource name"));
    } else if field == "containerResource" {
        container_resource(name.str(), &name, e);
    }
    if field != "containerResource" {
        return;
    }
    if container.is_empty() {
        e.push(container.required("must specify a container"));
    }
    container.optional_name(e, names::is_dns1123_label);
}

fn identifier(metric: &At, e: &mut ErrorList) {
    let name = metric.get("name");
    if name.is_empty() {
        e.push(name.required("must specify a metric name"));
    }
    name.optional_name(e, names::is_path_segment);
}

fn metric_target(target: &At, e: &mut ErrorList) {
    let (kind, share) = (target.get("type"), target.get("averageUtilization"));
    if kind.is_empty() {
        e.push(kind.required("must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind.str()) {
        e.push(kind.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        let place = target.get(field);
        if let Some(amount) = place.value().and_then(Quantity::from_json).filter(|q| q.is_zero() || q.is_negative()) {
            e.push(place.invalid_as(amount.to_string(), "must be positive"));
        }
    }
    if share.is_set() && share.int() < 1 {
        e.push(share.invalid("must be greater than 0"));
    }
}

fn scaling(rules: &At, e: &mut ErrorList) {
    if !rules.is_set() {
        return;
    }
    let (window, policies, tolerance) = (rules.get("stabilizationWindowSeconds"), rules.get("policies"), rules.get("tolerance"));
    if window.int() < 0 {
        e.push(window.invalid("must be greater than or equal to zero"));
    }
    if window.int() > WINDOW_MAX {
        e.push(window.invalid(format!("must be less than or equal to {WINDOW_MAX}")));
    }
    rules.get("selectPolicy").if_set_one_of(e, &["Disabled", "Max", "Min"]);
    if policies.is_empty() {
        e.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        let (kind, period) = (policy.get("type"), policy.get("periodSeconds"));
        if !["Percent", "Pods"].contains(&kind.str()) {
            e.push(kind.not_supported(&["Percent", "Pods"]));
        }
        policy.get("value").positive(e);
        period.positive(e);
        if period.int() > PERIOD_MAX {
            e.push(period.invalid(format!("must be less than or equal to {PERIOD_MAX}")));
        }
    }
    if let Some(amount) = tolerance.value().and_then(Quantity::from_json).filter(Quantity::is_negative) {
        e.push(tolerance.invalid_as(amount.to_string(), "must be greater than or equal to 0"));
    }
}

pub fn status(status: &At, e: &mut ErrorList) {
    for condition in status.get("conditions").items() {
        condition.get("observedGeneration").nonnegative(e);
    }
    status.get("currentReplicas").nonnegative(e);
    status.get("desiredReplicas").nonnegative(e);
}
