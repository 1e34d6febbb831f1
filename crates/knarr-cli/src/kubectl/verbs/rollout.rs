//! `kubectl rollout`: status, history, undo, restart, pause, resume.

use std::time::Duration;

use clap::Subcommand;
use futures::StreamExt;
use knarr_client::{DynamicApi, Patch, read};
use knarr_core::api::{EventType, Options};
use knarr_core::selector::LabelSelector;
use knarr_core::{GroupVersionResource, Value, ValueExt, json, time};

use crate::kubectl::resources::{Meant, named};
use crate::kubectl::session::{Result, Session};

const REVISION: &str = "deployment.kubernetes.io/revision";

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Args)]
struct Target {
    /// TYPE NAME, or TYPE/NAME
    resources: Vec<String>,
}

#[derive(Subcommand)]
enum What {
    /// Wait until the rollout is finished
    Status {
        #[command(flatten)]
        target: Target,
        #[arg(long, default_value = "0s")]
        timeout: String,
        /// Wait until it is finished
        #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, default_missing_value = "true", num_args = 0..=1)]
        watch: bool,
    },
    /// Revisions
    History {
        #[command(flatten)]
        target: Target,
    },
    /// Back to an earlier revision
    Undo {
        #[command(flatten)]
        target: Target,
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Replace every pod
    Restart {
        #[command(flatten)]
        target: Target,
    },
    /// Let changes of the template wait
    Pause {
        #[command(flatten)]
        target: Target,
    },
    /// Roll out what has waited
    Resume {
        #[command(flatten)]
        target: Target,
    },
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let target = match &args.what {
        What::Status { target, .. }
        | What::History { target }
        | What::Undo { target, .. }
        | What::Restart { target }
        | What::Pause { target }
        | What::Resume { target } => target,
    };
    for one in named(session, &target.resources).await? {
        let Some(name) = one.name else { return Err("required resource not specified".into()) };
        let api = session.client.dynamic(one.meant.resource.clone(), Some(&session.namespace));
        let title = format!("{}/{name}", one.meant.title);
        match &args.what {
            What::Status { timeout, watch, .. } => status(&api, &one.meant, &name, timeout, *watch).await?,
            What::History { .. } => history(session, &api, &title, &name).await?,
            What::Undo { to_revision, .. } => {
                undo(session, &api, &name, *to_revision).await?;
                println!("{title} rolled back");
            }
            What::Restart { .. } => {
                let now = time::format(jiff::Timestamp::now());
                let patch = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
                api.patch(&name, Patch::strategic(patch)).await?;
                println!("{title} restarted");
            }
            What::Pause { .. } | What::Resume { .. } => {
                let pause = matches!(args.what, What::Pause { .. });
                api.patch(&name, Patch::strategic(json!({"spec": {"paused": pause}}))).await?;
                println!("{title} {}", if pause { "paused" } else { "resumed" });
            }
        }
    }
    Ok(())
}

async fn status(api: &DynamicApi, meant: &Meant, name: &str, timeout: &str, watch: bool) -> Result<()> {
    let seconds = super::logs::seconds(timeout).ok_or_else(|| format!("invalid duration {timeout:?}"))?;
    let limit = if seconds == 0 { Duration::from_secs(u64::from(u32::MAX)) } else { Duration::from_secs(seconds) };
    tokio::time::timeout(limit, follow(api, meant, name, watch)).await.map_err(|_| "timed out waiting for the condition".to_owned())?
}

async fn follow(api: &DynamicApi, meant: &Meant, name: &str, watch: bool) -> Result<()> {
    let options = Options { field_selector: Some(format!("metadata.name={name}")), ..Options::default() };
    let mut said = String::new();
    loop {
        let listed = api.list(&options).await?;
        let Some(first) = listed.items.first() else { return Err(knarr_core::Status::not_found(&api.resource().group_resource(), name).into()) };
        if tell(meant, &read::value(first)?, &mut said)? || !watch {
            return Ok(());
        }
        let from = Options { resource_version: Some(listed.resource_version.to_string()), ..options.clone() };
        let mut events = api.watch(&from).await?;
        while let Some(Ok(event)) = events.next().await {
            match event.event_type {
                EventType::Deleted => return Err("object has been deleted".into()),
                EventType::Bookmark => {}
                _ if tell(meant, &read::value(&event.object)?, &mut said)? => return Ok(()),
                _ => {}
            }
        }
    }
}

/// Says how far it is, if that changed; whether it is finished.
fn tell(meant: &Meant, object: &Value, said: &mut String) -> Result<bool> {
    let (text, finished) = progress(meant, object)?;
    if text != *said {
        println!("{text}");
        *said = text;
    }
    Ok(finished)
}

/// As kubectl words it (`k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go`).
fn progress(meant: &Meant, object: &Value) -> Result<(String, bool)> {
    let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
    let number = |path: &[&str]| object.i64_at(path).unwrap_or(0);
    let generation = number(&["metadata", "generation"]);
    if number(&["status", "observedGeneration"]) < generation {
        return Ok((format!("Waiting for {} spec update to be observed...", meant.kind.to_lowercase()), false));
    }
    let wanted = object.i64_at(&["spec", "replicas"]).unwrap_or(1);
    match meant.kind.as_str() {
        "Deployment" => {
            let progressing = object.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Progressing");
            if progressing.is_some_and(|c| c["reason"] == "ProgressDeadlineExceeded") {
                return Err(format!("deployment \"{name}\" exceeded its progress deadline").into());
            }
            let (updated, all, available) = (number(&["status", "updatedReplicas"]), number(&["status", "replicas"]), number(&["status", "availableReplicas"]));
            let waiting = |what: String| (format!("Waiting for deployment \"{name}\" rollout to finish: {what}..."), false);
            Ok(if updated < wanted {
                waiting(format!("{updated} out of {wanted} new replicas have been updated"))
            } else if all > updated {
                waiting(format!("{} old replicas are pending termination", all - updated))
            } else if available < updated {
                waiting(format!("{available} of {updated} updated replicas are available"))
            } else {
                (format!("deployment \"{name}\" successfully rolled out"), true)
            })
        }
        "DaemonSet" => {
            let (desired, updated, available) =
                (number(&["status", "desiredNumberScheduled"]), number(&["status", "updatedNumberScheduled"]), number(&["status", "numberAvailable"]));
            let waiting = |what: String| (format!("Waiting for daemon set \"{name}\" rollout to finish: {what}..."), false);
            Ok(if updated < desired {
                waiting(format!("{updated} out of {desired} new pods have been updated"))
            } else if available < desired {
                waiting(format!("{available} of {desired} updated pods are available"))
            } else {
                (format!("daemon set \"{name}\" successfully rolled out"), true)
            })
        }
        "StatefulSet" => {
            let (ready, updated) = (number(&["status", "readyReplicas"]), number(&["status", "updatedReplicas"]));
            Ok(if ready < wanted {
                (format!("Waiting for {} pods to be ready...", wanted - ready), false)
            } else if object.str_at(&["status", "updateRevision"]) != object.str_at(&["status", "currentRevision"]) {
                (
                    format!(
                        "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
                        object.str_at(&["status", "updateRevision"]).unwrap_or_default()
                    ),
                    false,
                )
            } else {
                (
                    format!(
                        "statefulset rolling update complete {} pods at revision {}...",
                        number(&["status", "currentReplicas"]),
                        object.str_at(&["status", "currentRevision"]).unwrap_or_default()
                    ),
                    true,
                )
            })
        }
        other => Err(format!("no status viewer has been implemented for {other}").into()),
    }
}

/// The replica sets of a deployment with their revisions, the oldest first.
async fn revisions(session: &Session, deployment: &Value) -> Result<Vec<(i64, Value)>> {
    let selector = LabelSelector::from_value(deployment.at(&["spec", "selector"]))?;
    let api = session.client.dynamic(GroupVersionResource::new("apps", "v1", "replicasets"), Some(&session.namespace));
    let listed = api.list(&Options { label_selector: Some(selector.to_string()), ..Options::default() }).await?;
    let uid = deployment.str_at(&["metadata", "uid"]);
    let mut found = Vec::new();
    for item in &listed.items {
        let set = read::value(item)?;
        let owned = set.list_at(&["metadata", "ownerReferences"]).iter().any(|o| o.str_at(&["uid"]) == uid);
        if let Some(revision) = set.str_at(&["metadata", "annotations", REVISION]).and_then(|r| r.parse().ok()).filter(|_| owned) {
            found.push((revision, set));
        }
    }
    found.sort_by_key(|(revision, _)| *revision);
    Ok(found)
}

async fn history(session: &Session, api: &DynamicApi, title: &str, name: &str) -> Result<()> {
    let deployment = read::value(&api.get(name).await?)?;
    println!("{title} \nREVISION  CHANGE-CAUSE");
    for (revision, set) in revisions(session, &deployment).await? {
        println!("{revision:<9} {}", set.str_at(&["metadata", "annotations", "kubernetes.io/change-cause"]).unwrap_or("<none>"));
    }
    println!();
    Ok(())
}

async fn undo(session: &Session, api: &DynamicApi, name: &str, to: i64) -> Result<()> {
    let deployment = read::value(&api.get(name).await?)?;
    if deployment.bool_at(&["spec", "paused"]) == Some(true) {
        return Err("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again".into());
    }
    let all = revisions(session, &deployment).await?;
    let wanted = if to > 0 { all.iter().find(|(r, _)| *r == to) } else { all.iter().rev().nth(1) };
    let Some((_, set)) = wanted else {
        return Err(if to > 0 {
            format!("unable to find specified revision {to} in history")
        } else {
            format!("no rollout history found for deployment \"{name}\"")
        }
        .into());
    };
    let mut template = set.at(&["spec", "template"]).cloned().unwrap_or_default();
    template.remove(&["metadata", "labels", "pod-template-hash"]);
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    api.patch(name, Patch::json(patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: Value) -> String {
        let meant = Meant {
            resource: GroupVersionResource::new("apps", "v1", "deployments"),
            kind: "Deployment".into(),
            namespaced: true,
            title: "deployment.apps".into(),
        };
        let object = json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        progress(&meant, &object).map_or_else(|e| e.to_string(), |(text, _)| text)
    }

    #[test]
    fn a_rollout_tells_how_far_it_is() {
        assert_eq!(said(json!({"observedGeneration": 1})), "Waiting for deployment spec update to be observed...");
        let at = |updated, all, available| said(json!({"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}));
        assert_eq!(at(1, 3, 3), "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...");
        assert_eq!(at(3, 4, 3), "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...");
        assert_eq!(at(3, 3, 2), "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...");
        assert_eq!(at(3, 3, 3), "deployment \"web\" successfully rolled out");
    }
}
