//! ConfigMaps and Secrets: named data.

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::separation::keep;
use crate::strategy::{Context, Strategy, plain_field};
use crate::tree::{default_if_zero, is_zero_at};

/// Upstream: `pkg/registry/core/configmap`.
pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), (count(object, "data") + count(object, "binaryData")).into(), age(object, now)])
    }
}

/// Upstream: `pkg/registry/core/secret`.
pub struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        default_if_zero(object, "type", "Opaque");
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        if is_zero_at(object, &["type"]) {
            keep(object, old, "type");
        }
    }

    fn field(&self, object: &Value, name: &str) -> String {
        plain_field(object, name)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), text(object, &["type"]).into(), count(object, "data").into(), age(object, now)])
    }
}

fn count(object: &Value, field: &str) -> usize {
    object.at(&[field]).and_then(Value::as_object).map_or(0, |map| map.len())
}
