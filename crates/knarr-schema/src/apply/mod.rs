//! Server-side apply: who owns which field (`managedFields`), conflicts, and the merge itself
//! (`sigs.k8s.io/structured-merge-diff`, `k8s.io/apimachinery/pkg/util/managedfields`).
//!
//! ```text
//! schema     how a type merges: table or CRD          set      a tree of fields
//! compare    what differs between two objects         fields   sets as fieldsV1, paths as text
//! merge      a configuration over an object           managed  the entries of managedFields
//! track      after a create, update or patch          applied  apply, with conflicts
//! ```
//!
//! Objects of other versions are taken as they are: a path is the same field in every version of a kind. Upstream converts
//! the object to the version of each entry; the kinds whose versions differ in their fields are few.

use knarr_core::{Map, Result, Value, ValueExt as _};

use crate::registry::Resource;

mod applied;
mod compare;
mod conflict;
mod fields;
mod managed;
mod merge;
pub mod scale;
mod schema;
mod set;
#[cfg(test)]
mod tests;
mod track;
#[cfg(test)]
mod upstream_tests;
mod validate;
mod zero;

/// How a write came in, for `managedFields`.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// `fieldManager`, or the first word of the user agent up to its slash.
    pub name: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}

/// Brings `managedFields` of `new` up to date after a create, an update or any patch but apply. `old` is the stored object
/// before the write (absent on create). On no change of fields the old entry keeps its time.
///
/// `new` may carry `managedFields` of its own, by which clients change or reset them (`[{}]`).
pub fn track_update(resource: &Resource, old: Option<&Value>, new: &mut Value, manager: Manager<'_>) {
    track::track_update(resource, old, new, manager);
}

/// Lays a configuration over an object without any owners (upstream: `patch.ApplyStructuredMergeDiff`).
///
/// # Errors
/// In upstream's words, when the configuration does not fit its type, or names a list or map that can only be set as a whole.
pub fn merge_configuration(resource: &Resource, object: &Value, config: &Value) -> Result<Value, String> {
    let schema = schema::Schema::of(resource);
    let errors = validate::validate(schema, config);
    if !errors.is_empty() {
        return Err(format!("failed to convert patch object to typed object: {}", validate::message(&errors)));
    }
    let mut atomics = Vec::new();
    merge::atomics(schema, config, &mut String::new(), &mut atomics);
    if !atomics.is_empty() {
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", atomics.join(", ")));
    }
    Ok(merge::merge(schema, object, config))
}

/// Applies a configuration. `live` is the stored object (absent: it will be created). Gives the merged object with its new
/// `managedFields`. What comes of it is to be decoded and defaulted like any body: fields that were taken away may be null.
///
/// # Errors
/// `Conflict` with a cause for each field that another manager owns, unless `force`; `BadRequest` for a configuration with
/// `managedFields` or without the wanted kind; 500 in upstream's words for one that does not fit its type.
pub fn apply(resource: &Resource, live: Option<&Value>, config: &Value, manager: Manager<'_>, force: bool) -> Result<Value> {
    applied::apply(resource, live, config, manager, force)
}

/// Puts the old times back into `managedFields` when nothing but times has changed, so that such a write is none
/// (upstream: `IgnoreManagedFieldsTimestampsTransformer`). Call it when nothing will change the object any more.
pub fn keep_times(old: &Value, new: &mut Value) {
    let (Some(before), Some(after)) = (managed_list(old), managed_list(new)) else { return };
    let same = before.len() == after.len() && before != after && before.iter().zip(after).all(|(a, b)| same_but(a, b, "time"));
    let same = same && same_but(old, new, "metadata");
    if same && old.get("metadata").zip(new.get("metadata")).is_some_and(|(a, b)| same_but(a, b, "managedFields")) {
        let before = Value::Array(before.to_vec());
        new.set(MANAGED_FIELDS, before);
    }
}

const MANAGED_FIELDS: &[&str] = &["metadata", "managedFields"];

fn managed_list(object: &Value) -> Option<&[Value]> {
    object.at(MANAGED_FIELDS).and_then(Value::as_array).map(Vec::as_slice)
}

/// Whether two objects are equal when one key is left out.
fn same_but(a: &Value, b: &Value, key: &str) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return false };
    let rest = |map: &'_ Map<String, Value>| map.len() - usize::from(map.contains_key(key));
    rest(a) == rest(b) && a.iter().all(|(k, v)| k == key || b.get(k) == Some(v))
}

/// Whether entries of `managedFields` can be read: what admission made of them is refused otherwise.
///
/// # Errors
/// What is wrong with them, in upstream's words.
pub fn check_managed_fields(object: &Value) -> std::result::Result<(), String> {
    managed::decode(managed_list(object).unwrap_or_default()).map(drop)
}
