//! What the profiles of `kubectl debug` grant and take (`pkg/cmd/debug/profiles.go`), as plain changes of a pod.

use knarr_core::{Value, ValueExt, json};

use crate::kubectl::failure::Result;

/// How something is debugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Ephemeral,
    Copy,
    Node,
}

/// What a copy keeps of the pod.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    pub labels: bool,
    pub annotations: bool,
    pub liveness: bool,
    pub readiness: bool,
    pub startup: bool,
    pub init_containers: bool,
}

/// # Errors
/// There is no such profile.
pub fn check(profile: &str) -> Result<()> {
    let known = ["legacy", "general", "baseline", "restricted", "netadmin", "sysadmin"];
    if known.contains(&profile) { Ok(()) } else { Err(format!("unknown profile: {profile}").into()) }
}

/// Changes a pod as the profile says, for its container of that name in that list.
pub fn apply(profile: &str, pod: &mut Value, list: &str, name: &str, style: Style, keep: Keep) {
    let containers = pod.at_mut(&["spec", list]).and_then(Value::as_array_mut);
    if let Some(container) = containers.into_iter().flatten().find(|c| c.str_at(&["name"]) == Some(name)) {
        change_container(profile, container, style);
    }
    match (style, profile) {
        (Style::Node, "legacy" | "general" | "sysadmin") => {
            see_root(pod, name);
            use_host(pod);
        }
        (Style::Node, "netadmin") => use_host(pod),
        (Style::Copy, "legacy") => drop(pod.remove(&["metadata", "labels"])),
        (Style::Copy, _) => {
            strip(pod, keep);
            if pod.at(&["spec", "shareProcessNamespace"]).is_none() {
                pod["spec"]["shareProcessNamespace"] = true.into();
            }
        }
        _ => {}
    }
}

fn change_container(profile: &str, container: &mut Value, style: Style) {
    match (profile, style) {
        ("general", Style::Node) | ("baseline", _) => drop(container.remove(&["securityContext"])),
        ("general", _) => add(container, &["SYS_PTRACE"]),
        ("netadmin", _) => add(container, &["NET_ADMIN", "NET_RAW"]),
        ("sysadmin", _) => container.set(&["securityContext", "privileged"], true),
        ("restricted", _) => {
            container["securityContext"] = json!({"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false,
                "seccompProfile": {"type": "RuntimeDefault"}});
        }
        _ => {}
    }
}

fn add(container: &mut Value, capabilities: &[&str]) {
    let list = container.ensure(&["securityContext", "capabilities", "add"]);
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().into_iter().for_each(|l| l.extend(capabilities.iter().map(|c| json!(c))));
}

fn use_host(pod: &mut Value) {
    ["hostNetwork", "hostPID", "hostIPC"].iter().for_each(|key| pod["spec"][*key] = true.into());
}

/// The node's files, below `/host`.
fn see_root(pod: &mut Value, name: &str) {
    push(&mut pod["spec"], "volumes", json!({"name": "host-root", "hostPath": {"path": "/"}}));
    let containers = pod.at_mut(&["spec", "containers"]).and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter(|c| c.str_at(&["name"]) == Some(name)) {
        push(container, "volumeMounts", json!({"mountPath": "/host", "name": "host-root"}));
    }
}

fn push(object: &mut Value, list: &str, item: Value) {
    let list = object.ensure(&[list]);
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().into_iter().for_each(|l| l.push(item.clone()));
}

/// What would make a copy part of a workload, or end it.
fn strip(pod: &mut Value, keep: Keep) {
    for (kept, path) in
        [(keep.labels, ["metadata", "labels"]), (keep.annotations, ["metadata", "annotations"]), (keep.init_containers, ["spec", "initContainers"])]
    {
        if !kept {
            pod.remove(&path);
        }
    }
    for container in pod.at_mut(&["spec", "containers"]).and_then(Value::as_array_mut).into_iter().flatten() {
        for (kept, key) in [(keep.liveness, "livenessProbe"), (keep.readiness, "readinessProbe"), (keep.startup, "startupProbe")] {
            if !kept {
                container.remove(&[key]);
            }
        }
    }
}
