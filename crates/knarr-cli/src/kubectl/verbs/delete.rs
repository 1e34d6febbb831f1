//! `kubectl delete`, which waits until the objects are gone.

use std::time::Duration;

use futures::StreamExt;
use knarr_core::{Value, ValueExt, json};

use super::options::{ALL, ALL_NAMESPACES, DRY_RUN, FIELD_SELECTOR, SELECTOR, within};
use super::writes::DryRun;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, Flags, int, switch, switch_on, text, time};
use crate::kubectl::manifest;
use crate::kubectl::select::{Info, Selection, Target};
use crate::kubectl::session::{Session, with_query};

const FLAGS: &[Flag] = &[
    SELECTOR,
    FIELD_SELECTOR,
    ALL,
    ALL_NAMESPACES,
    DRY_RUN,
    switch("ignore-not-found", "Treat \"resource not found\" as a successful delete"),
    switch_on("wait", "Wait for resources to be gone before returning"),
    switch("force", "Delete at once, without waiting for a graceful end"),
    switch("now", "Signal resources for immediate shutdown (same as --grace-period=1)"),
    switch("interactive", "Ask before anything is deleted").short('i'),
    int("grace-period", "-1", "Seconds given to the resource to end gracefully; ignored if negative"),
    text("cascade", "background", "Must be \"background\", \"orphan\", or \"foreground\"").bare("background"),
    time("timeout", "0s", "The length of time to wait before giving up; zero means from the size of the object"),
    text("output", "", "Output mode. Use \"-o name\" for shorter output (resource/name)").short('o'),
    text("raw", "", "Raw URI to DELETE to the server"),
];

