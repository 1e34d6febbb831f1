//! Signs the kubeconfig in `kube-public/cluster-info` by each bootstrap token that may, so that a machine which knows a token
//! can believe it. Upstream: `pkg/controller/bootstrap/bootstrapsigner.go`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use knarr_client::{Client, Informer, Meta, Outcome, Query};
use knarr_core::clock::Env;
use knarr_core::{Result, json};
use ring::hmac;

use crate::bootstrap;
use crate::context::ControllerContext;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

/// There is one key.
pub fn start(context: &ControllerContext) {
    let (client, env) = (context.client("bootstrap-signer"), context.env.clone());
    let tokens = bootstrap::informer(context);
    let maps = context.informers.get::<Meta>(Query::all::<ConfigMap>().within(NAMESPACE).fields(&format!("metadata.name={NAME}")));
    let queue = context.queue("bootstrap_signer_queue");
    let (by_token, by_map) = (queue.clone(), queue.clone());
    tokens.on_change(move |_| by_token.add(()));
    maps.on_change(move |_| by_map.add(()));
    context.run("bootstrap-signer", queue, move |()| {
        let (client, env, tokens, maps) = (client.clone(), env.clone(), tokens.clone(), maps.clone());
        async move { reconcile(&client, &env, &tokens, &maps).await.map(|()| Outcome::Done) }
    });
}

async fn reconcile(client: &Client, env: &Env, tokens: &Informer<Meta>, maps: &Informer<Meta>) -> Result<()> {
    let Some(item) = maps.store().find(NAMESPACE, NAME) else { return Ok(()) };
    let mut map: ConfigMap = item.typed()?;
    let secrets: Vec<Secret> = tokens.store().list().iter().map(|s| s.typed()).collect::<Result<_>>()?;
    let usable: BTreeMap<String, String> = secrets.iter().filter_map(|s| bootstrap::signing_token(s, env.now())).collect();
    let Some(signed) = map.data.as_ref().and_then(|data| sign(data, &usable)) else { return Ok(()) };
    map.data = Some(signed);
    match client.within::<ConfigMap>(NAMESPACE).update(&map).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// The data with a signature by each token and no other; none when it is so already, or when there is nothing to sign.
fn sign(data: &BTreeMap<String, String>, tokens: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut wanted: BTreeMap<String, String> = data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE_PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect();
    wanted.extend(tokens.iter().map(|(id, secret)| (format!("{SIGNATURE_PREFIX}{id}"), signature(content, id, secret))));
    (wanted != *data).then_some(wanted)
}

/// A JSON Web Signature (HS256) without its content, which stands beside it (upstream: `ComputeDetachedSignature`).
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::testing::token;
    use crate::context::testing::Harness;

    #[test]
    fn a_signature_is_the_one_that_kubeadm_checks() {
        // Computed by Python's hmac.
        let wanted = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..K1chermAQEq0rdqy-ehj0VDfmA_ytv8Wzh9g26FldrE";
        assert_eq!(signature("apiVersion: v1\n", "abcdef", "0123456789abcdef"), wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn cluster_info_is_signed_by_the_tokens_that_there_are() {
        let harness = Harness::new();
        harness.api.seed(&token("aaaaaa", &[]));
        harness.api.seed(&token("bbbbbb", &[("usage-bootstrap-signing", "false")]));
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {"kubeconfig": "x", "jws-kubeconfig-gone": "y"}});
        harness.api.seed(&serde_json::from_value::<ConfigMap>(map).unwrap());
        start(&harness.context);
        let keys = || harness.api.read::<ConfigMap>(NAMESPACE, NAME).unwrap().data.unwrap().into_keys().collect::<Vec<_>>();
        harness.api.until(|_| keys() == ["jws-kubeconfig-aaaaaa", "kubeconfig"]).await;
        harness.api.seed(&token("cccccc", &[]));
        harness.api.until(|_| keys() == ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-cccccc", "kubeconfig"]).await;
        harness.api.change::<ConfigMap>(NAMESPACE, NAME, |m| m.data.as_mut().unwrap().insert("kubeconfig".into(), "z".into()).map(drop).unwrap_or_default());
        let good = signature("z", "cccccc", "0123456789abcdef");
        harness.api.until(|api| api.read::<ConfigMap>(NAMESPACE, NAME).unwrap().data.unwrap().get("jws-kubeconfig-cccccc") == Some(&good)).await;
    }
}
