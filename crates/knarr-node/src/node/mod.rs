//! The Node object and its lease: who we are, what we have, that we live (upstream: `kubelet_node_status.go`,
//! `component-helpers/apimachinery/lease`).

mod lease;
mod status;
mod view;

pub use lease::keep as keep_lease;
pub use view::NodeView;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Patch, client::tree};
use knarr_core::{Status, json};
use tokio::sync::Notify;

use crate::context::Context;
use crate::events::{Level, node_reference};
use status::{Facts, merge_patch, node_status};

/// How often the status is told though nothing has changed (upstream: `nodeStatusReportFrequency`).
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// How often images and disk are looked at (upstream: `nodeStatusUpdateFrequency`).
const LOOK_EVERY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// What may change about the node while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// Makes the Node and keeps its status. `port` is that of the node API, `looked` wakes it when something changed.
pub struct Registrar {
    pub context: Arc<Context>,
    pub port: u16,
    pub changed: Arc<Notify>,
}

impl Registrar {
    pub async fn run(self) {
        self.register().await;
        let name = self.context.config.node_name.clone();
        self.context.events.record(node_reference(&name, None), Level::Normal, "Starting", "Starting kubelet.");
        let mut told_at: Option<Timestamp> = None;
        let mut network = self.context.network.problem();
        let mut pressure = self.context.node.pressure();
        loop {
            match self.tell(told_at).await {
                Ok(true) => told_at = Some(self.context.env.now()),
                Ok(false) => {}
                Err(error) if error.is_not_found() => self.register().await,
                Err(error) => tracing::warn!(%error, "cannot write the node's status"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.changed.notified() => {}
                Ok(()) = network.changed() => {}
                Ok(()) = pressure.changed() => {}
            }
        }
    }

    /// Makes the Node object, or finds it made. Tries for ever: without it nothing can run here.
    async fn register(&self) {
        let nodes = self.context.client.all::<Node>();
        let mut pause = RETRY;
        loop {
            let node = self.initial().await;
            let result = match nodes.create(&node).await {
                Err(error) if error.is_already_exists() => self.adopt(&node).await,
                other => other.map(drop),
            };
            match result {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "cannot register the node"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Labels that we own are set on a Node that exists already (upstream: `updateDefaultLabels`).
    async fn adopt(&self, wanted: &Node) -> Result<(), Status> {
        let nodes = self.context.client.all::<Node>();
        let name = &self.context.config.node_name;
        let found = nodes.get(name).await?;
        let have = found.metadata.labels.unwrap_or_default();
        let missing: BTreeMap<_, _> = wanted.metadata.labels.iter().flatten().filter(|(k, v)| have.get(*k) != Some(*v)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        nodes.patch(name, Patch::strategic(json!({"metadata": {"labels": missing}}))).await.map(drop)
    }

    async fn initial(&self) -> Node {
        let config = &self.context.config;
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", config.hostname.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", status::architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", status::architecture()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        labels.extend(config.labels.clone());
        let mut annotations = BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]);
        annotations.extend(config.annotations.clone());
        Node {
            metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels), annotations: Some(annotations), ..Default::default() },
            spec: Some(NodeSpec {
                taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
                provider_id: config.provider_id.clone(),
                ..Default::default()
            }),
            status: Some(node_status(&self.facts().await, &Default::default())),
        }
    }

    async fn facts(&self) -> Facts<'_> {
        Facts {
            context: &self.context,
            port: self.port,
            images: self.context.runtime.list_images().await.unwrap_or_default(),
            pressure: self.context.node.pressure().borrow().clone(),
            network_problem: self.context.network.problem().borrow().clone(),
            now: self.context.env.now(),
        }
    }

    /// Writes what has changed, or everything that is due. Gives whether it wrote.
    async fn tell(&self, told_at: Option<Timestamp>) -> Result<bool, Status> {
        let nodes = self.context.client.all::<Node>();
        let name = &self.context.config.node_name;
        let node = nodes.get(name).await?;
        self.context.node.see(&node);
        let old = node.status.clone().unwrap_or_default();
        let new = node_status(&self.facts().await, &old);
        let due = told_at.is_none_or(|at| Duration::try_from(self.context.env.now().duration_since(at)).is_ok_and(|age| age >= REPORT_EVERY));
        if !due && !status::has_changed(&old, &new) {
            return Ok(false);
        }
        self.event_of_readiness(&node, &old, &new);
        let Some(patch) = merge_patch(&tree(&old)?, &tree(&new)?) else { return Ok(true) };
        nodes.patch_status(name, Patch::strategic(json!({"status": patch}))).await?;
        Ok(true)
    }

    fn event_of_readiness(&self, node: &Node, old: &k8s_openapi::api::core::v1::NodeStatus, new: &k8s_openapi::api::core::v1::NodeStatus) {
        let ready = |s: &k8s_openapi::api::core::v1::NodeStatus| s.conditions.iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.clone());
        if ready(old).is_some() && ready(old) != ready(new) {
            let reason = if ready(new).as_deref() == Some("True") { "NodeReady" } else { "NodeNotReady" };
            let name = &self.context.config.node_name;
            let about = node_reference(name, node.metadata.uid.as_deref());
            self.context.events.record(about, Level::Normal, reason, &format!("Node {name} status is now: {reason}"));
        }
    }
}

/// A tree with only those keys, for tests.
#[cfg(test)]
fn only(value: &knarr_core::Value, keys: &[&str]) -> knarr_core::Value {
    keys.iter().map(|k| ((*k).to_owned(), value[*k].clone())).collect::<knarr_core::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_only_what_differs() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "conditions": [{"type": "X", "status": "True"}, {"type": "Y", "status": "True"}], "gone": 1});
        let new = json!({"a": 1, "b": {"c": 1, "d": 3}, "conditions": [{"type": "X", "status": "True"}, {"type": "Y", "status": "False"}]});
        let patch = merge_patch(&old, &new).unwrap();
        assert_eq!(only(&patch, &["b", "conditions", "gone"]), json!({"b": {"d": 3}, "conditions": [{"type": "Y", "status": "False"}], "gone": null}));
        assert!(patch.get("a").is_none());
        assert_eq!(merge_patch(&new, &new), None);
    }
}
