//! Deployments (upstream: `pkg/registry/apps/deployment`).

use crate::cells::{Cells, age, containers, name, number, selector_text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::semantic::same_at;
use crate::separation::{self, count, keep, keep_at, wish_changed};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to};
use crate::{disabled, pod};

pub struct Deployment;

impl Strategy for Deployment {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, deployment: &mut Value) {
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
