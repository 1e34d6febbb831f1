//! Where a volume's data lies, for pods and for PersistentVolumes. One line a kind in the tables below.

use knarr_core::field::ErrorList;
use knarr_core::names;

use super::projected;
use crate::at::At;
use crate::core::persistentvolumeclaim::validation as claims;
use crate::pod::validation::{Pod, containers, env};
use crate::rules;

/// Fields of a pod that a file may show, sorted.
const FILE_FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const MODE_TEXT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const EMPTY_DIR_MODE_TEXT: &str = "must be a number between 0 and 01777 (octal), both inclusive";
const ISCSI_NAMES_MAX: usize = 64;
const CSI_NAME_MAX: i64 = 63;

type Check = fn(&At, &mut ErrorList);

/// A kind of source: its field, the field that errors inside name, and what is checked.
struct Kind(&'static str, &'static str, Check);

/// Kinds that pods and PersistentVolumes check alike, in upstream's order for pods.
const SHARED: &[Kind] = &[
    Kind("hostPath", "hostPath", host_path),
    Kind("gcePersistentDisk", "persistentDisk", |s, e| disk(s, "pdName", e)),
    Kind("awsElasticBlockStore", "awsElasticBlockStore", |s, e| disk(s, "volumeID", e)),
    Kind("nfs", "nfs", nfs),
    Kind("flocker", "flocker", flocker),
    Kind("rbd", "rbd", |s, e| require_all(s, &["monitors", "image"], e)),
    Kind("cephfs", "cephfs", |s, e| require_all(s, &["monitors"], e)),
    Kind("quobyte", "quobyte", quobyte),
    Kind("fc", "fc", fibre_channel),
    Kind("flexVolume", "flexVolume", flex),
    Kind("vsphereVolume", "vsphereVolume", |s, e| require_all(s, &["volumePath"], e)),
    Kind("photonPersistentDisk", "photonPersistentDisk", |s, e| require_all(s, &["pdID"], e)),
    Kind("portworxVolume", "portworxVolume", |s, e| require_all(s, &["volumeID"], e)),
    Kind("azureDisk", "azureDisk", azure_disk),
    Kind("scaleIO", "scaleIO", |s, e| require_all(s, &["gateway", "system", "volumeName"], e)),
];

/// Kinds of pods alone.
const OF_PODS: &[Kind] = &[
    Kind("gitRepo", "gitRepo", git_repo),
    Kind("secret", "secret", |s, e| files(s, "secretName", e)),
    Kind("configMap", "configMap", |s, e| files(s, "name", e)),
    Kind("glusterfs", "glusterfs", |s, e| require_all(s, &["endpoints", "path"], e)),
    Kind("persistentVolumeClaim", "persistentVolumeClaim", |s, e| require_all(s, &["claimName"], e)),
    Kind("cinder", "cinder", |s, e| cinder(s, &["name"], e)),
    Kind("downwardAPI", "downwardAPI", downward),
    Kind("azureFile", "azureFile", |s, e| require_all(s, &["secretName", "shareName"], e)),
    Kind("storageos", "storageos", |s, e| storage_os(s, &["name"], e)),
    Kind("csi", "csi", csi),
    Kind("ephemeral", "ephemeral", ephemeral),
];

/// Kinds of PersistentVolumes alone.
const OF_VOLUMES: &[Kind] = &[
    Kind("glusterfs", "glusterfs", persistent_glusterfs),
    Kind("cinder", "cinder", |s, e| cinder(s, &["name", "namespace"], e)),
    Kind("azureFile", "azureFile", persistent_azure_file),
    Kind("local", "local", local),
    Kind("storageos", "storageos", |s, e| storage_os(s, &["name", "namespace"], e)),
    Kind("csi", "csi", persistent_csi),
];

