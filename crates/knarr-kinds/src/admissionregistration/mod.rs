//! Webhook configurations and admission policies (upstream: `pkg/registry/admissionregistration`).

mod policy;
pub(crate) mod webhook;

use crate::at;
use crate::cells::{Cells, UNSET, age, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json};

use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, each, entries, strings, with};

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

    fn validate_create(&self, _cx: &Context<'_>, configuration: &Value) -> ErrorList {
        at::check(configuration, |root, e| webhook::validate(root, None, self.mutating, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, configuration: &Value, old: &Value) -> ErrorList {
        at::check(configuration, |root, e| webhook::validate(root, Some(old), self.mutating, e))
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), object.list_at(&["webhooks"]).len().into(), age(object, now)])
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

    fn validate_create(&self, _cx: &Context<'_>, policy: &Value) -> ErrorList {
        at::check(policy, |root, e| policy::validate(root, None, self.mutating, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, policy: &Value, old: &Value) -> ErrorList {
        at::check(policy, |root, e| policy::validate(root, Some(old), self.mutating, e))
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let rules = object.list_at(&["spec", if self.mutating { "mutations" } else { "validations" }]).len();
        let kind = object.at(&["spec", "paramKind"]).map_or(UNSET.into(), |k| format!("{}/{}", text(k, &["apiVersion"]), text(k, &["kind"])));
        Some(vec![name(object), rules.into(), kind.into(), age(object, now)])
    }
}

/// Bindings of either policy.
pub struct AdmissionPolicyBinding {
    pub mutating: bool,
}

impl Strategy for AdmissionPolicyBinding {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().needs_resource_version()
    }

    fn default(&self, binding: &mut Value) {
        with(binding, &["spec", "matchResources"], default_match_resources);
    }

    fn validate_create(&self, _cx: &Context<'_>, binding: &Value) -> ErrorList {
        at::check(binding, |root, e| policy::validate_binding(root, self.mutating, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, binding: &Value, _old: &Value) -> ErrorList {
        at::check(binding, |root, e| policy::validate_binding(root, self.mutating, e))
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let parameters =
            object.at(&["spec", "paramRef"]).map_or(UNSET.into(), |reference| match (text(reference, &["name"]), text(reference, &["namespace"])) {
                ("", _) => reference.at(&["selector"]).map_or(UNSET.into(), selector_as_go_prints),
                (name, "") => format!("*/{name}"),
                (name, namespace) => format!("{namespace}/{name}"),
            });
        Some(vec![name(object), text(object, &["spec", "policyName"]).into(), parameters.into(), age(object, now)])
    }
}

/// `&LabelSelector{…}`, as Go's generated `String` method has it.
fn selector_as_go_prints(selector: &Value) -> String {
    let labels: String = entries(selector, &["matchLabels"]).map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or_default())).collect();
    let requirement = |e: &Value| {
        let values: Vec<&str> = strings(e, &["values"]).collect();
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},", text(e, &["key"]), text(e, &["operator"]), values.join(" "))
    };
    let expressions: String = selector.list_at(&["matchExpressions"]).iter().map(requirement).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
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
