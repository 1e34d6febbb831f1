//! DaemonSets: one pod on each node that fits. [`plan`] decides, [`template`] says what a pod looks like, this module observes
//! and executes. Upstream: `pkg/controller/daemon`.

mod plan;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use knarr_client::events::reference;
use knarr_client::{Change, Client, EventKind, Informer, Item, Key, Outcome, Recorder, WorkQueue, client};
use knarr_core::Result;
use knarr_core::clock::Env;
use parking_lot::Mutex;

use crate::batch::{is_namespace_terminating, slow_start};
use crate::context::{ControllerContext, enqueue_all};
use crate::hash::template_hash;
use crate::history::{self, History, REVISIONS};
use crate::ledger::Ledger;
use crate::node_affinity::{self, NodeFacts};
use crate::nodes::{self, NodeView, tolerates};
use crate::ownership::{self, Owned, label};
use crate::pods::{self, PodControl, PodItem, PodView, control::PODS};
use plan::{DaemonStatus, Fits, OnNode, Plan};

const OWN: &str = "daemonsets";
/// On revisions and pods: the hash of the template.
const HASH: &str = "controller-revision-hash";
/// Pods created or deleted in one go.
const BURST: usize = 250;
/// Pause before a failed pod is replaced again on the same node.
const FAILED_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));

pub fn start(context: &ControllerContext) {
    let client = context.client("daemon-set-controller");
    let recorder = context.recorder(&client, "daemonset-controller");
    let this = Arc::new(Controller {
        sets: context.informer::<DaemonSet, Owned>(),
        pods: pods::informer(context),
        nodes: nodes::informer(context),
        history: History::new(context, &client),
        control: PodControl { client: client.clone(), recorder: recorder.clone(), ledger: Ledger::default() },
        client,
        recorder,
        env: context.env.clone(),
        failures: Mutex::default(),
    });
    let queue = context.queue("daemonset");
    enqueue_all(&this.sets, &queue);
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| me.sets_of(change).into_iter().for_each(|key| woken.add(key)));
    this.clone().follow_nodes(queue.clone());
    context.run("daemonset", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    sets: Informer<Owned>,
    pods: Informer<PodView>,
    nodes: Informer<NodeView>,
    history: History,
    control: PodControl,
    client: Client,
    recorder: Recorder,
    env: Env,
    /// By set and node: how often in a row a pod failed, and when the last one was replaced.
    failures: Mutex<BTreeMap<(Key, String), (u32, Timestamp)>>,
}

impl Controller {
    fn sets_of(&self, change: &Change<PodView>) -> Vec<Key> {
        let owner = |pod: &Option<PodItem>| {
            let pod = pod.as_ref()?;
            let controller = pod.view.controller.as_deref().filter(|c| &*c.kind == "DaemonSet")?;
            Some(Key::new(pod.key.namespace(), &controller.name))
        };
        let mut keys: Vec<Key> = owner(&change.old).into_iter().chain(owner(&change.new)).collect();
        keys.dedup();
        if let Some(orphan) = change.new.as_ref().filter(|p| p.view.controller.is_none()) {
            let selects =
                |s: &Item<Owned>| s.typed::<DaemonSet>().is_ok_and(|d| ownership::labels_match(&orphan.object, &ownership::selector(&d.spec.selector)));
            keys.extend(self.sets.store().within(orphan.key.namespace()).iter().filter(|s| selects(s)).map(|s| s.key.clone()));
        }
        keys
    }

