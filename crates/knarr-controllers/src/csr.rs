//! What the controllers of CertificateSigningRequests read of one (upstream: `pkg/controller/certificates`).

use std::time::Duration;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_core::{Result, Status};
use knarr_kinds::certificates::request::CertificateRequest;

/// Pauses after failures.
pub const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1000));

/// The condition of that type, if there is one.
pub fn condition<'a>(csr: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Whether the certificate is there.
pub fn is_issued(csr: &CertificateSigningRequest) -> bool {
    !certificate(csr).is_empty()
}

/// The certificate in PEM, empty until it is there.
pub fn certificate(csr: &CertificateSigningRequest) -> &[u8] {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).map_or(&[], |c| &c.0)
}

/// What is asked for.
///
/// # Errors
/// `InternalError` for a request that cannot be read, which validation lets nobody create.
pub fn parse(csr: &CertificateSigningRequest) -> Result<CertificateRequest> {
    let name = csr.metadata.name.as_deref().unwrap_or_default();
    CertificateRequest::from_pem(&csr.spec.request.0).map_err(|e| Status::internal(format!("unable to parse csr {name:?}: {e}")))
}

/// The usages that are asked for.
pub fn usages(csr: &CertificateSigningRequest) -> Vec<&str> {
    csr.spec.usages.iter().flatten().map(String::as_str).collect()
}

#[cfg(test)]
pub mod testing {
    use knarr_core::{Value, ValueExt, json};

    use super::*;

    /// Made by openssl: `/O=system:nodes/CN=system:node:a` with and without names.
    pub const SERVING: &str = include_str!("../../knarr-kinds/fixtures/node-serving.csr");
    pub const CLIENT: &str = include_str!("../../knarr-kinds/fixtures/node-client.csr");

    pub fn csr(request: &str, signer: &str, usages: &[&str], status: Value) -> CertificateSigningRequest {
        use base64::Engine as _;
        let request = base64::engine::general_purpose::STANDARD.encode(request);
        let mut csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "c", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": request, "signerName": signer, "usages": usages, "username": "system:node:a", "groups": ["system:nodes"]}});
        csr.set(&["status"], status);
        serde_json::from_value(csr).unwrap()
    }

    pub fn conditions(kinds: &[&str]) -> Value {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"});
        json!({"conditions": kinds.iter().map(condition).collect::<Vec<_>>()})
    }
}
