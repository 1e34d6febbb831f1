//! DaemonSets (upstream: `pkg/registry/apps/daemonset`).

use crate::cells::{Cells, age, containers, labels, name, number, selector};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, go};

use super::validation;
use crate::at::{self, At};
use crate::metadata::has_invalid_label_value;
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

    fn readable(&self, object: &Value) -> Result<(), String> {
        object.str_at(&["metadata", "annotations", TEMPLATE_GENERATION]).map_or(Ok(()), |number| go::parse_int(number).map(drop))
    }

    fn default(&self, object: &mut Value) {
        let spec = object.ensure(&["spec"]);
        let strategy = spec.ensure(&["updateStrategy"]);
        default_if_zero(strategy, "type", "RollingUpdate");
        if strategy.str_at(&["type"]) == Some("RollingUpdate") {
            let rolling = strategy.ensure(&["rollingUpdate"]);
            default_to(rolling, "maxUnavailable", 1);
            default_to(rolling, "maxSurge", 0);
        } else {
            // The internal kind has both as values, which come back as zeros.
            crate::tree::with(strategy, &["rollingUpdate"], |rolling| {
                ["maxUnavailable", "maxSurge"].into_iter().for_each(|field| default_to(rolling, field, 0))
            });
        }
        default_to(spec, "revisionHistoryLimit", 10);
        pod::defaults::template(spec.ensure(&["template"]));
        // The count of templates is a field of the internal kind, which becomes an annotation whenever it is written.
        set_template_generation(object, template_generation(object));
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

    fn prepare_for_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        separation::status_update(self.shape(), object, old);
        // It is part of the internal kind's spec.
        set_template_generation(object, template_generation(old));
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| validate(&root.get("spec"), None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| {
            validation::immutable(&root.get("spec"), old, &["selector"], e);
            validate(&root.get("spec"), Some(old), e);
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| {
            validation::counts(&root.get("status"), &COUNTS, e);
            validation::collisions(&root.get("status"), old, e);
        })
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let changed = old.is_none_or(|old| template_generation(object) != template_generation(old));
        if changed { validation::warn(object, None, false) } else { Vec::new() }
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

const COUNTS: [&str; 9] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn validate(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    let options = validation::template_options(old);
    let lenient = options.invalid_label_values_in_selectors || old.is_some_and(|o| has_invalid_label_value(o.at(&["spec", "selector"])));
    selector.label_selector_ratcheting(lenient, e);
    if let Some(matcher) = validation::matcher(spec, "", &mut ErrorList::new()) {
        validation::matches_template(&matcher, &template, e);
    }
    if selector.is_set() {
        validation::not_empty(&selector, "daemonset", e);
    }
    pod::validation::template(&template, &pod::validation::Options { invalid_label_values_in_selectors: lenient, ..options }, e);
    validation::runs_forever(&template, "DaemonSet", e);
    validation::counts(spec, &["minReadySeconds", "revisionHistoryLimit"], e);
    rollout(&spec.get("updateStrategy"), e);
}

fn rollout(strategy: &At, e: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.str_of("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            for place in [&unavailable, &surge] {
                validation::int_or_percent(place, e);
                validation::at_most_all(place, e);
            }
            match (validation::int_or_percent_value(&unavailable) != 0, validation::int_or_percent_value(&surge) != 0) {
                (true, true) => e.push(surge.invalid("may not be set when maxUnavailable is non-zero")),
                (false, false) => e.push(unavailable.required("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => validation::unsupported_strategy(strategy, &["RollingUpdate", "OnDelete"], e),
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
