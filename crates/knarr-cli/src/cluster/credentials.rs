//! The certificates of a node that joined: one by which it is known to the API server, one by which the API server knows it. The
//! node makes the keys, which never leave it; the cluster's authority signs (KEP-266, and upstream's `kubelet` with
//! `rotateCertificates` and `serverTLSBootstrap`). Each lies in one file with its key, so that the two always fit together.

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Client, read};
use knarr_core::api::{EventType, Options};
use rcgen::{DnType, SanType};

use super::config::{Cluster, Node};
use super::failure::{Exit, Failure, Result};

/// Files of the two, named as kubelet names its own.
pub const CLIENT: &str = "kubelet-client-current.pem";
pub const SERVING: &str = "kubelet-server-current.pem";
/// How long the cluster may take to sign.
const SIGNED_TIMEOUT: Duration = Duration::from_secs(120);
/// A certificate is renewed when this much of its life is over (upstream: between 70 and 90 of a hundred).
const RENEW_AFTER: f64 = 0.8;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be known to the API server as the node.
    Client,
    /// To be known by the API server under the node's name and address.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(self) -> Vec<String> {
        vec!["digital signature".into(), if self == Self::Client { "client auth".into() } else { "server auth".into() }]
    }
}

/// Where a certificate lies.
pub fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.pki().join(name)
}

/// Asks for a certificate and waits for it; gives it with its key, as PEM.
///
/// # Errors
/// The request is refused, or nobody signs it in time.
pub async fn request(client: &Client, node: &Node, purpose: Purpose) -> Result<String> {
    let (key, request) = key_and_request(node, purpose).map_err(Failure::program)?;
    let metadata = ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() };
    let spec = CertificateSigningRequestSpec {
        request: ByteString(request.into_bytes()),
        signer_name: purpose.signer().into(),
        usages: Some(purpose.usages()),
        ..CertificateSigningRequestSpec::default()
    };
    let made = client.all::<CertificateSigningRequest>().create(&CertificateSigningRequest { metadata, spec, status: None }).await;
    let name = made.map_err(|e| refused(&e.message))?.metadata.name.unwrap_or_default();
    match tokio::time::timeout(SIGNED_TIMEOUT, signed(client, &name)).await {
        Ok(chain) => Ok(format!("{}{key}", chain?)),
        Err(_) => Err(Failure::new(
            "NOT_SIGNED",
            Exit::Timeout,
            format!("nobody has signed the certificate request {name}"),
            format!("where the server is: knarr kubectl get csr {name}; knarr kubectl certificate approve {name}"),
        )),
    }
}

fn refused(why: &str) -> Failure {
    Failure::new(
        "NO_CERTIFICATE",
        Exit::Cluster,
        format!("the cluster gives this node no certificate: {why}"),
        "look at the requests where the server is: knarr kubectl get csr",
    )
}

/// Waits for the certificate of a request, whichever way the connection behaves.
async fn signed(client: &Client, name: &str) -> Result<String> {
    let options = Options { field_selector: Some(format!("metadata.name={name}")), ..Options::default() };
    let requests = client.all::<CertificateSigningRequest>();
    loop {
        let mut events = requests.watch(&options).await.map_err(|e| refused(&e.message))?;
        while let Some(Ok(event)) = events.next().await {
            if matches!(event.event_type, EventType::Added | EventType::Modified)
                && let Some(chain) = outcome(&read::typed(&event.object).map_err(Failure::program)?)?
            {
                return Ok(chain);
            }
        }
    }
}

/// The certificate, if there is one yet.
fn outcome(request: &CertificateSigningRequest) -> Result<Option<String>> {
    let Some(status) = &request.status else { return Ok(None) };
    if let Some(no) = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed")) {
        return Err(refused(&format!("{}: {}", no.type_, no.message.as_deref().unwrap_or_default())));
    }
    status.certificate.as_ref().filter(|c| !c.0.is_empty()).map(|c| String::from_utf8(c.0.clone()).map_err(Failure::program)).transpose()
}

/// A new key and the request that is signed with it, both PEM.
fn key_and_request(node: &Node, purpose: Purpose) -> std::result::Result<(String, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let serving = purpose == Purpose::Serving;
    let mut wanted = rcgen::CertificateParams::new(if serving { vec![node.name.clone()] } else { Vec::new() })?;
    wanted.distinguished_name = rcgen::DistinguishedName::new();
    wanted.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    wanted.distinguished_name.push(DnType::CommonName, format!("system:node:{}", node.name));
    wanted.subject_alt_names.extend(serving.then_some(SanType::IpAddress(node.address)));
    Ok((key.serialize_pem(), wanted.serialize_request(&key)?.pem()?))
}

/// When a certificate is to be renewed.
///
/// # Errors
/// The file holds no certificate.
pub fn renew_at(pem: &[u8]) -> Result<Timestamp> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(Failure::program)?;
    let validity = block.parse_x509().map_err(Failure::program)?.validity().clone();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Timestamp::from_second(from + ((to - from) as f64 * RENEW_AFTER) as i64).map_err(Failure::program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;
    use x509_parser::prelude::FromDer;

    fn node() -> Node {
        Node { name: "far".into(), index: 0, address: "192.0.2.7".parse().unwrap(), kubelet_port: 10250, leaving: false }
    }

    #[test]
    fn a_request_names_the_node_and_for_serving_its_address() {
        for (purpose, names) in [(Purpose::Client, 0), (Purpose::Serving, 2)] {
            let (key, request) = key_and_request(&node(), purpose).unwrap();
            assert!(key.contains("PRIVATE KEY"));
            let (_, block) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
            let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents).unwrap();
            assert_eq!(parsed.certification_request_info.subject.to_string(), "O=system:nodes, CN=system:node:far");
            let asked = parsed.requested_extensions().into_iter().flatten().find_map(|e| match e {
                x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.len()),
                _ => None,
            });
            assert_eq!(asked.unwrap_or_default(), names);
        }
    }

    #[test]
    fn a_request_ends_signed_or_refused() {
        let state = |status| serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"request": "", "signerName": "s"}, "status": status})).unwrap();
        assert_eq!(outcome(&state(json!({}))).unwrap(), None);
        assert_eq!(outcome(&state(json!({"certificate": "UEVN"}))).unwrap().as_deref(), Some("PEM"));
        let denied = json!({"conditions": [{"type": "Denied", "status": "True", "message": "who are you"}]});
        assert!(outcome(&state(denied)).unwrap_err().cause.contains("who are you"));
    }

    #[test]
    fn a_certificate_is_renewed_well_before_its_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 1, 11));
        let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        assert_eq!(renew_at(pem.as_bytes()).unwrap().to_string(), "2026-01-09T00:00:00Z");
    }
}
