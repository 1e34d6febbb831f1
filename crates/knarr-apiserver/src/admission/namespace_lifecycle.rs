//! Nothing is made in a namespace that does not exist or that is going away, and the namespaces that the cluster stands on
//! are never deleted. Follows `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::status::{Cause, Details};
use knarr_core::{GroupResource, Result, Status, ValueExt};

use super::{Objects, Operation, Passes, Plugin, Review};
use crate::authz::Attributes;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle(pub Arc<dyn Objects>);

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        match operation {
            Operation::Delete => a.group.is_empty() && a.resource == "namespaces",
            Operation::Create => !a.namespace.is_empty() && a.resource != "namespaces" && !a.resource.ends_with("accessreviews"),
            _ => false,
        }
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let a = review.attributes;
        if review.operation == Operation::Delete {
            return if IMMORTAL.contains(&a.name.as_str()) { Err(review.forbidden("this namespace may not be deleted")) } else { Ok(()) };
        }
        let Some(namespace) = self.0.get("", "namespaces", "", &a.namespace) else {
            return Err(Status::not_found(&GroupResource::new("", "namespaces"), &a.namespace));
        };
        if !knarr_schema::codec::meta(&namespace).deleting {
            return Ok(());
        }
        let mut refusal = review.forbidden(format!("unable to create new content in namespace {} because it is being terminated", a.namespace));
        let cause = Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {} is being terminated", a.namespace),
            field: "metadata.namespace".into(),
        };
        let details = refusal.details.take().map_or_else(Details::default, |d| *d);
        let name = review.object.as_ref().and_then(|o| o.str_at(&["metadata", "name"])).unwrap_or_default().to_owned();
        Err(refusal.with_details(Details { causes: vec![cause], name, ..details }))
    }
}
