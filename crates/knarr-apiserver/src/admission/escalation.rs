//! Nobody grants what they do not have: who writes a role must hold all of its rules, who binds one those of the role, unless they
//! may `escalate` or `bind` it. Upstream keeps this beside the storage of the four kinds, so that no flag turns it off
//! (`pkg/registry/rbac/*/policybased`, `ConfirmNoEscalation`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::field::go_quote;
use knarr_core::{GroupResource, Result, Status, Value, ValueExt};

use super::{Objects, Operation, Plugin, Review};
use crate::authn::User;
use crate::authz::Attributes;
use crate::authz::rbac::{GROUP, Rule, missing};

/// Metadata by which the garbage collector lets an object go.
const COLLECTORS_FIELDS: [&str; 5] = ["ownerReferences", "finalizers", "selfLink", "managedFields", "resourceVersion"];

pub struct Escalation(pub Arc<dyn Objects>);

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        let written = matches!(operation, Operation::Create | Operation::Update);
        written && a.group == GROUP && a.subresource.is_empty() && (is_role(a) || is_binding(a))
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let Some(object) = &review.object else { return Ok(()) };
        if review.old.is_some_and(|old| only_collected(object, old)) {
            return Ok(());
        }
        if is_role(review.attributes) { self.role(review, object).await } else { self.binding(review, object).await }
    }
}

fn is_role(a: &Attributes) -> bool {
    matches!(a.resource.as_str(), "roles" | "clusterroles")
}

fn is_binding(a: &Attributes) -> bool {
    matches!(a.resource.as_str(), "rolebindings" | "clusterrolebindings")
}

/// Whether nothing has changed but what the garbage collector changes (upstream: `IsOnlyMutatingGCFields`).
fn only_collected(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        for field in COLLECTORS_FIELDS {
            object.remove(&["metadata", field]);
        }
        object
    };
    rest(new) == rest(old)
}

fn rules(of: &Value) -> Vec<Rule> {
    of.list_at(&["rules"]).iter().map(Rule::from_value).collect()
}

fn aggregates(role: &Value) -> bool {
    !role.list_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty()
}

/// Every verb on everything.
fn full_authority() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }, Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() }]
}

impl Escalation {
    async fn role(&self, review: &Review<'_>, role: &Value) -> Result<()> {
        let a = review.attributes;
        if may(review, "escalate", &a.resource, &a.name).await {
            return Ok(());
        }
        let owned = owned(review);
        confirm(&a.user, &owned, &rules(role)).map_err(|why| forbidden(review, why))?;
        let gathers = aggregates(role) || review.old.is_some_and(aggregates);
        if gathers && !missing(&owned, &full_authority()).is_empty() {
            return Err(forbidden(review, "must have cluster-admin privileges to use the aggregationRule".into()));
        }
        Ok(())
    }

    async fn binding(&self, review: &Review<'_>, binding: &Value) -> Result<()> {
        let name = binding.str_at(&["roleRef", "name"]).unwrap_or_default();
        let (resource, namespace) = match binding.str_at(&["roleRef", "kind"]) {
            Some("ClusterRole") => ("clusterroles", ""),
            _ => ("roles", review.attributes.namespace.as_str()),
        };
        if may(review, "bind", resource, name).await {
            return Ok(());
        }
        let role = self.0.value(GROUP, resource, namespace, name).ok_or_else(|| Status::not_found(&GroupResource::new(GROUP, resource), name))?;
        confirm(&review.attributes.user, &owned(review), &rules(&role)).map_err(|why| forbidden(review, why))
    }
}

/// Whether the user has the verb on a role, where the object under review stands.
async fn may(review: &Review<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let Some(request) = &review.request else { return false };
    let asked = Attributes {
        user: review.attributes.user.clone(),
        verb: verb.into(),
        group: GROUP.into(),
        version: "*".into(),
        resource: resource.into(),
        namespace: review.attributes.namespace.clone(),
        name: name.into(),
        is_resource_request: true,
        ..Attributes::default()
    };
    request.server.authorize(&asked).await.is_allowed()
}

/// What the user has where the object under review stands.
fn owned(review: &Review<'_>) -> Vec<Rule> {
    let Some(request) = &review.request else { return Vec::new() };
    let rules = request.server.authorizer.load().rules(&review.attributes.user, &review.attributes.namespace);
    rules.resource.iter().chain(&rules.non_resource).map(Rule::from_value).collect()
}

fn forbidden(review: &Review<'_>, why: String) -> Status {
    let a = review.attributes;
    Status::forbidden(&GroupResource::new(&a.group, &a.resource), review.name(), why)
}

/// # Errors
/// Who tries to grant what, in upstream's words.
fn confirm(user: &User, owned: &[Rule], wanted: &[Rule]) -> Result<(), String> {
    let missing = missing(owned, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let (user, groups) = (go_quote(&user.name), quoted(&user.groups));
    Err(format!("user {user} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}", described(&missing).join("\n")))
}

/// Rules of one verb each, brought together by what they are about (upstream: `CompactRules`).
fn described(rules: &[Rule]) -> Vec<String> {
    let mut verbs: BTreeMap<(&[String], &[String], &[String]), Vec<String>> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for rule in rules {
        if rule.non_resource_urls.is_empty() {
            verbs.entry((&rule.api_groups, &rule.resources, &rule.resource_names)).or_default().extend(rule.verbs.iter().cloned());
        } else {
            lines.insert(line(rule));
        }
    }
    for ((groups, resources, names), verbs) in verbs {
        let (api_groups, resources, resource_names) = (groups.to_vec(), resources.to_vec(), names.to_vec());
        lines.insert(line(&Rule { verbs, api_groups, resources, resource_names, ..Rule::default() }));
    }
    lines.into_iter().collect()
}

fn line(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list as Go's `%q` prints it.
fn quoted(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|s| go_quote(s)).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn rule(value: Value) -> Rule {
        Rule::from_value(&value)
    }

    #[test]
    fn what_is_not_held_is_named() {
        let user = User { name: "jane".into(), groups: vec!["dev".into(), "system:authenticated".into()], ..User::default() };
        let owned = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
        let wanted = [
            rule(json!({"verbs": ["get", "delete", "watch"], "apiGroups": [""], "resources": ["pods"]})),
            rule(json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["a"]})),
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})),
        ];
        assert_eq!(confirm(&user, &owned, &owned), Ok(()));
        assert_eq!(
            confirm(&user, &owned, &wanted).unwrap_err(),
            "user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"deployments\"], ResourceNames:[\"a\"], Verbs:[\"get\"]}\n\
             {NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"
        );
    }

    #[test]
    fn a_collectors_change_grants_nothing() {
        let old = json!({"metadata": {"name": "r", "finalizers": ["x"], "resourceVersion": "1"}, "rules": [{"verbs": ["*"]}]});
        let new = json!({"metadata": {"name": "r", "resourceVersion": "1", "managedFields": []}, "rules": [{"verbs": ["*"]}]});
        assert!(only_collected(&new, &old));
        assert!(!only_collected(&json!({"metadata": {"name": "r"}, "rules": []}), &old));
    }
}