/// Exactly one source of a pod's volume (upstream: `validateVolumeSource`).
pub fn of_pod(pod: &Pod, volume: &At, e: &mut ErrorList) {
    let mut count = 0;
    let empty_dir = volume.get("emptyDir");
    if empty_dir.is_set() {
        count += 1;
        let limit = empty_dir.get("sizeLimit");
        if limit.str().starts_with('-') {
            e.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
        }
        let mode = empty_dir.get("mode");
        if mode.is_set() && !(0..=0o1777).contains(&mode.int()) {
            e.push(mode.invalid(EMPTY_DIR_MODE_TEXT));
        }
    }
    for kind in SHARED.iter().chain(OF_PODS) {
        one(volume, kind, &mut count, e);
    }
    if counts(volume, "iscsi", &mut count, e) {
        iscsi(&volume.get("iscsi"), "must be valid format starting with iqn, eui, or naa", e);
        let source = volume.get("iscsi");
        if source.get("initiatorName").is_set() && volume.str_of("name").len() + 1 + source.str_of("targetPortal").len() > ISCSI_NAMES_MAX {
            e.push(volume.get("name").invalid(ISCSI_NAMES_TEXT));
        }
    }
    if counts(volume, "projected", &mut count, e) {
        projected::validate(pod, &volume.get("projected"), e);
    }
    if counts(volume, "image", &mut count, e) {
        let image = volume.get("image");
        if !pod.options.empty_image_volume {
            image.get("reference").require(e);
        }
        containers::pull_policy(&image.get("pullPolicy"), e);
    }
    if count == 0 {
        e.push(volume.required("must specify a volume type"));
    }
}

/// Exactly one source of a PersistentVolume with this name.
pub fn sources(spec: &At, name: &str, e: &mut ErrorList) {
    let mut count = 0;
    for kind in SHARED.iter().chain(OF_VOLUMES) {
        one(spec, kind, &mut count, e);
    }
    if counts(spec, "iscsi", &mut count, e) {
        let source = spec.get("iscsi");
        if source.get("initiatorName").is_set() && name.len() + 1 + source.str_of("targetPortal").len() > ISCSI_NAMES_MAX {
            e.push(source.shown_as("targetportal", source.get("targetPortal").value()).invalid(ISCSI_NAMES_TEXT));
        }
        iscsi(&source, "must be valid format", e);
        let secret = source.get("secretRef");
        if secret.is_set() {
            secret.get("name").require(e);
        }
    }
    if count == 0 {
        e.push(spec.required("must specify a volume type"));
    }
}

const ISCSI_NAMES_TEXT: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

fn one(parent: &At, kind: &Kind, count: &mut usize, e: &mut ErrorList) {
    if counts(parent, kind.0, count, e) {
        (kind.2)(&parent.shown_as(kind.1, parent.get(kind.0).value()), e);
    }
}

/// Whether the source is there and the first.
fn counts(parent: &At, field: &'static str, count: &mut usize, e: &mut ErrorList) -> bool {
    if !parent.get(field).is_set() {
        return false;
    }
    *count += 1;
    if *count > 1 {
        // Spellings of upstream.
        let shown = match field {
            "cephfs" => "cephFS",
            "downwardAPI" => "downwarAPI",
            other => other,
        };
        e.push(parent.shown_as(shown, None).forbidden("may not specify more than 1 volume type"));
    }
    *count == 1
}

fn require_all(source: &At, fields: &[&str], e: &mut ErrorList) {
    fields.iter().for_each(|f| source.get(f).require(e));
}

fn host_path(source: &At, e: &mut ErrorList) {
    let path = source.get("path");
    path.require(e);
    path.problems(e, rules::no_backsteps(path.str()));
    source.get("type").if_set_one_of(e, &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"]);
}

fn disk(source: &At, id: &'static str, e: &mut ErrorList) {
    source.get(id).require(e);
    let partition = source.get("partition");
    if !(0..=255).contains(&partition.int()) {
        e.push(partition.invalid("must be between 1 and 255, inclusive"));
    }
}

fn git_repo(source: &At, e: &mut ErrorList) {
    source.get("repository").require(e);
    let directory = source.get("directory");
    directory.problems(e, rules::local_descending_path(directory.str()));
}

fn nfs(source: &At, e: &mut ErrorList) {
    require_all(source, &["server", "path"], e);
    let path = source.get("path");
    if !path.str().starts_with('/') {
        e.push(path.invalid("must be an absolute path"));
    }
}

/// Whether a name of an iSCSI node has the form that its beginning promises.
fn is_iscsi_name(name: &str) -> bool {
    let rest = |n: usize| name.get(n..).unwrap_or_default();
    let alphanumeric = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_alphanumeric());
    match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => alphanumeric(rest(4), 16),
        Some("naa") => alphanumeric(rest(4), 32),
        _ => false,
    }
}

/// `iqn.2001-04.com.example:disk`.
fn is_iqn(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let (date, rest) = rest.split_at_checked(8).unwrap_or_default();
    let b = date.as_bytes();
    let dated = b.len() == 8 && b[..4].iter().chain(&b[5..7]).all(u8::is_ascii_digit) && b[4] == b'-' && b[7] == b'.';
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.').unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let tail_good = tail.strip_prefix(':').is_some_and(|t| !t.is_empty() && !t.contains(|c: char| ",;*&$| \t\n\u{b}\u{c}\r".contains(c)));
    dated && !authority.is_empty() && tail_good
}

