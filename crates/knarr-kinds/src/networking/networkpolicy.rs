//! NetworkPolicies (upstream: `pkg/registry/networking/networkpolicy`).

use crate::cells::{Cells, age, name, selector};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json};

use super::validation;
use crate::at;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, each, is_zero_at};

pub struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
    }

    /// A policy that names no types is about ingress, and about egress if it has such rules.
    fn default(&self, policy: &mut Value) {
        let spec = policy.ensure(&["spec"]);
        if is_zero_at(spec, &["policyTypes"]) {
            let types = if spec.list_at(&["egress"]).is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            spec.set(&["policyTypes"], types);
        }
        for direction in ["ingress", "egress"] {
            each(spec, &[direction], |rule| each(rule, &["ports"], |port| default_to(port, "protocol", "TCP")));
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, policy: &Value) -> ErrorList {
        at::check(policy, |root, e| validation::policy(&root.get("spec"), None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, policy: &Value, old: &Value) -> ErrorList {
        at::check(policy, |root, e| validation::policy(&root.get("spec"), Some(old), e))
    }

    fn warnings(&self, policy: &Value, _old: Option<&Value>) -> Vec<String> {
        at::warn(policy, validation::warn_policy)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let selected = selector(Some(object.at(&["spec", "podSelector"]).unwrap_or(&Value::Null)));
        Some(vec![name(object), selected, age(object, now)])
    }
}
