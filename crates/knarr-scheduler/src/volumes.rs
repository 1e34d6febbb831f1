//! What claims demand of a node: where their volumes can be used, and which of the volumes that lie ready a claim can get there.
//! Pure. Upstream: the plugins `VolumeBinding`, `VolumeZone` and `VolumeRestrictions`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use knarr_core::quantity::Quantity;
use knarr_core::selector::LabelSelector;

use crate::cluster::Cluster;
use crate::filter::Refusal;
use crate::node::NodeState;
use crate::pod::PodInfo;
use crate::terms::{Term, terms};

/// A class of this provisioner only has volumes that somebody made beforehand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of a volume that say where it can be used. Several values stand in one, parted by `__`.
const ZONES: [&str; 4] =
    ["topology.kubernetes.io/zone", "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region"];

/// What a claim demands of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    pub bound: bool,
    /// Its class binds when the first pod is scheduled.
    pub waits_for_consumer: bool,
    /// Somebody makes a volume for it if none lies ready.
    pub provisionable: bool,
    /// Only one pod may use it (`ReadWriteOncePod`).
    pub exclusive: bool,
    /// The node terms of the volume it is bound to.
    pub terms: Option<Vec<Term>>,
    /// The zones of the volume it is bound to.
    pub zones: Vec<(String, BTreeSet<String>)>,
    /// The volumes that suit it while it is not bound, the best first.
    pub candidates: Vec<Candidate>,
}

/// A volume that lies ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub name: String,
    pub terms: Option<Vec<Term>>,
}

impl Claim {
    /// Reads a claim. `volumes` are all there are.
    pub fn new(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], class: Option<&StorageClass>) -> Self {
        let spec = claim.spec.clone().unwrap_or_default();
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let named = spec.volume_name.as_deref().filter(|n| !n.is_empty());
        let volume = volumes.iter().find(|v| named.is_some() && v.metadata.name.as_deref() == named);
        let waits_for_consumer = class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        Self {
            bound,
            waits_for_consumer,
            provisionable: class.is_some_and(|c| c.provisioner != NO_PROVISIONER),
            exclusive: spec.access_modes.iter().flatten().any(|m| m == "ReadWriteOncePod"),
            terms: volume.and_then(node_terms),
            zones: volume.map(zones).unwrap_or_default(),
            candidates: if bound || !waits_for_consumer { Vec::new() } else { candidates(claim, volumes) },
        }
    }
}

fn node_terms(volume: &PersistentVolume) -> Option<Vec<Term>> {
    terms(volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref())
}

fn zones(volume: &PersistentVolume) -> Vec<(String, BTreeSet<String>)> {
    let labels = volume.metadata.labels.iter().flatten().filter(|(key, _)| ZONES.contains(&key.as_str()));
    labels.map(|(key, value)| (key.clone(), value.split("__").map(str::to_owned).collect())).collect()
}

fn storage(quantities: Option<&BTreeMap<String, ApiQuantity>>) -> Option<Quantity> {
    Quantity::from_str(&quantities?.get("storage")?.0).ok()
}

/// The volumes that suit a claim: one that is reserved for it, or else those with the fewest access modes, the smallest first.
fn candidates(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume]) -> Vec<Candidate> {
    let mut suiting: Vec<&PersistentVolume> = volumes.iter().filter(|v| suits(v, claim)).collect();
    let spec = |v: &PersistentVolume| v.spec.clone().unwrap_or_default();
    suiting.sort_by_cached_key(|v| {
        let spec = spec(v);
        (spec.claim_ref.is_none(), spec.access_modes.map_or(0, |m| m.len()), storage(spec.capacity.as_ref()), v.metadata.name.clone())
    });
    suiting.iter().filter_map(|v| Some(Candidate { name: v.metadata.name.clone()?, terms: node_terms(v) })).collect()
}

