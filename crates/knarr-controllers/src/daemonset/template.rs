//! What a daemon pod looks like: the template with the tolerations that keep it on troubled nodes, tied to its node by an
//! affinity, so that the scheduler binds it. Upstream: `daemon/util`.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration};
use knarr_client::read;
use serde::Deserialize;

use super::HASH;
use crate::ownership::controller_reference;
use crate::pods::{PodItem, control};

/// The number of the template, which the API server counts in an annotation.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
const NODE_NAME: &str = "metadata.name";

/// Taints that a daemon pod lives with, and their effects.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One more for pods that bring the network.
const TOLERATED_ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The tolerations of daemon pods with this spec.
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let on_host = (spec.host_network == Some(true)).then_some(TOLERATED_ON_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let wanted = Toleration { key: Some(key.into()), effect: Some(effect.into()), operator: Some("Exists".into()), toleration_seconds: None, value: None };
        let same = |t: &&mut Toleration| {
            (&t.key, &t.effect, &t.operator) == (&wanted.key, &wanted.effect, &wanted.operator) && t.value.as_ref().is_none_or(String::is_empty)
        };
        match all.iter_mut().find(same) {
            Some(known) => *known = wanted,
            None => all.push(wanted),
        }
    }
    all
}

/// The number of the set's template, if it is known.
pub fn generation(set: &DaemonSet) -> Option<String> {
    let text = set.metadata.annotations.as_ref()?.get(GENERATION)?;
    text.parse::<i64>().ok().map(|n| n.to_string())
}

/// The label by which pods tell the number of their template.
pub fn generation_label() -> &'static str {
    GENERATION_LABEL
}

/// A pod for a node.
pub fn pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let mut pod = control::from_template(&set.spec.template, controller_reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.extend(generation(set).map(|g| (GENERATION_LABEL.to_owned(), g)));
    labels.insert(HASH.into(), hash.into());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    tie(spec, node);
    pod
}

/// Ties a pod to a node; what the template itself required was checked before.
fn tie(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement { key: NODE_NAME.into(), operator: "In".into(), values: Some(vec![node.into()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    spec: WireSpec,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    affinity: k8s_openapi::api::core::v1::Affinity,
}

/// The node that a pod is bound or tied to.
pub fn target_node(pod: &PodItem) -> Option<String> {
    if let Some(node) = &pod.view.node {
        return Some(node.to_string());
    }
    let Wire { spec } = read::typed(&pod.object).ok()?;
    let required = spec.affinity.node_affinity?.required_during_scheduling_ignored_during_execution?;
    let fields = required.node_selector_terms.into_iter().filter_map(|t| t.match_fields);
    let name = |r: NodeSelectorRequirement| (r.key == NODE_NAME && r.operator == "In").then_some(r.values?).filter(|v| v.len() == 1);
    fields.flatten().find_map(name).and_then(|mut values| values.pop())
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    #[test]
    fn a_pod_is_tied_to_its_node_and_lives_with_its_troubles() {
        let set: DaemonSet = serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "d", "annotations": {GENERATION: "3"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [], "hostNetwork": true, "affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}}}}}}))
        .unwrap();
        let pod = pod(&set, "h", "n");
        let labels = pod.metadata.labels.unwrap();
        assert_eq!((labels[HASH].as_str(), labels[GENERATION_LABEL].as_str()), ("h", "3"));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.tolerations.unwrap().len(), 7);
        let terms = spec.affinity.unwrap().node_affinity.unwrap().required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
        assert_eq!(json!(terms), json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]));
    }
}
