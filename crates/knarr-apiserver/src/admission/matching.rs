//! Whether a webhook or policy is about a write, in which version, and what it is shown
//! (upstream: `generic.Webhook.ShouldCallHook`, `policy/matching`).

use knarr_cel::authz::{Answer, Authorizer, Question};
use knarr_core::{GroupResource, GroupVersionKind, GroupVersionResource, Result, Status, Value, ValueExt, json, selector::LabelSelector};

use super::{Objects, Operation, Review};
use crate::{authn::User, authz::Attributes, server::Inner};

/// One line of `rules`.
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    /// Names of objects that are meant; none: all.
    names: Vec<String>,
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    value.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    pub fn new(rule: &Value) -> Self {
        let split = |r: String| r.split_once('/').map_or((r.clone(), String::new()), |(r, s)| (r.to_owned(), s.to_owned()));
        Self {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources").into_iter().map(split).collect(),
            scope: rule.str_at(&["scope"]).unwrap_or("*").to_owned(),
            names: texts(rule, "resourceNames"),
        }
    }

    /// Whether a request is meant (upstream: `rules.Matcher`).
    pub fn matches(&self, operation: Operation, resource: &knarr_core::GroupVersionResource, subresource: &str, namespace: &str) -> bool {
        let among = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let is_namespace = resource.group.is_empty() && resource.version == "v1" && resource.resource == "namespaces";
        let in_scope = match self.scope.as_str() {
            "*" => true,
            "Namespaced" => !is_namespace && !namespace.is_empty(),
            "Cluster" => is_namespace || namespace.is_empty(),
            _ => false,
        };
        in_scope
            && among(&self.operations, operation.as_str())
            && among(&self.groups, &resource.group)
            && among(&self.versions, &resource.version)
            && self.resources.iter().any(|(r, s)| (r == "*" || *r == resource.resource) && (s == "*" || s == subresource))
    }
}

/// Which writes a webhook, a policy or a binding is about.
pub struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether no rules mean everything (in policies and bindings).
    none_means_all: bool,
    matches_equivalent: bool,
    /// The sentence that says so where a selector cannot be read.
    namespace_selector: Result<LabelSelector, String>,
    object_selector: Result<LabelSelector, String>,
}

impl Criteria {
    /// Those that stand in a webhook.
    pub fn of_webhook(webhook: &Value) -> Self {
        Self::new(webhook, "rules", false)
    }

    /// Those of a `MatchResources`.
    pub fn of_policy(resources: &Value) -> Self {
        Self::new(resources, "resourceRules", true)
    }

    fn new(value: &Value, rules: &str, none_means_all: bool) -> Self {
        // An empty selector matches everything, an absent one as well: it is defaulted.
        let selector = |key: &str| value.at(&[key]).map_or_else(|| Ok(LabelSelector::everything()), |s| LabelSelector::from_value(Some(s)));
        let list = |key: &str| value.list_at(&[key]).iter().map(Rule::new).collect();
        Self {
            rules: list(rules),
            excluded: list("excludeResourceRules"),
            none_means_all,
            matches_equivalent: value.str_at(&["matchPolicy"]) != Some("Exact"),
            namespace_selector: selector("namespaceSelector"),
            object_selector: selector("objectSelector"),
        }
    }

    /// As what the write is meant; `None` when it is not.
    ///
    /// # Errors
    /// When it is meant by the rules, but the selectors cannot be evaluated.
    pub fn matches(&self, objects: &dyn Objects, review: &Review<'_>) -> Result<Option<Invocation>> {
        let in_namespace = matches_namespace(objects, review, &self.namespace_selector);
        if matches!(in_namespace, Ok(false)) {
            return Ok(None);
        }
        let object = match &self.object_selector {
            Ok(selector) if !matches_object(review, selector) => return Ok(None),
            Ok(_) => Ok(()),
            Err(why) => Err(Status::internal(why)),
        };
        if by_rules(review, &self.excluded, self.matches_equivalent).is_some() {
            return Ok(None);
        }
        let invocation = if self.rules.is_empty() && self.none_means_all {
            review.request.as_ref().map(|r| Invocation { resource: r.resource(), kind: r.kind.clone() })
        } else {
            by_rules(review, &self.rules, self.matches_equivalent)
        };
        let Some(invocation) = invocation else { return Ok(None) };
        in_namespace?;
        object?;
        Ok(Some(invocation))
    }
}

