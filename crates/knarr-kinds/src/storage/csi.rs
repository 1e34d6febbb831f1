//! CSIDrivers, CSINodes and CSIStorageCapacities (upstream: `pkg/registry/storage`).

use knarr_core::{Value, ValueExt, json};

use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to};

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

    /// It begins without a generation, yet counts changes.
    fn prepare_for_update(&self, _cx: &Context<'_>, driver: &mut Value, old: &Value) {
        let changed = separation::wish_changed(driver, old);
        separation::count(driver, old, changed);
    }
}

pub struct CsiNode;

impl Strategy for CsiNode {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }
}

pub struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn shape(&self) -> Shape {
        Shape::PLAIN.needs_resource_version()
    }
}
