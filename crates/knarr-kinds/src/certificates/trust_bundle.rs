//! ClusterTrustBundles (upstream: `pkg/registry/certificates/clustertrustbundle`, `ValidateClusterTrustBundle`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, pem};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::names;
use crate::at::{self, At};
use crate::cells::{Cells, NONE, name, text, text_or};
use crate::strategy::{Context, Shape, Strategy};

const BUNDLE_BYTES_MAX: usize = 1024 * 1024;
/// Stands for the bundle in errors.
const OMITTED: &str = "<value omitted>";

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
        validate(bundle, true)
    }

    /// A bundle that stays as it was is not read again.
    fn validate_update(&self, _cx: &Context<'_>, bundle: &Value, old: &Value) -> ErrorList {
        let changed = text(bundle, &["spec", "trustBundle"]) != text(old, &["spec", "trustBundle"]);
        let mut errors = validate(bundle, changed);
        let (signer, before) = (text(bundle, &["spec", "signerName"]), text(old, &["spec", "signerName"]));
        if signer != before {
            errors.push(Error::invalid(&Path::new("spec").child("signerName"), signer, crate::metadata::IMMUTABLE));
        }
        errors
    }

    fn cells(&self, bundle: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(bundle), text_or(bundle, &["spec", "signerName"], NONE).into()])
    }
}

fn validate(bundle: &Value, read: bool) -> ErrorList {
    let mut errors = bundle_name(bundle);
    errors.extend(at::check(bundle, |root, e| {
        let spec = root.get("spec");
        let signer = spec.get("signerName");
        if !signer.is_empty() {
            names::signer_name(&signer, e);
        }
        if read {
            anchors(&spec.get("trustBundle"), e);
        }
    }));
    errors
}

/// A bundle of a signer begins with the signer's name; one without has no colon.
fn bundle_name(bundle: &Value) -> ErrorList {
    let (name, signer) = (text(bundle, &["metadata", "name"]), text(bundle, &["spec", "signerName"]));
    let invalid = |why: String| Error::invalid(&Path::new("metadata").child("name"), name, why);
    let prefix = text(bundle, &["metadata", "generateName"]);
    let mut errors = ErrorList::new();
    if !prefix.is_empty() {
        let problems = names::cluster_trust_bundle_of(signer, &crate::metadata::mask_trailing_dash(prefix));
        errors.extend(problems.into_iter().map(|why| Error::invalid(&Path::new("metadata").child("generateName"), prefix, why)));
    }
    if !name.is_empty() {
        errors.extend(names::cluster_trust_bundle_of(signer, name).into_iter().map(invalid));
    }
    errors
}

/// One or more certificates of authorities, each once (upstream: `validateTrustBundle`).
fn anchors(bundle: &At, e: &mut ErrorList) {
    if bundle.str().len() > BUNDLE_BYTES_MAX {
        e.push(bundle.too_long(BUNDLE_BYTES_MAX as i64));
        return;
    }
    let blocks = pem::blocks(bundle.str().as_bytes());
    let wrong = |why: String| bundle.invalid_as("", why).showing(format!("\"{OMITTED}\""));
    let malformed: ErrorList = blocks.iter().enumerate().filter_map(|(i, block)| anchor_problem(block).map(|why| wrong(format!("entry {i} {why}")))).collect();
    if !malformed.is_empty() {
        e.extend(malformed);
        return;
    }
    if blocks.is_empty() {
        e.push(wrong("at least one trust anchor must be provided".into()));
    }
    let mut places: BTreeMap<&[u8], Vec<String>> = BTreeMap::new();
    for (i, block) in blocks.iter().enumerate() {
        places.entry(&block.der).or_default().push(i.to_string());
    }
    let doubled = places.values().filter(|indices| indices.len() > 1);
    e.extend(doubled.map(|indices| wrong(format!("duplicate trust anchor (indices [{}])", indices.join(" ")))));
}

fn anchor_problem(block: &pem::Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    if block.has_headers {
        return Some("has PEM block headers".into());
    }
    match X509Certificate::from_der(&block.der) {
        Ok((rest, certificate)) if rest.is_empty() => (!certificate.is_ca()).then(|| "does not have the CA bit set".into()),
        _ => Some("does not parse as X.509".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    /// Made by openssl: `req -x509 -subj /CN=authority -addext basicConstraints=critical,CA:TRUE`, and the same with `CA:FALSE`.
    const AUTHORITY: &str = include_str!("../../fixtures/authority.crt");
    const LEAF: &str = include_str!("../../fixtures/leaf.crt");

    #[test]
    fn a_bundle_is_named_after_its_signer() {
        let wrong = |name: &str, signer: &str| bundle_name(&json!({"metadata": {"name": name}, "spec": {"signerName": signer}})).len();
        assert_eq!((wrong("a.b:c:d", "a.b/c"), wrong("d", ""), wrong("a.b:c:D", "a.b/c"), wrong("d", "a.b/c"), wrong("a:d", "")), (0, 0, 1, 1, 1));
    }

    #[test]
    fn a_bundle_holds_authorities_each_once() {
        let problems = |bundle: &str| -> Vec<String> {
            let bundle = json!({"metadata": {"name": "b"}, "spec": {"trustBundle": bundle}});
            validate(&bundle, true).iter().map(|e| e.detail.clone()).collect()
        };
        assert_eq!(problems(&format!("text\n{AUTHORITY}")), [""; 0]);
        assert_eq!(problems(""), ["at least one trust anchor must be provided"]);
        assert_eq!(problems(&AUTHORITY.repeat(2)), ["duplicate trust anchor (indices [0 1])"]);
        assert_eq!(problems(&format!("{AUTHORITY}{LEAF}")), ["entry 1 does not have the CA bit set"]);
        assert_eq!(problems(&pem::encode("CERTIFICATE", b"x")), ["entry 0 does not parse as X.509"]);
        assert_eq!(problems(&pem::encode("X", b"x")), ["entry 0 has bad block type: X"]);
    }

    #[test]
    fn a_bundle_that_stays_is_not_read_again_and_the_signer_stays() {
        let env = knarr_core::clock::Env::system();
        let cx = Context::internal(&env, "");
        let old = json!({"metadata": {"name": "b"}, "spec": {"trustBundle": "garbage"}});
        assert!(ClusterTrustBundle.validate_update(&cx, &old, &old).is_empty());
        let new = json!({"metadata": {"name": "a.b:c:b"}, "spec": {"trustBundle": "garbage", "signerName": "a.b/c"}});
        assert_eq!(ClusterTrustBundle.validate_update(&cx, &new, &old).len(), 1);
    }
}
