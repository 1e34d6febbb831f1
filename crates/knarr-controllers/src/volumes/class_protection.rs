//! Protection of VolumeAttributesClasses: one stays while a claim or a volume names it. The finalizer holds it, and goes when the
//! last user is gone. Upstream: `pkg/controller/volume/vacprotection`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use knarr_client::{Client, Informer, Key, Outcome, WorkQueue, client};
use knarr_core::Result;

use super::protection::{apply, decide};
use super::{ClaimView, claims};
use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::ownership::Owned;

const FINALIZER: &str = "kubernetes.io/vac-protection";
/// The name of what is protected in the [`Ledger`].
const OWN: &str = "own";

struct Controller {
    classes: Informer<Owned>,
    claims: Informer<ClaimView>,
    volumes: Informer<Owned>,
    client: Client,
    ledger: Ledger,
}

pub fn start(context: &ControllerContext) {
    let this = Arc::new(Controller {
        classes: context.informer::<VolumeAttributesClass, Owned>(),
        claims: claims(context),
        volumes: context.informer::<PersistentVolume, Owned>(),
        client: context.client("volumeattributesclass-protection-controller"),
        ledger: Ledger::default(),
    });
    let queue = context.queue("vac_protection");
    enqueue_all(&this.classes, &queue);
    let (me, woken) = (this.clone(), queue.clone());
    this.claims.on_change(move |_| me.wake(&woken));
    let (me, woken) = (this.clone(), queue.clone());
    this.volumes.on_change(move |_| me.wake(&woken));
    context.run("volumeattributesclass-protection", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    });
}

impl Controller {
    /// Somebody may have let go: those that wait for it are looked at.
    fn wake(&self, queue: &WorkQueue<Key>) {
        self.classes.store().list().iter().filter(|c| c.view.deleting).for_each(|c| queue.add(c.key.clone()));
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome> {
        if !self.ledger.caught_up(key, OWN, &self.classes).await {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.classes.store().get(key) else {
            self.ledger.forget(key);
            return Ok(Outcome::Done);
        };
        let mut class: VolumeAttributesClass = item.typed()?;
        let used = item.view.deleting && self.is_used(key.name())?;
        let action = decide(&class.metadata, FINALIZER, used);
        if apply(&mut class.metadata, FINALIZER, &action) {
            match self.client.all::<VolumeAttributesClass>().dynamic().update(client::tree(&class)?).await {
                Ok(object) => self.ledger.wrote(key, OWN, object.resource_version),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Done)
    }

    fn is_used(&self, class: &str) -> Result<bool> {
        for claim in self.claims.store().list() {
            if claim_names(&claim.typed()?, class) {
                return Ok(true);
            }
        }
        for volume in self.volumes.store().list() {
            let volume: PersistentVolume = volume.typed()?;
            if volume.spec.and_then(|s| s.volume_attributes_class_name).is_some_and(|name| name == class) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a claim wants the class, has it, or is on its way to it.
fn claim_names(claim: &PersistentVolumeClaim, class: &str) -> bool {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let names = [
        spec.and_then(|s| s.volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.current_volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref()),
    ];
    names.contains(&Some(class))
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn a_class_stays_while_a_claim_names_it() {
        let harness = Harness::new();
        start(&harness.context);
        for name in ["used", "free"] {
            harness.api.seed_value(
                client::gvr::<VolumeAttributesClass>(),
                json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": name}, "driverName": "d"}),
            );
        }
        harness.api.seed_value(
            client::gvr::<PersistentVolumeClaim>(),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "a"}, "spec": {"volumeAttributesClassName": "used"}}),
        );
        harness.settle().await;
        let names = || harness.api.read_all::<VolumeAttributesClass>().into_iter().filter_map(|c| c.metadata.name).collect::<Vec<_>>();
        let classes = harness.api.client().all::<VolumeAttributesClass>();
        for name in ["used", "free"] {
            assert_eq!(harness.api.read::<VolumeAttributesClass>("", name).unwrap().metadata.finalizers, Some(vec![FINALIZER.to_owned()]));
            classes.delete(name, &Default::default()).await.unwrap();
        }
        harness.settle().await;
        assert_eq!(names(), ["used"]);
        harness.api.client().within::<PersistentVolumeClaim>("a").delete("c", &Default::default()).await.unwrap();
        harness.settle().await;
        assert!(names().is_empty());
    }
}
