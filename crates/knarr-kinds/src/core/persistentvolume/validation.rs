//! What a volume may say (upstream: `ValidatePersistentVolume…` in `pkg/apis/core/validation`).

use knarr_core::field::{Error, ErrorList};
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt, names};
use knarr_schema::internal::Step;

use crate::at::At;
use crate::core::persistentvolumeclaim::validation::{VOLUME_MODES, access_modes};
use crate::metadata::IMMUTABLE;
use crate::pod::validation::{node_selector, volume_sources};
use crate::separation::keep_at;
use crate::tree::strings;
use crate::{difference, resource_names, semantic};

/// Sorted.
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];

/// Node labels that moved to a name of their own when they grew up.
const BETA_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
];

/// A new volume, or one after an update.
pub fn volume(root: &At, old: Option<&Value>, e: &mut ErrorList) {
    let spec = root.get("spec");
    spec.get("accessModes").require(e);
    access_modes(&spec.get("accessModes"), e);
    capacity(&spec.get("capacity"), e);
    if !spec.get("persistentVolumeReclaimPolicy").is_empty() {
        spec.get("persistentVolumeReclaimPolicy").if_set_one_of(e, &RECLAIM_POLICIES);
    }
    node_affinity(&spec.get("nodeAffinity"), old, e);
    volume_sources(&spec, root.get("metadata").str_of("name"), e);
    if spec.get("local").is_set() && !spec.get("nodeAffinity").is_set() {
        e.push(spec.get("nodeAffinity").required("Local volume requires node affinity"));
    }
    if spec.get("hostPath").get("path").str().trim_end_matches('/').is_empty()
        && spec.get("hostPath").is_set()
        && spec.str_of("persistentVolumeReclaimPolicy") == "Recycle"
    {
        e.push(spec.get("persistentVolumeReclaimPolicy").forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    spec.get("storageClassName").optional_name(e, names::is_dns1123_subdomain);
    spec.get("volumeMode").if_set_one_of(e, &VOLUME_MODES);
    attributes_class(&spec, e);
    mount_options(root, &spec, e);
}

/// The spec of a volume that is no object of its own (of a VolumeAttachment).
pub fn inline_spec(spec: &At, e: &mut ErrorList) {
    const CONTEXT: &str = "in the context of inline volumes";
    for field in ["claimRef", "capacity"] {
        if !spec.get(field).is_empty() {
            e.push(spec.get(field).forbidden(format!("may not be specified {CONTEXT}")));
        }
    }
    if !spec.get("csi").is_set() {
        e.push(spec.get("csi").required(&format!("has to be specified {CONTEXT}")));
    }
    spec.get("accessModes").require(e);
    access_modes(&spec.get("accessModes"), e);
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && policy.str() != "Retain" {
        e.push(policy.forbidden(format!("may only be Retain {CONTEXT}")));
    }
    if spec.get("nodeAffinity").is_set() {
        e.push(spec.get("nodeAffinity").forbidden(format!("may not be specified {CONTEXT}")));
    }
    volume_sources(spec, "", e);
    if !spec.get("storageClassName").is_empty() {
        e.push(spec.get("storageClassName").forbidden(format!("may not be specified {CONTEXT}")));
    }
    let mode = spec.get("volumeMode");
    if mode.is_set() && mode.str() != "Filesystem" {
        e.push(mode.forbidden(format!("may not specify volumeMode other than Filesystem {CONTEXT}")));
    }
}

/// Kinds of volumes that take mount options; an annotation with options for another kind is a mistake.
const MOUNTABLE: [&str; 13] = [
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

fn mount_options(root: &At, spec: &At, e: &mut ErrorList) {
    let metadata = root.get("metadata");
    let annotations = metadata.get("annotations");
    if annotations.get(MOUNT_OPTIONS).is_set() && MOUNTABLE.iter().all(|kind| !spec.get(kind).is_set()) {
        e.push(annotations.get(MOUNT_OPTIONS).forbidden("may not specify mount options for this volume type"));
    }
}

fn attributes_class(spec: &At, e: &mut ErrorList) {
    let class = spec.get("volumeAttributesClassName");
    if !class.is_set() {
        return;
    }
    if class.is_empty() {
        e.push(class.required("an empty string is disallowed"));
    }
    class.optional_name(e, names::is_dns1123_subdomain);
    if !spec.get("csi").is_set() {
        e.push(spec.get("csi").required("has to be specified when using volumeAttributesClassName"));
    }
}

fn capacity(capacity: &At, e: &mut ErrorList) {
    capacity.require(e);
    if !capacity.get("storage").is_set() || capacity.len() > 1 {
        let shown = capacity.value().cloned().unwrap_or_default();
        e.push(Error::not_supported(&capacity.path(), shown, &["storage"]));
    }
    for (_, amount) in capacity.entries() {
        resource_names::basic_amount(&amount, e);
        if let Some(q) = amount.value().and_then(Quantity::from_json).filter(|q| q.is_negative() || q.is_zero()) {
            e.push(amount.invalid_as(q.to_string(), "must be greater than zero"));
        }
    }
}

fn node_affinity(affinity: &At, old: Option<&Value>, e: &mut ErrorList) {
    if !affinity.is_set() {
        return;
    }
    let required = affinity.get("required");
    if required.is_set() {
        let terms = old.map_or(&[][..], |o| o.list_at(&["spec", "nodeAffinity", "required", "nodeSelectorTerms"]));
        let mut values = terms.iter().flat_map(|t| t.list_at(&["matchExpressions"])).flat_map(|x| strings(x, &["values"]));
        node_selector(&required, values.any(|v| !names::is_label_value(v).is_empty()), e);
    } else {
        e.push(required.required("must specify required node constraints"));
    }
}

/// Where the data lies may not change.
pub fn update(root: &At, old: &Value, e: &mut ErrorList) {
    volume(root, Some(old), e);
    let spec = root.get("spec");
    let mut new = spec.value().cloned().unwrap_or_default();
    let before = old.at(&["spec"]).cloned().unwrap_or_default();
    let expand = ["csi", "controllerExpandSecretRef"];
    if before.at(&["csi"]).is_some() && before.at(&expand).is_none() && new.at(&["csi"]).is_some() {
        keep_at(&mut new, &before, &expand);
    }
    let (new_source, old_source) = (source_of(&new), source_of(&before));
    if !semantic::same(Some(&new_source), Some(&old_source)) {
        let diff = difference::of(old, &[Step::Part("core.PersistentVolumeSource")], Some(&old_source), Some(&new_source));
        e.push(spec.shown_as("persistentvolumesource", None).forbidden(format!("spec.persistentvolumesource is immutable after creation\n{diff}")));
    }
    root.shown_as("volumeMode", spec.get("volumeMode").value()).immutable(before.at(&["volumeMode"]), e);
    if let Some(affinity) = before.at(&["nodeAffinity"]) {
        let place = root.shown_as("nodeAffinity", spec.get("nodeAffinity").value());
        if !semantic::same(place.value(), Some(&renamed_labels(affinity, place.value()))) {
            e.push(place.invalid(format!("{IMMUTABLE}, except for updating from beta label to GA")));
        }
    }
    if before.at(&["volumeAttributesClassName"]).is_some() && !spec.get("volumeAttributesClassName").is_set() {
        e.push(spec.get("volumeAttributesClassName").forbidden("update from non-nil value to nil is forbidden"));
    }
}

/// The fields of a spec that say where the data lies.
fn source_of(spec: &Value) -> Value {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let fields = spec.as_object().into_iter().flatten().filter(|(k, _)| !OTHERS.contains(&k.as_str()));
    Value::Object(fields.map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// The old affinity with its beta labels as the new one names them.
fn renamed_labels(old: &Value, new: Option<&Value>) -> Value {
    let mut old = old.clone();
    let new_terms = new.map_or(&[][..], |n| n.list_at(&["required", "nodeSelectorTerms"]));
    for (i, term) in crate::tree::list_mut(&mut old, &["required", "nodeSelectorTerms"]).iter_mut().enumerate() {
        let Some(new_term) = new_terms.get(i) else { continue };
        for (j, requirement) in crate::tree::list_mut(term, &["matchExpressions"]).iter_mut().enumerate() {
            let key = requirement.str_at(&["key"]).unwrap_or_default();
            let now = new_term.list_at(&["matchExpressions"]).get(j).and_then(|r| r.str_at(&["key"]));
            if let Some((_, grown)) = BETA_LABELS.iter().find(|(beta, grown)| *beta == key && now == Some(*grown)) {
                requirement.set(&["key"], *grown);
            } else if now.unwrap_or_default().is_empty() && !BETA_LABELS.iter().any(|(beta, _)| *beta == key) {
                // Upstream looks the old key up in a map, finds nothing, and takes that for the new one.
                requirement.set(&["key"], "");
            }
        }
    }
    old
}

/// Deprecated annotations, policies, labels and sources.
pub fn warnings(root: &At, warnings: &mut Vec<String>) {
    let Some(volume) = root.value() else { return };
    for (annotation, text) in [
        ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if volume.at(&["metadata", "annotations", annotation]).is_some() {
            warnings.push(format!("metadata.annotations[{annotation}]: {text}"));
        }
    }
    if volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == Some("Recycle") {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
                .into(),
        );
    }
    let spec = root.get("spec");
    let affinity = spec.get("nodeAffinity");
    let required = affinity.get("required");
    required.get("nodeSelectorTerms").items().for_each(|term| crate::warnings::node_selector_term(&term, false, warnings));
    for (field, shown, text) in [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if volume.at(&["spec", field]).is_some() {
            warnings.push(format!("spec.{shown}: {text}"));
        }
    }
}
