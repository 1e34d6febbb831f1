//! `kubectl edit`: the object in an editor, and what was changed back to the server.

use std::io::Write;

use knarr_core::{Value, ValueExt, yaml};

use super::apply::annotate;
use super::change::{difference, is_empty};
use super::options::{DRY_RUN, FIELD_MANAGER, SAVE_CONFIG, VALIDATE};
use super::writes::{DryRun, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, switch, text};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, go};
use crate::kubectl::select::Selection;
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    switch("output-patch", "Output the patch if the resource is edited"),
    switch("windows-line-endings", "Accepted; line ends are the platform's"),
    text("subresource", "", "Edit this subresource of the object"),
    DRY_RUN,
    FIELD_MANAGER,
    SAVE_CONFIG,
    VALIDATE,
];

pub static VERB: Verb = Verb {
    name: "edit",
    usage: "(RESOURCE/NAME | -f FILENAME) [flags]",
    about: "Edit a resource on the server",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

const HEADER: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n# and an empty file will abort the edit. If an error occurs while saving this file will be\n# reopened with the relevant failures.\n#\n";

async fn run(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let dry_run = DryRun::of(flags)?;
    let json = flags.text("output") == "json";
    let infos = Selection::of(session, flags).objects(cx.words()).await?.all()?;
    if infos.is_empty() {
        return Err("edit cancelled, no objects found".into());
    }
    for info in infos {
        let shown = print::shown(&info.object, flags.on("show-managed-fields"));
        let mut complaints = String::new();
        let mut text = if json { go::json_indent(&shown) + "\n" } else { print::yaml::to_string(&shown) };
        loop {
            let edited = in_editor(&format!("{HEADER}{complaints}{text}"), if json { "json" } else { "yaml" })?;
            let plain: String = edited.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
            if plain.trim().is_empty() {
                println!("Edit cancelled, saved file was empty.");
                break;
            }
            if plain == text {
                if complaints.is_empty() {
                    println!("Edit cancelled, no changes made.");
                    break;
                }
                return Err(Failure::Plain("error: Edit cancelled, no valid changes were saved.".into()));
            }
            text = plain;
            match save(cx, &info, &shown, &text, dry_run).await {
                Ok(()) => break,
                Err(Failure::Exit(code)) => return Err(Failure::Exit(code)),
                Err(failure) => complaints = format!("# {}\n#\n", failure.to_string().replace('\n', "\n# ")),
            }
        }
    }
    Ok(())
}

async fn save(cx: &Context, info: &crate::kubectl::select::Info, old: &Value, text: &str, dry_run: DryRun) -> Result<()> {
    let flags = &cx.flags;
    let mut new = yaml::parse(text)?;
    let same = |path: &[&str]| new.at(path) == old.at(path);
    if !same(&["metadata", "name"]) || !same(&["kind"]) || !same(&["apiVersion"]) {
        return Err("At least one of apiVersion, kind and name was changed".into());
    }
    let (_, patch) = difference(old, &new)?;
    if is_empty(&patch) {
        println!("{} skipped", info.title());
        return Ok(());
    }
    if flags.on("save-config") {
        annotate(&mut new);
    }
    let (kind, patch) = difference(old, &new)?;
    if flags.on("output-patch") {
        println!("Patch: {}", go::json_compact(&patch));
    }
    let base = flags.some("subresource").map_or_else(|| info.path(), |s| format!("{}/{s}", info.path()));
    let after = if dry_run == DryRun::Client {
        new
    } else {
        cx.session()?.patch(&with_query(&base, &write_query(flags, "kubectl-edit", dry_run)?), kind, &patch).await?
    };
    let mut printer = Printer::of(flags, &dry_run.note("edited"))?;
    out(&printer.print(&after)?)
}

/// One object, changed by hand.
pub fn by_hand(object: &Value) -> Result<Value> {
    let edited = in_editor(&format!("{HEADER}{}", print::yaml::to_string(object)), "yaml")?;
    Ok(yaml::parse(&edited)?)
}

/// What is left in a file after an editor has had it.
fn in_editor(text: &str, extension: &str) -> Result<String> {
    let mut file = tempfile::Builder::new().prefix("kubectl-edit-").suffix(&format!(".{extension}")).tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    let editor = ["KUBE_EDITOR", "EDITOR"].iter().find_map(|v| std::env::var(v).ok().filter(|e| !e.is_empty())).unwrap_or_else(|| "vi".into());
    let shell = std::env::var("SHELL").ok().filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let status = std::process::Command::new(shell).arg("-c").arg(format!("{editor} {}", file.path().display())).status();
    match status {
        Ok(status) if status.success() => Ok(std::fs::read_to_string(file.path())?),
        Ok(_) => Err(Failure::Plain(format!("error: there was a problem with the editor \"{editor}\""))),
        Err(e) => Err(format!("unable to launch the editor \"{editor}\": {e}").into()),
    }
}
