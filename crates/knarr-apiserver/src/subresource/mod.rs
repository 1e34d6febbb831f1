//! Subresources. Most are the object itself seen from another side and share its verbs; the others stand here, one file each.

mod binding;
mod eviction;
pub mod scale;
mod token;

use knarr_core::{Result, Status, Value, json};

use crate::{
    call::{Exchange, Outcome},
    catalog::not_served,
    pipeline::not_allowed,
    read, write,
};

pub use binding::bind;

/// Answers a request for a subresource.
///
/// # Errors
/// 404 and 405 for what is not there; whatever the subresource says.
pub async fn dispatch(ex: &Exchange<'_>) -> Result<Outcome> {
    let info = &ex.call.info;
    let subresource = ex.served.resource.subresource(&info.subresource).ok_or_else(not_served)?;
    if !subresource.verbs.contains(&info.verb) {
        return Err(not_allowed());
    }
    match (info.resource.as_str(), info.subresource.as_str(), info.verb.as_str()) {
        (_, "scale", _) => scale::serve(ex).await,
        ("pods", "binding", "create") => binding::create(ex).await,
        ("pods", "eviction", "create") => eviction::create(ex).await,
        ("serviceaccounts", "token", "create") => token::create(ex).await,
        (_, _, "get") => read::get(ex).await,
        (_, _, "update") => write::update(ex).await,
        (_, _, "patch") => write::patch(ex).await,
        (_, name, _) => Err(Status::bad_request(format!("{name} can only be reached over a connection of its own"))),
    }
}

/// The `Status` that some creates answer with.
fn created() -> Outcome {
    let value: Value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Outcome::Value { value, code: 201 }
}
