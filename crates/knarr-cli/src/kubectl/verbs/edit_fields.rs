//! `kubectl label` and `kubectl annotate`.

use std::collections::BTreeMap;

use knarr_core::field::go_quote;
use knarr_core::{Value, ValueExt, names};

use super::change::MERGE;
use super::options::{ALL, ALL_NAMESPACES, DRY_RUN, FIELD_MANAGER, FIELD_SELECTOR, LOCAL, SELECTOR};
use super::writes::{DryRun, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, switch, text};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    switch("overwrite", "Allow existing values to be overwritten"),
    switch("list", "Show the values of the object"),
    LOCAL,
    FIELD_SELECTOR,
    SELECTOR,
    ALL,
    ALL_NAMESPACES,
    DRY_RUN,
    FIELD_MANAGER,
    text("resource-version", "", "Only change the object at this version"),
];

pub static LABEL: Verb = Verb {
    name: "label",
    usage: "[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N [--resource-version=version] [flags]",
    about: "Update the labels on a resource",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx, What::Labels))),
    ..Verb::NONE
};

pub static ANNOTATE: Verb = Verb {
    name: "annotate",
    usage: "[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N [--resource-version=version] [flags]",
    about: "Update the annotations on a resource",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx, What::Annotations))),
    ..Verb::NONE
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Labels,
    Annotations,
}

impl What {
    fn field(self) -> &'static str {
        if self == Self::Labels { "labels" } else { "annotations" }
    }

    fn singular(self) -> &'static str {
        if self == Self::Labels { "label" } else { "annotation" }
    }
}

/// The changes that a command line asks for.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

fn parse(what: What, words: &[String]) -> Result<(Vec<String>, Changes)> {
    let (mut resources, mut changes, mut found) = (Vec::new(), Changes::default(), false);
    for word in words {
        let is_change = (word.contains('=') && !word.starts_with('=')) || (word.ends_with('-') && word != "-");
        if !is_change {
            if found {
                return Err(format!("all resources must be specified before {} changes: {word}", what.singular()).into());
            }
            resources.push(word.clone());
            continue;
        }
        found = true;
        match (what, word.split_once('=')) {
            (What::Labels, Some((key, value))) => {
                if value.contains('=') {
                    return Err(format!("invalid label spec: {word}").into());
                }
                let bad = names::is_label_value(value);
                if !bad.is_empty() {
                    return Err(format!("invalid label value: {}: {}", go_quote(word), bad.join(";")).into());
                }
                changes.set.insert(key.to_owned(), value.to_owned());
            }
            (What::Annotations, Some((key, value))) => drop(changes.set.insert(key.to_owned(), value.to_owned())),
            (_, None) => changes.remove.push(word[..word.len() - 1].to_owned()),
        }
    }
    let both: Vec<&str> = changes.remove.iter().filter(|r| changes.set.contains_key(*r)).map(String::as_str).collect();
    if !both.is_empty() {
        return Err(if what == What::Labels {
            "can not both modify and remove a label in the same command".to_owned()
        } else {
            format!("can not both modify and remove the following annotation(s) in the same command: {}", both.join(", "))
        }
        .into());
    }
    Ok((resources, changes))
}

async fn run(cx: &Context, what: What) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    let (resources, changes) = parse(what, cx.words())?;
    if flags.on("list") && flags.given("output") {
        return Err("--list and --output may not be specified together".into());
    }
    for (flag, name) in [("selector", "--selector"), ("field-selector", "--field-selector")] {
        if flags.on("all") && flags.given(flag) {
            return Err(format!("cannot set --all and {name} at the same time").into());
        }
    }
    let example = if what == What::Labels { "pod" } else { "rsrc" };
    if flags.on("local") {
        if dry_run == DryRun::Server {
            return Err("cannot specify --local and --dry-run=server - did you mean --dry-run=client?".into());
        }
        if !resources.is_empty() {
            return Err(format!("can only use local files by -f {example}.yaml or --filename={example}.json when --local=true is set").into());
        }
        if !manifest::named(flags) {
            return Err(format!("one or more files must be specified as -f {example}.yaml or --filename={example}.json").into());
        }
    } else if resources.is_empty() && !manifest::named(flags) {
        return Err("one or more resources must be specified as <resource> <name> or <resource>/<name>".into());
    }
    if changes.set.is_empty() && changes.remove.is_empty() && !flags.on("list") {
        return Err(format!("at least one {} update is required", what.singular()).into());
    }
    let mut selection = Selection::of(cx.session()?, flags);
    selection.latest = !flags.on("local");
    let found = selection.objects(&resources).await?;
    if !found.single && flags.given("resource-version") {
        return Err("--resource-version may only be used with a single resource".into());
    }
    let mut failures = found.failures;
    for info in found.infos {
        let outcome = one(cx, what, &changes, info, found.single, dry_run).await;
        failures.extend(outcome.err());
    }
    Failure::all(failures)
}

