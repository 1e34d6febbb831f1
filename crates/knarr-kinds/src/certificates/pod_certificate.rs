//! PodCertificateRequests (upstream: `pkg/registry/certificates/podcertificaterequest`, `ValidatePodCertificateRequest…`, KEP-4317).
//!
//! A node makes one with a key of its own and never changes it; a signer issues, denies or fails it once and for all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt, json, names as core_names, pem};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::keys::{KeyType, proves};
use super::names;
use super::request::{AlternativeNames, CertificateRequest};
use crate::at::{self, At};
use crate::cells::{Cells, labels, name, text};
use crate::conditions::conditions;
use crate::semantic;
use crate::strategy::{Context, Shape, Strategy};

const UID_BYTES_MAX: i64 = 128;
const REQUEST_BYTES_MAX: usize = 10 * 1024;
const CHAIN_BYTES_MAX: usize = 100 * 1024;
const EXPIRATION_SECONDS_MIN: i64 = 60 * 60;
const EXPIRATION_SECONDS_MAX: i64 = 91 * 24 * 60 * 60;
/// For signers of Kubernetes' own.
const KUBERNETES_EXPIRATION_SECONDS_MAX: i64 = 24 * 60 * 60;
/// Clocks of signers may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// A refresh begins at least so long after the start of a certificate, and before its end.
const REFRESH_MARGIN: SignedDuration = SignedDuration::from_mins(10);
const LIFETIME_MIN: i64 = 60 * 60;
/// How a request may end.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

pub struct PodCertificateRequest;

