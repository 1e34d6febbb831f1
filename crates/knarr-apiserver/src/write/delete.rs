//! Delete: preconditions, grace, finalizers, propagation (upstream: `registry/rest/delete.go`,
//! `registry/generic/registry/store.go` `Delete`).

use std::{sync::Arc, time::Duration};

use knarr_core::{GroupVersionKind, Object, Result, Status, Value, ValueExt, json, time};
use knarr_kinds::Graceful;
use knarr_schema::codec;
use knarr_store::{Error, Item};

use super::{ATTEMPTS_MAX, Writer, decode};
use crate::{
    call::{Exchange, Input, Outcome},
    crd,
    read::store_error,
    request::{DeleteOptions, Propagation, delete_options_from_query, delete_options_from_value},
};

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// What came of a delete.
pub enum Removed {
    /// The object is gone; this was its last state.
    Gone(Object),
    /// The object waits for its grace or its finalizers.
    Waiting(Object),
    /// It was waiting already, and nothing has changed.
    Pending(Object),
}

/// The options of a delete: from the body if there is one, else from the query.
///
/// # Errors
/// `BadRequest` and `Invalid` for options that cannot be read.
pub fn options(ex: &Exchange<'_>) -> Result<DeleteOptions> {
    let mut options = if ex.call.input.is_empty() {
        delete_options_from_query(&ex.call.query)?
    } else {
        delete_options_from_value(&decode::options(ex, &GroupVersionKind::new("", "v1", "DeleteOptions"))?)?
    };
    // A component of this process has no query.
    options.dry_run |= ex.call.options.dry_run && matches!(ex.call.input, Input::None | Input::Tree(_));
    Ok(options)
}

/// Deletes an object.
///
/// # Errors
/// Whatever refuses it on its way.
pub async fn delete(ex: &Exchange<'_>) -> Result<Outcome> {
    let options = options(ex)?;
    let writer = Writer::new(ex);
    let name = ex.name()?;
    if !options.unreadable {
        warn_of_orphans(ex, &options);
    }
    let removed = remove(&writer, name, &options).await?;
    let served = ex.served.clone();
    let code = if matches!(options.orphan_dependents, Some(false)) && !matches!(removed, Removed::Gone(_)) { 202 } else { 200 };
    Ok(match removed {
        Removed::Waiting(object) => Outcome::Object { served, object, code },
        Removed::Gone(object) | Removed::Pending(object) if served.returns_deleted => Outcome::Object { served, object, code },
        Removed::Gone(object) | Removed::Pending(object) => Outcome::Value { value: success(ex, &object), code },
    })
}

/// Jobs leave their pods behind unless told otherwise, which surprises people.
pub(super) fn warn_of_orphans(ex: &Exchange<'_>, options: &DeleteOptions) {
    if ex.served.is("batch", "jobs") && options.orphan_dependents.is_none() && options.propagation.is_none() {
        ex.warn("child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning");
    }
}

