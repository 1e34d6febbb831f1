//! `kubectl scale`.

use knarr_core::{ValueExt, json};

use super::change::MERGE;
use super::options::{ALL, DRY_RUN, SELECTOR, within};
use super::writes::DryRun;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, text, time};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    int("replicas", "-1", "The new desired number of replicas. Required"),
    int("current-replicas", "-1", "Only scale when the current size is this"),
    text("resource-version", "", "Only scale the object at this version"),
    time("timeout", "0s", "How long to wait until the new size is there; zero is not at all"),
    ALL,
    SELECTOR,
    DRY_RUN,
];

pub static VERB: Verb = Verb {
    name: "scale",
    usage: "[--resource-version=version] [--current-replicas=count] --replicas=COUNT (-f FILENAME | TYPE NAME) [flags]",
    about: "Set a new size for a deployment, replica set, or replication controller",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    if !flags.given("replicas") {
        return Err("required flag(s) \"replicas\" not set".into());
    }
    if flags.int("replicas") < 0 {
        return Err("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0".into());
    }
    if flags.int("current-replicas") < -1 {
        return Err("The --current-replicas must specify an integer of -1 or greater".into());
    }
    let found = Selection::of(cx.session()?, flags).objects(cx.words()).await?;
    if flags.given("resource-version") && found.infos.len() > 1 {
        return Err("cannot use --resource-version with multiple resources".into());
    }
    if found.infos.is_empty() && found.failures.is_empty() {
        return Err("no objects passed to scale".into());
    }
    let mut printer = Printer::of(flags, &dry_run.note("scaled"))?;
    for mut info in found.infos {
        if dry_run != DryRun::Client {
            scale(cx, &info, dry_run).await?;
        }
        if info.object.at(&["spec", "replicas"]).is_some() {
            info.object.set(&["spec", "replicas"], flags.int("replicas"));
        }
        out(&printer.print(&info.object)?)?;
    }
    Failure::all(found.failures)
}

async fn scale(cx: &Context, info: &Info, dry_run: DryRun) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let path = format!("{}/scale", info.path());
    let query = if dry_run == DryRun::Server { vec![("dryRun", "All".to_owned())] } else { Vec::new() };
    let (expected, version) = (flags.int("current-replicas"), flags.some("resource-version"));
    if expected >= 0 || version.is_some() {
        let mut current = session.get(&path).await?;
        let size = current.i64_at(&["spec", "replicas"]).unwrap_or(0);
        if expected >= 0 && size != expected {
            return Err(format!("Expected replicas to be {expected}, was {size}").into());
        }
        let there = current.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().to_owned();
        if let Some(version) = version.filter(|v| *v != there) {
            return Err(format!("Expected resource version to be {version}, was {there}").into());
        }
        current.set(&["spec", "replicas"], flags.int("replicas"));
        session.put(&with_query(&path, &query), &current).await?;
    } else {
        session.patch(&with_query(&path, &query), MERGE, &json!({"spec": {"replicas": flags.int("replicas")}})).await?;
    }
    match flags.limit("timeout") {
        Some(limit) if dry_run == DryRun::No => within(Some(limit), reached(cx, info), || "timed out waiting for the condition".into()).await,
        _ => Ok(()),
    }
}

/// Follows the object until as many replicas are there as were asked for.
async fn reached(cx: &Context, info: &Info) -> Result<()> {
    let wanted = cx.flags.int("replicas");
    super::wait::follow(cx.session()?, info, |object| {
        Ok(object.is_some_and(|o| {
            o.i64_at(&["status", "replicas"]).unwrap_or(0) == wanted
                && o.i64_at(&["status", "observedGeneration"]).is_none_or(|g| g >= o.i64_at(&["metadata", "generation"]).unwrap_or(0))
        }))
    })
    .await
    .map(drop)
}
