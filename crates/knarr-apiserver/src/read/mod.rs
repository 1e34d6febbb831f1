//! Reads: one object, a list, a watch. All come from snapshots and the history of the store's cache.

pub mod components;
mod list;
mod selection;
mod token;
mod watch;

use knarr_core::{GroupResource, Reason, Result, Status, field, status};
use knarr_store::{Error, Item, ObjectKey};
use std::sync::Arc;

use crate::call::{Exchange, Outcome};

pub use list::{Page, list, page};
pub use selection::Selection;
pub use watch::{Shown, Watching, watch};

/// The annotation on the bookmark that ends the first state of a watch with `sendInitialEvents`.
pub const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Reads one object.
///
/// # Errors
/// `NotFound`, `BadRequest` for a bad resourceVersion, `Timeout` for one that does not come.
pub async fn get(ex: &Exchange<'_>) -> Result<Outcome> {
    let item = item(ex, ex.name()?).await?;
    Ok(Outcome::Object { served: ex.served.clone(), object: item.object(), code: 200 })
}

/// The stored object behind a request for `name`, as fresh as the request wants it.
///
/// # Errors
/// As [`get`].
pub async fn item(ex: &Exchange<'_>, name: &str) -> Result<Arc<Item>> {
    let uncached = is_uncached(ex);
    let wanted = parse_revision(ex.call.options.resource_version.as_deref())
        .map_err(|e| if uncached { Status::bad_request(format!("invalid resource version: {}", e.message)) } else { e })?;
    let key = ObjectKey::new(ex.namespace(), name);
    let storage = &ex.server.storage;
    let found = if wanted <= storage.current_revision() {
        storage.get_now(&ex.served.key, &key).ok_or(Error::NotFound)
    } else {
        storage.get(&ex.served.key, &key, wanted).await
    };
    found.map_err(|e| read_error(ex, &e, name))
}

/// Events have no watch cache upstream, and the store below it words things in its own way.
fn is_uncached(ex: &Exchange<'_>) -> bool {
    ex.served.resource.plural == "events" && ex.served.resource.custom.is_none()
}

/// What the store says to a reader.
fn read_error(ex: &Exchange<'_>, error: &Error, name: &str) -> Status {
    let mut status = store_error(error, &ex.served.group_resource, name);
    if let Some(details) = status.details.as_mut().filter(|_| is_uncached(ex)) {
        details.retry_after_seconds = 0;
    }
    status
}

/// A `resourceVersion` as a number; unset and `0` are both 0.
///
/// # Errors
/// 500 when it is no number: upstream takes it for a failure of its own.
pub fn parse_revision(text: Option<&str>) -> Result<u64> {
    let Some(text) = text else { return Ok(0) };
    text.parse().map_err(|_| {
        let text = field::go_quote(text);
        let why = format!("resourceVersion: Invalid value: {text}: strconv.ParseUint: parsing {text}: invalid syntax");
        Status::new(500, Reason::Unknown, why)
    })
}

/// What the store says, in the words of the API (upstream: `storeerr.Interpret…Error`).
pub fn store_error(error: &Error, resource: &GroupResource, name: &str) -> Status {
    match error {
        Error::NotFound => Status::not_found(resource, name),
        Error::Exists => Status::already_exists(resource, name),
        Error::Conflict(_) => Status::modified(resource, name),
        Error::TooOld { asked, oldest } => Status::expired(format!("too old resource version: {asked} ({oldest})")),
        Error::TooLarge { asked, current } => too_large(*asked, *current),
        Error::TooSlow => Status::expired("the watch fell behind the history of changes"),
        Error::Moved => Status::internal(error),
        Error::NoSpace => Status::new(507, Reason::Unknown, "storage: no space left on device"),
        Error::Engine(why) => Status::internal(why),
    }
}

fn too_large(asked: u64, current: u64) -> Status {
    let cause = status::Cause { reason: "ResourceVersionTooLarge".into(), message: "Too large resource version".into(), field: String::new() };
    Status::timeout(format!("Too large resource version: {asked}, current: {current}"), 1).with_details(status::Details {
        retry_after_seconds: 1,
        causes: vec![cause],
        ..Default::default()
    })
}
