//! Which volume suits a claim. Pure. Upstream: `storage/volume/helpers.go` (`FindMatchingVolume`).

use std::str::FromStr;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec};
use knarr_core::quantity::Quantity;

use crate::ownership;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The class of old objects.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub fn claim_spec(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimSpec {
    claim.spec.clone().unwrap_or_default()
}

pub fn volume_spec(volume: &PersistentVolume) -> PersistentVolumeSpec {
    volume.spec.clone().unwrap_or_default()
}

pub fn annotation<'a>(meta: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The name of the claim's class; empty when it has none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> String {
    let own = claim.spec.as_ref().and_then(|s| s.storage_class_name.clone());
    annotation(&claim.metadata, CLASS).map(str::to_owned).or(own).unwrap_or_default()
}

fn volume_class(volume: &PersistentVolume) -> String {
    let own = volume.spec.as_ref().and_then(|s| s.storage_class_name.clone());
    annotation(&volume.metadata, CLASS).map(str::to_owned).or(own).unwrap_or_default()
}

fn storage(quantities: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> Option<Quantity> {
    Quantity::from_str(&quantities?.get("storage")?.0).ok()
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())
}

fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    storage(volume.spec.as_ref()?.capacity.as_ref())
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Whether a reference names this claim; with a uid it must be the very same.
pub fn refers_to(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// Why a volume that was asked for by name does not suit (upstream: `checkVolumeSatisfyClaim`).
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (wanted, offered) = (claim_spec(claim), volume_spec(volume));
    let modes = offered.access_modes.unwrap_or_default();
    match () {
        () if volume.metadata.deletion_timestamp.is_some() => Some("the volume is marked for deletion"),
        () if capacity(volume) < requested(claim) => Some("requested PV is too small"),
        () if volume_class(volume) != claim_class(claim) => Some("storageClassName does not match"),
        () if mode(wanted.volume_mode.as_ref()) != mode(offered.volume_mode.as_ref()) => Some("incompatible volumeMode"),
        () if !wanted.access_modes.iter().flatten().all(|m| modes.contains(m)) => Some("incompatible accessMode"),
        () => None,
    }
}

/// The volume for a claim that asks for none by name: one that is reserved for it, or else the smallest that suits.
/// Claims whose binding is `delayed` only get what is reserved for them.
pub fn find<'a>(claim: &PersistentVolumeClaim, volumes: &'a [PersistentVolume], delayed: bool) -> Option<&'a PersistentVolume> {
    let reserved = |v: &&PersistentVolume| v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| refers_to(r, claim));
    let big_enough = |v: &&PersistentVolume| capacity(v) >= requested(claim);
    if let Some(volume) = volumes.iter().filter(reserved).find(|v| v.metadata.deletion_timestamp.is_none() && big_enough(v)) {
        return Some(volume);
    }
    if delayed {
        return None;
    }
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref()).map(ownership::selector);
    let free = volumes.iter().filter(|v| {
        let unreserved = v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none());
        let phase = v.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Available");
        let selected = selector.as_ref().is_none_or(|s| s.matches_map(v.metadata.labels.as_ref()));
        unreserved && selected && phase != "Released" && phase != "Failed" && mismatch(v, claim).is_none()
    });
    // The fewest access modes beyond those asked for, then the smallest (upstream goes through its index in this order).
    let modes = |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.access_modes.as_ref()).map_or(0, Vec::len);
    free.min_by(|a, b| modes(a).cmp(&modes(b)).then_with(|| capacity(a).cmp(&capacity(b))).then_with(|| a.metadata.name.cmp(&b.metadata.name)))
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, ValueExt, json};

    use super::*;

    fn volume(name: &str, size: &str, change: impl FnOnce(&mut Value)) -> PersistentVolume {
        let mut value = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s"}});
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "a", "uid": "u"},
            "spec": {"storageClassName": "s", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}}))
        .unwrap()
    }

    fn found(volumes: &[PersistentVolume]) -> Option<&str> {
        find(&claim(), volumes, false).and_then(|v| v.metadata.name.as_deref())
    }

    #[test]
    fn the_smallest_that_suits_is_taken_and_a_reserved_one_before_all() {
        let (small, fit, large) = (volume("small", "1Gi", |_| {}), volume("fit", "2Gi", |_| {}), volume("large", "2049Mi", |_| {}));
        assert_eq!(found(&[large.clone(), fit.clone(), small]), Some("fit"));
        let other = volume("other", "2Gi", |v| v.set(&["spec", "storageClassName"], "t"));
        let taken = volume("taken", "2Gi", |v| v.set(&["spec", "claimRef"], json!({"namespace": "a", "name": "x"})));
        assert_eq!(found(&[other, taken, large.clone()]), Some("large"));
        let reserved = volume("reserved", "9Gi", |v| v.set(&["spec", "claimRef"], json!({"namespace": "a", "name": "c"})));
        assert_eq!(found(&[fit, reserved, large]), Some("reserved"));
    }
}
