//! Every pod stands a node's trouble for five minutes, or as long as the server's flags say, unless it says otherwise itself.
//! Follows `k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds`.

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt, json};

use super::{Operation, Passes, Plugin, Review, is_resource};
use crate::authz::Attributes;

const TOLERATED: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// How long pods stand each of the two, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultTolerationSeconds {
    /// `--default-not-ready-toleration-seconds`
    pub not_ready: i64,
    /// `--default-unreachable-toleration-seconds`
    pub unreachable: i64,
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

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
            .zip([self.not_ready, self.unreachable])
            .filter(|(key, _)| !pod.list_at(&["spec", "tolerations"]).iter().any(|t| tolerates(t, key)))
            .map(|(key, seconds)| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}))
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
        let pod = create(&DefaultTolerationSeconds::default(), "", "pods", json!({"spec": {"tolerations": [own]}})).await.unwrap();
        let list = pod.list_at(&["spec", "tolerations"]);
        assert_eq!((list.len(), &list[0]), (2, &own));
        assert_eq!((&list[1]["key"], &list[1]["tolerationSeconds"]), (&json!(TOLERATED[1]), &json!(300)));
        let chosen = DefaultTolerationSeconds { not_ready: 7, unreachable: 8 };
        let pod = create(&chosen, "", "pods", json!({"spec": {}})).await.unwrap();
        let seconds: Vec<&Value> = pod.list_at(&["spec", "tolerations"]).iter().map(|t| &t["tolerationSeconds"]).collect();
        assert_eq!(seconds, [&json!(7), &json!(8)]);
        let all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        assert_eq!(create(&DefaultTolerationSeconds::default(), "", "pods", all.clone()).await.unwrap(), all);
    }
}
