//! CertificateSigningRequests (upstream: `pkg/registry/certificates/certificates`, `pkg/apis/certificates/validation`).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json, pem, time};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{names, request};
use crate::at::{self, At};
use crate::cells::{Cells, NONE, age, name, text, text_or};
use crate::separation::{keep, keep_at};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{is_zero_at, list_mut};

/// Nobody asks for this signer any more; who did may stay.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_SECONDS_MIN: i64 = 600;
/// Conditions that are there or not, never `False`.
const ONLY_TRUE: [&str; 3] = ["Approved", "Denied", "Failed"];

/// What a certificate may be for, ordered as upstream lists them.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

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

    fn validate_create(&self, _cx: &Context<'_>, request: &Value) -> ErrorList {
        validate(request, None)
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, request: &mut Value, old: &Value) {
        keep(request, old, "spec");
        keep(request, old, "status");
    }

    fn validate_update(&self, _cx: &Context<'_>, request: &Value, old: &Value) -> ErrorList {
        validate_update(request, old, Door::Plain)
    }

    /// The signer's door: approvals and denials stay as they were.
    fn prepare_for_status_update(&self, cx: &Context<'_>, request: &mut Value, old: &Value) {
        keep(request, old, "spec");
        for kind in ["Approved", "Denied"] {
            keep_conditions(request, old, kind);
        }
        stamp_conditions(cx, request, old);
    }

    fn validate_status_update(&self, _cx: &Context<'_>, request: &Value, old: &Value) -> ErrorList {
        validate_update(request, old, Door::Status)
    }

    /// Any name that fits into a path (upstream: `ValidateCertificateRequestName`).
    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_core::names::is_path_segment(name)
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

    fn validate_update(&self, _cx: &Context<'_>, request: &Value, old: &Value) -> ErrorList {
        validate_update(request, old, Door::Approval)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        CertificateSigningRequest.validate_name(name)
    }
}

/// Through which resource an update comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Plain,
    Status,
    Approval,
}

/// Upstream: `validateCertificateSigningRequest`. What was wrong in the old object may stay wrong.
fn validate(request: &Value, old: Option<&Value>) -> ErrorList {
    at::check(request, |root, e| {
        let spec = root.get("spec");
        let (encoded, signer, seconds) = (spec.get("request"), spec.get("signerName"), spec.get("expirationSeconds"));
        if let Err(problem) = request::CertificateRequest::from_pem(&decoded(encoded.value())).and_then(|r| r.check_signature()) {
            e.push(if encoded.is_set() { encoded.invalid(problem) } else { encoded.invalid_as(Value::Null, problem) });
        }
        usages(&spec.get("usages"), old, e);
        if signer.str() == LEGACY_SIGNER && old.and_then(|o| o.str_at(&["spec", "signerName"])) != Some(LEGACY_SIGNER) {
            e.push(signer.invalid("the legacy signerName is not allowed via this API version"));
        } else {
            names::signer_name(&signer, e);
        }
        if seconds.is_set() && seconds.int() < EXPIRATION_SECONDS_MIN {
            e.push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
        }
        let status = root.get("status");
        conditions(&status.get("conditions"), old, e);
        let certificate = status.get("certificate");
        let before = old.and_then(|o| o.at(&["status", "certificate"]));
        let tolerated = old.is_some() && (before == certificate.value() || certificate_problem(&decoded(before)).is_some());
        if let Some(problem) = certificate_problem(&decoded(certificate.value())).filter(|_| !tolerated) {
            e.push(certificate.invalid_as("<certificate data>", problem));
        }
    })
}

fn decoded(value: Option<&Value>) -> Vec<u8> {
    value.and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
}

fn usages(list: &At, old: Option<&Value>, e: &mut ErrorList) {
    let before: Vec<&str> = old.map(|o| o.list_at(&["spec", "usages"])).unwrap_or_default().iter().filter_map(Value::as_str).collect();
    if list.is_empty() {
        e.push(list.required(""));
    }
    if before.iter().all(|usage| USAGES.contains(usage)) {
        e.extend(list.items().filter(|usage| !USAGES.contains(&usage.str())).map(|usage| usage.not_supported(USAGES)));
    }
    if !has_duplicates(&before) {
        let all: Vec<&str> = list.strings().collect();
        e.extend(list.items().enumerate().filter(|(i, usage)| all[..*i].contains(&usage.str())).map(|(_, usage)| usage.duplicate()));
    }
}

fn has_duplicates(texts: &[&str]) -> bool {
    texts.iter().enumerate().any(|(i, text)| texts[..i].contains(text))
}

/// Upstream: `validateConditions`.
fn conditions(list: &At, old: Option<&Value>, e: &mut ErrorList) {
    let before: Vec<&str> = old.map(|o| o.list_at(&["status", "conditions"])).unwrap_or_default().iter().map(|c| text(c, &["type"])).collect();
    let both_before = before.contains(&"Approved") && before.contains(&"Denied");
    let mut seen: Vec<&str> = Vec::new();
    for condition in list.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if kind.is_empty() && !before.contains(&"") {
            e.push(kind.required(""));
        }
        status.one_of(e, if ONLY_TRUE.contains(&kind.str()) { &["True"] } else { &["False", "True", "Unknown"] });
        let opposite = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && seen.contains(&opposite) && !both_before {
            e.push(list.invalid_as(kind.str(), "Approved and Denied conditions are mutually exclusive"));
        }
        if seen.contains(&kind.str()) && !has_duplicates(&before) {
            e.push(kind.duplicate());
        }
        seen.push(kind.str());
    }
}

