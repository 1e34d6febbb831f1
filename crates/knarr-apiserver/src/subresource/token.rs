//! `serviceaccounts/token` (upstream: `registry/core/serviceaccount/storage/token.go`).

use knarr_core::{
    GroupResource, GroupVersionKind, Result, Status, Value, ValueExt,
    field::{self, Path},
    json, time,
};
use knarr_schema::codec;
use knarr_store::{ObjectKey, ResourceKey};

use crate::{
    admission::Operation,
    authn::{BoundObject, TokenRequest},
    call::{Exchange, Outcome},
    tokens::TokenIssuer,
    write::{Writer, decode},
};

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// What is asked for a pod's own token (upstream: `WarnOnlyBoundTokenExpirationSeconds`), and how long that lives.
const SECONDS_OF_PODS: i64 = 3607;
const SECONDS_EXTENDED: i64 = 365 * 24 * 60 * 60;

/// Issues a token for the account in the path.
///
/// # Errors
/// `NotFound` for the account or what the token is to be bound to, `Invalid` and `Conflict` for a request that does not fit.
pub async fn create(ex: &Exchange<'_>) -> Result<Outcome> {
    let name = ex.name()?;
    let kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = decode::other(ex, &kind)?;
    request.ensure(&["metadata"]);
    let writer = Writer::new(ex);
    track(&writer, &kind, &mut request);
    check_place(ex, &request, name, &kind)?;
    let account = find(ex, "serviceaccounts", ex.namespace(), name)?;
    let uid = account.str_at(&["metadata", "uid"]).unwrap_or_default();
    if let Some(wanted) = request.str_at(&["metadata", "uid"]).filter(|u| !u.is_empty() && *u != uid) {
        let why = format!("the UID in the token request ({wanted}) does not match the UID of the service account ({uid})");
        return Err(Status::conflict(&GroupResource::new(&kind.group, &kind.kind), name, why));
    }
    let issuer = ex.server.tokens.load_full().as_ref().clone().ok_or_else(|| Status::service_unavailable("no token issuer is configured"))?;
    fill(ex, &mut request, name, uid, issuer.audiences());
    let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or(SECONDS_DEFAULT);
    check_seconds(seconds, &kind)?;
    let request = writer.mutate_other(Operation::Create, request, None).await?;
    let mut request = writer.admit(Operation::Create, Some(request), None).await?.unwrap_or_default();
    let mut wanted = TokenRequest {
        namespace: ex.namespace().to_owned(),
        account: BoundObject { name: name.to_owned(), uid: uid.to_owned() },
        audiences: request.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        seconds,
        ..TokenRequest::default()
    };
    bind_to(ex, &request, &mut wanted)?;
    set_lifetime(ex, issuer.as_ref(), &mut request, &mut wanted);
    let (token, end) = issuer.issue(&wanted, &ex.server.env)?;
    request.set(&["status", "token"], token);
    request.set(&["status", "expirationTimestamp"], time::format(end));
    Ok(Outcome::Value { value: request, code: 201 })
}

/// Shortens or extends what was asked for.
fn set_lifetime(ex: &Exchange<'_>, issuer: &dyn TokenIssuer, request: &mut Value, wanted: &mut TokenRequest) {
    let lifetimes = issuer.lifetimes();
    if let Some(max) = lifetimes.seconds_max.filter(|max| wanted.seconds > *max) {
        ex.warn(format!("requested expiration of {} seconds shortened to {max} seconds", wanted.seconds));
        wanted.seconds = max;
        request.set(&["spec", "expirationSeconds"], max);
    }
    let is_own = wanted.audiences.iter().all(|audience| issuer.audiences().contains(audience));
    if lifetimes.extends && wanted.pod.is_some() && wanted.seconds == SECONDS_OF_PODS && is_own {
        wanted.seconds_extended = Some(SECONDS_EXTENDED);
    }
}

/// What the client asks for is its own, as with everything that is created.
fn track(writer: &Writer<'_>, kind: &GroupVersionKind, request: &mut Value) {
    let spec = request.at(&["spec"]).and_then(Value::as_object);
    let asked: serde_json::Map<String, Value> = spec.into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(k, _)| (format!("f:{k}"), json!({}))).collect();
    if asked.is_empty() {
        return;
    }
    let manager = writer.manager();
    let entry = json!({
        "manager": manager.name, "operation": "Update", "apiVersion": kind.api_version(), "time": manager.now,
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": asked}, "subresource": "token",
    });
    request.set(&["metadata", "managedFields"], vec![entry]);
}

