//! Certificate signing requests and what surrounds them (upstream: `pkg/registry/certificates`).

pub mod names;

use crate::cells::{Cells, NONE, age, labels, name, text, text_or};
use std::time::Duration;

use jiff::Timestamp;
use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt, json, time};

use crate::separation::{keep, keep_at};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{is_zero_at, list_mut};

pub struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status()
    }

    /// Who asks is what the authenticator says, never what the body says.
    fn prepare_for_create(&self, cx: &Context<'_>, request: &mut Value) {
        request.remove(&["status"]);
        let spec = request.ensure(&["spec"]);
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(&[field]);
        }
        for (field, value) in [("username", cx.user), ("uid", cx.uid)] {
            if !value.is_empty() {
                spec.set(&[field], value);
            }
        }
        if !cx.groups.is_empty() {
            spec.set(&["groups"], json!(cx.groups));
        }
        if let Some(extra) = cx.extra.filter(|e| e.as_object().is_some_and(|m| !m.is_empty())) {
            spec.set(&["extra"], extra.clone());
        }
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, request: &mut Value, old: &Value) {
        keep(request, old, "spec");
        keep(request, old, "status");
    }

    /// The signer's door: approvals and denials stay as they were.
    fn prepare_for_status_update(&self, cx: &Context<'_>, request: &mut Value, old: &Value) {
        keep(request, old, "spec");
        for kind in ["Approved", "Denied"] {
            keep_conditions(request, old, kind);
        }
        stamp_conditions(cx, request, old);
    }

    fn cells(&self, request: &Value, now: Timestamp) -> Cells {
        let duration =
            request.i64_at(&["spec", "expirationSeconds"]).map_or(NONE.into(), |s| time::human_duration(Duration::from_secs(s.max(0).unsigned_abs())));
        Some(vec![
            name(request),
            age(request, now),
            text_or(request, &["spec", "signerName"], NONE).into(),
            text(request, &["spec", "username"]).into(),
            duration.into(),
            state(request).into(),
        ])
    }
}

/// Decision, failure and issue, joined by commas.
fn state(request: &Value) -> String {
    let has = |kind: &str| request.list_at(&["status", "conditions"]).iter().any(|c| text(c, &["type"]) == kind);
    let decision = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if text(request, &["status", "certificate"]).is_empty() { "" } else { ",Issued" };
    format!("{decision}{failed}{issued}")
}

/// The approver's door: only conditions change.
pub struct Approval;

impl Strategy for Approval {
    fn shape(&self) -> Shape {
        CertificateSigningRequest.shape()
    }

    fn prepare_for_update(&self, cx: &Context<'_>, request: &mut Value, old: &Value) {
        stamp_conditions(cx, request, old);
        let conditions = request.at(&["status", "conditions"]).cloned();
        keep(request, old, "spec");
        keep(request, old, "status");
        match conditions {
            Some(conditions) => request.set(&["status", "conditions"], conditions),
            None => {
                request.remove(&["status", "conditions"]);
            }
        }
    }
}

/// Takes conditions of one type over from the old object, if there are as many as before.
fn keep_conditions(request: &mut Value, old: &Value, kind: &str) {
    let is_kind = |c: &&Value| c.str_at(&["type"]) == Some(kind);
    let before: Vec<Value> = old.list_at(&["status", "conditions"]).iter().filter(is_kind).cloned().collect();
    let now: Vec<&mut Value> = list_mut(request, &["status", "conditions"]).iter_mut().filter(|c| c.str_at(&["type"]) == Some(kind)).collect();
    if before.len() == now.len() {
        for (condition, earlier) in now.into_iter().zip(before) {
            *condition = earlier;
        }
    }
}

/// Fills in the times of conditions that came without.
fn stamp_conditions(cx: &Context<'_>, request: &mut Value, old: &Value) {
    let now = time::format(cx.env.now());
    for condition in list_mut(request, &["status", "conditions"]) {
        if is_zero_at(condition, &["lastUpdateTime"]) {
            condition.set(&["lastUpdateTime"], now.clone());
        }
        if is_zero_at(condition, &["lastTransitionTime"]) {
            let same = |o: &&Value| ["type", "status"].iter().all(|k| o.at(&[k]) == condition.at(&[k])) && !is_zero_at(o, &["lastTransitionTime"]);
            match old.list_at(&["status", "conditions"]).iter().find(same) {
                Some(earlier) => keep_at(condition, earlier, &["lastTransitionTime"]),
                None => condition.set(&["lastTransitionTime"], now.clone()),
            }
        }
    }
}

