//! A claim without a storage class, or an Ingress without an ingress class, gets the one marked as default; of several, the
//! newest. Follows `k8s.io/kubernetes/plugin/pkg/admission/{storage/storageclass/setdefault,network/defaultingressclass}`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, ValueExt};

use super::{Objects, Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

pub struct DefaultClass {
    objects: Arc<dyn Objects>,
    name: &'static str,
    /// Group and resource that get a class.
    of: (&'static str, &'static str),
    /// Group and resource of the classes.
    classes: (&'static str, &'static str),
    annotation: &'static str,
    field: &'static str,
}

impl DefaultClass {
    pub fn storage(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            name: "DefaultStorageClass",
            of: ("", "persistentvolumeclaims"),
            classes: ("storage.k8s.io", "storageclasses"),
            annotation: "storageclass.kubernetes.io/is-default-class",
            field: "storageClassName",
        }
    }

    pub fn ingress(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            name: "DefaultIngressClass",
            of: ("networking.k8s.io", "ingresses"),
            classes: ("networking.k8s.io", "ingressclasses"),
            annotation: "ingressclass.kubernetes.io/is-default-class",
            field: "ingressClassName",
        }
    }

    fn default(&self) -> Option<String> {
        let mut classes = self.objects.values(self.classes.0, self.classes.1, None);
        classes.retain(|c| c.str_at(&["metadata", "annotations", self.annotation]) == Some("true"));
        let newest = classes.into_iter().max_by(|a, b| {
            let made = |c: &knarr_core::Value| c.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
            let name = |c: &knarr_core::Value| c.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
            made(a).cmp(&made(b)).then_with(|| name(b).cmp(&name(a)))
        })?;
        newest.str_at(&["metadata", "name"]).map(str::to_owned)
    }
}

#[async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn passes(&self) -> Passes {
        Passes::Mutating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Create && is_resource(a, self.of.0, self.of.1)
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let Some(object) = review.object.as_mut() else { return Ok(()) };
        let legacy = object.at(&["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some();
        if object.at(&["spec", self.field]).is_none()
            && !legacy
            && let Some(class) = self.default()
        {
            object.set(&["spec", self.field], class);
        }
        Ok(())
    }
}
