//! Volumes and claims get the finalizer that keeps them while they are in use.
//! Follows `k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection`.

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt};

use super::{Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

pub struct StorageObjectInUseProtection;

fn finalizer(a: &Attributes) -> Option<&'static str> {
    [
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
    ]
    .into_iter()
    .find(|(group, resource, _)| is_resource(a, group, resource))
    .map(|(_, _, finalizer)| finalizer)
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn passes(&self) -> Passes {
        Passes::Mutating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Create && finalizer(a).is_some()
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let (Some(finalizer), Some(object)) = (finalizer(review.attributes), review.object.as_mut()) else { return Ok(()) };
        match object.ensure(&["metadata", "finalizers"]) {
            Value::Array(list) if list.iter().any(|f| f == finalizer) => {}
            Value::Array(list) => list.push(finalizer.into()),
            other => *other = Value::Array(vec![finalizer.into()]),
        }
        Ok(())
    }
}