fn iscsi(source: &At, beginning_text: &str, e: &mut ErrorList) {
    let (portal, name, lun) = (source.get("targetPortal"), source.get("iqn"), source.get("lun"));
    portal.require(e);
    name.require(e);
    if !name.is_empty() {
        iscsi_name(&name, beginning_text, e);
    }
    if !(0..=255).contains(&lun.int()) {
        e.push(lun.invalid("must be between 0 and 255, inclusive"));
    }
    let secret = source.get("secretRef");
    if (source.get("chapAuthDiscovery").bool() || source.get("chapAuthSession").bool()) && !secret.is_set() {
        e.push(secret.required(""));
    }
    let initiator = source.get("initiatorName");
    if initiator.is_set() {
        iscsi_name(&source.shown_as("initiatorname", initiator.value()), beginning_text, e);
    }
}

fn iscsi_name(name: &At, beginning_text: &str, e: &mut ErrorList) {
    if !["iqn", "eui", "naa"].iter().any(|b| name.str().starts_with(b)) {
        e.push(name.invalid(beginning_text));
    } else if !is_iscsi_name(name.str()) {
        e.push(name.invalid("must be valid format"));
    }
}

fn persistent_glusterfs(source: &At, e: &mut ErrorList) {
    require_all(source, &["endpoints", "path"], e);
    let namespace = source.get("endpointsNamespace");
    if namespace.is_set() && namespace.is_empty() {
        e.push(namespace.invalid("if the endpointnamespace is set, it must be a valid namespace name"));
    } else {
        namespace.optional_name(e, names::is_dns1123_label);
    }
}

fn flocker(source: &At, e: &mut ErrorList) {
    let (name, uuid) = (source.get("datasetName"), source.get("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        e.push(source.required("one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        e.push(source.invalid_as("resource", "datasetName and datasetUUID can not be specified simultaneously"));
    }
    if name.str().contains('/') {
        e.push(name.invalid("must not contain '/'"));
    }
}

fn cinder(source: &At, secret_fields: &[&str], e: &mut ErrorList) {
    source.get("volumeID").require(e);
    let secret = source.get("secretRef");
    if secret.is_set() {
        require_all(&secret, secret_fields, e);
    }
}

fn quobyte(source: &At, e: &mut ErrorList) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant) = (source.get("registry"), source.get("tenant"));
    if registry.is_empty() {
        e.push(registry.required(PAIRS));
    } else if tenant.str().len() >= 65 {
        e.push(tenant.required("must be a UUID and may not exceed a length of 64 characters"));
    } else {
        for _ in registry.str().split(',').filter(|pair| pair.rsplit_once(':').is_none_or(|(host, _)| host.contains(':') && !host.starts_with('['))) {
            e.push(registry.invalid(PAIRS));
        }
    }
    source.get("volume").require(e);
}