    /// A node that came or went, or whose labels or taints changed, concerns every set.
    fn follow_nodes(self: Arc<Self>, queue: WorkQueue<Key>) {
        let nodes = self.nodes.clone();
        nodes.on_change(move |change| {
            let facts = |node: &Option<Arc<Item<NodeView>>>| {
                node.as_ref().map(|n| {
                    let labels: Vec<(String, String)> =
                        knarr_schema::codec::meta(&n.object).labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                    (labels, n.view.taints.clone())
                })
            };
            if facts(&change.old) != facts(&change.new) {
                self.sets.store().list().iter().for_each(|s| queue.add(s.key.clone()));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let ledger = &self.control.ledger;
        if self.sets.store().get(&key).is_none() {
            ledger.forget(&key);
            self.failures.lock().retain(|(set, _), _| *set != key);
            return Ok(Outcome::Done);
        }
        let caught_up = ledger.caught_up(&key, PODS, &self.pods).await
            && ledger.caught_up(&key, OWN, &self.sets).await
            && ledger.caught_up(&key, REVISIONS, &self.history.revisions).await;
        if !caught_up {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.sets.store().get(&key) else { return Ok(Outcome::Done) };
        let set: DaemonSet = item.typed()?;
        if set.spec.selector == Default::default() {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&set), EventKind::Warning, "SelectingAll", text);
            return Ok(Outcome::Done);
        }
        if item.view.deleting {
            return Ok(Outcome::Done);
        }
        let (current, old, collisions) = self.revisions(&key, &set).await?;
        let hash = current.metadata.labels.as_ref().and_then(|l| l.get(HASH)).cloned().unwrap_or_default();
        let pods = self.claim(&key, &set).await?;
        let now = self.env.now();
        let on_nodes = self.on_nodes(&set, &pods);
        let facts = plan::Facts { set: &set, hash: &hash, generation: template::generation(&set), now };
        let may_replace = |node: &str| self.may_replace(&key, node, now);
        let Plan { create, delete, events, status } = plan::plan(&facts, &on_nodes, &may_replace);
        for (kind, reason, message) in events {
            self.recorder.event(&reference(&set), kind, reason, message);
        }
        let managed = self.execute(&key, &set, &hash, &create, &delete).await;
        if managed.is_ok() {
            self.clean_history(&key, &set, old, &pods).await?;
        }
        let status = DaemonStatus { collisions, ..status };
        self.write_status(&key, &set, &status).await?;
        managed?;
        Ok(self.next_look(&key, &set, &pods, &status, now))
    }

    fn next_look(&self, key: &Key, set: &DaemonSet, pods: &[PodItem], status: &DaemonStatus, now: Timestamp) -> Outcome {
        let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
        let available = (min_ready > 0 && status.ready != status.available).then(|| pods::next_available(pods, min_ready, now)).flatten();
        let failed = self.failures.lock().iter().filter(|((set, _), _)| set == key).filter_map(|(_, f)| remaining(*f, now)).min();
        [available, failed].into_iter().flatten().min().map_or(Outcome::Done, Outcome::After)
    }

    /// Whether a failed pod may be replaced on this node now; that it is counts as one more failure.
    fn may_replace(&self, key: &Key, node: &str, now: Timestamp) -> bool {
        let mut failures = self.failures.lock();
        let entry = failures.entry((key.clone(), node.to_owned())).or_insert((0, now));
        if entry.0 > 0 && remaining(*entry, now).is_some() {
            return false;
        }
        // A pod that lasted for twice the longest pause starts afresh.
        let lasted = now.duration_since(entry.1).as_secs() > 2 * i64::try_from(FAILED_BACKOFF.1.as_secs()).unwrap_or(i64::MAX);
        *entry = (if lasted { 1 } else { entry.0 + 1 }, now);
        true
    }

    /// The revision of the template as it is now, and the older ones.
    async fn revisions(&self, key: &Key, set: &DaemonSet) -> Result<(ControllerRevision, Vec<ControllerRevision>, Option<i32>)> {
        let ledger = &self.control.ledger;
        let template = &set.spec.template;
        let known = self.history.claim(key, set, &ownership::selector(&set.spec.selector), ledger).await?;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let (mut current, old): (Vec<_>, Vec<_>) = known.into_iter().partition(|r| history::holds(r, template));
        let next = old.iter().map(history::number).max().unwrap_or(0) + 1;
        // Of several that hold this template the newest stays.
        let Some(newest) = current.pop() else {
            let make = |n: i32| {
                let hash = template_hash(template, collisions.map(|_| n).or((n > 0).then_some(n)))?;
                history::new_revision(set, format!("{}-{hash}", key.name()), (HASH, &hash), template, next)
            };
            let (created, met) = self.history.create(key, ledger, collisions.unwrap_or(0), make).await?;
            return Ok((created, old, if met > 0 { Some(met) } else { collisions }));
        };
        for double in &current {
            self.history.delete(key, double).await?;
        }
        let newest = if history::number(&newest) < next { self.history.renumber(key, ledger, newest, next).await? } else { newest };
        Ok((newest, old, collisions))
    }

    async fn claim(&self, key: &Key, set: &DaemonSet) -> Result<Vec<PodItem>> {
        let ledger = &self.control.ledger;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let selector = ownership::selector(&set.spec.selector);
        let own = ownership::controllees(&self.pods, &uid);
        ledger.keep_deleted(key, |uid| own.iter().any(|p| *p.view.uid == *uid && p.view.deleting.is_none()));
        let candidates = own.into_iter().chain(ownership::orphans(&self.pods, key.namespace()));
        let claims = ownership::claim(&uid, false, candidates, |p| ownership::labels_match(&p.object, &selector));
        let mut owned = claims.owned;
        if !claims.adopt.is_empty() {
            ownership::may_adopt(&self.client.within::<DaemonSet>(key.namespace()), key.name(), &uid).await?;
        }
        let me = ownership::controller_reference(set);
        for pod in claims.adopt {
            if self.control.patch(key, pod.key.name(), ownership::adoption(&me, &pod.view.uid)).await? {
                owned.push(pod);
            }
        }
        for pod in claims.release {
            self.control.patch(key, pod.key.name(), ownership::release(&uid, &pod.view.uid)).await?;
        }
        Ok(owned)
    }

    /// Every node with what fits and what is there; and pods that wait for a node that is gone.
    fn on_nodes(&self, set: &DaemonSet, pods: &[PodItem]) -> Vec<OnNode> {
        let spec = set.spec.template.spec.clone().unwrap_or_default();
        let tolerations = template::tolerations(&spec);
        let mut by_node: BTreeMap<String, Vec<PodItem>> = BTreeMap::new();
        for pod in pods.iter().filter(|p| !(p.view.is_over() && p.view.deleting.is_some())) {
            if let Some(node) = template::target_node(pod) {
                by_node.entry(node).or_default().push(pod.clone());
            }
        }
        let mut on_nodes: Vec<OnNode> = Vec::new();
        for node in self.nodes.store().list() {
            let fits = fits(&spec, &tolerations, &node);
            on_nodes.push(self.on_node(node.key.name(), fits, by_node.remove(node.key.name()).unwrap_or_default(), set));
        }
        // Nodes that are gone: pods that were bound to them are the garbage collector's, those that wait are ours.
        for (name, waiting) in by_node {
            let waiting = waiting.into_iter().filter(|p| p.view.node.is_none()).collect();
            on_nodes.push(self.on_node(&name, Fits { run: false, stay: false }, waiting, set));
        }
        on_nodes
    }

    fn on_node(&self, name: &str, fits: Fits, pods: Vec<PodItem>, set: &DaemonSet) -> OnNode {
        let key = Key::new(set.metadata.namespace.as_deref().unwrap_or_default(), set.metadata.name.as_deref().unwrap_or_default());
        let doomed = pods.iter().map(|p| p.view.deleting.is_some() || self.control.ledger.is_deleted(&key, &p.view.uid)).collect();
        OnNode { name: name.to_owned(), fits, pods, doomed }
    }

    async fn execute(&self, key: &Key, set: &DaemonSet, hash: &str, create: &[String], delete: &[PodItem]) -> Result<()> {
        let about = reference(set);
        let pods: Vec<Pod> = create.iter().take(BURST).map(|node| template::pod(set, hash, node)).collect();
        let make = |i: usize| {
            let pod = &pods[i];
            let about = &about;
            async move {
                match self.control.create(key, about, pod).await {
                    Err(error) if is_namespace_terminating(&error) => Ok(()),
                    other => other.map(drop),
                }
            }
        };
        let (_, failure) = slow_start(pods.len(), make).await;
        let deletes = delete.iter().take(BURST).map(|p| self.control.delete(key, &about, p.key.name(), &p.view.uid));
        let deleted: Result<()> = futures::future::join_all(deletes).await.into_iter().collect();
        failure.map_or(deleted, Err)
    }

    async fn clean_history(&self, key: &Key, set: &DaemonSet, old: Vec<ControllerRevision>, pods: &[PodItem]) -> Result<()> {
        let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX);
        let mut excess = old.len().saturating_sub(limit);
        for revision in old {
            let hash = revision.metadata.labels.as_ref().and_then(|l| l.get(HASH)).cloned().unwrap_or_default();
            if excess == 0 || pods.iter().any(|p| label(&p.object, HASH) == Some(&hash)) {
                continue;
            }
            self.history.delete(key, &revision).await?;
            excess -= 1;
        }
        Ok(())
    }

    async fn write_status(&self, key: &Key, set: &DaemonSet, status: &DaemonStatus) -> Result<()> {
        if *status == DaemonStatus::of(set) {
            return Ok(());
        }
        let api = self.client.within::<DaemonSet>(key.namespace());
        let written = match api.dynamic().update_status(client::tree(&status.write(set.clone()))?).await {
            Err(error) if error.is_conflict() => {
                let fresh = api.get(key.name()).await?;
                api.dynamic().update_status(client::tree(&status.write(fresh))?).await
            }
            other => other,
        };
        match written {
            Ok(object) => self.control.ledger.wrote(key, OWN, object.resource_version),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// How long a failed pod's successor still has to wait.
fn remaining((failures, at): (u32, Timestamp), now: Timestamp) -> Option<Duration> {
    let pause = FAILED_BACKOFF.0.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(FAILED_BACKOFF.1);
    Duration::try_from((at + pause).duration_since(now)).ok().filter(|d| failures > 0 && !d.is_zero())
}

/// Whether a pod of this set should be on a node, and whether one that is there may stay (upstream: `NodeShouldRunDaemonPod`).
fn fits(spec: &k8s_openapi::api::core::v1::PodSpec, tolerations: &[Toleration], node: &Item<NodeView>) -> Fits {
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == node.key.name());
    if !named || !node_affinity::fits(spec, &NodeFacts::of(&node.object)) {
        return Fits { run: false, stay: false };
    }
    let tolerated =
        |effects: &[&str]| node.view.taints.iter().filter(|t| effects.contains(&t.effect.as_str())).all(|t| tolerations.iter().any(|o| tolerates(o, t)));
    let run = tolerated(&["NoSchedule", "NoExecute"]);
    Fits { run, stay: run || tolerated(&["NoExecute"]) }
}

#[cfg(test)]
mod tests;
