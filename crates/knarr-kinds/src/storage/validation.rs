//! Validation of the kinds of `storage.k8s.io` (upstream: `pkg/apis/storage/validation`). What upstream declares on the types
//! comes after what it checks by hand.

use std::collections::{BTreeMap, BTreeSet};

use knarr_core::field::ErrorList;
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt, names};

use crate::at::{At, check, range_text};
use crate::core::persistentvolume;
use crate::metadata;
use crate::pod::validation::csi_driver_name;

const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;
const NODE_ID_MAX: usize = 256;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const UPDATE_PERIOD_MIN: i64 = 10;
const ERROR_MESSAGE_MAX: usize = 1024;

/// A new StorageClass.
pub fn storage_class(class: &Value) -> ErrorList {
    let mut declared = ErrorList::new();
    let mut errors = check(class, |root, e| {
        let provisioner = root.get("provisioner");
        if provisioner.is_empty() {
            declared.push(provisioner.required(""));
        } else {
            lower_name(&provisioner, e);
        }
        parameters(&root.get("parameters"), true, e);
        if !root.get("reclaimPolicy").is_empty() {
            root.get("reclaimPolicy").if_set_one_of(e, &["Delete", "Retain"]);
        }
        let mode = root.get("volumeBindingMode");
        if mode.is_set() {
            mode.if_set_one_of(e, &["Immediate", "WaitForFirstConsumer"]);
        } else {
            e.push(mode.required(""));
        }
        topologies(&root.get("allowedTopologies"), e);
    });
    errors.extend(declared);
    errors
}

/// A changed StorageClass: nearly nothing may change.
pub fn storage_class_update(class: &Value, old: &Value) -> ErrorList {
    let mut errors = storage_class(class);
    errors.extend(check(class, |root, e| {
        for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
            root.get(field).immutable_untold(old.at(&[field]), e);
        }
    }));
    errors
}

fn parameters(parameters: &At, allow_empty: bool, e: &mut ErrorList) {
    if parameters.len() > PARAMETERS_MAX {
        e.push(parameters.too_long(PARAMETERS_MAX as i64));
        return;
    }
    let mut bytes = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            e.push(parameters.invalid_as("", "field can not be empty."));
        }
        bytes += key.len() + value.str().len();
    }
    if bytes > PARAMETER_BYTES_MAX {
        e.push(parameters.too_long(PARAMETER_BYTES_MAX as i64));
    }
    if !allow_empty && parameters.is_empty() {
        e.push(parameters.required("must contain at least one key/value pair"));
    }
}

type Term<'v> = BTreeMap<&'v str, BTreeSet<&'v str>>;

fn topologies(topologies: &At, e: &mut ErrorList) {
    // Upstream compares with as many empty terms as there are terms, too.
    let mut seen: Vec<Term<'_>> = Vec::new();
    for term in topologies.items() {
        let expressions = topology_term(&term, e);
        let twice = expressions.is_empty() as usize * topologies.len() + seen.iter().filter(|s| **s == expressions).count();
        for _ in 0..twice {
            e.push(term.get("matchLabelExpressions").duplicate_as(""));
        }
        seen.push(expressions);
    }
}

/// Upstream: `ValidateTopologySelectorTerm`.
fn topology_term<'v>(term: &At<'v, '_>, e: &mut ErrorList) -> Term<'v> {
    let mut expressions = Term::new();
    for expression in term.get("matchLabelExpressions").items() {
        let (key, values) = (expression.get("key"), expression.get("values"));
        if values.is_empty() {
            e.push(values.required(""));
        }
        let mut all = BTreeSet::new();
        for value in values.items() {
            if !all.insert(value.str()) {
                e.push(value.duplicate());
            }
        }
        key.with_value(Some(&key.str().into())).problems(e, names::is_qualified_name(key.str()));
        if expressions.contains_key(key.str()) {
            e.push(key.duplicate());
        } else {
            expressions.insert(key.str(), all);
        }
    }
    expressions
}

/// A new VolumeAttachment.
pub fn volume_attachment(attachment: &Value) -> ErrorList {
    attachment_as(attachment, false)
}

/// What upstream declares of the attacher comes last on a create; on an update, where the whole spec is declared not to change, nobody
/// looks into it and the rule written by hand speaks in its place.
fn attachment_as(attachment: &Value, by_hand: bool) -> ErrorList {
    let mut declared = ErrorList::new();
    let mut errors = check(attachment, |root, e| {
        let spec = root.get("spec");
        declared_driver_name(&spec.get("attacher"), if by_hand { e } else { &mut declared });
        attachment_source(&spec.get("source"), e);
        let node = spec.get("nodeName");
        node.with_value(Some(&node.str().into())).problems(e, names::is_dns1123_subdomain(node.str()));
        attachment_status(&root.get("status"), e);
        let source = spec.get("source");
        let volume = source.get("persistentVolumeName");
        if volume.is_set() {
            volume.problems(e, names::is_dns1123_subdomain(volume.str()));
        }
    });
    errors.extend(declared);
    errors
}

