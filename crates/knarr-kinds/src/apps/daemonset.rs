//! DaemonSets (upstream: `pkg/registry/apps/daemonset`).

use crate::cells::{Cells, age, containers, labels, name, number, selector};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::semantic::same_at;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to};
use crate::{disabled, pod};

/// Where `apps/v1` keeps the number that internal versions call `templateGeneration`.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub struct DaemonSet;

impl Strategy for DaemonSet {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, object: &mut Value) {
        let spec = object.ensure(&["spec"]);
        let strategy = spec.ensure(&["updateStrategy"]);
        default_if_zero(strategy, "type", "RollingUpdate");
        if strategy.str_at(&["type"]) == Some("RollingUpdate") {
            let rolling = strategy.ensure(&["rollingUpdate"]);
            default_to(rolling, "maxUnavailable", 1);
            default_to(rolling, "maxSurge", 0);
        }
        default_to(spec, "revisionHistoryLimit", 10);
        pod::defaults::template(spec.ensure(&["template"]));
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &["spec", "template"]);
        set_template_generation(object, template_generation(object).max(1));
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &["spec", "template"]);
        separation::update(self.shape(), object, old);
        let template_changed = !same_at(object, old, &["spec", "template"]);
        set_template_generation(object, template_generation(old) + i64::from(template_changed));
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["spec", "template", "spec", "containers"]);
        let status = |field| number(object, &["status", field]).into();
        Some(vec![
            name(object),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            labels(object.at(&["spec", "template", "spec", "nodeSelector"])).into(),
            age(object, now),
            names,
            images,
            selector(object.at(&["spec", "selector"])),
        ])
    }
}

fn template_generation(object: &Value) -> i64 {
    object.str_at(&["metadata", "annotations", TEMPLATE_GENERATION]).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    object.set(&["metadata", "annotations", TEMPLATE_GENERATION], generation.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{clock::Env, json};

    #[test]
    fn a_changed_template_counts_twice() {
        let env = Env::system();
        let cx = Context::internal(&env, "");
        let mut ds = json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        DaemonSet.prepare_for_create(&cx, &mut ds);
        assert_eq!(template_generation(&ds), 1);
        let mut new = ds.clone();
        new.set(&["spec", "template", "metadata", "labels", "a"], "c");
        DaemonSet.prepare_for_update(&cx, &mut new, &ds);
        assert_eq!((template_generation(&new), new.i64_at(&["metadata", "generation"])), (2, Some(2)));
    }
}
