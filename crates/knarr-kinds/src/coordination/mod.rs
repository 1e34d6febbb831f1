//! Leases (upstream: `pkg/registry/coordination/lease`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, names};

use crate::at::{self, At};
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

    fn validate_create(&self, _cx: &Context<'_>, lease: &Value) -> ErrorList {
        at::check(lease, |root, e| validate(&root.get("spec"), e))
    }

    fn validate_update(&self, cx: &Context<'_>, lease: &Value, _old: &Value) -> ErrorList {
        self.validate_create(cx, lease)
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, lease: &Value, now: Timestamp) -> Cells {
        Some(vec![name(lease), text(lease, &["spec", "holderIdentity"]).into(), age(lease, now)])
    }
}

fn validate(spec: &At, e: &mut ErrorList) {
    let (duration, transitions, strategy, holder) =
        (spec.get("leaseDurationSeconds"), spec.get("leaseTransitions"), spec.get("strategy"), spec.get("preferredHolder"));
    if duration.is_set() && duration.int() <= 0 {
        e.push(duration.invalid("must be greater than 0"));
    }
    transitions.nonnegative(e);
    if strategy.is_set() {
        // Upstream names the field twice.
        let place = strategy.shown_as("strategy", strategy.value());
        if strategy.str().contains('/') {
            place.problems(e, names::is_qualified_name(strategy.str()));
        } else {
            place.if_set_one_of(e, &["OldestEmulationVersion"]);
        }
    }
    if !holder.is_empty() && strategy.is_empty() {
        e.push(holder.forbidden("may only be specified if `strategy` is defined"));
    }
}