async fn one(cx: &Context, what: What, changes: &Changes, info: Info, single: bool, dry_run: DryRun) -> Result<()> {
    let flags = &cx.flags;
    let mut new = info.object.clone();
    if !flags.on("overwrite") {
        refuse_overwrites(what, &new, changes)?;
    }
    let only_here = flags.on("local") || flags.on("list") || dry_run == DryRun::Client;
    let missing: Vec<&String> = changes.remove.iter().filter(|k| new.str_at(&["metadata", what.field(), k]).is_none()).collect();
    if what == What::Labels && !only_here {
        missing.iter().for_each(|k| println!("label {} not found.", go_quote(k)));
    }
    let (added, removed) = apply(what, &mut new, changes);
    let mut shown = new.clone();
    if !only_here && (what == What::Annotations || added || removed) {
        let mut old = info.object.clone();
        if let Some(version) = flags.some("resource-version") {
            old.remove(&["metadata", "resourceVersion"]);
            new.set(&["metadata", "resourceVersion"], version);
        }
        let manager = if what == What::Labels { "kubectl-label" } else { "kubectl-annotate" };
        let path = with_query(&info.path(), &write_query(flags, manager, dry_run)?);
        let patched = cx.session()?.patch(&path, MERGE, &knarr_schema::patch::create_merge_patch(&old, &new)).await?;
        if what == What::Annotations {
            shown = patched;
        }
    }
    if flags.on("list") {
        return list(what, &info, &shown, single);
    }
    let operation = match (what, added, removed) {
        (What::Annotations, ..) => "annotated",
        (_, true, true) => "modified",
        (_, true, false) => "labeled",
        (_, false, true) => "unlabeled",
        _ => "not labeled",
    };
    out(&Printer::of(flags, &dry_run.note(operation))?.print(&shown)?)
}

fn list(what: What, info: &Info, object: &Value, single: bool) -> Result<()> {
    let indent = if single { "" } else { " " };
    if !single {
        println!("Listing {} for {}.{}/{}:", what.field(), info.meant.kind, info.meant.resource.group, info.name);
    }
    for (key, value) in object.at(&["metadata", what.field()]).and_then(Value::as_object).into_iter().flatten() {
        println!("{indent}{key}={}", value.as_str().unwrap_or_default());
    }
    Ok(())
}

fn refuse_overwrites(what: What, object: &Value, changes: &Changes) -> Result<()> {
    let there = |key: &str| object.str_at(&["metadata", what.field(), key]);
    let clashes = changes.set.iter().filter_map(|(key, value)| there(key).filter(|v| v != value).map(|v| (key, v)));
    if what == What::Labels {
        return Failure::all(clashes.map(|(key, v)| format!("'{key}' already has a value ({v}), and --overwrite is false").into()).collect());
    }
    let texts: Vec<String> =
        clashes.filter(|(key, _)| *key != "kubernetes.io/change-cause").map(|(key, v)| format!("'{key}' already has a value ({v})")).collect();
    if texts.is_empty() { Ok(()) } else { Err(format!("--overwrite is false but found the following declared annotation(s): {}", texts.join("; ")).into()) }
}

/// Makes the changes; says whether something was added or changed, and whether something was removed.
fn apply(what: What, object: &mut Value, changes: &Changes) -> (bool, bool) {
    let (mut added, mut removed) = (false, false);
    for (key, value) in &changes.set {
        let path = ["metadata", what.field(), key.as_str()];
        if object.str_at(&path) != Some(value) {
            object.set(&path, value.clone());
            added = true;
        }
    }
    for key in &changes.remove {
        removed |= object.remove(&["metadata", what.field(), key]).is_some();
    }
    (added, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn resources_come_before_changes() {
        let (resources, changes) = parse(What::Labels, &words("pod a b=c d-")).unwrap();
        assert_eq!((resources, changes.set.len(), changes.remove), (words("pod a"), 1, words("d")));
        let failed = |what, text| parse(what, &words(text)).unwrap_err().to_string();
        assert_eq!(failed(What::Labels, "pod a=b c"), "error: all resources must be specified before label changes: c");
        assert_eq!(failed(What::Labels, "pod x a=b a-"), "error: can not both modify and remove a label in the same command");
        assert_eq!(failed(What::Annotations, "pod x a=b a-"), "error: can not both modify and remove the following annotation(s) in the same command: a");
    }

    #[test]
    fn only_what_differs_counts() {
        let mut object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let changes = |text: &str| parse(What::Labels, &words(text)).unwrap().1;
        assert_eq!(apply(What::Labels, &mut object, &changes("a=1 x-")), (false, false));
        assert_eq!(apply(What::Labels, &mut object, &changes("a=2 b-")), (true, true));
        assert_eq!(object, json!({"metadata": {"labels": {"a": "2"}}}));
        assert!(refuse_overwrites(What::Labels, &object, &changes("a=3")).is_err());
    }
}
