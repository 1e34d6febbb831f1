//! The claims of a set's pods, and who owns them: by the retention policy nobody, the set, or a pod that was scaled away.
//! Pure. Upstream: `stateful_set_utils.go`.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{identity, plan};
use crate::ownership::controller_reference;

/// The claims of one ordinal, each with the name of its volume.
pub fn of(set: &StatefulSet, ordinal: i64) -> Vec<(String, PersistentVolumeClaim)> {
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let volume = template.metadata.name.clone().unwrap_or_default();
        let mut claim = template.clone();
        claim.status = None;
        claim.metadata.name = Some(format!("{volume}-{}", identity::pod_name(set, ordinal)));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(set.spec.selector.match_labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        (volume, claim)
    };
    templates.iter().map(claim).collect()
}

/// `(whenDeleted, whenScaled)`: whether claims are deleted then.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |field: Option<&String>| field.is_some_and(|p| p == "Delete");
    (deletes(policy.and_then(|p| p.when_deleted.as_ref())), deletes(policy.and_then(|p| p.when_scaled.as_ref())))
}

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

fn refers(reference: &OwnerReference, owner: &OwnerReference) -> bool {
    reference.api_version == owner.api_version && reference.kind == owner.kind && reference.name == owner.name
}

/// The two that may own a claim: the set and the pod.
struct Parties {
    set: OwnerReference,
    pod: OwnerReference,
}

impl Parties {
    fn of(set: &StatefulSet, pod: &Pod) -> Self {
        Self { set: controller_reference(set), pod: controller_reference(pod) }
    }

    /// A claim that belongs to an earlier set or pod of the same name: it is about to be collected.
    fn is_stale(&self, claim: &PersistentVolumeClaim) -> bool {
        let stale = |party: &OwnerReference| owners(claim).iter().find(|o| refers(o, party)).is_some_and(|o| o.uid != party.uid);
        stale(&self.set) || stale(&self.pod)
    }

    fn owned_by(claim: &PersistentVolumeClaim, party: &OwnerReference) -> bool {
        owners(claim).iter().any(|o| o.uid == party.uid)
    }

    /// Somebody else controls the claim: the policy is not ours to carry out.
    fn is_foreign(&self, claim: &PersistentVolumeClaim, (deleted, scaled): (bool, bool)) -> bool {
        let foreign = |o: &OwnerReference| match () {
            () if refers(o, &self.set) => o.uid != self.set.uid,
            () if refers(o, &self.pod) => o.uid != self.pod.uid,
            () => o.controller == Some(true),
        };
        (deleted || scaled) && owners(claim).iter().any(foreign)
    }

    /// Who should own the claim: `(set, pod)`.
    fn wanted((deleted, scaled): (bool, bool), condemned: bool) -> (bool, bool) {
        match (deleted, scaled) {
            (false, false) => (false, false),
            (true, false) => (true, false),
            (false, true) => (false, condemned),
            (true, true) => (!condemned, condemned),
        }
    }
}

/// Whether a claim of this pod still belongs to an earlier pod of its name.
pub fn is_stale(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let pod = controller_reference(pod);
    policy(set).1 && owners(claim).iter().find(|o| refers(o, &pod)).is_some_and(|o| o.uid != pod.uid)
}

/// What is wrong with the owners of a claim.
pub enum Verdict {
    Fine,
    /// The claim with the owners that it should have.
    Change(Box<PersistentVolumeClaim>),
    /// As before, and somebody else controls it.
    Conflict(Option<Box<PersistentVolumeClaim>>),
}

/// Upstream: `isClaimOwnerUpToDate`, `updateClaimOwnerRefForSetAndPod`.
pub fn judge(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Verdict {
    let (parties, policy) = (Parties::of(set, pod), policy(set));
    if parties.is_stale(claim) {
        return Verdict::Fine;
    }
    let ours = (Parties::owned_by(claim, &parties.set), Parties::owned_by(claim, &parties.pod));
    let mut changed = claim.clone();
    let kept: Vec<OwnerReference> = owners(claim).iter().filter(|o| !refers(o, &parties.set) && !refers(o, &parties.pod)).cloned().collect();
    if parties.is_foreign(claim, policy) {
        changed.metadata.owner_references = (!kept.is_empty()).then_some(kept);
        return Verdict::Conflict((ours != (false, false)).then(|| Box::new(changed)));
    }
    let wanted = Parties::wanted(policy, !plan::in_range(set, identity::ordinal(pod)));
    let uncontrolled = owners(claim).iter().any(|o| (o.uid == parties.set.uid || o.uid == parties.pod.uid) && o.controller != Some(true));
    if ours == wanted && !uncontrolled {
        return Verdict::Fine;
    }
    let mut owners = kept;
    owners.extend(wanted.1.then_some(parties.pod));
    owners.extend(wanted.0.then_some(parties.set));
    changed.metadata.owner_references = (!owners.is_empty()).then_some(owners);
    Verdict::Change(Box::new(changed))
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    fn set(deleted: &str, scaled: &str, replicas: i32) -> StatefulSet {
        serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "a", "uid": "s"},
            "spec": {"replicas": replicas, "selector": {}, "template": {}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}))
        .unwrap()
    }

    fn owners_after(set: &StatefulSet, owners: knarr_core::Value) -> Option<Vec<String>> {
        let pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "uid": "p"}})).unwrap();
        let claim =
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "d-web-0", "ownerReferences": owners}}))
                .unwrap();
        match judge(set, &pod, &claim) {
            Verdict::Change(claim) => Some(super::owners(&claim).iter().map(|o| o.uid.clone()).collect()),
            _ => None,
        }
    }

    #[test]
    fn the_policy_says_who_owns_a_claim() {
        assert_eq!(owners_after(&set("Retain", "Retain", 1), json!([])), None);
        assert_eq!(owners_after(&set("Delete", "Retain", 1), json!([])), Some(vec!["s".into()]));
        assert_eq!(owners_after(&set("Delete", "Delete", 1), json!([])), Some(vec!["s".into()]));
        assert_eq!(owners_after(&set("Delete", "Delete", 0), json!([])), Some(vec!["p".into()]));
        assert_eq!(owners_after(&set("Retain", "Delete", 1), json!([])), None);
        let ours = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s", "controller": true}]);
        assert_eq!(owners_after(&set("Retain", "Retain", 1), ours), Some(vec![]));
        let stale = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "earlier", "controller": true}]);
        assert_eq!(owners_after(&set("Delete", "Delete", 0), stale), None);
    }
}
