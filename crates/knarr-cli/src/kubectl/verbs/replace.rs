//! `kubectl replace`.

use knarr_core::json;

use super::delete::until_gone;
use super::options::{DRY_RUN, FIELD_MANAGER, SAVE_CONFIG, VALIDATE};
use super::writes::{DryRun, create, save_config, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, switch, text, time};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::select::{Info, place};
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    switch("force", "Delete the object and make it anew"),
    text("cascade", "background", "How dependents are deleted, with --force").bare("background"),
    int("grace-period", "-1", "Seconds given to the resource to end gracefully, with --force"),
    time("timeout", "0s", "How long to wait for the deletion, with --force"),
    switch("wait", "Wait for the deletion, with --force"),
    text("raw", "", "Raw URI to PUT to the server"),
    text("subresource", "", "Replace this subresource of the object"),
    DRY_RUN,
    FIELD_MANAGER,
    SAVE_CONFIG,
    VALIDATE,
];

pub static VERB: Verb = Verb {
    name: "replace",
    usage: "-f FILENAME [flags]",
    about: "Replace a resource by file name or stdin",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    if flags.int("grace-period") >= 0 && !flags.on("force") {
        return Err("--grace-period must have --force specified".into());
    }
    if flags.given("timeout") && !flags.on("force") {
        return Err("--timeout must have --force specified".into());
    }
    if flags.on("force") && dry_run != DryRun::No {
        return Err("--dry-run can not be used when --force is set".into());
    }
    if !manifest::named(flags) {
        return Err("must specify one of -f and -k".into());
    }
    let session = cx.session()?;
    let (objects, mut failures) = manifest::read(flags).await;
    if let Some(raw) = flags.some("raw") {
        Failure::all(failures)?;
        for read in objects {
            println!("{}", session.put(raw, &read.object).await?);
        }
        return Ok(());
    }
    if objects.is_empty() && failures.is_empty() {
        return Err("no objects passed to replace".into());
    }
    for read in objects {
        match place(session, read).await {
            Ok(info) => failures.extend(one(cx, info, dry_run).await.err()),
            Err(e) => failures.push(e),
        }
    }
    Failure::all(failures)
}

async fn one(cx: &Context, mut info: Info, dry_run: DryRun) -> Result<()> {
    let flags = &cx.flags;
    let session = cx.session()?;
    save_config(flags, &mut info.object);
    let query = write_query(flags, "kubectl-replace", dry_run)?;
    if flags.on("force") {
        let grace = flags.int("grace-period").max(0);
        match session.delete(&info.path(), &json!({"gracePeriodSeconds": grace, "propagationPolicy": "Background"})).await {
            Err(e) if e.is_not_found() => {}
            other => {
                other?;
                println!("{} \"{}\" deleted from {} namespace", info.meant.title, info.name, info.namespace);
                until_gone(session, &info, "").await?;
            }
        }
        let made = create(session, &info, &query).await?;
        return out(&Printer::of(flags, "replaced")?.print(&made)?);
    }
    let mut printer = Printer::of(flags, &dry_run.note("replaced"))?;
    if dry_run == DryRun::Client {
        return out(&printer.print(&info.object)?);
    }
    let base = flags.some("subresource").map_or_else(|| info.path(), |s| format!("{}/{s}", info.path()));
    let replaced = session.put(&with_query(&base, &query), &info.object).await.map_err(|e| e.when("replacing", &info.source))?;
    out(&printer.print(&replaced)?)
}
