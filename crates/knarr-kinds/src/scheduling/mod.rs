//! PriorityClasses (upstream: `pkg/registry/scheduling/priorityclass`) and RuntimeClasses (`pkg/registry/node/runtimeclass`).

use crate::cells::{Cells, age, name, number, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, names};

use crate::at::{self, At};
use crate::pod::validation;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::default_to;

pub struct PriorityClass;

impl Strategy for PriorityClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
    }

    fn default(&self, class: &mut Value) {
        default_to(class, "preemptionPolicy", "PreemptLowerPriority");
    }

    /// Its generation never rises.
    fn prepare_for_update(&self, _cx: &Context<'_>, class: &mut Value, old: &Value) {
        separation::count(class, old, false);
    }

    fn validate_create(&self, _cx: &Context<'_>, class: &Value) -> ErrorList {
        at::check(class, priority_class)
    }

    fn validate_update(&self, _cx: &Context<'_>, class: &Value, old: &Value) -> ErrorList {
        at::check(class, |root, e| {
            if number(class, &["value"]) != number(old, &["value"]) {
                e.push(root.get("value").forbidden("may not be changed in an update."));
            }
            root.get("preemptionPolicy").immutable(old.at(&["preemptionPolicy"]), e);
        })
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Cells {
        Some(vec![
            name(class),
            number(class, &["value"]).into(),
            class.bool_at(&["globalDefault"]).unwrap_or(false).into(),
            age(class, now),
            text(class, &["preemptionPolicy"]).into(),
        ])
    }
}

/// What users' priorities do not exceed, and what those of the system itself are.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn priority_class(root: &At, e: &mut ErrorList) {
    let metadata = root.get("metadata");
    let (name, value, policy) = (metadata.get("name"), root.get("value"), root.get("preemptionPolicy"));
    if name.str().starts_with("system-") {
        if let Some(problem) = system_class_problem(name.str(), value.int(), root.get("globalDefault").bool()) {
            e.push(name.forbidden(format!("priority class names with 'system-' prefix are reserved for system use only. error: {problem}")));
        }
    } else if value.int() > USER_PRIORITY_MAX {
        e.push(value.forbidden(format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}")));
    }
    if policy.is_set() {
        policy.one_of(e, &["PreemptLowerPriority", "Never"]);
    }
}

fn system_class_problem(name: &str, value: i64, is_default: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if is_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, class: &Value) -> ErrorList {
        at::check(class, runtime_class)
    }

    fn validate_update(&self, _cx: &Context<'_>, class: &Value, old: &Value) -> ErrorList {
        at::check(class, |root, e| {
            root.get("handler").immutable_untold(old.at(&["handler"]), e);
            runtime_class(root, e);
        })
    }

    fn warnings(&self, class: &Value, _old: Option<&Value>) -> Vec<String> {
        let labels = crate::tree::entries(class, &["scheduling", "nodeSelector"]).filter_map(|(key, _)| crate::warnings::deprecated_node_label(key));
        labels.map(|text| format!("scheduling.nodeSelector: {text}")).collect()
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Cells {
        Some(vec![name(class), text(class, &["handler"]).into(), age(class, now)])
    }
}

fn runtime_class(root: &At, e: &mut ErrorList) {
    root.get("handler").name(e, names::is_dns1123_label);
    let overhead = root.get("overhead");
    if overhead.is_set() {
        validation::amounts_as_limits(&overhead, &overhead.get("podFixed"), e);
    }
    let scheduling = root.get("scheduling");
    scheduling.get("nodeSelector").labels(e);
    let tolerations = scheduling.get("tolerations");
    validation::tolerations(&tolerations, e);
    let mut seen: Vec<[&str; 4]> = Vec::new();
    for toleration in tolerations.items() {
        let key = ["key", "operator", "value", "effect"].map(|field| toleration.str_of(field));
        if seen.contains(&key) {
            e.push(toleration.duplicate());
        }
        seen.push(key);
    }
}
