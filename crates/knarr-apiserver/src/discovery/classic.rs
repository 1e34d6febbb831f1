//! `/api`, `/apis`, `/apis/GROUP`, `/apis/GROUP/VERSION`.

use knarr_core::{GroupVersion, Value, ValueExt, json};
use knarr_schema::registry::{Registry, Resource, Subresource};

use super::Document;

pub fn document(registry: &Registry, path: &str, server_address: &str) -> Option<Document> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api"] => Some(api_versions(server_address)),
        ["apis"] => Some(group_list(registry)),
        ["api", version] => resource_list(registry, "", version),
        ["apis", group] => group_of(registry, group).map(|mut g| {
            g.set(&["kind"], "APIGroup");
            g.set(&["apiVersion"], "v1");
            Document::new(g)
        }),
        ["apis", group, version] => resource_list(registry, group, version),
        _ => None,
    }
}

/// `/api` names no apiVersion.
fn api_versions(server_address: &str) -> Document {
    let tree = json!({
        "kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    });
    Document::unversioned(tree)
}

fn version_entry(group: &str, version: &str) -> Value {
    json!({"groupVersion": GroupVersion::new(group, version).to_string(), "version": version})
}

fn group_entry(group: &str, versions: &[String]) -> Value {
    let all: Vec<Value> = versions.iter().map(|v| version_entry(group, v)).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

fn group_of(registry: &Registry, group: &str) -> Option<Value> {
    registry.groups().into_iter().find(|(name, _)| name == group && !name.is_empty()).map(|(name, versions)| group_entry(&name, &versions))
}

fn group_list(registry: &Registry) -> Document {
    let groups: Vec<Value> = registry.groups().iter().filter(|(g, _)| !g.is_empty()).map(|(g, versions)| group_entry(g, versions)).collect();
    Document::new(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Document> {
    let resources = registry.all().iter().filter(|r| r.group == group && r.version == version);
    let entries: Vec<Value> =
        resources.flat_map(|r| std::iter::once(resource_entry(r)).chain(r.subresources.iter().map(|s| subresource_entry(r, s)))).collect();
    if entries.is_empty() {
        return None;
    }
    let gv = GroupVersion::new(group, version).to_string();
    let tree = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": entries});
    Some(if group.is_empty() { Document::unversioned(tree) } else { Document::new(tree) })
}

fn resource_entry(r: &Resource) -> Value {
    let mut entry = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs});
    if !r.short_names.is_empty() {
        entry.set(&["shortNames"], r.short_names.clone());
    }
    if !r.categories.is_empty() {
        entry.set(&["categories"], r.categories.clone());
    }
    if r.is_stored() && r.plural != "componentstatuses" {
        entry.set(&["storageVersionHash"], r.storage_hash());
    }
    entry
}

fn subresource_entry(r: &Resource, s: &Subresource) -> Value {
    let name = format!("{}/{}", r.plural, s.name);
    let mut entry = json!({"name": name, "singularName": "", "namespaced": r.namespaced, "kind": s.kind, "verbs": s.verbs});
    if let Some((group, version)) = &s.response {
        entry.set(&["group"], group.as_str());
        entry.set(&["version"], version.as_str());
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Accepted;

    #[test]
    fn a_resource_list_is_that_of_the_original() {
        let ours = document(&Registry::builtin(), "/apis/apps/v1", "").unwrap();
        let theirs = include_str!("../../../knarr-schema/fixtures/core.v1.APIResourceList.json");
        assert_eq!(String::from_utf8(ours.bytes(&Accepted::JSON).to_vec()).unwrap(), theirs.trim());
    }

    #[test]
    fn the_group_list_is_that_of_the_original() {
        let ours = document(&Registry::builtin(), "/apis", "").unwrap();
        let theirs = include_str!("../../../knarr-schema/fixtures/core.v1.APIGroupList.json");
        // The original had a custom resource when it was asked.
        let (theirs, _) = theirs.split_once(r#",{"name":"g.x""#).unwrap();
        assert_eq!(String::from_utf8(ours.bytes(&Accepted::JSON).to_vec()).unwrap(), format!("{theirs}]}}"));
    }

    #[test]
    fn the_core_group_has_no_api_version_in_any_encoding() {
        let bytes = |media| document(&Registry::builtin(), "/api", "10.0.0.1:6443").unwrap().bytes(&Accepted { media, ..Accepted::JSON });
        assert!(bytes(crate::http::Media::Protobuf).starts_with(b"k8s\0\n\x0f\n\0\x12\x0bAPIVersions"));
        assert!(bytes(crate::http::Media::Yaml).starts_with(b"kind: APIVersions\n"));
    }

    #[test]
    fn the_core_group_has_no_api_version() {
        let text = |path| String::from_utf8(document(&Registry::builtin(), path, "10.0.0.1:6443").unwrap().bytes(&Accepted::JSON).to_vec()).unwrap();
        assert_eq!(
            text("/api"),
            r#"{"kind":"APIVersions","versions":["v1"],"serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"10.0.0.1:6443"}]}"#
        );
        assert!(text("/api/v1").starts_with(r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"bindings""#));
        assert!(document(&Registry::builtin(), "/apis/nothing", "").is_none());
    }
}
