//! ReplicaSets (upstream: `pkg/registry/apps/replicaset`).

use crate::cells::{Cells, age, containers, name, number, selector};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::validation;
use crate::at::{self, At};
use crate::separation;
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::default_to;
use crate::{disabled, pod};

pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, object: &mut Value) {
        let spec = object.ensure(&["spec"]);
        default_to(spec, "replicas", 1);
        pod::defaults::template(spec.ensure(&["template"]));
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &["spec", "template"]);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &["spec", "template"]);
        separation::update(self.shape(), object, old);
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

    fn validate_status_update(&self, _cx: &Context<'_>, object: &Value, _old: &Value) -> ErrorList {
        at::check(object, |root, e| validate_status(&root.get("status"), e))
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        validation::warn(object, old, true)
    }

    fn field(&self, object: &Value, name: &str) -> String {
        replicas_field(object, name)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["spec", "template", "spec", "containers"]);
        let count = |path: &[&str]| number(object, path).into();
        Some(vec![
            name(object),
            count(&["spec", "replicas"]),
            count(&["status", "replicas"]),
            count(&["status", "readyReplicas"]),
            age(object, now),
            names,
            images,
            selector(object.at(&["spec", "selector"])),
        ])
    }
}

fn validate(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    validation::counts(spec, &["replicas", "minReadySeconds"], e);
    validation::selector(spec, "deployment", e);
    validation::replica_template(spec, old, e);
}

/// The counts of a ReplicaSet or ReplicationController.
pub fn validate_status(status: &At, e: &mut ErrorList) {
    let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration", "terminatingReplicas"];
    validation::counts(status, &counts, e);
    validation::part_of_replicas(status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], "readyReplicas", e);
}

/// `status.replicas` is 0 when nobody has counted yet.
pub fn replicas_field(object: &Value, name: &str) -> String {
    match name {
        "status.replicas" => object.i64_at(&["status", "replicas"]).unwrap_or(0).to_string(),
        _ => plain_field(object, name),
    }
}
