//! One `AdmissionReview` out and back (upstream: `webhook/request`).

use base64::Engine;
use knarr_core::{Status, Value, ValueExt, field, json};
use knarr_schema::codec;

use super::configuration::Webhook;
use crate::admission::{
    Objects, Review,
    matching::{self, Invocation},
};
use crate::spans;

/// Why a webhook did not let a write pass.
#[derive(Debug)]
pub enum Problem {
    /// There was no answer, or none that can be used: the failure policy decides.
    Calling(String),
    Denied(Status),
    /// Whatever is no fault of the webhook's server.
    Other(Status),
}

/// A good answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub allowed: bool,
    pub patch: Option<Value>,
    pub result: Option<Value>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

/// Asks a webhook.
///
/// # Errors
/// [`Problem::Calling`], when there is no answer that can be used.
pub async fn ask(
    objects: &dyn Objects,
    review: &Review<'_>,
    hook: &Webhook,
    invocation: &Invocation,
    object: &Value,
    old: &Value,
    mutating: bool,
) -> Result<Answer, Problem> {
    let uid = uuid::Uuid::new_v4().to_string();
    let unknown = || Problem::Calling("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".into());
    let version = hook.review_version.ok_or_else(unknown)?;
    let mut request = matching::request(review, invocation, &uid).ok_or_else(|| Problem::Other(Status::internal("a review without a request")))?;
    request.set(&["object"], object.clone());
    request.set(&["oldObject"], old.clone());
    let body = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request});
    let mut span = spans::child(if mutating { "Call mutating webhook" } else { "Call validating webhook" }, spans::Kind::Internal);
    if span.is_recording() {
        span.set("webhook", hook.name.as_str());
        for (key, at) in [("resource", &["resource", "resource"][..]), ("subresource", &["subResource"]), ("operation", &["operation"]), ("UID", &["uid"])] {
            span.set(key, body.at(&["request"]).and_then(|r| r.str_at(at)).unwrap_or_default());
        }
    }
    let answer =
        span.around(|| hook.hook.post(objects, &body, Some(hook.timeout))).await.map_err(|why| Problem::Calling(format!("failed to call webhook: {why}")))?;
    read(&answer, version, &uid, mutating).map_err(|why| Problem::Calling(format!("received invalid webhook response: {why}")))
}

/// Checks an answer (upstream: `VerifyAdmissionResponse`).
fn read(answer: &Value, version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
    let response = answer.at(&["response"]).ok_or("webhook response was absent")?;
    let text = |key: &str| response.str_at(&[key]);
    let (encoded, patch_type) = (text("patch").unwrap_or_default(), text("patchType"));
    if version == "v1" {
        check_v1(answer, response, uid, mutating)?;
    }
    let patch = if mutating && !encoded.is_empty() { Some(decode(encoded, if version == "v1" { patch_type } else { Some("JSONPatch") })?) } else { None };
    let strings = |key: &str| response.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let annotations = response.at(&["auditAnnotations"]).and_then(Value::as_object).into_iter().flatten();
    Ok(Answer {
        allowed: response.bool_at(&["allowed"]) == Some(true),
        patch,
        result: response.at(&["status"]).cloned(),
        warnings: strings("warnings"),
        annotations: annotations.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
    })
}

fn check_v1(answer: &Value, response: &Value, uid: &str, mutating: bool) -> Result<(), String> {
    let found = response.str_at(&["uid"]).unwrap_or_default();
    if found != uid {
        return Err(format!("expected response.uid={}, got {}", field::go_quote(uid), field::go_quote(found)));
    }
    let (version, kind) = (answer.str_at(&["apiVersion"]).unwrap_or_default(), answer.str_at(&["kind"]).unwrap_or_default());
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        // A version of no group is shown with the slash that would follow the group.
        let slash = if version.contains('/') { "" } else { "/" };
        return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {slash}{version}, Kind={kind}"));
    }
    let (patch, patch_type) = (response.str_at(&["patch"]).unwrap_or_default(), response.str_at(&["patchType"]));
    match (mutating, patch.is_empty(), patch_type) {
        (true, false, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, true, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (true, false, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
        (false, false, _) => Err("validating webhook may not return response.patch".into()),
        (false, true, Some(_)) => Err("validating webhook may not return response.patchType".into()),
        _ => Ok(()),
    }
}

fn decode(encoded: &str, patch_type: Option<&str>) -> Result<Value, String> {
    match patch_type {
        Some("JSONPatch") => {}
        other => return Err(format!("unsupported patch type {}", field::go_quote(other.unwrap_or_default()))),
    }
    let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| undecodable(e.to_string()))?;
    let patch = codec::parse_json(&bytes).map_err(undecodable)?;
    if patch.is_array() { Ok(patch) } else { Err(undecodable("json: cannot unmarshal object into Go value of type jsonpatch.Patch".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_checked() {
        let check = |response: Value, mutating: bool| read(&answer(response), "v1", "u", mutating).map(|a| a.allowed);
        assert_eq!(check(json!({"uid": "u", "allowed": true}), false), Ok(true));
        assert_eq!(check(json!({"uid": "w", "allowed": true}), false), Err("expected response.uid=\"u\", got \"w\"".into()));
        assert_eq!(check(json!({"uid": "u", "patch": "W10="}), true), Err("webhook returned response.patch but not response.patchType".into()));
        assert_eq!(
            check(json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"}), false),
            Err("validating webhook may not return response.patch".into())
        );
        assert_eq!(check(json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"}), true), Ok(false));
        assert_eq!(read(&json!({}), "v1", "u", true).err(), Some("webhook response was absent".into()));
        let wrong = json!({"apiVersion": "v1", "kind": "Status", "response": {"uid": "u"}});
        assert_eq!(
            read(&wrong, "v1", "u", true).err(),
            Some("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /v1, Kind=Status".into())
        );
    }
}
