//! Leases (upstream: `pkg/registry/coordination/lease`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::Value;

use crate::disabled;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};

/// Fields of coordinated leader election, which is off by default.
const DISABLED: &[disabled::Gate] = &[&["strategy"], &["preferredHolder"]];

pub struct Lease;

impl Strategy for Lease {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().needs_resource_version()
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, lease: &mut Value) {
        disabled::drop(lease, None, &["spec"], DISABLED);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, lease: &mut Value, old: &Value) {
        separation::update(self.shape(), lease, old);
        disabled::drop(lease, Some(old), &["spec"], DISABLED);
    }

    fn cells(&self, lease: &Value, now: Timestamp) -> Cells {
        Some(vec![name(lease), text(lease, &["spec", "holderIdentity"]).into(), age(lease, now)])
    }
}
