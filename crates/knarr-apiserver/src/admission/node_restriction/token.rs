//! Tokens of service accounts: a node asks for those of its own pods, for audiences that the pod mounts a token for (upstream:
//! `admitServiceAccount`, KEP-4935).

use knarr_core::{GroupResource, Result, Status, Value, ValueExt};

use super::super::{Objects, Review};
use super::{NodeRestriction, assigned, quote};

impl NodeRestriction {
    pub(super) async fn token(&self, review: &Review<'_>, node: &str) -> Result<()> {
        let a = review.attributes;
        let request = review.object.clone().unwrap_or_default();
        let bound = |field: &str| request.str_at(&["spec", "boundObjectRef", field]).unwrap_or_default();
        if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
            return Err(review.forbidden("node requested token not bound to a pod"));
        }
        if bound("uid").is_empty() {
            return Err(review.forbidden("node requested token with a pod binding without a uid"));
        }
        let pod = self.0.value("", "pods", &a.namespace, bound("name"));
        let pod = pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), bound("name")))?;
        if pod.str_at(&["metadata", "uid"]) != Some(bound("uid")) {
            let uid = bound("uid");
            return Err(review.forbidden(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )));
        }
        if assigned(Some(&pod)) != node {
            return Err(review.forbidden("node requested token bound to a pod scheduled on a different node"));
        }
        self.audience(review, &request, &pod).await.map_err(|why| review.forbidden(why))
    }

    async fn audience(&self, review: &Review<'_>, request: &Value, pod: &Value) -> std::result::Result<(), String> {
        let audiences: Vec<&str> = request.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).collect();
        // What named no audience has been given the server's by now.
        let own = review.request.as_ref().and_then(|r| r.server.tokens.load().as_ref().as_ref().map(|t| t.audiences() == audiences)).unwrap_or(false);
        let audience = match audiences[..] {
            [] => "",
            [_, _, ..] if own => "",
            [audience] => audience,
            _ => return Err("node may only request 0 or 1 audiences".into()),
        };
        let asked = |wanted: &str| wanted == audience || own && wanted.is_empty();
        if references_audience(self.0.as_ref(), pod, asked) {
            return Ok(());
        }
        let user = &review.attributes.user.name;
        if self.may(review, "request-serviceaccounts-token-audience", audience, &review.attributes.name).await {
            return Ok(());
        }
        Err(format!("{user} is not authorized to request tokens for audience {}", quote(audience)))
    }
}

/// Whether a volume of the pod wants a token for such an audience, itself or by its driver (upstream: `podReferencesAudience`).
fn references_audience(objects: &dyn Objects, pod: &Value, asked: impl Fn(&str) -> bool) -> bool {
    let namespace = pod.str_at(&["metadata", "namespace"]).unwrap_or_default();
    let audience = |request: &Value| asked(request.str_at(&["audience"]).unwrap_or_default());
    pod.list_at(&["spec", "volumes"]).iter().any(|volume| {
        let projected = volume.list_at(&["projected", "sources"]).iter().filter_map(|s| s.at(&["serviceAccountToken"])).any(audience);
        let by_driver = || {
            let driver = driver_of(objects, pod, namespace, volume)?;
            let driver = objects.value("storage.k8s.io", "csidrivers", "", &driver)?;
            Some(driver.list_at(&["spec", "tokenRequests"]).iter().any(audience))
        };
        projected || by_driver().unwrap_or(false)
    })
}

/// The CSI driver behind a volume.
fn driver_of(objects: &dyn Objects, pod: &Value, namespace: &str, volume: &Value) -> Option<String> {
    if let Some(driver) = volume.str_at(&["csi", "driver"]) {
        return Some(driver.to_owned());
    }
    let claim = if volume.at(&["ephemeral", "volumeClaimTemplate"]).is_some() {
        format!("{}-{}", pod.str_at(&["metadata", "name"])?, volume.str_at(&["name"])?)
    } else {
        volume.str_at(&["persistentVolumeClaim", "claimName"])?.to_owned()
    };
    let claim = objects.value("", "persistentvolumeclaims", namespace, &claim)?;
    let volume = objects.value("", "persistentvolumes", "", claim.str_at(&["spec", "volumeName"])?)?;
    volume.str_at(&["spec", "csi", "driver"]).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::testing::Fixed;
    use super::super::super::{Operation, Plugin};
    use super::*;
    use crate::authn::User;
    use crate::authz::Attributes;
    use knarr_core::json;

    fn plugin() -> NodeRestriction {
        let pod = |name: &str, node: &str| {
            let token = json!({"serviceAccountToken": {"audience": "vault", "path": "token"}});
            json!({"metadata": {"name": name, "namespace": "d", "uid": "u"}, "spec": {"nodeName": node, "volumes": [
                {"name": "v", "projected": {"sources": [token]}}, {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}}]}})
        };
        NodeRestriction(Arc::new(Fixed(vec![
            ("pods", pod("mine", "n")),
            ("pods", pod("other", "m")),
            ("persistentvolumeclaims", json!({"metadata": {"name": "claim", "namespace": "d"}, "spec": {"volumeName": "pv"}})),
            ("persistentvolumes", json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "x.io"}}})),
            ("csidrivers", json!({"metadata": {"name": "x.io"}, "spec": {"tokenRequests": [{"audience": "driver"}]}})),
        ])))
    }

    async fn ask(pod: &str, uid: &str, audiences: &[&str]) -> std::result::Result<(), String> {
        let attributes = Attributes {
            user: User { name: "system:node:n".into(), groups: vec!["system:nodes".into()], ..User::default() },
            verb: "create".into(),
            resource: "serviceaccounts".into(),
            subresource: "token".into(),
            namespace: "d".into(),
            name: "sa".into(),
            ..Attributes::default()
        };
        let kind = knarr_core::GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        let request = json!({"spec": {"audiences": audiences, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}});
        let review = Review { object: Some(request), ..Review::new(Operation::Create, &attributes, &kind) };
        plugin().validate(&review).await.map_err(|s| s.message.rsplit_once(": ").map_or(s.message.clone(), |(_, why)| why.to_owned()))
    }

    #[tokio::test]
    async fn a_node_asks_for_tokens_of_its_own_pods_and_their_audiences() {
        assert_eq!(ask("mine", "u", &["vault"]).await, Ok(()));
        assert_eq!(ask("mine", "u", &["driver"]).await, Ok(()));
        assert_eq!(ask("mine", "", &["vault"]).await, Err("node requested token with a pod binding without a uid".into()));
        assert_eq!(ask("", "u", &["vault"]).await, Err("node requested token not bound to a pod".into()));
        assert!(ask("mine", "old", &["vault"]).await.unwrap_err().starts_with("the UID in the bound object reference (old) does not match"));
        assert_eq!(ask("other", "u", &["vault"]).await, Err("node requested token bound to a pod scheduled on a different node".into()));
        assert_eq!(ask("mine", "u", &["a", "b"]).await, Err("node may only request 0 or 1 audiences".into()));
        assert_eq!(ask("mine", "u", &["api"]).await, Err("system:node:n is not authorized to request tokens for audience \"api\"".into()));
        assert_eq!(ask("gone", "u", &["vault"]).await, Err("pods \"gone\" not found".into()));
    }
}
