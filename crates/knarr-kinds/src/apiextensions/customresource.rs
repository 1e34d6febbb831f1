//! Custom resources, as far as their definition does not say (upstream:
//! `k8s.io/apiextensions-apiserver/pkg/registry/customresource`).

use knarr_core::Value;

use crate::separation::{self, count, keep};
use crate::strategy::{Context, Shape, Strategy};

/// Counts generations, and has a status of its own when the definition declares that subresource.
pub struct CustomResource {
    pub status_subresource: bool,
}

impl Strategy for CustomResource {
    fn shape(&self) -> Shape {
        let shape = Shape::PLAIN.generation().needs_resource_version();
        if self.status_subresource { shape.status_keeps_metadata() } else { shape }
    }

    /// Without a status subresource a changed `status` is a changed wish like any other.
    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        if self.status_subresource {
            keep(object, old, "status");
        }
        let changed = separation::differs(object, old, &["apiVersion", "kind", "metadata"]);
        count(object, old, changed);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        let mut merged = old.clone();
        for path in [&["status"][..], &["metadata", "managedFields"], &["metadata", "resourceVersion"]] {
            separation::keep_at(&mut merged, object, path);
        }
        *object = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{ValueExt, clock::Env, json};

    #[test]
    fn a_status_without_subresource_counts_as_a_wish() {
        let env = Env::system();
        let old = json!({"metadata": {"generation": 1}, "status": {"a": 1}});
        let new = json!({"metadata": {"generation": 1}, "status": {"a": 2}});
        for (status_subresource, generation, status) in [(false, 2, 2), (true, 1, 1)] {
            let mut new = new.clone();
            CustomResource { status_subresource }.prepare_for_update(&Context::internal(&env, ""), &mut new, &old);
            assert_eq!((new.i64_at(&["metadata", "generation"]), new.i64_at(&["status", "a"])), (Some(generation), Some(status)));
        }
    }
}
