//! PodDisruptionBudgets (upstream: `pkg/registry/policy/poddisruptionbudget`).

use crate::apps::validation::{at_most_all, counts, int_or_percent};
use crate::at::{self, At};
use crate::cells::{Cells, age, int_or_string, name, number};
use crate::conditions::conditions;
use crate::metadata::has_invalid_label_value;
use crate::strategy::{Context, Shape, Strategy};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

pub struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status().needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, budget: &Value) -> ErrorList {
        at::check(budget, |root, e| validate(&root.get("spec"), false, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, budget: &Value, old: &Value) -> ErrorList {
        at::check(budget, |root, e| validate(&root.get("spec"), has_invalid_label_value(old.at(&["spec", "selector"])), e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, budget: &Value, _old: &Value) -> ErrorList {
        at::check(budget, |root, e| {
            let status = root.get("status");
            conditions(&status.get("conditions"), e);
            counts(&status, &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], e);
        })
    }

    /// Upstream looks at nothing but the path here.
    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_core::names::is_path_segment(name)
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let amount = |field| int_or_string(object.at(&["spec", field]), "N/A").into();
        Some(vec![name(object), amount("minAvailable"), amount("maxUnavailable"), number(object, &["status", "disruptionsAllowed"]).into(), age(object, now)])
    }
}

fn validate(spec: &At, lenient: bool, e: &mut ErrorList) {
    let (min, max, policy) = (spec.get("minAvailable"), spec.get("maxUnavailable"), spec.get("unhealthyPodEvictionPolicy"));
    if min.is_set() && max.is_set() {
        e.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for place in [min, max].iter().filter(|p| p.is_set()) {
        int_or_percent(place, e);
        at_most_all(place, e);
    }
    spec.get("selector").label_selector_ratcheting(lenient, e);
    policy.if_set_one_of(e, &["AlwaysAllow", "IfHealthyBudget"]);
}
