//! Role-based access control: an index of who has which rules, kept by name of subject, so that a question looks only at the
//! bindings of the one who asks. Rules: `k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use knarr_core::{Value, ValueExt, field::go_quote, json};

use super::{Attributes, Authorizer, Decision, Opinion, Rules};
use crate::authn::User;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    pub fn from_value(value: &Value) -> Self {
        let list = |name: &str| value.list_at(&[name]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }

    /// Whether this rule alone lets the request through.
    pub fn allows(&self, a: &Attributes) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if !a.is_resource_request {
            return self
                .non_resource_urls
                .iter()
                .any(|url| url == "*" || *url == a.path || url.strip_suffix('*').is_some_and(|start| a.path.starts_with(start)));
        }
        has(&self.api_groups, &a.group)
            && self.resources.iter().any(|r| resource_matches(r, &a.resource, &a.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&a.name))
    }
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        None => subresource.is_empty() && rule == resource,
        Some((r, s)) => !subresource.is_empty() && s == subresource && (r == "*" || r == resource),
    }
}

/// Who a binding names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// A role that a binding refers to: of the cluster, or of the binding's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoleRef {
    cluster: bool,
    name: String,
}

#[derive(Clone, Debug)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
    /// The subjects as reasons show them.
    shown: Vec<String>,
}

impl Binding {
    fn from_value(value: &Value, namespace: &str) -> Self {
        let role = RoleRef {
            cluster: value.str_at(&["roleRef", "kind"]) == Some("ClusterRole"),
            name: value.str_at(&["roleRef", "name"]).unwrap_or_default().to_owned(),
        };
        let all = value.list_at(&["subjects"]).iter().filter_map(|s| Some((subject(s, namespace)?, shown(s, namespace))));
        let (subjects, shown) = all.unzip();
        Self { role, subjects, shown }
    }
}

fn subject(value: &Value, namespace: &str) -> Option<Subject> {
    let name = value.str_at(&["name"])?;
    match value.str_at(&["kind"])? {
        "User" => Some(Subject::User(name.to_owned())),
        "Group" => Some(Subject::Group(name.to_owned())),
        "ServiceAccount" => {
            let namespace = value.str_at(&["namespace"]).unwrap_or(namespace);
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}")))
        }
        _ => None,
    }
}

/// A subject in upstream's words (`describeSubject`).
fn shown(value: &Value, namespace: &str) -> String {
    let text = |key: &str| value.str_at(&[key]).unwrap_or_default();
    match text("kind") {
        "ServiceAccount" => format!("ServiceAccount {}", go_quote(&format!("{}/{}", text("name"), value.str_at(&["namespace"]).unwrap_or(namespace)))),
        kind => format!("{kind} {}", go_quote(text("name"))),
    }
}

/// The four kinds, by place and by subject. A change copies only the maps' spines.
#[derive(Clone, Debug, Default)]
pub struct Index {
    cluster_roles: HashMap<String, Arc<Vec<Rule>>>,
    roles: HashMap<(String, String), Arc<Vec<Rule>>>,
    /// By namespace (empty: cluster) and name.
    bindings: BTreeMap<(String, String), Arc<Binding>>,
    by_subject: HashMap<Subject, BTreeMap<String, Vec<RoleRef>>>,
}

impl Index {
    /// Enters, replaces or (with `None`) removes one object of `clusterroles`, `roles`, `clusterrolebindings` or `rolebindings`.
    pub fn set(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let rules = |o: &Value| Arc::new(o.list_at(&["rules"]).iter().map(Rule::from_value).collect::<Vec<_>>());
        match resource {
            "clusterroles" => set(&mut self.cluster_roles, name.to_owned(), object.map(rules)),
            "roles" => set(&mut self.roles, (namespace.to_owned(), name.to_owned()), object.map(rules)),
            _ => self.set_binding(namespace, name, object.map(|o| Binding::from_value(o, namespace))),
        }
    }

    /// Forgets every object of one of the four resources.
    pub fn clear(&mut self, resource: &str) {
        match resource {
            "clusterroles" => self.cluster_roles.clear(),
            "roles" => self.roles.clear(),
            _ => {
                let of_cluster = resource == "clusterrolebindings";
                let gone: Vec<(String, String)> = self.bindings.keys().filter(|(namespace, _)| namespace.is_empty() == of_cluster).cloned().collect();
                for (namespace, name) in gone {
                    self.set_binding(&namespace, &name, None);
                }
            }
        }
    }

    fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<Binding>) {
        let key = (namespace.to_owned(), name.to_owned());
        let old = match binding.clone() {
            Some(new) => self.bindings.insert(key, Arc::new(new)),
            None => self.bindings.remove(&key),
        };
        for subject in old.iter().flat_map(|b| &b.subjects) {
            if let Some(roles) = self.by_subject.get_mut(subject).and_then(|m| m.get_mut(namespace))
                && let Some(at) = old.as_ref().and_then(|b| roles.iter().position(|r| *r == b.role))
            {
                roles.swap_remove(at);
            }
        }
        for subject in binding.iter().flat_map(|b| &b.subjects) {
            let roles = self.by_subject.entry(subject.clone()).or_default().entry(namespace.to_owned()).or_default();
            roles.extend(binding.as_ref().map(|b| b.role.clone()));
        }
    }

    fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<Vec<Rule>>> {
        if role.cluster { self.cluster_roles.get(&role.name) } else { self.roles.get(&(namespace.to_owned(), role.name.clone())) }
    }

    /// Every rule that holds for a user in a namespace (empty: only those of the whole cluster).
    pub fn rules_for<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Rule> {
        let subjects = std::iter::once(Subject::User(user.name.clone())).chain(user.groups.iter().cloned().map(Subject::Group));
        subjects.filter_map(|s| self.by_subject.get(&s)).flat_map(move |by_namespace| {
            let scopes = if namespace.is_empty() { vec![""] } else { vec!["", namespace] };
            scopes.into_iter().flat_map(move |scope| {
                by_namespace.get(scope).into_iter().flatten().filter_map(move |role| self.rules_of(role, scope)).flat_map(|rules| rules.iter())
            })
        })
    }

    /// Which binding allows a request, in upstream's words. Looks at all of them: for those who ask for the reason.
    fn reason(&self, a: &Attributes) -> Option<String> {
        let is_meant = |s: &Subject| match s {
            Subject::User(name) => *name == a.user.name,
            Subject::Group(name) => a.user.is_in(name),
        };
        let here = self.bindings.iter().filter(|((namespace, _), _)| namespace.is_empty() || *namespace == a.namespace);
        here.into_iter().find_map(|((namespace, name), binding)| {
            let at = binding.subjects.iter().position(is_meant)?;
            self.rules_of(&binding.role, namespace)?.iter().any(|rule| rule.allows(a)).then(|| {
                let (kind, name) = if namespace.is_empty() { ("ClusterRoleBinding", name.clone()) } else { ("RoleBinding", format!("{name}/{namespace}")) };
                let role = if binding.role.cluster { "ClusterRole" } else { "Role" };
                format!("RBAC: allowed by {kind} {} of {role} {} to {}", go_quote(&name), go_quote(&binding.role.name), binding.shown[at])
            })
        })
    }

    fn allows(&self, a: &Attributes) -> bool {
        self.rules_for(&a.user, &a.namespace).any(|rule| rule.allows(a))
    }
}

/// Those of `wanted` that `owned` does not hold, of one verb and one thing each (upstream: `validation.Covers`).
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(breakdown).filter(|rule| !owned.iter().any(|o| covers(o, rule))).collect()
}

fn set<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// Splits a rule into rules of one verb and one thing each.
fn breakdown(rule: &Rule) -> Vec<Rule> {
    let mut single = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let one = Rule { verbs: vec![verb.clone()], api_groups: vec![group.clone()], resources: vec![resource.clone()], ..Rule::default() };
                if rule.resource_names.is_empty() {
                    single.push(one);
                } else {
                    single.extend(rule.resource_names.iter().map(|n| Rule { resource_names: vec![n.clone()], ..one.clone() }));
                }
            }
        }
        single.extend(rule.non_resource_urls.iter().map(|url| Rule { verbs: vec![verb.clone()], non_resource_urls: vec![url.clone()], ..Rule::default() }));
    }
    single
}

/// Whether an owned rule covers a single one.
fn covers(owner: &Rule, single: &Rule) -> bool {
    let all = |have: &[String], want: &[String]| want.iter().all(|w| have.iter().any(|h| h == "*" || h == w));
    if !all(&owner.verbs, &single.verbs) {
        return false;
    }
    if let Some(url) = single.non_resource_urls.first() {
        return owner.non_resource_urls.iter().any(|o| o == "*" || o == url || o.strip_suffix('*').is_some_and(|start| url.starts_with(start)));
    }
    let resource = |want: &String| {
        let (r, s) = want.split_once('/').unwrap_or((want, ""));
        owner.resources.iter().any(|o| o == want || resource_matches(o, r, s))
    };
    all(&owner.api_groups, &single.api_groups)
        && single.resources.iter().all(resource)
        && (owner.resource_names.is_empty() || (!single.resource_names.is_empty() && all(&owner.resource_names, &single.resource_names)))
}

/// The authorizer over an index that is swapped as the objects change.
#[derive(Default)]
pub struct Rbac {
    pub index: ArcSwap<Index>,
}