/// Upstream: `FindMatchingVolume`, but for the node.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (offered, wanted) = (volume.spec.clone().unwrap_or_default(), claim.spec.clone().unwrap_or_default());
    let mode = |mode: Option<String>| mode.unwrap_or_else(|| "Filesystem".into());
    let free = match &offered.claim_ref {
        None => matches!(volume.status.as_ref().and_then(|s| s.phase.as_deref()), None | Some("Available" | "Pending")),
        Some(of) => of.namespace == claim.metadata.namespace && of.name == claim.metadata.name && (of.uid.is_none() || of.uid == claim.metadata.uid),
    };
    let modes = offered.access_modes.unwrap_or_default();
    let selected = wanted.selector.as_ref().is_none_or(|selector| {
        let value = knarr_client::client::tree(selector).ok();
        LabelSelector::from_value(value.as_ref()).is_ok_and(|s| s.matches_map(volume.metadata.labels.as_ref()))
    });
    free && selected
        && volume.metadata.deletion_timestamp.is_none()
        && offered.storage_class_name.unwrap_or_default() == wanted.storage_class_name.unwrap_or_default()
        && mode(offered.volume_mode) == mode(wanted.volume_mode)
        && wanted.access_modes.iter().flatten().all(|m| modes.contains(m))
        && storage(offered.capacity.as_ref()) >= wanted.resources.as_ref().and_then(|r| storage(r.requests.as_ref()))
}

fn matches(terms: Option<&Vec<Term>>, node: &NodeState) -> bool {
    terms.is_none_or(|terms| terms.iter().any(|t| t.matches(node.name(), &node.facts.labels)))
}

/// Whether a pod's claims can be used on a node.
///
/// # Errors
/// Why not.
pub fn check(pod: &PodInfo, node: &NodeState, cluster: &Cluster) -> Result<(), Refusal> {
    for name in &pod.claims {
        let Some(claim) = cluster.volumes.get(&key(pod, name)) else {
            return Err(Refusal::final_("VolumeBinding", format!("persistentvolumeclaim \"{name}\" not found")));
        };
        if claim.exclusive {
            alone(pod, name, node, cluster)?;
        }
        if claim.bound {
            if !matches(claim.terms.as_ref(), node) {
                return Err(Refusal::final_("VolumeBinding", "node(s) didn't match PersistentVolume's node affinity"));
            }
            in_zone(claim, node)?;
        } else if !claim.waits_for_consumer {
            return Err(Refusal::final_("VolumeBinding", "pod has unbound immediate PersistentVolumeClaims"));
        }
    }
    match assign(pod, node, cluster) {
        Some(_) => Ok(()),
        None => Err(Refusal::final_("VolumeBinding", "node(s) didn't find available persistent volumes to bind")),
    }
}

fn key(pod: &PodInfo, claim: &str) -> String {
    format!("{}/{claim}", pod.namespace())
}

/// A claim of one pod only is used by nobody else.
fn alone(pod: &PodInfo, claim: &str, node: &NodeState, cluster: &Cluster) -> Result<(), Refusal> {
    const TEXT: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    let uses = |other: &PodInfo| other.uid != pod.uid && other.namespace() == pod.namespace() && other.claims.iter().any(|c| c == claim);
    if node.pods().any(|p| uses(p)) {
        return Err(Refusal::resolvable("VolumeRestrictions", TEXT));
    }
    let elsewhere = cluster.nodes().filter(|n| n.name() != node.name()).any(|n| n.pods().any(|p| uses(p)));
    if elsewhere { Err(Refusal::final_("VolumeRestrictions", TEXT)) } else { Ok(()) }
}

/// A node that is in no zone at all takes volumes of every zone.
fn in_zone(claim: &Claim, node: &NodeState) -> Result<(), Refusal> {
    if claim.zones.is_empty() || ZONES.iter().all(|key| node.label(key).is_none()) {
        return Ok(());
    }
    match claim.zones.iter().all(|(key, values)| node.label(key).is_some_and(|v| values.contains(v))) {
        true => Ok(()),
        false => Err(Refusal::final_("VolumeZone", "node(s) had no available volume zone")),
    }
}

