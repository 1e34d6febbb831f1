//! What a node may ask of signers for its pods (upstream: `admitPodCertificateRequest`).

use knarr_core::{Result, Value, ValueExt};

use super::super::{Operation, Review};
use super::{MIRROR, NodeRestriction, assigned, quote};

impl NodeRestriction {
    /// A certificate for a pod of this node that mounts one, and for no other (upstream: `admitPodCertificateRequest`).
    pub(super) async fn pod_certificate(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let a = review.attributes;
        if review.operation != Operation::Create {
            return Err(review.forbidden(format!("unexpected operation {}", review.operation.as_str())));
        }
        if !a.subresource.is_empty() {
            return Err(review.forbidden(format!("unexpected subresource {}", a.subresource)));
        }
        let Some(request) = &review.object else { return Ok(()) };
        let pod = self.pod_certificate_fits(request, &a.namespace, node).map_err(|why| review.forbidden(why))?;
        let text = |field: &str| request.str_at(&["spec", field]).unwrap_or_default();
        let signer = text("signerName");
        // The slash would be taken for that of a subresource.
        let resource = signer.replace('/', ":");
        if mounts_certificate_of(&pod, signer) || self.may(review, "request-serviceaccounts-podcertificate-signer", &resource, text("serviceAccountName")).await
        {
            return Ok(());
        }
        let name = quote(&format!("{}/{}", a.namespace, text("podName")));
        Err(review.forbidden(format!("pod {name} does not mount a podCertificate projected volume for signer {}", quote(signer))))
    }

    /// The pod of a request that names node, pod and service account as they are.
    fn pod_certificate_fits(&self, request: &Value, namespace: &str, node: &str) -> Result<Value, String> {
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
        Ok(pod)
    }
}

/// Whether the pod mounts a certificate of that signer.
fn mounts_certificate_of(pod: &Value, signer: &str) -> bool {
    let sources = pod.list_at(&["spec", "volumes"]).iter().flat_map(|v| v.list_at(&["projected", "sources"]));
    sources.into_iter().any(|s| s.str_at(&["podCertificate", "signerName"]) == Some(signer))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::testing::Fixed;
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
            plugin.pod_certificate_fits(&json!({"spec": spec}), "d", "n").map(|pod| mounts_certificate_of(&pod, spec["signerName"].as_str().unwrap()))
        };
        assert_eq!(ask("nodeName", "n"), Ok(true));
        assert_eq!(ask("signerName", "x/y"), Ok(false));
        for (field, value, wanted) in [
            ("nodeName", "m", "PodCertificateRequest.Spec.NodeName=\"m\", which is not the requesting node \"n\""),
            ("nodeUID", "x", "PodCertificateRequest for pod \"d/mine\" names node UID \"x\", inconsistent with the running node (\"n\")"),
            ("podName", "other", "pod \"d/other\" is not running on node \"n\" named in the PodCertificateRequest"),
            ("podName", "gone", "while retrieving pod \"d/gone\" named in the PodCertificateRequest: not found"),
            ("podUID", "x", "PodCertificateRequest for pod \"d/mine\" contains pod UID (\"x\") which differs from running pod \"p\""),
            ("serviceAccountName", "x", "PodCertificateRequest for pod \"d/mine\" contains serviceAccountName (\"x\") that differs from running pod (\"sa\")"),
        ] {
            assert_eq!(ask(field, value), Err(wanted.to_owned()), "{field}");
        }
    }
}
