//! Custom resources, as far as their definition does not say (upstream:
//! `k8s.io/apiextensions-apiserver/pkg/registry/customresource`).

use std::collections::BTreeSet;

use knarr_core::{Value, field::go_quote, names::is_qualified_name};

use crate::metadata::is_domain_finalizer;
use crate::separation::{self, count, keep};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::strings;

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

    /// A finalizer without a path is an ill name here, not an error: many operators have had such names from the start.
    fn domain_finalizers(&self) -> bool {
        false
    }

    fn repeats_causes(&self) -> bool {
        true
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let had: BTreeSet<&str> = old.into_iter().flat_map(|o| strings(o, &["metadata", "finalizers"])).collect();
        let has: BTreeSet<&str> = strings(object, &["metadata", "finalizers"]).collect();
        has.difference(&had).flat_map(|name| finalizer_warnings(name)).collect()
    }
}

/// What to say of a new finalizer (upstream: `validateKubeFinalizerName` of custom resources).
fn finalizer_warnings(name: &str) -> Vec<String> {
    let shorter = if name.contains('.') { " including a path (/)" } else { "" };
    let advice = format!("prefer a domain-qualified finalizer name{shorter} to avoid accidental conflicts with other finalizer writers");
    let advice = if is_domain_finalizer(name) { None } else { Some(advice) };
    is_qualified_name(name).into_iter().chain(advice).map(|why| format!("metadata.finalizers: {}: {why}", go_quote(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{ValueExt, clock::Env, json};

    #[test]
    fn finalizers_without_a_path_are_advised_against_when_they_are_new() {
        let kind = CustomResource { status_subresource: false };
        let object = |finalizers: &[&str]| json!({"metadata": {"name": "a", "namespace": "b", "finalizers": finalizers}});
        let new = object(&["resources-finalizer.argocd.argoproj.io", "mine", "orphan", "example.com/a"]);
        let advice = "to avoid accidental conflicts with other finalizer writers";
        assert_eq!(
            kind.warnings(&new, Some(&object(&["example.com/b"]))),
            [
                format!("metadata.finalizers: \"mine\": prefer a domain-qualified finalizer name {advice}"),
                format!(
                    "metadata.finalizers: \"resources-finalizer.argocd.argoproj.io\": prefer a domain-qualified finalizer name including a path (/) {advice}"
                ),
            ]
        );
        assert!(kind.warnings(&new, Some(&new)).is_empty());
        assert!(crate::metadata::validate_metadata(&new, true, &kind).is_empty());
    }

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
