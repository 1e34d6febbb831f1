//! Which nodes a pod may run on: `nodeSelector` and the required node affinity, as controllers and nodes ask of one node. Pure.
//! Upstream: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, PodSpec};

/// Whether the spec's selector and required affinity let the pod onto the node of that name, whose labels `label` gives.
pub fn fits<'a>(spec: &PodSpec, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| label(k) == Some(v));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()).and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| matches(selector, name, label))
}

/// Whether one of the terms matches. A term without requirements matches nothing.
fn matches<'a>(selector: &NodeSelector, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.node_selector_terms.iter().any(|term| {
        let (labels, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
        (!labels.is_empty() || !fields.is_empty())
            && labels.iter().all(|r| holds(r, label(&r.key)))
            && fields.iter().all(|r| holds(r, (r.key == "metadata.name").then_some(name)))
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
