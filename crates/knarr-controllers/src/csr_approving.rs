//! Approves requests of nodes for their client certificates, if whoever asks may `create` the subresource `selfnodeclient` (for
//! oneself) or `nodeclient` (for any node). Upstream: `pkg/controller/certificates/approver`.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_client::{Client, Informer, Key, Meta, Outcome, client};
use knarr_core::Result;
use knarr_core::api::Options;
use knarr_kinds::certificates::request::{CertificateRequest, validate_kubelet_client};

use crate::context::{ControllerContext, enqueue_all};
use crate::csr;

/// Keys are names of requests.
pub fn start(context: &ControllerContext) {
    let requests = context.informer::<CertificateSigningRequest, Meta>();
    let queue = context.queue_with("certificate", csr::RETRY);
    enqueue_all(&requests, &queue);
    let approver = Arc::new(Approver { client: context.client("certificate-controller"), requests });
    context.run("csrapproving", queue, move |key: Key| {
        let approver = approver.clone();
        async move { approver.reconcile(&key).await }
    });
}

struct Approver {
    client: Client,
    requests: Informer<Meta>,
}

impl Approver {
    async fn reconcile(&self, key: &Key) -> Result<Outcome> {
        let Some(item) = self.requests.store().get(key) else { return Ok(Outcome::Done) };
        let request: CertificateSigningRequest = item.typed()?;
        if !is_open(&request) {
            return Ok(Outcome::Done);
        }
        let permissions = recognized(&request, &csr::parse(&request)?);
        for permission in permissions {
            if self.may(&request, permission.subresource).await? {
                return self.approve(request, permission.message).await;
            }
        }
        // Whoever asks may be allowed to later.
        Ok(if permissions.is_empty() { Outcome::Done } else { Outcome::Retry })
    }

    async fn may(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
        let answer = self.client.all::<SubjectAccessReview>().create(&review(request, subresource)).await?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }

    async fn approve(&self, mut request: CertificateSigningRequest, message: &str) -> Result<Outcome> {
        request.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(message.to_owned()),
            ..Default::default()
        });
        let requests = self.client.all::<CertificateSigningRequest>();
        match requests.dynamic().update_with(client::tree(&request)?, Some("approval"), &Options::default()).await {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            other => other.map(|_| Outcome::Done),
        }
    }
}

/// Neither decided nor signed.
fn is_open(request: &CertificateSigningRequest) -> bool {
    csr::condition(request, "Approved").is_none() && csr::condition(request, "Denied").is_none() && !csr::is_issued(request)
}

/// By which a request may be approved.
#[derive(Debug, PartialEq, Eq)]
struct Permission {
    subresource: &'static str,
    message: &'static str,
}

/// For oneself first.
const PERMISSIONS: [Permission; 2] = [
    Permission { subresource: "selfnodeclient", message: "Auto approving self kubelet client certificate after SubjectAccessReview." },
    Permission { subresource: "nodeclient", message: "Auto approving kubelet client certificate after SubjectAccessReview." },
];

/// The permissions that would do for a request: none for what is no client certificate of a node.
fn recognized(request: &CertificateSigningRequest, asked: &CertificateRequest) -> &'static [Permission] {
    let of_node = request.spec.signer_name == "kubernetes.io/kube-apiserver-client-kubelet" && validate_kubelet_client(asked, &csr::usages(request)).is_ok();
    match () {
        () if !of_node => &[],
        () if request.spec.username.as_deref() == Some(&asked.subject.common_name) => &PERMISSIONS,
        () => &PERMISSIONS[1..],
    }
}

/// The question whether whoever asked may.
fn review(request: &CertificateSigningRequest, subresource: &str) -> SubjectAccessReview {
    let spec = &request.spec;
    let attributes = ResourceAttributes {
        group: Some("certificates.k8s.io".into()),
        resource: Some("certificatesigningrequests".into()),
        verb: Some("create".into()),
        subresource: Some(subresource.to_owned()),
        version: Some("*".into()),
        ..Default::default()
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(attributes),
            ..Default::default()
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;
    use crate::csr::testing::{CLIENT, SERVING, conditions, csr as request};

    const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    const USAGES: &[&str] = &["client auth", "digital signature"];

    #[test]
    fn only_open_requests_are_decided() {
        let open = |status: Value| is_open(&request(CLIENT, SIGNER, USAGES, status));
        assert!(open(json!({})) && open(conditions(&["Other"])));
        assert!(!open(conditions(&["Approved"])) && !open(conditions(&["Denied"])) && !open(json!({"certificate": "eA=="})));
    }

    #[test]
    fn a_node_may_ask_for_itself_and_others_for_nodes() {
        let permissions =
            |request: &CertificateSigningRequest| -> Vec<&str> { recognized(request, &csr::parse(request).unwrap()).iter().map(|p| p.subresource).collect() };
        let mut own = request(CLIENT, SIGNER, USAGES, json!({}));
        assert_eq!(permissions(&own), ["selfnodeclient", "nodeclient"]);
        own.spec.username = Some("system:bootstrap:abcdef".into());
        assert_eq!(permissions(&own), ["nodeclient"]);
        assert_eq!(permissions(&request(CLIENT, "kubernetes.io/kube-apiserver-client", USAGES, json!({}))), [""; 0]);
        assert_eq!(permissions(&request(CLIENT, SIGNER, &["server auth"], json!({}))), [""; 0]);
        assert_eq!(permissions(&request(SERVING, SIGNER, USAGES, json!({}))), [""; 0]);
    }

    #[test]
    fn the_question_is_about_whoever_asked() {
        let review = review(&request(CLIENT, SIGNER, USAGES, json!({})), "nodeclient");
        assert_eq!((review.spec.user.as_deref(), review.spec.groups), (Some("system:node:a"), Some(vec!["system:nodes".to_owned()])));
        assert_eq!(review.spec.resource_attributes.unwrap().subresource.as_deref(), Some("nodeclient"));
    }
}
