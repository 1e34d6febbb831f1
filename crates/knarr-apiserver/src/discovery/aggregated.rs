//! The aggregated form of discovery: everything below `/api` or `/apis` in one document of `apidiscovery.k8s.io`.

use knarr_core::{Value, ValueExt, json};
use knarr_schema::registry::{Registry, Resource, Subresource};

use super::Document;

pub fn document(registry: &Registry, path: &str) -> Option<Document> {
    let core = match path.trim_matches('/') {
        "api" => true,
        "apis" => false,
        _ => return None,
    };
    let groups = registry.groups();
    let items: Vec<Value> = groups.iter().filter(|(g, _)| g.is_empty() == core).map(|(g, versions)| group_entry(registry, g, versions)).collect();
    Some(Document::new(json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })))
}

fn group_entry(registry: &Registry, group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources = registry.all().iter().filter(|r| r.group == group && r.version == *version);
            json!({"version": version, "resources": resources.map(|r| resource_entry(r)).collect::<Vec<_>>(), "freshness": "Current"})
        })
        .collect();
    let mut entry = json!({"metadata": {}, "versions": versions});
    if !group.is_empty() {
        entry.set(&["metadata", "name"], group);
    }
    entry
}

fn resource_entry(r: &Resource) -> Value {
    let mut entry = json!({
        "resource": r.plural,
        "responseKind": response_kind(r, (&r.group, &r.version), &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    });
    if !r.short_names.is_empty() {
        entry.set(&["shortNames"], r.short_names.clone());
    }
    if !r.categories.is_empty() {
        entry.set(&["categories"], r.categories.clone());
    }
    if !r.subresources.is_empty() {
        entry.set(&["subresources"], r.subresources.iter().map(|s| subresource_entry(r, s)).collect::<Vec<_>>());
    }
    entry
}

fn subresource_entry(r: &Resource, s: &Subresource) -> Value {
    let (group, version) = s.response.clone().unwrap_or_else(|| (r.group.clone(), r.version.clone()));
    json!({"subresource": s.name, "responseKind": response_kind(r, (&group, &version), &s.kind), "verbs": s.verbs})
}

/// Built-in kinds of the resource's own group and version are named without them.
fn response_kind(r: &Resource, (group, version): (&str, &str), kind: &str) -> Value {
    if r.custom.is_none() && (group, version) == (&r.group, &r.version) {
        return json!({"group": "", "version": "", "kind": kind});
    }
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Accepted;

    #[test]
    fn one_document_holds_all_groups() {
        let bytes = document(&Registry::builtin(), "/apis").unwrap().bytes(&Accepted::JSON);
        let tree: Value = serde_json::from_slice(&bytes).unwrap();
        let apps = tree.list_at(&["items"]).iter().find(|g| g.str_at(&["metadata", "name"]) == Some("apps")).unwrap();
        let resources = apps.list_at(&["versions"])[0].list_at(&["resources"]);
        let deployments = resources.iter().find(|r| r.str_at(&["resource"]) == Some("deployments")).unwrap();
        assert_eq!(deployments.str_at(&["scope"]), Some("Namespaced"));
        let scale = deployments.list_at(&["subresources"]).iter().find(|s| s.str_at(&["subresource"]) == Some("scale")).unwrap();
        assert_eq!(scale.at(&["responseKind"]), Some(&json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})));
    }
}
