//! Every pod stands a node's trouble for five minutes, unless it says otherwise itself.
//! Follows `k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds`.

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt, json};

use super::{Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

const TOLERATED: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn passes(&self) -> Passes {
        Passes::Mutating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(a, "", "pods")
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let Some(pod) = review.object.as_mut() else { return Ok(()) };
        let missing: Vec<Value> = TOLERATED
            .iter()
            .filter(|key| !pod.list_at(&["spec", "tolerations"]).iter().any(|t| tolerates(t, key)))
            .map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        match pod.ensure(&["spec", "tolerations"]) {
            Value::Array(list) => list.extend(missing),
            other => *other = Value::Array(missing),
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let own = toleration.str_at(&["key"]).unwrap_or_default();
    let effect = toleration.str_at(&["effect"]).unwrap_or_default();
    (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::testing::create;
    use super::*;

    #[tokio::test]
    async fn what_a_pod_tolerates_itself_is_left_alone() {
        let own = json!({"key": TOLERATED[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1});
        let pod = create(&DefaultTolerationSeconds, "", "pods", json!({"spec": {"tolerations": [own]}})).await.unwrap();
        let list = pod.list_at(&["spec", "tolerations"]);
        assert_eq!((list.len(), &list[0]), (2, &own));
        assert_eq!(list[1]["key"], TOLERATED[1]);
        let all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        assert_eq!(create(&DefaultTolerationSeconds, "", "pods", all.clone()).await.unwrap(), all);
    }
}
