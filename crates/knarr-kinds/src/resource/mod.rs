//! Dynamic resource allocation: kinds of the group `resource.k8s.io` (upstream: `pkg/registry/resource`).

mod capacity;
pub mod v1beta1;
mod validation;

use crate::cells::{Cells, age, is_deleting, name, since, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, time};

use crate::at;
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::{default_if_zero, each, is_zero_at, with};
use crate::{disabled, separation};

const V1BETA1: &str = "resource.k8s.io/v1beta1";

pub struct ResourceClaim;

impl Strategy for ResourceClaim {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().judges_prefix_again()
    }

    fn default(&self, claim: &mut Value) {
        default_claim_spec(claim, &["spec"]);
    }

    fn validate_create(&self, _cx: &Context<'_>, claim: &Value) -> ErrorList {
        validation::claim(claim, &[])
    }

    fn validate_update(&self, _cx: &Context<'_>, claim: &Value, old: &Value) -> ErrorList {
        at::check(claim, |root, e| root.get("spec").immutable_untold(old.at(&["spec"]), e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, claim: &Value, old: &Value) -> ErrorList {
        validation::claim_status(claim, old)
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, claim: &mut Value, old: &Value) {
        separation::status_update(self.shape(), claim, old);
        drop_deallocated_devices(claim, old);
    }

    fn cells(&self, claim: &Value, now: Timestamp) -> Cells {
        let allocated = claim.at(&["status", "allocation"]).is_some();
        let reserved = allocated && !claim.list_at(&["status", "reservedFor"]).is_empty();
        let deleting = is_deleting(claim);
        let states = [(deleting, "deleted"), (!allocated && !deleting, "pending"), (allocated, "allocated"), (reserved, "reserved")];
        let states: Vec<&str> = states.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
        Some(vec![name(claim), states.join(",").into(), age(claim, now)])
    }
}

/// A device that is given back takes its status with it.
fn drop_deallocated_devices(claim: &mut Value, old: &Value) {
    let id = |device: &Value| ["driver", "pool", "device", "shareID"].map(|k| device.str_at(&[k]).unwrap_or_default().to_owned());
    let allocated = |claim: &Value| -> Vec<[String; 4]> { claim.list_at(&["status", "allocation", "devices", "results"]).iter().map(id).collect() };
    let (before, now) = (allocated(old), allocated(claim));
    let kept: Vec<Value> = claim.list_at(&["status", "devices"]).iter().filter(|d| now.contains(&id(d)) || !before.contains(&id(d))).cloned().collect();
    if kept.is_empty() {
        claim.remove(&["status", "devices"]);
    } else {
        claim.set(&["status", "devices"], kept);
    }
}

pub struct ResourceClaimTemplate;

impl Strategy for ResourceClaimTemplate {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn default(&self, template: &mut Value) {
        default_claim_spec(template, &["spec", "spec"]);
    }

    fn validate_create(&self, _cx: &Context<'_>, template: &Value) -> ErrorList {
        validation::claim(template, &["spec"])
    }

    /// The whole is looked at again; what upstream declares comes last, as on a create.
    fn validate_update(&self, _cx: &Context<'_>, template: &Value, old: &Value) -> ErrorList {
        validation::template_update(template, old)
    }

    fn cells(&self, template: &Value, now: Timestamp) -> Cells {
        Some(vec![name(template), age(template, now)])
    }
}

fn default_claim_spec(object: &mut Value, spec: &[&str]) {
    let requests: Vec<&str> = spec.iter().copied().chain(["devices", "requests"]).collect();
    let is_flat = object.str_at(&["apiVersion"]) == Some(V1BETA1);
    each(object, &requests, |request| {
        with(request, &["exactly"], default_request);
        if is_flat {
            v1beta1::default_flat_request(request);
        }
        each(request, &["firstAvailable"], default_request);
    });
}

fn default_request(request: &mut Value) {
    default_if_zero(request, "allocationMode", "ExactCount");
    if request.str_at(&["allocationMode"]) == Some("ExactCount") {
        default_if_zero(request, "count", 1);
    }
}

pub struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, slice: &mut Value) {
        separation::create(self.shape(), slice);
        drop_disabled(slice, None);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, slice: &mut Value, old: &Value) {
        drop_disabled(slice, Some(old));
        separation::update(self.shape(), slice, old);
    }

    fn default_times(&self, slice: &mut Value, now: Timestamp) {
        each(slice, &["spec", "devices"], |device| {
            each(device, &["taints"], |taint| stamp(taint, now));
            // In v1beta1.
            each(device, &["basic", "taints"], |taint| stamp(taint, now));
        });
    }

    fn validate_create(&self, _cx: &Context<'_>, slice: &Value) -> ErrorList {
        validation::slice(slice, None)
    }

    fn validate_update(&self, _cx: &Context<'_>, slice: &Value, old: &Value) -> ErrorList {
        validation::slice(slice, Some(old))
    }

    fn field(&self, slice: &Value, name: &str) -> String {
        plain_field(slice, name)
    }

    fn cells(&self, slice: &Value, now: Timestamp) -> Cells {
        let spec = |path: &[&str]| text(slice.at(&["spec"]).unwrap_or(slice), path).into();
        Some(vec![name(slice), spec(&["nodeName"]), spec(&["driver"]), spec(&["pool", "name"]), age(slice, now)])
    }
}

