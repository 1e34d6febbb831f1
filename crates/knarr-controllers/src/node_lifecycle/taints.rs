//! Which taints follow from a node's conditions. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::nodes::{NOT_READY, Truth, UNREACHABLE, taint};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions and the taint that each value of them brings.
const BY_CONDITION: [(&str, Truth, &str); 6] = [
    ("Ready", Truth::False, NOT_READY),
    ("Ready", Truth::Unknown, UNREACHABLE),
    ("MemoryPressure", Truth::True, "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", Truth::True, "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", Truth::True, "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", Truth::True, "node.kubernetes.io/pid-pressure"),
];

/// The condition `Ready`.
pub fn ready(node: &Node) -> Option<Truth> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| Truth::of(&c.status))
}

/// The node's taints with those of effect `NoSchedule` that are ours brought in line with its conditions.
pub fn no_schedule(node: &Node, now: Timestamp) -> Vec<Taint> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let holds = |kind: &str, truth: Truth| conditions.iter().any(|c| c.type_ == kind && Truth::of(&c.status) == truth);
    let mut wanted: Vec<&str> = BY_CONDITION.iter().filter(|(kind, truth, _)| holds(kind, *truth)).map(|(_, _, key)| *key).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    let is_ours = |t: &Taint| t.effect == "NoSchedule" && (t.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| t.key == *key));
    let known = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut taints: Vec<Taint> = known.into_iter().filter(|t| !is_ours(t) || wanted.contains(&t.key.as_str())).collect();
    for key in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == "NoSchedule") {
            taints.push(taint(key, "NoSchedule", now));
        }
    }
    taints
}

fn drives_out(t: &Taint) -> bool {
    t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE)
}

pub fn has_no_execute(taints: &[Taint]) -> bool {
    taints.iter().any(drives_out)
}

pub fn remove_no_execute(taints: &mut Vec<Taint>) {
    taints.retain(|t| !drives_out(t));
}

/// One of the two; the other goes.
pub fn put_no_execute(taints: &mut Vec<Taint>, key: &str, now: Timestamp) {
    taints.retain(|t| !drives_out(t) || t.key == key);
    if !taints.iter().any(drives_out) {
        taints.push(taint(key, "NoExecute", now));
    }
}
