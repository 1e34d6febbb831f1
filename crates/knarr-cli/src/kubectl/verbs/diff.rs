//! `kubectl diff`: what `apply` would change, shown by a program that compares folders.

use knarr_core::{Value, ValueExt};

use super::apply::{annotate, three_way};
use super::change::{MERGE, STRATEGIC, is_empty, type_of};
use super::common::{DryRun, FIELD_MANAGER, SELECTOR, create, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{int, switch};
use crate::kubectl::manifest;
use crate::kubectl::print::{shown, yaml};
use crate::kubectl::select::{Info, place};
use crate::kubectl::session::with_query;

pub static VERB: Verb = Verb {
    name: "diff",
    usage: "-f FILENAME [flags]",
    about: "Diff the live version against a would-be applied version",
    flags: &[
        &[
            switch("server-side", "Let the server merge"),
            switch("force-conflicts", "With --server-side, take fields over from other managers"),
            switch("show-managed-fields", "Keep the managedFields"),
            int("concurrency", "1", "Accepted; objects are compared one after another"),
            SELECTOR,
            FIELD_MANAGER,
        ],
        manifest::FLAGS,
    ],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    if !cx.words().is_empty() {
        return Err(cx.usage(format!("Unexpected args: [{}]", cx.words().join(" "))));
    }
    manifest::require(flags)?;
    let (objects, failures) = manifest::read(flags).await;
    Failure::all(failures)?;
    let (live, merged) = (folder("LIVE-")?, folder("MERGED-")?);
    for read in objects {
        let info = place(session, read).await?;
        let current = match session.get(&info.path()).await {
            Ok(object) => Some(object),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e),
        };
        let after = applied(cx, &info, current.as_ref()).await?;
        let r = &info.meant.resource;
        let group = if r.group.is_empty() { String::new() } else { format!("{}.", r.group) };
        let name = format!("{group}{}.{}.{}.{}", r.version, info.meant.kind, info.namespace, info.name);
        for (folder, object) in [(&live, current.as_ref()), (&merged, Some(&after))] {
            let text = object.map(|o| yaml::to_string(&masked(&info, &shown(o, flags.on("show-managed-fields"))))).unwrap_or_default();
            std::fs::write(folder.path().join(&name), text)?;
        }
    }
    let named = std::env::var("KUBECTL_EXTERNAL_DIFF").ok().filter(|d| !d.is_empty());
    let command = named.unwrap_or_else(|| "diff -u -N".into());
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or("diff");
    let status = std::process::Command::new(program).args(words).arg(live.path()).arg(merged.path()).status();
    match status.map_err(|e| format!("failed to run {program:?}: {e}"))?.code() {
        Some(0) => Ok(()),
        Some(1) => Err(Failure::Exit(1)),
        code => Err(format!("exit status {}", code.unwrap_or(-1)).into()),
    }
}

fn folder(prefix: &str) -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix(prefix).tempdir()?)
}

/// Data of Secrets is not shown.
fn masked(info: &Info, object: &Value) -> Value {
    let mut object = object.clone();
    if info.meant.kind == "Secret" && info.meant.resource.group.is_empty() {
        for value in object.get_mut("data").and_then(Value::as_object_mut).into_iter().flatten().map(|(_, v)| v) {
            *value = "***".into();
        }
    }
    object
}

/// The object as it would be.
async fn applied(cx: &Context, info: &Info, current: Option<&Value>) -> Result<Value> {
    let (flags, session) = (&cx.flags, cx.session()?);
    if flags.on("server-side") {
        let mut query = write_query(flags, "kubectl", DryRun::Server)?;
        query.push(("force", flags.on("force-conflicts").to_string()));
        return session.patch(&with_query(&info.path(), &query), "application/apply-patch+yaml", &info.object).await;
    }
    let query = write_query(flags, "kubectl-client-side-apply", DryRun::Server)?;
    let mut wanted = info.object.clone();
    annotate(&mut wanted);
    let Some(current) = current else { return create(session, &Info { object: info.object.clone(), ..info.clone() }, &query).await };
    let change = three_way(&wanted, current)?;
    if is_empty(&change) {
        return Ok(current.clone());
    }
    let kind = if type_of(&wanted).is_some() { STRATEGIC } else { MERGE };
    let mut after = session.patch(&with_query(&info.path(), &query), kind, &change).await?;
    // The annotation is bookkeeping, not a change of the user's.
    if let Some(there) = current.at(&["metadata", "annotations", super::apply::LAST_APPLIED]) {
        after.set(&["metadata", "annotations", super::apply::LAST_APPLIED], there.clone());
    }
    Ok(after)
}
