//! Writes to `pods/status`: the node agent's door (upstream: `podStatusStrategy`).

use knarr_core::{Value, ValueExt};

use crate::disabled;
use crate::separation::{keep, keep_at};
use crate::strategy::Context;
use crate::tree::{is_zero_at, list_mut};

/// Lists that an agent which does not know them must not drop.
const KEPT_WHEN_ABSENT: [&str; 3] = ["resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses"];

pub fn prepare(_cx: &Context<'_>, pod: &mut Value, old: &Value) {
    keep(pod, old, "spec");
    keep_at(pod, old, &["metadata", "deletionTimestamp"]);
    keep_at(pod, old, &["metadata", "ownerReferences"]);
    if is_zero_at(pod, &["status", "qosClass"]) {
        keep_at(pod, old, &["status", "qosClass"]);
    }
    for field in KEPT_WHEN_ABSENT {
        if pod.at(&["status", field]).is_none() && old.at(&["status", field]).is_some() {
            keep_at(pod, old, &["status", field]);
        }
    }
    keep_observed_generations(pod, old);
    disabled::drop_pod(pod, Some(old));
}

/// A writer that does not know `observedGeneration` leaves it as it was.
fn keep_observed_generations(pod: &mut Value, old: &Value) {
    if is_zero_at(pod, &["status", "observedGeneration"]) && old.at(&["status", "observedGeneration"]).is_some() {
        keep_at(pod, old, &["status", "observedGeneration"]);
    }
    let mut earlier: Vec<&Value> = old.list_at(&["status", "conditions"]).iter().collect();
    for condition in list_mut(pod, &["status", "conditions"]) {
        let Some(at) = earlier.iter().position(|o| o.get("type") == condition.get("type")) else { continue };
        let before = earlier.remove(at);
        if is_zero_at(condition, &["observedGeneration"]) && before.at(&["observedGeneration"]).is_some() {
            keep_at(condition, before, &["observedGeneration"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{clock::Env, json};

    #[test]
    fn an_agent_writes_status_and_nothing_else() {
        let old = json!({"metadata": {"ownerReferences": [{"uid": "u"}]}, "spec": {"nodeName": "n"},
            "status": {"qosClass": "Burstable", "conditions": [{"type": "Ready", "observedGeneration": 2}]}});
        let mut new =
            json!({"metadata": {"annotations": {"a": "b"}}, "spec": {}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        prepare(&Context::internal(&Env::system(), ""), &mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"annotations": {"a": "b"}, "ownerReferences": [{"uid": "u"}]}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "qosClass": "Burstable", "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]}})
        );
    }
}
