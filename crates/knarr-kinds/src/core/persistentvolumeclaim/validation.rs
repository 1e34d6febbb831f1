//! What a claim may say (upstream: `ValidatePersistentVolumeClaim…` in `pkg/apis/core/validation`).

use knarr_core::field::{Error, ErrorList};
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt, names};
use knarr_schema::internal::Step;

use crate::at::At;
use crate::metadata::{IMMUTABLE, label_selector};
use crate::semantic::same_at;
use crate::separation::keep_at;
use crate::{difference, resource_names, rules};

/// The annotation that named a claim's class before there was a field.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Sorted.
pub const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Sorted.
const RESIZE_STATUSES: [&str; 5] =
    ["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"];

const STORAGE: [&str; 3] = ["resources", "requests", "storage"];

/// What the old claim did wrong already.
#[derive(Clone, Copy, Default)]
struct Lenient {
    label_values: bool,
    data_source_group: bool,
}

impl Lenient {
    fn after(old: &Value) -> Self {
        let selector = old.at(&["spec", "selector"]);
        let has_group = |source: &str| old.at(&["spec", source, "apiGroup"]).is_some();
        Self {
            label_values: !label_selector(selector, &knarr_core::field::Path::root()).is_empty(),
            data_source_group: has_group("dataSource") || has_group("dataSourceRef"),
        }
    }
}

pub fn create(root: &At, e: &mut ErrorList) {
    spec(&root.get("spec"), Lenient::default(), e);
}

/// The template of the claim of an ephemeral volume: of its metadata, only labels and annotations count.
pub fn template(template: &At, e: &mut ErrorList) {
    let metadata = template.get("metadata");
    metadata.get("annotations").annotations(e);
    metadata.get("labels").labels(e);
    let fields = metadata.value().and_then(Value::as_object).into_iter().flatten();
    for (field, value) in fields.filter(|(field, _)| !["annotations", "labels"].contains(&field.as_str())) {
        if !crate::tree::is_zero(value) {
            e.push(metadata.get(field).forbidden("cannot be set"));
        }
    }
    spec(&template.get("spec"), Lenient::default(), e);
}

fn spec(spec: &At, lenient: Lenient, e: &mut ErrorList) {
    if spec.get("accessModes").is_empty() {
        e.push(spec.get("accessModes").required("at least 1 access mode is required"));
    }
    spec.get("selector").label_selector_ratcheting(lenient.label_values, e);
    access_modes(&spec.get("accessModes"), e);
    requested_storage(spec, e);
    spec.get("storageClassName").optional_name(e, names::is_dns1123_subdomain);
    spec.get("volumeMode").if_set_one_of(e, &VOLUME_MODES);
    for source in ["dataSource", "dataSourceRef"] {
        data_source(&spec.get(source), lenient.data_source_group, e);
    }
    both_data_sources(spec, e);
    spec.get("volumeAttributesClassName").optional_name(e, names::is_dns1123_subdomain);
}

