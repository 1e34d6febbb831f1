//! What several verbs have in common: dry runs, field managers, finding pods.

use knarr_core::field::go_quote;
use knarr_core::selector::LabelSelector;
use knarr_core::{Value, ValueExt};

use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, Flags, switch, text};
use crate::kubectl::resources::{Meant, builtin};
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::{Query, Session, with_query};

pub const DRY_RUN: Flag = text("dry-run", "none", "Must be \"none\", \"server\", or \"client\"").bare("unchanged");
pub const FIELD_MANAGER: Flag = text("field-manager", "", "Name of the manager used to track field ownership");
pub const SELECTOR: Flag = text("selector", "", "Selector (label query) to filter on").short('l');
pub const FIELD_SELECTOR: Flag = text("field-selector", "", "Selector (field query) to filter on");
pub const ALL: Flag = switch("all", "Select all resources in the namespace of the specified resource types");
pub const ALL_NAMESPACES: Flag = switch("all-namespaces", "Across all namespaces").short('A');
pub const LOCAL: Flag = switch("local", "Do not contact the server, only use the objects given");
pub const VALIDATE: Flag = text("validate", "strict", "Must be one of: strict (or true), warn, ignore (or false)").bare("strict");
pub const SAVE_CONFIG: Flag = switch("save-config", "Keep the configuration in an annotation of the object");
pub const CHUNK: Flag = crate::kubectl::flags::int("chunk-size", "500", "Return large lists in chunks; 0 disables");

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    No,
    Client,
    Server,
}

impl DryRun {
    pub fn of(flags: &Flags) -> Result<Self> {
        match flags.text("dry-run") {
            "" | "none" | "false" => Ok(Self::No),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            "unchanged" => Err("--dry-run flag without a value was specified. A value must be set: \"none\", \"server\", or \"client\".".into()),
            other => Err(format!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\".").into()),
        }
    }

    /// What is said after an operation.
    pub fn note(self, operation: &str) -> String {
        match self {
            Self::No => operation.to_owned(),
            Self::Client => format!("{operation} (dry run)"),
            Self::Server => format!("{operation} (server dry run)"),
        }
    }
}

/// The query of a write.
pub fn write_query(flags: &Flags, manager: &str, dry_run: DryRun) -> Result<Query> {
    let mut query = Query::new();
    let manager = flags.some("field-manager").unwrap_or(manager);
    if !manager.is_empty() {
        query.push(("fieldManager", manager.to_owned()));
    }
    if dry_run == DryRun::Server {
        query.push(("dryRun", "All".into()));
    }
    if flags.text("validate") != "" {
        query.push(("fieldValidation", validation(flags)?.into()));
    }
    Ok(query)
}

fn validation(flags: &Flags) -> Result<&'static str> {
    match flags.text("validate") {
        "strict" | "true" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        other => Err(format!("invalid - validate option {}; must be one of: strict (or true), warn, ignore (or false)", go_quote(other)).into()),
    }
}

