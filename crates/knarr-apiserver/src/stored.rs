//! The stored objects, for those parts of the server that look at others' objects while they serve a request: admission,
//! token checks.

use std::sync::Arc;

use knarr_core::Object;
use knarr_store::{ObjectKey, ResourceKey, Storage};

use crate::admission::Objects;
use crate::authn::ObjectLookup;

/// Reads from the watch cache.
pub struct Stored(pub Arc<Storage>);

impl Objects for Stored {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Object> {
        self.0.get_now(&ResourceKey::new(group, resource), &ObjectKey::new(namespace, name)).map(|item| item.object.clone())
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Object> {
        self.0.snapshot(&ResourceKey::new(group, resource)).iter(namespace, None).map(|item| item.object.clone()).collect()
    }
}

impl ObjectLookup for Stored {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let object = self.get("", resource, namespace, name)?;
        Some(knarr_schema::codec::meta(&object).uid.to_owned())
    }
}
