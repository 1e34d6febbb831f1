//! `kubectl cordon`, `uncordon`, `drain`, `taint`: what happens to nodes.

use std::time::Duration;

use knarr_core::{Value, ValueExt, json};

use super::change;
use super::delete::until_gone;
use super::options::{ALL, DRY_RUN, FIELD_MANAGER, SELECTOR, VALIDATE, within};
use super::writes::{DryRun, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, switch, text, time};
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer};
use crate::kubectl::resources::known;
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::with_query;

const DRAIN_FLAGS: &[Flag] = &[
    switch("force", "Continue even if there are pods that do not declare a controller"),
    switch("ignore-daemonsets", "Ignore DaemonSet-managed pods"),
    switch("delete-emptydir-data", "Continue even if there are pods using emptyDir"),
    switch("disable-eviction", "Force drain to use delete, even if eviction is supported"),
    int("grace-period", "-1", "Seconds given to each pod to end gracefully; the pod's own if negative"),
    time("timeout", "0s", "The length of time to wait before giving up; zero means infinite"),
    int("skip-wait-for-delete-timeout", "0", "Do not wait for pods that were deleted longer ago than this"),
    text("pod-selector", "", "Label selector to filter pods on the node"),
    SELECTOR,
    DRY_RUN,
    super::options::CHUNK,
];

pub static CORDON: Verb = Verb {
    name: "cordon",
    usage: "NODE [flags]",
    about: "Mark node as unschedulable",
    flags: &[&[SELECTOR, DRY_RUN]],
    run: Some(|cx| Box::pin(cordon(cx, true))),
    ..Verb::NONE
};
pub static UNCORDON: Verb = Verb {
    name: "uncordon",
    usage: "NODE [flags]",
    about: "Mark node as schedulable",
    flags: &[&[SELECTOR, DRY_RUN]],
    run: Some(|cx| Box::pin(cordon(cx, false))),
    ..Verb::NONE
};
pub static DRAIN: Verb = Verb {
    name: "drain",
    usage: "NODE [flags]",
    about: "Drain node in preparation for maintenance",
    flags: &[DRAIN_FLAGS],
    run: Some(|cx| Box::pin(drain(cx))),
    ..Verb::NONE
};
pub static TAINT: Verb = Verb {
    name: "taint",
    usage: "NODE NAME KEY_1=VAL_1:TAINT_EFFECT_1 ... KEY_N=VAL_N:TAINT_EFFECT_N [flags]",
    about: "Update the taints on one or more nodes",
    flags: &[&[ALL, SELECTOR, DRY_RUN, FIELD_MANAGER, VALIDATE, switch("overwrite", "Allow taints to be overwritten")], print::FLAGS],
    run: Some(|cx| Box::pin(taint(cx))),
    ..Verb::NONE
};

async fn nodes(cx: &Context) -> Result<Vec<Info>> {
    let (words, selecting) = (cx.words(), cx.flags.given("selector"));
    if words.is_empty() && !selecting {
        return Err(cx.usage(format!("USAGE: {} {}", cx.verb.name, "NODE [flags]")));
    }
    if !words.is_empty() && selecting {
        return Err("error: cannot specify both a node name and a --selector option".into());
    }
    let words: Vec<String> = if selecting {
        vec!["nodes".into()]
    } else {
        std::iter::once("nodes".to_owned()).chain(words.iter().map(|w| w.trim_start_matches("node/").to_owned())).collect()
    };
    Selection::of(cx.session()?, &cx.flags).objects(&words).await?.all()
}

async fn set_unschedulable(cx: &Context, info: &Info, wanted: bool) -> Result<()> {
    let dry_run = DryRun::of(&cx.flags)?;
    let (done, already) = if wanted { ("cordoned", "already cordoned") } else { ("uncordoned", "already uncordoned") };
    if info.object.bool_at(&["spec", "unschedulable"]).unwrap_or(false) == wanted {
        println!("{} {}", info.title(), dry_run.note(already));
        return Ok(());
    }
    if dry_run != DryRun::Client {
        let query = if dry_run == DryRun::Server { vec![("dryRun", "All".to_owned())] } else { Vec::new() };
        let patch = json!({"spec": {"unschedulable": if wanted { Value::Bool(true) } else { Value::Null }}});
        cx.session()?
            .patch(&with_query(&info.path(), &query), change::STRATEGIC, &patch)
            .await
            .map_err(|e| Failure::from(format!("unable to {} node \"{}\": {}", cx.verb.name, info.name, e.message())))?;
    }
    println!("{} {}", info.title(), dry_run.note(done));
    Ok(())
}

