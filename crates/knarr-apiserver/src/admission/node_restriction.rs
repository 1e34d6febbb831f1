//! A node writes only its own Node, its own pods and its own lease, whatever the authorizer let through.
//! Follows `k8s.io/kubernetes/plugin/pkg/admission/noderestriction`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt};

use super::{Objects, Operation, Passes, Plugin, Review};
use crate::authz::Attributes;

const RESTRICTED_LABEL_DOMAIN: &str = "node-restriction.kubernetes.io";

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
        match (a.group.as_str(), a.resource.as_str()) {
            ("", "pods") => self.pods(review, node),
            ("", "nodes") => nodes(review, node),
            ("coordination.k8s.io", "leases") if a.namespace != "kube-node-lease" || name_of(review) != node => {
                Err(review.forbidden("can only access node lease with the same name as the requesting node"))
            }
            ("storage.k8s.io", "csinodes") if name_of(review) != node => {
                Err(review.forbidden("can only access CSINode with the same name as the requesting node"))
            }
            ("", "serviceaccounts") if a.subresource == "token" => self.token(review, node),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificate(review, node),
            _ => Ok(()),
        }
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

impl NodeRestriction {
    fn pods(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let a = review.attributes;
        match (a.subresource.as_str(), review.operation) {
            ("", Operation::Create) => {
                let pod = review.object.as_ref();
                if pod.is_none_or(|p| p.at(&["metadata", "annotations", MIRROR]).is_none()) {
                    return Err(review
                        .forbidden(format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {} can only create mirror pods", quote(node))));
                }
                if assigned(pod) == node {
                    Ok(())
                } else {
                    Err(review.forbidden(format!("node {} can only create pods with spec.nodeName set to itself", quote(node))))
                }
            }
            ("" | "eviction", _) => {
                let stored = self.0.value("", "pods", &a.namespace, &a.name);
                if assigned(review.old.or(stored.as_ref())) == node {
                    Ok(())
                } else {
                    Err(review.forbidden(format!(
                        "node {} can only {} pods with spec.nodeName set to itself",
                        quote(node),
                        if a.subresource.is_empty() { "delete" } else { "evict" }
                    )))
                }
            }
            ("status", _) if assigned(review.old) != node => {
                Err(review.forbidden(format!("node {} can only update pod status for pods with spec.nodeName set to itself", quote(node))))
            }
            _ => Ok(()),
        }
    }

    /// A certificate for a pod of this node that mounts one, and for no other (upstream: `admitPodCertificateRequest`).
    fn pod_certificate(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let a = review.attributes;
        if review.operation != Operation::Create {
            return Err(review.forbidden(format!("unexpected operation {}", review.operation.as_str())));
        }
        if !a.subresource.is_empty() {
            return Err(review.forbidden(format!("unexpected subresource {}", a.subresource)));
        }
        let Some(request) = &review.object else { return Ok(()) };
        self.pod_certificate_fits(request, &a.namespace, node).map_err(|why| review.forbidden(why))
    }

    /// Whether a request names node, pod and service account as they are.
    fn pod_certificate_fits(&self, request: &Value, namespace: &str, node: &str) -> Result<(), String> {
        let wanted = |field: &str| request.str_at(&["spec", field]).unwrap_or_default();
        let uid = |object: &Value| object.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
        let named = |name: &str| quote(&format!("{namespace}/{name}"));
        if wanted("nodeName") != node {
            return Err(format!("PodCertificateRequest.Spec.NodeName={}, which is not the requesting node {}", quote(wanted("nodeName")), quote(node)));
        }
        let of_request = |what: &str, name: String| format!("while retrieving {what} {name} named in the PodCertificateRequest: not found");
        let stored = self.0.value("", "nodes", "", node).ok_or_else(|| of_request("node", quote(node)))?;
        let pod_name = named(wanted("podName"));
        if wanted("nodeUID") != uid(&stored) {
            let (asked, found) = (quote(wanted("nodeUID")), quote(&uid(&stored)));
            return Err(format!("PodCertificateRequest for pod {pod_name} names node UID {asked}, inconsistent with the running node ({found})"));
        }
        let pod = self.0.value("", "pods", namespace, wanted("podName")).ok_or_else(|| of_request("pod", pod_name.clone()))?;
        if wanted("podUID") != uid(&pod) {
            let (asked, found) = (quote(wanted("podUID")), quote(&uid(&pod)));
            return Err(format!("PodCertificateRequest for pod {pod_name} contains pod UID ({asked}) which differs from running pod {found}"));
        }
        if assigned(Some(&pod)) != node {
            return Err(format!("pod {pod_name} is not running on node {} named in the PodCertificateRequest", quote(node)));
        }
        if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
            return Err(format!("pod {pod_name} is a mirror pod"));
        }
        let account = wanted("serviceAccountName");
        let running = pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default();
        if account != running {
            let (asked, found) = (quote(account), quote(running));
            return Err(format!("PodCertificateRequest for pod {pod_name} contains serviceAccountName ({asked}) that differs from running pod ({found})"));
        }
        let stored = self.0.value("", "serviceaccounts", namespace, account).ok_or_else(|| of_request("service account", named(account)))?;
        if wanted("serviceAccountUID") != uid(&stored) {
            let (asked, found) = (quote(wanted("serviceAccountUID")), quote(&uid(&stored)));
            return Err(format!(
                "PodCertificateRequest for pod {pod_name} names service account UID {asked}, which differs from the running service account ({found})"
            ));
        }
        if !mounts_certificate_of(&pod, wanted("signerName")) {
            return Err(format!("pod {pod_name} does not mount a podCertificate projected volume for signer {}", quote(wanted("signerName"))));
        }
        Ok(())
    }

    /// A token for a pod of this node, and for no other.
    fn token(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let bound = review.object.as_ref().and_then(|t| t.at(&["spec", "boundObjectRef"]));
        let Some(bound) = bound else { return Err(review.forbidden("node requested token not bound to a pod")) };
        if bound.str_at(&["kind"]) != Some("Pod") {
            return Err(review.forbidden("node requested token not bound to a pod"));
        }
        let pod = self.0.value("", "pods", &review.attributes.namespace, bound.str_at(&["name"]).unwrap_or_default());
        if assigned(pod.as_ref()) == node { Ok(()) } else { Err(review.forbidden("node requested token bound to a pod scheduled on a different node")) }
    }
}

/// Whether the pod mounts a certificate of that signer.
fn mounts_certificate_of(pod: &Value, signer: &str) -> bool {
    let sources = pod.list_at(&["spec", "volumes"]).iter().flat_map(|v| v.list_at(&["projected", "sources"]));
    sources.into_iter().any(|s| s.str_at(&["podCertificate", "signerName"]) == Some(signer))
}

fn nodes(review: &Review<'_>, node: &str) -> Result<()> {
    if name_of(review) != node {
        return Err(review.forbidden(format!("node {} is not allowed to modify node {}", quote(node), quote(name_of(review)))));
    }
    let Some(new) = review.object.as_ref() else { return Ok(()) };
    let restricted = |o: &Value| -> Vec<(String, Value)> {
        let labels = o.at(&["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default();
        labels
            .into_iter()
            .filter(|(k, _)| k.split('/').next().is_some_and(|d| d == RESTRICTED_LABEL_DOMAIN || d.ends_with(&format!(".{RESTRICTED_LABEL_DOMAIN}"))))
            .collect()
    };
    match review.old {
        None if !restricted(new).is_empty() => Err(review.forbidden(format!("node {} is not allowed to set restricted labels", quote(node)))),
        Some(old) if restricted(old) != restricted(new) => Err(review.forbidden(format!("is not allowed to modify labels: {RESTRICTED_LABEL_DOMAIN}"))),
        Some(old) if old.at(&["spec", "taints"]) != new.at(&["spec", "taints"]) => {
            Err(review.forbidden(format!("node {} is not allowed to modify taints", quote(node))))
        }
        Some(old) if old.at(&["metadata", "ownerReferences"]) != new.at(&["metadata", "ownerReferences"]) => {
            Err(review.forbidden(format!("node {} is not allowed to modify its own ownerReferences", quote(node))))
        }
        _ => Ok(()),
    }
}

fn quote(text: &str) -> String {
    knarr_core::field::go_quote(text)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixed;
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_node_asks_for_certificates_of_its_own_pods_alone() {
        let source = json!({"podCertificate": {"signerName": "a.b/c", "keyType": "ED25519"}});
        let pod = |name: &str, node: &str| {
            let volumes = json!([{"name": "v", "projected": {"sources": [source]}}]);
            json!({"metadata": {"name": name, "namespace": "d", "uid": "p"}, "spec": {"nodeName": node, "serviceAccountName": "sa", "volumes": volumes}})
        };
        let plugin = NodeRestriction(Arc::new(Fixed(vec![
            ("nodes", json!({"metadata": {"name": "n", "uid": "n"}})),
            ("pods", pod("mine", "n")),
            ("pods", pod("other", "m")),
            ("serviceaccounts", json!({"metadata": {"name": "sa", "namespace": "d", "uid": "s"}})),
        ])));
        let good = json!({"nodeName": "n", "nodeUID": "n", "podName": "mine", "podUID": "p", "serviceAccountName": "sa", "serviceAccountUID": "s",
            "signerName": "a.b/c"});
        let ask = |field: &str, value: &str| {
            let mut spec = good.clone();
            spec.set(&[field], value);
            plugin.pod_certificate_fits(&json!({"spec": spec}), "d", "n")
        };
        assert_eq!(ask("nodeName", "n"), Ok(()));
        for (field, value, wanted) in [
            ("nodeName", "m", "PodCertificateRequest.Spec.NodeName=\"m\", which is not the requesting node \"n\""),
            ("nodeUID", "x", "PodCertificateRequest for pod \"d/mine\" names node UID \"x\", inconsistent with the running node (\"n\")"),
            ("podName", "other", "pod \"d/other\" is not running on node \"n\" named in the PodCertificateRequest"),
            ("podName", "gone", "while retrieving pod \"d/gone\" named in the PodCertificateRequest: not found"),
            ("podUID", "x", "PodCertificateRequest for pod \"d/mine\" contains pod UID (\"x\") which differs from running pod \"p\""),
            ("serviceAccountName", "x", "PodCertificateRequest for pod \"d/mine\" contains serviceAccountName (\"x\") that differs from running pod (\"sa\")"),
            ("signerName", "x/y", "pod \"d/mine\" does not mount a podCertificate projected volume for signer \"x/y\""),
        ] {
            assert_eq!(ask(field, value), Err(wanted.to_owned()), "{field}");
        }
    }
}
