//! ConfigMaps and Secrets: named data.

use knarr_core::Value;

use crate::separation::keep;
use crate::strategy::{Context, Strategy, plain_field};
use crate::tree::{default_if_zero, is_zero_at};

/// Upstream: `pkg/registry/core/configmap`.
pub struct ConfigMap;

impl Strategy for ConfigMap {}

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
}