async fn cordon(cx: &Context, wanted: bool) -> Result<()> {
    for info in nodes(cx).await? {
        set_unschedulable(cx, &info, wanted).await?;
    }
    Ok(())
}

/// What shall become of a pod when its node is drained (`kubectl/pkg/drain/filters.go`).
enum Verdict {
    Evict(Option<&'static str>),
    Skip(Option<&'static str>),
    Refuse(&'static str),
}

const DAEMON: &str = "ignoring DaemonSet-managed Pods";
const LOCAL: &str = "deleting Pods with local storage";
const UNMANAGED: &str = "deleting Pods that declare no controller";

fn verdict(pod: &Value, flags: &crate::kubectl::flags::Flags) -> Verdict {
    let finished = matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"));
    if pod.str_at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        return Verdict::Skip(None);
    }
    let mut warning = None;
    let controller = super::describe::controller(pod);
    if controller.is_some_and(|c| c.str_at(&["kind"]) == Some("DaemonSet")) && !finished {
        return if flags.on("ignore-daemonsets") {
            Verdict::Skip(Some(DAEMON))
        } else {
            Verdict::Refuse("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
        };
    }
    let local = pod.list_at(&["spec", "volumes"]).iter().any(|v| v.get("emptyDir").is_some());
    if local && !finished {
        if !flags.on("delete-emptydir-data") {
            return Verdict::Refuse("cannot delete Pods with local storage (use --delete-emptydir-data to override)");
        }
        warning = Some(LOCAL);
    }
    if controller.is_none() && !finished {
        if !flags.on("force") {
            return Verdict::Refuse("cannot delete Pods that declare no controller (use --force to override)");
        }
        warning = Some(UNMANAGED);
    }
    Verdict::Evict(warning)
}

async fn drain(cx: &Context) -> Result<()> {
    let all = nodes(cx).await?;
    for info in &all {
        set_unschedulable(cx, info, true).await?;
    }
    let mut failures = Vec::new();
    for info in &all {
        match drain_one(cx, info).await {
            Ok(()) => println!("{} {}", info.title(), DryRun::of(&cx.flags)?.note("drained")),
            Err(e) => {
                eprintln!(
                    "error: unable to drain node \"{}\" due to error: {}, continuing command...\nThere are pending nodes to be drained:\n {}",
                    info.name,
                    e.message(),
                    info.name
                );
                failures.push(e);
            }
        }
    }
    Failure::all(failures)
}

async fn drain_one(cx: &Context, node: &Info) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let mut query = vec![("fieldSelector", format!("spec.nodeName={}", node.name))];
    if let Some(selector) = flags.some("pod-selector") {
        query.push(("labelSelector", selector.to_owned()));
    }
    let list = session.get(&with_query(&known("pods").path(None, None), &query)).await?;
    let title = |p: &Value| format!("{}/{}", p.str_at(&["metadata", "namespace"]).unwrap_or_default(), p.str_at(&["metadata", "name"]).unwrap_or_default());
    let (mut going, mut warnings, mut refused): (Vec<Info>, Vec<(&str, Vec<String>)>, Vec<(&str, Vec<String>)>) = (Vec::new(), Vec::new(), Vec::new());
    let note = |to: &mut Vec<(&'static str, Vec<String>)>, why: &'static str, pod: &Value| match to.iter_mut().find(|(w, _)| *w == why) {
        Some((_, pods)) => pods.push(title(pod)),
        None => to.push((why, vec![title(pod)])),
    };
    for pod in list.list_at(&["items"]) {
        match verdict(pod, flags) {
            Verdict::Refuse(why) => note(&mut refused, why, pod),
            Verdict::Skip(why) => why.into_iter().for_each(|w| note(&mut warnings, w, pod)),
            Verdict::Evict(why) => {
                why.into_iter().for_each(|w| note(&mut warnings, w, pod));
                going.push(Info::of(&known("pods"), pod.clone()));
            }
        }
    }
    if !refused.is_empty() {
        let texts: Vec<String> = refused.into_iter().map(|(why, pods)| format!("{why}: {}", pods.join(", "))).collect();
        return Err(Failure::Other(if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) }));
    }
    if !warnings.is_empty() {
        let texts: Vec<String> = warnings.into_iter().map(|(why, pods)| format!("{why}: {}", pods.join(", "))).collect();
        eprintln!("Warning: {}", texts.join("; "));
    }
    let evictions = going.iter().map(|pod| evict(cx, pod));
    let late = || Failure::from("global timeout reached: drain did not complete");
    within(flags.limit("timeout"), async { futures::future::try_join_all(evictions).await.map(drop) }, late).await
}

/// Asks for an eviction until the budget allows it, and waits for the end of the pod.
async fn evict(cx: &Context, pod: &Info) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let dry_run = DryRun::of(flags)?;
    let deleting = flags.on("disable-eviction");
    println!("{} pod {}/{}", dry_run.note(if deleting { "deleting" } else { "evicting" }), pod.namespace, pod.name);
    if dry_run == DryRun::Client {
        return Ok(());
    }
    let mut options = json!({});
    if flags.int("grace-period") >= 0 {
        options["gracePeriodSeconds"] = flags.int("grace-period").into();
    }
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    loop {
        let outcome = if deleting {
            session.delete(&pod.path(), &options).await
        } else {
            let eviction =
                json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name, "namespace": pod.namespace}, "deleteOptions": options});
            session.post(&format!("{}/eviction", pod.path()), &eviction).await
        };
        match outcome {
            Ok(_) => break,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(Failure::Server(status)) if status.code == 429 => {
                eprintln!("error when evicting pods/\"{}\" -n \"{}\" (will retry after 5s): {}", pod.name, pod.namespace, status.message);
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            Err(e) => {
                return Err(format!(
                    "error when {} pods/\"{}\" -n \"{}\": {}",
                    if deleting { "deleting" } else { "evicting" },
                    pod.name,
                    pod.namespace,
                    e.message()
                )
                .into());
            }
        }
    }
    if dry_run == DryRun::Server {
        return Ok(());
    }
    until_gone(session, pod, pod.object.str_at(&["metadata", "uid"]).unwrap_or_default()).await?;
    println!("{}/{} {}", pod.meant.title, pod.name, if deleting { "deleted" } else { "evicted" });
    Ok(())
}