impl Strategy for PodCertificateRequest {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, request: &Value) -> ErrorList {
        at::check(request, |root, e| spec(&root.get("spec"), e))
    }

    /// Nothing of the spec changes.
    fn validate_update(&self, _cx: &Context<'_>, request: &Value, old: &Value) -> ErrorList {
        at::check(request, |root, e| root.get("spec").immutable(old.at(&["spec"]), e))
    }

    fn validate_status_update(&self, cx: &Context<'_>, request: &Value, old: &Value) -> ErrorList {
        status(request, old, cx.env.now())
    }

    fn cells(&self, request: &Value, _now: Timestamp) -> Cells {
        let spec = |field| text(request, &["spec", field]).into();
        let kinds = request.list_at(&["status", "conditions"]).iter().map(|c| text(c, &["type"]));
        let state = kinds.filter(|k| ENDS.contains(k)).next_back().unwrap_or("Pending");
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

fn spec(spec: &At, e: &mut ErrorList) {
    names::signer_name(&spec.get("signerName"), e);
    names::user_annotations(&spec.get("unverifiedUserAnnotations"), e);
    for (name, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        let (name, uid) = (spec.get(name), spec.get(uid));
        name.problems(e, core_names::is_dns1123_subdomain(name.str()));
        if uid.is_empty() {
            e.push(uid.invalid("must not be empty"));
        }
        if uid.str().len() as i64 > UID_BYTES_MAX {
            e.push(uid.too_long(UID_BYTES_MAX));
        }
    }
    let seconds = spec.get("maxExpirationSeconds");
    if !seconds.is_set() {
        e.push(seconds.required("must be set"));
        return;
    }
    let max = if names::is_kubernetes_signer(spec.str_of("signerName")) { KUBERNETES_EXPIRATION_SECONDS_MAX } else { EXPIRATION_SECONDS_MAX };
    if !(EXPIRATION_SECONDS_MIN..=max).contains(&seconds.int()) {
        e.push(seconds.invalid(format!("must be in the range [{EXPIRATION_SECONDS_MIN}, {max}]")));
    }
    let (stub, key, possession) = (spec.get("stubPKCS10Request"), spec.get("pkixPublicKey"), spec.get("proofOfPossession"));
    match (stub.is_empty(), key.is_empty(), possession.is_empty()) {
        (false, true, true) => e.extend(proof(&stub)),
        (true, false, false) => e.extend(bare_proof(&key, &possession, spec.str_of("podUID"))),
        _ => e.push(Error::invalid_omitted(&spec.path(), "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")),
    }
}

/// The same of v1beta1, where key and proof stand alone: what is signed is the pod's uid (upstream: `validateDeprecatedPKIXPublicKey`).
fn bare_proof(key: &At, possession: &At, uid: &str) -> Option<Error> {
    let (der, signature) = (decoded(key.str()), decoded(possession.str()));
    for (place, bytes) in [(key, &der), (possession, &signature)] {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Some(place.too_long(REQUEST_BYTES_MAX as i64));
        }
    }
    let read = SubjectPublicKeyInfo::from_der(&der).ok().filter(|(rest, _)| rest.is_empty()).and_then(|(_, info)| Some((KeyType::of(&info).ok()?, info)));
    match read {
        None => Some(key.invalid("must be a valid PKIX-serialized public key")),
        Some((KeyType::Unknown, _)) => Some(key.invalid("unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
        Some((KeyType::Ecdsa("P-224"), _)) => Some(key.invalid_as("curve P-224", "elliptic public keys must use curve P256 or P384")),
        Some((KeyType::Rsa(bits), _)) if ![3072, 4096].contains(&bits) => {
            Some(key.invalid_as(format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096"))
        }
        Some((_, info)) if proves(&info, uid.as_bytes(), &signature) => None,
        Some(_) => Some(Error::invalid_omitted(&possession.path(), "could not verify proof-of-possession signature")),
    }
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

/// A key of a kind that is strong enough, and that its holder has signed with (upstream: `validateStubPKCS10Request`).
fn proof(stub: &At) -> Option<Error> {
    let der = decoded(stub.str());
    if der.len() > REQUEST_BYTES_MAX {
        return Some(stub.too_long(REQUEST_BYTES_MAX as i64));
    }
    let wrong = |why: &str| Some(Error::invalid_omitted(&stub.path(), why));
    let Ok(request) = CertificateRequest::from_der(&der) else { return wrong("must be a valid PKCS#10 CSR") };
    match request.key_type {
        KeyType::Unknown => return wrong("unknown public key type; supported types are Ed25519, ECDSA, and RSA"),
        KeyType::Ecdsa("P-224") => return Some(stub.invalid_as("curve P-224", "elliptic public keys must use curve P256, P384, or P521")),
        KeyType::Rsa(bits) if ![3072, 4096].contains(&bits) => {
            return Some(stub.invalid_as(format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096"));
        }
        _ => {}
    }
    if request.check_signature().is_err() { wrong("invalid signature") } else { None }
}

/// Whether a request has ended in this way.
fn ended(request: &Value, how: &str) -> bool {
    request.list_at(&["status", "conditions"]).iter().any(|c| text(c, &["type"]) == how && text(c, &["status"]) == "True")
}

/// Upstream: `ValidatePodCertificateRequestStatusUpdate`.
fn status(request: &Value, old: &Value, now: Timestamp) -> ErrorList {
    let errors = at::check(request, |root, e| known_conditions(&root.get("status").get("conditions"), e));
    if !errors.is_empty() {
        return errors;
    }
    let path = Path::new("status");
    let unless = |same: bool, why: &str| if same { ErrorList::new() } else { vec![Error::invalid_omitted(&path, why)] };
    let unchanged = semantic::same(request.at(&["status"]), old.at(&["status"]));
    if ENDS.iter().any(|end| ended(old, end)) {
        return unless(unchanged, "immutable after PodCertificateRequest is issued, denied, or failed");
    }
    if ended(request, "Denied") || ended(request, "Failed") {
        let only_conditions = json!({"conditions": request.list_at(&["status", "conditions"])});
        let same = semantic::same(request.at(&["status"]), Some(&only_conditions));
        return unless(same, "non-condition status fields must be empty when denying or failing the PodCertificateRequest");
    }
    if ended(request, "Issued") {
        return at::check(request, |root, e| {
            if let Err(errors) = issued(root, now) {
                e.extend(errors);
            }
        });
    }
    unless(unchanged, "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
}

/// At most one of the three ends, and it is true.
fn known_conditions(list: &At, e: &mut ErrorList) {
    let mut known = 0;
    for (i, condition) in list.items().enumerate() {
        // Upstream writes the index as a field of its own.
        let place = |field: &str| list.path().child(&format!("[{i}]")).child(field);
        let (kind, status) = (condition.str_of("type"), condition.str_of("status"));
        if !ENDS.contains(&kind) {
            e.push(Error::not_supported(&place("type"), kind, &ENDS));
            continue;
        }
        known += 1;
        if known > 1 {
            e.push(Error::invalid(&place("type"), kind, "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\""));
        }
        if status != "True" {
            e.push(Error::not_supported(&place("status"), status, &["True"]));
        }
    }
    conditions(list, e);
}

/// `SubjectPublicKeyInfo` of the key that was asked for.
fn requested_key(spec: &At) -> Result<Vec<u8>, ErrorList> {
    let (stub, key) = (spec.get("stubPKCS10Request"), spec.get("pkixPublicKey"));
    if stub.is_empty() && !key.is_empty() {
        return Ok(decoded(key.str()));
    }
    let wanted = CertificateRequest::from_der(&decoded(stub.str()));
    Ok(wanted.map_err(|_| vec![Error::invalid_omitted(&stub.path(), "must be a valid PKCS#10 CSR")])?.public_key)
}

/// The chain is for the key that was asked for, and the status tells of it what it says itself.
fn issued(root: &At, now: Timestamp) -> Result<(), ErrorList> {
    let (spec, status) = (root.get("spec"), root.get("status"));
    let chain = status.get("certificateChain");
    if chain.str().len() > CHAIN_BYTES_MAX {
        return Err(vec![chain.too_long(CHAIN_BYTES_MAX as i64)]);
    }
    let wrong = |why: &str| vec![chain.invalid(why)];
    let blocks = pem::blocks(chain.str().as_bytes());
    let leaf = blocks.first().ok_or_else(|| wrong("issued certificate chain must contain at least one certificate"))?;
    if leaf.label != "CERTIFICATE" {
        return Err(wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let leaf = parse(&leaf.der).ok_or_else(|| wrong("leaf certificate does not parse as valid X.509"))?;
    let mut errors = leaf_names(&chain, &leaf);
    if requested_key(&spec)? != leaf.public_key().raw {
        errors.extend(wrong("leaf certificate was not issued to the requested public key"));
        return Err(errors);
    }
    times(&spec, &status, &leaf, now, &mut errors)?;
    for block in &blocks[1..] {
        if block.label != "CERTIFICATE" {
            errors.extend(wrong("issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
        } else if parse(&block.der).is_none() {
            errors.extend(wrong("intermediate certificate does not parse as valid X.509"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn leaf_names(chain: &At, leaf: &X509Certificate<'_>) -> ErrorList {
    let found = leaf.subject_alternative_name().ok().flatten();
    let names = found.and_then(|names| AlternativeNames::of(&names.value.general_names).ok()).unwrap_or_default();
    let mut errors = ErrorList::new();
    for name in &names.dns_names {
        let mut wrong = |broken: bool, why: &str| {
            if broken {
                errors.push(chain.invalid_as(name.as_str(), why));
            }
        };
        wrong(name.is_empty(), "leaf certificate should not contain empty DNSName");
        wrong(name.contains(".."), "leaf certificate's DNSName should not contain '..'");
        wrong(name.starts_with('.') || name.ends_with('.'), "leaf certificate's DNSName should not start or end with '.'");
    }
    let is_address = |text: &str| text.rsplit_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace));
    let bad = names.email_addresses.iter().filter(|address| !is_address(address));
    errors.extend(bad.map(|address| chain.invalid_as(address.as_str(), "leaf certificate should not contain invalid EmailAddress")));
    errors
}

/// Upstream adds to the errors so far and stops at the first of these.
fn times(spec: &At, status: &At, leaf: &X509Certificate<'_>, now: Timestamp, errors: &mut ErrorList) -> Result<(), ErrorList> {
    let (not_before, not_after, refresh) = (status.get("notBefore"), status.get("notAfter"), status.get("beginRefreshAt"));
    for (place, why) in [
        (&not_before, "must be present and consistent with the issued certificate"),
        (&not_after, "must be present and consistent with the issued certificate"),
        (&refresh, "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if !place.is_set() {
            errors.push(place.required(why));
        }
    }
    if !errors.is_empty() {
        return Err(std::mem::take(errors));
    }
    let at = |place: &At| place.str().parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
    let (start, end, refresh_at) = (at(&not_before), at(&not_after), at(&refresh));
    let (first, last) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let lifetime = last - first;
    let max = spec.get("maxExpirationSeconds").int();
    let chain = status.get("certificateChain");
    let off = start.duration_since(now).abs();
    let shown = SignedDuration::from_secs(lifetime).as_nanos() as i64;
    let problem = if start.as_second() != first {
        not_before.invalid("must be set to the NotBefore time encoded in the leaf certificate")
    } else if off >= SKEW {
        not_before.invalid("must be set to within 5 minutes of kube-apiserver's current time")
    } else if end.as_second() != last {
        not_after.invalid("must be set to the NotAfter time encoded in the leaf certificate")
    } else if lifetime < LIFETIME_MIN {
        chain.invalid_as(shown, "leaf certificate lifetime must be >= 1 hour")
    } else if lifetime > max {
        chain.invalid_as(shown, format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({max})"))
    } else if refresh_at < start + REFRESH_MARGIN {
        refresh.invalid("must be at least 10 minutes after status.notBefore")
    } else if refresh_at > end - REFRESH_MARGIN {
        refresh.invalid("must be at least 10 minutes before status.notAfter")
    } else {
        return Ok(());
    };
    Err(vec![problem])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stub(text: &str) -> String {
        STANDARD.encode(&pem::blocks(text.as_bytes())[0].der)
    }

    fn good() -> Value {
        json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"signerName": "a.b/c", "podName": "p", "podUID": "u", "serviceAccountName": "s",
            "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u", "maxExpirationSeconds": 86400, "stubPKCS10Request": stub(include_str!("../../fixtures/leaf.csr"))}})
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_needs_a_proof_and_a_time_that_its_signer_allows() {
        let env = knarr_core::clock::Env::system();
        let ask = |field: &str, value: Value| {
            let mut request = good();
            request.set(&["spec", field], value);
            texts(PodCertificateRequest.validate_create(&Context::internal(&env, "d"), &request))
        };
        assert_eq!(ask("podName", json!("p")), [""; 0]);
        assert_eq!(ask("podUID", json!("")), ["spec.podUID: Invalid value: \"\": must not be empty"]);
        assert_eq!(ask("maxExpirationSeconds", json!(3599)), ["spec.maxExpirationSeconds: Invalid value: 3599: must be in the range [3600, 7862400]"]);
        assert_eq!(ask("maxExpirationSeconds", Value::Null), ["spec.maxExpirationSeconds: Required value: must be set"]);
        assert_eq!(ask("signerName", json!("kubernetes.io/x")), [""; 0]);
        let none = "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        assert_eq!(ask("stubPKCS10Request", Value::Null), [none]);
        assert_eq!(ask("stubPKCS10Request", json!("eA==")), ["spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"]);
        let short = ask("stubPKCS10Request", json!(stub(include_str!("../../fixtures/person-rsa.csr"))));
        assert_eq!(short, ["spec.stubPKCS10Request: Invalid value: \"2048-bit modulus\": RSA keys must have modulus size 3072 or 4096"]);
        let mut forged = decoded(&stub(include_str!("../../fixtures/leaf.csr")));
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert_eq!(ask("stubPKCS10Request", json!(STANDARD.encode(forged))), ["spec.stubPKCS10Request: Invalid value: invalid signature"]);
    }

    #[test]
    fn a_key_of_its_own_proves_itself_by_the_uid_of_the_pod() {
        use ring::signature::{Ed25519KeyPair, KeyPair};
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        der.extend(pair.public_key().as_ref());
        let ask = |message: &str| {
            let mut request = good();
            request.remove(&["spec", "stubPKCS10Request"]);
            request.set(&["spec", "pkixPublicKey"], STANDARD.encode(&der));
            request.set(&["spec", "proofOfPossession"], STANDARD.encode(pair.sign(message.as_bytes())));
            texts(at::check(&request, |root, e| super::spec(&root.get("spec"), e)))
        };
        assert_eq!(ask("u"), [""; 0]);
        assert_eq!(ask("v"), ["spec.proofOfPossession: Invalid value: could not verify proof-of-possession signature"]);
    }

    /// The leaf of the fixtures is for the key of `leaf.csr`, from then on for a day.
    fn issue(chain: &str) -> (Value, Timestamp) {
        let leaf = pem::blocks(include_bytes!("../../fixtures/leaf.crt"));
        let leaf = parse(&leaf[0].der).unwrap();
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let (start, end) = (at(leaf.validity().not_before.timestamp()), at(leaf.validity().not_after.timestamp()));
        let mut request = good();
        let condition = json!({"type": "Issued", "status": "True", "reason": "R", "lastTransitionTime": start.to_string()});
        request.set(
            &["status"],
            json!({"conditions": [condition], "certificateChain": chain, "notBefore": start.to_string(), "notAfter": end.to_string(),
                "beginRefreshAt": (start + SignedDuration::from_hours(1)).to_string()}),
        );
        (request, start)
    }

    #[test]
    fn a_chain_is_for_the_key_that_was_asked_for_and_its_times_are_told() {
        let (request, start) = issue(include_str!("../../fixtures/leaf.crt"));
        assert_eq!(texts(status(&request, &good(), start)), [""; 0]);
        let with = |field: &str, value: Value| {
            let mut request = request.clone();
            request.set(&["status", field], value);
            texts(status(&request, &good(), start)).join("; ")
        };
        assert!(
            with("certificateChain", json!(include_str!("../../fixtures/authority.crt")))
                .ends_with("leaf certificate was not issued to the requested public key")
        );
        assert!(with("certificateChain", json!("x")).ends_with("issued certificate chain must contain at least one certificate"));
        assert_eq!(with("notAfter", Value::Null), "status.notAfter: Required value: must be present and consistent with the issued certificate");
        assert!(with("notBefore", json!("2026-01-01T00:00:00Z")).ends_with("must be set to the NotBefore time encoded in the leaf certificate"));
        assert!(with("beginRefreshAt", json!(start.to_string())).ends_with("must be at least 10 minutes after status.notBefore"));
        let late = texts(status(&request, &good(), start + SignedDuration::from_hours(1)));
        assert!(late[0].ends_with("must be set to within 5 minutes of kube-apiserver's current time"), "{late:?}");
    }

    #[test]
    fn a_request_ends_once() {
        let (issued, start) = issue(include_str!("../../fixtures/leaf.crt"));
        let ended = |kind: &str, status: &str| {
            let mut request = good();
            request.set(&["status"], json!({"conditions": [{"type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}));
            request
        };
        assert_eq!(texts(status(&ended("Denied", "True"), &good(), start)), [""; 0]);
        assert_eq!(
            texts(status(&ended("Denied", "True"), &issued, start)),
            ["status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"]
        );
        assert_eq!(
            texts(status(&ended("Denied", "False"), &good(), start)),
            ["status.conditions.[0].status: Unsupported value: \"False\": supported values: \"True\""]
        );
        assert_eq!(
            texts(status(&ended("Other", "True"), &good(), start)),
            ["status.conditions.[0].type: Unsupported value: \"Other\": supported values: \"Issued\", \"Denied\", \"Failed\""]
        );
        let mut failed = ended("Failed", "True");
        failed.set(&["status", "certificateChain"], "x");
        assert_eq!(
            texts(status(&failed, &good(), start)),
            ["status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest"]
        );
        let mut early = good();
        early.set(&["status", "notBefore"], "2026-01-01T00:00:00Z");
        let told = "status: Invalid value: status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        assert_eq!(texts(status(&early, &good(), start)), [told]);
    }
}
