//! Approves the serving certificates of nodes that joined: those that a node asks for itself, for its own name and for addresses that
//! its Node object has and no other's. Upstream approves none by itself; without it no log could be read of a node that joined.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_client::{Client, Informer, Key, Meta, Outcome, client};
use knarr_core::Result;
use knarr_core::api::Options;
use knarr_kinds::certificates::request::{CertificateRequest, validate_kubelet_serving};

use crate::context::{ControllerContext, enqueue_all};
use crate::csr;
use crate::nodes::{self, NodeView};

const SIGNER: &str = "kubernetes.io/kubelet-serving";
const MESSAGE: &str = "Auto approving kubelet serving certificate for the name and the addresses of the node that asks.";

/// Keys are names of requests.
pub fn start(context: &ControllerContext) {
    let requests = context.informer::<CertificateSigningRequest, Meta>();
    let nodes = nodes::informer(context);
    let queue = context.queue_with("kubelet_serving", csr::RETRY);
    enqueue_all(&requests, &queue);
    // A node's addresses come after its request.
    let (woken, waiting) = (queue.clone(), requests.clone());
    nodes.on_change(move |change| {
        if change.old.as_ref().map(|n| &n.view.internal_ips) != change.new.as_ref().map(|n| &n.view.internal_ips) {
            waiting.store().list().iter().for_each(|r| woken.add(r.key.clone()));
        }
    });
    let approver = Arc::new(Approver { client: context.client("kubelet-serving-approver"), requests, nodes });
    context.run("kubelet-serving-approver", queue, move |key: Key| {
        let approver = approver.clone();
        async move { approver.reconcile(&key).await }
    });
}

struct Approver {
    client: Client,
    requests: Informer<Meta>,
    nodes: Informer<NodeView>,
}

impl Approver {
    async fn reconcile(&self, key: &Key) -> Result<Outcome> {
        let Some(item) = self.requests.store().get(key) else { return Ok(Outcome::Done) };
        let mut request: CertificateSigningRequest = item.typed()?;
        if request.spec.signer_name != SIGNER || csr::condition(&request, "Approved").is_some() || csr::condition(&request, "Denied").is_some() {
            return Ok(Outcome::Done);
        }
        let nodes: Vec<_> = self.nodes.store().list().iter().map(|n| (n.key.name().to_owned(), addresses(&n.view))).collect();
        if !is_own(&request, &csr::parse(&request)?, &nodes) {
            return Ok(Outcome::Done);
        }
        request.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(MESSAGE.into()),
            ..Default::default()
        });
        let requests = self.client.all::<CertificateSigningRequest>();
        match requests.dynamic().update_with(client::tree(&request)?, Some("approval"), &Options::default()).await {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            other => other.map(|_| Outcome::Done),
        }
    }
}

fn addresses(node: &NodeView) -> Vec<IpAddr> {
    node.internal_ips.iter().filter_map(|ip| ip.parse().ok()).collect()
}

/// Whether a node asks for what is its alone.
fn is_own(request: &CertificateSigningRequest, asked: &CertificateRequest, nodes: &[(String, Vec<IpAddr>)]) -> bool {
    let by_node = request.spec.groups.iter().flatten().any(|g| g == "system:nodes") && request.spec.username.as_deref() == Some(&asked.subject.common_name);
    let Some(name) = asked.subject.common_name.strip_prefix("system:node:").filter(|_| by_node) else { return false };
    let has = |node: &(String, Vec<IpAddr>), address: &IpAddr| node.1.contains(address);
    validate_kubelet_serving(asked, &csr::usages(request)).is_ok()
        && asked.names.dns_names.iter().all(|dns| dns == name)
        && asked.names.addresses.iter().all(|a| nodes.iter().any(|n| n.0 == name && has(n, a)) && !nodes.iter().any(|n| n.0 != name && has(n, a)))
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::csr::testing::{SERVING, csr};

    #[test]
    fn a_node_gets_its_own_name_and_addresses_and_nobody_else_s() {
        let request = csr(SERVING, SIGNER, &["digital signature", "server auth"], json!({}));
        let asked = csr::parse(&request).unwrap();
        let own = ("a".to_owned(), asked.names.addresses.clone());
        let mine =
            CertificateRequest { names: knarr_kinds::certificates::request::AlternativeNames { dns_names: vec!["a".into()], ..asked.names.clone() }, ..asked };
        assert!(is_own(&request, &mine, std::slice::from_ref(&own)));
        assert!(!is_own(&request, &mine, &[]), "its addresses are not known yet");
        assert!(!is_own(&request, &mine, &[own.clone(), ("b".into(), own.1.clone())]), "another has the address");
        let mut foreign = request.clone();
        foreign.spec.username = Some("system:node:b".into());
        assert!(!is_own(&foreign, &mine, std::slice::from_ref(&own)));
        let mut other_name = mine.clone();
        other_name.names.dns_names = vec!["kubernetes".into()];
        assert!(!is_own(&request, &other_name, &[own]));
    }
}
