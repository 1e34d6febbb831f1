//! Disruption budgets: how many pods may be evicted at the moment. Upstream: `pkg/controller/disruption`.
//!
//! The eviction subresource takes from `status.disruptionsAllowed`; this controller computes it anew whenever a pod or the
//! budget changes. It also takes back the condition `DisruptionTarget` of pods whose eviction came to nothing.

mod plan;
mod scale;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use knarr_client::events::reference;
use knarr_client::{Client, EventKind, Informer, Key, Outcome, Patch, Project, Recorder, read};
use knarr_core::clock::Env;
use knarr_core::selector::LabelSelector;
use knarr_core::{Object, Result, Status, json, time};
use serde::Deserialize;

use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::ownership;
use crate::pods::{self, PodItem, PodView};
use crate::resources::Resources;
use scale::Scale;

const OWN: &str = "poddisruptionbudgets";
/// A pod that was to be disrupted and still stands after this time is told so.
const STALE: jiff::SignedDuration = plan::DELETION_TIMEOUT;

/// What the informer keeps of a budget.
struct BudgetView {
    selector: LabelSelector,
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
    selector: Option<knarr_core::Value>,
}

impl Project for BudgetView {
    fn project(object: &Object) -> Result<Self> {
        let wire: Wire = read::typed(object)?;
        let selector = match &wire.spec.selector {
            None => LabelSelector::nothing(),
            selector => LabelSelector::from_value(selector.as_ref()).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        Ok(Self { selector })
    }
}

pub fn start(context: &ControllerContext, resources: &Resources) {
    let client = context.client("disruption-controller");
    let this = Arc::new(Controller {
        budgets: context.informer::<PodDisruptionBudget, BudgetView>(),
        pods: pods::informer(context),
        scale: Scale { client: client.clone(), resources: resources.clone() },
        recorder: context.recorder(&client, "controllermanager"),
        client,
        env: context.env.clone(),
        ledger: Ledger::default(),
    });
    let queue = context.queue("disruption");
    enqueue_all(&this.budgets, &queue);
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| {
        for pod in [&change.old, &change.new].into_iter().flatten() {
            me.budgets_over(pod).into_iter().for_each(|key| woken.add(key));
        }
    });
    let me = this.clone();
    context.run("disruption", queue, move |key| {
        let this = me.clone();
        async move { this.reconcile(key).await }
    });
    start_stale(context, this);
}

/// Looks after pods that were to be disrupted and are still there.
fn start_stale(context: &ControllerContext, this: Arc<Controller>) {
    let queue = context.queue("stale_pod_disruption");
    let woken = queue.clone();
    this.pods.on_change(move |change| {
        if let Some(pod) = change.new.as_ref().filter(|p| is_stale_target(&p.view)) {
            woken.add(pod.key.clone());
        }
    });
    context.run("stale-pod-disruption", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile_stale(key).await }
    });
}

/// Whether a pod was to be taken away and still stands.
fn is_stale_target(pod: &PodView) -> bool {
    pod.disruption_target && pod.is_active()
}

struct Controller {
    budgets: Informer<BudgetView>,
    pods: Informer<PodView>,
    scale: Scale,
    client: Client,
    recorder: Recorder,
    env: Env,
    ledger: Ledger,
}

impl Controller {
    fn budgets_over(&self, pod: &PodItem) -> Vec<Key> {
        let budgets = self.budgets.store().within(pod.key.namespace());
        budgets.into_iter().filter(|b| ownership::labels_match(&pod.object, &b.view.selector)).map(|b| b.key.clone()).collect()
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        if !self.ledger.caught_up(&key, OWN, &self.budgets).await {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.budgets.store().get(&key) else {
            self.ledger.forget(&key);
            return Ok(Outcome::Done);
        };
        let budget: PodDisruptionBudget = item.typed()?;
        let pods: Vec<PodItem> =
            self.pods.store().within(key.namespace()).into_iter().filter(|p| ownership::labels_match(&p.object, &item.view.selector)).collect();
        let now = self.env.now();
        match self.compute(&budget, &pods, now).await {
            Ok((status, recheck)) => {
                self.write(&key, budget, status).await?;
                Ok(recheck.map_or(Outcome::Done, Outcome::After))
            }
            Err(error) => {
                let status = plan::failed(&budget, &error.message, now);
                self.write(&key, budget, status).await?;
                Err(error)
            }
        }
    }

    async fn compute(&self, budget: &PodDisruptionBudget, pods: &[PodItem], now: Timestamp) -> Result<(PodDisruptionBudgetStatus, Option<Duration>)> {
        let about = reference(budget);
        if pods.is_empty() {
            self.recorder.event(&about, EventKind::Normal, "NoPods", "No matching pods found");
        }
        let spec = budget.spec.clone().unwrap_or_default();
        let mut scale = 0;
        if plan::needs_scale(&spec) {
            let counted = self.scale.of(pods).await.inspect_err(|e| {
                let text = format!("Failed to calculate the number of expected pods: {}", e.message);
                self.recorder.event(&about, EventKind::Warning, "CalculateExpectedPodCountFailed", text);
            })?;
            if !counted.unmanaged.is_empty() {
                let text = "Pods selected by this PodDisruptionBudget have no controller: the status cannot be calculated correctly. \
                            Set \".spec.minAvailable\" to an integer value to account for them.";
                self.recorder.event(&about, EventKind::Warning, "UnmanagedPods", text);
            }
            scale = counted.replicas;
        }
        let wanted = plan::wanted(&spec, pods.len(), scale).map_err(Status::internal)?;
        let found = plan::disrupted(pods, budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref()), now);
        for pod in pods.iter().filter(|p| found.overdue.iter().any(|name| name == p.key.name())) {
            let text = format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", pod.key.namespace(), about.name.as_deref().unwrap_or_default());
            self.recorder.event(&reference(&pod.typed::<Pod>()?), EventKind::Warning, "NotDeleted", text);
        }
        let healthy = plan::healthy(pods, &found.pending);
        Ok((plan::status(budget, wanted, healthy, found.pending, now), found.recheck))
    }