/// As what a webhook or policy sees the object.
pub struct Invocation {
    pub resource: GroupVersionResource,
    pub kind: GroupVersionKind,
}

/// The request of a review without its objects, as match conditions see it, too.
pub fn request(review: &Review<'_>, invocation: &Invocation, uid: &str) -> Option<Value> {
    let (a, own) = (review.attributes, review.request.as_ref()?);
    let kind = |k: &GroupVersionKind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let resource = |r: &GroupVersionResource| json!({"group": r.group, "version": r.version, "resource": r.resource});
    let mut user = json!({});
    for (key, text) in [("username", &a.user.name), ("uid", &a.user.uid)] {
        if !text.is_empty() {
            user.set(&[key], text.as_str());
        }
    }
    if !a.user.groups.is_empty() {
        user.set(&["groups"], a.user.groups.clone());
    }
    if !a.user.extra.is_empty() {
        user.set(&["extra"], serde_json::to_value(&a.user.extra).unwrap_or_default());
    }
    let mut request = json!({
        "uid": uid, "kind": kind(&invocation.kind), "resource": resource(&invocation.resource), "requestKind": kind(&own.kind),
        "requestResource": resource(&own.resource()), "operation": review.operation.as_str(), "userInfo": user, "dryRun": review.dry_run,
        "options": own.options(review.operation),
    });
    let texts = [("subResource", a.subresource.as_str()), ("requestSubResource", &a.subresource), ("name", review.name()), ("namespace", &a.namespace)];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        request.set(&[key], text);
    }
    Some(request)
}

/// Object and old object as a webhook or policy is shown them; `null` where there is none.
pub fn shown(review: &Review<'_>, kind: &GroupVersionKind) -> Result<(Value, Value)> {
    let Some(request) = &review.request else { return Ok((Value::Null, Value::Null)) };
    let present = |object: Option<&Value>| -> Result<Value> {
        let Some(object) = object else { return Ok(Value::Null) };
        let mut shown = request.present(object, kind, &review.attributes.subresource)?;
        shown.set(&["kind"], kind.kind.as_str());
        shown.set(&["apiVersion"], kind.api_version());
        Ok(shown)
    };
    Ok((present(review.object.as_ref())?, present(review.old)?))
}

/// The server's authorizer, for expressions that ask it about the user of the request or a service account.
pub struct Asked<'a> {
    pub server: &'a Inner,
    pub user: &'a User,
}

impl Authorizer for Asked<'_> {
    fn authorize(&self, question: &Question) -> Answer {
        let user = match &question.service_account {
            Some((namespace, name)) => User {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".into()],
                ..User::default()
            },
            None => self.user.clone(),
        };
        let selector = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        let attributes = Attributes {
            user,
            verb: question.verb.clone(),
            namespace: question.namespace.clone(),
            group: question.group.clone(),
            version: "*".into(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            name: question.name.clone(),
            path: question.path.clone().unwrap_or_default(),
            is_resource_request: question.path.is_none(),
            label_selector: selector(&question.label_selector),
            field_selector: selector(&question.field_selector),
        };
        let verdict = self.server.authorize_blocking(&attributes);
        Answer { allowed: verdict.is_allowed(), reason: verdict.reason, error: verdict.error }
    }
}