pub static VERB: Verb = Verb {
    name: "delete",
    usage: "([-f FILENAME] | TYPE [(NAME | -l label | --all)]) [flags]",
    about: "Delete resources by file names, stdin, resources and names, or by resources and label selector",
    flags: &[FLAGS, manifest::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// What the flags come to.
struct Plan {
    grace: i64,
    propagation: &'static str,
    dry_run: DryRun,
    ignore_not_found: bool,
}

impl Plan {
    fn of(flags: &Flags) -> Result<Self> {
        let selecting = flags.on("all") || flags.given("selector") || flags.given("field-selector");
        let mut grace = flags.int("grace-period");
        if flags.on("now") {
            if grace != -1 {
                return Err("--now and --grace-period cannot be specified together".into());
            }
            grace = 1;
        }
        if grace == 0 && !flags.on("force") {
            grace = 1;
        }
        if flags.on("force") && grace < 0 {
            grace = 0;
        }
        let dry_run = DryRun::of(flags)?;
        let propagation = match flags.text("cascade") {
            "background" => "Background",
            "foreground" => "Foreground",
            "orphan" => "Orphan",
            "true" | "false" => {
                return Err("invalid cascade value (true/false). Must be \"background\", \"foreground\", or \"orphan\""
                    .replace("true/false", flags.text("cascade"))
                    .into());
            }
            other => return Err(format!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\"").into()),
        };
        match flags.text("output") {
            "" | "name" => {}
            other => return Err(format!("unexpected -o output mode: {other}. We only support '-o name'").into()),
        }
        for (flag, name) in [("selector", "--selector"), ("field-selector", "--field-selector")] {
            if flags.on("all") && flags.given(flag) {
                // The builder of objects complains first.
                let what = if flag == "selector" {
                    "setting 'all' parameter but found a non empty selector. ".to_owned()
                } else {
                    format!("cannot set --all and {name} at the same time")
                };
                return Err(what.into());
            }
        }
        if flags.on("force") && grace == 0 {
            eprintln!(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
            );
        } else if flags.on("force") && grace > 0 {
            return Err("--force and --grace-period greater than 0 cannot be specified together".into());
        }
        let ignore_not_found = if flags.given("ignore-not-found") { flags.on("ignore-not-found") } else { selecting };
        Ok(Self { grace, propagation, dry_run, ignore_not_found })
    }

    fn options(&self) -> Value {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": self.propagation});
        // With a body, the query's parameters do not count.
        if self.dry_run == DryRun::Server {
            options["dryRun"] = json!(["All"]);
        }
        if self.grace >= 0 {
            options["gracePeriodSeconds"] = self.grace.into();
        }
        options
    }
}

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let plan = Plan::of(flags)?;
    let session = cx.session()?;
    if let Some(raw) = flags.some("raw") {
        let answer = session.delete(raw, &json!({})).await?;
        println!("{answer}");
        return Ok(());
    }
    let targets = targets(session, flags, cx.words(), plan.ignore_not_found).await?;
    if targets.is_empty() {
        println!("No resources found");
        return Ok(());
    }
    if flags.on("interactive") && !confirmed(&targets)? {
        println!("deletion is cancelled");
        return Ok(());
    }
    let warned = session.namespace_named && !flags.on("all-namespaces") && targets.iter().any(|t| !t.meant.namespaced);
    if warned {
        eprintln!("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
    }
    let (mut going, mut failures) = (Vec::new(), Vec::new());
    for info in targets {
        match delete_one(session, flags, &plan, &info).await {
            Ok(uid) => going.push((info, uid)),
            Err(failure) if failure.is_not_found() && plan.ignore_not_found => {}
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)?;
    if flags.on("wait") && plan.dry_run == DryRun::No {
        for (info, uid) in going {
            let late = || Failure::from(format!("timed out waiting for the condition on {}", info.plural_name()));
            match within(flags.limit("timeout"), until_gone(session, &info, &uid), late).await {
                // Who may not look at it does not wait for it.
                Err(Failure::Server(status)) if status.code == 403 || status.code == 405 => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// The objects that are to go. Named ones are not fetched.
async fn targets(session: &Session, flags: &Flags, words: &[String], ignore_not_found: bool) -> Result<Vec<Info>> {
    let selection = Selection::of(session, flags).as_in_files();
    let (targets, _) = selection.targets(words).await?;
    let mut found = Vec::new();
    for target in targets {
        match target {
            Target::File(info) => found.push(*info),
            Target::One { meant, namespace, name } => found.push(Info { meant, namespace, name, object: Value::Null, source: String::new() }),
            Target::Many { ref meant, .. } => {
                let mut token: Option<String> = None;
                loop {
                    let list = match session.get(&selection.page_path(&target, token.take())).await.map_err(|e| selection.explain(&target, e)) {
                        Err(failure) if failure.is_not_found() && ignore_not_found => break,
                        other => other?,
                    };
                    found.extend(list.list_at(&["items"]).iter().map(|o| Info::of(meant, o.clone())));
                    token = list.str_at(&["metadata", "continue"]).filter(|c| !c.is_empty()).map(str::to_owned);
                    if token.is_none() {
                        break;
                    }
                }
            }
        }
    }
    Ok(found)
}

fn confirmed(targets: &[Info]) -> Result<bool> {
    println!("You are about to delete the following {} resource(s):", targets.len());
    targets.iter().for_each(|t| println!("{}", t.title()));
    crate::kubectl::print::out("Do you want to continue? (y/N): ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

async fn delete_one(session: &Session, flags: &Flags, plan: &Plan, info: &Info) -> Result<String> {
    let mut uid = String::new();
    if plan.dry_run != DryRun::Client {
        let answer = session.delete(&info.path(), &plan.options()).await.map_err(|e| e.when("deleting", &info.source))?;
        uid = answer.str_at(&["details", "uid"]).or_else(|| answer.str_at(&["metadata", "uid"])).unwrap_or_default().to_owned();
    }
    if flags.text("output") == "name" {
        println!("{}", info.title());
        return Ok(uid);
    }
    let mut operation = if plan.grace == 0 { "force deleted" } else { "deleted" }.to_owned();
    if info.meant.namespaced {
        operation += &format!(" from {} namespace", info.namespace);
    }
    println!("{} \"{}\" {}", info.meant.title, info.name, plan.dry_run.note(&operation));
    Ok(uid)
}

/// Follows an object until it is gone, or another one has its name.
pub async fn until_gone(session: &Session, info: &Info, uid: &str) -> Result<()> {
    let path = info.meant.path(Some(&info.namespace), None);
    let by_name = ("fieldSelector", format!("metadata.name={}", info.name));
    loop {
        let list = session.get(&with_query(&path, std::slice::from_ref(&by_name))).await?;
        let Some(there) = list.list_at(&["items"]).first() else { return Ok(()) };
        if !uid.is_empty() && there.str_at(&["metadata", "uid"]) != Some(uid) {
            return Ok(());
        }
        let version = list.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().to_owned();
        let watched = with_query(&path, &[by_name.clone(), ("watch", "true".into()), ("resourceVersion", version)]);
        let mut events = session.watch(&watched, false).await?;
        while let Some(Ok(event)) = events.next().await {
            match event.str_at(&["type"]) {
                Some("DELETED") => return Ok(()),
                Some("ERROR") => break,
                _ => {}
            }
        }
        // The watch has ended for a reason of the server's; a short breath keeps us from storming it.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> std::result::Result<(i64, &'static str, bool), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let flags = Flags::parse(&VERB.all_flags(), &words).unwrap();
        Plan::of(&flags).map(|p| (p.grace, p.propagation, p.ignore_not_found)).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_come_to_a_plan() {
        assert_eq!(plan(""), Ok((-1, "Background", false)));
        assert_eq!(plan("--grace-period=0"), Ok((1, "Background", false)));
        assert_eq!(plan("--force --cascade=foreground"), Ok((0, "Foreground", false)));
        assert_eq!(plan("--now -l a=b"), Ok((1, "Background", true)));
        assert_eq!(plan("--all -l a=b"), Err("error: setting 'all' parameter but found a non empty selector. ".into()));
        assert_eq!(plan("--cascade=x"), Err("error: invalid cascade value (x). Must be \"background\", \"foreground\", or \"orphan\"".into()));
    }
}
