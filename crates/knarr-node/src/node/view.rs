//! What the agent knows of its own Node object: labels and taints, which others may change, and the pressure that it has found itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::Pressure;
use crate::admission::NodeFacts;
use crate::context::Context;

/// The node as it was last seen.
pub struct NodeView {
    object: RwLock<(BTreeMap<String, String>, Vec<Taint>)>,
    pressure: watch::Sender<Pressure>,
}

impl NodeView {
    /// The node as its configuration has it, before the API has been asked.
    pub fn new(labels: BTreeMap<String, String>, taints: Vec<Taint>) -> Self {
        Self { object: RwLock::new((labels, taints)), pressure: watch::channel(Pressure::default()).0 }
    }

    /// Takes in the API's object.
    pub fn see(&self, node: &Node) {
        let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        *self.object.write() = (node.metadata.labels.clone().unwrap_or_default(), taints);
    }

    pub fn pressure(&self) -> watch::Receiver<Pressure> {
        self.pressure.subscribe()
    }

    /// Gives whether it is news.
    pub fn set_pressure(&self, pressure: Pressure) -> bool {
        self.pressure.send_if_modified(|old| {
            let news = *old != pressure;
            *old = pressure;
            news
        })
    }

    /// Runs something with the node as admission sees it.
    pub fn with_facts<T>(&self, context: &Context, run: impl FnOnce(&NodeFacts<'_>) -> T) -> T {
        let object = self.object.read();
        let (allocatable, pressure) = (context.allocatable(), self.pressure.borrow().clone());
        run(&NodeFacts {
            name: &context.config.node_name,
            labels: &object.0,
            taints: &object.1,
            allocatable: &allocatable,
            pressure: &pressure,
            kernel: &context.machine.kernel_version,
            allowed_sysctls: &context.config.allowed_unsafe_sysctls,
        })
    }
}
