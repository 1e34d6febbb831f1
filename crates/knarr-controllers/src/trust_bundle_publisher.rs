//! Publishes the API server's authority as a ClusterTrustBundle of the signer `kubernetes.io/kube-apiserver-serving`, named after
//! its content; older ones go. Upstream: `pkg/controller/certificates/clustertrustbundlepublisher`.

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use knarr_client::{Client, Deletion, Informer, Meta, Outcome, Query};
use knarr_core::{Result, json};
use ring::digest::{SHA256, digest};

use crate::context::ControllerContext;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// Bytes of the hash that the name takes.
const HASH_BYTES: usize = 12;

/// There is one key.
pub fn start(context: &ControllerContext) {
    let root_ca = context.config.root_ca.clone();
    if root_ca.is_empty() {
        return;
    }
    let client = context.client("kube-apiserver-serving-clustertrustbundle-publisher");
    let bundles = context.informers.get::<Meta>(Query::all::<ClusterTrustBundle>().fields(&format!("spec.signerName={SIGNER}")));
    let queue = context.queue("ca_cert_publisher_cluster_trust_bundles");
    queue.add(());
    let changed = queue.clone();
    bundles.on_change(move |_| changed.add(()));
    context.run("kube-apiserver-serving-clustertrustbundle-publisher", queue, move |()| {
        let (client, bundles, root_ca) = (client.clone(), bundles.clone(), root_ca.clone());
        async move { publish(&client, &bundles, &root_ca).await.map(|()| Outcome::Done) }
    });
}

async fn publish(client: &Client, bundles: &Informer<Meta>, root_ca: &str) -> Result<()> {
    let (api, wanted) = (client.all::<ClusterTrustBundle>(), name(root_ca));
    match bundles.store().find("", &wanted).map(|b| b.typed::<ClusterTrustBundle>()).transpose()? {
        None => {
            let bundle = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": wanted},
                "spec": {"signerName": SIGNER, "trustBundle": root_ca}});
            match api.dynamic().create(bundle).await {
                Err(error) if error.is_already_exists() => {}
                other => drop(other?),
            }
        }
        Some(mut bundle) if bundle.spec.trust_bundle != root_ca => {
            bundle.spec.trust_bundle = root_ca.to_owned();
            api.update(&bundle).await?;
        }
        Some(_) => {}
    }
    for older in bundles.store().list().iter().filter(|b| b.key.name() != wanted) {
        match api.delete(older.key.name(), &Deletion::default()).await {
            Err(error) if error.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

fn name(bundle: &str) -> String {
    let hash = digest(&SHA256, bundle.as_bytes());
    let hex = knarr_core::hex::encode(&hash.as_ref()[..HASH_BYTES]);
    format!("{}:{hex}", SIGNER.replace('/', ":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Config, testing::Harness};

    #[tokio::test(start_paused = true)]
    async fn the_bundle_is_there_and_older_ones_go() {
        let harness = Harness::with(Config { root_ca: "PEM".into(), ..Config::default() });
        let old = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": format!("{}:old", SIGNER.replace('/', ":"))},
            "spec": {"signerName": SIGNER, "trustBundle": "OLD"}});
        harness.api.seed(&serde_json::from_value::<ClusterTrustBundle>(old).unwrap());
        start(&harness.context);
        let all = || harness.api.read_all::<ClusterTrustBundle>().into_iter().map(|b| b.spec.trust_bundle).collect::<Vec<_>>();
        harness.api.until(|_| all() == ["PEM"]).await;
        harness.api.change::<ClusterTrustBundle>("", &name("PEM"), |b| b.spec.trust_bundle = "X".into());
        harness.api.until(|_| all() == ["PEM"]).await;
    }
}
