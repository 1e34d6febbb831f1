//! Which nodes a pod may run on: `nodeSelector` and the required node affinity. Pure.
//! Upstream: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, PodSpec};
use knarr_core::Object;
use knarr_schema::codec;

/// A node as affinity sees it.
pub struct NodeFacts<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> NodeFacts<'a> {
    pub fn of(node: &'a Object) -> Self {
        let meta = codec::meta(node);
        Self { name: meta.name, labels: meta.labels }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

/// Whether the spec's selector and required affinity let the pod onto the node.
pub fn fits(spec: &PodSpec, node: &NodeFacts<'_>) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| node.label(k) == Some(v));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()).and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| matches(selector, node))
}

/// Whether one of the terms matches. A term without requirements matches nothing.
pub fn matches(selector: &NodeSelector, node: &NodeFacts<'_>) -> bool {
    selector.node_selector_terms.iter().any(|term| {
        let (labels, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
        (!labels.is_empty() || !fields.is_empty())
            && labels.iter().all(|r| holds(r, node.label(&r.key)))
            && fields.iter().all(|r| holds(r, (r.key == "metadata.name").then_some(node.name)))
    })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let compared = || value.and_then(|v| v.parse::<i64>().ok()).zip(values.first().and_then(|v| v.parse::<i64>().ok()));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(a, b)| a > b),
        "Lt" => compared().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;

    fn check(spec: Value) -> bool {
        let node = knarr_client::client::json_object(&json!({"metadata": {"name": "n", "labels": {"zone": "a", "cpus": "8"}}}));
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        fits(&spec, &NodeFacts::of(&node))
    }

    fn required(terms: Value) -> Value {
        json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn selectors_and_terms_decide() {
        assert!(check(json!({"containers": []})));
        assert!(check(json!({"containers": [], "nodeSelector": {"zone": "a"}})));
        assert!(!check(json!({"containers": [], "nodeSelector": {"zone": "b"}})));
        assert!(check(required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]))));
        assert!(check(required(json!([{"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]}]))));
        assert!(!check(required(json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}]))));
        assert!(check(required(
            json!([{"matchExpressions": [{"key": "x", "operator": "Exists"}]}, {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}])
        )));
        assert!(!check(required(json!([{}]))));
    }
}
