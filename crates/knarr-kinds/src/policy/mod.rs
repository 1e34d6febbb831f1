//! PodDisruptionBudgets (upstream: `pkg/registry/policy/poddisruptionbudget`).

use crate::strategy::{Shape, Strategy};

pub struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status().needs_resource_version()
    }
}
