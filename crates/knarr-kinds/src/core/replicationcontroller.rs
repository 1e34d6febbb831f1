//! ReplicationControllers (upstream: `pkg/registry/core/replicationcontroller`).

use crate::cells::{Cells, age, containers, labels, name, number};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::selector::LabelSelector;
use knarr_core::{Value, ValueExt};

use crate::apps::replicaset::{replicas_field, validate_status};
use crate::apps::validation;
use crate::at::{self, At};
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, is_zero_at, with};
use crate::{disabled, pod, rules};

pub struct ReplicationController;

impl Strategy for ReplicationController {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    /// Selector and labels come from the template.
    fn default(&self, object: &mut Value) {
        if let Some(labels) = object.at(&["spec", "template", "metadata", "labels"]).cloned() {
            for path in [&["spec", "selector"], &["metadata", "labels"]] {
                if is_zero_at(object, path) {
                    object.set(path, labels.clone());
                }
            }
        }
        let spec = object.ensure(&["spec"]);
        default_to(spec, "replicas", 1);
        with(spec, &["template"], pod::defaults::template);
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
        at::check(object, |root, e| validate(&root.get("spec"), Some(old), e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, object: &Value, _old: &Value) -> ErrorList {
        at::check(object, |root, e| validate_status(&root.get("status"), e))
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        // Upstream hands the templates over the other way round: an update warns of what the old one had.
        match old {
            Some(old) => validation::warn(old, Some(object), true),
            None => validation::warn(object, None, true),
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        rules::long_name(name)
    }

    fn validate_generate_name(&self, prefix: &str) -> Vec<String> {
        knarr_core::names::is_path_segment(prefix)
    }

    fn orphans_dependents(&self) -> bool {
        true
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
            labels(object.at(&["spec", "selector"])).into(),
        ])
    }
}

fn validate(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    spec.get("minReadySeconds").nonnegative(e);
    spec.get("selector").require(e);
    let replicas = spec.get("replicas");
    if replicas.is_set() {
        replicas.nonnegative(e);
    } else {
        e.push(replicas.required(""));
    }
    let template = spec.get("template");
    if !template.is_set() {
        e.push(template.required(""));
        return;
    }
    validation::matches_template(&LabelSelector::from_map(spec.get("selector").value()), &template, e);
    pod::validation::template(&template, &validation::template_options(old), e);
    validation::runs_forever(&template, "ReplicationController", e);
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn an_update_warns_of_what_the_old_template_had() {
        let of = |generation: i64, ports: Value| json!({"metadata": {"name": "a", "generation": generation}, "spec": {"template": {"spec": {"containers": [{"name": "c", "ports": ports}]}}}});
        let (good, bad) = (of(1, json!([{"containerPort": 80}])), of(2, json!([{"containerPort": 80}, {"containerPort": 80}])));
        assert_eq!(ReplicationController.warnings(&bad, None).len(), 1);
        assert_eq!(ReplicationController.warnings(&bad, Some(&good)), [""; 0]);
        assert_eq!(ReplicationController.warnings(&good, Some(&bad)).len(), 1);
    }
}
