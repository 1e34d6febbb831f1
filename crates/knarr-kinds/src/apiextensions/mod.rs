//! CustomResourceDefinitions and their resources (upstream: `k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition`).

pub mod columns;
pub mod conversion;
pub mod custom;
pub mod customresource;
mod definition;

pub use definition::approval_condition;

use crate::cells::{Cells, created_at, is_true, name, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt, field::ErrorList, json};

use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, strings, with};

pub struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status().needs_resource_version()
    }

    fn default(&self, definition: &mut Value) {
        let spec = definition.ensure(&["spec"]);
        let names = spec.ensure(&["names"]);
        let kind = names.str_at(&["kind"]).unwrap_or_default().to_owned();
        if !kind.is_empty() {
            default_if_zero(names, "singular", kind.to_lowercase());
            default_if_zero(names, "listKind", format!("{kind}List"));
        }
        default_to(spec, "conversion", json!({"strategy": "None"}));
        with(spec, &["conversion", "webhook", "clientConfig", "service"], |service| default_to(service, "port", 443));
        add_stored_version(definition, true);
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, definition: &mut Value) {
        separation::create(self.shape(), definition);
        add_stored_version(definition, false);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, definition: &mut Value, old: &Value) {
        separation::update(self.shape(), definition, old);
        add_stored_version(definition, false);
    }

    fn validate_create(&self, _cx: &Context<'_>, definition: &Value) -> ErrorList {
        definition::validate(definition, None)
    }

    fn validate_update(&self, _cx: &Context<'_>, definition: &Value, old: &Value) -> ErrorList {
        definition::validate(definition, Some(old))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, definition: &Value, _old: &Value) -> ErrorList {
        definition::validate_status(definition)
    }

    /// The name and the prefix of one are judged together, by [`definition::validate`].
    fn validate_name(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    fn warnings(&self, definition: &Value, old: Option<&Value>) -> Vec<String> {
        definition::warnings(definition, old)
    }

    fn domain_finalizers(&self) -> bool {
        false
    }

    fn repeats_causes(&self) -> bool {
        true
    }

    fn cells(&self, definition: &Value, _now: Timestamp) -> Cells {
        let served = definition.list_at(&["spec", "versions"]).iter().filter(|v| v.bool_at(&["served"]) == Some(true));
        let mark = |v: &Value| if v.bool_at(&["storage"]) == Some(true) { "(storage)" } else { "" };
        let mut versions: Vec<String> = served.map(|v| format!("{}{}", text(v, &["name"]), mark(v))).collect();
        versions.sort();
        let short: Vec<&str> = strings(definition, &["spec", "names", "shortNames"]).collect();
        Some(vec![
            name(definition),
            text(definition, &["spec", "scope"]).into(),
            versions.join(",").into(),
            created_at(definition),
            text(definition, &["spec", "group"]).into(),
            text(definition, &["spec", "names", "kind"]).into(),
            short.join(",").into(),
            is_true(definition, "Established").into(),
        ])
    }
}

/// The version that objects are written in joins `status.storedVersions`.
fn add_stored_version(definition: &mut Value, only_first: bool) {
    let storage = definition.list_at(&["spec", "versions"]).iter().find(|v| v.bool_at(&["storage"]) == Some(true));
    let Some(name) = storage.and_then(|v| v.str_at(&["name"])).map(str::to_owned) else { return };
    let mut stored: Vec<String> = strings(definition, &["status", "storedVersions"]).map(str::to_owned).collect();
    if stored.contains(&name) || (only_first && !stored.is_empty()) {
        return;
    }
    stored.push(name);
    definition.set(&["status", "storedVersions"], stored);
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::clock::Env;

    #[test]
    fn a_definition_gets_its_names_and_remembers_stored_versions() {
        let mut crd = json!({"spec": {"names": {"kind": "Foo"}, "versions": [{"name": "v1", "storage": true}]}});
        CustomResourceDefinition.default(&mut crd);
        assert_eq!(crd["spec"]["names"], json!({"kind": "Foo", "singular": "foo", "listKind": "FooList"}));
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
        let mut new = crd.clone();
        new.set(&["spec", "versions"], json!([{"name": "v2", "storage": true}]));
        CustomResourceDefinition.prepare_for_update(&Context::internal(&Env::system(), ""), &mut new, &crd);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    }
}
