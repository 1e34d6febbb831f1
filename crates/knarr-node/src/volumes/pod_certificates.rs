//! `podCertificate` sources of projected volumes: a key that never leaves the node, a PodCertificateRequest for it, the
//! chain that the signer gave, and all of that anew when the signer says it is time (upstream: `pkg/kubelet/podcertificate`,
//! KEP-4317).
//!
//! ```text
//! ask ─▶ wait ─┬─▶ issued ─ until beginRefreshAt ─▶ ask (the old pair stays in use)
//!              ├─▶ denied, failed: for good
//!              └─▶ request gone: ask
//! ```

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_client::{Key, Query, read};
use knarr_core::pem;
use tokio::sync::watch;

use super::followed::Followed;
use crate::context::Context;
use crate::events::{Level, pod_reference};
use crate::pod::spec::PodExt;

/// Renewals are spread over this time, so that pods of one moment do not ask at one moment.
const JITTER_SECONDS_MAX: u64 = 300;
/// First and longest pause after a failure to ask.
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);
/// So long after its refresh was due a certificate is said to be overdue.
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// A request that the node asked for and does not see after this time has been deleted.
const ABANDON: Duration = Duration::from_secs(600);

/// The requests that this node has made.
pub fn query(node: &str) -> Query {
    Query::all::<PodCertificateRequest>().fields(&format!("spec.nodeName={node}"))
}

/// What a projection has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Pending,
    /// Key and chain, both PEM.
    Issued(Arc<(String, String)>),
    Refused(String),
}

/// One projection's certificate, kept fresh. Dropping it ends the renewals.
pub struct PodCertificate {
    state: watch::Receiver<Credential>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for PodCertificate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PodCertificate {
    /// Starts asking. Needs the whole context, so that it outlives one round of the volume's keeper.
    pub fn start(context: &Arc<Context>, pod: &Pod, wanted: &PodCertificateProjection) -> Self {
        let (sender, state) = watch::channel(Credential::Pending);
        let issuance =
            Issuance { requests: context.pod_certificates.follow(), context: context.clone(), pod: pod.clone(), wanted: wanted.clone(), state: sender };
        Self { state, task: tokio::spawn(issuance.run()) }
    }

    /// A cursor that has seen everything so far.
    pub fn changes(&self) -> watch::Receiver<Credential> {
        let mut receiver = self.state.clone();
        receiver.mark_unchanged();
        receiver
    }

    /// Key and chain.
    ///
    /// # Errors
    /// Why there is none, in the words of a `FailedMount` event.
    pub fn bundle(&self) -> Result<Arc<(String, String)>, String> {
        match &*self.state.borrow() {
            Credential::Issued(pair) => Ok(pair.clone()),
            Credential::Pending => Err("credential bundle is not issued yet".into()),
            Credential::Refused(why) => Err(why.clone()),
        }
    }
}

/// How a request has ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Issued {
        chain: String,
        refresh_at: Timestamp,
        not_after: Timestamp,
    },
    /// `Denied` or `Failed`, reason, message.
    Refused(String, String, String),
}

fn verdict(status: &PodCertificateRequestStatus) -> Option<Verdict> {
    status.conditions.iter().flatten().find_map(|c| match c.type_.as_str() {
        "Denied" | "Failed" => Some(Verdict::Refused(c.type_.clone(), c.reason.clone(), c.message.clone())),
        "Issued" => Some(Verdict::Issued {
            chain: pem::blocks(status.certificate_chain.as_deref()?.as_bytes()).iter().map(|block| pem::encode("CERTIFICATE", &block.der)).collect(),
            refresh_at: status.begin_refresh_at.as_ref()?.0,
            not_after: status.not_after.as_ref()?.0,
        }),
        _ => None,
    })
}

struct Issuance {
    requests: Arc<Followed>,
    context: Arc<Context>,
    pod: Pod,
    wanted: PodCertificateProjection,
    state: watch::Sender<Credential>,
}

impl Issuance {
    async fn run(self) {
        let mut due: Option<(Timestamp, Timestamp)> = None;
        loop {
            let (name, key) = self.ask().await;
            let overdue = self.warn_when_overdue(due);
            let verdict = tokio::select! {
                verdict = self.wait(&name) => verdict,
                () = overdue => continue,
            };
            match verdict {
                // Deleted before it was decided.
                None => {}
                Some(Verdict::Refused(how, reason, message)) => {
                    self.refuse(&name, &how, &reason, &message);
                    return;
                }
                Some(Verdict::Issued { chain, refresh_at, not_after }) => {
                    self.state.send_replace(Credential::Issued(Arc::new((key, chain))));
                    let jitter = i64::try_from(self.context.env.below(JITTER_SECONDS_MAX)).unwrap_or_default();
                    due = Some((refresh_at, not_after));
                    self.sleep_until(refresh_at + SignedDuration::from_secs(jitter)).await;
                }
            }
        }
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(Duration::try_from(at.duration_since(self.context.env.now())).unwrap_or_default()).await;
    }

    /// Says that a certificate in use is overdue, then that it has expired. Never ends.
    async fn warn_when_overdue(&self, due: Option<(Timestamp, Timestamp)>) {
        if let Some((refresh_at, not_after)) = due {
            self.sleep_until(refresh_at + OVERDUE).await;
            self.event("CertificateOverdueForRefresh", "PodCertificate refresh overdue");
            self.sleep_until(not_after).await;
            self.event("CertificateExpired", "PodCertificate expired");
        }
        std::future::pending::<()>().await;
    }

