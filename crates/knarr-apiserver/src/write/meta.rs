//! What the server itself keeps in `metadata` (upstream: `registry/rest/meta.go`, `update.go`).

use knarr_core::{Reason, Result, Status, Value, ValueExt, clock::Env, field, time};

use crate::call::Exchange;

/// Fields that a client cannot set on a new object.
pub fn wipe_system_fields(object: &mut Value) {
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        object.remove(&["metadata", field]);
    }
}

pub fn fill_system_fields(object: &mut Value, env: &Env) {
    object.set(&["metadata", "creationTimestamp"], time::format(env.now()));
    object.set(&["metadata", "uid"], env.uuid());
}

/// Makes `metadata.namespace` that of the request.
///
/// # Errors
/// `BadRequest` when the object says another one.
pub fn ensure_namespace(object: &mut Value, namespace: &str) -> Result<()> {
    match object.str_at(&["metadata", "namespace"]).unwrap_or_default() {
        found if found == namespace => {}
        "" => object.set(&["metadata", "namespace"], namespace),
        _ if namespace.is_empty() => {
            object.remove(&["metadata", "namespace"]);
        }
        _ => return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request")),
    }
    Ok(())
}

/// The object must have the name of the path; without a name it gets it (upstream: `checkName`).
///
/// # Errors
/// `BadRequest` when the names differ.
pub fn ensure_name(object: &mut Value, name: &str) -> Result<()> {
    match object.str_at(&["metadata", "name"]).unwrap_or_default() {
        "" => {
            object.set(&["metadata", "name"], name);
            Ok(())
        }
        found if found == name => Ok(()),
        found => Err(Status::bad_request(format!("the name of the object ({found}) does not match the name on the URL ({name})"))),
    }
}

/// What replaces an object, or is left of it after a patch, must say which one (upstream: `checkName`).
///
/// # Errors
/// `BadRequest` when it has no name.
pub fn require_name(object: &Value, name: &str) -> Result<()> {
    if object.str_at(&["metadata", "name"]).is_some_and(|n| !n.is_empty()) {
        return Ok(());
    }
    Err(Status::bad_request(format!("the name of the object ({name} based on URL) was undeterminable: name must be provided")))
}

/// What an update cannot change: generation, uid, birth and death (upstream: `rest.BeforeUpdate`). Call it before and after
/// the strategy's own preparation.
pub fn keep_generation(object: &mut Value, old: &Value) {
    copy(object, old, "generation");
}

pub fn keep_system_fields(object: &mut Value, old: &Value) {
    if object.str_at(&["metadata", "uid"]).is_none_or(str::is_empty) {
        copy(object, old, "uid");
    }
    if old.at(&["metadata", "creationTimestamp"]).is_some() {
        copy(object, old, "creationTimestamp");
    }
    if old.at(&["metadata", "deletionTimestamp"]).is_some() {
        copy(object, old, "deletionTimestamp");
    }
    if object.at(&["metadata", "deletionGracePeriodSeconds"]).is_none() {
        copy(object, old, "deletionGracePeriodSeconds");
    }
}

fn copy(object: &mut Value, old: &Value, field: &str) {
    match old.at(&["metadata", field]) {
        Some(value) => object.set(&["metadata", field], value.clone()),
        None => {
            object.remove(&["metadata", field]);
        }
    }
}

/// Owner references that occur twice are told and dropped (upstream: `dedupOwnerReferencesAndAddWarning`).
pub fn dedup_owners(ex: &Exchange<'_>, object: &mut Value, after_admission: bool) {
    let Some(Value::Array(owners)) = object.at_mut(&["metadata", "ownerReferences"]) else { return };
    let mut seen: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    for owner in owners.drain(..) {
        if seen.contains(&owner) {
            repeated.push(owner.str_at(&["uid"]).unwrap_or_default().to_owned());
        } else {
            seen.push(owner);
        }
    }
    *owners = seen;
    if !repeated.is_empty() {
        let uids: String = repeated.into_iter().map(|uid| uid + ", ").collect();
        let uids = uids.trim_end_matches(", ");
        let when = if after_admission { " after mutating admission" } else { "" };
        ex.warn(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
        ));
    }
}

/// `metadata.resourceVersion`; 0 when there is none.
///
/// # Errors
/// 500 when it is no number: upstream takes it for a failure of its own.
pub fn resource_version(object: &Value) -> Result<u64> {
    let Some(text) = object.str_at(&["metadata", "resourceVersion"]).filter(|v| !v.is_empty()) else { return Ok(0) };
    let failure = |_| Status::new(500, Reason::Unknown, format!("strconv.ParseUint: parsing {}: invalid syntax", field::go_quote(text)));
    text.parse().map_err(failure)
}
