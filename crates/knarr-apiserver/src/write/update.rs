//! Update (upstream: `endpoints/handlers/update.go`, `registry/generic/registry/store.go` `Update`). Patches end here too.

use std::sync::Arc;

use knarr_core::{
    Object, Result, Status, Value, ValueExt,
    field::{self, ErrorList, Path},
};
use knarr_kinds::Strategy;
use knarr_schema::codec;
use knarr_store::{Error, Item, Write};

use super::{ATTEMPTS_MAX, Writer, create, decode, meta};
use crate::{
    admission::Operation,
    alloc::Reserved,
    call::{Exchange, Outcome},
    read::store_error,
    request::validate_write_options,
};

/// Makes the new object out of the stored one, as often as the swap is lost.
pub trait Change: Sync {
    /// `live` is the stored object in the version of the request, absent when there is none. The result has its
    /// `managedFields` already.
    ///
    /// # Errors
    /// Whatever is wrong with the new object.
    fn apply(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value>;

    /// Whether a missing object may be created (apply).
    fn may_create(&self) -> bool {
        false
    }

    /// The uid that the stored object must have.
    fn uid(&self) -> Option<&str> {
        None
    }
}

/// The body of a PUT.
struct Put(Value);

impl Change for Put {
    fn apply(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value> {
        let mut new = self.0.clone();
        writer.track(live, &mut new);
        Ok(new)
    }

    fn uid(&self) -> Option<&str> {
        self.0.str_at(&["metadata", "uid"]).filter(|u| !u.is_empty())
    }
}

/// Replaces an object by the one in the body.
///
/// # Errors
/// Whatever refuses it on its way.
pub async fn update(ex: &Exchange<'_>) -> Result<Outcome> {
    validate_write_options(&ex.call.options, "UpdateOptions", false)?;
    let name = ex.name()?;
    let mut object = decode::object(ex)?;
    meta::ensure_namespace(&mut object, if ex.served.is("", "namespaces") { "" } else { ex.namespace() })?;
    meta::require_name(&object, name)?;
    meta::ensure_name(&mut object, name)?;
    meta::dedup_owners(ex, &mut object, false);
    replace(&Writer::new(ex), name, &Put(object)).await
}

/// Runs a change until the swap succeeds.
///
/// # Errors
/// Whatever refuses it; `Conflict` when the object is at another version than the change was made for.
pub async fn replace(writer: &Writer<'_>, name: &str, change: &impl Change) -> Result<Outcome> {
    for _ in 0..ATTEMPTS_MAX {
        let done = match writer.current(name) {
            None => create_instead(writer, name, change).await?,
            Some(item) => attempt(writer, name, &item, change).await?,
        };
        if let Some(outcome) = done {
            return Ok(outcome);
        }
    }
    Err(Status::modified(&writer.ex.served.group_resource, name))
}

/// A PUT or an apply of what is not there yet.
async fn create_instead(writer: &Writer<'_>, name: &str, change: &impl Change) -> Result<Option<Outcome>> {
    let ex = writer.ex;
    // The status of a Service makes one that is not there, of all kinds.
    let by_status = ex.served.is("", "services") && ex.call.info.subresource == "status";
    let may_be_made = ex.call.info.subresource.is_empty() && (change.may_create() || writer.behaviour.allow_create_on_update());
    if !by_status && !may_be_made {
        return Err(writer.not_found(name));
    }
    if let Some(uid) = change.uid() {
        return Err(uid_mismatch(writer, name, uid, ""));
    }
    authorize_create(writer).await?;
    let mut object = change.apply(writer, None)?;
    meta::ensure_namespace(&mut object, if ex.served.is("", "namespaces") { "" } else { ex.namespace() })?;
    if meta::resource_version(&object)? != 0 {
        return Err(Status::conflict(
            &ex.served.group_resource,
            name,
            "StorageError: invalid object, Code: 4, AdditionalErrorMsg: Precondition failed: the object does not exist",
        ));
    }
    meta::wipe_system_fields(&mut object);
    let object = writer.mutate(Operation::Create, ex.served.to_hub(object)?, None).await?;
    match create::store_new(writer, object).await {
        Ok(object) => Ok(Some(Outcome::Object { served: ex.served.clone(), object, code: 201 })),
        Err(e) if e.is_already_exists() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Creating by an update takes the right to create (upstream: `withAuthorization`).
async fn authorize_create(writer: &Writer<'_>) -> Result<()> {
    let mut attributes = writer.attributes.clone();
    attributes.verb = "create".into();
    writer.ex.server.check(&attributes).await
}

fn uid_mismatch(writer: &Writer<'_>, name: &str, wanted: &str, found: &str) -> Status {
    let key = writer.key(name).etcd_key(&writer.ex.served.key);
    Status::conflict(
        &writer.ex.served.group_resource,
        name,
        format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        ),
    )
}

/// One try. `None`: somebody else was faster.
async fn attempt(writer: &Writer<'_>, name: &str, item: &Arc<Item>, change: &impl Change) -> Result<Option<Outcome>> {
    let mut reserved = Reserved::new(writer.ex);
    let done = attempt_with(writer, name, item, change, &mut reserved).await;
    reserved.give_back().await;
    done
}

async fn attempt_with(writer: &Writer<'_>, name: &str, item: &Arc<Item>, change: &impl Change, reserved: &mut Reserved) -> Result<Option<Outcome>> {
    let ex = writer.ex;
    let old = ex.served.load(&item.object())?;
    if let Some(wanted) = change.uid() {
        let found = old.str_at(&["metadata", "uid"]).unwrap_or_default();
        if found != wanted {
            return Err(uid_mismatch(writer, name, wanted, found));
        }
    }
    let new = if ex.served.gvk != ex.served.hub {
        let live = ex.served.to_served(old.clone())?;
        ex.served.to_hub(change.apply(writer, Some(&live))?)?
    } else {
        change.apply(writer, Some(&old))?
    };
    let mut new = writer.mutate(Operation::Update, new, Some(&old)).await?;
    check_version(writer, name, &mut new, item.revision())?;
    ex.server.allocators.begin_update(ex, &mut new, &old, reserved).await?;
    prepare(writer, &mut new, &old)?;
    keep_times_of_unchanged_fields(&mut new, &old);
    let new = writer.admit(Operation::Update, Some(new), Some(&old)).await?.unwrap_or_default();
    if dies_with_this_update(writer, &new, &old) {
        return delete_instead(writer, name, item, &new).await;
    }
    let bytes = writer.encode(&new)?;
    let done = |object: Object| Ok(Some(Outcome::Object { served: ex.served.clone(), object, code: 200 }));
    if ex.dry_run() {
        return done(codec::with_resource_version(&bytes, item.revision()));
    }
    let write = Write::Update { bytes, expected: item.revision(), ttl: writer.ttl() };
    let written = match reserved.guard().await {
        Ok(guard) => ex.server.storage.write_guarded(&ex.served.key, &writer.key(name), write, guard).await,
        Err(error) => Err(error),
    };
    match written {
        Ok(object) => {
            reserved.commit().await;
            done(object)
        }
        Err(Error::Conflict(_) | Error::NotFound | Error::Moved) => Ok(None),
        Err(e) => Err(store_error(&e, &ex.served.group_resource, name)),
    }
}

/// An update that names a version is for that version; one that names none is for whatever is there, if the kind allows it.
fn check_version(writer: &Writer<'_>, name: &str, new: &mut Value, current: u64) -> Result<()> {
    let resource = &writer.ex.served.group_resource;
    match meta::resource_version(new)? {
        0 if writer.ex.served.resource.lenient || writer.behaviour.allow_unconditional_update() => {
            new.set(&["metadata", "resourceVersion"], current.to_string());
            Ok(())
        }
        0 => {
            let error = field::Error::invalid(&Path::new("metadata").child("resourceVersion"), 0, "must be specified for an update");
            let kind = knarr_core::GroupVersionKind::new(&resource.group, "", &resource.resource);
            Err(Status::invalid(&kind, name, &[error]))
        }
        wanted if wanted == current => Ok(()),
        _ => Err(Status::modified(resource, name)),
    }
}

/// What server and kind set themselves, then validation.
fn prepare(writer: &Writer<'_>, new: &mut Value, old: &Value) -> Result<()> {
    let cx = writer.context();
    meta::keep_generation(new, old);
    writer.behaviour.prepare_for_update(&cx, new, old);
    meta::keep_system_fields(new, old);
    let errors = update_errors(writer, &cx, new, old);
    writer.refuse(new, &errors)?;
    writer.ex.warn_all(writer.behaviour.warnings(new, Some(old)));
    Ok(())
}

fn update_errors(writer: &Writer<'_>, cx: &knarr_kinds::Context<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errors = knarr_kinds::validate_metadata(new, writer.ex.served.resource.namespaced, &AnyName(&*writer.behaviour));
    let again = usize::from(writer.behaviour.repeats_causes());
    (0..=again).for_each(|_| errors.extend(knarr_kinds::validate_metadata_update(new, old)));
    if writer.behaviour.shape().judges_prefix_again {
        errors.extend(knarr_kinds::validate_prefix(new, &*writer.behaviour));
    }
    errors.extend(writer.behaviour.validate_update(cx, new, old));
    errors
}

/// On update a name cannot change, so its rules are only those of a path (upstream: `validatePathSegment`).
struct AnyName<'a>(&'a dyn Strategy);

impl Strategy for AnyName<'_> {
    fn domain_finalizers(&self) -> bool {
        self.0.domain_finalizers()
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_core::names::is_path_segment(name)
    }
}

/// When nothing but times in `managedFields` would change, nothing changes
/// (upstream: `fieldmanager.IgnoreManagedFieldsTimestampsTransformer`).
fn keep_times_of_unchanged_fields(new: &mut Value, old: &Value) {
    let (Some(new_fields), Some(old_fields)) = (new.at(&["metadata", "managedFields"]), old.at(&["metadata", "managedFields"])) else { return };
    if new_fields == old_fields || !equal_without(new_fields, old_fields, "time") {
        return;
    }
    let same = new.as_object().zip(old.as_object()).is_some_and(|(n, o)| {
        let part = |key: &str| key != "metadata";
        n.iter().filter(|(k, _)| part(k)).eq(o.iter().filter(|(k, _)| part(k)))
    });
    let metadata = |v: &Value| v.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut new_meta, mut old_meta) = (metadata(new), metadata(old));
    for key in ["managedFields", "resourceVersion"] {
        new_meta.remove(key);
        old_meta.remove(key);
    }
    if same && new_meta == old_meta {
        let old_fields = old_fields.clone();
        new.set(&["metadata", "managedFields"], old_fields);
    }
}