/// `key=value:Effect`, `key:Effect-`, `key-`.
#[derive(Clone, Debug, PartialEq)]
struct Taint {
    key: String,
    value: String,
    effect: String,
}

fn parse_taints(words: &[String]) -> std::result::Result<(Vec<Taint>, Vec<Taint>), String> {
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for word in words {
        let (text, removing) = word.strip_suffix('-').map_or((word.as_str(), false), |t| (t, true));
        let (head, effect) = text.split_once(':').map_or((text, ""), |(h, e)| (h, e));
        // Without an effect the whole word is a key.
        let (key, value) = if effect.is_empty() { (head, "") } else { head.split_once('=').map_or((head, ""), |(k, v)| (k, v)) };
        if effect.contains(':') || value.contains('=') {
            return Err(format!("invalid taint spec: {text}"));
        }
        if !effect.is_empty() && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
        }
        let bad = knarr_core::names::is_qualified_name(key);
        if !bad.is_empty() {
            return Err(format!("invalid taint spec: {text}, {}", bad.join("; ")));
        }
        let bad = knarr_core::names::is_label_value(value);
        if !bad.is_empty() {
            return Err(format!("invalid taint spec: {text}, {}", bad.join("; ")));
        }
        let taint = Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() };
        if removing {
            remove.push(taint)
        } else if effect.is_empty() {
            return Err(format!("invalid taint spec: {text}"));
        } else {
            set.push(taint)
        }
    }
    Ok((set, remove))
}