/// The `Status` that tells which object is gone.
fn success(ex: &Exchange<'_>, object: &Object) -> Value {
    let meta = codec::meta(object);
    let resource = &ex.served.group_resource;
    let mut details = json!({"name": meta.name, "kind": resource.resource, "uid": meta.uid});
    if !resource.group.is_empty() {
        details.set(&["group"], resource.group.as_str());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Deletes one object, or sets it on its way.
///
/// # Errors
/// `NotFound`, `Conflict` when a precondition does not hold, and what admission says.
pub async fn remove(writer: &Writer<'_>, name: &str, options: &DeleteOptions) -> Result<Removed> {
    if options.unreadable && without_unsafe_deleter(writer) {
        return Err(Status::internal("no unsafe deleter provided, can not honor ignoreStoreReadErrorWithClusterBreakingPotential"));
    }
    for _ in 0..ATTEMPTS_MAX {
        let item = writer.current(name).ok_or_else(|| writer.not_found(name))?;
        if let Some(removed) = attempt(writer, name, &item, options).await? {
            return Ok(removed);
        }
    }
    Err(Status::modified(&writer.ex.served.group_resource, name))
}

async fn attempt(writer: &Writer<'_>, name: &str, item: &Arc<Item>, options: &DeleteOptions) -> Result<Option<Removed>> {
    let old = writer.ex.served.load(&item.object())?;
    if options.unreadable {
        return Err(readable(writer, name));
    }
    check_preconditions(writer, name, &old, options)?;
    if writer.ex.served.is("", "namespaces") {
        match namespace_step(&old, options, writer) {
            NamespaceStep::Terminate(new) => return rewrite(writer, name, item, &old, &new, options).await,
            NamespaceStep::Wait => return Ok(Some(Removed::Pending(item.object()))),
            NamespaceStep::Delete => {}
        }
    }
    if writer.ex.served.is("apiextensions.k8s.io", "customresourcedefinitions") && !crd::is_terminating(&old) {
        let new = definition_going(&old, writer);
        return rewrite(writer, name, item, &old, &new, options).await;
    }
    let Some(fate) = fate(writer, &old, options) else { return Ok(Some(Removed::Pending(item.object()))) };
    match fate {
        Fate::Rewrite(new) => rewrite(writer, name, item, &old, &new, options).await,
        Fate::Delete(last) => {
            writer.admit_delete(&old).await?;
            let removed = erase(writer, name, item, &old, options).await?;
            // An announced deletion shows in the answer, too.
            Ok(match (removed, last) {
                (Some(Removed::Gone(_)), Some(last)) => Some(Removed::Gone(codec::with_resource_version(&writer.encode(&last)?, item.revision()))),
                (removed, _) => removed,
            })
        }
    }
}

/// Kinds whose storage upstream wraps in one that has no such deleter.
fn without_unsafe_deleter(writer: &Writer<'_>) -> bool {
    writer.ex.served.is("", "namespaces") || writer.ex.served.resource.group == "rbac.authorization.k8s.io"
}

/// What can be read is not deleted as if it could not (upstream: `corruptObjectDeleter`).
fn readable(writer: &Writer<'_>, name: &str) -> Status {
    let key = writer.key(name).etcd_key(&writer.ex.served.key);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage"
    );
    Status::conflict(&writer.ex.served.group_resource, name, why)
}

/// Stores the object with its deletion announced.
async fn rewrite(writer: &Writer<'_>, name: &str, item: &Arc<Item>, old: &Value, new: &Value, options: &DeleteOptions) -> Result<Option<Removed>> {
    writer.admit_delete(old).await?;
    let bytes = writer.encode(new)?;
    if options.dry_run {
        return Ok(Some(Removed::Waiting(codec::with_resource_version(&bytes, item.revision()))));
    }
    match writer.ex.server.storage.update(&writer.ex.served.key, &writer.key(name), bytes, item.revision(), writer.ttl()).await {
        Ok(object) => Ok(Some(Removed::Waiting(object))),
        Err(Error::Conflict(_)) => Ok(None),
        Err(e) => Err(store_error(&e, &writer.ex.served.group_resource, name)),
    }
}

async fn erase(writer: &Writer<'_>, name: &str, item: &Arc<Item>, old: &Value, options: &DeleteOptions) -> Result<Option<Removed>> {
    if options.dry_run {
        return Ok(Some(Removed::Gone(item.object())));
    }
    match writer.ex.server.storage.delete(&writer.ex.served.key, &writer.key(name), item.revision()).await {
        Ok(object) => {
            writer.ex.server.allocators.release(writer.ex, old).await;
            Ok(Some(Removed::Gone(object)))
        }
        Err(Error::Conflict(_)) => Ok(None),
        Err(e) => Err(store_error(&e, &writer.ex.served.group_resource, name)),
    }
}

fn check_preconditions(writer: &Writer<'_>, name: &str, old: &Value, options: &DeleteOptions) -> Result<()> {
    let conflict = |why: String| {
        // Events of both groups are one internal kind, that of the core group.
        let group = if writer.ex.served.is("events.k8s.io", "events") { "" } else { &writer.ex.served.resource.group };
        let kind = knarr_core::GroupResource::new(group, &writer.ex.served.resource.kind);
        Err(Status::conflict(&kind, name, why))
    };
    let found = |field: &str| old.str_at(&["metadata", field]).unwrap_or_default();
    if writer.ex.served.is("apiextensions.k8s.io", "customresourcedefinitions") {
        return check_definition(writer, name, old, options);
    }
    if writer.ex.served.is("", "namespaces") {
        return check_namespace(writer, name, old, options);
    }
    if let Some(uid) = options.preconditions.uid.as_deref().filter(|u| *u != found("uid")) {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            found("uid")
        ));
    }
    if let Some(version) = options.preconditions.resource_version.as_deref().filter(|v| *v != found("resourceVersion")) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            found("resourceVersion")
        ));
    }
    Ok(())
}

