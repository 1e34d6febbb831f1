//! Deployments (upstream: `pkg/registry/apps/deployment`).

use crate::cells::{Cells, age, containers, name, number, selector_text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Map, Value, ValueExt, go};

use super::validation;
use crate::at::{self, At};
use crate::semantic::same_at;
use crate::separation::{self, count, keep, keep_at, wish_changed};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to};
use crate::{disabled, pod};

/// Where `apps/v1` keeps the revision that internal versions call `rollbackTo`.
const ROLLBACK_TO: [&str; 3] = ["metadata", "annotations", "deprecated.deployment.rollback.to"];

pub struct Deployment;

impl Strategy for Deployment {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn readable(&self, deployment: &Value) -> Result<(), String> {
        rollback_to(deployment).map(drop)
    }

    fn default(&self, deployment: &mut Value) {
        // The revision is a number in the internal kind, and is written as one.
        if let Ok(Some(revision)) = rollback_to(deployment) {
            deployment.set(&ROLLBACK_TO, revision.to_string());
        }
        let spec = deployment.ensure(&["spec"]);
        default_to(spec, "replicas", 1);
        default_to(spec, "revisionHistoryLimit", 10);
        default_to(spec, "progressDeadlineSeconds", 600);
        let strategy = spec.ensure(&["strategy"]);
        default_if_zero(strategy, "type", "RollingUpdate");
        if strategy.str_at(&["type"]) == Some("RollingUpdate") {
            let rolling = strategy.ensure(&["rollingUpdate"]);
            default_to(rolling, "maxUnavailable", "25%");
            default_to(rolling, "maxSurge", "25%");
        }
        pod::defaults::template(spec.ensure(&["template"]));
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &["spec", "template"]);
    }

    /// Annotations count as a wish too: the controller copies them to ReplicaSets.
    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        keep(object, old, "status");
        disabled::drop_template(object, Some(old), &["spec", "template"]);
        let changed = !same_at(object, old, &["metadata", "annotations"]) || wish_changed(object, old);
        count(object, old, changed);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        separation::status_update(self.shape(), object, old);
        keep_at(object, old, &["metadata", "labels"]);
        // It is part of the internal kind's spec.
        keep_at(object, old, &ROLLBACK_TO);
        if object.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(Map::is_empty) {
            object.remove(&["metadata", "annotations"]);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| validate(&root.get("spec"), None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| {
            validate(&root.get("spec"), Some(old), e);
            validation::immutable(&root.get("spec"), old, &["selector"], e);
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| {
            let status = root.get("status");
            validation::counts(&status, &COUNTS, e);
            validation::part_of_replicas(&status, &["updatedReplicas", "readyReplicas", "availableReplicas"], "readyReplicas", e);
            validation::collisions(&status, old, e);
        })
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        validation::warn(object, old, true)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["spec", "template", "spec", "containers"]);
        let status = |field| number(object, &["status", field]);
        Some(vec![
            name(object),
            format!("{}/{}", status("readyReplicas"), number(object, &["spec", "replicas"])).into(),
            status("updatedReplicas").into(),
            status("availableReplicas").into(),
            age(object, now),
            names,
            images,
            selector_text(object.at(&["spec", "selector"])).unwrap_or_else(|| "<invalid>".into()).into(),
        ])
    }
}

const COUNTS: [&str; 8] =
    ["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "terminatingReplicas", "collisionCount"];

/// The revision that an old client asks to be rolled back to.
fn rollback_to(deployment: &Value) -> Result<Option<i64>, String> {
    let Some(revision) = deployment.str_at(&ROLLBACK_TO).filter(|r| !r.is_empty()) else { return Ok(None) };
    let problem = |why| format!("failed to parse annotation[{}]={revision} as int64: {why}", ROLLBACK_TO[2]);
    go::parse_int(revision).map(Some).map_err(problem)
}

fn validate(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    spec.get("replicas").nonnegative(e);
    validation::selector(spec, "deployment", e);
    validation::replica_template(spec, old, e);
    rollout(&spec.get("strategy"), e);
    validation::counts(spec, &["minReadySeconds", "revisionHistoryLimit"], e);
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.is_set() {
        deadline.nonnegative(e);
        if deadline.int() <= spec.get("minReadySeconds").int() {
            e.push(deadline.invalid("must be greater than minReadySeconds"));
        }
    }
}

fn rollout(strategy: &At, e: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.str_of("type") {
        "Recreate" if rolling.is_set() => e.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'")),
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => e.push(rolling.required("this should be defaulted and never be nil")),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            validation::int_or_percent(&unavailable, e);
            validation::int_or_percent(&surge, e);
            if validation::int_or_percent_value(&unavailable) == 0 && validation::int_or_percent_value(&surge) == 0 {
                e.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            validation::at_most_all(&unavailable, e);
        }
        _ => validation::unsupported_strategy(strategy, &["Recreate", "RollingUpdate"], e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{clock::Env, json};

    #[test]
    fn recreate_gets_no_rolling_update() {
        let mut d = json!({"spec": {"strategy": {"type": "Recreate"}}});
        Deployment.default(&mut d);
        assert_eq!(d["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn a_changed_annotation_counts_as_a_wish() {
        let old = json!({"metadata": {"generation": 1}, "spec": {}});
        let mut new = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {}});
        Deployment.prepare_for_update(&Context::internal(&Env::system(), ""), &mut new, &old);
        assert_eq!(new.i64_at(&["metadata", "generation"]), Some(2));
    }
}
