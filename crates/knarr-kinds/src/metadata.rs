//! Validation of `metadata`, common to all kinds (upstream: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use std::collections::BTreeSet;

use knarr_core::field::{Error, ErrorList, Path, go_quote};
use knarr_core::names::{is_label_value, is_qualified_name};
use knarr_core::{GroupVersion, Value, ValueExt};

use crate::semantic::same;
use crate::strategy::Strategy;
use crate::tree::{entries, is_zero_at, strings};

/// Keys and values of all annotations of an object together.
pub(crate) const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const FIELD_MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;

/// The text that every refused change of a fixed field carries.
pub const IMMUTABLE: &str = "field is immutable";

/// Validates the metadata of a new object (upstream: `ValidateObjectMetaAccessor`).
pub fn validate_metadata(object: &Value, namespaced: bool, name_rules: &dyn Strategy) -> ErrorList {
    let (metadata, path) = (object.at(&["metadata"]).unwrap_or(&Value::Null), Path::new("metadata"));
    let mut errors = names(metadata, name_rules, &path);
    errors.extend(namespace(metadata.str_at(&["namespace"]).unwrap_or_default(), namespaced, &path.child("namespace")));
    errors.extend(common(metadata, &path));
    errors.extend(finalizers(metadata, &path.child("finalizers")));
    if name_rules.domain_finalizers() {
        errors.extend(domain_finalizers(metadata, &path.child("finalizers")));
    }
    errors
}

/// Finalizers without a domain that everybody knows.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

const UNKNOWN_FINALIZER: &str = "name is neither a standard finalizer name nor is it fully qualified";

/// Whether a finalizer has a path, or is one of Kubernetes' own.
pub(crate) fn is_domain_finalizer(name: &str) -> bool {
    name.contains('/') || STANDARD_FINALIZERS.contains(&name)
}

fn domain_finalizers(metadata: &Value, path: &Path) -> ErrorList {
    let unknown = strings(metadata, &["finalizers"]).enumerate().filter(|(_, f)| !is_domain_finalizer(f));
    unknown.map(|(i, f)| Error::invalid(&path.index(i), f, UNKNOWN_FINALIZER)).collect()
}

/// The problems of a finalizer outside `metadata`.
pub fn finalizer(name: &str) -> Vec<String> {
    let unknown = if is_domain_finalizer(name) { None } else { Some(UNKNOWN_FINALIZER.to_owned()) };
    is_qualified_name(name).into_iter().chain(unknown).collect()
}

fn names(metadata: &Value, rules: &dyn Strategy, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let text = |key: &str| metadata.str_at(&[key]).unwrap_or_default();
    let name = text("name");
    errors.extend(prefix(metadata, rules, path));
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        errors.extend(rules.validate_name(name).into_iter().map(|p| Error::invalid(&path.child("name"), name, p)));
    }
    errors
}

fn prefix(metadata: &Value, rules: &dyn Strategy, path: &Path) -> ErrorList {
    let prefix = metadata.str_at(&["generateName"]).unwrap_or_default();
    let problems = if prefix.is_empty() { Vec::new() } else { rules.validate_generate_name(&mask_trailing_dash(prefix)) };
    problems.into_iter().map(|p| Error::invalid(&path.child("generateName"), prefix, p)).collect()
}

/// A prefix may end in a dash, which what is appended makes good.
pub(crate) fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut masked: String = rest.to_owned();
            masked.pop();
            masked + "a"
        }
        _ => prefix.to_owned(),
    }
}

fn namespace(name: &str, namespaced: bool, path: &Path) -> ErrorList {
    match (namespaced, name.is_empty()) {
        (true, true) => vec![Error::required(path, "")],
        (true, false) => knarr_core::names::is_dns1123_label(name).into_iter().map(|p| Error::invalid(path, name, p)).collect(),
        (false, false) => vec![Error::forbidden(path, "not allowed on this type")],
        (false, true) => ErrorList::new(),
    }
}

