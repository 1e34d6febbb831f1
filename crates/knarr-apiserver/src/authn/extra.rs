//! Keys of a user's extra: `example.com/scope`, in lower case (upstream: `IsDomainPrefixedPath`).

use knarr_core::{
    field::{Error, ErrorList, Path},
    names,
};

const PATH_CHARACTERS: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";

/// What is wrong with a path that must begin with a domain.
pub fn domain_prefixed_path(place: &Path, key: &str) -> ErrorList {
    if key.is_empty() {
        return vec![Error::required(place, "")];
    }
    let Some((host, path)) = key.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        return vec![Error::invalid(place, key, "must be a domain-prefixed path (such as \"acme.io/foo\")")];
    };
    let mut errors: ErrorList = names::is_dns1123_subdomain(host).into_iter().map(|problem| Error::invalid(place, host, problem)).collect();
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(Error::invalid(place, path, format!("Invalid path (regex used for validation is '{PATH_CHARACTERS}')")));
    }
    errors
}

/// Several errors in one sentence.
pub fn aggregate(errors: &[Error]) -> String {
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    knarr_cel::admission::aggregate(&shown)
}
