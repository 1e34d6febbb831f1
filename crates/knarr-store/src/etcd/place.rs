//! Which key an object has in etcd, and which object a key is: kube-apiserver's layout, so that its tools and our own find what
//! they look for.

use std::collections::HashMap;

use bytes::Bytes;
use knarr_schema::registry::Registry;

use crate::key::ResourceKey;

/// See the module.
pub struct Places {
    /// `/registry/`.
    root: String,
    /// Resources of the server itself by where they stand: `services/specs`, `pods`.
    known: HashMap<String, ResourceKey>,
}

impl Places {
    /// `prefix` is kube-apiserver's `--etcd-prefix`.
    pub fn new(prefix: &str) -> Self {
        let known = Registry::everything()
            .all()
            .iter()
            .filter(|r| r.is_stored())
            .map(|r| ResourceKey::new(&r.storage.0, &r.plural))
            .map(|k| (k.etcd_prefix(), k))
            .collect();
        Self { root: format!("/{}/", prefix.trim_matches('/')), known }
    }

    /// All keys of this store: from the first up to before the second.
    pub fn range(&self) -> (Bytes, Bytes) {
        let mut end = self.root.clone().into_bytes();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (self.root.clone().into(), end.into())
    }

    pub fn key(&self, resource: &ResourceKey, path: &str) -> Bytes {
        format!("{}{}/{path}", self.root, resource.etcd_prefix()).into()
    }

    /// All keys of one resource.
    pub fn range_of(&self, resource: &ResourceKey) -> (Bytes, Bytes) {
        let prefix = format!("{}{}", self.root, resource.etcd_prefix());
        // '0' is the character after '/'.
        (format!("{prefix}/").into(), format!("{prefix}0").into())
    }

    /// Where kube-apiserver keeps what is given of a range.
    pub fn guard(&self, name: &str) -> Bytes {
        format!("{}ranges/{name}", self.root).into()
    }

    /// The resource and path of a key; `None` for what is no object: kube-apiserver keeps ranges of addresses and leases of its
    /// own there, too.
    pub fn find(&self, key: &[u8]) -> Option<(ResourceKey, String)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?;
        let (first, after_first) = rest.split_once('/')?;
        let second = after_first.split_once('/').filter(|(_, path)| !path.is_empty());
        if let Some((second, path)) = second
            && let Some(resource) = self.known.get(&rest[..first.len() + 1 + second.len()])
        {
            return Some((resource.clone(), path.to_owned()));
        }
        if let Some(resource) = self.known.get(first) {
            return Some((resource.clone(), after_first.to_owned()));
        }
        // A custom resource stands under its group, which always has a dot; no resource of the server has one.
        let (resource, path) = second.filter(|_| first.contains('.'))?;
        Some((ResourceKey::new(first, resource), path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_again() {
        let places = Places::new("/registry");
        for (group, resource, path) in [
            ("", "pods", "default/web"),
            ("", "nodes", "n1"),
            ("", "services", "default/web"),
            ("", "endpoints", "default/web"),
            ("", "events", "default/web.1"),
            ("apps", "deployments", "default/web"),
            ("networking.k8s.io", "ingresses", "default/web"),
            ("rbac.authorization.k8s.io", "clusterroles", "system:node"),
            ("apiextensions.k8s.io", "customresourcedefinitions", "widgets.example.com"),
            ("apiregistration.k8s.io", "apiservices", "v1."),
            ("example.com", "widgets", "default/a"),
            ("example.com", "pods", "cluster-scoped"),
        ] {
            let resource = ResourceKey::new(group, resource);
            assert_eq!(places.find(&places.key(&resource, path)), Some((resource, path.to_owned())));
        }
        for (r, key) in Registry::everything().all().iter().filter(|r| r.is_stored()).map(|r| (r, ResourceKey::new(&r.storage.0, &r.plural))) {
            assert_eq!(places.find(&places.key(&key, "a")), Some((key, "a".into())), "{}", r.plural);
        }
    }

    #[test]
    fn what_is_no_object_is_passed_over() {
        let places = Places::new("registry");
        for key in [
            "/registry/masterleases/10.0.0.1",
            "/registry/ranges/serviceips",
            "/registry/health",
            "/other/pods/default/a",
            "/registry/",
            "/registry/example.com/widgets/",
            "compact_rev_key",
        ] {
            assert_eq!(places.find(key.as_bytes()), None, "{key}");
        }
        assert_eq!(places.range(), (Bytes::from("/registry/"), Bytes::from("/registry0")));
    }
}
