//! A node writes only its own Node, its own pods and its own lease, and asks for tokens and certificates of its own pods alone,
//! whatever the authorizer let through. Follows `k8s.io/kubernetes/plugin/pkg/admission/noderestriction`.

mod pod;
mod pod_certificate;
mod token;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt};
use knarr_kinds::certificates::request::CertificateRequest;
use knarr_kinds::semantic;

use super::{Objects, Operation, Passes, Plugin, Review, certificates};
use crate::authz::Attributes;

const RESTRICTED_LABEL_DOMAIN: &str = "node-restriction.kubernetes.io";

/// Labels of Kubernetes' own domains that a node sets itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Domains whose labels a node sets itself.
const OWN_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Annotation of pods that stand for a manifest on the node.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub struct NodeRestriction(pub Arc<dyn Objects>);

fn node_of(a: &Attributes) -> Option<&str> {
    a.user.name.strip_prefix("system:node:").filter(|_| a.user.is_in("system:nodes"))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, _: Operation, a: &Attributes) -> bool {
        node_of(a).is_some()
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let a = review.attributes;
        let Some(node) = node_of(a) else { return Ok(()) };
        if node.is_empty() {
            return Err(review.forbidden(format!("could not determine node from user {}", quote(&a.user.name))));
        }
        match (a.group.as_str(), a.resource.as_str()) {
            ("", "pods") => self.pods(review, node),
            ("", "nodes") => nodes(review, node),
            ("", "persistentvolumeclaims") => claim(review, node),
            ("", "serviceaccounts") if a.subresource == "token" && review.operation == Operation::Create => self.token(review, node).await,
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificate(review, node).await,
            ("certificates.k8s.io", "certificatesigningrequests") => signing_request(review, node),
            ("coordination.k8s.io", "leases") if a.namespace != "kube-node-lease" => {
                Err(review.forbidden("can only access leases in the \"kube-node-lease\" system namespace"))
            }
            ("coordination.k8s.io", "leases") if name_of(review) != node => {
                Err(review.forbidden("can only access node lease with the same name as the requesting node"))
            }
            ("storage.k8s.io", "csinodes") if name_of(review) != node => {
                Err(review.forbidden("can only access CSINode with the same name as the requesting node"))
            }
            ("resource.k8s.io", "resourceslices") => slice(review, node),
            _ => Ok(()),
        }
    }
}

impl NodeRestriction {
    /// Whether the node has a right that somebody gave it beside its pods.
    async fn may(&self, review: &Review<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let Some(request) = &review.request else { return false };
        let a = review.attributes;
        let asked = Attributes {
            user: a.user.clone(),
            verb: verb.into(),
            group: a.group.clone(),
            version: a.version.clone(),
            resource: resource.into(),
            namespace: a.namespace.clone(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        };
        request.server.authorize(&asked).await.is_allowed()
    }
}

fn name_of<'a>(review: &'a Review<'_>) -> &'a str {
    if review.attributes.name.is_empty() {
        review.object.as_ref().and_then(|o| o.str_at(&["metadata", "name"])).unwrap_or_default()
    } else {
        &review.attributes.name
    }
}

fn assigned(pod: Option<&Value>) -> &str {
    pod.and_then(|p| p.str_at(&["spec", "nodeName"])).unwrap_or_default()
}

fn nodes(review: &Review<'_>, node: &str) -> Result<()> {
    if name_of(review) != node {
        return Err(review.forbidden(format!("node {} is not allowed to modify node {}", quote(node), quote(name_of(review)))));
    }
    let Some(new) = review.object.as_ref() else { return Ok(()) };
    node_problem(new, review.old, node).map_or(Ok(()), |why| Err(review.forbidden(why)))
}

/// What a node must not do to itself (upstream: `admitNode`).
fn node_problem(new: &Value, old: Option<&Value>, node: &str) -> Option<String> {
    let source = new.at(&["spec", "configSource"]);
    let Some(old) = old else {
        if source.is_some() {
            return Some(format!("node {} is not allowed to create pods with a non-nil configSource", quote(node)));
        }
        let labels = forbidden_labels(new, None);
        return (!labels.is_empty()).then(|| format!("node {} is not allowed to set the following labels: {labels}", quote(node)));
    };
    if source.is_some() && source != old.at(&["spec", "configSource"]) {
        return Some(format!("node {} is not allowed to update configSource to a new non-nil configSource", quote(node)));
    }
    if !semantic::same(new.at(&["spec", "taints"]), old.at(&["spec", "taints"])) {
        return Some(format!("node {} is not allowed to modify taints", quote(node)));
    }
    if !semantic::same(new.at(&["metadata", "ownerReferences"]), old.at(&["metadata", "ownerReferences"])) {
        return Some(format!("node {} is not allowed to modify ownerReferences", quote(node)));
    }
    let labels = forbidden_labels(new, Some(old));
    (!labels.is_empty()).then(|| format!("is not allowed to modify labels: {labels}"))
}

/// The labels that have changed and are not the node's to change, joined by commas (upstream: `getForbiddenLabels`).
fn forbidden_labels(new: &Value, old: Option<&Value>) -> String {
    let label = |object: Option<&Value>, key: &str| object.and_then(|o| o.at(&["metadata", "labels", key])).cloned();
    let keys = [Some(new), old].into_iter().flatten().filter_map(|o| o.at(&["metadata", "labels"])?.as_object()).flat_map(|labels| labels.keys());
    let changed: BTreeSet<&str> = keys.filter(|key| label(Some(new), key) != label(old, key)).map(String::as_str).collect();
    changed.into_iter().filter(|key| is_forbidden(key)).collect::<Vec<_>>().join(", ")
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    let own = OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|of| within(of));
    within(RESTRICTED_LABEL_DOMAIN) || (within("kubernetes.io") || within("k8s.io")) && !own
}

