//! The three patches that are plain functions of two trees: JSON patch, merge patch, strategic merge patch.

mod diff;
mod json;
mod merge;
mod meta;
mod order;
mod strategic;
#[cfg(test)]
mod tests;

use knarr_core::{Result, Value};

use crate::types::TypeId;

/// Applies an RFC 6902 patch.
///
/// # Errors
/// As upstream: 400 for a patch that is none, 422 for one that does not apply, 413 beyond 10,000 operations.
pub fn json_patch(target: &Value, patch: &Value) -> Result<Value> {
    json::apply(target, patch)
}

/// Applies an RFC 7386 patch.
pub fn merge_patch(target: &Value, patch: &Value) -> Value {
    merge::apply(target, patch)
}

/// The JSON of what [`merge_patch`] makes of this JSON of an object, as upstream shows it in errors.
pub fn merge_patch_text(target: &[u8], patch: &Value) -> Vec<u8> {
    merge::text(target, patch)
}

/// Applies a strategic merge patch with its directives (`$patch`, `$retainKeys`, `$setElementOrder/…`,
/// `$deleteFromPrimitiveList/…`).
///
/// # Errors
/// 400 for a patch that contradicts itself or does not fit the type; 500 in upstream's words where it answers so.
pub fn strategic_merge(type_id: TypeId, target: &Value, patch: &Value) -> Result<Value> {
    strategic::apply(type_id, target, patch)
}

/// The patch that turns `original` into `modified` (what `kubectl edit` and three-way apply send).
///
/// # Errors
/// An object in a list that lacks its merge key.
pub fn create_two_way(type_id: TypeId, original: &Value, modified: &Value) -> Result<Value> {
    diff::two_way(type_id, original, modified)
}

/// kubectl's three-way patch: `original` is what was applied last, `modified` what is wanted, `current` what is there.
///
/// # Errors
/// As [`create_two_way`].
pub fn create_three_way(type_id: TypeId, original: &Value, modified: &Value, current: &Value) -> Result<Value> {
    diff::three_way(type_id, original, modified, current)
}

/// The merge patch that turns `original` into `modified`, for kinds without a type.
pub fn create_merge_patch(original: &Value, modified: &Value) -> Value {
    merge::create(original, modified)
}

/// kubectl's three-way merge patch for kinds without a type (upstream: `jsonmergepatch.CreateThreeWayJSONMergePatch`).
pub fn create_three_way_merge_patch(original: &Value, modified: &Value, current: &Value) -> Value {
    merge::create_three_way(original, modified, current)
}
