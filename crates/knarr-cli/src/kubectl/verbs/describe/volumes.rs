//! Volumes and where they come from: a table of sources with their fields.

use knarr_core::{Value, ValueExt};

use super::page::{Page, int, text, texts, yes};
use crate::kubectl::print::go;

/// How a field of a source is printed.
#[derive(Clone, Copy)]
enum As {
    Text,
    Bool,
    Int,
    /// Absent: this.
    Or(&'static str),
    /// A list, in brackets.
    List,
    /// A reference or a map, as Go prints it; absent is `<nil>`.
    Go,
}

/// Key of the source, what it is, and its fields: title, key, form.
type Source = (&'static str, &'static str, &'static [(&'static str, &'static str, As)]);

const SOURCES: &[Source] = &[
    ("hostPath", "HostPath (bare host directory volume)", &[("Path", "path", As::Text), ("HostPathType", "type", As::Or("<none>"))]),
    (
        "emptyDir",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        &[("Medium", "medium", As::Text), ("SizeLimit", "sizeLimit", As::Or("<unset>"))],
    ),
    (
        "gcePersistentDisk",
        "GCEPersistentDisk (a Persistent Disk resource in Google Compute Engine)",
        &[("PDName", "pdName", As::Text), ("FSType", "fsType", As::Text), ("Partition", "partition", As::Int), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "awsElasticBlockStore",
        "AWSElasticBlockStore (a Persistent Disk resource in AWS)",
        &[("VolumeID", "volumeID", As::Text), ("FSType", "fsType", As::Text), ("Partition", "partition", As::Int), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "gitRepo",
        "GitRepo (a volume that is pulled from git when the pod is created)",
        &[("Repository", "repository", As::Text), ("Revision", "revision", As::Text)],
    ),
    ("secret", "Secret (a volume populated by a Secret)", &[("SecretName", "secretName", As::Text), ("Optional", "optional", As::Bool)]),
    ("configMap", "ConfigMap (a volume populated by a ConfigMap)", &[("Name", "name", As::Text), ("Optional", "optional", As::Bool)]),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server", "server", As::Text), ("Path", "path", As::Text), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "iscsi",
        "ISCSI (an ISCSI Disk resource that is attached to a kubelet's host machine and then exposed to the pod)",
        &[
            ("TargetPortal", "targetPortal", As::Text),
            ("IQN", "iqn", As::Text),
            ("Lun", "lun", As::Int),
            ("ISCSIInterface", "iscsiInterface", As::Text),
            ("FSType", "fsType", As::Text),
            ("ReadOnly", "readOnly", As::Bool),
            ("Portals", "portals", As::List),
            ("DiscoveryCHAPAuth", "chapAuthDiscovery", As::Bool),
            ("SessionCHAPAuth", "chapAuthSession", As::Bool),
            ("SecretRef", "secretRef", As::Go),
            ("InitiatorName", "initiatorName", As::Or("<none>")),
        ],
    ),
    (
        "glusterfs",
        "Glusterfs (a Glusterfs mount on the host that shares a pod's lifetime)",
        &[("EndpointsName", "endpoints", As::Text), ("Path", "path", As::Text), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName", "claimName", As::Text), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "rbd",
        "RBD (a Rados Block Device mount on the host that shares a pod's lifetime)",
        &[
            ("CephMonitors", "monitors", As::List),
            ("RBDImage", "image", As::Text),
            ("FSType", "fsType", As::Text),
            ("RBDPool", "pool", As::Text),
            ("RadosUser", "user", As::Text),
            ("Keyring", "keyring", As::Text),
            ("SecretRef", "secretRef", As::Go),
            ("ReadOnly", "readOnly", As::Bool),
        ],
    ),
    (
        "quobyte",
        "Quobyte (a Quobyte mount on the host that shares a pod's lifetime)",
        &[("Registry", "registry", As::Text), ("Volume", "volume", As::Text), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "azureDisk",
        "AzureDisk (an Azure Data Disk mount on the host and bind mount to the pod)",
        &[
            ("DiskName", "diskName", As::Text),
            ("DiskURI", "diskURI", As::Text),
            ("Kind", "kind", As::Text),
            ("FSType", "fsType", As::Text),
            ("CachingMode", "cachingMode", As::Text),
            ("ReadOnly", "readOnly", As::Bool),
        ],
    ),
    (
        "vsphereVolume",
        "vSphereVolume (a Persistent Disk resource in vSphere)",
        &[("VolumePath", "volumePath", As::Text), ("FSType", "fsType", As::Text), ("StoragePolicyName", "storagePolicyName", As::Text)],
    ),
    (
        "cinder",
        "Cinder (a Persistent Disk resource in OpenStack)",
        &[("VolumeID", "volumeID", As::Text), ("FSType", "fsType", As::Text), ("ReadOnly", "readOnly", As::Bool), ("SecretRef", "secretRef", As::Go)],
    ),
    (
        "photonPersistentDisk",
        "PhotonPersistentDisk (a Persistent Disk resource in photon platform)",
        &[("PdID", "pdID", As::Text), ("FSType", "fsType", As::Text)],
    ),
    ("portworxVolume", "PortworxVolume (a Portworx Volume resource)", &[("VolumeID", "volumeID", As::Text)]),
    (
        "scaleIO",
        "ScaleIO (a persistent volume backed by a block device in ScaleIO)",
        &[
            ("Gateway", "gateway", As::Text),
            ("System", "system", As::Text),
            ("Protection Domain", "protectionDomain", As::Text),
            ("Storage Pool", "storagePool", As::Text),
            ("Storage Mode", "storageMode", As::Text),
            ("VolumeName", "volumeName", As::Text),
            ("FSType", "fsType", As::Text),
            ("ReadOnly", "readOnly", As::Bool),
        ],
    ),
    ("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[("Path", "path", As::Text)]),
    (
        "cephfs",
        "CephFS (a CephFS mount on the host that shares a pod's lifetime)",
        &[
            ("Monitors", "monitors", As::List),
            ("Path", "path", As::Text),
            ("User", "user", As::Text),
            ("SecretFile", "secretFile", As::Text),
            ("SecretRef", "secretRef", As::Go),
            ("ReadOnly", "readOnly", As::Bool),
        ],
    ),
    (
        "storageos",
        "StorageOS (a StorageOS Persistent Disk resource)",
        &[
            ("VolumeName", "volumeName", As::Text),
            ("VolumeNamespace", "volumeNamespace", As::Text),
            ("FSType", "fsType", As::Text),
            ("ReadOnly", "readOnly", As::Bool),
        ],
    ),
    (
        "fc",
        "FC (a Fibre Channel disk)",
        &[("TargetWWNs", "targetWWNs", As::List), ("LUN", "lun", As::Or("<none>")), ("FSType", "fsType", As::Text), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "azureFile",
        "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        &[("SecretName", "secretName", As::Text), ("ShareName", "shareName", As::Text), ("ReadOnly", "readOnly", As::Bool)],
    ),
    (
        "flexVolume",
        "FlexVolume (a generic volume resource that is provisioned/attached using an exec based plugin)",
        &[
            ("Driver", "driver", As::Text),
            ("FSType", "fsType", As::Text),
            ("SecretRef", "secretRef", As::Go),
            ("ReadOnly", "readOnly", As::Bool),
            ("Options", "options", As::Go),
        ],
    ),
    (
        "flocker",
        "Flocker (a Flocker volume mounted by the Flocker agent)",
        &[("DatasetName", "datasetName", As::Text), ("DatasetUUID", "datasetUUID", As::Text)],
    ),
    ("image", "Image (a container image or OCI artifact)", &[("Reference", "reference", As::Text), ("PullPolicy", "pullPolicy", As::Text)]),
];

fn value(source: &Value, key: &str, form: As) -> String {
    match form {
        As::Text => text(source, &[key]).to_owned(),
        As::Bool => yes(source, &[key]).to_string(),
        As::Int => int(source, &[key]).to_string(),
        As::Or(default) => source.at(&[key]).map_or_else(|| default.to_owned(), go::sprint),
        As::List => format!("[{}]", texts(source, &[key]).join(" ")),
        As::Go => match source.at(&[key]) {
            None if key == "options" => "map[]".into(),
            None => "nil".into(),
            Some(reference) if reference.str_at(&["name"]).is_some() => format!("&LocalObjectReference{{Name:{},}}", text(reference, &["name"])),
            Some(other) => go::sprint(other),
        },
    }
}

/// Where a volume comes from.
pub fn source(page: &mut Page, volume: &Value) {
    if let Some((key, what, fields)) = SOURCES.iter().find(|(key, ..)| volume.get(*key).is_some_and(|v| !v.is_null())) {
        page.field(2, "Type", what);
        fields.iter().for_each(|(title, field, form)| page.field(2, title, value(&volume[*key], field, *form)));
    } else if let Some(sources) = volume.at(&["projected"]) {
        projected(page, sources);
    } else if let Some(api) = volume.at(&["downwardAPI"]) {
        downward(page, api);
    } else if let Some(csi) = volume.at(&["csi"]) {
        container_storage(page, csi);
    } else if let Some(ephemeral) = volume.at(&["ephemeral"]) {
        page.field(2, "Type", "EphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)");
        if let Some(template) = ephemeral.at(&["volumeClaimTemplate"]) {
            claim_template(page, template);
        }
    } else {
        page.line(1, "<unknown>");
    }
}

fn projected(page: &mut Page, volume: &Value) {
    page.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for source in volume.list_at(&["sources"]) {
        if let Some(secret) = source.at(&["secret"]) {
            page.field(2, "SecretName", text(secret, &["name"]));
            page.field(2, "Optional", yes(secret, &["optional"]));
        } else if source.at(&["downwardAPI"]).is_some() {
            page.field(2, "DownwardAPI", "true");
        } else if let Some(map) = source.at(&["configMap"]) {
            page.field(2, "ConfigMapName", text(map, &["name"]));
            page.field(2, "Optional", yes(map, &["optional"]));
        } else if let Some(token) = source.at(&["serviceAccountToken"]) {
            page.field(2, "TokenExpirationSeconds", int(token, &["expirationSeconds"]));
        }
    }
}

fn downward(page: &mut Page, volume: &Value) {
    page.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
    page.line(2, "Items:");
    for item in volume.list_at(&["items"]) {
        if let Some(path) = item.str_at(&["fieldRef", "fieldPath"]) {
            page.line(3, format!("{path} -> {}", text(item, &["path"])));
        }
        if let Some(resource) = item.str_at(&["resourceFieldRef", "resource"]) {
            page.line(3, format!("{resource} -> {}", text(item, &["path"])));
        }
    }
}

fn container_storage(page: &mut Page, csi: &Value) {
    page.field(2, "Type", "CSI (a Container Storage Interface (CSI) volume source)");
    page.field(2, "Driver", text(csi, &["driver"]));
    page.field(2, "FSType", text(csi, &["fsType"]));
    page.some(2, "VolumeHandle", csi.str_at(&["volumeHandle"]));
    page.field(2, "ReadOnly", yes(csi, &["readOnly"]));
    let pairs: Vec<String> = csi
        .at(&["volumeAttributes"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    page.part(2, "VolumeAttributes:\t");
    if pairs.is_empty() {
        page.line(0, "<none>");
    }
    for (i, pair) in pairs.iter().enumerate() {
        let cut = if pair.len() > 140 { format!("{}...", &pair[..140]) } else { pair.clone() };
        // The lines after the first are indented twice: once by the level, once more before the tab.
        page.line(0, if i == 0 { format!("    {cut}") } else { format!("        \t    {cut}").replacen("        ", "    ", 1) });
    }
}

fn claim_template(page: &mut Page, template: &Value) {
    page.field(2, "StorageClass", text(template, &["spec", "storageClassName"]));
    page.field(2, "Volume", text(template, &["spec", "volumeName"]));
    page.labels("    Labels", template.at(&["metadata", "labels"]));
    page.annotations("    Annotations", template.at(&["metadata", "annotations"]));
    page.field(2, "Capacity", "");
    page.field(2, "Access Modes", "");
    page.some(2, "VolumeMode", template.str_at(&["spec", "volumeMode"]));
}

/// The volumes of a pod.
pub fn of_pod(page: &mut Page, volumes: &[Value], space: &str) {
    if volumes.is_empty() {
        return page.line(0, format!("{space}Volumes:\t<none>"));
    }
    page.line(0, format!("{space}Volumes:"));
    for volume in volumes {
        page.line(1, format!("{}{}:", if space.is_empty() { "" } else { " " }, text(volume, &["name"])));
        source(page, volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_source_is_printed_from_the_table() {
        let mut page = Page::default();
        of_pod(&mut page, &[json!({"name": "t", "emptyDir": {}}), json!({"name": "h", "hostPath": {"path": "/x", "type": "Directory"}})], "");
        let wanted = "Volumes:\n  t:\n    Type:       EmptyDir (a temporary directory that shares a pod's lifetime)\n    Medium:     \n    SizeLimit:  <unset>\n  h:\n    Type:          HostPath (bare host directory volume)\n    Path:          /x\n    HostPathType:  Directory\n";
        assert_eq!(page.finish(), wanted);
    }
}
