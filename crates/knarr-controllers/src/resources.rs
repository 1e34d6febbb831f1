//! Which resources there are: the built-in ones, and those that CustomResourceDefinitions add while we run.
//!
//! Upstream asks the discovery endpoints every 30 seconds; here the definitions themselves are watched.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use knarr_client::{Informer, Project, read};
use knarr_core::{GroupVersionKind, GroupVersionResource, Object, Result, Value, ValueExt};
use knarr_schema::registry::{Registry, version_order};
use serde::Deserialize;

use crate::context::ControllerContext;

/// One resource, in the version that clients prefer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceInfo {
    pub gvr: GroupVersionResource,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl ResourceInfo {
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|own| own == v))
    }
}

/// What is kept of a definition.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    info: ResourceInfo,
    /// All versions that are served.
    versions: Vec<String>,
    served: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    spec: WireSpec,
    status: WireStatus,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    group: String,
    scope: String,
    names: WireNames,
    versions: Vec<WireVersion>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireNames {
    plural: String,
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireVersion {
    name: String,
    served: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    /// `null` right after the definition was made.
    conditions: Option<Vec<WireCondition>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireCondition {
    r#type: String,
    status: String,
}

const CUSTOM_VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

impl Project for Definition {
    fn project(object: &Object) -> Result<Self> {
        let Wire { spec, status } = read::typed(object)?;
        let mut versions: Vec<String> = spec.versions.into_iter().filter(|v| v.served).map(|v| v.name).collect();
        versions.sort_by(|a, b| version_order(a, b));
        let preferred = versions.first().cloned().unwrap_or_default();
        let established = status.conditions.unwrap_or_default().iter().any(|c| c.r#type == "Established" && c.status == "True");
        Ok(Self {
            info: ResourceInfo {
                gvr: GroupVersionResource::new(spec.group, preferred, spec.names.plural),
                kind: spec.names.kind,
                namespaced: spec.scope == "Namespaced",
                verbs: CUSTOM_VERBS.map(str::to_owned).to_vec(),
            },
            served: established && !versions.is_empty(),
            versions,
        })
    }
}

/// The resources of this cluster. Cheap to clone.
#[derive(Clone)]
pub struct Resources {
    builtin: Arc<Vec<ResourceInfo>>,
    registry: Registry,
    definitions: Informer<Definition>,
}

impl Resources {
    pub fn new(context: &ControllerContext) -> Self {
        let registry = context.registry.clone();
        Self { builtin: Arc::new(preferred(&registry)), registry, definitions: context.informer::<CustomResourceDefinition, Definition>() }
    }

    /// Everything that is served now.
    pub fn all(&self) -> Vec<ResourceInfo> {
        let custom = self.definitions.store().list();
        let custom = custom.iter().filter(|d| d.view.served).map(|d| d.view.info.clone());
        self.builtin.iter().cloned().chain(custom).collect()
    }

    /// The resource of a kind, in exactly this version.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<ResourceInfo> {
        if let Some(r) = self.registry.by_kind(group, version, kind).filter(|r| r.is_stored()) {
            return Some(ResourceInfo { gvr: r.gvr(), kind: r.kind.clone(), namespaced: r.namespaced, verbs: r.verbs.clone() });
        }
        let custom = self.definitions.store().list();
        let found = custom.iter().find(|d| d.view.served && d.view.info.gvr.group == group && d.view.info.kind == kind)?;
        found.view.versions.iter().any(|v| v == version).then(|| {
            let mut info = found.view.info.clone();
            info.gvr.version = version.to_owned();
            info
        })
    }

    /// The kinds of a resource in one version. Without a group, those of all groups (upstream: `RESTMapper.KindsFor`).
    pub fn kinds_of(&self, group: &str, version: &str, resource: &str) -> Vec<GroupVersionKind> {
        let fits = |gvr: &GroupVersionResource| (group.is_empty() || gvr.group == group) && gvr.resource == resource;
        let builtin = self.registry.all().iter().filter(|r| r.version == version && fits(&r.gvr())).map(|r| r.gvk());
        let custom = self.definitions.store().list();
        let served = custom.iter().filter(|d| d.view.served && fits(&d.view.info.gvr) && d.view.versions.iter().any(|v| v == version));
        builtin.chain(served.map(|d| GroupVersionKind::new(&d.view.info.gvr.group, version, &d.view.info.kind))).collect()
    }

    /// What the definition of a custom kind says of it in one version.
    pub fn custom_schema(&self, kind: &GroupVersionKind) -> Option<Value> {
        let custom = self.definitions.store().list();
        let found = custom.iter().find(|d| d.view.info.gvr.group == kind.group && d.view.info.kind == kind.kind)?;
        let definition = read::value(&found.object).ok()?;
        let version = definition.list_at(&["spec", "versions"]).iter().find(|v| v.str_at(&["name"]) == Some(&kind.version))?;
        version.at(&["schema", "openAPIV3Schema"]).cloned()
    }

    /// The registry of the built-in resources.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Calls `handler` now and whenever the set of resources may have changed.
    pub fn on_change(&self, handler: impl Fn() + Send + Sync + 'static) {
        handler();
        self.definitions.on_change(move |_| handler());
    }
}

/// Each stored resource once, in the first version of its group that has it.
fn preferred(registry: &Registry) -> Vec<ResourceInfo> {
    let mut all: Vec<ResourceInfo> = Vec::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            for r in registry.all().iter().filter(|r| r.group == group && r.version == version && r.is_stored()) {
                if !all.iter().any(|known| known.gvr.group == r.group && known.gvr.resource == r.plural) {
                    all.push(ResourceInfo { gvr: r.gvr(), kind: r.kind.clone(), namespaced: r.namespaced, verbs: r.verbs.clone() });
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    #[test]
    fn each_resource_comes_once_in_its_preferred_version() {
        let all = preferred(&Registry::builtin());
        let hpa: Vec<_> = all.iter().filter(|r| r.gvr.resource == "horizontalpodautoscalers").map(|r| r.gvr.version.as_str()).collect();
        assert_eq!(hpa, ["v2"]);
        assert!(all.iter().any(|r| r.gvr.resource == "pods" && r.namespaced && r.supports(&["delete", "list", "watch"])));
        assert!(!all.iter().any(|r| r.gvr.resource == "tokenreviews"));
    }

    #[test]
    fn a_definition_counts_in_its_best_served_version_once_established() {
        let crd = |established: &str| {
            Definition::project(&knarr_client::client::json_object(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "cars.x.io"},
                "spec": {"group": "x.io", "scope": "Cluster", "names": {"plural": "cars", "kind": "Car"},
                    "versions": [{"name": "v1alpha1", "served": true}, {"name": "v1beta1", "served": true}, {"name": "v1", "served": false}]},
                "status": {"conditions": [{"type": "Established", "status": established}]}})))
            .unwrap()
        };
        assert_eq!((crd("True").served, crd("True").info.gvr.version.as_str()), (true, "v1beta1"));
        assert!(!crd("False").served);
    }
}
