//! How verbs change an object: a copy is changed here, and only the difference is sent. Shared by `label`, `annotate`, `set`,
//! `taint`, `rollout` and their like.

use knarr_core::{Value, ValueExt};
use knarr_schema::{patch, types};

use super::writes::{DryRun, write_query};
use crate::kubectl::command::Context;
use crate::kubectl::failure::Result;
use crate::kubectl::flags::Flags;
use crate::kubectl::print::Printer;
use crate::kubectl::print::out;
use crate::kubectl::select::Info;
use crate::kubectl::session::{Session, with_query};

pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";

/// The schema's type of an object, if it is built in.
pub fn type_of(object: &Value) -> Option<types::TypeId> {
    let api_version = object.str_at(&["apiVersion"])?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    types::of_kind(group, version, object.str_at(&["kind"])?)
}

/// The patch from one object to the other, and which of the patches it is.
pub fn difference(old: &Value, new: &Value) -> Result<(&'static str, Value)> {
    Ok(match type_of(old) {
        Some(id) => (STRATEGIC, patch::create_two_way(id, old, new)?),
        None => (MERGE, patch::create_merge_patch(old, new)),
    })
}

pub fn is_empty(patch: &Value) -> bool {
    patch.as_object().is_none_or(serde_json::Map::is_empty)
}

/// Sends the difference and gives what the server made of it.
pub async fn send(session: &Session, flags: &Flags, info: &Info, new: &Value, manager: &str, dry_run: DryRun) -> Result<Value> {
    let (kind, patch) = difference(&info.object, new)?;
    let path = with_query(&info.path(), &write_query(flags, manager, dry_run)?);
    session.patch(&path, kind, &patch).await
}

/// Changes each object, sends what differs and prints what was done.
pub async fn each(cx: &Context, infos: Vec<Info>, manager: &str, operation: &str, change: impl Fn(&mut Value) -> Result<()>) -> Result<()> {
    let (flags, dry_run) = (&cx.flags, DryRun::of(&cx.flags)?);
    let mut printer = Printer::of(flags, &dry_run.note(operation))?;
    let mut failures = Vec::new();
    for info in infos {
        let outcome = async {
            let mut new = info.object.clone();
            change(&mut new)?;
            if !flags.on("local") && dry_run != DryRun::Client {
                new = send(cx.session()?, flags, &info, &new, manager, dry_run).await?;
            }
            out(&printer.print(&new)?)
        };
        if let Err(e) = outcome.await {
            failures.push(e);
        }
    }
    crate::kubectl::failure::Failure::all(failures)
}
