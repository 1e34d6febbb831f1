//! What discovery tells of other servers.

use std::sync::Arc;

use knarr_core::{GroupVersion, Value, ValueExt, json};
use knarr_schema::registry::version_order;

use super::{ByGroupVersion, Remote};

/// A group with its versions, the preferred one first.
type Group = (String, Vec<Arc<Remote>>);

fn groups(remotes: &ByGroupVersion) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for remote in remotes.values() {
        match groups.last_mut().filter(|(name, _)| *name == remote.group) {
            Some((_, versions)) => versions.push(remote.clone()),
            None => groups.push((remote.group.clone(), vec![remote.clone()])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by(|a, b| b.version_priority.cmp(&a.version_priority).then_with(|| version_order(&a.version, &b.version)));
    }
    groups.sort_by_key(|(_, versions)| std::cmp::Reverse(versions.iter().map(|r| r.group_priority).max()));
    groups
}

pub fn merge(remotes: &ByGroupVersion, path: &str, tree: Option<Value>, aggregated: bool) -> Option<Value> {
    let path = path.trim_matches('/');
    let mut groups = groups(remotes);
    match (path.strip_prefix("apis/"), tree) {
        (None, Some(mut tree)) if path == "apis" && aggregated => {
            add(
                &mut tree,
                &groups,
                "items",
                &["metadata", "name"],
                aggregated_version,
                |name, versions| json!({"metadata": {"name": name}, "versions": versions}),
            );
            Some(tree)
        }
        (None, Some(mut tree)) if path == "apis" => {
            add(
                &mut tree,
                &groups,
                "groups",
                &["name"],
                version_entry,
                |name, versions| json!({"name": name, "versions": versions, "preferredVersion": versions.first()}),
            );
            Some(tree)
        }
        (Some(group), tree) if !aggregated => {
            groups.retain(|(name, _)| name == group);
            let Some((_, remotes)) = groups.first() else { return tree };
            let versions: Vec<Value> = remotes.iter().map(|r| version_entry(r)).collect();
            Some(match tree {
                Some(mut tree) => {
                    append_new(&mut tree, versions, &["version"]);
                    tree
                }
                None => json!({"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions, "preferredVersion": versions.first()}),
            })
        }
        (_, tree) => tree,
    }
}

/// Adds groups to a list, and versions to the groups that are there.
fn add(tree: &mut Value, groups: &[Group], list: &str, name_at: &[&str], version: impl Fn(&Remote) -> Value, group: impl Fn(&str, Vec<Value>) -> Value) {
    let mut items = tree.list_at(&[list]).to_vec();
    for (name, remotes) in groups {
        let versions: Vec<Value> = remotes.iter().map(|r| version(r)).collect();
        match items.iter_mut().find(|i| i.str_at(name_at) == Some(name)) {
            Some(item) => append_new(item, versions, &["version"]),
            None => items.push(group(name, versions)),
        }
    }
    tree.set(&[list], items);
}

fn append_new(group: &mut Value, more: Vec<Value>, key: &[&str]) {
    let mut versions = group.list_at(&["versions"]).to_vec();
    for version in more {
        if !versions.iter().any(|v| v.str_at(key) == version.str_at(key)) {
            versions.push(version);
        }
    }
    group.set(&["versions"], versions);
}

fn version_entry(remote: &Remote) -> Value {
    json!({"groupVersion": GroupVersion::new(&remote.group, &remote.version).to_string(), "version": remote.version})
}

fn aggregated_version(remote: &Remote) -> Value {
    let list = remote.resources();
    let resources = list.as_ref().map(|l| resources(remote, l)).unwrap_or_default();
    let freshness = if remote.is_available() && list.is_some() { "Current" } else { "Stale" };
    json!({"version": remote.version, "resources": resources, "freshness": freshness})
}

/// The classic list in the aggregated form (upstream: `ConvertGroupVersionIntoToDiscovery`).
fn resources(remote: &Remote, list: &Value) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for r in list.list_at(&["resources"]) {
        let text = |key: &str| r.str_at(&[key]).unwrap_or_default();
        let or = |key: &str, otherwise: &str| if text(key).is_empty() { otherwise.to_owned() } else { text(key).to_owned() };
        let verbs = r.list_at(&["verbs"]);
        let kind = json!({"group": or("group", &remote.group), "version": or("version", &remote.version), "kind": text("kind")});
        let scope = if r.bool_at(&["namespaced"]) == Some(true) { "Namespaced" } else { "Cluster" };
        let Some((parent, subresource)) = text("name").split_once('/') else {
            let mut entry = json!({"resource": text("name"), "responseKind": kind, "scope": scope, "singularResource": text("singularName"), "verbs": verbs});
            for key in ["shortNames", "categories"] {
                if !r.list_at(&[key]).is_empty() {
                    entry.set(&[key], r.list_at(&[key]).to_vec());
                }
            }
            found.push(entry);
            continue;
        };
        let entry = json!({"subresource": subresource, "responseKind": kind, "verbs": verbs});
        let known = found.iter().position(|f| f.str_at(&["resource"]) == Some(parent)).unwrap_or_else(|| {
            found.push(json!({"resource": parent, "scope": scope}));
            found.len() - 1
        });
        let mut all = found[known].list_at(&["subresources"]).to_vec();
        all.push(entry);
        found[known].set(&["subresources"], all);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> ByGroupVersion {
        let service = json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
            "service": {"namespace": "kube-system", "name": "metrics-server"},
        }});
        let remote = Remote::new(&service, None).unwrap().unwrap();
        remote.resources.store(Some(Arc::new(json!({"kind": "APIResourceList", "resources": [
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]},
            {"name": "nodes/x", "singularName": "", "namespaced": false, "kind": "X", "verbs": ["get"]},
        ]}))));
        [((remote.group.clone(), remote.version.clone()), Arc::new(remote))].into()
    }

    #[test]
    fn the_aggregated_form_tells_what_the_other_server_told() {
        let tree = merge(&metrics(), "/apis", Some(json!({"items": [{"metadata": {"name": "apps"}}]})), true).unwrap();
        assert_eq!(
            tree.list_at(&["items"])[1],
            json!({"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale", "resources": [
                {"resource": "nodes", "responseKind": {"group": "metrics.k8s.io", "version": "v1beta1", "kind": "NodeMetrics"}, "scope": "Cluster",
                 "singularResource": "", "verbs": ["get", "list"],
                 "subresources": [{"subresource": "x", "responseKind": {"group": "metrics.k8s.io", "version": "v1beta1", "kind": "X"}, "verbs": ["get"]}]},
            ]}]})
        );
    }

    #[test]
    fn a_group_of_its_own_has_a_document() {
        let tree = merge(&metrics(), "/apis/metrics.k8s.io", None, false).unwrap();
        let entry = json!({"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"});
        assert_eq!(tree, json!({"kind": "APIGroup", "apiVersion": "v1", "name": "metrics.k8s.io", "versions": [entry], "preferredVersion": entry}));
        assert_eq!(merge(&metrics(), "/apis/other", None, false), None);
    }
}
