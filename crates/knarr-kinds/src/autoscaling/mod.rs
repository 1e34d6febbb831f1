//! HorizontalPodAutoscalers (upstream: `pkg/registry/autoscaling/horizontalpodautoscaler`).

use crate::cells::Cells;
mod cells;
pub mod conversion;
mod validation;

use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json};

use crate::at;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, is_zero_at, with};

/// Where `autoscaling/v1` keeps metrics other than CPU.
pub const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";

pub struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, autoscaler: &mut Value) {
        let old_version = autoscaler.str_at(&["apiVersion"]) == Some("autoscaling/v1");
        let has_annotated_metrics = autoscaler.at(&["metadata", "annotations", METRICS_ANNOTATION]).is_some();
        let spec = autoscaler.ensure(&["spec"]);
        default_to(spec, "minReplicas", 1);
        if old_version {
            if !has_annotated_metrics {
                default_to(spec, "targetCPUUtilizationPercentage", 80);
            }
            conversion::carry_measured(autoscaler);
            return;
        }
        if is_zero_at(spec, &["metrics"]) {
            spec.set(&["metrics"], json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]));
        }
        with(spec, &["behavior"], default_behavior);
    }

    fn validate_create(&self, _cx: &Context<'_>, autoscaler: &Value) -> ErrorList {
        at::check(&newest(autoscaler), |root, e| validation::spec(&root.get("spec"), None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, autoscaler: &Value, old: &Value) -> ErrorList {
        let old = newest(old);
        at::check(&newest(autoscaler), |root, e| validation::spec(&root.get("spec"), Some(&old), e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, autoscaler: &Value, _old: &Value) -> ErrorList {
        at::check(&newest(autoscaler), |root, e| validation::status(&root.get("status"), e))
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(cells::cells(&newest(object), now))
    }
}

/// The autoscaler as `autoscaling/v2` has it.
fn newest(object: &Value) -> Value {
    let mut object = object.clone();
    if object.str_at(&["apiVersion"]) == Some("autoscaling/v1") {
        conversion::from_v1(&mut object);
    }
    object
}

/// Who tells one rule gets the others spelled out.
fn default_behavior(behavior: &mut Value) {
    let up = behavior.ensure(&["scaleUp"]);
    default_to(up, "stabilizationWindowSeconds", 0);
    default_to(up, "selectPolicy", "Max");
    default_to(up, "policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]));
    let down = behavior.ensure(&["scaleDown"]);
    default_to(down, "selectPolicy", "Max");
    default_to(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_policies_are_refused_and_absent_ones_are_filled_in() {
        let errors = |down: Value| {
            let mut autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
                "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "behavior": {"scaleDown": down}}});
            HorizontalPodAutoscaler.default(&mut autoscaler);
            let env = knarr_core::clock::Env::system();
            let found = HorizontalPodAutoscaler.validate_create(&Context::internal(&env, "d"), &autoscaler);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(errors(json!({})), [""; 0]);
        assert_eq!(errors(json!({"policies": []})), ["spec.behavior.scaleDown.policies: Required value: must specify at least one Policy"]);
    }
}
