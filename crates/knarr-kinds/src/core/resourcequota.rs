//! ResourceQuotas (upstream: `pkg/registry/core/resourcequota`).

use crate::cells::{Cells, age, name, quantity};
use jiff::Timestamp;
use knarr_core::Value;

use crate::strategy::{Shape, Strategy};
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