impl Authorizer for Rbac {
    fn name(&self) -> &'static str {
        "rbac"
    }

    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Opinion<'a> {
        let decision = if self.index.load().allows(attributes) { Decision::Allow } else { Decision::NoOpinion };
        (decision, String::new()).into()
    }

    fn explain(&self, attributes: &Attributes) -> String {
        self.index.load().reason(attributes).unwrap_or_default()
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let (index, mut found) = (self.index.load(), Rules::default());
        for rule in index.rules_for(user, namespace) {
            if !rule.resources.is_empty() {
                let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if !rule.resource_names.is_empty() {
                    shown.set(&["resourceNames"], rule.resource_names.clone());
                }
                found.resource.push(shown);
            }
            if !rule.non_resource_urls.is_empty() {
                found.non_resource.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        index.set("clusterroles", "", "view", Some(&json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]})));
        index.set("roles", "a", "edit", Some(&json!({"rules": [{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["web"]}]})));
        index.set("clusterroles", "", "paths", Some(&json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}]})));
        index.set(
            "clusterrolebindings",
            "",
            "paths",
            Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "paths"}, "subjects": [{"kind": "Group", "name": "g"}]})),
        );
        index.set("rolebindings", "a", "view", Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "sa"}]})));
        index.set("rolebindings", "a", "edit", Some(&json!({"roleRef": {"kind": "Role", "name": "edit"}, "subjects": [{"kind": "User", "name": "jane"}]})));
        index
    }

    /// `USER VERB NAMESPACE/GROUP/RESOURCE[/SUBRESOURCE]:NAME` or `USER VERB PATH`
    fn allowed(index: &Index, question: &str) -> bool {
        let words: Vec<&str> = question.split(' ').collect();
        let user = User { name: words[0].into(), groups: vec!["g".into()], ..User::default() };
        let mut a = Attributes { user, verb: words[1].into(), ..Attributes::default() };
        if words[2].starts_with('/') {
            a.path = words[2].into();
        } else {
            let (place, name) = words[2].split_once(':').unwrap();
            let parts: Vec<&str> = place.split('/').collect();
            a.is_resource_request = true;
            (a.namespace, a.group, a.resource, a.name) = (parts[0].into(), parts[1].into(), parts[2].into(), name.into());
            a.subresource = parts.get(3).map_or(String::new(), |s| (*s).into());
        }
        index.allows(&a)
    }

    #[test]
    fn rules_hold_where_they_are_bound() {
        let index = index();
        for (question, wanted) in [
            ("jane get a//pods:x", true),
            ("jane get a//pods/log:x", true),
            ("jane get a//pods/exec:x", false),
            ("jane delete a//pods:x", false),
            ("jane get b//pods:x", false),
            ("bob get a//pods:x", false),
            ("jane patch a/apps/deployments:web", true),
            ("jane patch a/apps/deployments:db", false),
            ("bob get /healthz", true),
            ("bob get /api/v1", true),
            ("bob post /api/v1", false),
            ("system:serviceaccount:a:sa list a//pods:", true),
        ] {
            assert_eq!(allowed(&index, question), wanted, "{question}");
        }
    }

    #[test]
    fn a_binding_is_the_reason() {
        let index = index();
        let reason = |user: &str, verb: &str, resource: &str, group: &str| {
            let user = User { name: user.into(), groups: vec!["g".into()], ..User::default() };
            let attributes = Attributes {
                user,
                verb: verb.into(),
                namespace: "a".into(),
                group: group.into(),
                resource: resource.into(),
                name: "web".into(),
                is_resource_request: true,
                ..Attributes::default()
            };
            index.reason(&attributes)
        };
        assert_eq!(reason("jane", "get", "pods", "").unwrap(), "RBAC: allowed by RoleBinding \"view/a\" of ClusterRole \"view\" to User \"jane\"");
        assert_eq!(reason("jane", "patch", "deployments", "apps").unwrap(), "RBAC: allowed by RoleBinding \"edit/a\" of Role \"edit\" to User \"jane\"");
        let account = "RBAC: allowed by RoleBinding \"view/a\" of ClusterRole \"view\" to ServiceAccount \"sa/a\"";
        assert_eq!(reason("system:serviceaccount:a:sa", "list", "pods", "").unwrap(), account);
        assert_eq!(reason("jane", "delete", "pods", ""), None);
        let path =
            Attributes { user: User { groups: vec!["g".into()], ..User::default() }, verb: "get".into(), path: "/healthz".into(), ..Attributes::default() };
        assert_eq!(index.reason(&path).unwrap(), "RBAC: allowed by ClusterRoleBinding \"paths\" of ClusterRole \"paths\" to Group \"g\"");
    }

    #[test]
    fn a_removed_binding_takes_its_rules_away() {
        let mut index = index();
        index.set("rolebindings", "a", "view", None);
        assert!(!allowed(&index, "jane get a//pods:x"));
        assert!(allowed(&index, "jane patch a/apps/deployments:web"));
    }

    #[test]
    fn nobody_grants_what_they_do_not_have() {
        let index = index();
        let jane = User { name: "jane".into(), ..User::default() };
        let rule = |verbs: &[&str], resources: &[&str]| Rule {
            verbs: verbs.iter().map(|s| (*s).to_owned()).collect(),
            api_groups: vec![String::new()],
            resources: resources.iter().map(|s| (*s).to_owned()).collect(),
            ..Rule::default()
        };
        let missing = |namespace: &str, wanted: Rule| super::missing(&index.rules_for(&jane, namespace).cloned().collect::<Vec<_>>(), &[wanted]);
        assert!(missing("a", rule(&["get"], &["pods"])).is_empty());
        assert_eq!(missing("a", rule(&["get", "delete"], &["pods"])), [rule(&["delete"], &["pods"])]);
        assert_eq!(missing("", rule(&["get"], &["pods"])).len(), 1);
    }
}
