//! Certificate signing requests and what surrounds them (upstream: `pkg/registry/certificates`).

pub(crate) mod keys;
pub(crate) mod names;
mod pod_certificate;
pub mod request;
mod signing_request;
mod trust_bundle;

use knarr_core::pem;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) use pod_certificate::{PodCertificateRequest, from_v1beta1};
pub(crate) use signing_request::{Approval, CertificateSigningRequest};
pub(crate) use trust_bundle::ClusterTrustBundle;

/// When the first certificate of a PEM text ends, in seconds since 1970; none when it cannot be read.
pub fn not_after(text: &[u8]) -> Option<i64> {
    let block = pem::blocks(text).into_iter().next()?;
    X509Certificate::from_der(&block.der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}
