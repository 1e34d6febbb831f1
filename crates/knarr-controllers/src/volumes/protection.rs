//! Protection: a claim stays while a pod uses it, a volume while a claim is bound to it. Finalizers hold them, and go when the
//! last user is gone. Upstream: `pkg/controller/volume/pvcprotection`, `pvprotection`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_client::{Client, Informer, Key, Outcome, client};
use knarr_core::Result;
use knarr_core::clock::Env;

use super::{ClaimView, claims};
use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::ownership::Owned;
use crate::pods::{self, BY_CLAIM, PodItem, PodView};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// The name of what is protected in the [`Ledger`].
const OWN: &str = "own";

pub fn start(context: &ControllerContext) {
    start_claims(context);
    start_volumes(context);
}

struct Claims {
    claims: Informer<ClaimView>,
    pods: Informer<PodView>,
    client: Client,
    env: Env,
    ledger: Ledger,
}

fn start_claims(context: &ControllerContext) {
    let this = Arc::new(Claims {
        claims: claims(context),
        pods: pods::informer(context),
        client: context.client("pvc-protection-controller"),
        env: context.env.clone(),
        ledger: Ledger::default(),
    });
    let queue = context.queue("pvcprotection");
    enqueue_all(&this.claims, &queue);
    let woken = queue.clone();
    this.pods.on_change(move |change| {
        let facts = |p: &Option<PodItem>| p.as_ref().map(|p| (p.view.is_over(), p.view.node.is_some()));
        if facts(&change.old) != facts(&change.new) {
            let pod = change.item();
            pod.view.claims.iter().for_each(|claim| woken.add(Key::new(pod.key.namespace(), claim)));
        }
    });
    context.run("persistentvolumeclaim-protection", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

/// What is to be done about a protected object.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Protect,
    LetGo,
    Nothing,
}

pub fn decide(meta: &ObjectMeta, finalizer: &str, used: bool) -> Action {
    let protected = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match meta.deletion_timestamp {
        None if !protected => Action::Protect,
        Some(_) if protected && !used => Action::LetGo,
        _ => Action::Nothing,
    }
}

/// Tells whether anything is to be written.
pub fn apply(meta: &mut ObjectMeta, finalizer: &str, action: &Action) -> bool {
    let finalizers = meta.finalizers.get_or_insert_default();
    match action {
        Action::Protect => finalizers.push(finalizer.to_owned()),
        Action::LetGo => finalizers.retain(|f| f != finalizer),
        Action::Nothing => return false,
    }
    true
}

impl Claims {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        if !self.ledger.caught_up(&key, OWN, &self.claims).await {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.claims.store().get(&key) else {
            self.ledger.forget(&key);
            return Ok(Outcome::Done);
        };
        let mut claim: PersistentVolumeClaim = item.typed()?;
        let api = self.client.within::<PersistentVolumeClaim>(key.namespace());
        let pods = self.pods.store().by_index(BY_CLAIM, key.as_str());
        if !item.view.deleting && item.view.bound && self.note_use(&mut claim, pods.iter().any(|p| !p.view.is_over())) {
            let object = api.dynamic().update_status(client::tree(&claim)?).await?;
            self.ledger.wrote(&key, OWN, object.resource_version);
            claim = knarr_client::read::typed(&object)?;
        }
        // Only bound pods count: a node agent refuses a pod whose claim is being deleted.
        let used = pods.iter().any(|p| p.view.node.is_some());
        let action = decide(&claim.metadata, CLAIM_FINALIZER, used);
        if action == Action::LetGo && self.is_used_after_all(&key).await? {
            return Ok(Outcome::Done);
        }
        if apply(&mut claim.metadata, CLAIM_FINALIZER, &action) {
            match api.dynamic().update(client::tree(&claim)?).await {
                Ok(object) => self.ledger.wrote(&key, OWN, object.resource_version),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Done)
    }

    /// Waits until our view of pods is as new as the API: a pod may just have been bound.
    async fn is_used_after_all(&self, key: &Key) -> Result<bool> {
        let one = knarr_core::api::Options { limit: Some(1), ..Default::default() };
        let now = self.client.within::<k8s_openapi::api::core::v1::Pod>(key.namespace()).dynamic().list(&one).await?;
        if self.pods.progress().borrow().resource_version >= now.resource_version {
            return Ok(self.pods.store().by_index(BY_CLAIM, key.as_str()).iter().any(|p| p.view.node.is_some()));
        }
        // Bookmarks are rare: ask for the pods themselves rather than wait for one.
        let all = self.client.within::<k8s_openapi::api::core::v1::Pod>(key.namespace()).dynamic().list(&Default::default()).await?;
        let uses = |o: &knarr_core::Object| {
            <PodView as knarr_client::Project>::project(o).is_ok_and(|v| v.node.is_some() && v.claims.iter().any(|c| **c == *key.name()))
        };
        Ok(all.items.iter().any(uses))
    }

    /// The condition `Unused`: since when nobody uses the claim.
    fn note_use(&self, claim: &mut PersistentVolumeClaim, used: bool) -> bool {
        let (status, reason, message) = if used {
            ("False", "PodUsingPVC", "A pod is currently referencing this PVC")
        } else {
            ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC")
        };
        let conditions = claim.status.get_or_insert_default().conditions.get_or_insert_default();
        let wanted = PersistentVolumeClaimCondition {
            type_: "Unused".into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(self.env.now())),
            last_probe_time: None,
        };
        match conditions.iter_mut().find(|c| c.type_ == "Unused") {
            Some(known) if known.status == status => return false,
            Some(known) => *known = wanted,
            None => conditions.push(wanted),
        }
        true
    }
}

fn start_volumes(context: &ControllerContext) {
    let client = context.client("pv-protection-controller");
    let volumes = context.informer::<PersistentVolume, Owned>();
    let queue = context.queue("pvprotection");
    enqueue_all(&volumes, &queue);
    let ledger = Arc::new(Ledger::default());
    context.run("persistentvolume-protection", queue, move |key: Key| {
        let (client, volumes, ledger) = (client.clone(), volumes.clone(), ledger.clone());
        async move {
            if !ledger.caught_up(&key, OWN, &volumes).await {
                return Ok(Outcome::Retry);
            }
            let Some(item) = volumes.store().get(&key) else {
                ledger.forget(&key);
                return Ok(Outcome::Done);
            };
            let mut volume: PersistentVolume = item.typed()?;
            let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            let action = decide(&volume.metadata, VOLUME_FINALIZER, bound);
            if apply(&mut volume.metadata, VOLUME_FINALIZER, &action) {
                match client.all::<PersistentVolume>().dynamic().update(client::tree(&volume)?).await {
                    Ok(object) => ledger.wrote(&key, OWN, object.resource_version),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Outcome::Done)
        }
    });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use knarr_core::json;

    use super::*;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn a_claim_stays_while_a_bound_pod_uses_it() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed_value(
            client::gvr::<PersistentVolumeClaim>(),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "a"}, "spec": {}, "status": {"phase": "Bound"}}),
        );
        harness.api.seed_value(
            client::gvr::<Pod>(),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"},
                "spec": {"nodeName": "n", "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
        );
        harness.settle().await;
        let claim = || harness.api.read::<PersistentVolumeClaim>("a", "c");
        let protected = claim().unwrap();
        assert_eq!(protected.metadata.finalizers, Some(vec![CLAIM_FINALIZER.to_owned()]));
        assert_eq!(protected.status.unwrap().conditions.unwrap()[0].reason.as_deref(), Some("PodUsingPVC"));
        harness.api.client().within::<PersistentVolumeClaim>("a").delete("c", &Default::default()).await.unwrap();
        harness.settle().await;
        assert!(claim().is_some());
        let now = knarr_client::Deletion { grace_period_seconds: Some(0), ..Default::default() };
        harness.api.client().within::<Pod>("a").delete("p", &now).await.unwrap();
        harness.settle().await;
        assert!(claim().is_none());
    }
}
