//! LimitRanges (upstream: `pkg/registry/core/limitrange`).

use crate::cells::{Cells, created_at, name};
use jiff::Timestamp;
use knarr_core::{Map, Value, ValueExt};

use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{each, is_zero_at, object, round_amounts};

pub struct LimitRange;

impl Strategy for LimitRange {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    fn default(&self, range: &mut Value) {
        each(range, &["spec", "limits"], |item| {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                round_amounts(item, &[list]);
            }
            if item.str_at(&["type"]) == Some("Container") {
                default_container(item);
            }
        });
    }

    fn prepare_for_create(&self, cx: &Context<'_>, range: &mut Value) {
        separation::create(self.shape(), range);
        if is_zero_at(range, &["metadata", "name"]) {
            range.set(&["metadata", "name"], cx.env.uuid());
        }
    }

    fn cells(&self, range: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(range), created_at(range)])
    }
}

/// A limit defaults to the maximum, a request to the limit or else to the minimum.
fn default_container(item: &mut Value) {
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let amounts: Map<String, Value> = item.at(&[from]).and_then(Value::as_object).cloned().unwrap_or_default();
        if amounts.is_empty() {
            continue;
        }
        let target = object(item.ensure(&[to]));
        for (name, amount) in amounts {
            target.entry(name).or_insert(amount);
        }
    }
}
