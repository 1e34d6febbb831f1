//! Resources that are questions: who am I, who is this, may they. They are answered and not stored, as are bindings.

use knarr_core::{Result, Status, Value, ValueExt, json, time};

use crate::{
    authz::{Decision, review},
    call::{Exchange, Outcome},
    catalog::not_served,
    pipeline::not_allowed,
    review_rules, subresource,
    write::{Writer, decode, meta},
};

/// Answers the create of a resource that is not stored.
///
/// # Errors
/// `BadRequest` for a question that cannot be read.
pub async fn create(ex: &Exchange<'_>) -> Result<Outcome> {
    let info = &ex.call.info;
    if info.verb != "create" {
        return Err(not_allowed());
    }
    // A question has no name.
    if !info.name.is_empty() {
        return Err(not_served());
    }
    let mut object = decode::object(ex)?;
    if info.group == "authorization.k8s.io" || info.resource == "tokenreviews" {
        meta::wipe_system_fields(&mut object);
        meta::ensure_namespace(&mut object, if ex.served.resource.namespaced { ex.namespace() } else { "" })?;
        Writer::new(ex).track(None, &mut object);
    }
    match (info.group.as_str(), info.resource.as_str()) {
        ("", "bindings") => return subresource::bind(ex, object).await,
        ("authentication.k8s.io", "tokenreviews") => review_token(ex, &mut object).await?,
        ("authentication.k8s.io", "selfsubjectreviews") => return Ok(who_am_i(ex, &object)),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => rules(ex, &mut object)?,
        ("authorization.k8s.io", resource) => review_access(ex, resource, &mut object).await?,
        _ => return Err(not_allowed()),
    }
    object.remove(&["metadata", "creationTimestamp"]);
    Ok(Outcome::Value { value: object, code: 201 })
}

/// A new object that says who asks; what was sent does not matter.
fn who_am_i(ex: &Exchange<'_>, asked: &Value) -> Outcome {
    let mut answer = json!({"kind": asked["kind"], "apiVersion": asked["apiVersion"]});
    answer.set(&["metadata", "creationTimestamp"], time::format(ex.server.env.now()));
    answer.set(&["status", "userInfo"], user_info(&ex.call.user));
    Outcome::Value { value: answer, code: 201 }
}

fn user_info(user: &crate::authn::User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info.set(&["uid"], user.uid.as_str());
    }
    if !user.extra.is_empty() {
        info.set(&["extra"], serde_json::to_value(&user.extra).unwrap_or_default());
    }
    info
}

async fn review_token(ex: &Exchange<'_>, review: &mut Value) -> Result<()> {
    let token = review.str_at(&["spec", "token"]).unwrap_or_default().to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = review.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let authenticator = ex.server.authenticator.load_full();
    // What the client wrote stays where there is nothing to say.
    let status = review.ensure(&["status"]);
    status.remove(&["authenticated"]);
    status.ensure(&["user"]);
    match authenticator.review_token(&token, &audiences).await {
        Ok(Some((user, audiences))) => *status = json!({"authenticated": true, "user": user_info(&user), "audiences": audiences}),
        Ok(None) => status.set(&["error"], "invalid bearer token"),
        Err(e) => status.set(&["error"], e.message),
    }
    Ok(())
}

async fn review_access(ex: &Exchange<'_>, resource: &str, object: &mut Value) -> Result<()> {
    let own = resource == "selfsubjectaccessreviews";
    let spec = object.at(&["spec"]).cloned().unwrap_or_default();
    review_rules::check_access_review(ex, resource, object)?;
    let user = if own { (*ex.call.user).clone() } else { review::user(&spec) };
    let (attributes, unread) = review::attributes(&spec, user);
    let verdict = ex.server.authorize(&attributes).await;
    let mut status = json!({"allowed": verdict.is_allowed()});
    if verdict.decision == Decision::Deny {
        status.set(&["denied"], true);
    }
    let reason = if verdict.is_allowed() && verdict.reason.is_empty() { ex.server.authorizer.load().explain(&attributes) } else { verdict.reason };
    if !reason.is_empty() {
        status.set(&["reason"], reason);
    }
    let errors: Vec<String> = verdict.error.into_iter().chain(unread).collect();
    if !errors.is_empty() {
        status.set(&["evaluationError"], errors.join("; "));
    }
    object.set(&["status"], status);
    Ok(())
}

/// What the user may do in a namespace, as far as the authorizers can list it.
fn rules(ex: &Exchange<'_>, review: &mut Value) -> Result<()> {
    let namespace = review.str_at(&["spec", "namespace"]).unwrap_or_default().to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = ex.server.authorizer.load().rules(&ex.call.user, &namespace);
    let mut status = json!({"resourceRules": rules.resource, "nonResourceRules": rules.non_resource, "incomplete": rules.incomplete});
    if !rules.error.is_empty() {
        status.set(&["evaluationError"], rules.error);
    }
    *review = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "metadata": {}, "spec": {}, "status": status});
    Ok(())
}
