//! What people call a resource: `po`, `pods`, `pod`, `deployments.apps`, `deployment/web`.

use knarr_core::{GroupVersionResource, Value, ValueExt};
use knarr_schema::registry::Registry;

use super::session::{Result, Session};

/// A resource that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    pub resource: GroupVersionResource,
    pub kind: String,
    pub namespaced: bool,
    /// Its singular, with the group where there is one: `deployment.apps`.
    pub title: String,
}

impl Meant {
    fn new(group: &str, version: &str, plural: &str, singular: &str, kind: &str, namespaced: bool) -> Self {
        let title = if group.is_empty() { singular.to_owned() } else { format!("{singular}.{group}") };
        Self { resource: GroupVersionResource::new(group, version, plural), kind: kind.into(), namespaced, title }
    }

    /// The path of the collection, or of one object.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let r = &self.resource;
        let mut path = if r.group.is_empty() { format!("/api/{}", r.version) } else { format!("/apis/{}/{}", r.group, r.version) };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{}", r.resource);
        if let Some(name) = name {
            path += &format!("/{name}");
        }
        path
    }
}

/// What `all` stands for.
const ALL: &str = "pods,replicationcontrollers,services,daemonsets.apps,deployments.apps,replicasets.apps,statefulsets.apps,horizontalpodautoscalers.autoscaling,cronjobs.batch,jobs.batch";

/// Finds each of a comma-separated list.
pub async fn find_all(session: &Session, names: &str) -> Result<Vec<Meant>> {
    let names = if names == "all" { ALL } else { names };
    let mut found = Vec::new();
    for name in names.split(',').filter(|n| !n.is_empty()) {
        found.push(find(session, name).await?);
    }
    Ok(found)
}

/// Finds a resource by plural, singular, short name or kind, with or without group and version.
pub async fn find(session: &Session, name: &str) -> Result<Meant> {
    if let Some(found) = builtin(name) {
        return Ok(found);
    }
    let groups = session.get_json("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await?;
    discovered(&groups, name).ok_or_else(|| format!("the server doesn't have a resource type \"{name}\"").into())
}

/// The resource of a kind in a version, for manifests.
pub async fn of_kind(session: &Session, api_version: &str, kind: &str) -> Result<Meant> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(r) = Registry::builtin().by_kind(group, version, kind) {
        return Ok(Meant::new(&r.group, &r.version, &r.plural, &r.singular, &r.kind, r.namespaced));
    }
    let groups = session.get_json("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await?;
    each_discovered(&groups)
        .find(|(m, _)| m.resource.group == group && m.resource.version == version && m.kind == kind)
        .map(|(m, _)| m)
        .ok_or_else(|| format!("resource mapping not found for kind \"{kind}\" in version \"{api_version}\"\nensure CRDs are installed first").into())
}

fn builtin(name: &str) -> Option<Meant> {
    let registry = Registry::builtin();
    let lower = name.to_ascii_lowercase();
    let (plain, group) = lower.split_once('.').map_or((lower.as_str(), None), |(n, g)| (n, Some(g)));
    let fits_group = |r: &str, version: &str| group.is_none_or(|g| g == r || g == format!("{version}.{r}"));
    let fits_name = |r: &knarr_schema::registry::Resource| {
        r.plural == plain || r.singular == plain || r.kind.eq_ignore_ascii_case(plain) || r.short_names.iter().any(|s| s == plain)
    };
    let r = registry.all().iter().find(|r| r.is_stored() && fits_name(r) && fits_group(&r.group, &r.version))?;
    Some(Meant::new(&r.group, &r.version, &r.plural, &r.singular, &r.kind, r.namespaced))
}

/// Every resource of an aggregated discovery document, the preferred versions first, with its short names.
fn each_discovered(groups: &Value) -> impl Iterator<Item = (Meant, Vec<String>)> {
    groups.list_at(&["items"]).iter().flat_map(|group| {
        let group_name = group.str_at(&["metadata", "name"]).unwrap_or_default();
        group.list_at(&["versions"]).iter().flat_map(move |version| {
            version.list_at(&["resources"]).iter().map(move |r| {
                let text = |path: &[&str]| r.str_at(path).unwrap_or_default();
                let meant = Meant::new(
                    group_name,
                    version.str_at(&["version"]).unwrap_or_default(),
                    text(&["resource"]),
                    text(&["singularResource"]),
                    text(&["responseKind", "kind"]),
                    text(&["scope"]) == "Namespaced",
                );
                (meant, r.list_at(&["shortNames"]).iter().filter_map(Value::as_str).map(str::to_owned).collect())
            })
        })
    })
}

fn discovered(groups: &Value, name: &str) -> Option<Meant> {
    let lower = name.to_ascii_lowercase();
    let (plain, group) = lower.split_once('.').map_or((lower.as_str(), None), |(n, g)| (n, Some(g)));
    each_discovered(groups)
        .find(|(m, short)| {
            let singular = m.title.split('.').next().unwrap_or_default();
            let named = m.resource.resource == plain || singular == plain || m.kind.eq_ignore_ascii_case(plain) || short.iter().any(|s| s == plain);
            named && group.is_none_or(|g| g == m.resource.group)
        })
        .map(|(m, _)| m)
}

/// What the arguments of a verb name: `pods`, `pod a b`, `pod/a svc/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub meant: Meant,
    /// Absent: all of them.
    pub name: Option<String>,
}

/// Reads `TYPE`, `TYPE NAME…` or `TYPE/NAME…`.
pub async fn named(session: &Session, args: &[String]) -> Result<Vec<Named>> {
    let Some(first) = args.first() else {
        return Err("You must specify the type of resource. Use \"kubectl api-resources\" for a complete list of supported resources.".into());
    };
    let mut found = Vec::new();
    if first.contains('/') {
        for arg in args {
            let Some((kind, name)) = arg.split_once('/') else {
                return Err("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'".into());
            };
            found.push(Named { meant: find(session, kind).await?, name: Some(name.to_owned()) });
        }
        return Ok(found);
    }
    for meant in find_all(session, first).await? {
        match &args[1..] {
            [] => found.push(Named { meant, name: None }),
            names => found.extend(names.iter().map(|n| Named { meant: meant.clone(), name: Some(n.clone()) })),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_call_a_resource_by_many_names() {
        for name in ["po", "pod", "pods", "Pod"] {
            assert_eq!(builtin(name).unwrap().resource, GroupVersionResource::new("", "v1", "pods"), "{name}");
        }
        for name in ["deploy", "deployments.apps", "deployment.v1.apps", "Deployment"] {
            assert_eq!(builtin(name).unwrap().title, "deployment.apps", "{name}");
        }
        assert_eq!(builtin("nothing"), None);
        assert_eq!(builtin("svc").unwrap().path(Some("a"), Some("b")), "/api/v1/namespaces/a/services/b");
    }
}
