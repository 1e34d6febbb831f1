//! Roles and bindings (upstream: `pkg/registry/rbac`).

use crate::cells::{Cells, age, created_at, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, names};

use crate::apps::validation::matcher_of;
use crate::at::{self, At};
use crate::metadata::has_invalid_label_value;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, each};

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Role and ClusterRole.
pub struct Role {
    pub namespaced: bool,
}

impl Strategy for Role {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    fn validate_create(&self, _cx: &Context<'_>, role: &Value) -> ErrorList {
        at::check(role, |root, e| validate_role(root, self.namespaced, false, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, role: &Value, old: &Value) -> ErrorList {
        let lenient = old.list_at(&["aggregationRule", "clusterRoleSelectors"]).iter().any(|s| has_invalid_label_value(Some(s)));
        at::check(role, |root, e| validate_role(root, self.namespaced, lenient, e))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_path_segment(name)
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(object), created_at(object)])
    }
}

/// RoleBinding and ClusterRoleBinding.
pub struct Binding {
    pub namespaced: bool,
}

impl Strategy for Binding {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    fn default(&self, binding: &mut Value) {
        default_if_zero(binding.ensure(&["roleRef"]), "apiGroup", GROUP);
        each(binding, &["subjects"], |subject| {
            if matches!(subject.str_at(&["kind"]), Some("User" | "Group")) {
                default_if_zero(subject, "apiGroup", GROUP);
            }
        });
    }

    fn validate_create(&self, _cx: &Context<'_>, binding: &Value) -> ErrorList {
        at::check(binding, |root, e| validate_binding(root, self.namespaced, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, binding: &Value, old: &Value) -> ErrorList {
        at::check(binding, |root, e| {
            validate_binding(root, self.namespaced, e);
            root.get("roleRef").immutable(old.at(&["roleRef"]), e);
        })
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_path_segment(name)
    }

    fn cells(&self, binding: &Value, now: Timestamp) -> Cells {
        let reference = format!("{}/{}", text(binding, &["roleRef", "kind"]), text(binding, &["roleRef", "name"]));
        let subjects = |kind: &str| {
            let of_kind = binding.list_at(&["subjects"]).iter().filter(|s| text(s, &["kind"]) == kind);
            let label = |s: &Value| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, &["namespace"]), text(s, &["name"])),
                _ => text(s, &["name"]).to_owned(),
            };
            Value::from(of_kind.map(label).collect::<Vec<_>>().join(", "))
        };
        Some(vec![name(binding), reference.into(), age(binding, now), subjects("User"), subjects("Group"), subjects("ServiceAccount")])
    }
}

fn validate_role(root: &At, namespaced: bool, lenient: bool, e: &mut ErrorList) {
    validate_aggregation(root, namespaced, lenient, e);
    // Upstream declares these.
    root.get("rules").items().for_each(|rule| rule.get("verbs").require(e));
}

fn validate_aggregation(root: &At, namespaced: bool, lenient: bool, e: &mut ErrorList) {
    root.get("rules").items().for_each(|rule| validate_rule(&rule, namespaced, e));
    let aggregation = root.get("aggregationRule");
    if !aggregation.is_set() {
        return;
    }
    let selectors = aggregation.get("clusterRoleSelectors");
    if selectors.is_empty() {
        e.push(selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"));
    }
    for selector in selectors.items() {
        selector.label_selector_ratcheting(lenient, e);
        if matcher_of(&selector).is_none() {
            e.push(selector.invalid_as(Value::Null, "invalid label selector."));
        }
    }
}

/// A rule is about resources or about URLs.
fn validate_rule(rule: &At, namespaced: bool, e: &mut ErrorList) {
    let urls = rule.get("nonResourceURLs");
    if urls.is_empty() {
        for (field, what) in [("apiGroups", "api group"), ("resources", "resource")] {
            if rule.get(field).is_empty() {
                e.push(rule.get(field).required(&format!("resource rules must supply at least one {what}")));
            }
        }
        return;
    }
    if namespaced {
        e.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
    }
    if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !rule.get(field).is_empty()) {
        e.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
    }
}

fn validate_binding(root: &At, namespaced: bool, e: &mut ErrorList) {
    let reference = root.get("roleRef");
    let (group, kind) = (reference.get("apiGroup"), reference.get("kind"));
    if group.str() != GROUP {
        e.push(group.not_supported(&[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind.str()) {
        e.push(kind.not_supported(kinds));
    }
    reference.get("name").name(e, names::is_path_segment);
    root.get("subjects").items().for_each(|subject| validate_subject(&subject, namespaced, e));
    // Upstream declares these.
    root.get("subjects").items().for_each(|subject| subject.get("name").require(e));
}

fn validate_subject(subject: &At, namespaced: bool, e: &mut ErrorList) {
    let (name, group, namespace) = (subject.get("name"), subject.get("apiGroup"), subject.get("namespace"));
    match subject.str_of("kind") {
        "ServiceAccount" => {
            name.optional_name(e, names::is_dns1123_subdomain);
            if !group.is_empty() {
                e.push(group.not_supported(&[""]));
            }
            if !namespaced {
                namespace.require(e);
            }
        }
        "User" | "Group" if group.str() != GROUP => e.push(group.not_supported(&[GROUP])),
        "User" | "Group" => {}
        _ => e.push(subject.get("kind").not_supported(&["ServiceAccount", "User", "Group"])),
    }
}
