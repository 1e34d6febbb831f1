//! Projected volumes: several sources in one directory.

use std::collections::BTreeSet;

use knarr_core::field::ErrorList;

use super::sources::{downward_file, file_mode, key_to_path, user};
use crate::at::At;
use crate::certificates::names::{cluster_trust_bundle, is_kubernetes_signer, signer_name, user_annotations};
use crate::metadata::label_selector;
use crate::pod::validation::Pod;
use crate::rules;

const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const CERTIFICATE_SECONDS_MIN: i64 = 3600;
const CERTIFICATE_SECONDS_MAX: i64 = 91 * 86_400;
const KUBERNETES_CERTIFICATE_SECONDS_MAX: i64 = 86_400;

/// Upstream: `validateProjectedVolumeSource`.
pub fn validate(pod: &Pod, volume: &At, e: &mut ErrorList) {
    file_mode(&volume.get("defaultMode"), e);
    user(&volume.get("defaultUser"), e);
    let mut paths: BTreeSet<String> = BTreeSet::new();
    for source in volume.get("sources").items() {
        let mut count = 0;
        let mut each = |kind: &str, f: &mut dyn FnMut(&At, &mut BTreeSet<String>, &mut ErrorList), e: &mut ErrorList| {
            let place = source.get(kind);
            if place.is_set() {
                count += 1;
                f(&place, &mut paths, e);
            }
        };
        for kind in ["secret", "configMap"] {
            each(kind, &mut |place, paths, e| keys(volume, place, paths, e), e);
        }
        each("downwardAPI", &mut |place, paths, e| downward(volume, place, paths, e), e);
        each("serviceAccountToken", &mut |place, _, e| token(pod, volume, place, e), e);
        each("clusterTrustBundle", &mut |place, paths, e| trust_bundle(volume, place, paths, e), e);
        each("podCertificate", &mut |place, paths, e| certificate(volume, place, paths, e), e);
        if count > 1 {
            e.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

/// Each path of the volume is filled once.
fn unique(volume: &At, path: &str, shown: &str, paths: &mut BTreeSet<String>, e: &mut ErrorList) {
    if !paths.insert(path.to_owned()) {
        e.push(volume.invalid_as(shown, "conflicting duplicate paths"));
    }
}

fn keys(volume: &At, source: &At, paths: &mut BTreeSet<String>, e: &mut ErrorList) {
    source.get("name").require(e);
    for item in source.get("items").items() {
        key_to_path(&item, e);
        let path = item.str_of("path");
        if !path.is_empty() {
            unique(volume, path, source.str_of("name"), paths, e);
        }
    }
}

fn downward(volume: &At, source: &At, paths: &mut BTreeSet<String>, e: &mut ErrorList) {
    for file in source.get("items").items() {
        downward_file(source, &file, e);
        let path = file.str_of("path");
        if !path.is_empty() {
            unique(volume, path, path, paths, e);
        }
    }
}

fn token(pod: &Pod, volume: &At, token: &At, e: &mut ErrorList) {
    let seconds = token.get("expirationSeconds");
    if !seconds.is_set() {
        e.push(seconds.required(""));
    } else if seconds.int() < TOKEN_SECONDS_MIN {
        e.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    } else if seconds.int() > TOKEN_SECONDS_MAX {
        e.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    // Upstream names the volume's path, not the token's.
    let path = volume.shown_as("path", token.get("path").value());
    if path.is_empty() {
        e.push(path.required(""));
    } else if !pod.options.non_local_token_path {
        path.problems(e, rules::local_non_reserved_path(path.str()));
    }
    user(&token.get("user"), e);
}

fn trust_bundle(volume: &At, bundle: &At, paths: &mut BTreeSet<String>, e: &mut ErrorList) {
    let (name, signer, selector) = (bundle.get("name"), bundle.get("signerName"), bundle.get("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => e.push(bundle.invalid("only one of name and signerName may be used")),
        (true, false) => {
            if name.is_empty() {
                e.push(name.required("must be a valid object name"));
            }
            e.extend(cluster_trust_bundle(name.str()).into_iter().map(|p| name.invalid(format!("not a valid clustertrustbundlename: {p}"))));
            if selector.is_set() {
                e.push(selector.invalid("labelSelector must be unset if name is specified"));
            }
        }
        (false, true) => {
            if signer.is_empty() {
                e.push(signer.required("must be a valid signer name"));
            }
            signer_name(&signer, e);
            e.extend(label_selector(selector.value(), &selector.path()));
        }
        (false, false) => e.push(bundle.required("either name or signerName must be specified")),
    }
    let path = bundle.get("path");
    path.require(e);
    user(&bundle.get("user"), e);
    path.problems(e, rules::local_non_reserved_path(path.str()));
    unique(volume, path.str(), path.str(), paths, e);
}

fn certificate(volume: &At, certificate: &At, paths: &mut BTreeSet<String>, e: &mut ErrorList) {
    signer_name(&certificate.get("signerName"), e);
    user_annotations(&certificate.get("userAnnotations"), e);
    user(&certificate.get("user"), e);
    const KEYS: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    let kind = certificate.get("keyType");
    if !KEYS.contains(&kind.str()) {
        e.push(kind.not_supported(&KEYS));
    }
    let seconds = certificate.get("maxExpirationSeconds");
    if seconds.is_set() {
        if seconds.int() < CERTIFICATE_SECONDS_MIN {
            e.push(seconds.invalid(format!("if provided, maxExpirationSeconds must be >= {CERTIFICATE_SECONDS_MIN}")));
        }
        let max = if is_kubernetes_signer(certificate.str_of("signerName")) { KUBERNETES_CERTIFICATE_SECONDS_MAX } else { CERTIFICATE_SECONDS_MAX };
        if seconds.int() > max {
            e.push(seconds.invalid(format!("if provided, maxExpirationSeconds must be <= {max}")));
        }
    }
    let files = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|f| certificate.get(f));
    for path in files.iter().filter(|p| !p.is_empty()) {
        path.problems(e, rules::local_non_reserved_path(path.str()));
        unique(volume, path.str(), path.str(), paths, e);
    }
    if files.iter().all(At::is_empty) {
        e.push(certificate.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
}
