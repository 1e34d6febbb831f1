//! What people call a resource: `po`, `pods`, `pod`, `deployments.apps`, `deployments.v1.apps`. Built-in resources are known from
//! the kinds table; others are asked of the server's discovery.

use knarr_core::field::go_quote;
use knarr_core::{GroupVersionResource, Value, ValueExt};
use knarr_schema::registry::Registry;

use super::failure::{Failure, Result};
use super::session::Session;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// A resource that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    pub resource: GroupVersionResource,
    pub kind: String,
    pub namespaced: bool,
    /// Its kind in small letters, with the group where there is one: `deployment.apps`.
    pub title: String,
}

impl Meant {
    pub fn new(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        let lower = kind.to_lowercase();
        let title = if group.is_empty() { lower } else { format!("{lower}.{group}") };
        Self { resource: GroupVersionResource::new(group, version, plural), kind: kind.into(), namespaced, title }
    }

    /// The path of the collection, or of one object.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let r = &self.resource;
        let mut path = if r.group.is_empty() { format!("/api/{}", r.version) } else { format!("/apis/{}/{}", r.group, r.version) };
        if let Some(namespace) = namespace.filter(|n| self.namespaced && !n.is_empty()) {
            path += &format!("/namespaces/{}", super::session::encode(namespace));
        }
        path += &format!("/{}", r.resource);
        if let Some(name) = name {
            path += &format!("/{}", super::session::encode(name));
        }
        path
    }

    pub fn api_version(&self) -> String {
        self.resource.group_version().to_string()
    }

    /// `deployments.apps`
    pub fn group_resource(&self) -> String {
        self.resource.group_resource().to_string()
    }
}

/// One resource of the server's discovery.
#[derive(Clone, Debug)]
pub struct Discovered {
    pub meant: Meant,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: Vec<String>,
}

/// Everything that the server serves, in its order of groups; the preferred version of a group first.
pub async fn discover(session: &Session) -> Result<Vec<Discovered>> {
    let mut all = Vec::new();
    for path in ["/api", "/apis"] {
        let document = session.get_as(path, AGGREGATED).await?;
        for group in document.list_at(&["items"]) {
            let group_name = group.str_at(&["metadata", "name"]).unwrap_or_default();
            for version in group.list_at(&["versions"]) {
                let version_name = version.str_at(&["version"]).unwrap_or_default();
                all.extend(version.list_at(&["resources"]).iter().map(|r| discovered(group_name, version_name, r)));
            }
        }
    }
    Ok(all)
}

fn discovered(group: &str, version: &str, r: &Value) -> Discovered {
    let text = |path: &[&str]| r.str_at(path).unwrap_or_default();
    let texts = |path: &[&str]| r.list_at(path).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Discovered {
        meant: Meant::new(group, version, text(&["resource"]), text(&["responseKind", "kind"]), text(&["scope"]) == "Namespaced"),
        singular: text(&["singularResource"]).to_owned(),
        short_names: texts(&["shortNames"]),
        categories: texts(&["categories"]),
        verbs: texts(&["verbs"]),
    }
}