/// A changed VolumeAttachment: its spec may not change.
pub fn volume_attachment_update(attachment: &Value, old: &Value) -> ErrorList {
    let mut errors = attachment_as(attachment, true);
    errors.extend(check(attachment, |root, e| root.get("spec").immutable_untold(old.at(&["spec"]), e)));
    errors
}

const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";

fn attachment_source(source: &At, e: &mut ErrorList) {
    let (inline, named) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    match (inline.is_set(), named.is_set()) {
        (false, false) => e.push(source.required(ONE_SOURCE)),
        (true, true) => e.push(source.forbidden(ONE_SOURCE)),
        (false, true) if named.is_empty() => e.push(named.required("must specify non empty persistentVolumeName")),
        (false, true) => {}
        (true, false) => persistentvolume::validation::inline_spec(&inline, e),
    }
}

fn attachment_status(status: &At, e: &mut ErrorList) {
    let notes = status.get("attachmentMetadata");
    if notes.entries().map(|(k, v)| k.len() + v.str().len()).sum::<usize>() > PARAMETER_BYTES_MAX {
        e.push(notes.too_long(PARAMETER_BYTES_MAX as i64));
    }
    for field in ["attachError", "detachError"] {
        let error = status.get(field);
        if error.str_of("message").len() > ERROR_MESSAGE_MAX {
            e.push(error.get("message").too_long(ERROR_MESSAGE_MAX as i64));
        }
        let code = error.get("errorCode");
        if code.int() < 0 {
            e.push(code.invalid(range_text(0, i64::from(i32::MAX))));
        }
    }
}

/// The name of a driver as upstream declares it: whatever its case.
pub fn declared_driver_name(driver: &At, declared: &mut ErrorList) {
    const DRIVER_NAME_MAX: i64 = 63;
    if driver.is_empty() {
        declared.push(driver.required(""));
        return;
    }
    if driver.str().len() as i64 > DRIVER_NAME_MAX {
        declared.push(driver.too_long(DRIVER_NAME_MAX));
    }
    let problems = names::is_dns1123_subdomain(&driver.str().to_lowercase());
    let any_case = |p: String| {
        p.replace("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric", "an RFC 1123 subdomain must consist of alphanumeric")
            .replace("'example.com'", "'Example.com'")
    };
    driver.problems(declared, problems.into_iter().map(any_case).collect());
}

/// A new CSINode.
pub fn csi_node(node: &Value) -> ErrorList {
    check(node, |root, e| {
        let mut names = BTreeSet::new();
        for driver in root.get("spec").get("drivers").items() {
            let name = driver.get("name");
            if name.is_empty() {
                e.push(name.required(""));
            } else {
                csi_driver_name(&name, e);
            }
            node_id(&driver.get("nodeID"), e);
            let allocatable = driver.get("allocatable");
            let count = allocatable.get("count");
            if count.is_set() {
                count.nonnegative(e);
            }
            if !names.insert(name.str()) {
                e.push(name.duplicate());
            }
            topology_keys(&driver, e);
        }
    })
}

fn node_id(id: &At, e: &mut ErrorList) {
    id.require(e);
    if id.str().len() > NODE_ID_MAX {
        e.push(id.invalid(format!("must be {NODE_ID_MAX} characters or less")));
    }
}

/// Upstream names the driver, not the key.
fn topology_keys(driver: &At, e: &mut ErrorList) {
    let mut keys = BTreeSet::new();
    for key in driver.get("topologyKeys").strings() {
        if key.is_empty() {
            e.push(driver.required(""));
        }
        if !keys.insert(key) {
            e.push(driver.duplicate_as(key));
        }
        e.extend(names::is_qualified_name(key).into_iter().map(|p| driver.invalid_as(key, p)));
    }
}

/// A changed CSINode: a driver that stays keeps everything but what it can take.
pub fn csi_node_update(node: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_node(node);
    let without_room = |driver: &Value| {
        let mut driver = driver.clone();
        driver.remove(&["allocatable"]);
        driver
    };
    errors.extend(check(node, |root, e| {
        let spec = root.get("spec");
        let drivers = spec.get("drivers");
        for before in old.list_at(&["spec", "drivers"]) {
            for now in drivers.items().filter(|d| d.str_of("name") == before.str_at(&["name"]).unwrap_or_default()) {
                let (new, before) = (now.value().map(without_room).unwrap_or_default(), without_room(before));
                if !now.with_value(Some(&new)).same(Some(&before)) {
                    let shown = now.with_value(Some(&new)).invalid(metadata::IMMUTABLE);
                    e.push(knarr_core::field::Error { field: drivers.path(), ..shown });
                }
            }
        }
    }));
    errors
}

