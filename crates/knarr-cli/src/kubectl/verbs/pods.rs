//! Pods behind what people name: those of a workload or a Service, the one to speak to, its containers.

use knarr_core::selector::LabelSelector;
use knarr_core::{Value, ValueExt};

use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::Flags;
use crate::kubectl::resources::known;
use crate::kubectl::select::{Info, Selection};
use crate::kubectl::session::{Session, with_query};

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