/// What holds on create and update alike.
fn common(metadata: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(generation) = metadata.i64_at(&["generation"]).filter(|g| *g < 0) {
        errors.push(Error::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    errors.extend(labels(metadata.at(&["labels"]), &path.child("labels")));
    errors.extend(annotations(metadata.at(&["annotations"]), &path.child("annotations")));
    errors.extend(owner_references(metadata, &path.child("ownerReferences")));
    errors.extend(managed_fields(metadata, &path.child("managedFields")));
    errors
}

/// A map of labels: keys are qualified names, values label values (upstream: `ValidateLabels`).
pub fn labels(labels: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.extend(is_qualified_name(key).into_iter().map(|p| Error::invalid(path, key.as_str(), p)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(is_label_value(value).into_iter().map(|p| Error::invalid(path, value, p)));
    }
    errors
}

/// A map of annotations: keys are qualified names, whatever their case; all together have a limit.
pub fn annotations(annotations: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut bytes = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        errors.extend(is_qualified_name(&key.to_lowercase()).into_iter().map(|p| Error::invalid(path, key.as_str(), p)));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_BYTES_MAX as i64));
    }
    errors
}

fn owner_references(metadata: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let references = metadata.list_at(&["ownerReferences"]);
    let mut controller: Option<String> = None;
    for (i, reference) in references.iter().enumerate() {
        errors.extend(owner_reference(reference, &path.index(i)));
        if reference.bool_at(&["controller"]) == Some(true) {
            let text = |key: &str| reference.str_at(&[key]).unwrap_or_default();
            let name = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(name),
                Some(first) => {
                    let shown: Vec<String> = references.iter().map(shown_owner).collect();
                    let why = format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}");
                    errors.push(Error::invalid(path, references.to_vec(), why).showing(format!("[{}]", shown.join(","))));
                }
            }
        }
    }
    errors
}

fn owner_reference(reference: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let text = |key: &str| reference.str_at(&[key]).unwrap_or_default();
    let version = text("apiVersion");
    let parsed = GroupVersion::parse(version).filter(|gv| !gv.version.is_empty());
    if !version.is_empty() && parsed.is_none() {
        errors.push(Error::invalid(&path.child("apiVersion"), version, "must be <group>/<version> or <version>"));
    }
    for key in ["apiVersion", "kind", "name", "uid"] {
        if text(key).is_empty() {
            errors.push(Error::required(&path.child(key), "must not be empty"));
        }
    }
    if (version, text("kind")) == ("v1", "Event") {
        let why = "/v1, Kind=Event is disallowed from being an owner";
        errors.push(Error::invalid(path, reference.clone(), why).showing(shown_owner(reference)));
    }
    errors
}

/// An owner reference with its fields in the order in which the type declares them.
fn shown_owner(reference: &Value) -> String {
    let fields = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let shown = |name: &str| match reference.get(name) {
        // The first four are always written.
        None if matches!(name, "controller" | "blockOwnerDeletion") => None,
        value => Some(format!("\"{name}\":{}", value.unwrap_or(&Value::String(String::new())))),
    };
    format!("{{{}}}", fields.into_iter().filter_map(shown).collect::<Vec<_>>().join(","))
}

fn finalizers(metadata: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for finalizer in strings(metadata, &["finalizers"]) {
        errors.extend(is_qualified_name(finalizer).into_iter().map(|p| Error::invalid(path, finalizer, p)));
    }
    let has = |wanted: &str| strings(metadata, &["finalizers"]).any(|f| f == wanted);
    if has("orphan") && has("foregroundDeletion") {
        let all = metadata.at(&["finalizers"]).cloned().unwrap_or_default();
        errors.push(Error::invalid(path, all, "finalizer orphan and foregroundDeletion cannot be both set"));
    }
    errors
}

