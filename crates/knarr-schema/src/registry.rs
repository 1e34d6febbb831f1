//! The resources that are served. One entry a resource; routes, discovery, OpenAPI, tables and CLI names follow from it.

use std::sync::Arc;

use knarr_core::{GroupVersionKind, GroupVersionResource};

use crate::types::TypeId;

/// A table column: `[name, type, format, priority]` of upstream's `TableColumnDefinition`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub column_type: String,
    pub format: String,
    pub description: String,
    pub priority: i32,
    /// JSONPath into the object: custom resources only.
    pub json_path: Option<String>,
}

/// A subresource: `pods/exec`.
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    pub kind: String,
    pub verbs: Vec<String>,
    /// Group and version of `kind` where they differ from the resource's (`autoscaling/v1` for scale).
    pub response: Option<(String, String)>,
}

/// What a custom resource adds.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Name of its CustomResourceDefinition.
    pub definition: String,
    /// `spec.versions[].schema.openAPIV3Schema`.
    pub schema: Arc<serde_json::Value>,
    pub selectable_fields: Vec<String>,
    pub status_subresource: bool,
    /// `(specReplicasPath, statusReplicasPath, labelSelectorPath)`.
    pub scale: Option<(String, String, Option<String>)>,
    pub preserve_unknown_fields: bool,
}

/// One resource in one version: a line of the table.
#[derive(Clone, Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub subresources: Vec<Subresource>,
    pub columns: Vec<Column>,
    /// Field selectors it accepts.
    pub selectable_fields: Vec<String>,
    /// Group and version in which it is stored; equal for all versions of one resource.
    pub storage: (String, String),
    /// Its type; absent for custom resources.
    pub type_id: Option<TypeId>,
    pub custom: Option<Arc<Custom>>,
}

impl Resource {
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&self.group, &self.version, &self.plural)
    }

    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&self.group, &self.version, &self.kind)
    }

    pub fn api_version(&self) -> String {
        self.gvk().api_version()
    }

    /// Whether objects of it live in the store (reviews and bindings do not).
    pub fn is_stored(&self) -> bool {
        self.verbs.iter().any(|v| v == "get")
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// A set of resources at one moment. Cheap to clone; the server swaps a new one in when a CRD changes.
#[derive(Clone, Debug)]
pub struct Registry {
    resources: Arc<Vec<Arc<Resource>>>,
}

impl Registry {
    /// What 1.37 serves by default.
    pub fn builtin() -> Self {
        todo!()
    }

    /// In discovery's order.
    pub fn all(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    pub fn by_resource(&self, _group: &str, _version: &str, _plural: &str) -> Option<&Arc<Resource>> {
        todo!()
    }

    pub fn by_kind(&self, _group: &str, _version: &str, _kind: &str) -> Option<&Arc<Resource>> {
        todo!()
    }

    /// The same registry with these custom resources instead of the ones it had.
    #[must_use]
    pub fn with_custom(&self, _custom: Vec<Resource>) -> Self {
        todo!()
    }

    /// Groups in discovery's order, each with its versions, the preferred first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        todo!()
    }
}
