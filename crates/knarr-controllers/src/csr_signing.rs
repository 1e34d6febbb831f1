//! Signs approved CertificateSigningRequests of Kubernetes' own signers by the cluster's authority. A request that breaks its
//! signer's rules gets the condition `Failed`. Upstream: `pkg/controller/certificates/signer`.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::{Client, Informer, Key, Meta, Outcome, client};
use knarr_core::Result;
use knarr_core::clock::Env;
use knarr_kinds::certificates::request::{CertificateRequest, validate_kubelet_client, validate_kubelet_serving};

use crate::context::{ClusterKeys, ControllerContext, enqueue_all};
use crate::csr;

/// What nobody gets less than.
const SECONDS_MIN: i64 = 600;

/// Keys are names of requests.
pub fn start(context: &ControllerContext) {
    let Some(keys) = context.keys.clone() else { return };
    let requests = context.informer::<CertificateSigningRequest, Meta>();
    let queue = context.queue_with("certificate", csr::RETRY);
    enqueue_all(&requests, &queue);
    let longest = i64::try_from(context.config.signing_duration.as_secs()).unwrap_or(i64::MAX);
    let signer = Arc::new(Signer { client: context.client("certificate-controller"), requests, keys, longest, env: context.env.clone() });
    context.run("csrsigning", queue, move |key: Key| {
        let signer = signer.clone();
        async move { signer.reconcile(&key).await }
    });
}

struct Signer {
    client: Client,
    requests: Informer<Meta>,
    keys: Arc<dyn ClusterKeys>,
    longest: i64,
    env: Env,
}

impl Signer {
    async fn reconcile(&self, key: &Key) -> Result<Outcome> {
        let Some(item) = self.requests.store().get(key) else { return Ok(Outcome::Done) };
        let mut request: CertificateSigningRequest = item.typed()?;
        if !is_due(&request) {
            return Ok(Outcome::Done);
        }
        let asked = csr::parse(&request)?;
        let usages = csr::usages(&request);
        let Some(verdict) = judge(&request.spec.signer_name, &asked, &usages) else { return Ok(Outcome::Done) };
        let outcome = match verdict {
            Ok(()) => Ok(self.keys.sign(&asked, &usages, seconds(request.spec.expiration_seconds, self.longest))?),
            Err(why) => Err(why),
        };
        let status = request.status.get_or_insert_default();
        match outcome {
            Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
            Err(why) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(why),
                last_update_time: Some(Time(self.env.now())),
                last_transition_time: None,
            }),
        }
        match self.client.all::<CertificateSigningRequest>().dynamic().update_status(client::tree(&request)?).await {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            other => other.map(|_| Outcome::Done),
        }
    }
}

/// Approved, and neither failed nor signed.
fn is_due(request: &CertificateSigningRequest) -> bool {
    let has = |kind: &str| csr::condition(request, kind).is_some_and(|c| c.status == "True");
    // An approval counts whatever its status says; a denial beside it wins (upstream: `IsCertificateRequestApproved`).
    let approved = csr::condition(request, "Approved").is_some() && csr::condition(request, "Denied").is_none();
    approved && !has("Failed") && !csr::is_issued(request)
}

/// What a signer says to a request; none if the signer is not ours.
fn judge(signer: &str, request: &CertificateRequest, usages: &[&str]) -> Option<Result<(), String>> {
    match signer {
        "kubernetes.io/kubelet-serving" => Some(validate_kubelet_serving(request, usages)),
        "kubernetes.io/kube-apiserver-client-kubelet" => Some(validate_kubelet_client(request, usages)),
        "kubernetes.io/kube-apiserver-client" => Some(client_usages(usages)),
        "kubernetes.io/legacy-unknown" => Some(Ok(())),
        _ => None,
    }
}

/// Upstream: `validAPIServerClientUsages`.
fn client_usages(usages: &[&str]) -> Result<(), String> {
    if let Some(other) = usages.iter().find(|u| !["digital signature", "key encipherment", "client auth"].contains(*u)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.contains(&"client auth") { Ok(()) } else { Err("missing required usage for client certificate: client auth".into()) }
}

/// How long the certificate lives: what was asked for, within bounds.
fn seconds(asked: Option<i32>, longest: i64) -> i64 {
    asked.map_or(longest, |asked| i64::from(asked).max(SECONDS_MIN).min(longest))
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;
    use crate::context::testing::Harness;
    use crate::csr::testing::{CLIENT, SERVING, conditions, csr as request};

    const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

    #[test]
    fn a_request_is_due_between_its_approval_and_its_end() {
        let due = |status: Value| is_due(&request(CLIENT, KUBELET_CLIENT, &[], status));
        assert!(due(conditions(&["Approved"])));
        for kinds in [&[][..], &["Denied"], &["Approved", "Denied"], &["Approved", "Failed"]] {
            assert!(!due(conditions(kinds)), "{kinds:?}");
        }
        let mut issued = conditions(&["Approved"]);
        issued["certificate"] = json!("eA==");
        assert!(!due(issued));
    }

    #[test]
    fn each_signer_has_rules_of_its_own() {
        let asked = CertificateRequest::from_pem(SERVING.as_bytes()).unwrap();
        let judge = |signer: &str, usages: &[&str]| super::judge(signer, &asked, usages);
        assert_eq!(judge("kubernetes.io/kubelet-serving", &["digital signature", "server auth"]), Some(Ok(())));
        assert_eq!(judge(KUBELET_CLIENT, &["client auth"]), Some(Err("DNS subjectAltNames are not allowed".into())));
        assert_eq!(judge("kubernetes.io/kube-apiserver-client", &["client auth"]), Some(Ok(())));
        let missing = "missing required usage for client certificate: client auth";
        assert_eq!(judge("kubernetes.io/kube-apiserver-client", &["digital signature"]), Some(Err(missing.into())));
        let other = "invalid usage for client certificate: server auth";
        assert_eq!(judge("kubernetes.io/kube-apiserver-client", &["server auth"]), Some(Err(other.into())));
        assert_eq!(judge("kubernetes.io/legacy-unknown", &["any"]), Some(Ok(())));
        assert_eq!(judge("example.com/mine", &["any"]), None);
    }

    #[test]
    fn a_life_is_what_was_asked_for_within_bounds() {
        assert_eq!((seconds(None, 1000), seconds(Some(700), 1000), seconds(Some(5), 1000), seconds(Some(5000), 1000)), (1000, 700, 600, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn approved_requests_are_signed_or_failed() {
        let harness = Harness::new();
        harness.api.seed(&request(CLIENT, KUBELET_CLIENT, &["client auth", "digital signature"], conditions(&["Approved"])));
        let mut bad = request(SERVING, KUBELET_CLIENT, &["client auth"], conditions(&["Approved"]));
        bad.metadata.name = Some("bad".into());
        harness.api.seed(&bad);
        start(&harness.context);
        let read = |name: &str| harness.api.read::<CertificateSigningRequest>("", name).unwrap();
        harness.api.until(|_| csr::is_issued(&read("c")) && csr::condition(&read("bad"), "Failed").is_some()).await;
        assert_eq!(String::from_utf8_lossy(csr::certificate(&read("c"))), "system:node:a for client auth+digital signature 31536000");
        let failed = csr::condition(&read("bad"), "Failed").unwrap().clone();
        assert_eq!((failed.reason.as_deref(), failed.message.as_deref()), (Some("SignerValidationFailure"), Some("DNS subjectAltNames are not allowed")));
        assert!(!csr::is_issued(&read("bad")));
    }
}