/// Nothing of a claim but what its volume has become (upstream: `admitPVCStatus`).
fn claim(review: &Review<'_>, node: &str) -> Result<()> {
    if review.attributes.subresource != "status" {
        return Err(review.forbidden("may only update PVC status"));
    }
    let (Some(new), Some(old)) = (&review.object, review.old) else {
        return Err(review.forbidden(format!("unexpected operation {}", quote(review.operation.as_str()))));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for path in [&["metadata", "resourceVersion"], &["metadata", "managedFields"], &["status", "capacity"], &["status", "conditions"]] {
            claim.remove(path);
        }
        claim.remove(&["status", "allocatedResources"]);
        claim.remove(&["status", "allocatedResourceStatuses"]);
        claim
    };
    if semantic::same(Some(&rest(new)), Some(&rest(old))) {
        return Ok(());
    }
    Err(review.forbidden(format!("node {} is not allowed to update fields other than status.quantity and status.conditions", quote(node))))
}

/// A node's certificate names the node (upstream: `admitCSR`).
fn signing_request(review: &Review<'_>, node: &str) -> Result<()> {
    let Some(object) = review.object.as_ref().filter(|_| review.operation == Operation::Create) else { return Ok(()) };
    if !["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"].contains(&certificates::signer(Some(object))) {
        return Ok(());
    }
    let request = CertificateRequest::from_pem(&certificates::request(object)).map_err(|why| review.forbidden(format!("unable to parse csr: {why}")))?;
    if request.subject.common_name == format!("system:node:{node}") {
        return Ok(());
    }
    Err(review.forbidden(format!("can only create a node CSR with CN=system:node:{node}")))
}

fn slice(review: &Review<'_>, node: &str) -> Result<()> {
    let (object, verb) = match review.operation {
        Operation::Create => (review.object.as_ref(), "create"),
        Operation::Delete => (review.old, "delete"),
        _ => return Ok(()),
    };
    if assigned(object) == node {
        return Ok(());
    }
    Err(review.forbidden(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

fn quote(text: &str) -> String {
    knarr_core::field::go_quote(text)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixed;
    use super::*;
    use crate::authn::User;
    use base64::Engine as _;
    use knarr_core::json;

    #[test]
    fn a_node_sets_only_labels_of_its_own() {
        let node = |labels: Value| json!({"metadata": {"name": "n", "labels": labels}});
        let make = |labels: Value| node_problem(&node(labels), None, "n");
        assert_eq!(make(json!({"kubernetes.io/hostname": "n", "x.node.kubernetes.io/y": "", "mine": "", "example.com/z": ""})), None);
        assert_eq!(
            make(json!({"node-role.kubernetes.io/x": "", "a.node-restriction.kubernetes.io/b": ""})).as_deref(),
            Some("node \"n\" is not allowed to set the following labels: a.node-restriction.kubernetes.io/b, node-role.kubernetes.io/x")
        );
        let old = node(json!({"node-role.kubernetes.io/x": ""}));
        assert_eq!(node_problem(&old, Some(&old), "n"), None);
        assert_eq!(node_problem(&node(json!({})), Some(&old), "n").as_deref(), Some("is not allowed to modify labels: node-role.kubernetes.io/x"));
        let mut tainted = old.clone();
        tainted.set(&["spec", "taints"], json!([{"key": "k"}]));
        assert_eq!(node_problem(&tainted, Some(&old), "n").as_deref(), Some("node \"n\" is not allowed to modify taints"));
    }

    #[tokio::test]
    async fn a_nodes_certificate_names_the_node() {
        let request = base64::engine::general_purpose::STANDARD.encode(include_str!("../../../../knarr-kinds/fixtures/node-client.csr"));
        let ask = async |node: &str, signer: &str| {
            let attributes = Attributes {
                user: User { name: format!("system:node:{node}"), groups: vec!["system:nodes".into()], ..User::default() },
                verb: "create".into(),
                group: "certificates.k8s.io".into(),
                resource: "certificatesigningrequests".into(),
                ..Attributes::default()
            };
            let kind = knarr_core::GroupVersionKind::new("certificates.k8s.io", "v1", "CertificateSigningRequest");
            let object = json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": request}});
            let review = Review { object: Some(object), ..Review::new(Operation::Create, &attributes, &kind) };
            NodeRestriction(Arc::new(Fixed(vec![]))).validate(&review).await.map_err(|s| s.message)
        };
        assert_eq!(ask("a", "kubernetes.io/kube-apiserver-client-kubelet").await, Ok(()));
        assert_eq!(ask("b", "example.com/mine").await, Ok(()));
        let told = "can only create a node CSR with CN=system:node:b";
        assert!(ask("b", "kubernetes.io/kube-apiserver-client-kubelet").await.unwrap_err().ends_with(told));
    }
}