pub fn access_modes(modes: &At, e: &mut ErrorList) {
    for mode in modes.strings().filter(|m| !ACCESS_MODES.contains(m)) {
        e.push(Error::not_supported(&modes.path(), mode, &ACCESS_MODES));
    }
    let alone = "ReadWriteOncePod";
    if modes.strings().any(|m| m == alone) && modes.strings().any(|m| m != alone && ACCESS_MODES.contains(&m)) {
        e.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// Upstream names the place without `requests`.
fn requested_storage(spec: &At, e: &mut ErrorList) {
    let resources = spec.get("resources");
    let asked = resources.value().and_then(|r| r.at(&["requests", "storage"]));
    let shown = resources.key("storage");
    let place = shown.with_value(asked);
    match asked.and_then(Quantity::from_json) {
        None => e.push(place.required("")),
        Some(amount) if amount.is_negative() || amount.is_zero() => e.push(place.invalid_as(amount.to_string(), "must be greater than zero")),
        Some(_) => resource_names::amount("storage", &place, e),
    }
}

fn data_source(source: &At, any_group: bool, e: &mut ErrorList) {
    if !source.is_set() {
        return;
    }
    source.get("name").require(e);
    source.get("kind").require(e);
    let group = source.get("apiGroup");
    if group.is_empty() && source.str_of("kind") != "PersistentVolumeClaim" {
        e.push(source.invalid_as(source.str_of("kind"), "must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
    }
    if !any_group {
        group.optional_name(e, names::is_dns1123_subdomain);
    }
    source.get("namespace").optional_name(e, names::is_dns1123_label);
}

fn both_data_sources(spec: &At, e: &mut ErrorList) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    if !source.is_set() || !reference.is_set() {
        return;
    }
    let shown = Value::Object(knarr_core::Map::new());
    if !reference.get("namespace").is_empty() {
        e.push(spec.invalid_as(shown, "may not be specified when dataSourceRef.namespace is specified"));
    } else if source.get("apiGroup").value() != reference.get("apiGroup").value() || ["kind", "name"].iter().any(|f| source.str_of(f) != reference.str_of(f)) {
        e.push(spec.invalid_as(shown, "must match dataSourceRef"));
    }
}

/// Bound claims may grow and change their attributes class, others nothing.
pub fn update(claim: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let root = At::root(claim);
    spec(&root.get("spec"), Lenient::after(old), &mut e);
    let (mut new_spec, mut old_spec) = (claim.clone(), old.clone());
    if old.str_at(&["spec", "volumeName"]).unwrap_or_default().is_empty() {
        keep_at(&mut old_spec, claim, &["spec", "volumeName"]);
    }
    storage_class(claim, old, &mut new_spec, &mut e);
    if claim.str_at(&["status", "phase"]) == Some("Bound") {
        if claim.at(&["spec", "resources", "requests"]).is_some() {
            keep_at(&mut new_spec, old, &["spec", "resources", "requests", "storage"]);
        }
        keep_at(&mut new_spec, old, &["spec", "volumeAttributesClassName"]);
    }
    let spec = root.get("spec");
    if !same_at(&new_spec, &old_spec, &["spec"]) {
        let diff = difference::of(claim, &[Step::Field("spec")], old_spec.at(&["spec"]), new_spec.at(&["spec"]));
        e.push(spec.forbidden(format!("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{diff}")));
    }
    shrinking(claim, old, &mut e);
    root.shown_as("volumeMode", claim.at(&["spec", "volumeMode"])).immutable(old.at(&["spec", "volumeMode"]), &mut e);
    attributes_class(&spec.get("volumeAttributesClassName"), old, &mut e);
    e
}

/// The class may move from the annotation to the field, and be set where there was none.
fn storage_class(claim: &Value, old: &Value, new_spec: &mut Value, e: &mut ErrorList) {
    let class = |c: &Value| c.str_at(&["spec", "storageClassName"]).map(str::to_owned);
    let noted = |c: &Value| c.str_at(&["metadata", "annotations", CLASS_ANNOTATION]).map(str::to_owned);
    let (now, before, noted_now, noted_before) = (class(claim), class(old), noted(claim), noted(old));
    let moved = before.is_none() && noted_before.is_some() && now == noted_before;
    if moved && (noted_now.is_none() || noted_now == noted_before) {
        new_spec.remove(&["spec", "storageClassName"]);
        return;
    }
    if noted_now.clone().unwrap_or_default() != noted_before.clone().unwrap_or_default() {
        let path = knarr_core::field::Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        e.push(Error::invalid(&path, noted_now.unwrap_or_default(), IMMUTABLE));
    }
    if now.is_some() && before.is_none() && (noted_before.is_none() || now == noted_before) {
        new_spec.remove(&["spec", "storageClassName"]);
    }
}

/// A claim that failed to grow may ask for less, but for more than it has.
fn shrinking(claim: &Value, old: &Value, e: &mut ErrorList) {
    let amount = |c: &Value, path: &[&str]| c.at(path).and_then(Quantity::from_json).unwrap_or(Quantity::from_millis(0));
    let requested = ["spec", STORAGE[0], STORAGE[1], STORAGE[2]];
    let (new, has) = (amount(claim, &requested), amount(old, &["status", "capacity", "storage"]));
    if new < amount(old, &requested) && new <= has {
        e.push(Error::forbidden(&knarr_core::field::Path::new(&requested.join(".")), "field can not be less than status.capacity"));
    }
}

fn attributes_class(class: &At, old: &Value, e: &mut ErrorList) {
    if class.value() == old.at(&["spec", "volumeAttributesClassName"]) || old.at(&["status", "currentVolumeAttributesClassName"]).is_none() {
        return;
    }
    if !class.is_set() {
        e.push(class.forbidden("update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"));
    } else if class.is_empty() {
        e.push(class.forbidden("update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"));
    }
}

pub fn status(root: &At, e: &mut ErrorList) {
    let status = root.get("status");
    let spec = root.shown_as("Spec", root.get("spec").value());
    spec.get("accessModes").require(e);
    for (_, amount) in status.get("capacity").entries() {
        resource_names::basic_amount(&amount, e);
    }
    for condition in status.get("healthStatus").get("healthConditions").items() {
        condition.get("reason").optional_name(e, rules::condition_reason);
    }
    let statuses = status.get("allocatedResourceStatuses");
    for (name, value) in statuses.entries() {
        resource_key(name, &statuses, e);
        if !RESIZE_STATUSES.contains(&value.str()) {
            e.push(Error::not_supported(&statuses.path(), name, &RESIZE_STATUSES));
        }
    }
    let allocated = status.get("allocatedResources");
    for (name, amount) in allocated.entries() {
        if resource_key(name, &allocated, e) && resource_names::basic_amount(&amount, e) {
            resource_names::amount("storage", &amount, e);
        }
    }
}

fn resource_key(name: &str, place: &At, e: &mut ErrorList) -> bool {
    let before = e.len();
    e.extend(names::is_qualified_name(name).into_iter().map(|p| place.invalid_as(name, p)));
    if e.len() == before && resource_names::is_native(name) && name != "storage" {
        e.push(Error::not_supported(&place.path(), name, &["storage"]));
    }
    e.len() == before
}

/// Deprecated ways to name a class, and amounts that are no whole bytes.
pub fn warnings(claim: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if claim.at(&["metadata", "annotations", CLASS_ANNOTATION]).is_some() {
        warnings.push(format!("metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
    warnings.extend(spec_warnings("spec", claim.at(&["spec"]).unwrap_or(&Value::Null)));
    warnings
}

/// The same for a spec at some place.
pub fn spec_warnings(path: &str, spec: &Value) -> Vec<String> {
    let fractional = |kind: &str| {
        let amount = spec.at(&["resources", kind, "storage"]).and_then(Quantity::from_json)?;
        (!amount.is_whole()).then(|| format!("{path}.resources.{kind}[storage]: fractional byte value \"{amount}\" is invalid, must be an integer"))
    };
    ["requests", "limits"].into_iter().filter_map(fractional).collect()
}
