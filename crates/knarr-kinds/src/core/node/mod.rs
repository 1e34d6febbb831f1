//! Nodes (upstream: `pkg/registry/core/node`).

pub mod validation;

use crate::cells::{Cells, NONE, UNKNOWN, age, name, text, text_or};
use std::collections::BTreeSet;

use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use crate::at;
use crate::disabled;
use crate::separation::{keep, status_update};
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::{entries, round_amounts, with};

pub struct Node;

impl Strategy for Node {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status().judges_prefix_again()
    }

    fn default(&self, node: &mut Value) {
        one_range_and_all(node);
        with(node, &["status"], |status| {
            round_amounts(status, &["capacity"]);
            round_amounts(status, &["allocatable"]);
            if status.at(&["allocatable"]).is_none()
                && let Some(capacity) = status.at(&["capacity"]).cloned()
            {
                status.set(&["allocatable"], capacity);
            }
        });
    }

    /// Unlike other kinds a Node may be created with status: its agent registers itself so.
    fn prepare_for_create(&self, _cx: &Context<'_>, node: &mut Value) {
        node.remove(&["spec", "configSource"]);
        node.remove(&["status", "config"]);
        disabled::drop(node, None, &["spec"], DISABLED);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, node: &mut Value, old: &Value) {
        keep(node, old, "status");
        disabled::drop(node, Some(old), &["spec"], DISABLED);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, node: &mut Value, old: &Value) {
        status_update(self.shape(), node, old);
        if old.at(&["status", "config"]).is_none() {
            node.remove(&["status", "config"]);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, node: &Value) -> ErrorList {
        at::check(node, validation::node)
    }

    fn validate_update(&self, _cx: &Context<'_>, node: &Value, old: &Value) -> ErrorList {
        at::check(node, |root, e| {
            validation::node(root, e);
            validation::update(root, old, e);
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, node: &Value, old: &Value) -> ErrorList {
        at::check(node, |root, e| validation::update(root, old, e))
    }

    fn warnings(&self, node: &Value, _old: Option<&Value>) -> Vec<String> {
        at::warn(node, validation::warn)
    }

    fn field(&self, node: &Value, name: &str) -> String {
        match name {
            "spec.unschedulable" => node.bool_at(&["spec", "unschedulable"]).unwrap_or(false).to_string(),
            _ => plain_field(node, name),
        }
    }

    fn cells(&self, node: &Value, now: Timestamp) -> Cells {
        let info = |field, otherwise| text_or(node, &["status", "nodeInfo", field], otherwise);
        let architecture = info("architecture", "");
        let kernel = info("kernelVersion", UNKNOWN);
        Some(vec![
            name(node),
            status(node).into(),
            roles(node).into(),
            age(node, now),
            info("kubeletVersion", "").into(),
            address(node, "InternalIP").into(),
            address(node, "ExternalIP").into(),
            info("osImage", UNKNOWN).into(),
            if architecture.is_empty() { kernel.into() } else { format!("{kernel} ({architecture})").into() },
            info("containerRuntimeVersion", UNKNOWN).into(),
        ])
    }
}

/// What no agent may set any more, or not yet.
const DISABLED: &[disabled::Gate] = &[&["configSource"], &["podPreemptionPolicy"]];

/// `podCIDR` is the first of `podCIDRs`, and counts when they differ.
fn one_range_and_all(node: &mut Value) {
    let one = text(node, &["spec", "podCIDR"]).to_owned();
    let first = node.list_at(&["spec", "podCIDRs"]).first().and_then(Value::as_str).map(str::to_owned);
    match first {
        Some(first) if one.is_empty() => node.set(&["spec", "podCIDR"], first),
        first if !one.is_empty() && first.as_deref() != Some(&one) => node.set(&["spec", "podCIDRs"], knarr_core::json!([one])),
        _ => {}
    }
}

fn status(node: &Value) -> String {
    let ready = node.list_at(&["status", "conditions"]).iter().rfind(|c| text(c, &["type"]) == "Ready");
    let state = match ready.map(|c| text(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let unschedulable = node.bool_at(&["spec", "unschedulable"]) == Some(true);
    if unschedulable { format!("{state},SchedulingDisabled") } else { state.into() }
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&str, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> = entries(node, &["metadata", "labels"]).filter_map(role).filter(|r| !r.is_empty()).collect();
    if roles.is_empty() { NONE.into() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    node.list_at(&["status", "addresses"]).iter().find(|a| text(a, &["type"]) == kind).map_or(NONE, |a| text(a, &["address"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_row_tells_state_and_roles() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}], "nodeInfo": {"kernelVersion": "6.1", "architecture": "amd64"}}});
        let row = Node.cells(&node, Timestamp::UNIX_EPOCH).unwrap();
        let texts: Vec<&str> = row.iter().filter_map(Value::as_str).collect();
        assert_eq!(texts, ["n", "Ready,SchedulingDisabled", "control-plane,x", "<unknown>", "", "1.2.3.4", "<none>", "<unknown>", "6.1 (amd64)", "<unknown>"]);
    }
}