fn fibre_channel(source: &At, e: &mut ErrorList) {
    let (wwns, wwids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    if wwns.is_empty() && wwids.is_empty() {
        e.push(wwns.required("must specify either targetWWNs or wwids, but not both"));
    }
    if wwns.is_empty() {
        return;
    }
    if !wwids.is_empty() {
        e.push(wwns.invalid("targetWWNs and wwids can not be specified simultaneously"));
    }
    if !lun.is_set() {
        e.push(lun.required("lun is required if targetWWNs is specified"));
    } else if !(0..=255).contains(&lun.int()) {
        e.push(lun.invalid("must be between 0 and 255, inclusive"));
    }
}

fn flex(source: &At, e: &mut ErrorList) {
    source.get("driver").require(e);
    for (key, option) in source.get("options").entries() {
        let domain = format!(".{}", key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            e.push(option.invalid_as(key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

fn persistent_azure_file(source: &At, e: &mut ErrorList) {
    require_all(source, &["secretName", "shareName"], e);
    let namespace = source.get("secretNamespace");
    if namespace.is_set() {
        namespace.require(e);
    }
}

fn azure_disk(source: &At, e: &mut ErrorList) {
    require_all(source, &["diskName", "diskURI"], e);
    source.get("cachingMode").if_set_one_of(e, &["None", "ReadOnly", "ReadWrite"]);
    let (kind, uri) = (source.get("kind"), source.get("diskURI"));
    kind.if_set_one_of(e, &["Dedicated", "Managed", "Shared"]);
    if !kind.is_set() {
        return;
    }
    if kind.str() == "Managed" && !uri.str().starts_with("/subscriptions/") {
        e.push(uri.not_supported(&["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"]));
    }
    if kind.str() != "Managed" && !uri.str().starts_with("https://") {
        e.push(uri.not_supported(&["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"]));
    }
}

fn local(source: &At, e: &mut ErrorList) {
    let path = source.get("path");
    path.require(e);
    path.problems(e, rules::no_backsteps(path.str()));
}

fn storage_os(source: &At, secret_fields: &[&str], e: &mut ErrorList) {
    source.get("volumeName").name(e, names::is_dns1123_label);
    source.get("volumeNamespace").optional_name(e, names::is_dns1123_label);
    let secret = source.get("secretRef");
    if secret.is_set() {
        require_all(&secret, secret_fields, e);
    }
}

/// The name of a CSI driver (upstream: `ValidateCSIDriverName`).
pub fn csi_driver_name(driver: &At, e: &mut ErrorList) {
    driver.require(e);
    if driver.str().len() as i64 > CSI_NAME_MAX {
        e.push(driver.too_long(CSI_NAME_MAX));
    }
    driver.problems(e, names::is_dns1123_subdomain(&driver.str().to_lowercase()));
}

fn csi(source: &At, e: &mut ErrorList) {
    csi_driver_name(&source.get("driver"), e);
    let secret = source.get("nodePublishSecretRef");
    if secret.is_set() {
        let name = secret.get("name");
        if name.is_empty() {
            e.push(name.required(""));
        } else {
            source.shown_as("name", name.value()).problems(e, names::is_dns1123_subdomain(name.str()));
        }
    }
}

fn persistent_csi(source: &At, e: &mut ErrorList) {
    csi_driver_name(&source.get("driver"), e);
    source.get("volumeHandle").require(e);
    for secret in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        let secret = source.get(secret);
        if secret.is_set() {
            secret.get("name").name(e, names::is_dns1123_subdomain);
            secret.get("namespace").name(e, names::is_dns1123_label);
        }
    }
}

fn ephemeral(source: &At, e: &mut ErrorList) {
    let template = source.get("volumeClaimTemplate");
    if template.is_set() {
        claims::template(&template, e);
    } else {
        e.push(template.required(""));
    }
}

/// Files of a Secret or ConfigMap.
fn files(source: &At, name: &'static str, e: &mut ErrorList) {
    source.get(name).require(e);
    file_mode(&source.get("defaultMode"), e);
    user(&source.get("defaultUser"), e);
    for item in source.get("items").items() {
        key_to_path(&item, e);
    }
}

pub fn file_mode(mode: &At, e: &mut ErrorList) {
    if mode.is_set() && !(0..=0o777).contains(&mode.int()) {
        e.push(mode.invalid(MODE_TEXT));
    }
}

pub fn user(user: &At, e: &mut ErrorList) {
    if user.is_set() {
        user.problems(e, rules::user_id(user.int()));
    }
}

pub fn key_to_path(item: &At, e: &mut ErrorList) {
    require_all(item, &["key", "path"], e);
    let path = item.get("path");
    path.problems(e, rules::local_non_reserved_path(path.str()));
    file_mode(&item.get("mode"), e);
    user(&item.get("user"), e);
}

fn downward(source: &At, e: &mut ErrorList) {
    file_mode(&source.get("defaultMode"), e);
    user(&source.get("defaultUser"), e);
    for file in source.get("items").items() {
        downward_file(source, &file, e);
    }
}

/// A file that shows a field of the pod. Upstream names the source as its place.
pub fn downward_file(source: &At, file: &At, e: &mut ErrorList) {
    let part = |field: &'static str| source.shown_as(field, file.get(field).value());
    let path = part("path");
    path.require(e);
    path.problems(e, rules::local_non_reserved_path(path.str()));
    let (field, resource) = (part("fieldRef"), part("resourceFieldRef"));
    if field.is_set() {
        env::field_reference(&field, &FILE_FIELDS, e);
        if resource.is_set() {
            e.push(source.invalid_as("resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
        }
    } else if resource.is_set() {
        env::resource_reference(&resource, true, e);
    } else {
        e.push(source.required("one of fieldRef and resourceFieldRef is required"));
    }
    file_mode(&part("mode"), e);
    user(&part("user"), e);
}
