//! Namespaces (upstream: `pkg/registry/core/namespace`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json};

use crate::at::{self, At};
use crate::metadata;
use crate::separation::{keep, keep_at, status_update};
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::{default_if_zero, strings};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

pub struct Namespace;

impl Strategy for Namespace {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status().judges_prefix_again()
    }

    fn default(&self, namespace: &mut Value) {
        label_with_name(namespace);
        default_if_zero(namespace.ensure(&["status"]), "phase", "Active");
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, namespace: &mut Value) {
        namespace.set(&["status"], json!({"phase": "Active"}));
        label_with_name(namespace);
        if !strings(namespace, &["spec", "finalizers"]).any(|f| f == FINALIZER) {
            let mut finalizers = namespace.list_at(&["spec", "finalizers"]).to_vec();
            finalizers.push(FINALIZER.into());
            namespace.set(&["spec", "finalizers"], finalizers);
        }
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, namespace: &mut Value, old: &Value) {
        keep_at(namespace, old, &["spec", "finalizers"]);
        keep(namespace, old, "status");
        label_with_name(namespace);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, namespace: &mut Value, old: &Value) {
        status_update(self.shape(), namespace, old);
        label_with_name(namespace);
    }

    fn validate_create(&self, _cx: &Context<'_>, namespace: &Value) -> ErrorList {
        at::check(namespace, |root, e| finalizers(&root.get("spec").get("finalizers"), false, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, namespace: &Value, _old: &Value) -> ErrorList {
        at::check(namespace, |root, e| finalizers(&root.get("spec").get("finalizers"), false, e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, namespace: &Value, _old: &Value) -> ErrorList {
        at::check(namespace, phase)
    }

    fn field(&self, namespace: &Value, name: &str) -> String {
        plain_field(namespace, name)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_core::names::is_dns1123_label(name)
    }

    fn cells(&self, namespace: &Value, now: Timestamp) -> Cells {
        Some(vec![name(namespace), text(namespace, &["status", "phase"]).into(), age(namespace, now)])
    }
}

/// Selectors of namespaces by name rest on this label.
fn label_with_name(namespace: &mut Value) {
    let name = namespace.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
    if !name.is_empty() {
        namespace.set(&["metadata", "labels", NAME_LABEL], name);
    }
}

/// Finalizers of the spec. Each is told where it stands, or (`each` unset) all at the list.
fn finalizers(list: &At, each: bool, e: &mut ErrorList) {
    for finalizer in list.items() {
        let place = if each { finalizer } else { list.with_value(finalizer.value()) };
        e.extend(metadata::finalizer(place.str()).into_iter().map(|p| place.invalid(p)));
    }
}

/// A namespace that is going says so, and no other.
fn phase(root: &At, e: &mut ErrorList) {
    let (metadata, status) = (root.get("metadata"), root.get("status"));
    let going = metadata.get("deletionTimestamp").is_set();
    let (wanted, when) = if going { ("Terminating", "not empty") } else { ("Active", "empty") };
    let phase = status.get("phase");
    if phase.str() != wanted {
        let shown = status.shown_as("Phase", phase.value());
        e.push(shown.invalid(format!("may only be '{wanted}' if `deletionTimestamp` is {when}")));
    }
}

/// The `finalize` subresource: the only way to change `spec.finalizers`.
pub struct Finalize;

impl Strategy for Finalize {
    fn shape(&self) -> Shape {
        Namespace.shape()
    }

    fn default(&self, object: &mut Value) {
        Namespace.default(object);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, namespace: &mut Value, old: &Value) {
        keep(namespace, old, "status");
        label_with_name(namespace);
    }

    fn validate_update(&self, _cx: &Context<'_>, namespace: &Value, _old: &Value) -> ErrorList {
        at::check(namespace, |root, e| finalizers(&root.get("spec").get("finalizers"), true, e))
    }
}
