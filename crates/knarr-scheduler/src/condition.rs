//! What a pod's status says of its waiting: the condition `PodScheduled`, written only when it says something new.
//! Upstream: `podutil.UpdatePodCondition`, `updatePod` of `pkg/scheduler/schedule_one.go`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_core::{Value, json, time};
use serde::Deserialize;

/// The parts of a pod that the condition depends on.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Known {
    metadata: Meta,
    status: Status,
}

knarr_client::partial!(Known);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Meta {
    generation: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    nominated_node_name: String,
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: Option<Time>,
}

const TYPE: &str = "PodScheduled";
const REASON: &str = "Unschedulable";

/// The status that tells why no node was found, and the node where room is being made; none when the pod says so already.
pub fn unschedulable(known: &Known, message: &str, nominated: Option<&str>, now: jiff::Timestamp) -> Option<Value> {
    let old = known.status.conditions.iter().find(|c| c.r#type == TYPE);
    let promised = nominated.filter(|node| *node != known.status.nominated_node_name);
    if promised.is_none() && old.is_some_and(|c| c.status == "False" && c.reason == REASON && c.message == message) {
        return None;
    }
    let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.as_ref()).map_or(now, |t| t.0);
    let mut condition = json!({"type": TYPE, "status": "False", "reason": REASON, "message": message,
        "lastProbeTime": null, "lastTransitionTime": time::format(since)});
    if known.metadata.generation > 0 {
        condition["observedGeneration"] = json!(known.metadata.generation);
    }
    let mut status = json!({"conditions": [condition]});
    if let Some(node) = promised {
        status["nominatedNodeName"] = json!(node);
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(status: Value, message: &str, nominated: Option<&str>) -> Option<Value> {
        let known = serde_json::from_value(json!({"metadata": {"generation": 2}, "status": status})).unwrap();
        unschedulable(&known, message, nominated, jiff::Timestamp::from_second(3600).unwrap())
    }

    fn condition(message: &str, since: &str) -> Value {
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": 2})
    }

    #[test]
    fn the_first_refusal_is_told() {
        assert_eq!(after(json!({}), "no room", None), Some(json!({"conditions": [condition("no room", "1970-01-01T01:00:00Z")]})));
        let true_before = json!({"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}]});
        assert_eq!(after(true_before, "no room", None), Some(json!({"conditions": [condition("no room", "1970-01-01T01:00:00Z")]})));
    }

    #[test]
    fn what_was_told_is_not_told_again_and_another_reason_keeps_the_time() {
        let told = json!({"conditions": [condition("no room", "1970-01-01T00:00:00Z")]});
        assert_eq!(after(told.clone(), "no room", None), None);
        assert_eq!(after(told, "no node", None), Some(json!({"conditions": [condition("no node", "1970-01-01T00:00:00Z")]})));
    }

    #[test]
    fn a_promised_node_is_told_once() {
        let told = |node: &str| json!({"nominatedNodeName": node, "conditions": [condition("no room", "1970-01-01T00:00:00Z")]});
        let wanted = json!({"nominatedNodeName": "a", "conditions": [condition("no room", "1970-01-01T00:00:00Z")]});
        assert_eq!(after(told(""), "no room", Some("a")), Some(wanted));
        assert_eq!(after(told("a"), "no room", Some("a")), None);
    }
}
