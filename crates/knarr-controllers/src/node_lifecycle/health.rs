//! Signs of life of a node, and what becomes of one that shows none. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

use super::condition;
use crate::nodes::{NodeView, Truth};

/// How long a node may take until its first report (upstream: `--node-startup-grace-period`).
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// The conditions that go `Unknown` together.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was seen of a node, and when.
#[derive(Clone, Debug)]
pub struct Health {
    pub uid: Box<str>,
    ready: Option<(Truth, Option<Timestamp>)>,
    /// The last sign of life, by our own clock.
    seen: Timestamp,
}

impl Health {
    /// A node that never reported counts from its creation, any other from now.
    pub fn new(view: &NodeView, now: Timestamp) -> Self {
        Self { uid: view.uid.clone(), ready: view.ready, seen: if view.ready.is_none() { view.created } else { now } }
    }

    /// Takes in the node as it is now: a new heartbeat is a sign of life.
    pub fn observe(&mut self, view: &NodeView, now: Timestamp) {
        let heartbeat = |ready: Option<(Truth, Option<Timestamp>)>| ready.map(|(_, at)| at);
        if self.uid != view.uid {
            *self = Self::new(view, now);
        } else if heartbeat(self.ready) != heartbeat(view.ready) {
            self.seen = now;
        }
        self.ready = view.ready;
    }

    /// The node renewed its lease.
    pub fn renewed(&mut self, now: Timestamp) {
        self.seen = now;
    }

    /// When the next sign of life must have come.
    pub fn deadline(&self, grace: Duration) -> Timestamp {
        self.seen + if self.ready.is_some() { grace } else { STARTUP_GRACE }
    }
}

/// The node with all its conditions unknown; none when they are already.
pub fn unknown(node: &Node, now: Timestamp) -> Option<Node> {
    let mut changed = node.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut news = false;
    for kind in CONDITIONS {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            None => {
                let text = "Kubelet never posted node status.";
                conditions.push(condition(kind, "Unknown", "NodeStatusNeverUpdated", text, node.metadata.creation_timestamp.clone(), now));
                news = true;
            }
            Some(known) if known.status != "Unknown" => {
                let heartbeat = known.last_heartbeat_time.clone();
                *known = condition(kind, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", heartbeat, now);
                news = true;
            }
            Some(_) => {}
        }
    }
    news.then_some(changed)
}
