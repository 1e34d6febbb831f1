//! The arithmetic of disruption budgets: pure. Upstream: `getExpectedPodCount`, `countHealthyPods` and `buildDisruptedPodMap`
//! in `pkg/controller/disruption`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods::PodItem;
use crate::quantities::scaled;

/// An evicted pod that is not deleted after this time counts again.
pub const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

const CONDITION: &str = "DisruptionAllowed";

/// What a budget asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub expected: i32,
    pub healthy: i32,
}

/// Whether the budget is a share of what the pods' controllers want, and not of the pods that are there.
pub fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// How many pods are expected, and how many of them must be healthy. `scale` is what their controllers want together.
///
/// # Errors
/// A text for a percentage that is none.
pub fn wanted(spec: &PodDisruptionBudgetSpec, pods: usize, scale: i32) -> Result<Wanted, String> {
    let pods = i32::try_from(pods).unwrap_or(i32::MAX);
    if let Some(most) = &spec.max_unavailable {
        let most = scaled(Some(most), scale, true).ok_or("invalid value for IntOrString: invalid type: string is not a percentage")?;
        return Ok(Wanted { expected: scale, healthy: (scale - most).max(0) });
    }
    match &spec.min_available {
        Some(IntOrString::Int(healthy)) => Ok(Wanted { expected: pods, healthy: *healthy }),
        Some(share) => {
            let healthy = scaled(Some(share), scale, true).ok_or("invalid value for IntOrString: invalid type: string is not a percentage")?;
            Ok(Wanted { expected: scale, healthy })
        }
        None => Ok(Wanted { expected: 0, healthy: 0 }),
    }
}

/// Evictions of pods that still stand.
#[derive(Debug, Default, PartialEq)]
pub struct Disrupted {
    pub pending: BTreeMap<String, Time>,
    /// Names of pods that should have gone by now.
    pub overdue: Vec<String>,
    /// When the first of the pending ones is overdue.
    pub recheck: Option<Duration>,
}

/// Sorts out which evictions are still to be waited for.
pub fn disrupted(pods: &[PodItem], known: Option<&BTreeMap<String, Time>>, now: Timestamp) -> Disrupted {
    let mut found = Disrupted::default();
    for pod in pods.iter().filter(|p| p.view.deleting.is_none()) {
        let Some(at) = known.and_then(|k| k.get(pod.key.name())) else { continue };
        let left = (at.0 + DELETION_TIMEOUT).duration_since(now);
        if !left.is_positive() {
            found.overdue.push(pod.key.name().into());
        } else {
            found.pending.insert(pod.key.name().into(), at.clone());
            let left = Duration::try_from(left).unwrap_or_default();
            found.recheck = Some(found.recheck.map_or(left, |r| r.min(left)));
        }
    }
    found
}

/// Pods that are ready and not about to go.
pub fn healthy(pods: &[PodItem], pending: &BTreeMap<String, Time>) -> i32 {
    let counts = |p: &&PodItem| p.view.deleting.is_none() && !pending.contains_key(p.key.name()) && p.view.is_ready();
    i32::try_from(pods.iter().filter(counts).count()).unwrap_or(i32::MAX)
}

/// The budget's new status.
pub fn status(budget: &PodDisruptionBudget, wanted: Wanted, healthy: i32, pending: BTreeMap<String, Time>, now: Timestamp) -> PodDisruptionBudgetStatus {
    let allowed = if wanted.expected <= 0 { 0 } else { (healthy - wanted.healthy).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(wanted.healthy),
        expected_pods: Some(wanted.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!pending.is_empty()).then_some(pending),
        observed_generation: budget.metadata.generation,
        conditions: budget.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut status, value, reason, String::new(), now);
    status
}

/// The status of a budget that cannot be computed: nothing may go.
pub fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    status.observed_generation = budget.metadata.generation;
    set_condition(&mut status, "False", "SyncFailed", why.into(), now);
    status
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, value: &str, reason: &str, message: String, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|i| conditions.remove(i));
    let since = before.filter(|c| c.status == value).map_or(Time(now), |c| c.last_transition_time);
    conditions.push(Condition {
        type_: CONDITION.into(),
        status: value.into(),
        reason: reason.into(),
        message,
        observed_generation: status.observed_generation,
        last_transition_time: since,
    });
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;

    fn spec(spec: Value) -> PodDisruptionBudgetSpec {
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn what_must_stay_is_a_number_or_a_share() {
        for (of, pods, scale, expected, healthy) in [
            (json!({"minAvailable": 2}), 3, 9, 3, 2),
            (json!({"minAvailable": "50%"}), 3, 5, 5, 3),
            (json!({"maxUnavailable": 1}), 3, 5, 5, 4),
            (json!({"maxUnavailable": "30%"}), 3, 10, 10, 7),
            (json!({"maxUnavailable": 7}), 3, 5, 5, 0),
            (json!({}), 3, 5, 0, 0),
        ] {
            assert_eq!(wanted(&spec(of.clone()), pods, scale), Ok(Wanted { expected, healthy }), "{of}");
        }
        assert!(wanted(&spec(json!({"maxUnavailable": "x"})), 1, 1).is_err());
        assert!(needs_scale(&spec(json!({"minAvailable": "5%"}))) && !needs_scale(&spec(json!({"minAvailable": 5}))));
    }

    #[test]
    fn the_condition_keeps_its_time_while_nothing_turns() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later = now + SignedDuration::from_secs(9);
        let mut budget = PodDisruptionBudget::default();
        let wanted = Wanted { expected: 3, healthy: 2 };
        budget.status = Some(status(&budget, wanted, 3, BTreeMap::new(), now));
        let again = status(&budget, wanted, 3, BTreeMap::new(), later);
        assert_eq!(Some(&again), budget.status.as_ref());
        assert_eq!(again.disruptions_allowed, Some(1));
        let less = status(&budget, wanted, 2, BTreeMap::new(), later).conditions.unwrap().remove(0);
        assert_eq!((less.status.as_str(), less.reason.as_str(), less.last_transition_time.0), ("False", "InsufficientPods", later));
        assert_eq!(failed(&budget, "no", later).conditions.unwrap()[0].reason, "SyncFailed");
    }
}
