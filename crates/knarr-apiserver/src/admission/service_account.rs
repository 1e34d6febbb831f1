//! Every pod runs as a service account of its namespace, and finds that account's token, the cluster's CA and its own namespace
//! in a projected volume. Follows `k8s.io/kubernetes/plugin/pkg/admission/serviceaccount`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt, json};

use super::{Objects, Operation, Plugin, Review, creates_pod};
use crate::authz::Attributes;

const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds: upstream's sign for "extended later".
const TOKEN_SECONDS: i64 = 3607;

pub struct ServiceAccount(pub Arc<dyn Objects>);

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        creates_pod(operation, a) || (operation == Operation::Update && a.resource == "pods" && a.group.is_empty() && a.subresource == "ephemeralcontainers")
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let Some(pod) = review.object.as_mut().filter(|_| review.operation == Operation::Create) else { return Ok(()) };
        if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
            return Ok(());
        }
        if pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default().is_empty() {
            pod.set(&["spec", "serviceAccountName"], "default");
        }
        let name = pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default().to_owned();
        pod.set(&["spec", "serviceAccount"], name.as_str());
        let namespace = &review.attributes.namespace;
        let Some(account) = self.0.value("", "serviceaccounts", namespace, &name) else {
            return Err(review
                .forbidden(format!("error looking up service account {namespace}/{name}: serviceaccount {} not found", knarr_core::field::go_quote(&name))));
        };
        let Some(pod) = review.object.as_mut() else { return Ok(()) };
        if wants_token(pod, &account) {
            mount_token(pod);
        }
        if pod.list_at(&["spec", "imagePullSecrets"]).is_empty()
            && let Some(secrets) = account.at(&["imagePullSecrets"])
        {
            pod.set(&["spec", "imagePullSecrets"], secrets.clone());
        }
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let Some(pod) = review.object.as_ref() else { return Ok(()) };
        if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
            return self.validate_mirror(review, pod);
        }
        let name = pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default();
        let account = self.0.value("", "serviceaccounts", &review.attributes.namespace, name).unwrap_or_default();
        if account.str_at(&["metadata", "annotations", ENFORCE_MOUNTABLE]) != Some("true") {
            return Ok(());
        }
        let mountable: Vec<&str> = account.list_at(&["secrets"]).iter().filter_map(|s| s.str_at(&["name"])).collect();
        match secrets_of(pod).into_iter().find(|(_, secret)| !mountable.contains(secret)) {
            Some((place, secret)) => Err(review.forbidden(format!(
                "{place} with secret.secretName={} is not allowed because service account {name} does not reference that secret",
                knarr_core::field::go_quote(secret)
            ))),
            None => Ok(()),
        }
    }
}

impl ServiceAccount {
    fn validate_mirror(&self, review: &Review<'_>, pod: &Value) -> Result<()> {
        if !pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default().is_empty() {
            return Err(review.forbidden("a mirror pod may not reference service accounts"));
        }
        if secrets_of(pod).is_empty() { Ok(()) } else { Err(review.forbidden("a mirror pod may not reference secrets")) }
    }
}

/// The secrets that a pod mounts or reads into its environment, with the place that refers to each.
fn secrets_of(pod: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    for volume in pod.list_at(&["spec", "volumes"]) {
        let named = volume.str_at(&["name"]).unwrap_or_default();
        found.extend(volume.str_at(&["secret", "secretName"]).map(|s| (format!("volume {named}"), s)));
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod.list_at(&["spec", kind]) {
            let named = format!("container {}", container.str_at(&["name"]).unwrap_or_default());
            let of_env = container.list_at(&["env"]).iter().filter_map(|e| e.str_at(&["valueFrom", "secretKeyRef", "name"]));
            let of_source = container.list_at(&["envFrom"]).iter().filter_map(|e| e.str_at(&["secretRef", "name"]));
            found.extend(of_env.chain(of_source).map(|s| (named.clone(), s)));
        }
    }
    found.extend(pod.list_at(&["spec", "imagePullSecrets"]).iter().filter_map(|s| s.str_at(&["name"])).map(|s| ("imagePullSecret".to_owned(), s)));
    found
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    pod.bool_at(&["spec", "automountServiceAccountToken"]).or_else(|| account.bool_at(&["automountServiceAccountToken"])).unwrap_or(true)
}

/// Adds the volume and mounts it in every container that has nothing there yet.
fn mount_token(pod: &mut Value) {
    let existing = pod
        .list_at(&["spec", "volumes"])
        .iter()
        .find(|v| v.str_at(&["name"]).is_some_and(|n| n.starts_with(VOLUME_PREFIX)) && v.at(&["projected"]).is_some())
        .and_then(|v| v.str_at(&["name"]))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        let Some(containers) = pod.at_mut(&["spec", kind]).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            if container.list_at(&["volumeMounts"]).iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            push(container.ensure(&["volumeMounts"]), json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        push(pod.ensure(&["spec", "volumes"]), json!({"name": name, "projected": projection()}));
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

fn projection() -> Value {
    json!({"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]})
}

fn suffix() -> String {
    knarr_core::clock::Env::system().suffix(5)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, create};
    use super::*;

    fn plugin(account: Value) -> ServiceAccount {
        ServiceAccount(Arc::new(Fixed(vec![("serviceaccounts", account)])))
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c"}, {"name": "d", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}})
    }

    #[tokio::test]
    async fn a_pod_gets_the_default_account_and_its_token() {
        let pod = create(&plugin(json!({"metadata": {"name": "default", "namespace": "n"}})), "", "pods", pod()).await.unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap();
        assert!(volume.starts_with(VOLUME_PREFIX));
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_account_may_keep_its_token_to_itself() {
        let pod = create(&plugin(json!({"metadata": {"name": "default", "namespace": "n"}, "automountServiceAccountToken": false})), "", "pods", pod())
            .await
            .unwrap();
        assert!(pod["spec"].get("volumes").is_none());
    }

    #[tokio::test]
    async fn an_account_that_is_not_there_is_named() {
        let refused = create(&plugin(json!({"metadata": {"name": "x", "namespace": "n"}})), "", "pods", pod()).await.unwrap_err();
        assert_eq!(refused, "pods \"p\" is forbidden: error looking up service account n/default: serviceaccount \"default\" not found");
    }
}
