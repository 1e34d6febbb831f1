//! ResourceQuotas (upstream: `pkg/registry/core/resourcequota`).

use knarr_core::Value;

use crate::strategy::{Shape, Strategy};
use crate::tree::round_amounts;

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
}
