//! Claims that no volume suits: an external provisioner is told about them, and local folders are made into volumes here.

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::matching::{BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE, annotation, claim_spec};

/// The provisioner that makes volumes of folders of a node. A StorageClass that names it asks for that.
pub const LOCAL_PROVISIONER: &str = "knarr.io/local";
/// The parameter of such a class that says where folders are made.
const FOLDER_PARAMETER: &str = "folder";
const FOLDER: &str = "/var/lib/knarr/volumes";
const HOST_NAME: &str = "kubernetes.io/hostname";

/// Where claims are told who provisions for them; the older one is read by older provisioners.
pub const PROVISIONER_ANNOTATIONS: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// Marks the claim for its provisioner; false when it is marked already.
pub fn mark(claim: &mut PersistentVolumeClaim, provisioner: &str) -> bool {
    let annotations = claim.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for key in PROVISIONER_ANNOTATIONS {
        changed |= annotations.insert(key.into(), provisioner.into()).as_deref() != Some(provisioner);
    }
    changed
}

/// What users read while they wait for an external provisioner.
pub fn waiting_for(provisioner: &str) -> String {
    format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    )
}

/// A folder of the node that the scheduler chose, as a volume for this claim.
pub fn local_volume(claim: &PersistentVolumeClaim, class: &StorageClass) -> PersistentVolume {
    let (spec, uid) = (claim_spec(claim), claim.metadata.uid.clone().unwrap_or_default());
    let folder = class.parameters.as_ref().and_then(|p| p.get(FOLDER_PARAMETER)).map_or(FOLDER, String::as_str);
    let name = format!("pvc-{uid}");
    let annotations = [(PROVISIONED_BY.to_owned(), LOCAL_PROVISIONER.to_owned()), (BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned())];
    PersistentVolume {
        metadata: ObjectMeta { name: Some(name.clone()), annotations: Some(annotations.into()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|r| r.requests),
            claim_ref: Some(claim_reference(claim)),
            host_path: Some(HostPathVolumeSource { path: format!("{}/{name}", folder.trim_end_matches('/')), type_: Some("DirectoryOrCreate".into()) }),
            mount_options: class.mount_options.clone(),
            node_affinity: annotation(&claim.metadata, SELECTED_NODE).map(on_node),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

fn on_node(node: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement { key: HOST_NAME.into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// How a volume refers to its claim.
pub fn claim_reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference { resource_version: claim.metadata.resource_version.clone(), ..knarr_client::events::reference(claim) }
}
