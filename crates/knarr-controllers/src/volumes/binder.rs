//! The binder: brings claims and volumes together, and takes volumes back when their claims are gone.
//! Upstream: `pkg/controller/volume/persistentvolume`.
//!
//! Claim and volume point at each other. The volume is written first, so that of two claims that want it one is refused;
//! whatever is interrupted is completed later from what is written already.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::events::reference;
use knarr_client::{Client, Deletion, EventKind, Informer, Key, Outcome, Recorder, client, read};
use knarr_core::Result;
use knarr_core::clock::Env;

use super::matching::{self, BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE, annotation};
use super::{ClaimView, claims, provision};
use crate::context::ControllerContext;
use crate::ledger::Ledger;
use crate::ownership::Owned;
use crate::pods::{self, BY_CLAIM, PodView};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Claim(Key),
    Volume(Key),
}

pub fn start(context: &ControllerContext) {
    let client = context.client("persistent-volume-binder");
    let this = Arc::new(Binder {
        claims: claims(context),
        volumes: context.informer::<PersistentVolume, Owned>(),
        classes: context.informer::<StorageClass, ()>(),
        pods: pods::informer(context),
        recorder: context.recorder(&client, "persistentvolume-controller"),
        client,
        env: context.env.clone(),
        ledger: Ledger::default(),
    });
    let queue = context.queue("persistentvolume");
    let woken = queue.clone();
    this.claims.on_change(move |change| {
        woken.add(Work::Claim(change.key().clone()));
        let volumes = [&change.old, &change.new].into_iter().flatten().filter_map(|c| c.view.volume.as_deref());
        volumes.for_each(|v| woken.add(Work::Volume(Key::new("", v))));
    });
    let (me, woken) = (this.clone(), queue.clone());
    this.volumes.on_change(move |change| {
        woken.add(Work::Volume(change.key().clone()));
        me.waiting().into_iter().for_each(|key| woken.add(Work::Claim(key)));
        let name = change.key().name();
        let bound = me.claims.store().list().into_iter().filter(|c| c.view.volume.as_deref() == Some(name));
        bound.for_each(|c| woken.add(Work::Claim(c.key.clone())));
    });
    let (me, woken) = (this.clone(), queue.clone());
    this.classes.on_change(move |_| me.waiting().into_iter().for_each(|key| woken.add(Work::Claim(key))));
    context.run("persistentvolume-binder", queue, move |work| {
        let this = this.clone();
        async move { this.work(work).await }
    });
}

struct Binder {
    claims: Informer<ClaimView>,
    volumes: Informer<Owned>,
    classes: Informer<()>,
    pods: Informer<PodView>,
    client: Client,
    recorder: Recorder,
    env: Env,
    ledger: Ledger,
}

impl Binder {
    /// Claims that have no volume yet.
    fn waiting(&self) -> Vec<Key> {
        self.claims.store().list().into_iter().filter(|c| !c.view.bound).map(|c| c.key.clone()).collect()
    }

    async fn work(&self, work: Work) -> Result<Outcome> {
        let key = match &work {
            Work::Claim(key) | Work::Volume(key) => key,
        };
        if !self.ledger.caught_up(key, CLAIMS, &self.claims).await || !self.ledger.caught_up(key, VOLUMES, &self.volumes).await {
            return Ok(Outcome::Retry);
        }
        match work {
            Work::Claim(key) => match self.claims.store().get(&key) {
                Some(item) => self.sync_claim(&key, item.typed()?).await?,
                None => self.ledger.forget(&key),
            },
            Work::Volume(key) => match self.volumes.store().get(&key) {
                Some(item) => self.sync_volume(&key, item.typed()?).await?,
                None => self.ledger.forget(&key),
            },
        }
        Ok(Outcome::Done)
    }

    fn volume(&self, name: &str) -> Result<Option<PersistentVolume>> {
        self.volumes.store().find("", name).map(|v| v.typed()).transpose()
    }

    fn tell(&self, about: &ObjectReference, kind: EventKind, reason: &str, message: &str) {
        self.recorder.event(about, kind, reason, message);
    }

