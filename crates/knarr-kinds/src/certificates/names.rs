//! Names of signers and of what they sign (upstream: `pkg/apis/core/validation/names.go`).

use knarr_core::field::{ErrorList, go_quote};
use knarr_core::names;

use crate::at::At;
use crate::metadata::ANNOTATIONS_BYTES_MAX;

const DOMAIN_MAX: usize = names::DNS1123_SUBDOMAIN_MAX;
const PATH_MAX: usize = names::DNS1123_SUBDOMAIN_MAX + names::DNS1123_LABEL_MAX + 1;

/// `example.com/signer` (upstream: `ValidateSignerName`).
pub fn signer_name(place: &At, e: &mut ErrorList) {
    let name = place.str();
    if name.is_empty() {
        e.push(place.required(""));
        return;
    }
    let [domain, path] = name.split('/').collect::<Vec<_>>()[..] else {
        e.push(place.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'"));
        return;
    };
    if domain.len() > DOMAIN_MAX {
        e.push(place.too_long(DOMAIN_MAX as i64));
    }
    labels(place, domain, names::is_dns1123_label, e);
    if !domain.contains('.') {
        e.push(place.invalid_as(domain, "should be a domain with at least two segments separated by dots"));
    }
    labels(place, path, names::is_dns1123_subdomain, e);
    if name.len() > DOMAIN_MAX + PATH_MAX + 1 {
        e.push(place.too_long((DOMAIN_MAX + PATH_MAX + 1) as i64));
    }
}

/// Whether the signer is one of Kubernetes' own (upstream: `IsKubernetesSignerName`).
pub fn is_kubernetes_signer(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// What a pod tells its signer: keys with a domain, whatever their case (upstream: `ValidateUserAnnotations`).
pub fn user_annotations(place: &At, e: &mut ErrorList) {
    let mut bytes = 0;
    for (key, value) in place.entries() {
        let lower = key.to_lowercase();
        let problems = names::is_qualified_name(&lower);
        if problems.is_empty() && !lower.contains('/') {
            e.push(place.invalid_as(lower, "must be a domain-prefixed key (such as \"acme.io/foo\")"));
        } else {
            e.extend(problems.into_iter().map(|p| place.invalid_as(lower.clone(), p)));
        }
        bytes += key.len() + value.str().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        e.push(place.too_long(ANNOTATIONS_BYTES_MAX as i64));
    }
}

/// Reports the first label of a part that is wrong.
fn labels(place: &At, part: &str, rule: fn(&str) -> Vec<String>, e: &mut ErrorList) {
    if let Some(wrong) = part.split('.').find(|label| !rule(label).is_empty()) {
        e.extend(rule(wrong).into_iter().map(|p| place.invalid_as(part, format!("validating label {}: {p}", go_quote(wrong)))));
    }
}

/// The name of a ClusterTrustBundle, which begins with that of its signer, if it has one.
pub fn cluster_trust_bundle(name: &str) -> Vec<String> {
    match name.rsplit_once(':') {
        Some((signer, _)) => cluster_trust_bundle_of(&signer.replace(':', "/"), name),
        None => cluster_trust_bundle_of("", name),
    }
}

/// Upstream: `ValidateClusterTrustBundleName`.
pub fn cluster_trust_bundle_of(signer: &str, name: &str) -> Vec<String> {
    if signer.is_empty() {
        let colon = "ClusterTrustBundle without signer name must not have \":\" in its name";
        return if name.contains(':') { vec![colon.into()] } else { names::is_dns1123_subdomain(name) };
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::is_dns1123_subdomain(rest),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}
