//! PodDisruptionBudgets (upstream: `pkg/registry/policy/poddisruptionbudget`).

use crate::cells::{Cells, age, int_or_string, name, number};
use crate::strategy::{Shape, Strategy};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

pub struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status().needs_resource_version()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let amount = |field| int_or_string(object.at(&["spec", field]), "N/A").into();
        Some(vec![name(object), amount("minAvailable"), amount("maxUnavailable"), number(object, &["status", "disruptionsAllowed"]).into(), age(object, now)])
    }
}
