//! A claim may grow when it is bound and its class allows it. Follows
//! `k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt, quantity::Quantity};

use super::{Objects, Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

pub struct PersistentVolumeClaimResize(pub Arc<dyn Objects>);

fn size(claim: &Value) -> Quantity {
    claim.at(&["spec", "resources", "requests", "storage"]).and_then(Quantity::from_json).unwrap_or(Quantity::ZERO)
}

fn class(claim: &Value) -> &str {
    let annotated = claim.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    annotated.or_else(|| claim.str_at(&["spec", "storageClassName"])).unwrap_or_default()
}

impl PersistentVolumeClaimResize {
    fn may_grow(&self, claim: &Value, old: &Value) -> bool {
        let name = class(claim);
        !name.is_empty()
            && name == class(old)
            && self.0.value("storage.k8s.io", "storageclasses", "", name).is_some_and(|c| c.bool_at(&["allowVolumeExpansion"]) == Some(true))
    }
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Update && is_resource(a, "", "persistentvolumeclaims")
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let Some((claim, old)) = review.object.as_ref().zip(review.old) else { return Ok(()) };
        if size(claim) <= size(old) {
            return Ok(());
        }
        if old.str_at(&["status", "phase"]) != Some("Bound") {
            return Err(review.forbidden("Only bound persistent volume claims can be expanded"));
        }
        if self.may_grow(claim, old) {
            return Ok(());
        }
        Err(review.forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixed;
    use super::*;
    use knarr_core::json;

    #[tokio::test]
    async fn a_claim_grows_by_its_class_alone() {
        let objects = Fixed(vec![
            ("storageclasses", json!({"metadata": {"name": "grows"}, "allowVolumeExpansion": true})),
            ("storageclasses", json!({"metadata": {"name": "fixed"}})),
        ]);
        let plugin = PersistentVolumeClaimResize(Arc::new(objects));
        let claim = |class: &str, size: &str, phase: &str| json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        let attributes = Attributes { resource: "persistentvolumeclaims".into(), name: "c".into(), ..Attributes::default() };
        let kind = knarr_core::GroupVersionKind::new("", "v1", "PersistentVolumeClaim");
        for (class, phase, size, refused) in [
            ("grows", "Bound", "2Gi", None),
            ("fixed", "Bound", "1Gi", None),
            ("grows", "Pending", "2Gi", Some("Only bound")),
            ("fixed", "Bound", "2Gi", Some("only dynamically provisioned")),
            ("absent", "Bound", "2Gi", Some("only dynamically provisioned")),
        ] {
            let old = claim(class, "1Gi", phase);
            let review = Review { object: Some(claim(class, size, phase)), old: Some(&old), ..Review::new(Operation::Update, &attributes, &kind) };
            let verdict = plugin.validate(&review).await.map_err(|e| e.message);
            assert!(refused.map_or(verdict.is_ok(), |text| verdict.as_ref().is_err_and(|e| e.contains(text))), "{class} {phase} {size}: {verdict:?}");
        }
    }
}
