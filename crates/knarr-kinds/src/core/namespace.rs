//! Namespaces (upstream: `pkg/registry/core/namespace`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt, json};

use crate::separation::{keep, keep_at, status_update};
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::{default_if_zero, strings};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

pub struct Namespace;

impl Strategy for Namespace {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status()
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
}
