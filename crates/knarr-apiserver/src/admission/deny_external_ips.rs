//! Services claim no addresses of others: `externalIPs` may be taken away, not added (CVE-2020-8554). Off unless it is asked for.
//! Follows `k8s.io/kubernetes/plugin/pkg/admission/network/denyserviceexternalips`.

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt};

use super::{Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

pub struct DenyServiceExternalIPs;

fn addresses(service: Option<&Value>) -> &[Value] {
    service.map(|s| s.list_at(&["spec", "externalIPs"])).unwrap_or_default()
}

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(a, "", "services")
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let old = addresses(review.old);
        if addresses(review.object.as_ref()).iter().all(|a| old.contains(a)) {
            return Ok(());
        }
        Err(review.forbidden("Use of external IPs is denied by admission control."))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::create;
    use super::*;
    use knarr_core::json;

    #[tokio::test]
    async fn addresses_of_others_are_not_to_be_claimed() {
        let service = |spec: Value| json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec});
        let ask = async |spec: Value| create(&DenyServiceExternalIPs, "", "services", service(spec)).await.map(drop);
        assert_eq!(ask(json!({})).await, Ok(()));
        let text = "services \"s\" is forbidden: Use of external IPs is denied by admission control.";
        assert_eq!(ask(json!({"externalIPs": ["192.0.2.1"]})).await, Err(text.into()));
    }
}
