//! Which nodes a pod may run on, read off nodes at rest.

use k8s_openapi::api::core::v1::PodSpec;
use knarr_client::node_affinity;
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
    node_affinity::fits(spec, node.name, |key| node.label(key))
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