fn equal_without(a: &Value, b: &Value, key: &str) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let strip = |v: &Value| {
        let mut v = v.clone();
        v.remove(&[key]);
        v
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| strip(a) == strip(b))
}

/// The last finalizer went from an object that was to be deleted (upstream: `ShouldDeleteDuringUpdate`).
fn dies_with_this_update(writer: &Writer<'_>, new: &Value, old: &Value) -> bool {
    let held_by_spec = writer.ex.served.is("", "namespaces") && !new.list_at(&["spec", "finalizers"]).is_empty();
    !held_by_spec
        && new.list_at(&["metadata", "finalizers"]).is_empty()
        && old.at(&["metadata", "deletionTimestamp"]).is_some()
        && old.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
}

/// Deletes what an update would have left without finalizers; the answer is the object as it was updated.
async fn delete_instead(writer: &Writer<'_>, name: &str, item: &Arc<Item>, new: &Value) -> Result<Option<Outcome>> {
    let ex = writer.ex;
    let object = codec::with_resource_version(&writer.encode(new)?, item.revision());
    if !ex.dry_run() {
        match ex.server.storage.delete(&ex.served.key, &writer.key(name), item.revision()).await {
            Ok(_) => ex.server.allocators.release(ex, new).await,
            Err(Error::NotFound) => {}
            Err(Error::Conflict(_)) => return Ok(None),
            Err(e) => return Err(store_error(&e, &ex.served.group_resource, name)),
        }
    }
    Ok(Some(Outcome::Object { served: ex.served.clone(), object, code: 200 }))
}
