//! Whether a webhook is to be asked about a write, and in which version (upstream: `generic.Webhook.ShouldCallHook`).

use knarr_cel::{
    admission::{Evaluator, Input, Matched},
    authz::{Answer, Authorizer, Question},
};
use knarr_core::{GroupResource, GroupVersionKind, GroupVersionResource, Result, Status, Value, ValueExt, selector::LabelSelector};

use super::configuration::Webhook;
use crate::{
    admission::{Objects, Operation, Review},
    authn::User,
    authz::{Attributes, Decision},
    server::Inner,
};

/// As what a webhook sees the object.
pub struct Invocation {
    pub resource: GroupVersionResource,
    pub kind: GroupVersionKind,
}

/// How a webhook is to be asked; `None` when it is not.
///
/// # Errors
/// When it is meant by its rules, but its selectors cannot be evaluated.
pub fn invocation(objects: &dyn Objects, review: &Review<'_>, hook: &Webhook) -> Result<Option<Invocation>> {
    let in_namespace = matches_namespace(objects, review, &hook.namespace_selector);
    if matches!(in_namespace, Ok(false)) {
        return Ok(None);
    }
    let object = match &hook.object_selector {
        Ok(selector) if !matches_object(review, selector) => return Ok(None),
        Ok(_) => Ok(()),
        Err(why) => Err(Status::internal(why)),
    };
    let Some(invocation) = by_rules(review, hook) else { return Ok(None) };
    in_namespace?;
    object?;
    if !hook.match_conditions.is_empty() && !conditions_hold(review, hook, &invocation)? {
        return Ok(None);
    }
    Ok(Some(invocation))
}

/// What cannot be evaluated is refused, or passed over when failures are ignored.
fn conditions_hold(review: &Review<'_>, hook: &Webhook, invocation: &Invocation) -> Result<bool> {
    let (object, old_object) = super::shown(review, &invocation.kind)?;
    let request = super::call::request(review, invocation, "").unwrap_or_default();
    let authorizer = review.request.as_ref().map(|r| Asked { server: r.server, user: &review.attributes.user });
    let input = Input {
        object: &object,
        old_object: &old_object,
        decl: None,
        params: None,
        request: &request,
        namespace: &Value::Null,
        authorizer: authorizer.as_ref().map(|a| a as &dyn Authorizer),
    };
    match hook.match_conditions.matches(&Evaluator::new(&input, None)) {
        Ok(matched) => Ok(matched == Matched::Yes),
        Err(why) if hook.ignores_failures => {
            tracing::warn!(webhook = hook.name, why, "match conditions cannot be evaluated; the webhook is passed over");
            Ok(false)
        }
        Err(why) => {
            let a = review.attributes;
            Err(Status::forbidden(&GroupResource::new(&a.group, &a.resource), review.name(), why))
        }
    }
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
        let (decision, reason) = self.server.authorize(&attributes);
        Answer { allowed: decision == Decision::Allow, reason, error: None }
    }
}

/// The first rule that means the request itself; else the first that means an equivalent of it.
fn by_rules(review: &Review<'_>, hook: &Webhook) -> Option<Invocation> {
    let (a, request) = (review.attributes, review.request.as_ref()?);
    let resource = request.resource();
    let matches = |resource: &GroupVersionResource, rule: &super::configuration::Rule| rule.matches(review.operation, resource, &a.subresource, &a.namespace);
    if hook.rules.iter().any(|rule| matches(&resource, rule)) {
        return Some(Invocation { resource, kind: request.kind.clone() });
    }
    if !hook.matches_equivalent {
        return None;
    }
    let equivalents = request.equivalents(&a.subresource);
    let found = hook.rules.iter().find_map(|rule| equivalents.iter().find(|(resource, _)| matches(resource, rule)));
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
