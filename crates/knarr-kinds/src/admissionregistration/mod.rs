//! Webhook configurations and admission policies (upstream: `pkg/registry/admissionregistration`).

use knarr_core::{Value, ValueExt, json};

use crate::strategy::{Shape, Strategy};
use crate::tree::{default_to, each, with};

/// ValidatingWebhookConfiguration, and MutatingWebhookConfiguration, which may be asked again.
pub struct WebhookConfiguration {
    pub mutating: bool,
}

impl Strategy for WebhookConfiguration {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().needs_resource_version()
    }

    fn default(&self, configuration: &mut Value) {
        each(configuration, &["webhooks"], |webhook| {
            default_to(webhook, "failurePolicy", "Fail");
            default_to(webhook, "timeoutSeconds", 10);
            if self.mutating {
                default_to(webhook, "reinvocationPolicy", "Never");
            }
            default_match(webhook);
            each(webhook, &["rules"], default_rule);
            with(webhook, &["clientConfig", "service"], |service| default_to(service, "port", 443));
        });
    }
}

/// ValidatingAdmissionPolicy and MutatingAdmissionPolicy.
pub struct AdmissionPolicy {
    pub mutating: bool,
}

impl Strategy for AdmissionPolicy {
    fn shape(&self) -> Shape {
        let shape = Shape::PLAIN.generation().needs_resource_version();
        if self.mutating { shape } else { shape.status_keeps_metadata() }
    }

    fn default(&self, policy: &mut Value) {
        let spec = policy.ensure(&["spec"]);
        default_to(spec, "failurePolicy", "Fail");
        with(spec, &["matchConstraints"], default_match_resources);
    }
}

/// Bindings of either policy.
pub struct AdmissionPolicyBinding;

impl Strategy for AdmissionPolicyBinding {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().needs_resource_version()
    }

    fn default(&self, binding: &mut Value) {
        with(binding, &["spec", "matchResources"], default_match_resources);
    }
}

fn default_match(value: &mut Value) {
    default_to(value, "matchPolicy", "Equivalent");
    default_to(value, "namespaceSelector", json!({}));
    default_to(value, "objectSelector", json!({}));
}

fn default_match_resources(resources: &mut Value) {
    default_match(resources);
    each(resources, &["resourceRules"], default_rule);
    each(resources, &["excludeResourceRules"], default_rule);
}

fn default_rule(rule: &mut Value) {
    default_to(rule, "scope", "*");
}
