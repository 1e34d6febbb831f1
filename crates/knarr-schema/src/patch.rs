//! The three patches that are plain functions of two trees: JSON patch, merge patch, strategic merge patch.

use knarr_core::{Result, Value};

use crate::types::TypeId;

/// Applies an RFC 6902 patch.
///
/// # Errors
/// As upstream: 400 for a patch that is none, 422 for one that does not apply, 413 beyond 10,000 operations.
pub fn json_patch(_target: &Value, _patch: &Value) -> Result<Value> {
    todo!()
}

/// Applies an RFC 7386 patch.
pub fn merge_patch(_target: &Value, _patch: &Value) -> Value {
    todo!()
}

/// Applies a strategic merge patch with its directives (`$patch`, `$retainKeys`, `$setElementOrder/…`,
/// `$deleteFromPrimitiveList/…`).
pub fn strategic_merge(_type_id: TypeId, _target: &Value, _patch: &Value) -> Result<Value> {
    todo!()
}

/// The patch that turns `original` into `modified` (what `kubectl edit` and three-way apply send).
pub fn create_two_way(_type_id: TypeId, _original: &Value, _modified: &Value) -> Result<Value> {
    todo!()
}

/// kubectl's three-way patch: `original` is what was applied last, `modified` what is wanted, `current` what is there.
pub fn create_three_way(_type_id: TypeId, _original: &Value, _modified: &Value, _current: &Value) -> Result<Value> {
    todo!()
}
