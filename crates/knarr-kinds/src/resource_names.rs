//! Which names of resources mean what (upstream: `pkg/apis/core/helper/helpers.go`).

use knarr_core::field::ErrorList;
use knarr_core::quantity::Quantity;
use knarr_core::{Value, names};

use crate::at::At;

/// Objects that a quota counts.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Amounts that a quota limits.
const MEASURED: [&str; 10] = [
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of somebody else: devices.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// More may be promised than there is.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub fn is_standard_for_quota(name: &str) -> bool {
    COUNTED.contains(&name) || MEASURED.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

fn is_standard(name: &str) -> bool {
    is_standard_for_quota(name) || name == "storage"
}

fn is_integer(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// Whether the amount is a multiple of the page's size.
pub fn is_divisible(name: &str, amount: &Value) -> bool {
    let Some(size) = name.strip_prefix("hugepages-") else { return true };
    match (size.parse::<Quantity>(), Quantity::from_json(amount)) {
        (Ok(size), Some(amount)) if size.value() > 0 && size.is_whole() => amount.value() % size.value() == 0,
        _ => false,
    }
}

/// A qualified name, or one of Kubernetes' own (upstream: `validateResourceName`).
pub fn resource(name: &str, place: &At, e: &mut ErrorList) {
    let problems = names::is_qualified_name(name);
    if !problems.is_empty() {
        e.extend(problems.into_iter().map(|p| place.invalid_as(name, p)));
    } else if !name.contains('/') && !is_standard(name) {
        e.push(place.invalid_as(name, "must be a standard resource type or fully qualified"));
    }
}

/// What a container may ask for (upstream: `ValidateContainerResourceName`).
pub fn container_resource(name: &str, place: &At, e: &mut ErrorList) {
    resource(name, place, e);
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || is_huge_page(name);
    if !name.contains('/') {
        if !standard {
            e.push(place.invalid_as(name, "must be a standard resource for containers"));
        }
    } else if name.split('/').count() == 2 && !is_native(name) && !is_extended(name) {
        e.push(place.invalid_as(name, "doesn't follow extended resource name standard"));
    }
}

/// What a quota may limit (upstream: `ValidateResourceQuotaResourceName`).
pub fn quota_resource(name: &str, place: &At, e: &mut ErrorList) {
    resource(name, place, e);
    if !name.contains('/') && !is_standard_for_quota(name) {
        e.push(place.invalid_as(name, "must be a standard resource for quota"));
    }
}

/// An amount that is not below zero; tells whether it is good (upstream: `validateBasicResource`).
pub fn basic_amount(place: &At, e: &mut ErrorList) -> bool {
    let negative = place.value().and_then(Quantity::from_json).filter(|q| q.value() < 0);
    e.extend(negative.map(|q| place.invalid_as(q.value(), "must be a valid resource quantity")));
    negative.is_none()
}

/// An amount: not negative, and whole where the resource is counted (upstream: `ValidateResourceQuantityValue`).
pub fn amount(name: &str, place: &At, e: &mut ErrorList) {
    let Some(amount) = place.value().and_then(Quantity::from_json) else { return };
    if amount.is_negative() {
        e.push(place.invalid_as(amount.to_string(), "must be greater than or equal to 0"));
    }
    if is_integer(name) && !amount.is_whole() {
        e.push(place.invalid_as(amount.to_string(), "must be an integer"));
    }
}