    fn event(&self, reason: &str, message: &str) {
        self.context.events.record(pod_reference(&self.pod), Level::Warning, reason, message);
    }

    fn refuse(&self, name: &str, how: &str, reason: &str, message: &str) {
        let verb = if how == "Denied" { "was denied" } else { "failed" };
        let place = format!("{}/{name}", self.pod.namespace());
        self.event(how, &format!("PodCertificateRequest {place} {verb}, reason={reason:?}, message={message:?}"));
        let text = format!("PodCertificateRequest was permanently {}: reason={reason:?} message={message:?}", how.to_lowercase());
        self.state.send_replace(Credential::Refused(text));
    }

    /// Makes a key and a request for it, until the API has taken it. Gives the request's name and the key.
    async fn ask(&self) -> (String, String) {
        let mut pause = RETRY_BASE;
        loop {
            match self.try_ask().await {
                Ok(made) => return made,
                Err(error) => tracing::warn!(pod = self.pod.described(), %error, "a certificate could not be asked for"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn try_ask(&self) -> Result<(String, String), String> {
        let (pod, client) = (&self.pod, &self.context.client);
        let account = pod.spec().service_account_name.clone().unwrap_or_default();
        let uid = |metadata: ObjectMeta| metadata.uid.unwrap_or_default();
        let account_uid = client.within::<ServiceAccount>(pod.namespace()).get(&account).await;
        let account_uid = uid(account_uid.map_err(|e| format!("while fetching service account: {}", e.message))?.metadata);
        let node = client.all::<Node>().get(&self.context.config.node_name).await;
        let node_uid = uid(node.map_err(|e| format!("while getting node object: {}", e.message))?.metadata);
        let (key, proof) = key_and_proof(&self.wanted.key_type)?;
        let owner = OwnerReference { api_version: "v1".into(), kind: "Pod".into(), name: pod.name().into(), uid: pod.uid().into(), ..Default::default() };
        let metadata = ObjectMeta {
            namespace: Some(pod.namespace().into()),
            generate_name: Some("req-".into()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        };
        let spec = PodCertificateRequestSpec {
            signer_name: self.wanted.signer_name.clone(),
            pod_name: pod.name().into(),
            pod_uid: pod.uid().into(),
            service_account_name: account,
            service_account_uid: account_uid,
            node_name: self.context.config.node_name.clone(),
            node_uid,
            max_expiration_seconds: self.wanted.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(proof),
            unverified_user_annotations: self.wanted.user_annotations.clone(),
        };
        let request = PodCertificateRequest { metadata, spec, status: None };
        let made = client.within::<PodCertificateRequest>(pod.namespace()).create(&request).await;
        let made = made.map_err(|e| format!("while creating on API: {}", e.message))?;
        Ok((made.metadata.name.unwrap_or_default(), key))
    }

    /// Waits for the signer; `None` when the request is gone.
    async fn wait(&self, name: &str) -> Option<Verdict> {
        let key = Key::new(self.pod.namespace(), name);
        let mut seen = self.requests.changes();
        let appeared = tokio::time::timeout(ABANDON, seen.wait_for(|s| s.objects.contains_key(&key))).await.is_ok_and(|seen| seen.is_ok());
        if !appeared {
            return None;
        }
        let mut found = None;
        let decided = seen.wait_for(|state| match state.objects.get(&key) {
            None => true,
            Some(object) => {
                let request = read::typed::<PodCertificateRequest>(object).ok();
                found = request.and_then(|r| r.status).as_ref().and_then(verdict);
                found.is_some()
            }
        });
        let ended = decided.await.is_err();
        if ended { None } else { found }
    }
}

/// A new key (PKCS#8 PEM) and an empty certificate request signed with it (upstream: `generateKeyAndProof`).
fn key_and_proof(key_type: &str) -> Result<(String, Vec<u8>), String> {
    let algorithm = match key_type {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        "RSA3072" | "RSA4096" | "ECDSAP521" => return Err(format!("keys of type {key_type} cannot be made by this node")),
        _ => return Err(format!("unknown key type {key_type:?}")),
    };
    let failed = |e: rcgen::Error| format!("while generating keypair: {e}");
    let key = rcgen::KeyPair::generate_for(algorithm).map_err(failed)?;
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).map_err(failed)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let request = parameters.serialize_request(&key).map_err(failed)?;
    Ok((pem::encode("PRIVATE KEY", &key.serialize_der()), request.der().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn each_kind_of_key_signs_an_empty_request() {
        for kind in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let (key, proof) = key_and_proof(kind).unwrap();
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{kind}");
            use x509_parser::prelude::FromDer;
            let (rest, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&proof).unwrap();
            assert!(rest.is_empty());
            assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        }
        assert!(key_and_proof("DSA").is_err());
    }

    #[test]
    fn a_request_ends_issued_or_refused() {
        let status = |value| serde_json::from_value::<PodCertificateRequestStatus>(value).unwrap();
        let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "R", "message": "M", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(verdict(&status(json!({}))), None);
        assert_eq!(verdict(&status(json!({"conditions": condition("Denied")}))), Some(Verdict::Refused("Denied".into(), "R".into(), "M".into())));
        let chain = format!("text\n{}", pem::encode("CERTIFICATE", b"x"));
        let issued =
            json!({"conditions": condition("Issued"), "certificateChain": chain, "beginRefreshAt": "2026-01-01T01:00:00Z", "notAfter": "2026-01-02T00:00:00Z"});
        let Some(Verdict::Issued { chain, .. }) = verdict(&status(issued)) else { panic!("not issued") };
        assert_eq!(chain, pem::encode("CERTIFICATE", b"x"));
    }
}