    async fn sync_claim(&self, key: &Key, claim: PersistentVolumeClaim) -> Result<()> {
        if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
            return self.sync_bound_claim(key, claim).await;
        }
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
        match named {
            Some(name) => self.bind_named(key, claim, &name).await,
            None => self.bind_any(key, claim).await,
        }
    }

    async fn bind_named(&self, key: &Key, claim: PersistentVolumeClaim, name: &str) -> Result<()> {
        let Some(volume) = self.volume(name)? else { return self.write_phase(key, claim, "Pending", None).await };
        let about = reference(&claim);
        match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
            None => match matching::mismatch(&volume, &claim) {
                None => self.bind(key, volume, claim).await,
                Some(why) => {
                    self.tell(&about, EventKind::Warning, "VolumeMismatch", &format!("Cannot bind to requested volume {name:?}: {why}"));
                    self.write_phase(key, claim, "Pending", None).await
                }
            },
            Some(owner) if matching::refers_to(owner, &claim) => self.bind(key, volume, claim).await,
            Some(_) => {
                self.tell(&about, EventKind::Warning, "FailedBinding", &format!("volume {name:?} already bound to a different claim."));
                self.write_phase(key, claim, "Pending", None).await
            }
        }
    }

    async fn bind_any(&self, key: &Key, mut claim: PersistentVolumeClaim) -> Result<()> {
        let class: Option<StorageClass> = self.classes.store().find("", &matching::claim_class(&claim)).map(|c| c.typed()).transpose()?;
        let waits = class.as_ref().and_then(|c| c.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer");
        let chosen = annotation(&claim.metadata, SELECTED_NODE).is_some();
        let volumes: Vec<PersistentVolume> = self.volumes.store().list().iter().map(|v| v.typed()).collect::<Result<_>>()?;
        if let Some(volume) = matching::find(&claim, &volumes, waits) {
            return self.bind(key, volume.clone(), claim).await;
        }
        if self.take_default_class(key, &mut claim).await? {
            return Ok(());
        }
        let about = reference(&claim);
        match class {
            _ if waits && !chosen => {
                let (reason, message) = self.awaited_consumer(key);
                self.tell(&about, EventKind::Normal, reason, &message);
            }
            Some(class) => return self.provision(key, claim, class).await,
            None if !matching::claim_class(&claim).is_empty() => {
                let text = format!("storageclass.storage.k8s.io {:?} not found", matching::claim_class(&claim));
                self.tell(&about, EventKind::Warning, "ProvisioningFailed", &text);
                return Ok(());
            }
            None => self.tell(&about, EventKind::Normal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"),
        }
        self.write_phase(key, claim, "Pending", None).await
    }

    /// Upstream: `emitEventForUnboundDelayBindingClaim`.
    fn awaited_consumer(&self, key: &Key) -> (&'static str, String) {
        let pods = self.pods.store().by_index(BY_CLAIM, key.as_str());
        let names: Vec<&str> = pods.iter().filter(|p| !p.view.is_over() && p.view.node.is_none()).map(|p| p.key.name()).collect();
        match names.as_slice() {
            [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".into()),
            [one] => ("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
            many => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
        }
    }

    /// A claim made before there was a default class gets it now.
    async fn take_default_class(&self, key: &Key, claim: &mut PersistentVolumeClaim) -> Result<bool> {
        if claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some()) || !matching::claim_class(claim).is_empty() {
            return Ok(false);
        }
        let classes: Vec<StorageClass> = self.classes.store().list().iter().map(|c| c.typed()).collect::<Result<_>>()?;
        let is_default = |c: &&StorageClass| DEFAULT_CLASS.iter().any(|key| annotation(&c.metadata, key) == Some("true"));
        // The newest of several, as the admission does it.
        let newest = classes
            .iter()
            .filter(is_default)
            .max_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp).then(b.metadata.name.cmp(&a.metadata.name)));
        let Some(class) = newest else { return Ok(false) };
        claim.spec.get_or_insert_default().storage_class_name.clone_from(&class.metadata.name);
        self.write_claim(key, claim).await.map(|_| true)
    }

    async fn provision(&self, key: &Key, mut claim: PersistentVolumeClaim, class: StorageClass) -> Result<()> {
        let about = reference(&claim);
        if provision::mark(&mut claim, &class.provisioner) {
            claim = self.write_claim(key, &claim).await?;
        }
        if class.provisioner != provision::LOCAL_PROVISIONER {
            self.tell(&about, EventKind::Normal, "ExternalProvisioning", &provision::waiting_for(&class.provisioner));
            return self.write_phase(key, claim, "Pending", None).await;
        }
        let volume = provision::local_volume(&claim, &class);
        let name = volume.metadata.name.clone().unwrap_or_default();
        match self.client.all::<PersistentVolume>().dynamic().create(client::tree(&volume)?).await {
            Ok(object) => {
                self.ledger.wrote(key, VOLUMES, object.resource_version);
                let text = format!("Successfully provisioned volume {name} using {}", class.provisioner);
                self.tell(&about, EventKind::Normal, "ProvisioningSucceeded", &text);
                self.bind(key, read::typed(&object)?, claim).await
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let text = format!("Failed to provision volume with StorageClass {:?}: {error}", class.metadata.name.unwrap_or_default());
                self.tell(&about, EventKind::Warning, "ProvisioningFailed", &text);
                Err(error)
            }
        }
    }

    async fn sync_bound_claim(&self, key: &Key, claim: PersistentVolumeClaim) -> Result<()> {
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default();
        if name.is_empty() {
            return self.lose(key, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!").await;
        }
        let Some(volume) = self.volume(&name)? else {
            return self.lose(key, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!").await;
        };
        match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
            None => self.bind(key, volume, claim).await,
            Some(owner) if owner.uid == claim.metadata.uid => self.bind(key, volume, claim).await,
            Some(_) => self.lose(key, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly").await,
        }
    }

    async fn lose(&self, key: &Key, claim: PersistentVolumeClaim, reason: &str, message: &str) -> Result<()> {
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost") {
            let about = reference(&claim);
            self.write_phase(key, claim, "Lost", None).await?;
            self.tell(&about, EventKind::Warning, reason, message);
        }
        Ok(())
    }

    /// The four steps that make a pair. Each is left out when it is done already.
    async fn bind(&self, key: &Key, mut volume: PersistentVolume, mut claim: PersistentVolumeClaim) -> Result<()> {
        if point_volume_at(&mut volume, &claim) {
            let object = self.client.all::<PersistentVolume>().dynamic().update(client::tree(&volume)?).await?;
            self.ledger.wrote(key, VOLUMES, object.resource_version);
            volume = read::typed(&object)?;
        }
        let volume = self.write_volume_phase(key, volume, "Bound", "").await?;
        if point_claim_at(&mut claim, &volume) {
            claim = self.write_claim(key, &claim).await?;
        }
        self.write_phase(key, claim, "Bound", Some(&volume)).await
    }

    async fn write_claim(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim> {
        let object = self.client.within::<PersistentVolumeClaim>(key.namespace()).dynamic().update(client::tree(claim)?).await?;
        self.ledger.wrote(key, CLAIMS, object.resource_version);
        read::typed(&object)
    }

    async fn write_phase(&self, key: &Key, mut claim: PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Result<()> {
        let known = claim.status.clone().unwrap_or_default();
        let status = claim.status.get_or_insert_default();
        match volume.map(matching::volume_spec) {
            None => (status.access_modes, status.capacity, status.current_volume_attributes_class_name) = (None, None, None),
            Some(spec) => {
                status.access_modes = spec.access_modes;
                if known.phase.as_deref() != Some(phase) {
                    status.capacity = spec.capacity;
                    status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
                }
            }
        }
        status.phase = Some(phase.to_owned());
        if *status == known {
            return Ok(());
        }
        match self.client.within::<PersistentVolumeClaim>(key.namespace()).dynamic().update_status(client::tree(&claim)?).await {
            Ok(object) => self.ledger.wrote(key, CLAIMS, object.resource_version),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn write_volume_phase(&self, key: &Key, mut volume: PersistentVolume, phase: &str, message: &str) -> Result<PersistentVolume> {
        if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
            return Ok(volume);
        }
        let status = volume.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = (!message.is_empty()).then(|| message.to_owned());
        status.last_phase_transition_time = Some(Time(self.env.now()));
        let object = self.client.all::<PersistentVolume>().dynamic().update_status(client::tree(&volume)?).await?;
        self.ledger.wrote(key, VOLUMES, object.resource_version);
        read::typed(&object)
    }

    async fn sync_volume(&self, key: &Key, volume: PersistentVolume) -> Result<()> {
        let owner = volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
        let Some(owner) = owner.filter(|o| o.uid.as_deref().is_some_and(|u| !u.is_empty())) else {
            return self.write_volume_phase(key, volume, "Available", "").await.map(drop);
        };
        let (namespace, name) = (owner.namespace.clone().unwrap_or_default(), owner.name.clone().unwrap_or_default());
        let claim = match self.claims.store().find(&namespace, &name).map(|c| c.typed::<PersistentVolumeClaim>()).transpose()? {
            Some(claim) if claim.metadata.uid == owner.uid => Some(claim),
            // Our cache may be what is late: the API itself is asked before a volume is given up.
            _ => self.client.within::<PersistentVolumeClaim>(&namespace).find(&name).await?.filter(|c| c.metadata.uid == owner.uid),
        };
        let Some(claim) = claim else { return self.release(key, volume).await };
        let bound_to = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        if bound_to.is_empty() {
            // The claim's own turn completes the pair.
            return Ok(());
        }
        if Some(bound_to) == volume.metadata.name.as_deref() {
            return self.write_volume_phase(key, volume, "Bound", "").await.map(drop);
        }
        let provisioned = annotation(&volume.metadata, PROVISIONED_BY).is_some();
        let deletes = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
        if provisioned && deletes { self.release(key, volume).await } else { self.unbind(key, volume).await }
    }

    /// The claim went to another volume: this one is free again.
    async fn unbind(&self, key: &Key, mut volume: PersistentVolume) -> Result<()> {
        let ours = volume.metadata.annotations.as_mut().is_some_and(|a| a.remove(BOUND_BY_CONTROLLER).is_some());
        if let Some(spec) = &mut volume.spec {
            if ours {
                spec.claim_ref = None;
            } else if let Some(owner) = &mut spec.claim_ref {
                owner.uid = None;
            }
        }
        let object = self.client.all::<PersistentVolume>().dynamic().update(client::tree(&volume)?).await?;
        self.ledger.wrote(key, VOLUMES, object.resource_version);
        self.write_volume_phase(key, read::typed(&object)?, "Available", "").await.map(drop)
    }

    /// The claim is gone: the volume is released, and by its policy kept or deleted.
    async fn release(&self, key: &Key, mut volume: PersistentVolume) -> Result<()> {
        let phase = volume.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        if phase != "Released" && phase != "Failed" {
            volume = self.write_volume_phase(key, volume, "Released", "").await?;
        }
        let about = reference(&volume);
        let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.clone()).unwrap_or_else(|| "Retain".into());
        let provisioner = annotation(&volume.metadata, PROVISIONED_BY).map(str::to_owned);
        let is_csi = volume.spec.as_ref().is_some_and(|s| s.csi.is_some());
        match (policy.as_str(), provisioner.as_deref()) {
            ("Delete", Some(provision::LOCAL_PROVISIONER)) => {
                let name = volume.metadata.name.unwrap_or_default();
                match self.client.all::<PersistentVolume>().delete(&name, &Deletion::default()).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                }
            }
            // Whoever provisioned it deletes it.
            ("Delete", Some(_)) => Ok(()),
            ("Delete", None) if is_csi => Ok(()),
            ("Delete", None) if phase != "Failed" => {
                let text = format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                    volume.metadata.name.as_deref().unwrap_or_default()
                );
                self.write_volume_phase(key, volume, "Failed", &text).await?;
                self.tell(&about, EventKind::Warning, "VolumeFailedDelete", &text);
                Ok(())
            }
            ("Recycle", _) if phase != "Failed" => {
                let text = "No recycler plugin found for the volume!";
                self.write_volume_phase(key, volume, "Failed", text).await?;
                self.tell(&about, EventKind::Warning, "VolumeFailedRecycle", text);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Upstream: `GetBindVolumeToClaim`. False when the volume points there already.
fn point_volume_at(volume: &mut PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let spec = volume.spec.get_or_insert_default();
    let known = spec.claim_ref.as_ref();
    if known.is_some_and(|r| matching::refers_to(r, claim) && r.uid == claim.metadata.uid) {
        return false;
    }
    if known.is_none_or(|r| !matching::refers_to(r, claim)) {
        volume.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    spec.claim_ref = Some(provision::claim_reference(claim));
    true
}

/// False when the claim points there already.
fn point_claim_at(claim: &mut PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let spec = claim.spec.get_or_insert_default();
    let annotations = claim.metadata.annotations.get_or_insert_default();
    let mut changed = annotations.insert(BIND_COMPLETED.into(), "yes".into()).is_none();
    if spec.volume_name != volume.metadata.name {
        spec.volume_name.clone_from(&volume.metadata.name);
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, ValueExt, json};

    use super::*;
    use crate::context::testing::Harness;

    fn claim(harness: &Harness, change: impl FnOnce(&mut Value)) {
        let mut value = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "a"},
            "spec": {"storageClassName": "s", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        change(&mut value);
        harness.api.seed_value(client::gvr::<PersistentVolumeClaim>(), value);
    }

    fn volume(harness: &Harness, name: &str) {
        harness.api.seed_value(
            client::gvr::<PersistentVolume>(),
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "s", "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}}}),
        );
    }

    /// `(claim's phase, its volume, that volume's phase)`.
    fn state(harness: &Harness) -> (String, String, String) {
        let claim = harness.api.read::<PersistentVolumeClaim>("a", "c").unwrap();
        let name = claim.spec.unwrap().volume_name.unwrap_or_default();
        let phase = harness.api.read::<PersistentVolume>("", &name).and_then(|v| v.status).and_then(|s| s.phase);
        (claim.status.and_then(|s| s.phase).unwrap_or_default(), name, phase.unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_gets_a_volume_as_soon_as_there_is_one_and_gives_it_back() {
        let harness = Harness::new();
        start(&harness.context);
        claim(&harness, |_| {});
        harness.settle().await;
        assert_eq!(state(&harness).1, "");
        volume(&harness, "v");
        harness.settle().await;
        assert_eq!(state(&harness), ("Bound".into(), "v".into(), "Bound".into()));
        let bound = harness.api.read::<PersistentVolumeClaim>("a", "c").unwrap();
        assert_eq!(bound.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
        harness.api.client().within::<PersistentVolumeClaim>("a").delete("c", &Default::default()).await.unwrap();
        harness.settle().await;
        assert_eq!(harness.api.read::<PersistentVolume>("", "v").unwrap().status.unwrap().phase.as_deref(), Some("Released"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_local_claim_waits_for_its_pod_and_gets_a_folder_there() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed_value(
            client::gvr::<StorageClass>(),
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": provision::LOCAL_PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"}),
        );
        claim(&harness, |v| drop(v.remove(&["spec", "storageClassName"])));
        harness.settle().await;
        assert_eq!(state(&harness), ("Pending".into(), String::new(), String::new()));
        harness.api.change::<PersistentVolumeClaim>("a", "c", |c| {
            assert_eq!(c.spec.as_ref().unwrap().storage_class_name.as_deref(), Some("s"));
            c.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.into(), "n".into());
        });
        harness.settle().await;
        let (phase, name, _) = state(&harness);
        assert_eq!(phase, "Bound");
        let volume = client::tree(&harness.api.read::<PersistentVolume>("", &name).unwrap()).unwrap();
        assert_eq!(volume.str_at(&["spec", "hostPath", "path"]), Some(format!("/var/lib/knarr/volumes/{name}").as_str()));
        assert_eq!(volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"], json!(["n"]));
        harness.api.client().within::<PersistentVolumeClaim>("a").delete("c", &Default::default()).await.unwrap();
        harness.settle().await;
        assert!(harness.api.read_all::<PersistentVolume>().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_volume_is_gone_is_lost() {
        let harness = Harness::new();
        start(&harness.context);
        volume(&harness, "v");
        claim(&harness, |_| {});
        harness.settle().await;
        harness.api.client().all::<PersistentVolume>().delete("v", &Default::default()).await.unwrap();
        harness.settle().await;
        assert_eq!(state(&harness).0, "Lost");
    }
}
