//! Leases and the candidates for them (upstream: `pkg/registry/coordination`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_cel::library::semver;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, names};

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
        known_strategy(&strategy, e);
    }
    if !holder.is_empty() && strategy.is_empty() {
        e.push(holder.forbidden("may only be specified if `strategy` is defined"));
    }
}

const OLDEST: &str = "OldestEmulationVersion";

fn known_strategy(strategy: &At, e: &mut ErrorList) {
    // Upstream names the field twice.
    let place = strategy.shown_as("strategy", strategy.value());
    if strategy.str().contains('/') {
        place.problems(e, names::is_qualified_name(strategy.str()));
    } else {
        place.if_set_one_of(e, &[OLDEST]);
    }
}

/// Who would hold a lease, and in which versions (beta; served where it is asked for).
pub struct LeaseCandidate;

impl Strategy for LeaseCandidate {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, candidate: &Value) -> ErrorList {
        at::check(candidate, |root, e| validate_candidate(&root.get("spec"), e))
    }

    fn validate_update(&self, cx: &Context<'_>, candidate: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(cx, candidate);
        errors.extend(at::check(candidate, |root, e| root.get("spec").get("leaseName").immutable(old.at(&["spec", "leaseName"]), e)));
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_config_key(name)
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, candidate: &Value, now: Timestamp) -> Cells {
        let spec = |field| text(candidate, &["spec", field]).into();
        Some(vec![name(candidate), spec("leaseName"), spec("binaryVersion"), spec("emulationVersion"), age(candidate, now)])
    }
}

/// Upstream: `ValidateLeaseCandidateSpec`.
fn validate_candidate(spec: &At, e: &mut ErrorList) {
    let (lease, binary, emulation, strategy) = (spec.get("leaseName"), spec.get("binaryVersion"), spec.get("emulationVersion"), spec.get("strategy"));
    let read = |version: &At, e: &mut ErrorList| {
        let read = semver::parse(version.str(), false).ok();
        if read.is_none() && !version.is_empty() {
            e.push(version.invalid("must be a valid semantic version"));
        }
        read
    };
    if lease.is_empty() {
        e.push(lease.required(""));
    }
    let emulated = read(&emulation, e);
    if binary.is_empty() {
        e.push(binary.required(""));
    }
    let own = read(&binary, e);
    let is_older = match (&own, &emulated) {
        (Some(own), Some(emulated)) => own.cmp(emulated).is_lt(),
        // What is no version counts as the first of all.
        (None, Some(emulated)) => !binary.is_empty() && !is_first(emulated),
        _ => false,
    };
    if is_older {
        e.push(binary.invalid("must be greater than or equal to `emulationVersion`"));
    }
    if strategy.is_empty() {
        e.push(strategy.required(""));
        return;
    }
    if strategy.str() == OLDEST && emulated.as_ref().is_none_or(is_first) {
        e.push(emulation.required(&format!("must be specified when `strategy` is '{OLDEST}'")));
    }
    known_strategy(&strategy, e);
}

fn is_first(version: &semver::Semver) -> bool {
    semver::parse("0.0.0", false).is_ok_and(|first| version.cmp(&first).is_eq())
}
