//! CustomResourceDefinitions in v1, which is served, and v1beta1, in which upstream stores them (upstream:
//! `k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/{v1,v1beta1}/conversion.go`).
//!
//! v1beta1 says once, above, what all versions have in common.

use knarr_core::{Value, ValueExt};

use crate::semantic::same;
use crate::tree::{default_to, each, is_set};

/// What can stand above or in each version: the name above, the name in a version.
const SHARED: [(&str, &str); 4] = [
    ("subresources", "subresources"),
    ("validation", "schema"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// From v1 to v1beta1.
pub fn to_v1beta1(definition: &mut Value) {
    let Some(spec) = definition.at_mut(&["spec"]) else { return };
    each(spec, &["versions"], |version| rename_paths(version, "jsonPath", "JSONPath"));
    if let Some(first) = spec.list_at(&["versions"]).first().cloned() {
        spec.set(&["version"], first.at(&["name"]).cloned().unwrap_or_default());
        for (above, inside) in SHARED {
            let shared = first.at(&[inside]).cloned();
            if spec.list_at(&["versions"]).iter().all(|v| same(v.at(&[inside]), shared.as_ref())) {
                each(spec, &["versions"], |version| {
                    version.remove(&[inside]);
                });
                if let Some(shared) = shared {
                    spec.set(&[above], shared);
                }
            }
        }
    }
    default_to(spec, "preserveUnknownFields", false);
    if let Some(webhook) = spec.remove(&["conversion", "webhook"]) {
        move_field(spec, &webhook, "clientConfig", "webhookClientConfig");
        move_field(spec, &webhook, "conversionReviewVersions", "conversionReviewVersions");
    }
}

fn move_field(spec: &mut Value, from: &Value, key: &str, to: &str) {
    if let Some(value) = from.at(&[key]) {
        spec.set(&["conversion", to], value.clone());
    }
}

/// From v1beta1 to v1.
pub fn from_v1beta1(definition: &mut Value) {
    let Some(spec) = definition.at_mut(&["spec"]) else { return };
    let version = spec.remove(&["version"]);
    if spec.list_at(&["versions"]).is_empty()
        && let Some(name) = version.filter(|v| !v.is_null())
    {
        spec.set(&["versions"], knarr_core::json!([{"name": name, "served": true, "storage": true}]));
    }
    for (above, inside) in SHARED {
        if let Some(shared) = spec.remove(&[above]).filter(|s| !s.is_null()) {
            each(spec, &["versions"], |version| version.set(&[inside], shared.clone()));
        }
    }
    each(spec, &["versions"], |version| rename_paths(version, "JSONPath", "jsonPath"));
    if spec.bool_at(&["preserveUnknownFields"]) == Some(false) {
        spec.remove(&["preserveUnknownFields"]);
    }
    let Some(conversion) = spec.at_mut(&["conversion"]).filter(|c| is_set(c, "webhookClientConfig") || is_set(c, "conversionReviewVersions")) else { return };
    for (old, new) in [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")] {
        if let Some(value) = conversion.remove(&[old]) {
            conversion.set(&["webhook", new], value);
        }
    }
}

fn rename_paths(version: &mut Value, from: &str, to: &str) {
    each(version, &["additionalPrinterColumns"], |column| {
        if let Some(path) = column.remove(&[from]) {
            column.set(&[to], path);
        }
    });
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    #[test]
    fn a_definition_survives_being_stored() {
        let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}}, "additionalPrinterColumns": [{"name": "a", "type": "string", "jsonPath": ".a"}]});
        let v1 = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}},
            "versions": [version("v1", true), version("v2", false)]}});
        let stored = crate::convert(v1.clone(), "apiextensions.k8s.io", "v1beta1").unwrap();
        assert_eq!((&stored["spec"]["version"], &stored["spec"]["validation"]), (&json!("v1"), &json!({"openAPIV3Schema": {"type": "object"}})));
        assert_eq!(stored["spec"]["versions"][1], json!({"name": "v2", "served": true, "storage": false}));
        assert_eq!(crate::convert(stored, "apiextensions.k8s.io", "v1").unwrap(), v1);
    }
}