fn check_place(ex: &Exchange<'_>, request: &Value, name: &str, kind: &GroupVersionKind) -> Result<()> {
    for (part, wanted) in [("name", name), ("namespace", ex.namespace())] {
        if let Some(found) = request.str_at(&["metadata", part]).filter(|f| !f.is_empty() && *f != wanted) {
            let error = field::Error::invalid(&Path::new("metadata").child(part), found, format!("must match the service account {part} if specified"));
            return Err(Status::invalid(kind, name, &[error]));
        }
    }
    Ok(())
}

fn check_seconds(seconds: i64, kind: &GroupVersionKind) -> Result<()> {
    let path = Path::new("spec").child("expirationSeconds");
    let error = match seconds {
        s if s < SECONDS_MIN => field::Error::invalid(&path, s, "may not specify a duration less than 10 minutes"),
        s if s > SECONDS_MAX => field::Error::invalid(&path, s, "may not specify a duration larger than 2^32 seconds"),
        _ => return Ok(()),
    };
    Err(Status::invalid(kind, "", &[error]))
}

/// Sets what the client left out.
fn fill(ex: &Exchange<'_>, request: &mut Value, name: &str, uid: &str, audiences: &[String]) {
    request.set(&["kind"], "TokenRequest");
    request.set(&["apiVersion"], "authentication.k8s.io/v1");
    request.set(&["metadata", "name"], name);
    request.set(&["metadata", "namespace"], ex.namespace());
    request.set(&["metadata", "uid"], uid);
    request.set(&["metadata", "creationTimestamp"], time::format(ex.server.env.now()));
    request.remove(&["status"]);
    if request.list_at(&["spec", "audiences"]).is_empty() {
        request.set(&["spec", "audiences"], audiences.to_vec());
    }
    if request.i64_at(&["spec", "expirationSeconds"]).is_none() {
        request.set(&["spec", "expirationSeconds"], SECONDS_DEFAULT);
    }
}

fn find(ex: &Exchange<'_>, resource: &str, namespace: &str, name: &str) -> Result<Value> {
    let item = ex.server.storage.get_now(&ResourceKey::new("", resource), &ObjectKey::new(namespace, name));
    let item = item.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))?;
    codec::to_value(&item.object())
}

fn bound(object: &Value) -> BoundObject {
    let text = |field: &str| object.str_at(&["metadata", field]).unwrap_or_default().to_owned();
    BoundObject { name: text("name"), uid: text("uid") }
}

/// Reads what the token dies with.
fn bind_to(ex: &Exchange<'_>, request: &Value, wanted: &mut TokenRequest) -> Result<()> {
    let Some(reference) = request.at(&["spec", "boundObjectRef"]) else { return Ok(()) };
    let text = |field: &str| reference.str_at(&[field]).unwrap_or_default();
    let (kind, name) = (text("kind"), text("name"));
    let object = match (text("apiVersion"), kind) {
        ("" | "v1", "Pod") => find(ex, "pods", ex.namespace(), name)?,
        ("" | "v1", "Secret") => find(ex, "secrets", ex.namespace(), name)?,
        ("" | "v1", "Node") => find(ex, "nodes", "", name)?,
        (api_version, kind) => {
            let gv = knarr_core::GroupVersion::parse(api_version).unwrap_or(knarr_core::GroupVersion::new("", ""));
            // Go writes the version of the core group with its slash.
            return Err(Status::bad_request(format!("cannot bind token to object of type {}/{}, Kind={kind}", gv.group, gv.version)));
        }
    };
    let found = bound(&object);
    if !text("uid").is_empty() && text("uid") != found.uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        );
        return Err(Status::conflict(&GroupResource::new("", kind), name, why));
    }
    match kind {
        "Secret" => wanted.secret = Some(found),
        "Node" => wanted.node = Some(found),
        _ => {
            if object.str_at(&["spec", "serviceAccountName"]) != Some(&wanted.account.name) {
                let text = format!(
                    "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                    field::go_quote(&wanted.account.name)
                );
                return Err(Status::bad_request(text));
            }
            wanted.node = object.str_at(&["spec", "nodeName"]).filter(|n| !n.is_empty()).map(|node| match find(ex, "nodes", "", node) {
                Ok(found) => bound(&found),
                Err(_) => BoundObject { name: node.to_owned(), uid: String::new() },
            });
            wanted.pod = Some(found);
        }
    }
    Ok(())
}
