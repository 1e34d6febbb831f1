//! `kubectl rollout`: status, history, undo, restart, pause, resume (`kubectl/pkg/polymorphichelpers`).

use std::collections::BTreeMap;

use knarr_core::{Value, ValueExt, json, time};

use super::change;
use super::describe::pods::template_page;
use super::options::{DRY_RUN, FIELD_MANAGER, SELECTOR, within};
use super::pods::selector_of;
use super::writes::{DryRun, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, switch_on, time as duration};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, tabs};
use crate::kubectl::resources::known;
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::{Session, with_query};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotations that belong to the Deployment and do not come back with an old revision.
const KEPT: &[&str] = &[
    super::apply::LAST_APPLIED,
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

const CHANGE: &[Flag] = &[SELECTOR, FIELD_MANAGER];

pub static VERB: Verb = Verb {
    name: "rollout",
    usage: "SUBCOMMAND",
    about: "Manage the rollout of a resource",
    verbs: &[
        &Verb {
            name: "history",
            usage: "(TYPE NAME | TYPE/NAME) [flags]",
            about: "View rollout history",
            flags: &[&[SELECTOR, int("revision", "0", "See the details, including podTemplate of the revision specified")], manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(history(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "pause",
            usage: "RESOURCE [flags]",
            about: "Mark the provided resource as paused",
            flags: &[CHANGE, manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(pause(cx, true))),
            ..Verb::NONE
        },
        &Verb {
            name: "restart",
            usage: "RESOURCE [flags]",
            about: "Restart a resource",
            flags: &[CHANGE, manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(restart(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "resume",
            usage: "RESOURCE [flags]",
            about: "Resume a paused resource",
            flags: &[CHANGE, manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(pause(cx, false))),
            ..Verb::NONE
        },
        &Verb {
            name: "status",
            usage: "(TYPE NAME | TYPE/NAME) [flags]",
            about: "Show the status of the rollout",
            flags: &[
                &[
                    SELECTOR,
                    switch_on("watch", "Watch the status of the rollout until it's done").short('w'),
                    int("revision", "0", "Pin to a specific revision for showing its status"),
                    duration("timeout", "0s", "The length of time to wait before ending watch; zero means never"),
                ],
                manifest::FLAGS,
            ],
            run: Some(|cx| Box::pin(status(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "undo",
            usage: "(TYPE NAME | TYPE/NAME) [flags]",
            about: "Undo a previous rollout",
            flags: &[&[SELECTOR, DRY_RUN, int("to-revision", "0", "The revision to rollback to; 0 is the last one")], manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(undo(cx))),
            ..Verb::NONE
        },
    ],
    ..Verb::NONE
};

async fn infos(cx: &Context) -> Result<Vec<Info>> {
    if cx.words().is_empty() && !manifest::named(&cx.flags) {
        return Err("required resource not specified".into());
    }
    let found = Selection::of(cx.session()?, &cx.flags).type_is_all().objects(cx.words()).await?;
    if found.infos.is_empty() && found.failures.is_empty() {
        eprintln!("No resources found in {} namespace.", cx.session()?.namespace);
    }
    found.all()
}

async fn status(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    if flags.int("revision") < 0 {
        return Err(format!("revision must be a positive integer: {}", flags.int("revision")).into());
    }
    for info in infos(cx).await? {
        let said = std::cell::Cell::new(String::new());
        let tell = |object: Option<&Value>| -> Result<bool> {
            let Some(object) = object else { return Err("object has been deleted".into()) };
            let (text, finished) = progress(&info.meant.kind, &info.meant.title, object, flags.int("revision"))?;
            if said.replace(text.clone()) != text {
                out(&text)?;
            }
            Ok(finished || !flags.on("watch"))
        };
        within(flags.limit("timeout"), super::wait::follow(session, &info, tell), || "timed out waiting for the condition".into()).await?;
    }
    Ok(())
}

/// How far a rollout is, and whether it has ended (`rollout_status.go`).
fn progress(kind: &str, title: &str, object: &Value, revision: i64) -> Result<(String, bool)> {
    let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
    let number = |path: &[&str]| object.i64_at(path).unwrap_or(0);
    let generation = number(&["metadata", "generation"]);
    let observed = number(&["status", "observedGeneration"]);
    let wanted = object.i64_at(&["spec", "replicas"]).unwrap_or(1);
    let updated = number(&["status", "updatedReplicas"]);
    let rolling = |path: &[&str]| object.str_at(path) == Some("RollingUpdate");
    match kind {
        "Deployment" => {
            let running = object.str_at(&["metadata", "annotations", REVISION]).and_then(|r| r.parse().ok()).unwrap_or(0);
            if revision > 0 && revision != running {
                return Err(format!("desired revision ({revision}) is different from the running revision ({running})").into());
            }
            if observed < generation {
                return Ok(("Waiting for deployment spec update to be observed...\n".into(), false));
            }
            let late = object.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
            if late {
                return Err(format!("deployment \"{name}\" exceeded its progress deadline").into());
            }
            let (all, available) = (number(&["status", "replicas"]), number(&["status", "availableReplicas"]));
            let waiting = |what: String| (format!("Waiting for deployment \"{name}\" rollout to finish: {what}...\n"), false);
            Ok(if updated < wanted {
                waiting(format!("{updated} out of {wanted} new replicas have been updated"))
            } else if all > updated {
                waiting(format!("{} old replicas are pending termination", all - updated))
            } else if available < updated {
                waiting(format!("{available} of {updated} updated replicas are available"))
            } else {
                (format!("deployment \"{name}\" successfully rolled out\n"), true)
            })
        }
        "DaemonSet" => {
            if !rolling(&["spec", "updateStrategy", "type"]) {
                return Err("rollout status is only available for RollingUpdate strategy type".into());
            }
            if observed < generation {
                return Ok(("Waiting for daemon set spec update to be observed...\n".into(), false));
            }
            let (desired, updated, available) =
                (number(&["status", "desiredNumberScheduled"]), number(&["status", "updatedNumberScheduled"]), number(&["status", "numberAvailable"]));
            let waiting = |what: String| (format!("Waiting for daemon set \"{name}\" rollout to finish: {what}...\n"), false);
            Ok(if updated < desired {
                waiting(format!("{updated} out of {desired} new pods have been updated"))
            } else if available < desired {
                waiting(format!("{available} of {desired} updated pods are available"))
            } else {
                (format!("daemon set \"{name}\" successfully rolled out\n"), true)
            })
        }
        "StatefulSet" => {
            if !rolling(&["spec", "updateStrategy", "type"]) {
                return Err("rollout status is only available for RollingUpdate strategy type".into());
            }
            if observed == 0 || observed < generation {
                return Ok(("Waiting for statefulset spec update to be observed...\n".into(), false));
            }
            let ready = number(&["status", "readyReplicas"]);
            if ready < wanted {
                return Ok((format!("Waiting for {} pods to be ready...\n", wanted - ready), false));
            }
            if let Some(partition) = object.at(&["spec", "updateStrategy", "rollingUpdate"]).map(|r| r.i64_at(&["partition"]).unwrap_or(0)) {
                if updated < wanted - partition {
                    return Ok((
                        format!("Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...\n", wanted - partition),
                        false,
                    ));
                }
                return Ok((format!("partitioned roll out complete: {updated} new pods have been updated...\n"), true));
            }
            let (update, current) =
                (object.str_at(&["status", "updateRevision"]).unwrap_or_default(), object.str_at(&["status", "currentRevision"]).unwrap_or_default());
            Ok(if update != current {
                (format!("waiting for statefulset rolling update to complete {updated} pods at revision {update}...\n"), false)
            } else {
                (format!("statefulset rolling update complete {} pods at revision {current}...\n", number(&["status", "currentReplicas"])), true)
            })
        }
        _ => Err(format!("no status viewer has been implemented for {title}").replacen(&title.to_owned(), &group_kind(kind, title), 1).into()),
    }
}

/// `Deployment.apps`, as Go prints a group and kind.
fn group_kind(kind: &str, title: &str) -> String {
    title.split_once('.').map_or_else(|| kind.to_owned(), |(_, group)| format!("{kind}.{group}"))
}

/// The revisions of a workload: number, change cause, template, and what to send to go back to it.
struct Revision {
    cause: String,
    template: Value,
    source: Value,
}

async fn revisions(session: &Session, info: &Info) -> Result<BTreeMap<i64, Revision>> {
    let uid = info.object.str_at(&["metadata", "uid"]).unwrap_or_default();
    let (kind, of_deployment) = match info.meant.kind.as_str() {
        "Deployment" => ("replicasets", true),
        "StatefulSet" | "DaemonSet" => ("controllerrevisions", false),
        _ => return Ok(BTreeMap::new()),
    };
    let selector = selector_of(&info.object)?;
    let list = session.get(&with_query(&known(kind).path(Some(&info.namespace), None), &[("labelSelector", selector.to_string())])).await?;
    let mut found = BTreeMap::new();
    for item in list.list_at(&["items"]) {
        if !item.list_at(&["metadata", "ownerReferences"]).iter().any(|o| o.str_at(&["uid"]) == Some(uid) && o.bool_at(&["controller"]) == Some(true)) {
            continue;
        }
        let cause = item.str_at(&["metadata", "annotations", CHANGE_CAUSE]).unwrap_or_default().to_owned();
        let (number, template) = if of_deployment {
            let Some(number) = item.str_at(&["metadata", "annotations", REVISION]).and_then(|r| r.parse().ok()) else { continue };
            (number, item.at(&["spec", "template"]).cloned().unwrap_or_default())
        } else {
            let mut template = item.at(&["data", "spec", "template"]).cloned().unwrap_or_default();
            template.as_object_mut().into_iter().for_each(|t| drop(t.remove("$patch")));
            (item.i64_at(&["revision"]).unwrap_or(0), template)
        };
        found.insert(number, Revision { cause, template, source: item.clone() });
    }
    Ok(found)
}

async fn history(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let wanted = flags.int("revision");
    if wanted < 0 {
        return Err(format!("revision must be a positive integer: {wanted}").into());
    }
    for info in infos(cx).await? {
        if !["Deployment", "StatefulSet", "DaemonSet"].contains(&info.meant.kind.as_str()) {
            let (kind, group) = (&info.meant.kind, &info.meant.resource.group);
            if !["Job", "Pod", "ReplicaSet", "ReplicationController", "CronJob"].contains(&kind.as_str()) {
                return Err(format!(
                    "error retrieving history for \"{}\", no visitor method exists for {{{group} {kind}}}",
                    group_kind(kind, &info.meant.title)
                )
                .into());
            }
            return Err(format!("no history viewer has been implemented for \"{}\"", group_kind(&info.meant.kind, &info.meant.title)).into());
        }
        let all = revisions(session, &info).await?;
        if flags.given("output") {
            let mut printer = Printer::of(flags, "")?;
            for (number, revision) in &all {
                if wanted == 0 || *number == wanted {
                    let mut object = if info.meant.kind == "Deployment" { revision.source.clone() } else { info.object.clone() };
                    object.set(&["spec", "template"], revision.template.clone());
                    object.set(&["apiVersion"], "apps/v1");
                    object.set(&["kind"], if info.meant.kind == "Deployment" { "ReplicaSet" } else { info.meant.kind.as_str() });
                    out(&printer.print(&object)?)?;
                }
            }
            continue;
        }
        let text = if all.is_empty() {
            "No rollout history found.".to_owned()
        } else if wanted > 0 {
            let revision = all.get(&wanted).ok_or("unable to find the specified revision")?;
            let mut template = revision.template.clone();
            if !revision.cause.is_empty() {
                template.set(&["metadata", "annotations", CHANGE_CAUSE], revision.cause.clone());
            }
            template_page(&template)
        } else {
            let lines: String = all.iter().map(|(n, r)| format!("{n}\t{}\n", if r.cause.is_empty() { "<none>" } else { &r.cause })).collect();
            tabs::layout(&format!("REVISION\tCHANGE-CAUSE\n{lines}"), 0, 2)
        };
        let with_revision = if wanted > 0 { format!("with revision #{wanted}") } else { String::new() };
        out(&format!("{} {with_revision}\n{text}\n", info.title()))?;
    }
    Ok(())
}

async fn undo(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let dry_run = DryRun::of(flags)?;
    let to = flags.int("to-revision");
    for info in infos(cx).await? {
        if !["Deployment", "StatefulSet", "DaemonSet"].contains(&info.meant.kind.as_str()) {
            return Err(format!("no rollbacker has been implemented for \"{}\"", group_kind(&info.meant.kind, &info.meant.title)).into());
        }
        let all = revisions(session, &info).await?;
        let revision = chosen(&info, &all, to)?;
        if dry_run == DryRun::Client {
            let mut printer = Printer::of(flags, &format!("{} (dry run)", template_page(&revision.template)))?;
            out(&printer.print(&info.object)?)?;
            continue;
        }
        if info.object.bool_at(&["spec", "paused"]) == Some(true) {
            return Err("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again".into());
        }
        let same = |template: &Value| {
            let mut template = template.clone();
            template.remove(&["metadata", "labels", "pod-template-hash"]);
            template
        };
        let mut printer = Printer::of(flags, &dry_run.note("rolled back"))?;
        if same(&revision.template) == same(&info.object["spec"]["template"]) {
            let mut skipped = Printer::of(flags, &dry_run.note(&format!("skipped rollback (current template already matches revision {to})")))?;
            out(&skipped.print(&info.object)?)?;
            continue;
        }
        let query = if dry_run == DryRun::Server { vec![("dryRun", "All".to_owned())] } else { Vec::new() };
        let path = with_query(&info.path(), &query);
        if info.meant.kind == "Deployment" {
            let mut annotations = json!({});
            let old = |o: &Value| o.at(&["metadata", "annotations"]).and_then(Value::as_object).cloned().unwrap_or_default();
            old(&info.object).into_iter().filter(|(k, _)| KEPT.contains(&k.as_str())).for_each(|(k, v)| annotations[k] = v);
            old(&revision.source).into_iter().filter(|(k, _)| !KEPT.contains(&k.as_str())).for_each(|(k, v)| annotations[k] = v);
            let patch = json!([
                {"op": "replace", "path": "/spec/template", "value": same(&revision.template)},
                {"op": "replace", "path": "/metadata/annotations", "value": annotations}
            ]);
            session.patch(&path, change::JSON_PATCH, &patch).await.map_err(|e| Failure::from(format!("failed restoring revision {to}: {}", e.message())))?;
        } else {
            session
                .patch(&path, change::STRATEGIC, &revision.source["data"])
                .await
                .map_err(|e| Failure::from(format!("failed restoring revision {to}: {}", e.message())))?;
        }
        out(&printer.print(&info.object)?)?;
    }
    Ok(())
}

fn chosen<'a>(info: &Info, all: &'a BTreeMap<i64, Revision>, to: i64) -> Result<&'a Revision> {
    let missing = || Failure::from(format!("unable to find specified revision {to} in history"));
    if to < 0 {
        return Err(missing());
    }
    if to > 0 {
        return all.get(&to).ok_or_else(missing);
    }
    all.values().rev().nth(1).ok_or_else(|| {
        if info.meant.kind == "Deployment" {
            format!("no rollout history found for deployment \"{}\"", info.name).into()
        } else {
            "no last revision to roll back to".into()
        }
    })
}

/// Sends a change of the template or of the spec and says what was done.
async fn changed(cx: &Context, operation: &str, check: impl Fn(&Info) -> Result<()>, edit: impl Fn(&mut Value)) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let mut failures = Vec::new();
    for info in infos(cx).await? {
        let outcome = async {
            check(&info)?;
            let mut new = info.object.clone();
            edit(&mut new);
            let (kind, patch) = change::difference(&info.object, &new)?;
            let path = with_query(&info.path(), &write_query(flags, "kubectl-rollout", DryRun::No)?);
            let after = session.patch(&path, kind, &patch).await.map_err(|e| Failure::from(format!("failed to patch: {}", e.message())))?;
            out(&Printer::of(flags, operation)?.print(&after)?)
        };
        failures.extend(outcome.await.err());
    }
    Failure::all(failures)
}

async fn restart(cx: &Context) -> Result<()> {
    let now = time::format(jiff::Timestamp::now());
    let check = |info: &Info| {
        if !["Deployment", "DaemonSet", "StatefulSet"].contains(&info.meant.kind.as_str()) {
            return Err(Failure::from(format!("{} restarting is not supported", info.plural_name()).replacen("/", " \"", 1).replacen(
                " restarting",
                "\" restarting",
                1,
            )));
        }
        if info.object.bool_at(&["spec", "paused"]) == Some(true) {
            return Err(format!("{} can't restart paused deployment (run rollout resume first)", quoted(info)).into());
        }
        Ok(())
    };
    changed(cx, "restarted", check, |o| o.set(&["spec", "template", "metadata", "annotations", "kubectl.kubernetes.io/restartedAt"], now.clone())).await
}

/// `deployments.apps "web"`
fn quoted(info: &Info) -> String {
    format!("{} \"{}\"", info.meant.group_resource(), info.name)
}

async fn pause(cx: &Context, pause: bool) -> Result<()> {
    let check = |info: &Info| {
        let word = if pause { "pausing" } else { "resuming" };
        if info.meant.kind != "Deployment" {
            return Err(Failure::from(format!("{} {word} is not supported", quoted(info))));
        }
        match (info.object.bool_at(&["spec", "paused"]).unwrap_or(false), pause) {
            (true, true) => Err(format!("{} is already paused", quoted(info)).into()),
            (false, false) => Err(format!("{} is not paused", quoted(info)).into()),
            _ => Ok(()),
        }
    };
    changed(cx, if pause { "paused" } else { "resumed" }, check, |o| {
        if pause {
            o.set(&["spec", "paused"], true);
        } else {
            o.remove(&["spec", "paused"]);
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: Value) -> String {
        let object = json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        progress("Deployment", "deployment.apps", &object, 0).map_or_else(|e| e.to_string(), |(text, _)| text)
    }

    #[test]
    fn a_rollout_tells_how_far_it_is() {
        assert_eq!(said(json!({"observedGeneration": 1})), "Waiting for deployment spec update to be observed...\n");
        let at = |updated, all, available| said(json!({"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}));
        assert_eq!(at(1, 3, 3), "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...\n");
        assert_eq!(at(3, 4, 3), "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...\n");
        assert_eq!(at(3, 3, 2), "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...\n");
        assert_eq!(at(3, 3, 3), "deployment \"web\" successfully rolled out\n");
    }
}
