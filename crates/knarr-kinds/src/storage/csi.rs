//! CSIDrivers, CSINodes and CSIStorageCapacities (upstream: `pkg/registry/storage`).

use crate::cells::{Cells, NONE, UNSET, age, created_at, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json};

use super::validation;

use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, strings};

pub struct CsiDriver;

impl Strategy for CsiDriver {
    fn shape(&self) -> Shape {
        Shape::PLAIN.needs_resource_version()
    }

    fn default(&self, driver: &mut Value) {
        let spec = driver.ensure(&["spec"]);
        default_to(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount", "preventPodSchedulingIfMissing"] {
            default_to(spec, field, false);
        }
        default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default_if_zero(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }

    fn validate_create(&self, _cx: &Context<'_>, driver: &Value) -> ErrorList {
        validation::csi_driver(driver)
    }

    fn validate_update(&self, _cx: &Context<'_>, driver: &Value, old: &Value) -> ErrorList {
        validation::csi_driver_update(driver, old)
    }

    /// It begins without a generation, yet counts changes.
    fn prepare_for_update(&self, _cx: &Context<'_>, driver: &mut Value, old: &Value) {
        let changed = separation::wish_changed(driver, old);
        separation::count(driver, old, changed);
    }

    fn warnings(&self, driver: &Value, old: Option<&Value>) -> Vec<String> {
        // Requests that stay as they were are not told of again.
        if old.is_some_and(|o| crate::semantic::same_at(o, driver, &["spec", "tokenRequests"])) {
            return Vec::new();
        }
        let asks = !driver.list_at(&["spec", "tokenRequests"]).is_empty();
        let unset = asks && driver.at(&["spec", "serviceAccountTokenInSecrets"]).is_none();
        let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        unset.then(|| text.to_owned()).into_iter().collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let is = |field, otherwise| object.bool_at(&["spec", field]).unwrap_or(otherwise).into();
        let audiences: Option<Vec<&str>> =
            object.at(&["spec", "tokenRequests"]).map(|_| object.list_at(&["spec", "tokenRequests"]).iter().map(|t| text(t, &["audience"])).collect());
        let modes: Vec<&str> = strings(object, &["spec", "volumeLifecycleModes"]).collect();
        Some(vec![
            name(object),
            is("attachRequired", true),
            is("podInfoOnMount", false),
            is("storageCapacity", false),
            audiences.map_or(UNSET.into(), |a| a.join(",")).into(),
            is("requiresRepublish", false),
            if modes.is_empty() { NONE.into() } else { modes.join(",").into() },
            age(object, now),
        ])
    }
}

pub struct CsiNode;

impl Strategy for CsiNode {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, node: &Value) -> ErrorList {
        validation::csi_node(node)
    }

    fn validate_update(&self, _cx: &Context<'_>, node: &Value, old: &Value) -> ErrorList {
        validation::csi_node_update(node, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), object.list_at(&["spec", "drivers"]).len().into(), age(object, now)])
    }
}

pub struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn shape(&self) -> Shape {
        Shape::PLAIN.needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, capacity: &Value) -> ErrorList {
        validation::csi_storage_capacity(capacity, None)
    }

    fn validate_update(&self, _cx: &Context<'_>, capacity: &Value, old: &Value) -> ErrorList {
        validation::csi_storage_capacity_update(capacity, old)
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(object), created_at(object)])
    }
}
