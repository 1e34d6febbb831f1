//! A new node takes no pods until it says that it is ready. Follows `k8s.io/kubernetes/plugin/pkg/admission/nodetaint`.

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt, json};

use super::{Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn passes(&self) -> Passes {
        Passes::Mutating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Create && is_resource(a, "", "nodes")
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let Some(node) = review.object.as_mut() else { return Ok(()) };
        let has = node.list_at(&["spec", "taints"]).iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule");
        if !has {
            let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
            match node.ensure(&["spec", "taints"]) {
                Value::Array(list) => list.push(taint),
                other => *other = Value::Array(vec![taint]),
            }
        }
        Ok(())
    }
}
