//! ReplicationControllers (upstream: `pkg/registry/core/replicationcontroller`).

use crate::cells::{Cells, age, containers, labels, name, number};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::apps::replicaset::replicas_field;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{is_zero_at, with};
use crate::{disabled, pod};

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
