//! Who may approve, sign and attest for which signer, and that nobody asks for an administrator's certificate. Follows
//! `k8s.io/kubernetes/plugin/pkg/admission/certificates`.

use async_trait::async_trait;
use base64::Engine;
use knarr_core::{Result, Status, Value, ValueExt, field};
use knarr_kinds::certificates::request::CertificateRequest;

use super::{Operation, Passes, Plugin, Review, is_resource};
use crate::authn::MASTERS;
use crate::authz::Attributes;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Whether the user has `verb` on the signer, or on all of its domain (upstream: `certauthorization.IsAuthorizedForSignerName`).
async fn may(review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let Some(request) = &review.request else { return false };
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let asked = Attributes {
            user: review.attributes.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        };
        if request.server.authorize(&asked).await.is_allowed() {
            return true;
        }
    }
    false
}

fn is_subresource(a: &Attributes, subresource: &str) -> bool {
    a.group == GROUP && a.resource == "certificatesigningrequests" && a.subresource == subresource
}

pub(super) fn signer(object: Option<&Value>) -> &str {
    object.and_then(|o| o.str_at(&["spec", "signerName"])).unwrap_or_default()
}

/// `approve` on the signer, for whoever writes `approval`.
pub struct CertificateApproval;

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Update && is_subresource(a, "approval")
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let signer = signer(review.old);
        if may(review, "approve", signer).await {
            return Ok(());
        }
        Err(review.forbidden(format!("user not permitted to approve requests with signerName {}", field::go_quote(signer))))
    }
}

/// `sign` on the signer, for whoever puts a certificate or conditions into `status`.
pub struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Update && is_subresource(a, "status")
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let (new, old) = (review.object.as_ref(), review.old);
        let same = |key: &str| new.and_then(|o| o.at(&["status", key])) == old.and_then(|o| o.at(&["status", key]));
        let signer = signer(old);
        if same("certificate") && same("conditions") || may(review, "sign", signer).await {
            return Ok(());
        }
        Err(review.forbidden(format!("user not permitted to sign requests with signerName {}", field::go_quote(signer))))
    }
}

/// `sign` on the signer, for whoever writes the status of a PodCertificateRequest. Upstream keeps this in the storage of the kind,
/// so that no flag turns it off (`registry/certificates/podcertificaterequest`, `StatusStrategy.ValidateUpdate`).
pub struct PodCertificateSigning;

#[async_trait]
impl Plugin for PodCertificateSigning {
    fn name(&self) -> &'static str {
        "PodCertificateSigning"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Update && a.group == GROUP && a.resource == "podcertificaterequests" && a.subresource == "status"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let (new, old) = (review.object.as_ref(), review.old);
        let status = |object: Option<&Value>| object.and_then(|o| o.at(&["status"])).cloned();
        let signer = signer(old);
        if status(new) == status(old) || may(review, "sign", signer).await {
            return Ok(());
        }
        let user = field::go_quote(&review.attributes.user.name);
        let why = format!("User {user} is not permitted to \"sign\" for signer {}", field::go_quote(signer));
        let error = field::Error::forbidden(&field::Path::new("spec").child("signerName"), why);
        Err(Status::invalid(review.kind, &review.attributes.name, &[error]))
    }
}

/// Nobody becomes an administrator by a certificate of the API's own signer.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        operation == Operation::Create && is_resource(a, GROUP, "certificatesigningrequests")
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let Some(object) = review.object.as_ref().filter(|o| signer(Some(*o)) == CLIENT_SIGNER) else { return Ok(()) };
        let organizations = organizations(object).map_err(|why| review.forbidden(format!("failed to parse CSR: {why}")))?;
        if organizations.iter().any(|o| o == MASTERS) {
            return Err(review.forbidden(format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed")));
        }
        Ok(())
    }
}

/// The organizations that a request names.
fn organizations(object: &Value) -> std::result::Result<Vec<String>, String> {
    CertificateRequest::from_pem(&request(object)).map(|request| request.subject.organization)
}

/// The request of a CertificateSigningRequest, PEM.
pub(super) fn request(object: &Value) -> Vec<u8> {
    let encoded = object.str_at(&["spec", "request"]).unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default()
}

/// `attest` on the signer, for whoever writes a bundle that names one.
pub struct ClusterTrustBundleAttest;

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(a, GROUP, "clustertrustbundles")
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let signer = signer(review.object.as_ref());
        let unchanged = review.old.is_some_and(|old| review.object.as_ref().is_some_and(|new| new.at(&["spec"]) == old.at(&["spec"])));
        if signer.is_empty() || unchanged || may(review, "attest", signer).await {
            return Ok(());
        }
        Err(review.forbidden(format!("user not permitted to attest for signerName {}", field::go_quote(signer))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::create;
    use super::*;
    use knarr_core::json;

    fn request_of(organization: &str) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        base64::engine::general_purpose::STANDARD.encode(pem)
    }

    #[tokio::test]
    async fn nobody_asks_for_the_administrators_group() {
        let asked = async |signer: &str, organization: &str| {
            let object = json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": request_of(organization)}});
            create(&CertificateSubjectRestriction, GROUP, "certificatesigningrequests", object).await.map(drop)
        };
        assert_eq!(asked(CLIENT_SIGNER, "developers").await, Ok(()));
        assert_eq!(asked("example.com/own", MASTERS).await, Ok(()));
        let text = "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        assert_eq!(asked(CLIENT_SIGNER, MASTERS).await, Err(text.into()));
    }
}
