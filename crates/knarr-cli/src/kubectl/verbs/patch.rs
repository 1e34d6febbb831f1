//! `kubectl patch`.

use knarr_core::{Value, ValueExt, yaml};

use super::change::{JSON_PATCH, MERGE, STRATEGIC, type_of};
use super::options::{DRY_RUN, FIELD_MANAGER, LOCAL};
use super::writes::{DryRun, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, text};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    text("patch", "", "The patch to be applied to the resource, JSON or YAML").short('p'),
    text("patch-file", "", "A file containing a patch to be applied to the resource"),
    text("type", "strategic", "The type of patch being provided; one of [json merge strategic]"),
    text("subresource", "", "Patch this subresource of the object"),
    LOCAL,
    DRY_RUN,
    FIELD_MANAGER,
];

pub static VERB: Verb = Verb {
    name: "patch",
    usage: "(-f FILENAME | TYPE NAME) [-p PATCH|--patch-file FILE] [flags]",
    about: "Update fields of a resource",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    let kind = match flags.text("type") {
        "strategic" => STRATEGIC,
        "merge" => MERGE,
        "json" => JSON_PATCH,
        other => return Err(format!("--type must be one of [json merge strategic], not {}", knarr_core::field::go_quote(other)).into()),
    };
    if flags.on("local") && !cx.words().is_empty() {
        return Err("cannot specify --local and server resources".into());
    }
    if flags.on("local") && dry_run == DryRun::Server {
        return Err("cannot specify --local and --dry-run=server - did you mean --dry-run=client?".into());
    }
    let text = match (flags.some("patch-file"), flags.some("patch")) {
        (Some(_), Some(_)) => return Err("cannot specify --patch and --patch-file together".into()),
        (None, None) => return Err("must specify --patch or --patch-file containing the contents of the patch".into()),
        (Some(file), None) => {
            std::fs::read_to_string(file).map_err(|e| format!("unable to read patch file: open {file}: {}", crate::kubectl::failure::go_io(&e)))?
        }
        (None, Some(text)) => text.to_owned(),
    };
    let patch = yaml::parse(&text).map_err(|e| format!("unable to parse {}: {e}", knarr_core::field::go_quote(&text)))?;
    let mut selection = Selection::of(cx.session()?, flags).as_in_files();
    selection.latest = manifest::named(flags) && !flags.on("local");
    let found = selection.objects(cx.words()).await?;
    let mut failures = found.failures;
    if found.infos.is_empty() && failures.is_empty() {
        return Err("no objects passed to patch".into());
    }
    for info in found.infos {
        failures.extend(one(cx, kind, &patch, &info, dry_run).await.err());
    }
    Failure::all(failures)
}

async fn one(cx: &Context, kind: &str, patch: &Value, info: &Info, dry_run: DryRun) -> Result<()> {
    let flags = &cx.flags;
    let patched = if flags.on("local") || dry_run == DryRun::Client {
        locally(kind, patch, info)?
    } else {
        let base = flags.some("subresource").map_or_else(|| info.path(), |s| format!("{}/{s}", info.path()));
        let path = with_query(&base, &write_query(flags, "kubectl-patch", dry_run)?);
        cx.session()?.patch(&path, kind, patch).await.map_err(|e| match e {
            Failure::Server(s) if s.code == 415 => {
                let r = &info.meant.resource;
                Failure::Other(format!("{kind} is not supported by {}/{}, Kind={}: {}", r.group, r.version, info.meant.kind, s.message))
            }
            other => other,
        })?
    };
    let operation = if patched == info.object { "patched (no change)" } else { "patched" };
    out(&Printer::of(flags, &dry_run.note(operation))?.print(&patched)?)
}

fn locally(kind: &str, patch: &Value, info: &Info) -> Result<Value> {
    Ok(match kind {
        JSON_PATCH => knarr_schema::patch::json_patch(&info.object, patch)?,
        MERGE => knarr_schema::patch::merge_patch(&info.object, patch),
        _ => {
            let id = type_of(&info.object).ok_or_else(|| {
                let api_version = info.object.str_at(&["apiVersion"]).unwrap_or_default();
                format!("strategic merge patch is not supported for {api_version}, Kind={} locally, try --type merge", info.meant.kind)
            })?;
            knarr_schema::patch::strategic_merge(id, &info.object, patch)?
        }
    })
}
