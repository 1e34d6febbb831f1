//! The resources that are served. One entry a resource; routes, discovery, OpenAPI, tables and CLI names follow from it.

mod builtin;
mod custom;
mod index;
mod runtime_config;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use knarr_core::{GroupVersionKind, GroupVersionResource};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

pub use self::custom::CustomSchema;
use self::index::Index;
pub use self::runtime_config::RuntimeConfig;
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
    /// The columns of `kind`, where it is a kind of its own with columns of its own.
    pub columns: Vec<Column>,
}

/// What a custom resource adds.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Name of its CustomResourceDefinition.
    pub definition: String,
    /// `spec.versions[].schema.openAPIV3Schema`.
    pub schema: Arc<CustomSchema>,
    pub selectable_fields: Vec<String>,
    pub status_subresource: bool,
    /// `(specReplicasPath, statusReplicasPath, labelSelectorPath)`.
    pub scale: Option<(String, String, Option<String>)>,
    pub preserve_unknown_fields: bool,
}

/// That a kind is on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Deprecation {
    /// What every request for it is told.
    pub warning: String,
    /// The release that serves it no more; empty where none is named.
    pub removed: String,
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
    pub deprecated: Option<Deprecation>,
    /// A version with the manners of old, where its resource has learned better: a PUT needs no resourceVersion, and a delete answers with
    /// the object (upstream: `devicetaintrule.NewRESTLegacy`).
    pub lenient: bool,
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

    /// Whether a delete answers with the object and not with a `Status` (upstream: `ReturnDeletedObject: true` in `pkg/registry`).
    pub fn returns_deleted(&self) -> bool {
        let plurals: &[&str] = match self.group.as_str() {
            "" => &["namespaces", "persistentvolumeclaims", "persistentvolumes", "pods", "podtemplates", "resourcequotas", "serviceaccounts", "services"],
            "resource.k8s.io" => &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"],
            "storage.k8s.io" => &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"],
            _ => &[],
        };
        self.lenient || plurals.contains(&self.plural.as_str())
    }

    /// `storageVersionHash` of discovery.
    pub fn storage_hash(&self) -> String {
        let (group, version) = &self.storage;
        let digest = Sha256::digest(format!("{group}/{version}/{}", self.kind));
        base64::engine::general_purpose::STANDARD.encode(&digest[..8])
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// A set of resources at one moment. Cheap to clone; the server swaps a new one in when a CRD changes.
#[derive(Clone, Debug)]
pub struct Registry {
    resources: Arc<Vec<Arc<Resource>>>,
    by_resource: Arc<Index>,
    by_kind: Arc<Index>,
}

impl Registry {
    /// What 1.37 serves by default.
    pub fn builtin() -> Self {
        static BUILTIN: LazyLock<Registry> = LazyLock::new(|| Registry::everything().chosen(&RuntimeConfig::default()));
        BUILTIN.clone()
    }

    /// What 1.37 can serve: the versions that are off by default, too.
    pub fn everything() -> Self {
        static EVERYTHING: LazyLock<Registry> = LazyLock::new(|| Registry::of(builtin::resources()));
        EVERYTHING.clone()
    }

    /// What is left of it when somebody chooses.
    #[must_use]
    pub fn chosen(&self, config: &RuntimeConfig) -> Self {
        Self::of(self.resources.iter().filter(|r| config.serves(&r.group, &r.version, &r.plural)).cloned().collect())
    }

    fn of(resources: Vec<Arc<Resource>>) -> Self {
        let by_resource = Index::of(&resources, |r| [&r.group, &r.version, &r.plural]);
        let by_kind = Index::of(&resources, |r| [&r.group, &r.version, &r.kind]);
        Self { resources: Arc::new(resources), by_resource: Arc::new(by_resource), by_kind: Arc::new(by_kind) }
    }

    /// In discovery's order.
    pub fn all(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_resource
            .find([group, version, plural], |i| [&self.resources[i].group, &self.resources[i].version, &self.resources[i].plural])
            .map(|i| &self.resources[i])
    }

    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_kind
            .find([group, version, kind], |i| [&self.resources[i].group, &self.resources[i].version, &self.resources[i].kind])
            .map(|i| &self.resources[i])
    }

    /// The same registry with these custom resources instead of the ones it had. They follow the built-in ones: groups by
    /// name, versions by their priority (`v1` before `v1beta1`), then by plural.
    #[must_use]
    pub fn with_custom(&self, mut custom: Vec<Arc<Resource>>) -> Self {
        custom.sort_by(|a, b| a.group.cmp(&b.group).then_with(|| version_order(&a.version, &b.version)).then_with(|| a.plural.cmp(&b.plural)));
        let builtin = self.resources.iter().filter(|r| r.custom.is_none()).cloned();
        Self::of(builtin.chain(custom).collect())
    }

    /// Groups in discovery's order, each with its versions, the preferred first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        let mut position: HashMap<&str, usize> = HashMap::new();
        for r in self.resources.iter() {
            let at = *position.entry(&r.group).or_insert_with(|| {
                groups.push((r.group.clone(), Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.contains(&r.version) {
                groups[at].1.push(r.version.clone());
            }
        }
        groups
    }
}

/// How Kubernetes orders versions, the most wanted first: `v2`, `v1`, `v2beta1`, `v1beta1`, `v1alpha1`, then all others by
/// name (`k8s.io/apimachinery/pkg/version.CompareKubeAwareVersionStrings`, reversed).
pub fn version_order(a: &str, b: &str) -> Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// `(stability, major, minor)` of `v1`, `v1beta2` or `v1alpha1`.
fn version_rank(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let number = |s: &str| s.parse().ok().filter(|_| !s.starts_with('0'));
    let (major, rest) = (number(&rest[..end])?, &rest[end..]);
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    rest.strip_prefix("beta").map(|n| (1, n)).or_else(|| rest.strip_prefix("alpha").map(|n| (0, n))).and_then(|(level, n)| Some((level, major, number(n)?)))
}

/// The fields that a write through a path may never own (`GetResetFields` of upstream's strategies), as dotted paths:
/// `spec` for `status`, `status` for the object itself. `subresource` is empty for the object.
pub fn reset_fields(resource: &Resource, subresource: &str) -> &'static [String] {
    static TABLE: LazyLock<HashMap<String, Vec<String>>> =
        LazyLock::new(|| serde_json::from_str(include_str!("../data/resetfields.json")).expect("the table is JSON"));
    let kind = if resource.custom.is_some() {
        if !resource.custom.as_ref().is_some_and(|c| c.status_subresource) {
            return &[];
        }
        "(custom resources)".to_owned()
    } else {
        format!("{}/{}", resource.api_version(), resource.kind)
    };
    let key = if subresource.is_empty() { kind } else { format!("{kind}/{subresource}") };
    TABLE.get(&key).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_by_plural_and_by_kind() {
        assert_eq!(Registry::builtin().all().len(), 72);
        let registry = Registry::everything();
        for r in registry.all() {
            assert!(std::ptr::eq(&**registry.by_resource(&r.group, &r.version, &r.plural).unwrap(), &**r));
            assert!(std::ptr::eq(&**registry.by_kind(&r.group, &r.version, &r.kind).unwrap(), &**r));
            assert!(r.type_id.is_some(), "{}", r.kind);
            assert_eq!(r.list_kind.is_empty(), !r.verbs.iter().any(|v| v == "list"), "{}", r.kind);
        }
        assert!(registry.by_resource("apps", "v1", "pods").is_none());
        let pods = registry.by_resource("", "v1", "pods").unwrap();
        assert_eq!(pods.columns[0].name, "Name");
        assert!(pods.selectable_fields.contains(&"spec.nodeName".to_owned()));
        assert_eq!(pods.subresource("eviction").unwrap().response, Some(("policy".into(), "v1".into())));
        assert_eq!(registry.groups().len(), registry.groups().iter().map(|g| &g.0).collect::<std::collections::BTreeSet<_>>().len());
        assert!(registry.groups().contains(&("autoscaling".into(), vec!["v2".into(), "v1".into()])));
    }

    #[test]
    fn a_version_that_looks_like_the_stable_one_shares_its_lines() {
        let registry = Registry::everything();
        let find = |version, plural| registry.by_resource("resource.k8s.io", version, plural).unwrap();
        let (stable, beta) = (find("v1", "resourceslices"), find("v1beta1", "resourceslices"));
        assert_eq!((&stable.columns, &stable.selectable_fields, &stable.storage), (&beta.columns, &beta.selectable_fields, &beta.storage));
        assert_eq!(beta.deprecated.as_ref().unwrap().warning, "resource.k8s.io/v1beta1 ResourceSlice is deprecated in v1.35+, unavailable in v1.38+");
        assert_eq!((beta.storage_hash(), find("v1beta2", "devicetaintrules").storage_hash()), ("KsC072WgaEY=".into(), "i+85+TcIKpA=".into()));
        let candidates = registry.by_resource("coordination.k8s.io", "v1beta1", "leasecandidates").unwrap();
        assert_eq!((candidates.storage_hash().as_str(), candidates.columns.len()), ("lvME0iHWE20=", 5));
    }

    #[test]
    fn the_storage_version_hash_is_that_of_the_published_discovery() {
        let hash = |g, v, p| Registry::builtin().by_resource(g, v, p).unwrap().storage_hash();
        assert_eq!(hash("", "v1", "pods"), "xPOwRZ+Yhw8=");
        assert_eq!(hash("apps", "v1", "deployments"), "8aSe+NMegvE=");
        assert_eq!(hash("apiextensions.k8s.io", "v1", "customresourcedefinitions"), "jfWCUB31mvA=");
    }

    #[test]
    fn custom_resources_come_and_go_behind_the_built_in_ones() {
        let custom = |version: &str| {
            Arc::new(Resource {
                group: "example.com".into(),
                version: version.into(),
                custom: Some(Arc::new(Custom {
                    definition: "pods.example.com".into(),
                    schema: Arc::new((&serde_json::Value::Null).into()),
                    selectable_fields: vec![],
                    status_subresource: true,
                    scale: None,
                    preserve_unknown_fields: false,
                })),
                ..(**Registry::builtin().by_resource("", "v1", "pods").unwrap()).clone()
            })
        };
        let registry = Registry::builtin().with_custom(vec![custom("v1beta1"), custom("v1"), custom("v10alpha1")]);
        assert_eq!(registry.groups().last().unwrap(), &("example.com".into(), vec!["v1".into(), "v1beta1".into(), "v10alpha1".into()]));
        assert!(registry.by_kind("example.com", "v1", "Pod").is_some());
        assert_eq!(reset_fields(registry.by_kind("example.com", "v1", "Pod").unwrap(), "status"), ["metadata", "spec"]);
        assert_eq!(registry.with_custom(vec![]).all().len(), 72);
    }
}
