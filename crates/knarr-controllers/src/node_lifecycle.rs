//! Node lifecycle: nodes that stop reporting become `Unknown`, conditions become taints, and nodes that are not ready lose
//! their pods, though not all at once ([`zones`]). Upstream: `pkg/controller/nodelifecycle`.
//!
//! Each node has one timer, at the end of its grace period; renewed leases move only the time it compares with.

mod health;
mod taints;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::events::reference;
use knarr_client::{Change, Client, EventKind, Informer, Item, Key, Outcome, Patch, Query, Recorder, WorkQueue, client};
use knarr_core::clock::Env;
use knarr_core::{Result, json};
use parking_lot::Mutex;

use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::nodes::{self, NodeView, Truth};
use crate::pods::{self, BY_NODE, PodView};
use health::{Health, STARTUP_GRACE};
use zones::Zones;

/// Where node agents renew their leases.
const LEASES: &str = "kube-node-lease";
/// The name of nodes in the [`Ledger`].
const NODES: &str = "nodes";
/// The labels that older clients read, and the ones they follow.
const OLD_LABELS: [(&str, &str); 2] = [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

pub fn start(context: &ControllerContext) {
    let client = context.client("node-controller");
    let this = Arc::new(Controller {
        nodes: nodes::informer(context),
        pods: pods::informer(context),
        leases: context.informers.get(Query::all::<Lease>().within(LEASES)),
        recorder: context.recorder(&client, "node-controller"),
        client,
        env: context.env.clone(),
        grace: context.config.node_grace_period,
        known: Mutex::default(),
        zones: Mutex::default(),
        ledger: Ledger::default(),
        queue: context.queue("node_lifecycle_controller"),
    });
    // Before the node is put into the queue, so that it counts when its turn comes.
    let me = this.clone();
    this.nodes.on_change(move |change| me.count(change));
    enqueue_all(&this.nodes, &this.queue);
    let me = this.clone();
    this.leases.on_change(move |change| {
        if let Some(health) = me.known.lock().get_mut(change.key().name()).filter(|_| change.new.is_some()) {
            health.renewed(me.env.now());
        }
    });
    let me = this.clone();
    this.pods.on_change(move |change| {
        // A pod that came to a node which is not ready is not ready either.
        let bound = change.new.as_ref().filter(|p| p.view.is_ready()).and_then(|p| p.view.node.as_deref());
        let node = bound.and_then(|n| me.nodes.store().find("", n));
        if let Some(node) = node.filter(|n| matches!(n.view.ready, Some((truth, _)) if truth != Truth::True)) {
            me.queue.add(node.key.clone());
        }
    });
    context.run("node-lifecycle", this.queue.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    leases: Informer<()>,
    client: Client,
    recorder: Recorder,
    env: Env,
    grace: Duration,
    known: Mutex<BTreeMap<String, Health>>,
    zones: Mutex<Zones>,
    ledger: Ledger,
    queue: WorkQueue<Key>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let Some(item) = self.nodes.store().get(&key) else {
            self.ledger.forget(&key);
            if let Some(gone) = self.known.lock().remove(key.name()) {
                nodes::tell(&self.recorder, key.name(), &gone.uid, "RemovingNode", &format!("Removing Node {key} from Controller"));
            }
            return Ok(Outcome::Done);
        };
        if !self.ledger.caught_up(&key, NODES, &self.nodes).await {
            return Ok(Outcome::Retry);
        }
        let item = self.nodes.store().get(&key).unwrap_or(item);
        let now = self.env.now();
        let (deadline, new) = self.observe(&key, &item.view, now);
        if new {
            nodes::tell(&self.recorder, key.name(), &item.view.uid, "RegisteredNode", &format!("Registered Node {key} in Controller"));
        }
        let mut node: Node = item.typed()?;
        let was_ready = item.view.is_ready();
        if deadline <= now && self.is_silent(&key).await? {
            if let Some(written) = self.mark_unknown(&key, &node, now).await? {
                node = written;
            }
        }
        let truth = taints::ready(&node);
        if was_ready && truth != Some(Truth::True) {
            nodes::tell_status(&self.recorder, key.name(), &item.view.uid, "NodeNotReady");
        }
        if truth.is_some_and(|t| t != Truth::True) {
            self.mark_pods_not_ready(&key).await?;
        }
        let wait = self.keep_taints(&key, &item, &node, truth, now).await?;
        self.keep_labels(&key, &node).await?;
        let until_silent = Duration::try_from(deadline.duration_since(now)).ok().filter(|d| !d.is_zero());
        let next = [wait, until_silent, truth.is_none().then_some(STARTUP_GRACE)].into_iter().flatten().min();
        Ok(Outcome::After(next.unwrap_or(self.grace)))
    }

    /// When the node must have shown a sign of life, and whether it was never seen before.
    fn observe(&self, key: &Key, view: &NodeView, now: Timestamp) -> (Timestamp, bool) {
        let mut known = self.known.lock();
        let new = !known.contains_key(key.name());
        let health = known.entry(key.name().to_owned()).or_insert_with(|| Health::new(view, now));
        health.observe(view, now);
        (health.deadline(self.grace), new)
    }

    /// Asks the API itself before a node is given up: our own cache may be what is late.
    async fn is_silent(&self, key: &Key) -> Result<bool> {
        let cached = self.leases.store().find(LEASES, key.name()).map(|l| l.object.resource_version);
        match self.client.within::<Lease>(LEASES).dynamic().get(key.name()).await {
            Ok(live) => Ok(cached == Some(live.resource_version)),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn mark_unknown(&self, key: &Key, node: &Node, now: Timestamp) -> Result<Option<Node>> {
        let Some(changed) = health::unknown(node, now) else { return Ok(None) };
        let object = self.client.all::<Node>().dynamic().update_status(client::tree(&changed)?).await?;
        self.ledger.wrote(key, NODES, object.resource_version);
        knarr_client::read::typed(&object).map(Some)
    }

    async fn mark_pods_not_ready(&self, node: &Key) -> Result<()> {
        for pod in self.pods.store().by_index(BY_NODE, node.name()).into_iter().filter(|p| p.view.is_ready()) {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": knarr_core::time::format(self.env.now())});
            let patch = json!({"metadata": {"uid": &*pod.view.uid}, "status": {"conditions": [condition]}});
            match self.client.within::<Pod>(pod.key.namespace()).dynamic().patch_status(pod.key.name(), Patch::strategic(patch)).await {
                Err(error) if error.is_not_found() => continue,
                other => drop(other?),
            }
            let about: Pod = pod.typed()?;
            self.recorder.event(&reference(&about), EventKind::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    /// Brings taints in line with conditions. Gives how long to wait until pods may be driven away from this node.
    async fn keep_taints(&self, key: &Key, item: &Item<NodeView>, node: &Node, truth: Option<Truth>, now: Timestamp) -> Result<Option<Duration>> {
        let mut wanted = taints::no_schedule(node, now);
        let drive_out = match truth {
            Some(Truth::False) => Some(nodes::NOT_READY),
            Some(Truth::Unknown) => Some(nodes::UNREACHABLE),
            _ => None,
        };
        let mut wait = None;
        if let Some(taint) = drive_out {
            match self.may_drive_out(key, item, &wanted) {
                Ok(true) => taints::put_no_execute(&mut wanted, taint, now),
                Ok(false) => taints::remove_no_execute(&mut wanted),
                Err(later) => wait = Some(later),
            }
        } else {
            taints::remove_no_execute(&mut wanted);
        }
        if node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default() != wanted {
            let object = nodes::write_taints(&self.client, node, &wanted).await?;
            self.ledger.wrote(key, NODES, object.resource_version);
        }
        Ok(wait)
    }

    /// Whether pods may be driven away now: not at all while every zone is down, and only so many nodes a minute else.
    fn may_drive_out(&self, key: &Key, item: &Item<NodeView>, taints: &[k8s_openapi::api::core::v1::Taint]) -> Result<bool, Duration> {
        let already = taints::has_no_execute(taints);
        let mut zones = self.zones.lock();
        if zones.all_down() {
            return Ok(false);
        }
        if already { Ok(true) } else { zones.admit(&nodes::zone_key(&item.object), key.name(), tokio::time::Instant::now()).map(|()| true) }
    }

    /// Counts a node in its zone; when the last zone fails or the first comes back everybody is looked at again.
    fn count(&self, change: &Change<NodeView>) {
        let excluded = |n: &Item<NodeView>| crate::ownership::label(&n.object, "node.kubernetes.io/exclude-disruption").is_some();
        let seen = change.new.as_ref().filter(|n| !excluded(n)).map(|n| (nodes::zone_key(&n.object), n.view.is_ready()));
        let (before, after) = self.zones.lock().note(change.key().name(), seen);
        if before == after {
            return;
        }
        if before {
            // Everybody was silent: perhaps it was us. All get a full grace period.
            let now = self.env.now();
            self.known.lock().values_mut().for_each(|h| h.renewed(now));
        }
        self.nodes.store().list().iter().for_each(|n| self.queue.add(n.key.clone()));
    }

    async fn keep_labels(&self, key: &Key, node: &Node) -> Result<()> {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let wrong = OLD_LABELS.iter().filter_map(|(new, old)| labels.get(*new).filter(|v| labels.get(*old) != Some(v)).map(|v| ((*old).to_owned(), v.clone())));
        let wrong: BTreeMap<String, String> = wrong.collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let object = self.client.all::<Node>().dynamic().patch(key.name(), Patch::merge(json!({"metadata": {"labels": wrong}}))).await?;
        self.ledger.wrote(key, NODES, object.resource_version);
        Ok(())
    }
}

/// A condition, ready to be put into a node.
fn condition(kind: &str, status: &str, reason: &str, message: &str, heartbeat: Option<Time>, now: Timestamp) -> NodeCondition {
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: heartbeat,
        last_transition_time: Some(Time(now)),
    }
}

#[cfg(test)]
mod tests;
