//! A pod carries the zone and the region of its node as labels, so that it can read them. Follows
//! `k8s.io/kubernetes/plugin/pkg/admission/podtopologylabels` (KEP-4742).

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, ValueExt};

use super::{Objects, Operation, Passes, Plugin, Review};
use crate::authz::Attributes;

pub struct PodTopologyLabels(pub Arc<dyn Objects>);

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn passes(&self) -> Passes {
        Passes::Mutating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Create && a.group.is_empty() && a.resource == "pods" && matches!(a.subresource.as_str(), "" | "binding")
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let is_binding = review.attributes.subresource == "binding";
        let Some(object) = &mut review.object else { return Ok(()) };
        if is_binding && object.str_at(&["target", "kind"]) != Some("Node") {
            return Ok(());
        }
        let name = object.str_at(if is_binding { &["target", "name"] } else { &["spec", "nodeName"] }).unwrap_or_default();
        let Some(node) = Some(name).filter(|n| !n.is_empty()).and_then(|n| self.0.value("", "nodes", "", n)) else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node.at(&["metadata", "labels", label]) {
                object.set(&["metadata", "labels", label], value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, create};
    use super::*;
    use knarr_core::json;

    #[tokio::test]
    async fn a_bound_pod_knows_its_zone() {
        let node = json!({"metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}});
        let plugin = PodTopologyLabels(Arc::new(Fixed(vec![("nodes", node)])));
        let pod = |node: &str| json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": node}});
        let made = create(&plugin, "", "pods", pod("a")).await.unwrap();
        assert_eq!(made["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
        assert_eq!(create(&plugin, "", "pods", pod("b")).await.unwrap(), pod("b"));
    }
}