async fn taint(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let dry_run = DryRun::of(flags)?;
    let is_taint = |w: &&String| w.contains('=') || w.ends_with('-') || w.contains(':');
    let first = cx.words().iter().position(|w| is_taint(&w)).unwrap_or(cx.words().len());
    let (resources, words) = cx.words().split_at(first);
    if let Some(odd) = words.iter().find(|w| !is_taint(w)) {
        return Err(format!("all resources must be specified before taint changes: {odd}").into());
    }
    if resources.is_empty() {
        return Err("one or more resources must be specified as <resource> <name>".into());
    }
    if words.is_empty() {
        return Err("at least one taint update is required".into());
    }
    let (set, remove) = parse_taints(words).map_err(|e| cx.usage(e))?;
    if flags.on("all") && flags.given("selector") {
        return Err("setting 'all' parameter with a non empty selector is prohibited".into());
    }
    if resources.len() < 2 && !resources[0].contains('/') && !flags.on("all") && !flags.given("selector") {
        return Err("at least one resource name must be specified since 'all' parameter is not set".into());
    }
    let kind = resources[0].split('/').next().unwrap_or_default();
    if !["node", "nodes", "no"].contains(&kind) {
        return Err(format!("invalid resource type {kind}, only node types are supported").into());
    }
    let both: Vec<String> = set
        .iter()
        .filter(|s| remove.iter().any(|r| r.key == s.key && (r.effect.is_empty() || r.effect == s.effect)))
        .map(|s| format!("{}={}:{}", s.key, s.value, s.effect))
        .collect();
    if !both.is_empty() {
        return Err(format!("can not both modify and remove the following taint(s) in the same command: {}", both.join(", ")).into());
    }
    for info in Selection::of(session, flags).objects(resources).await?.all()? {
        let mut all: Vec<Value> = info.object.list_at(&["spec", "taints"]).to_vec();
        let operation = change_taints(&mut all, &set, &remove, flags.on("overwrite"), &info.name)?;
        let mut new = info.object.clone();
        new.set(&["spec", "taints"], all);
        if dry_run != DryRun::Client {
            let (kind, patch) = change::difference(&info.object, &new)?;
            new = session.patch(&with_query(&info.path(), &write_query(flags, "kubectl-taint", dry_run)?), kind, &patch).await?;
        }
        out(&Printer::of(flags, operation)?.print(&new)?)?;
    }
    Ok(())
}

fn change_taints(all: &mut Vec<Value>, set: &[Taint], remove: &[Taint], overwrite: bool, node: &str) -> Result<&'static str> {
    let same = |there: &Value, t: &Taint| there["key"] == *t.key && (t.effect.is_empty() || there["effect"] == *t.effect);
    let clash: Vec<String> = set
        .iter()
        .filter(|t| all.iter().any(|there| same(there, t)))
        .map(|t| format!("{{\"key\":\"{}\",\"value\":\"{}\",\"effect\":\"{}\"}}", t.key, t.value, t.effect))
        .collect();
    if !clash.is_empty() && !overwrite {
        return Err(format!(
            "node {node} already has [{}] taint(s) with same effect(s) and --overwrite is false",
            set.iter().map(|t| format!("{{{} {} {} <nil>}}", t.key, t.value, t.effect)).collect::<Vec<_>>().join(" ")
        )
        .into());
    }
    for taint in remove {
        let before = all.len();
        all.retain(|there| !same(there, taint));
        if all.len() == before {
            let title = if taint.effect.is_empty() { taint.key.clone() } else { format!("{}:{}", taint.key, taint.effect) };
            return Err(format!("taint \"{title}\" not found").into());
        }
    }
    for taint in set {
        all.retain(|there| !same(there, taint));
        let mut made = json!({"key": taint.key, "effect": taint.effect});
        if !taint.value.is_empty() {
            made["value"] = taint.value.clone().into();
        }
        all.insert(0, made);
    }
    Ok(match (set.is_empty(), remove.is_empty()) {
        (false, false) => "modified",
        (false, true) => "tainted",
        _ => "untainted",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_and_changed() {
        let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (set, remove) = parse_taints(&words("a=b:NoSchedule c:NoExecute- d-")).unwrap();
        assert_eq!((set.len(), remove.len(), remove[1].effect.as_str()), (1, 2, ""));
        assert!(parse_taints(&words("a=b")).is_err() && parse_taints(&words("a=b:Never")).is_err());
        let mut all = vec![json!({"key": "d", "effect": "NoSchedule"}), json!({"key": "c", "effect": "NoExecute"})];
        assert_eq!(change_taints(&mut all, &set, &remove, false, "n").unwrap(), "modified");
        assert_eq!(all, [json!({"key": "a", "value": "b", "effect": "NoSchedule"})]);
        assert!(change_taints(&mut all, &set, &[], false, "n").is_err());
    }
}
