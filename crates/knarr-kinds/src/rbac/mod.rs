//! Roles and bindings (upstream: `pkg/registry/rbac`).

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
}