/// Finds each of a comma-separated list; a category stands for its members.
pub async fn find_all(session: &Session, names: &str) -> Result<Vec<Meant>> {
    let mut found: Vec<Meant> = Vec::new();
    for name in names.split(',') {
        let several = match find(session, name).await {
            Ok(one) => vec![one],
            Err(failure) => match category(session, name).await {
                Ok(members) if !members.is_empty() => members,
                _ => return Err(failure),
            },
        };
        for one in several {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    Ok(found)
}

/// The members of a category, in the order of discovery.
async fn category(session: &Session, name: &str) -> Result<Vec<Meant>> {
    let all = discover(session).await?;
    let mut members: Vec<Meant> = Vec::new();
    for d in all.into_iter().filter(|d| d.categories.iter().any(|c| c == name)) {
        // One version of a resource is enough.
        if !members.iter().any(|m| m.resource.group == d.meant.resource.group && m.resource.resource == d.meant.resource.resource) {
            members.push(d.meant);
        }
    }
    Ok(members)
}

/// Finds a resource by plural, singular, short name or kind, with or without group and version.
pub async fn find(session: &Session, name: &str) -> Result<Meant> {
    if let Some(found) = builtin(name) {
        return Ok(found);
    }
    let asked = Asked::of(name);
    let all = discover(session).await?;
    let exact = |d: &&Discovered| d.meant.resource.resource == asked.plain || d.singular == asked.plain || d.meant.kind.eq_ignore_ascii_case(&asked.plain);
    let fits = |d: &&Discovered| asked.fits_group(&d.meant.resource.group, &d.meant.resource.version);
    let found = all.iter().filter(fits).find(exact).or_else(|| all.iter().filter(fits).find(|d| d.short_names.contains(&asked.plain)));
    found.map(|d| d.meant.clone()).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Failure {
    match name.split_once('.') {
        Some((resource, group)) => format!("the server doesn't have a resource type {} in group {}", go_quote(resource), go_quote(group)).into(),
        None => format!("the server doesn't have a resource type {}", go_quote(name)).into(),
    }
}

/// A name taken apart.
struct Asked {
    plain: String,
    group: Option<String>,
}

impl Asked {
    fn of(name: &str) -> Self {
        let lower = name.to_ascii_lowercase();
        let (plain, group) = lower.split_once('.').map_or((lower.as_str(), None), |(n, g)| (n, Some(g)));
        Self { plain: plain.to_owned(), group: group.map(str::to_owned) }
    }

    fn fits_group(&self, group: &str, version: &str) -> bool {
        self.group.as_deref().is_none_or(|g| {
            g == group
                || (group.starts_with(g) && group[g.len()..].starts_with('.'))
                || g == format!("{version}.{group}")
                || (group.is_empty() && (g == version || g == format!("{version}.")))
        })
    }
}

/// The resource of a kind in a version, for manifests. Without one, the words for why are kubectl's.
pub async fn of_kind(session: &Session, api_version: &str, kind: &str) -> Result<Meant> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(found) = builtin_kind(group, version, kind) {
        return Ok(found);
    }
    let all = discover(session).await?;
    let found = all.into_iter().find(|d| d.meant.resource.group == group && d.meant.resource.version == version && d.meant.kind == kind);
    found.map(|d| d.meant).ok_or_else(|| format!("no matches for kind {} in version {}", go_quote(kind), go_quote(api_version)).into())
}

/// A kind of the table.
pub fn builtin_kind(group: &str, version: &str, kind: &str) -> Option<Meant> {
    Registry::builtin().by_kind(group, version, kind).map(|r| Meant::new(&r.group, &r.version, &r.plural, &r.kind, r.namespaced))
}

/// A resource of the table, by what people call it.
pub fn builtin(name: &str) -> Option<Meant> {
    let registry = Registry::builtin();
    let asked = Asked::of(name);
    let fits = |r: &knarr_schema::registry::Resource| {
        let named = r.plural == asked.plain || r.singular == asked.plain || r.kind.eq_ignore_ascii_case(&asked.plain) || r.short_names.contains(&asked.plain);
        named && asked.fits_group(&r.group, &r.version)
    };
    let all = registry.all();
    let r = all.iter().filter(|r| r.is_stored()).find(|r| fits(r)).or_else(|| all.iter().find(|r| fits(r)))?;
    Some(Meant::new(&r.group, &r.version, &r.plural, &r.kind, r.namespaced))
}

/// A resource that every server has.
pub fn known(name: &str) -> Meant {
    builtin(name).unwrap_or_else(|| Meant::new("", "v1", name, name, true))
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
        assert_eq!(builtin("hpa").unwrap().resource.version, "v2");
        assert_eq!(builtin("hpa.v1.autoscaling").unwrap().resource.version, "v1");
        assert_eq!(builtin("events").unwrap().resource.group, "");
        assert_eq!(builtin("nothing"), None);
        assert_eq!(builtin("svc").unwrap().path(Some("a"), Some("b")), "/api/v1/namespaces/a/services/b");
    }
}
