//! PriorityClasses (upstream: `pkg/registry/scheduling/priorityclass`) and RuntimeClasses (`pkg/registry/node/runtimeclass`).

use knarr_core::Value;

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
}

pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().needs_resource_version()
    }
}
