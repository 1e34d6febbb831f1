//! Nodes (upstream: `pkg/registry/core/node`).

use knarr_core::{Value, ValueExt};

use crate::separation::{keep, status_update};
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::{round_amounts, with};

pub struct Node;

impl Strategy for Node {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status()
    }

    fn default(&self, node: &mut Value) {
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
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, node: &mut Value, old: &Value) {
        keep(node, old, "status");
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, node: &mut Value, old: &Value) {
        status_update(self.shape(), node, old);
        if old.at(&["status", "config"]).is_none() {
            node.remove(&["status", "config"]);
        }
    }

    fn field(&self, node: &Value, name: &str) -> String {
        match name {
            "spec.unschedulable" => node.bool_at(&["spec", "unschedulable"]).unwrap_or(false).to_string(),
            _ => plain_field(node, name),
        }
    }
}
