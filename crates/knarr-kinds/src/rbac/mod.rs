//! Roles and bindings (upstream: `pkg/registry/rbac`).

use crate::cells::{Cells, age, created_at, name, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt, names};

use crate::strategy::{Shape, Strategy};
use crate::tree::{default_if_zero, each};

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Role and ClusterRole.
pub struct Role;

impl Strategy for Role {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_path_segment(name)
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(object), created_at(object)])
    }
}

/// RoleBinding and ClusterRoleBinding.
pub struct Binding;

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