/// The first rule that means the request itself; else the first that means an equivalent of it.
fn by_rules(review: &Review<'_>, rules: &[Rule], matches_equivalent: bool) -> Option<Invocation> {
    let (a, request) = (review.attributes, review.request.as_ref()?);
    let resource = request.resource();
    let is_named = |rule: &Rule| rule.names.is_empty() || rule.names.iter().any(|n| n == review.name());
    let matches = |resource: &GroupVersionResource, rule: &Rule| rule.matches(review.operation, resource, &a.subresource, &a.namespace) && is_named(rule);
    if rules.iter().any(|rule| matches(&resource, rule)) {
        return Some(Invocation { resource, kind: request.kind.clone() });
    }
    if !matches_equivalent {
        return None;
    }
    let equivalents = request.equivalents(&a.subresource);
    let found = rules.iter().find_map(|rule| equivalents.iter().find(|(resource, _)| matches(resource, rule)));
    found.map(|(resource, kind)| Invocation { resource: resource.clone(), kind: kind.clone() })
}

/// Cluster-scoped objects are never exempted; a namespace is judged by its own labels.
fn matches_namespace(objects: &dyn Objects, review: &Review<'_>, selector: &Result<LabelSelector, String>) -> Result<bool> {
    let a = review.attributes;
    if a.namespace.is_empty() && a.resource != "namespaces" {
        return Ok(true);
    }
    let selector = selector.as_ref().map_err(Status::internal)?;
    if selector.is_everything() {
        return Ok(true);
    }
    let is_written = a.resource == "namespaces" && a.subresource.is_empty() && matches!(review.operation, Operation::Create | Operation::Update);
    if is_written {
        return Ok(selector.matches(review.object.as_ref().and_then(|o| o.at(&["metadata", "labels"]))));
    }
    let namespace = objects.value("", "namespaces", "", &a.namespace);
    let namespace = namespace.ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), &a.namespace))?;
    Ok(selector.matches(namespace.at(&["metadata", "labels"])))
}

/// The labels of the object or of the old one; what has no metadata has no labels to select by.
fn matches_object(review: &Review<'_>, selector: &LabelSelector) -> bool {
    let selects = |object: &Value| object.at(&["metadata"]).is_some() && selector.matches(object.at(&["metadata", "labels"]));
    selector.is_everything() || review.object.as_ref().is_some_and(selects) || review.old.is_some_and(selects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_operations_resources_and_scopes() {
        let rule = |scope: &str, resources: Value| {
            Rule::new(&json!({"operations": ["CREATE"], "apiGroups": ["", "apps"], "apiVersions": ["*"], "resources": resources, "scope": scope}))
        };
        let pods = GroupVersionResource::new("", "v1", "pods");
        let namespaces = GroupVersionResource::new("", "v1", "namespaces");
        let matches = |r: &Rule, gvr: &GroupVersionResource, sub: &str, namespace: &str| r.matches(Operation::Create, gvr, sub, namespace);
        assert!(matches(&rule("*", json!(["pods"])), &pods, "", "n"));
        assert!(!rule("*", json!(["pods"])).matches(Operation::Delete, &pods, "", "n"));
        assert!(!matches(&rule("*", json!(["pods"])), &pods, "status", "n"));
        assert!(matches(&rule("*", json!(["pods/*"])), &pods, "status", "n") && matches(&rule("*", json!(["pods/*"])), &pods, "", "n"));
        assert!(matches(&rule("*", json!(["*/status"])), &pods, "status", "n"));
        assert!(matches(&rule("*", json!(["*"])), &pods, "", "n") && !matches(&rule("*", json!(["*"])), &pods, "status", "n"));
        assert!(matches(&rule("Cluster", json!(["*"])), &namespaces, "", "n") && !matches(&rule("Namespaced", json!(["*"])), &namespaces, "", "n"));
        assert!(!matches(&rule("Cluster", json!(["*"])), &pods, "", "n"));
        assert!(!matches(&rule("*", json!(["*"])), &GroupVersionResource::new("batch", "v1", "jobs"), "", "n"));
    }
}
