//! PriorityClasses (upstream: `pkg/registry/scheduling/priorityclass`) and RuntimeClasses (`pkg/registry/node/runtimeclass`).

use crate::cells::{Cells, age, name, number, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

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

pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().needs_resource_version()
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Cells {
        Some(vec![name(class), text(class, &["handler"]).into(), age(class, now)])
    }
}
