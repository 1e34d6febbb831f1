//! Pods: a node makes those that stand for its manifests, reports on those that run on it, and ends them (upstream: `admitPod`,
//! `admitPodStatus`, `admitPodEviction`).

use knarr_core::{GroupResource, Result, Status, Value, ValueExt};
use knarr_kinds::semantic;

use super::super::{Operation, Review};
use super::{MIRROR, NodeRestriction, assigned, quote};

impl NodeRestriction {
    pub(super) fn pods(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let a = review.attributes;
        let named = quote(node);
        match (a.subresource.as_str(), review.operation) {
            ("", Operation::Create) => self.mirror(review, node),
            ("", Operation::Delete) => match assigned(Some(&self.stored(review)?)) == node {
                true => Ok(()),
                false => Err(review.forbidden(format!("node {named} can only delete pods with spec.nodeName set to itself"))),
            },
            ("", operation) => {
                let operation = quote(operation.as_str());
                Err(review.forbidden(format!("unexpected operation {operation}, node {named} can only create and delete mirror pods")))
            }
            ("eviction", Operation::Create) => match assigned(Some(&self.stored(review)?)) == node {
                true => Ok(()),
                false => Err(review.forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself"))),
            },
            ("status", Operation::Update) => status_problem(review.object.as_ref(), review.old, node).map_or(Ok(()), |why| Err(review.forbidden(why))),
            ("eviction" | "status", operation) => Err(review.forbidden(format!("unexpected operation {}", quote(operation.as_str())))),
            (other, _) => Err(review.forbidden(format!("unexpected pod subresource {}, only 'status' and 'eviction' are allowed", quote(other)))),
        }
    }

    fn stored(&self, review: &Review<'_>) -> Result<Value> {
        let name = super::name_of(review);
        let stored = self.0.value("", "pods", &review.attributes.namespace, name);
        stored.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
    }

    fn mirror(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let pod = review.object.clone().unwrap_or_default();
        let uid = || {
            let stored = self.0.value("", "nodes", "", node)?;
            stored.str_at(&["metadata", "uid"]).map(str::to_owned)
        };
        if let Some(why) = mirror_problem(&pod, node) {
            return Err(review.forbidden(why));
        }
        let uid = uid().ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node))?;
        let owner = pod.list_at(&["metadata", "ownerReferences"]).first().and_then(|o| o.str_at(&["uid"])).unwrap_or_default();
        if owner != uid {
            return Err(review.forbidden(format!("node {node} UID mismatch: expected {owner} got {uid}")));
        }
        match referenced(&pod) {
            Some(what) => Err(review.forbidden(format!("node {} can not create pods that reference {what}", quote(node)))),
            None => Ok(()),
        }
    }
}

/// What is wrong with a pod that a node makes.
fn mirror_problem(pod: &Value, node: &str) -> Option<String> {
    let named = quote(node);
    if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
        return Some(format!("pod does not have {} annotation, node {named} can only create mirror pods", quote(MIRROR)));
    }
    if assigned(Some(pod)) != node {
        return Some(format!("node {named} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.list_at(&["metadata", "ownerReferences"]) {
        [owner] => owner,
        [] => return Some(format!("node {named} can only create pods with an owner reference set to itself")),
        _ => return Some(format!("node {named} can only create pods with a single owner reference set to itself")),
    };
    let text = |field: &str| owner.str_at(&[field]).unwrap_or_default();
    if (text("apiVersion"), text("kind"), text("name")) != ("v1", "Node", node) {
        return Some(format!("node {named} can only create pods with an owner reference set to itself"));
    }
    if owner.bool_at(&["controller"]) != Some(true) {
        return Some(format!("node {named} can only create pods with a controller owner reference set to itself"));
    }
    let blocks = owner.bool_at(&["blockOwnerDeletion"]) == Some(true);
    blocks.then(|| format!("node {named} must not set blockOwnerDeletion on an owner reference"))
}

/// The kind of API objects that a pod refers to; none for one that needs no API (upstream: `HasAPIObjectReference`).
fn referenced(pod: &Value) -> Option<&'static str> {
    let containers = ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|kind| pod.list_at(&["spec", kind]));
    let by_container = |variable: &str, source: &str| {
        let of = |c: &Value| {
            c.list_at(&["env"]).iter().any(|e| e.at(&["valueFrom", variable]).is_some()) || c.list_at(&["envFrom"]).iter().any(|s| s.at(&[source]).is_some())
        };
        containers.clone().any(of)
    };
    let volumes = pod.list_at(&["spec", "volumes"]);
    let by_volume = |paths: &[&[&str]]| volumes.iter().any(|v| paths.iter().any(|path| v.at(path).is_some()));
    let by_projection = |source: &str| volumes.iter().any(|v| v.list_at(&["projected", "sources"]).iter().any(|s| s.at(&[source]).is_some()));
    let secrets: &[&[&str]] =
        &[&["secret"], &["azureFile"], &["cephfs", "secretRef"], &["rbd", "secretRef"], &["iscsi", "secretRef"], &["csi", "nodePublishSecretRef"]];
    let checks = [
        (!pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default().is_empty(), "serviceaccounts"),
        (
            !pod.list_at(&["spec", "imagePullSecrets"]).is_empty()
                || by_container("secretKeyRef", "secretRef")
                || by_volume(secrets)
                || by_projection("secret"),
            "secrets",
        ),
        (by_container("configMapKeyRef", "configMapRef") || by_volume(&[&["configMap"]]) || by_projection("configMap"), "configmaps"),
        (!pod.list_at(&["spec", "resourceClaims"]).is_empty(), "resourceclaims"),
        (by_volume(&[&["csi"]]), "csidrivers (via CSI volumes)"),
        (by_volume(&[&["glusterfs"]]), "endpoints (via glusterFS volumes)"),
        (by_volume(&[&["persistentVolumeClaim"]]), "persistentvolumeclaims"),
        (by_volume(&[&["ephemeral"]]), "persistentvolumeclaims (via ephemeral volumes)"),
        (by_projection("serviceAccountToken"), "serviceaccounts (via projected volumes)"),
        (by_projection("clusterTrustBundle"), "clustertrustbundles"),
        (by_projection("podCertificate"), "podcertificates"),
    ];
    checks.into_iter().find(|(found, _)| *found).map(|(_, what)| what)
}