/// Requests for administration in a claim or in a template, by the labels of its namespace (upstream: `AuthorizedForAdmin`).
pub fn admin_access(object: &Value, namespace_labels: Option<&Value>) -> ErrorList {
    let path: &[&str] = if object.str_at(&["kind"]) == Some("ResourceClaimTemplate") { &["spec", "spec"] } else { &["spec"] };
    validation::admin_access(object, path, namespace_labels)
}

/// Fields of a slice whose gates 1.37 leaves off.
fn drop_disabled(slice: &mut Value, old: Option<&Value>) {
    disabled::drop(slice, old, &["spec"], &[&["partitionTypeAttribute"], &["skipNodeOperations"]]);
    const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
    let uses = |device: &Value| crate::tree::entries(device, &["attributes"]).any(|(_, a)| LISTS.iter().any(|k| a.get(k).is_some()));
    if old.is_some_and(|o| o.list_at(&["spec", "devices"]).iter().any(uses)) {
        return;
    }
    each(slice, &["spec", "devices"], |device| {
        let attributes = device.at_mut(&["attributes"]).and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flat_map(|map| map.values_mut()).filter_map(Value::as_object_mut) {
            attribute.retain(|key, _| !LISTS.contains(&key.as_str()));
        }
    });
}

/// Taints without a time begin now (upstream: `SetDefaults_DeviceTaint`).
fn stamp(taint: &mut Value, now: Timestamp) {
    if is_zero_at(taint, &["timeAdded"]) {
        taint.set(&["timeAdded"], time::format(now));
    }
}

pub struct DeviceClass;

impl Strategy for DeviceClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
    }

    fn validate_create(&self, _cx: &Context<'_>, class: &Value) -> ErrorList {
        validation::class(class)
    }

    fn validate_update(&self, _cx: &Context<'_>, class: &Value, _old: &Value) -> ErrorList {
        validation::class(class)
    }

    /// Upstream looks at the name that comes of it.
    fn validate_generate_name(&self, _prefix: &str) -> Vec<String> {
        Vec::new()
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        crate::rules::long_name(name)
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Cells {
        Some(vec![name(class), age(class, now)])
    }
}

pub struct DeviceTaintRule;

impl Strategy for DeviceTaintRule {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status_keeps_metadata().needs_resource_version()
    }

    fn default_times(&self, rule: &mut Value, now: Timestamp) {
        with(rule, &["spec", "taint"], |taint| stamp(taint, now));
    }

    fn validate_create(&self, _cx: &Context<'_>, rule: &Value) -> ErrorList {
        validation::taint_rule(rule, None)
    }

    fn validate_update(&self, _cx: &Context<'_>, rule: &Value, old: &Value) -> ErrorList {
        validation::taint_rule(rule, Some(old))
    }

    fn cells(&self, rule: &Value, now: Timestamp) -> Cells {
        let taint = |field| text(rule, &["spec", "taint", field]).into();
        let added = rule.at(&["spec", "taint", "timeAdded"]).map_or(String::new(), |_| since(rule, &["spec", "taint", "timeAdded"], now));
        Some(vec![name(rule), taint("key"), taint("value"), taint("effect"), added.into(), age(rule, now)])
    }
}