/// ClusterTrustBundles (upstream: `pkg/registry/certificates/clustertrustbundle`).
pub struct ClusterTrustBundle;

impl Strategy for ClusterTrustBundle {
    fn shape(&self) -> Shape {
        Shape::PLAIN.needs_resource_version()
    }

    /// The whole rule needs the signer and stands in [`bundle_name`]; every part between colons is a name.
    fn validate_name(&self, name: &str) -> Vec<String> {
        name.split(':').flat_map(knarr_core::names::is_path_segment).collect()
    }

    fn validate_create(&self, _cx: &Context<'_>, bundle: &Value) -> ErrorList {
        bundle_name(bundle)
    }

    fn validate_update(&self, _cx: &Context<'_>, bundle: &Value, old: &Value) -> ErrorList {
        let (signer, before) = (text(bundle, &["spec", "signerName"]), text(old, &["spec", "signerName"]));
        let mut errors = bundle_name(bundle);
        if signer != before {
            errors.push(Error::invalid(&Path::new("spec").child("signerName"), signer, crate::metadata::IMMUTABLE));
        }
        errors
    }

    fn cells(&self, bundle: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(bundle), text_or(bundle, &["spec", "signerName"], NONE).into()])
    }
}

/// A bundle of a signer begins with the signer's name, its slash as a colon; one without has no colon (upstream:
/// `ValidateClusterTrustBundleName`).
fn bundle_name(bundle: &Value) -> ErrorList {
    let (name, signer) = (text(bundle, &["metadata", "name"]), text(bundle, &["spec", "signerName"]));
    let invalid = |why: String| Error::invalid(&Path::new("metadata").child("name"), name, why);
    let rest = if signer.is_empty() {
        if name.contains(':') {
            return vec![invalid("ClusterTrustBundle without signer name must not have \":\" in its name".into())];
        }
        name
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        let Some(rest) = name.strip_prefix(&prefix) else {
            return vec![invalid(format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"))];
        };
        rest
    };
    knarr_core::names::is_dns1123_subdomain(rest).into_iter().map(invalid).collect()
}

/// PodCertificateRequests (upstream: `pkg/registry/certificates/podcertificaterequest`).
pub struct PodCertificateRequest;

impl Strategy for PodCertificateRequest {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    fn cells(&self, request: &Value, _now: Timestamp) -> Cells {
        let spec = |field| text(request, &["spec", field]).into();
        let kinds = request.list_at(&["status", "conditions"]).iter().map(|c| text(c, &["type"]));
        let state = kinds.filter(|k| ["Issued", "Denied", "Failed"].contains(k)).next_back().unwrap_or("Pending");
        let annotations = labels(request.at(&["spec", "unverifiedUserAnnotations"]));
        Some(vec![name(request), spec("podName"), spec("serviceAccountName"), spec("nodeName"), spec("signerName"), state.into(), annotations.into()])
    }
}

/// The key and its proof had fields of their own in v1beta1; now the stub request holds both.
pub fn from_v1beta1(request: &mut Value) {
    for field in ["pkixPublicKey", "proofOfPossession"] {
        request.remove(&["spec", field]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::clock::Env;

    #[test]
    fn a_request_is_of_whom_the_authenticator_says() {
        let env = Env::system();
        let groups = ["g".to_owned()];
        let cx = Context { user: "u", groups: &groups, ..Context::internal(&env, "") };
        let mut request = json!({"spec": {"username": "root", "extra": {"a": ["b"]}, "request": "x"}});
        CertificateSigningRequest.prepare_for_create(&cx, &mut request);
        assert_eq!(request, json!({"spec": {"username": "u", "groups": ["g"], "request": "x"}}));
    }

    #[test]
    fn a_bundle_is_named_after_its_signer() {
        let wrong = |name: &str, signer: &str| bundle_name(&json!({"metadata": {"name": name}, "spec": {"signerName": signer}})).len();
        assert_eq!((wrong("a.b:c:d", "a.b/c"), wrong("d", ""), wrong("a.b:c:D", "a.b/c"), wrong("d", "a.b/c"), wrong("a:d", "")), (0, 0, 1, 1, 1));
    }

    #[test]
    fn an_approver_changes_conditions_and_nothing_else() {
        let env = Env::system();
        let old = json!({"spec": {"a": 1}, "status": {"certificate": "c"}});
        let mut new = json!({"spec": {}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        Approval.prepare_for_update(&Context::internal(&env, ""), &mut new, &old);
        assert_eq!((&new["spec"], &new["status"]["certificate"]), (&json!({"a": 1}), &json!("c")));
        assert!(!is_zero_at(&new["status"]["conditions"][0], &["lastUpdateTime"]));
    }
}
