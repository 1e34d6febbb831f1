//! Create (upstream: `endpoints/handlers/create.go`, `registry/generic/registry/store.go` `Create`).

use knarr_core::{Encoding, Object, Result, Status, Value, ValueExt};
use knarr_schema::codec;
use knarr_store::{Error, ObjectKey, ResourceKey, Write};

use super::{Writer, decode, meta};
use crate::{
    admission::Operation,
    alloc::Reserved,
    call::{Exchange, Outcome},
    read::store_error,
    request::validate_write_options,
};

/// How often a generated name is tried (upstream: `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS_MAX: usize = 8;
/// Longest generated name, and the length of its random tail.
const GENERATED_NAME_MAX: usize = 63;
const GENERATED_TAIL: usize = 5;

/// Creates the object in the body.
///
/// # Errors
/// Whatever refuses it on its way.
pub async fn create(ex: &Exchange<'_>) -> Result<Outcome> {
    validate_write_options(&ex.call.options, "CreateOptions", false)?;
    let object = decode::object(ex)?;
    let created = insert(&Writer::new(ex), object).await?;
    Ok(Outcome::Object { served: ex.served.clone(), object: created, code: 201 })
}

/// Creates a decoded object of the request's version.
///
/// # Errors
/// As [`create`].
pub async fn insert(writer: &Writer<'_>, mut object: Value) -> Result<Object> {
    let ex = writer.ex;
    if ex.catalog.is_terminating(&ex.served.resource) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(&ex.served.group_resource, &ex.call.info.name, why));
    }
    let is_namespace = ex.served.is("", "namespaces");
    // A dry run does not come as far as the store, which is who minds.
    if !ex.dry_run() && object.str_at(&["metadata", "resourceVersion"]).is_some_and(|v| !v.is_empty()) {
        return Err(Status::new(500, knarr_core::Reason::Unknown, "resourceVersion should not be set on objects to be created"));
    }
    object.ensure(&["metadata"]);
    meta::wipe_system_fields(&mut object);
    meta::ensure_namespace(&mut object, if is_namespace { "" } else { ex.namespace() })?;
    meta::dedup_owners(ex, &mut object, false);
    writer.track(None, &mut object);
    let object = writer.mutate(Operation::Create, ex.served.to_hub(object)?, None).await?;
    store_new(writer, object).await
}

/// The part of a create after mutating admission; `object` is in its stored version.
pub(super) async fn store_new(writer: &Writer<'_>, object: Value) -> Result<Object> {
    if !needs_name(&object) {
        return attempt(writer, object).await;
    }
    let mut last = Err(Status::internal("no name was generated"));
    for _ in 0..NAME_ATTEMPTS_MAX {
        last = attempt(writer, object.clone()).await;
        if !last.as_ref().is_err_and(Status::is_already_exists) {
            return last;
        }
    }
    last
}

fn needs_name(object: &Value) -> bool {
    let is_set = |field: &str| object.str_at(&["metadata", field]).is_some_and(|v| !v.is_empty());
    is_set("generateName") && !is_set("name")
}

async fn attempt(writer: &Writer<'_>, object: Value) -> Result<Object> {
    if !writer.ex.server.storage.is_shared() || !writer.ex.served.is("", "services") {
        return try_once(writer, object).await?.ok_or_else(moved);
    }
    for _ in 0..MOVES_MAX {
        if let Some(created) = try_once(writer, object.clone()).await? {
            return Ok(created);
        }
    }
    Err(moved())
}

/// How often a create begins anew because other servers give out of the same range.
const MOVES_MAX: usize = 100;

fn moved() -> Status {
    Status::internal("failed to allocate: other servers were faster each time")
}

/// One try. `None`: another server has given of what this object was to have.
async fn try_once(writer: &Writer<'_>, object: Value) -> Result<Option<Object>> {
    let mut reserved = Reserved::new(writer.ex);
    let done = try_with(writer, object, &mut reserved).await;
    reserved.give_back().await;
    done
}

