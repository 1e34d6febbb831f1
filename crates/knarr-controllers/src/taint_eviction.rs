//! Taint eviction: pods leave a node with a `NoExecute` taint that they do not tolerate, or when the time is over for which
//! they do. Upstream: `pkg/controller/tainteviction`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use knarr_client::events::reference;
use knarr_client::{Client, Deletion, EventKind, Informer, Key, Outcome, Recorder, read};
use knarr_core::Result;
use knarr_core::clock::Env;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::context::ControllerContext;
use crate::nodes::{self, NodeView, tolerates};
use crate::pods::{self, BY_NODE, PodItem, PodView, disruption};

pub fn start(context: &ControllerContext) {
    let client = context.client("node-controller");
    let this = Arc::new(Controller {
        nodes: nodes::informer(context),
        pods: pods::informer(context),
        recorder: context.recorder(&client, "taint-eviction-controller"),
        client,
        env: context.env.clone(),
        scheduled: Mutex::default(),
    });
    let queue = context.queue("noexec_taint_pod");
    let (me, woken) = (this.clone(), queue.clone());
    this.nodes.on_change(move |change| {
        let taints = |n: &Option<Arc<knarr_client::Item<NodeView>>>| {
            n.as_ref().map(|n| n.view.no_execute().into_iter().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        if taints(&change.old) != taints(&change.new) {
            me.pods.store().by_index(BY_NODE, change.key().name()).iter().for_each(|p| woken.add(p.key.clone()));
        }
    });
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| {
        let concerned = change.new.as_ref().is_some_and(|p| !me.taints_of(p).is_empty());
        if concerned || me.scheduled.lock().contains_key(change.key()) {
            woken.add(change.key().clone());
        }
    });
    context.run("taint-eviction", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    client: Client,
    recorder: Recorder,
    env: Env,
    /// Pods that are to leave later, and since when that is so.
    scheduled: Mutex<BTreeMap<Key, Timestamp>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    spec: WireSpec,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    tolerations: Vec<Toleration>,
}

/// What a pod is to do about its node's taints.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Stay,
    Leave,
    LeaveAfter(Duration),
}

/// Upstream: `processPodOnNode`.
fn decide(taints: &[Taint], tolerations: &[Toleration]) -> Decision {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Decision::Leave };
        if let Some(seconds) = toleration.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
        }
    }
    match shortest {
        None => Decision::Stay,
        Some(seconds) if seconds <= 0 => Decision::Leave,
        Some(seconds) => Decision::LeaveAfter(Duration::from_secs(seconds.unsigned_abs())),
    }
}

impl Controller {
    fn taints_of(&self, pod: &PodItem) -> Vec<Taint> {
        let node = pod.view.node.as_deref().and_then(|n| self.nodes.store().find("", n));
        node.map(|n| n.view.no_execute().into_iter().cloned().collect()).unwrap_or_default()
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let Some(pod) = self.pods.store().get(&key).filter(|p| p.view.deleting.is_none()) else {
            self.scheduled.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        let Wire { spec } = read::typed(&pod.object)?;
        match decide(&self.taints_of(&pod), &spec.tolerations) {
            Decision::Stay => {
                if self.scheduled.lock().remove(&key).is_some() {
                    self.tell(&pod, format!("Cancelling deletion of Pod {key}"))?;
                }
                Ok(Outcome::Done)
            }
            Decision::Leave => self.evict(&key, &pod).await,
            Decision::LeaveAfter(tolerated) => {
                let now = self.env.now();
                let since = *self.scheduled.lock().entry(key.clone()).or_insert(now);
                match Duration::try_from((since + tolerated).duration_since(now)) {
                    Ok(left) if !left.is_zero() => Ok(Outcome::After(left)),
                    _ => self.evict(&key, &pod).await,
                }
            }
        }
    }

    async fn evict(&self, key: &Key, pod: &PodItem) -> Result<Outcome> {
        self.scheduled.lock().remove(key);
        self.tell(pod, format!("Marking for deletion Pod {key}"))?;
        let text = "Taint manager: deleting due to NoExecute taint";
        let target = disruption::Target { reason: "DeletionByTaintManager", message: text, fail: false };
        disruption::mark(&self.client, pod, &target, self.env.now()).await?;
        match self.client.within::<Pod>(key.namespace()).delete(key.name(), &Deletion::of_uid(&*pod.view.uid)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }

    fn tell(&self, pod: &PodItem, text: String) -> Result<()> {
        let pod: Pod = pod.typed()?;
        self.recorder.event(&reference(&pod), EventKind::Normal, "TaintManagerEviction", text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use knarr_core::json;

    use super::*;
    use crate::context::testing::Harness;

    fn pod(name: &str, tolerations: knarr_core::Value) -> Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations}, "status": {"phase": "Running"}}))
        .unwrap()
    }

    fn leaving(harness: &Harness) -> Vec<String> {
        let pods = harness.api.read_all::<Pod>().into_iter().filter(|p| p.metadata.deletion_timestamp.is_some());
        pods.filter_map(|p| p.metadata.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pods_leave_when_their_patience_ends() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed_value(knarr_client::client::gvr::<Node>(), json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}}));
        harness.api.seed(&pod("calm", json!([{"operator": "Exists"}])));
        harness.api.seed(&pod("patient", json!([{"operator": "Exists", "tolerationSeconds": 300}])));
        harness.api.seed(&pod("strict", json!([])));
        harness.settle().await;
        let taint = |on: bool| {
            harness.api.change::<Node>("", "n", |n| {
                let taint = nodes::taint("x", "NoExecute", Timestamp::UNIX_EPOCH);
                n.spec.get_or_insert_default().taints = on.then(|| vec![taint]);
            });
        };
        taint(true);
        harness.settle().await;
        assert_eq!(leaving(&harness), ["strict"]);
        let strict: Pod = harness.api.read("a", "strict").unwrap();
        assert_eq!(strict.status.unwrap().conditions.unwrap()[0].reason.as_deref(), Some("DeletionByTaintManager"));
        tokio::time::sleep(Duration::from_secs(200)).await;
        taint(false);
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(leaving(&harness), ["strict"], "the taint went before patience ended");
        taint(true);
        tokio::time::sleep(Duration::from_secs(299)).await;
        assert_eq!(leaving(&harness), ["strict"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(leaving(&harness), ["patient", "strict"]);
    }
}
