//! `kubectl diff`: what `apply` would change, shown by a program that compares folders.

use knarr_core::{Value, ValueExt};

use super::apply::{annotate, prunable, three_way};
use super::change::{MERGE, STRATEGIC, is_empty, type_of};
use super::options::{FIELD_MANAGER, SELECTOR};
use super::writes::{DryRun, create, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{int, many, switch};
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
            switch("prune", "Include objects that pruning would delete; all that were applied, or those that -l selects"),
            many("prune-allowlist", "Kinds that --prune looks at, as <group/version/kind>"),
            switch("show-secrets", "Do not mask values of Secrets"),
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
    let selector = flags.some("selector").map(knarr_core::selector::LabelSelector::parse).transpose()?;
    let (mut infos, mut seen) = (Vec::new(), Vec::new());
    let (live, merged) = (folder("LIVE-")?, folder("MERGED-")?);
    for read in objects {
        let info = place(session, read).await?;
        if selector.as_ref().is_some_and(|s| !s.matches(info.object.at(&["metadata", "labels"]))) {
            continue;
        }
        let current = match session.get(&info.path()).await {
            Ok(object) => Some(object),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e),
        };
        let after = applied(cx, &info, current.as_ref()).await?;
        seen.extend(current.as_ref().and_then(|o| o.str_at(&["metadata", "uid"])).map(str::to_owned));
        let as_shown = |object: &Value| shown(object, flags.on("show-managed-fields"));
        let (mut before, mut after) = (current.as_ref().map(as_shown), Some(as_shown(&after)));
        if !flags.on("show-secrets") && is_secret(&info) {
            mask(before.as_mut(), after.as_mut());
        }
        write(&live, &info, before.as_ref())?;
        write(&merged, &info, after.as_ref())?;
        infos.push(info);
    }
    if flags.on("prune") {
        for info in prunable(cx, &infos, &seen).await? {
            let mut before = shown(&info.object, flags.on("show-managed-fields"));
            if !flags.on("show-secrets") && is_secret(&info) {
                mask(Some(&mut before), None);
            }
            write(&live, &info, Some(&before))?;
            write(&merged, &info, None)?;
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

/// Writes one side of a comparison into its folder.
fn write(folder: &tempfile::TempDir, info: &Info, object: Option<&Value>) -> Result<()> {
    let r = &info.meant.resource;
    let group = if r.group.is_empty() { String::new() } else { format!("{}.", r.group) };
    let name = format!("{group}{}.{}.{}.{}", r.version, info.meant.kind, info.namespace, info.name);
    Ok(std::fs::write(folder.path().join(name), object.map(yaml::to_string).unwrap_or_default())?)
}

fn is_secret(info: &Info) -> bool {
    info.meant.kind == "Secret" && info.meant.resource.group.is_empty()
}

/// Data of Secrets are not shown, only which of them change (`Masker`).
fn mask(before: Option<&mut Value>, after: Option<&mut Value>) {
    let data = |object: Option<&mut Value>| object.and_then(|o| o.get_mut("data")).and_then(Value::as_object_mut).map(std::mem::take).unwrap_or_default();
    let (mut before, mut after) = (before, after);
    let (mut from, mut to) = (data(before.as_deref_mut()), data(after.as_deref_mut()));
    for (key, value) in &mut from {
        let differs = to.get(key).is_some_and(|other| other != value);
        *value = if differs { "*** (before)" } else { "***" }.into();
        if let Some(other) = to.get_mut(key) {
            *other = if differs { "*** (after)" } else { "***" }.into();
        }
    }
    to.iter_mut().filter(|(key, _)| !from.contains_key(*key)).for_each(|(_, value)| *value = "***".into());
    for (object, masked) in [(before, from), (after, to)] {
        if let Some(data) = object.and_then(|o| o.get_mut("data")).filter(|d| d.is_object()) {
            *data = Value::Object(masked);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn secrets_show_only_that_they_change() {
        let (mut before, mut after) = (json!({"data": {"a": "1", "b": "2", "c": "3"}}), json!({"data": {"a": "1", "b": "x", "d": "4"}}));
        mask(Some(&mut before), Some(&mut after));
        assert_eq!(before, json!({"data": {"a": "***", "b": "*** (before)", "c": "***"}}));
        assert_eq!(after, json!({"data": {"a": "***", "b": "*** (after)", "d": "***"}}));
        mask(None, Some(&mut after));
        assert_eq!(after, json!({"data": {"a": "***", "b": "***", "d": "***"}}));
    }
}
