//! Names of places: a resource, an object in it, and how upstream lays both out in etcd.

use std::fmt;

/// A resource as the store keys it. `group` is the one in which the resource is stored (`knarr_schema::registry::Resource::storage`):
/// events are kept once, in the core group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    pub group: String,
    pub resource: String,
}

impl ResourceKey {
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }

    /// Where etcd keeps this resource: `pods`, `services/specs`, `example.com/widgets`
    /// (upstream: `storage_factory.ResourcePrefix`, and the CRD handler, which puts the group in front).
    pub fn etcd_prefix(&self) -> String {
        match (self.group.as_str(), self.resource.as_str()) {
            ("", "replicationcontrollers") => "controllers".into(),
            ("", "endpoints") => "services/endpoints".into(),
            ("", "nodes") => "minions".into(),
            ("", "services") => "services/specs".into(),
            ("extensions" | "networking.k8s.io", "ingresses") => "ingress".into(),
            (group, resource) if BUILTIN_GROUPS.contains(&group) => resource.to_lowercase(),
            (group, resource) => format!("{group}/{resource}"),
        }
    }
}

/// As upstream prints a `GroupResource`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

/// Groups of kube-apiserver itself, whose resources stand in etcd without their group. The groups of the aggregator
/// (`apiregistration.k8s.io`), of CRDs (`apiextensions.k8s.io`) and of custom resources are part of the key.
const BUILTIN_GROUPS: &[&str] = &[
    "",
    "admissionregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "lifecycle.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// One object's place. `namespace` is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// `namespace/name`, or the name alone. Lists are ordered by this text, as etcd orders keys: `a-b/x` before `a/x`.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }

    /// The key in etcd: `/registry/pods/default/web`.
    pub fn etcd_key(&self, resource: &ResourceKey) -> String {
        format!("/registry/{}/{}", resource.etcd_prefix(), self.path())
    }
}

/// Splits `namespace/name`; the namespace is empty when there is no slash.
pub(crate) fn split_path(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_kube_apiserver_lays_them_out() {
        for (group, resource, namespace, name, wanted) in [
            ("", "pods", "default", "web", "/registry/pods/default/web"),
            ("", "nodes", "", "n1", "/registry/minions/n1"),
            ("", "services", "default", "web", "/registry/services/specs/default/web"),
            ("", "endpoints", "default", "web", "/registry/services/endpoints/default/web"),
            ("", "replicationcontrollers", "default", "web", "/registry/controllers/default/web"),
            ("", "events", "default", "web.1", "/registry/events/default/web.1"),
            ("apps", "deployments", "default", "web", "/registry/deployments/default/web"),
            ("networking.k8s.io", "ingresses", "default", "web", "/registry/ingress/default/web"),
            ("networking.k8s.io", "networkpolicies", "default", "web", "/registry/networkpolicies/default/web"),
            ("coordination.k8s.io", "leases", "kube-node-lease", "n1", "/registry/leases/kube-node-lease/n1"),
            ("apiextensions.k8s.io", "customresourcedefinitions", "", "a.b.c", "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c"),
            ("apiregistration.k8s.io", "apiservices", "", "v1.", "/registry/apiregistration.k8s.io/apiservices/v1."),
            ("example.com", "widgets", "default", "a", "/registry/example.com/widgets/default/a"),
            ("gateway.networking.k8s.io", "gateways", "default", "a", "/registry/gateway.networking.k8s.io/gateways/default/a"),
        ] {
            assert_eq!(ObjectKey::new(namespace, name).etcd_key(&ResourceKey::new(group, resource)), wanted);
        }
    }
}
