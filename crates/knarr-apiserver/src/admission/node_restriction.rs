//! A node writes only its own Node, its own pods and its own lease, whatever the authorizer let through.
//! Follows `k8s.io/kubernetes/plugin/pkg/admission/noderestriction`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt};

use super::{Objects, Operation, Plugin, Review};
use crate::authz::Attributes;

const RESTRICTED_LABEL_DOMAIN: &str = "node-restriction.kubernetes.io";

pub struct NodeRestriction(pub Arc<dyn Objects>);

fn node_of(a: &Attributes) -> Option<&str> {
    a.user.name.strip_prefix("system:node:").filter(|_| a.user.is_in("system:nodes"))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
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
                if pod.is_none_or(|p| p.at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_none()) {
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