/// For each of a pod's claims that wait for it: the volume it gets on this node; none: one is made. The outer none: there is no
/// volume for one of them.
pub fn assign<'a>(pod: &'a PodInfo, node: &NodeState, cluster: &Cluster) -> Option<Vec<(&'a str, Option<String>)>> {
    let mut given: Vec<(&str, Option<String>)> = Vec::new();
    for name in &pod.claims {
        let Some(claim) = cluster.volumes.get(&key(pod, name)).filter(|c| !c.bound && c.waits_for_consumer) else { continue };
        let is_given = |volume: &str| given.iter().any(|(_, v)| v.as_deref() == Some(volume));
        let found = claim.candidates.iter().find(|c| matches(c.terms.as_ref(), node) && !is_given(&c.name)).map(|c| c.name.clone());
        if found.is_none() && !claim.provisionable {
            return None;
        }
        given.push((name, found));
    }
    Some(given)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::node::NodeFacts;
    use crate::pod::testing::pod;

    fn node(name: &str, zone: &str) -> NodeFacts {
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
        NodeFacts::new(&serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "status": {}})).unwrap())
    }

    fn volume(name: &str, size: &str, host: &str) -> PersistentVolume {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "s", "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}, "status": {"phase": "Available"}}))
        .unwrap()
    }

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "c", "namespace": "d", "uid": "u"},
            "spec": {"storageClassName": "s", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
        value.as_object_mut().unwrap().extend(change.as_object().cloned().unwrap_or_default());
        serde_json::from_value(value).unwrap()
    }

    fn class(provisioner: &str) -> StorageClass {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})).unwrap()
    }

    fn user(name: &str, node: &str) -> PodInfo {
        pod(json!({"metadata": {"name": name, "uid": name, "namespace": "d"},
            "spec": {"nodeName": node, "containers": [{"name": "c"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}))
    }

    fn cluster(claim: Claim) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a", "z1"));
        cluster.set_node(node("b", "z2"));
        cluster.volumes.insert("d/c".into(), claim);
        cluster
    }

    fn outcome(cluster: &Cluster, node: &str) -> String {
        match check(&user("new", ""), cluster.node(node).unwrap(), cluster) {
            Ok(()) => "ok".into(),
            Err(refusal) => refusal.reasons.join(", "),
        }
    }

    #[test]
    fn a_claim_that_waits_gets_the_smallest_volume_of_the_node() {
        let volumes = [volume("large", "9Gi", "a"), volume("fit", "2Gi", "a"), volume("small", "1Gi", "b")];
        let fixed = cluster(Claim::new(&claim(json!({})), &volumes, Some(&class(NO_PROVISIONER))));
        assert_eq!((outcome(&fixed, "a"), outcome(&fixed, "b")), ("ok".into(), "node(s) didn't find available persistent volumes to bind".into()));
        let pod = user("new", "");
        assert_eq!(assign(&pod, fixed.node("a").unwrap(), &fixed), Some(vec![("c", Some("fit".into()))]));
        let made = cluster(Claim::new(&claim(json!({})), &volumes, Some(&class("x"))));
        assert_eq!(assign(&pod, made.node("b").unwrap(), &made), Some(vec![("c", None)]));
    }

    #[test]
    fn a_bound_claim_is_used_where_its_volume_is() {
        let mut volume = volume("v", "2Gi", "a");
        let bound = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        let c = cluster(Claim::new(&claim(bound.clone()), std::slice::from_ref(&volume), None));
        assert_eq!((outcome(&c, "a"), outcome(&c, "b")), ("ok".into(), "node(s) didn't match PersistentVolume's node affinity".into()));
        volume.spec.as_mut().unwrap().node_affinity = None;
        volume.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), "z2__z3".to_owned())].into());
        let c = cluster(Claim::new(&claim(bound), &[volume], None));
        assert_eq!((outcome(&c, "a"), outcome(&c, "b")), ("node(s) had no available volume zone".into(), "ok".into()));
        let c = cluster(Claim::new(&claim(json!({})), &[], None));
        assert_eq!(outcome(&c, "a"), "pod has unbound immediate PersistentVolumeClaims");
    }

    #[test]
    fn a_claim_of_one_pod_is_not_given_to_another() {
        let mut c = cluster(Claim { bound: true, exclusive: true, ..Claim::default() });
        assert_eq!(outcome(&c, "a"), "ok");
        c.place(Arc::new(user("first", "a")));
        let refused = |node: &str| check(&user("new", ""), c.node(node).unwrap(), &c).unwrap_err();
        assert!(refused("a").resolvable && !refused("b").resolvable);
        assert_eq!(refused("a").plugin, "VolumeRestrictions");
    }
}