/// Creates an object where it belongs.
pub async fn create(session: &Session, info: &Info, query: &[(&'static str, String)]) -> Result<Value> {
    session.post(&with_query(&info.meant.path(Some(&info.namespace), None), query), &info.object).await
}

/// Puts the configuration as it is into the object's annotation, if asked for.
pub fn save_config(flags: &Flags, object: &mut Value) {
    if flags.on("save-config") {
        super::apply::annotate(object);
    }
}

/// A resource that every server has.
pub fn known(name: &str) -> Meant {
    builtin(name).unwrap_or_else(|| Meant::new("", "v1", name, name, true))
}

/// The pods that an object's selector chooses.
pub fn selector_of(object: &Value) -> Result<LabelSelector> {
    Ok(match object.at(&["spec", "selector"]) {
        Some(s) if s.get("matchLabels").is_some() || s.get("matchExpressions").is_some() => LabelSelector::from_value(Some(s))?,
        Some(plain) => LabelSelector::from_map(Some(plain)),
        None => LabelSelector::nothing(),
    })
}

/// Pods of a namespace that match.
pub async fn pods_matching(session: &Session, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let path = known("pods").path(Some(namespace), None);
    let list = session.get(&with_query(&path, &[("labelSelector", selector.to_owned())])).await?;
    Ok(list
        .list_at(&["items"])
        .iter()
        .map(|p| {
            let mut pod = p.clone();
            pod.set(&["apiVersion"], "v1");
            pod.set(&["kind"], "Pod");
            pod
        })
        .collect())
}

/// The pod that a word names: itself, or the first of a workload or a Service (`AttachablePodForObject`).
pub async fn pod_of(session: &Session, flags: &Flags, words: &[String]) -> Result<Info> {
    let words = match words {
        [one] if !one.contains('/') => vec!["pods".to_owned(), one.clone()],
        other => other.to_vec(),
    };
    let mut infos = Selection::of(session, flags).objects(&words).await?.all()?;
    if infos.len() != 1 {
        return Err(format!("expected 1 resource, got {}", infos.len()).into());
    }
    let info = infos.remove(0);
    if info.meant.kind == "Pod" {
        return Ok(info);
    }
    let pods = pods_of(session, &info).await?;
    let first = first_pod(pods).ok_or_else(|| Failure::from("timed out waiting for the condition"))?;
    Ok(Info::of(&known("pods"), first))
}

/// The pods of a workload or a Service.
pub async fn pods_of(session: &Session, info: &Info) -> Result<Vec<Value>> {
    let with_pods = ["ReplicationController", "ReplicaSet", "Deployment", "StatefulSet", "DaemonSet", "Job", "Service"];
    if !with_pods.contains(&info.meant.kind.as_str()) {
        return Err(format!("selector for {} not implemented", info.meant.kind).into());
    }
    let selector = selector_of(&info.object)?;
    if info.meant.kind == "Service" && selector.is_everything() {
        return Err("invalid service '{}': Service is defined without a selector".replace("{}", &info.name).into());
    }
    pods_matching(session, &info.namespace, &selector.to_string()).await
}

/// The pod to speak to: one that is ready and has been longest (`podutils.ActivePods`, reversed).
pub fn first_pod(mut pods: Vec<Value>) -> Option<Value> {
    pods.sort_by_key(|p| {
        let unscheduled = p.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty();
        let phase = match p.str_at(&["status", "phase"]) {
            Some("Pending") => 2,
            Some("Running") => 0,
            _ => 1,
        };
        (unscheduled, phase, !is_ready(p), p.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned())
    });
    pods.into_iter().next()
}

fn is_ready(pod: &Value) -> bool {
    pod.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The container that is meant when none is named.
pub fn default_container(pod: &Value) -> Option<String> {
    let containers = pod.list_at(&["spec", "containers"]);
    let named = pod
        .str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"])
        .filter(|n| containers.iter().any(|c| c.str_at(&["name"]) == Some(n)));
    named.or_else(|| containers.first().and_then(|c| c.str_at(&["name"]))).map(str::to_owned)
}

/// All containers of a pod, of every kind.
pub fn container_names(pod: &Value) -> Vec<String> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.iter().flat_map(|l| pod.list_at(&["spec", l])).filter_map(|c| c.str_at(&["name"])).map(str::to_owned).collect()
}

/// Path of the pod spec in an object that has one.
pub fn pod_spec_path(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Pod" => Some(&["spec"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        "PodTemplate" => Some(&["template", "spec"]),
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => Some(&["spec", "template", "spec"]),
        _ => None,
    }
}

/// `key=value` words and `key-` words, apart from resources.
pub fn split_changes(words: &[String]) -> (Vec<String>, Vec<String>) {
    let first = words.iter().position(|w| (w.contains('=') && !w.starts_with('=')) || (w.ends_with('-') && w.len() > 1));
    let (resources, changes) = words.split_at(first.unwrap_or(words.len()));
    (resources.to_vec(), changes.to_vec())
}

/// Prints what a printer made, with no newline of our own.
pub fn out(text: &str) -> Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Sleeps for the `--timeout` of a verb at most.
pub async fn within<T>(limit: Option<std::time::Duration>, work: impl Future<Output = Result<T>>, late: impl FnOnce() -> Failure) -> Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| late())?,
        None => work.await,
    }
}