fn managed_fields(metadata: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, entry) in metadata.list_at(&["managedFields"]).iter().enumerate() {
        let path = path.index(i);
        match entry.str_at(&["operation"]).unwrap_or_default() {
            "" => errors.push(Error::required(&path.child("operation"), "")),
            "Apply" | "Update" => {}
            other => errors.push(Error::not_supported(&path.child("operation"), other, &["Apply", "Update"])),
        }
        if let Some(kind) = entry.str_at(&["fieldsType"]).filter(|k| !k.is_empty() && *k != "FieldsV1") {
            errors.push(Error::invalid(&path.child("fieldsType"), kind, "must be `FieldsV1`"));
        }
        errors.extend(field_manager(entry.str_at(&["manager"]).unwrap_or_default(), &path.child("manager")));
        if entry.str_at(&["subresource"]).is_some_and(|s| s.len() > SUBRESOURCE_BYTES_MAX) {
            errors.push(Error::too_long(&path.child("subresource"), SUBRESOURCE_BYTES_MAX as i64));
        }
    }
    errors
}

/// The name of a field manager: short and printable (upstream: `ValidateFieldManager`).
pub fn field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        errors.push(Error::too_long(path, FIELD_MANAGER_BYTES_MAX as i64));
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        errors.push(Error::invalid(path, manager, format!("invalid character U+{:04X} (at position {i})", c as u32)));
    }
    errors
}

