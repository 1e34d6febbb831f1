//! The stored objects, for those parts of the server that look at others' objects while they serve a request: admission,
//! token checks.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{GroupResource, Object, Result, Status, Value, ValueExt};
use knarr_schema::{codec, registry::Registry};
use knarr_store::{ObjectKey, ResourceKey, Storage};

use crate::admission::Objects;
use crate::authn::{Found, ObjectLookup};
use crate::read::store_error;

/// Reads from the watch cache.
pub struct Stored(pub Arc<Storage>);

#[async_trait]
impl Objects for Stored {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Object> {
        self.0.get_now(&ResourceKey::new(group, resource), &ObjectKey::new(namespace, name)).map(|item| item.object())
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Object> {
        self.0.snapshot(&ResourceKey::new(group, resource)).iter(namespace, None).map(|item| item.object()).collect()
    }

    async fn replace(&self, group: &str, resource: &str, object: &Value, expected: u64) -> Result<()> {
        let registry = Registry::builtin();
        let kind = registry.by_resource(group, "v1", resource).ok_or_else(|| Status::internal(format!("there is no resource {resource}")))?;
        let text = |field: &str| object.str_at(&["metadata", field]).unwrap_or_default();
        let (key, bytes) = (ObjectKey::new(text("namespace"), text("name")), codec::encode_stored(kind, object)?);
        let written = self.0.update(&ResourceKey::new(group, resource), &key, bytes, expected, None).await;
        written.map(drop).map_err(|e| store_error(&e, &GroupResource::new(group, resource), text("name")))
    }
}

impl ObjectLookup for Stored {
    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found> {
        let object = self.get("", resource, namespace, name)?;
        let meta = codec::meta(&object);
        let deleted = if meta.deleting {
            let value = codec::to_value(&object).ok()?;
            value.str_at(&["metadata", "deletionTimestamp"]).and_then(|at| at.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_second)
        } else {
            None
        };
        Some(Found { uid: meta.uid.to_owned(), deleted })
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Value> {
        self.value("", "secrets", namespace, name)
    }
}