/// So have namespaces.
fn check_namespace(writer: &Writer<'_>, name: &str, old: &Value, options: &DeleteOptions) -> Result<()> {
    let found = |field: &str| old.str_at(&["metadata", field]).unwrap_or_default();
    let conflict = |why: String| Err(Status::conflict(&writer.ex.served.group_resource, name, why));
    if let Some(uid) = options.preconditions.uid.as_deref().filter(|u| *u != found("uid")) {
        return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", found("uid")));
    }
    if let Some(version) = options.preconditions.resource_version.as_deref().filter(|v| *v != found("resourceVersion")) {
        return conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
            found("resourceVersion")
        ));
    }
    Ok(())
}

/// Definitions have a delete of their own, which words its refusals in its own way.
fn check_definition(writer: &Writer<'_>, name: &str, old: &Value, options: &DeleteOptions) -> Result<()> {
    let wanted = [("UID", "uid", &options.preconditions.uid), ("ResourceVersion", "resourceVersion", &options.preconditions.resource_version)];
    for (shown, field, wanted) in wanted {
        let found = old.str_at(&["metadata", field]).unwrap_or_default();
        if let Some(wanted) = wanted.as_deref().filter(|w| *w != found) {
            let why = format!("precondition failed: {shown} in precondition: {wanted}, {shown} in object meta: {found}");
            return Err(Status::conflict(&writer.ex.served.group_resource, name, why));
        }
    }
    Ok(())
}

enum NamespaceStep {
    Terminate(Value),
    Wait,
    Delete,
}

/// A namespace is set to `Terminating` first and lives on until its finalizers are gone.
fn namespace_step(old: &Value, options: &DeleteOptions, writer: &Writer<'_>) -> NamespaceStep {
    if old.at(&["metadata", "deletionTimestamp"]).is_some() {
        return if old.list_at(&["spec", "finalizers"]).is_empty() { NamespaceStep::Delete } else { NamespaceStep::Wait };
    }
    let mut new = old.clone();
    new.set(&["metadata", "deletionTimestamp"], time::format(writer.ex.server.env.now()));
    new.set(&["status", "phase"], "Terminating");
    set_finalizers(&mut new, finalizers_for(old, options, false));
    NamespaceStep::Terminate(new)
}

/// A definition is held until its objects are gone (upstream: `registry/customresourcedefinition` `Delete`).
fn definition_going(old: &Value, writer: &Writer<'_>) -> Value {
    let (mut new, now) = (old.clone(), writer.ex.server.env.now());
    new.set(&["metadata", "deletionTimestamp"], time::format(now));
    let mut finalizers = new.list_at(&["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|f| f == crd::CLEANUP) {
        finalizers.push(crd::CLEANUP.into());
    }
    new.set(&["metadata", "finalizers"], finalizers);
    let text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    crd::set_condition(&mut new, "Terminating", "True", "InstanceDeletionPending", text, now);
    new
}

enum Fate {
    Rewrite(Value),
    /// With its last state, if that is not the stored one.
    Delete(Option<Value>),
}

/// What a delete does to the object; `None` when it is dying already.
fn fate(writer: &Writer<'_>, old: &Value, options: &DeleteOptions) -> Option<Fate> {
    let now = writer.ex.server.env.now();
    let grace_wanted = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
    let mut new = old.clone();
    let seconds = match old.str_at(&["metadata", "deletionTimestamp"]) {
        Some(at) => match old.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) {
            0 => None,
            current => Some(shorten(&mut new, at, current, grace_wanted, now)?),
        },
        None => match writer.behaviour.graceful(old, grace_wanted) {
            Graceful::Immediate => None,
            Graceful::Wait { seconds } => {
                announce(&mut new, now + Duration::from_secs(seconds.max(0) as u64), seconds);
                Some(seconds)
            }
        },
    };
    if writer.ex.served.collects_garbage && writer.ex.server.config.collects_garbage {
        set_finalizers(&mut new, finalizers_for(old, options, writer.behaviour.orphans_dependents()));
    }
    let held = !new.list_at(&["metadata", "finalizers"]).is_empty();
    match seconds {
        None if held => {
            mark_as_deleting(&mut new, now);
            Some(Fate::Rewrite(new))
        }
        Some(seconds) if held || seconds > 0 => Some(Fate::Rewrite(new)),
        seconds => Some(Fate::Delete(seconds.map(|_| new))),
    }
}

fn announce(object: &mut Value, at: jiff::Timestamp, seconds: i64) {
    object.set(&["metadata", "deletionTimestamp"], time::format(at));
    object.set(&["metadata", "deletionGracePeriodSeconds"], seconds);
    raise_generation(object);
}

