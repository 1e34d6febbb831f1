//! ResourceQuotas (upstream: `pkg/registry/core/resourcequota`).

use std::collections::BTreeSet;

use crate::cells::{Cells, age, name, quantity};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt};

use knarr_schema::internal;

use crate::at::{self, At};
use crate::resource_names::{amount, is_standard_for_quota, quota_resource};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{entries, round_amounts};

pub struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status()
    }

    fn default(&self, quota: &mut Value) {
        for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
            round_amounts(quota, &path);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, quota: &Value) -> ErrorList {
        at::check(quota, |root, e| {
            validate_spec(&root.get("spec"), e);
            validate_status(&root.get("status"), e);
        })
    }

    fn validate_update(&self, _cx: &Context<'_>, quota: &Value, old: &Value) -> ErrorList {
        at::check(quota, |root, e| {
            let spec = root.get("spec");
            validate_spec(&spec, e);
            let scopes = spec.get("scopes");
            let before: BTreeSet<&str> = crate::tree::strings(old, &["spec", "scopes"]).collect();
            if before != scopes.strings().collect() {
                e.push(scopes.invalid_as(scopes.value().cloned().unwrap_or_default(), crate::metadata::IMMUTABLE));
            }
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, quota: &Value, _old: &Value) -> ErrorList {
        at::check(quota, |root, e| validate_status(&root.get("status"), e))
    }

    fn warnings(&self, quota: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            Vec::new()
        } else {
            ["cpu", "memory", "storage", "ephemeral-storage"].into_iter().filter_map(|name| more_than_limit(quota, name)).collect()
        }
    }

    fn cells(&self, quota: &Value, now: Timestamp) -> Cells {
        let column = |limits: bool| {
            let wanted = |name: &str| name.starts_with("limits.") == limits;
            let used = |name: &str| quantity(quota, &["status", "used", name]);
            let hard = entries(quota, &["status", "hard"]).filter(|(name, _)| wanted(name));
            hard.map(|(name, _)| format!("{name}: {}/{}", used(name), quantity(quota, &["status", "hard", name]))).collect::<Vec<_>>().join(", ")
        };
        Some(vec![name(quota), column(false).into(), column(true).into(), age(quota, now)])
    }
}

fn validate_spec(spec: &At, e: &mut ErrorList) {
    amounts(&spec.get("hard"), e);
    scopes(spec, e);
    let selector = spec.get("scopeSelector");
    if selector.is_set() {
        scope_selector(spec, &selector, e);
    }
}

fn validate_status(status: &At, e: &mut ErrorList) {
    amounts(&status.get("hard"), e);
    amounts(&status.get("used"), e);
}

fn amounts(list: &At, e: &mut ErrorList) {
    for (name, place) in list.entries() {
        quota_resource(name, &place, e);
        amount(name, &place, e);
    }
}

const SCOPES: [&str; 7] =
    ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "VolumeAttributesClass", "CrossNamespacePodAffinity"];

const POD_RESOURCES: [&str; 7] = ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Whether the resource is one of things that can be in this scope.
fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => POD_RESOURCES.contains(&resource),
        _ => true,
    }
}

/// The resources of a quota that cannot be in this scope.
fn misfits<'v>(spec: &At<'v, '_>, scope: &str) -> usize {
    let hard = spec.get("hard");
    hard.entries().filter(|(name, _)| is_standard_for_quota(name) && !scope_fits(scope, name)).count()
}

fn conflict(scopes: &[&str]) -> usize {
    let pairs = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    pairs.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count()
}

fn scopes(spec: &At, e: &mut ErrorList) {
    let list = spec.get("scopes");
    let all: Vec<&str> = list.strings().collect();
    for scope in &all {
        if !SCOPES.contains(scope) {
            e.push(list.invalid("unsupported scope"));
        }
        e.extend((0..misfits(spec, scope)).map(|_| list.invalid("unsupported scope applied to resource")));
    }
    e.extend((0..conflict(&all)).map(|_| list.invalid("conflicting scopes")));
}

/// Upstream names the list, not the item.
fn scope_selector(spec: &At, selector: &At, e: &mut ErrorList) {
    let list = selector.get("matchExpressions");
    let mut all = Vec::new();
    for requirement in list.items() {
        let scope = requirement.str_of("scopeName");
        let part = |field: &'static str| list.shown_as(field, requirement.get(field).value());
        let (operator, values) = (part("operator"), part("values"));
        if !SCOPES.contains(&scope) {
            e.push(part("scopeName").invalid("unsupported scope"));
        }
        // The whole selector is shown.
        let shown =
            |error: knarr_core::field::Error| match list.steps().and_then(|(root, steps)| internal::shown(root, &steps[..steps.len() - 1], selector.value())) {
                Some(text) => error.showing(text),
                None => error,
            };
        e.extend((0..misfits(spec, scope)).map(|_| shown(list.invalid("unsupported scope applied to resource"))));
        if SCOPES[..4].contains(&scope) || scope == SCOPES[6] {
            if operator.str() != "Exists" {
                let which = "ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
                e.push(operator.invalid(format!("must be 'Exists' when scope is any of {which}")));
            }
        }
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => e.push(values.required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                e.push(values.invalid("must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => e.push(operator.invalid("not a valid selector operator")),
        }
        all.push(scope);
    }
    let shown = spec.get("scopes").value().cloned().unwrap_or_default();
    e.extend((0..conflict(&all)).map(|_| list.invalid_as(shown.clone(), "conflicting scopes")));
}

/// A quota of requests that is more than that of limits.
fn more_than_limit(quota: &Value, name: &str) -> Option<String> {
    let hard = |name: &str| quota.at(&["spec", "hard", name]).and_then(Quantity::from_json);
    let (asked, limit) = (format!("requests.{name}"), format!("limits.{name}"));
    let plain = || if matches!(name, "cpu" | "memory") { hard(name).map(|q| (name.to_owned(), q)) } else { None };
    let (asked, request) = hard(&asked).map(|q| (asked, q)).or_else(plain)?;
    let most = hard(&limit)?;
    (request > most).then(|| format!("ResourceQuota {asked} ({request}) should be less than {limit} ({most})"))
}
