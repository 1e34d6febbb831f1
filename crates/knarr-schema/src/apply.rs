//! Server-side apply: who owns which field (`managedFields`), conflicts, and the merge itself
//! (`sigs.k8s.io/structured-merge-diff`, `k8s.io/apimachinery/pkg/util/managedfields`).

use knarr_core::{Result, Value};

use crate::registry::Resource;

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
pub fn track_update(_resource: &Resource, _old: Option<&Value>, _new: &mut Value, _manager: Manager<'_>) {
    todo!()
}

/// Applies a configuration. `live` is the stored object (absent: it will be created). Gives the merged object with its new
/// `managedFields`.
///
/// # Errors
/// `Conflict` with a cause for each field that another manager owns, unless `force`; `BadRequest` for a configuration with
/// `managedFields` or without the wanted kind.
pub fn apply(_resource: &Resource, _live: Option<&Value>, _config: &Value, _manager: Manager<'_>, _force: bool) -> Result<Value> {
    todo!()
}