    async fn write(&self, key: &Key, mut budget: PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Result<()> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        budget.status = Some(status);
        let api = self.client.within::<PodDisruptionBudget>(key.namespace());
        let written = api.dynamic().update_status(knarr_client::client::tree(&budget)?).await?;
        self.ledger.wrote(key, OWN, written.resource_version);
        Ok(())
    }

    async fn reconcile_stale(&self, key: Key) -> Result<Outcome> {
        let Some(item) = self.pods.store().get(&key).filter(|p| is_stale_target(&p.view)) else {
            return Ok(Outcome::Done);
        };
        let pod: Pod = item.typed()?;
        let conditions = pod.status.and_then(|s| s.conditions).unwrap_or_default();
        let Some(condition) = conditions.into_iter().find(|c| c.type_ == "DisruptionTarget" && c.status == "True") else {
            return Ok(Outcome::Done);
        };
        let now = self.env.now();
        let since = condition.last_transition_time.map_or(now, |t| t.0);
        let left = (since + STALE).duration_since(now);
        if left.is_positive() {
            return Ok(Outcome::After(Duration::try_from(left).unwrap_or_default()));
        }
        let status = json!({"metadata": {"uid": &*item.view.uid}, "status": {"conditions":
            [{"type": "DisruptionTarget", "status": "False", "reason": "", "message": "", "lastTransitionTime": time::format(now)}]}});
        match self.client.within::<Pod>(key.namespace()).dynamic().patch_status(key.name(), Patch::strategic(status)).await {
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(Outcome::Done),
            other => other.map(|_| Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use knarr_core::Value;

    use super::*;
    use crate::context::testing::Harness;

    fn seed(harness: &Harness, budget: Value) {
        let set: ReplicaSet = serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "r", "namespace": "a", "uid": "r"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}}}}))
        .unwrap();
        harness.api.seed(&set);
        for name in ["one", "two", "three"] {
            let pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "labels": {"app": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}, "spec": {"containers": []}}))
            .unwrap();
            harness.api.seed(&pod);
            harness.make_ready(&harness.api.read::<Pod>("a", name).unwrap());
        }
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "b", "namespace": "a", "generation": 1}, "spec": budget}))
        .unwrap();
        harness.api.seed(&budget);
    }

    fn status(harness: &Harness) -> PodDisruptionBudgetStatus {
        harness.api.read::<PodDisruptionBudget>("a", "b").unwrap().status.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_healthy_beyond_the_budget_may_go() {
        let harness = Harness::new();
        start(&harness.context, &Resources::new(&harness.context));
        seed(&harness, json!({"selector": {"matchLabels": {"app": "x"}}, "maxUnavailable": "34%"}));
        harness.settle().await;
        let found = status(&harness);
        assert_eq!((found.expected_pods, found.current_healthy, found.desired_healthy, found.disruptions_allowed), (Some(3), Some(3), Some(1), Some(2)));
        harness.api.change::<Pod>("a", "one", |p| p.status.as_mut().unwrap().conditions = None);
        harness.settle().await;
        assert_eq!(status(&harness).disruptions_allowed, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_eviction_that_came_to_nothing_counts_for_two_minutes() {
        let harness = Harness::new();
        start(&harness.context, &Resources::new(&harness.context));
        seed(&harness, json!({"selector": {"matchLabels": {"app": "x"}}, "minAvailable": 1}));
        harness.settle().await;
        let now = harness.context.env.now();
        harness.api.change::<PodDisruptionBudget>("a", "b", |b| {
            let evicted = [("one".to_owned(), k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now))];
            b.status.as_mut().unwrap().disrupted_pods = Some(evicted.into());
        });
        harness.settle().await;
        assert_eq!(status(&harness).disruptions_allowed, Some(1));
        tokio::time::sleep(Duration::from_secs(130)).await;
        assert_eq!((status(&harness).disruptions_allowed, status(&harness).disrupted_pods), (Some(2), None));
    }
}