/// Validates the metadata of an update: immutable fields, finalizers, owner references (upstream:
/// `ValidateObjectMetaAccessorUpdate`).
pub fn validate_metadata_update(object: &Value, old: &Value) -> ErrorList {
    let (none, path) = (Value::Null, Path::new("metadata"));
    let (new, old) = (object.at(&["metadata"]).unwrap_or(&none), old.at(&["metadata"]).unwrap_or(&none));
    let mut errors = ErrorList::new();
    if old.at(&["deletionTimestamp"]).is_some() {
        errors.extend(no_new_finalizers(new, old, &path.child("finalizers")));
    }
    if is_zero_at(new, &["resourceVersion"]) {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |m: &Value| m.i64_at(&["generation"]).unwrap_or(0);
    if generation(new) < generation(old) {
        errors.push(Error::invalid(&path.child("generation"), generation(new), "must not be decremented"));
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        errors.extend(immutable(new.at(&[key]), old.at(&[key]), &path.child(key)));
    }
    errors.extend(common(new, &path));
    errors
}

/// Validates the `metadata.generateName` of an update by the rules for a create: only kinds that say so in their
/// [`Shape`](crate::strategy::Shape) do.
pub fn validate_prefix(object: &Value, rules: &dyn Strategy) -> ErrorList {
    object.at(&["metadata"]).map_or_else(ErrorList::new, |metadata| prefix(metadata, rules, &Path::new("metadata")))
}

/// A field that may not change (upstream: `ValidateImmutableField`).
pub fn immutable(new: Option<&Value>, old: Option<&Value>, path: &Path) -> ErrorList {
    if same(new, old) { ErrorList::new() } else { vec![Error::invalid(path, new.cloned().unwrap_or_default(), IMMUTABLE)] }
}

fn no_new_finalizers(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let before: BTreeSet<&str> = strings(old, &["finalizers"]).collect();
    let extra: BTreeSet<&str> = strings(new, &["finalizers"]).filter(|f| !before.contains(f)).collect();
    if extra.is_empty() {
        return ErrorList::new();
    }
    let list: Vec<String> = extra.into_iter().map(go_quote).collect();
    let detail = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", list.join(", "));
    vec![Error::forbidden(path, detail)]
}

/// A `metav1.LabelSelector` (upstream: `ValidateLabelSelector`).
pub fn label_selector(selector: Option<&Value>, path: &Path) -> ErrorList {
    label_selector_ratcheting(selector, path, false)
}

/// The same, where label values that were wrong before may stay.
pub fn label_selector_ratcheting(selector: Option<&Value>, path: &Path, allow_invalid_values: bool) -> ErrorList {
    let Some(selector) = selector else { return ErrorList::new() };
    let mut errors = labels(selector.at(&["matchLabels"]), &path.child("matchLabels"));
    for (i, requirement) in selector.list_at(&["matchExpressions"]).iter().enumerate() {
        errors.extend(label_requirement(requirement, &path.child("matchExpressions").index(i), allow_invalid_values));
    }
    errors
}

fn label_requirement(requirement: &Value, path: &Path, allow_invalid_values: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let values: Vec<&str> = strings(requirement, &["values"]).collect();
    match requirement.str_at(&["operator"]).unwrap_or_default() {
        "In" | "NotIn" if values.is_empty() => errors.push(Error::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(Error::forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = requirement.str_at(&["key"]).unwrap_or_default();
    errors.extend(is_qualified_name(key).into_iter().map(|p| Error::invalid(&path.child("key"), key, p)));
    if !allow_invalid_values {
        for (i, value) in values.iter().enumerate() {
            errors.extend(is_label_value(value).into_iter().map(|p| Error::invalid(&path.child("values").index(i), *value, p)));
        }
    }
    errors
}

/// Whether a selector holds a label value that would be refused today.
pub fn has_invalid_label_value(selector: Option<&Value>) -> bool {
    let Some(selector) = selector else { return false };
    selector.list_at(&["matchExpressions"]).iter().flat_map(|e| strings(e, &["values"])).any(|v| !is_label_value(v).is_empty())
}

/// The entries of a map of strings.
pub fn map_entries<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
    entries(value, path).map(|(k, v)| (k, v.as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{Plain, Shape};
    use knarr_core::json;

    fn check(metadata: Value, wanted: &[&str]) {
        let errors = validate_metadata(&json!({"metadata": metadata}), true, &Plain(Shape::PLAIN));
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), wanted, "{metadata}");
    }

    #[test]
    fn metadata_is_checked_in_upstreams_words() {
        check(json!({"name": "a", "generateName": "a-", "namespace": "n", "labels": {"a/b": "c"}, "finalizers": ["x/y"]}), &[]);
        check(json!({"namespace": "n"}), &["metadata.name: Required value: name or generateName is required"]);
        check(json!({"name": "a"}), &["metadata.namespace: Required value"]);
        check(
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            &["metadata.ownerReferences[0].uid: Required value: must not be empty"],
        );
        check(
            json!({"name": "a", "namespace": "n", "finalizers": ["orphan", "foregroundDeletion"]}),
            &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set"],
        );
    }

    /// What upstream answered to an update of each kind with `generateName: Gen_` (`update/bad-generate-name` of the differential run).
    #[test]
    fn a_prefix_is_judged_again_on_updates_of_some_kinds() {
        let again = |group: &str, resource: &str, subresource: &str| crate::strategy(group, resource, subresource).shape().judges_prefix_again;
        assert!(again("", "configmaps", "") && again("", "pods", "") && again("networking.k8s.io", "ingresses", ""));
        assert!(!again("", "services", "") && !again("apps", "deployments", "") && !again("", "pods", "status"));
        let errors = |prefix: &str| {
            let errors = validate_prefix(&json!({"metadata": {"name": "a", "generateName": prefix}}), crate::strategy("", "configmaps", ""));
            errors.iter().map(|e| e.field.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(errors("Gen_"), ["metadata.generateName"]);
        assert!(errors("gen-").is_empty() && errors("").is_empty());
    }

    #[test]
    fn an_object_that_is_going_takes_no_new_finalizers() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        new.set(&["metadata", "resourceVersion"], "1");
        new.set(&["metadata", "finalizers"], json!(["a/b", "c/d"]));
        let errors = validate_metadata_update(&new, &old);
        assert_eq!(
            errors[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
        );
        assert_eq!(errors.len(), 1);
    }
}