/// What is wrong with an issued certificate (upstream: `validateCertificate`); none is nothing wrong.
fn certificate_problem(text: &[u8]) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let blocks = pem::blocks(text);
    let problem = blocks.iter().find_map(|block| {
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {}", knarr_core::field::go_quote(&block.label)));
        }
        if block.has_headers {
            return Some("no PEM block headers are permitted".into());
        }
        if block.der.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".into());
        }
        let mut rest = block.der.as_slice();
        while !rest.is_empty() {
            match X509Certificate::from_der(rest) {
                Ok((left, _)) => rest = left,
                Err(_) => return Some("x509: malformed certificate".into()),
            }
        }
        None
    });
    problem.or_else(|| blocks.is_empty().then(|| "must contain at least one CERTIFICATE PEM block".into()))
}

/// Upstream: `validateCertificateSigningRequestUpdate`.
fn validate_update(request: &Value, old: &Value, door: Door) -> ErrorList {
    let mut errors = validate(request, Some(old));
    errors.extend(at::check(request, |root, e| {
        let status = root.get("status");
        let (list, certificate) = (status.get("conditions"), status.get("certificate"));
        let count = |object: &Value, kind: &str| object.list_at(&["status", "conditions"]).iter().filter(|c| text(c, &["type"]) == kind).count();
        for kind in ONLY_TRUE {
            if count(request, kind) < count(old, kind) {
                e.push(list.forbidden(format!("updates may not remove a condition of type \"{kind}\"")));
            }
        }
        for kind in ["Approved", "Denied"] {
            if door != Door::Approval && count(request, kind) > count(old, kind) {
                e.push(list.forbidden(format!("updates may not add a condition of type \"{kind}\"")));
            }
        }
        let before = old.at(&["status", "certificate"]);
        if !certificate.same(before) {
            if door != Door::Status {
                e.push(certificate.forbidden("updates may not set certificate content"));
            } else if !text(old, &["status", "certificate"]).is_empty() {
                e.push(certificate.forbidden("updates may not modify existing certificate content"));
            }
        }
    }));
    errors
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
    fn an_approver_changes_conditions_and_nothing_else() {
        let env = Env::system();
        let old = json!({"spec": {"a": 1}, "status": {"certificate": "c"}});
        let mut new = json!({"spec": {}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        Approval.prepare_for_update(&Context::internal(&env, ""), &mut new, &old);
        assert_eq!((&new["spec"], &new["status"]["certificate"]), (&json!({"a": 1}), &json!("c")));
        assert!(!is_zero_at(&new["status"]["conditions"][0], &["lastUpdateTime"]));
    }

    fn good() -> Value {
        let request = STANDARD.encode(include_str!("../../fixtures/person-rsa.csr"));
        json!({"spec": {"request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}})
    }

    fn with(path: &[&str], value: Value) -> Value {
        let mut request = good();
        request.set(path, value);
        request
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_needs_a_signature_usages_and_a_signer() {
        assert_eq!(texts(&validate(&good(), None)), [""; 0]);
        for (path, value, wanted) in [
            ("request", json!("eA=="), "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"),
            ("usages", json!([]), "spec.usages: Required value"),
            ("usages", json!(["client auth", "client auth"]), "spec.usages[1]: Duplicate value: \"client auth\""),
            (
                "signerName",
                json!(LEGACY_SIGNER),
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            ),
            (
                "signerName",
                json!("x"),
                "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
            ("expirationSeconds", json!(599), "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"),
        ] {
            assert_eq!(texts(&validate(&with(&["spec", path], value), None)), [wanted]);
        }
        let unknown = &texts(&validate(&with(&["spec", "usages"], json!(["x"])), None))[0];
        assert!(unknown.starts_with("spec.usages[0]: Unsupported value: \"x\": supported values: \"any\", \"cert sign\""), "{unknown}");
    }

    #[test]
    fn decisions_stay_and_certificates_are_set_once() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let approved = with(&["status", "conditions"], json!([condition("Approved")]));
        assert_eq!(texts(&validate_update(&approved, &good(), Door::Approval)), [""; 0]);
        assert_eq!(
            texts(&validate_update(&approved, &good(), Door::Status)),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert_eq!(
            texts(&validate_update(&good(), &approved, Door::Approval)),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        let both = with(&["status", "conditions"], json!([condition("Approved"), condition("Denied")]));
        assert_eq!(
            texts(&validate_update(&both, &approved, Door::Approval)),
            ["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"]
        );
        let wrong = with(&["status", "certificate"], json!(STANDARD.encode("x")));
        let told = "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block";
        assert_eq!(texts(&validate_update(&wrong, &good(), Door::Status)), [told]);
        let other = with(&["status", "certificate"], json!(STANDARD.encode("y")));
        assert_eq!(
            texts(&validate_update(&other, &wrong, Door::Status)),
            ["status.certificate: Forbidden: updates may not modify existing certificate content"]
        );
    }
}
