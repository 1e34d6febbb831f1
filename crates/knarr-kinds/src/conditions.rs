//! Conditions in the status of newer kinds (upstream: `metav1validation.ValidateConditions`).

use knarr_core::field::ErrorList;
use knarr_core::names;

use crate::at::At;
use crate::rules;

const REASON_MAX: i64 = 1024;
const MESSAGE_MAX: i64 = 32 * 1024;

/// Each type once, each condition complete.
pub fn conditions(list: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in list.items() {
        let kind = condition.str_of("type");
        if seen.contains(&kind) {
            e.push(condition.duplicate_as(kind));
        }
        seen.push(kind);
        self::condition(&condition, e);
    }
}

fn condition(condition: &At, e: &mut ErrorList) {
    let (kind, status, reason, message) = (condition.get("type"), condition.get("status"), condition.get("reason"), condition.get("message"));
    if kind.is_empty() {
        e.push(kind.required("is required"));
    } else {
        kind.problems(e, names::is_qualified_name(kind.str()));
    }
    status.one_of(e, &["False", "True", "Unknown"]);
    let observed = condition.get("observedGeneration");
    if observed.int() < 0 {
        e.push(observed.invalid("must be greater than or equal to zero"));
    }
    let time = condition.get("lastTransitionTime");
    if !time.is_set() {
        e.push(time.required(""));
    }
    reason.name(e, rules::condition_reason);
    for (place, max) in [(reason, REASON_MAX), (message, MESSAGE_MAX)] {
        if place.str().len() as i64 > max {
            e.push(place.too_long(max));
        }
    }
}