fn raise_generation(object: &mut Value) {
    if let Some(generation) = object.i64_at(&["metadata", "generation"]).filter(|g| *g > 0) {
        object.set(&["metadata", "generation"], generation + 1);
    }
}

/// A dying object's grace can only become shorter.
fn shorten(object: &mut Value, at: &str, current: i64, wanted: Option<i64>, now: jiff::Timestamp) -> Option<i64> {
    let mut seconds = wanted.filter(|w| *w < current)?;
    let mut at = time::parse(at)? - jiff::SignedDuration::from_secs(current - seconds);
    if at < now {
        at = now;
        seconds = seconds.min(1);
    }
    object.set(&["metadata", "deletionTimestamp"], time::format(at));
    object.set(&["metadata", "deletionGracePeriodSeconds"], seconds);
    Some(seconds)
}

/// An object without grace that finalizers hold (upstream: `markAsDeleting`).
fn mark_as_deleting(object: &mut Value, now: jiff::Timestamp) {
    let existing = object.str_at(&["metadata", "deletionTimestamp"]).and_then(time::parse);
    if existing.is_none() {
        raise_generation(object);
    }
    if existing.is_none_or(|at| at > now) {
        object.set(&["metadata", "deletionTimestamp"], time::format(now));
    }
    object.set(&["metadata", "deletionGracePeriodSeconds"], 0);
}

/// The finalizers that the wanted propagation leaves (upstream: `deletionFinalizersForGarbageCollection`).
fn finalizers_for(old: &Value, options: &DeleteOptions, orphans_by_default: bool) -> Vec<String> {
    let current: Vec<&str> = old.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect();
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(policy)) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
        (None, None) => match current.iter().find(|f| matches!(**f, ORPHAN | FOREGROUND)) {
            Some(&found) => (found == ORPHAN, found == FOREGROUND),
            None => (orphans_by_default, false),
        },
    };
    let kept = current.into_iter().filter(|f| !matches!(*f, ORPHAN | FOREGROUND));
    kept.chain(orphan.then_some(ORPHAN)).chain(foreground.then_some(FOREGROUND)).map(str::to_owned).collect()
}

/// Replaces the finalizers if they are other ones, in whatever order.
fn set_finalizers(object: &mut Value, wanted: Vec<String>) {
    let current = object.list_at(&["metadata", "finalizers"]);
    if current.len() == wanted.len() && wanted.iter().all(|w| current.iter().any(|c| c == w)) {
        return;
    }
    if wanted.is_empty() {
        object.remove(&["metadata", "finalizers"]);
    } else {
        object.set(&["metadata", "finalizers"], wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finalizers(object: Value, options: DeleteOptions, default: bool) -> String {
        finalizers_for(&json!({"metadata": object}), &options, default).join(",")
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let with = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        assert_eq!(finalizers(json!({"finalizers": ["a"]}), with(Propagation::Foreground), false), "a,foregroundDeletion");
        assert_eq!(finalizers(json!({"finalizers": ["orphan", "a"]}), with(Propagation::Background), true), "a");
        assert_eq!(finalizers(json!({}), with(Propagation::Orphan), false), "orphan");
        assert_eq!(finalizers(json!({}), DeleteOptions::default(), true), "orphan");
        assert_eq!(finalizers(json!({"finalizers": ["foregroundDeletion"]}), DeleteOptions::default(), true), "foregroundDeletion");
        assert_eq!(finalizers(json!({}), DeleteOptions { orphan_dependents: Some(false), ..DeleteOptions::default() }, true), "");
    }

    #[test]
    fn grace_can_only_become_shorter() {
        let now = time::parse("2026-01-01T00:00:00Z").unwrap();
        let mut object = json!({"metadata": {}});
        assert_eq!(shorten(&mut object, "2026-01-01T00:00:30Z", 30, Some(40), now), None);
        assert_eq!(shorten(&mut object, "2026-01-01T00:00:30Z", 30, None, now), None);
        assert_eq!(shorten(&mut object, "2026-01-01T00:00:30Z", 30, Some(10), now), Some(10));
        assert_eq!(object.str_at(&["metadata", "deletionTimestamp"]), Some("2026-01-01T00:00:10Z"));
        assert_eq!(shorten(&mut object, "2026-01-01T00:00:03Z", 30, Some(10), now), Some(1));
        assert_eq!(shorten(&mut object, "2026-01-01T00:00:03Z", 30, Some(0), now), Some(0));
    }
}