async fn try_with(writer: &Writer<'_>, mut object: Value, reserved: &mut Reserved) -> Result<Option<Object>> {
    let ex = writer.ex;
    meta::fill_system_fields(&mut object, &ex.server.env);
    let generated = needs_name(&object);
    if generated {
        let base = object.str_at(&["metadata", "generateName"]).unwrap_or_default();
        let cut = (0..=base.len().min(GENERATED_NAME_MAX - GENERATED_TAIL)).rev().find(|i| base.is_char_boundary(*i)).unwrap_or(0);
        let tail = if writer.behaviour.generates_names() { ex.server.env.suffix(GENERATED_TAIL) } else { String::new() };
        let name = format!("{}{tail}", &base[..cut]);
        object.set(&["metadata", "name"], name);
    }
    ex.server.allocators.begin_create(ex, &mut object, reserved).await?;
    let cx = writer.context();
    writer.behaviour.prepare_for_create(&cx, &mut object);
    let errors = create_errors(writer, &object);
    writer.refuse(&object, &errors)?;
    ex.warn_all(writer.behaviour.warnings(&object, None));
    let object = writer.admit(Operation::Create, Some(object), None).await?.unwrap_or_default();
    let name = object.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
    let bytes = writer.encode(&object)?;
    if ex.dry_run() {
        if writer.current(&name).is_some() {
            return Err(Status::already_exists(&ex.served.group_resource, &name));
        }
        // What was not stored has no version but what the client wrote there.
        let version = object.str_at(&["metadata", "resourceVersion"]).unwrap_or_default();
        if !version.is_empty() {
            return Ok(Some(codec::with_version_text(&bytes, version)));
        }
        let encoding = if ex.served.resource.custom.is_some() { Encoding::Json } else { Encoding::Protobuf };
        return Ok(Some(Object { encoding, resource_version: 0, bytes }));
    }
    let write = Write::Create { bytes, ttl: writer.ttl() };
    let written = match reserved.guard().await {
        Ok(guard) => ex.server.storage.write_guarded(&ex.served.key, &writer.key(&name), write, guard).await,
        Err(error) => Err(error),
    };
    match written {
        Ok(object) => {
            reserved.commit().await;
            Ok(Some(object))
        }
        Err(Error::Moved) => Ok(None),
        Err(Error::Exists) => Err(already_exists(writer, &name, generated)),
        Err(e) => Err(store_error(&e, &ex.served.group_resource, &name)),
    }
}

/// The rules of all metadata, then the kind's own.
fn create_errors(writer: &Writer<'_>, object: &Value) -> knarr_core::field::ErrorList {
    let served = &writer.ex.served;
    if served.is("", "events") {
        // Upstream does not look at their metadata before all else is right.
        let errors = writer.behaviour.validate_create(&writer.context(), object);
        if !errors.is_empty() {
            return errors;
        }
    }
    let mut errors = knarr_kinds::validate_metadata(object, served.resource.namespaced, &*writer.behaviour);
    if served.is("resource.k8s.io", "resourceclaims") || served.is("resource.k8s.io", "resourceclaimtemplates") {
        let namespace = writer.ex.server.storage.get_now(&ResourceKey::new("", "namespaces"), &ObjectKey::new("", writer.ex.namespace()));
        let namespace = namespace.and_then(|item| codec::to_value(&item.object()).ok());
        errors.extend(knarr_kinds::admin_access(object, namespace.as_ref().and_then(|n| n.at(&["metadata", "labels"]))));
    }
    errors.extend(writer.behaviour.validate_create(&writer.context(), object));
    errors
}

fn already_exists(writer: &Writer<'_>, name: &str, generated: bool) -> Status {
    let resource = &writer.ex.served.group_resource;
    let mut status = Status::already_exists(resource, name);
    if generated {
        status.message =
            format!("{resource} {} already exists, the server was not able to generate a unique name for the object", knarr_core::field::go_quote(name));
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = 1;
        }
    }
    let deleting = writer.current(name).is_some_and(|item| knarr_schema::codec::meta(&item.object()).deleting);
    if deleting {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}