/// A new CSIDriver.
pub fn csi_driver(driver: &Value) -> ErrorList {
    check(driver, |root, e| {
        let spec = root.get("spec");
        spec.get("fsGroupPolicy").if_set_one_of(e, &["File", "None", "ReadWriteOnceWithFSType"]);
        token_requests(&spec.get("tokenRequests"), e);
        let modes = spec.get("volumeLifecycleModes");
        for mode in modes.items().filter(|m| !["Persistent", "Ephemeral"].contains(&m.str())) {
            e.push(modes.with_value(mode.value()).not_supported(&["Persistent", "Ephemeral"]));
        }
        let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
        if period.is_set() && period.int() < UPDATE_PERIOD_MIN {
            e.push(period.invalid(format!("must be greater than or equal to {UPDATE_PERIOD_MIN} seconds")));
        }
        let secrets = spec.get("serviceAccountTokenInSecrets");
        if secrets.is_set() && spec.get("tokenRequests").is_empty() {
            e.push(secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified"));
        }
    })
}

fn token_requests(requests: &At, e: &mut ErrorList) {
    let mut audiences = BTreeSet::new();
    for request in requests.items() {
        let (audience, seconds) = (request.get("audience"), request.get("expirationSeconds"));
        if !audiences.insert(audience.str()) {
            e.push(audience.duplicate_as(audience.str()));
            continue;
        }
        if seconds.is_set() && seconds.int() < TOKEN_SECONDS_MIN {
            e.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        if seconds.int() > TOKEN_SECONDS_MAX {
            e.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
    }
}

/// A changed CSIDriver.
pub fn csi_driver_update(driver: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_driver(driver);
    errors.extend(check(driver, |root, e| {
        let spec = root.get("spec");
        // So upstream calls it.
        spec.shown_as("attachedRequired", spec.get("attachRequired").value()).immutable(old.at(&["spec", "attachRequired"]), e);
        spec.get("volumeLifecycleModes").immutable(old.at(&["spec", "volumeLifecycleModes"]), e);
    }));
    errors
}

/// A new CSIStorageCapacity.
pub fn csi_storage_capacity(capacity: &Value, old: Option<&Value>) -> ErrorList {
    let lenient = metadata::has_invalid_label_value(old.and_then(|o| o.at(&["nodeTopology"])));
    check(capacity, |root, e| {
        root.get("nodeTopology").label_selector_ratcheting(lenient, e);
        let class = root.get("storageClassName");
        class.with_value(Some(&class.str().into())).problems(e, names::is_dns1123_subdomain(class.str()));
        let amount = root.get("capacity");
        if amount.value().and_then(Quantity::from_json).is_some_and(|q| q < Quantity::from_millis(0)) {
            e.push(amount.invalid("must be greater than or equal to 0"));
        }
    })
}

/// A changed CSIStorageCapacity.
pub fn csi_storage_capacity_update(capacity: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_storage_capacity(capacity, Some(old));
    errors.extend(check(capacity, |root, e| {
        root.get("nodeTopology").immutable(old.at(&["nodeTopology"]), e);
        let class = root.get("storageClassName");
        class.with_value(Some(&class.str().into())).immutable(Some(&old.str_at(&["storageClassName"]).unwrap_or_default().into()), e);
    }));
    errors
}

/// A new VolumeAttributesClass.
pub fn volume_attributes_class(class: &Value) -> ErrorList {
    check(class, |root, e| {
        lower_name(&root.get("driverName"), e);
        parameters(&root.get("parameters"), false, e);
    })
}

/// A changed VolumeAttributesClass.
pub fn volume_attributes_class_update(class: &Value, old: &Value) -> ErrorList {
    let mut errors = check(class, |root, e| {
        for field in ["driverName", "parameters"] {
            if !root.get(field).same(old.at(&[field])) {
                e.push(root.get(field).forbidden(format!("updates to {field} are forbidden.")));
            }
        }
    });
    errors.extend(volume_attributes_class(class));
    errors
}

/// A name whose case does not matter.
fn lower_name(name: &At, e: &mut ErrorList) {
    if name.is_empty() {
        e.push(name.required(""));
        return;
    }
    let lower = name.str().to_lowercase();
    e.extend(names::is_qualified_name(&lower).into_iter().map(|p| name.invalid_as(lower.as_str(), p)));
}