/// What is wrong with a node's report on a pod.
fn status_problem(new: Option<&Value>, old: Option<&Value>, node: &str) -> Option<String> {
    let named = quote(node);
    if assigned(old) != node {
        return Some(format!("node {named} can only update pod status for pods with spec.nodeName set to itself"));
    }
    let same = |path: &[&str]| semantic::same(new.and_then(|o| o.at(path)), old.and_then(|o| o.at(path)));
    [
        (&["metadata", "labels"][..], "cannot update labels through pod status"),
        (&["status", "resourceClaimStatuses"], "cannot update resource claim statues"),
        (&["status", "extendedResourceClaimStatus"], "cannot update extended resource claim status"),
        (&["status", "nodeAllocatableResourceClaimStatuses"], "cannot update node allocatable resource claim statuses"),
    ]
    .into_iter()
    .find(|(path, _)| !same(path))
    .map(|(_, why)| format!("node {named} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_node_makes_pods_that_stand_for_its_manifests() {
        let good = json!({"metadata": {"name": "p", "annotations": {MIRROR: "x"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]}});
        assert_eq!((mirror_problem(&good, "n"), referenced(&good)), (None, None));
        assert_eq!(mirror_problem(&good, "m").as_deref(), Some("node \"m\" can only create pods with spec.nodeName set to itself"));
        let with = |path: &[&str], value: Value| {
            let mut pod = good.clone();
            pod.set(path, value);
            pod
        };
        let orphan = with(&["metadata", "ownerReferences"], json!([]));
        assert_eq!(mirror_problem(&orphan, "n").as_deref(), Some("node \"n\" can only create pods with an owner reference set to itself"));
        assert_eq!(referenced(&with(&["spec", "serviceAccountName"], json!("x"))), Some("serviceaccounts"));
        let variable = json!([{"name": "c", "env": [{"name": "e", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]);
        assert_eq!(referenced(&with(&["spec", "containers"], variable)), Some("secrets"));
        let token = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
        assert_eq!(referenced(&with(&["spec", "volumes"], token)), Some("serviceaccounts (via projected volumes)"));
        assert_eq!(referenced(&with(&["spec", "volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]))), None);
    }

    #[test]
    fn a_node_reports_on_its_own_pods_and_leaves_their_labels() {
        let pod = |node: &str, labels: Value| json!({"metadata": {"labels": labels}, "spec": {"nodeName": node}, "status": {}});
        let old = pod("n", json!({"a": "b"}));
        assert_eq!(status_problem(Some(&old), Some(&old), "n"), None);
        assert_eq!(status_problem(Some(&pod("n", json!({}))), Some(&old), "n").as_deref(), Some("node \"n\" cannot update labels through pod status"));
        let told = "node \"m\" can only update pod status for pods with spec.nodeName set to itself";
        assert_eq!(status_problem(Some(&old), Some(&old), "m").as_deref(), Some(told));
    }
}
