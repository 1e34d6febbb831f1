//! Root CA publisher: every namespace has a ConfigMap `kube-root-ca.crt`, from which pods know the API server.
//! Upstream: `pkg/controller/certificates/rootcacertpublisher`.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use knarr_client::{Api, Client, Key, Meta, Outcome, Query, client};
use knarr_core::{Result, Value, json};

use crate::batch::is_namespace_terminating;
use crate::context::{ControllerContext, enqueue_all};

const NAME: &str = "kube-root-ca.crt";
const ANNOTATION: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Keys are names of namespaces.
pub fn start(context: &ControllerContext) {
    let client = context.client("root-ca-cert-publisher");
    let namespaces = context.informer::<Namespace, Meta>();
    let maps = context.informers.get::<Meta>(Query::all::<ConfigMap>().fields(&format!("metadata.name={NAME}")));
    let queue = context.queue("root_ca_cert_publisher");
    enqueue_all(&namespaces, &queue);
    let changed = queue.clone();
    maps.on_change(move |change| changed.add(Key::new("", change.key().namespace())));
    let root_ca = context.config.root_ca.clone();
    context.run("root-ca-certificate-publisher", queue, move |key: Key| {
        let (client, root_ca, namespaces, maps) = (client.clone(), root_ca.clone(), namespaces.clone(), maps.clone());
        async move {
            let alive = namespaces.store().get(&key).is_some_and(|n| !n.view.is_deleting());
            if !alive {
                return Ok(Outcome::Done);
            }
            let known = maps.store().find(key.name(), NAME).map(|m| m.typed::<ConfigMap>()).transpose()?;
            publish(&client, key.name(), known, &root_ca).await.map(|()| Outcome::Done)
        }
    });
}

async fn publish(client: &Client, namespace: &str, known: Option<ConfigMap>, root_ca: &str) -> Result<()> {
    let maps: Api<ConfigMap> = client.within(namespace);
    let written = match known {
        None => maps.dynamic().create(wanted(namespace, root_ca)).await,
        Some(mut map) => {
            if !needs_update(&mut map, root_ca) {
                return Ok(());
            }
            maps.dynamic().update(client::tree(&map)?).await
        }
    };
    match written {
        // Somebody was faster, or the namespace is going: the next event tells.
        Err(e) if e.is_already_exists() || e.is_not_found() || is_namespace_terminating(&e) => Ok(()),
        other => other.map(drop),
    }
}

fn wanted(namespace: &str, root_ca: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": namespace, "annotations": {ANNOTATION: DESCRIPTION}},
        "data": {"ca.crt": root_ca}})
}

/// Puts right what is wrong; false when nothing is.
fn needs_update(map: &mut ConfigMap, root_ca: &str) -> bool {
    let data = [("ca.crt".to_owned(), root_ca.to_owned())].into();
    let annotations = map.metadata.annotations.get_or_insert_default();
    if map.data.as_ref() == Some(&data) && annotations.contains_key(ANNOTATION) {
        return false;
    }
    map.data = Some(data);
    annotations.insert(ANNOTATION.into(), DESCRIPTION.into());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Config, testing::Harness};

    #[tokio::test(start_paused = true)]
    async fn each_namespace_gets_the_bundle_and_gets_it_back() {
        let harness = Harness::with(Config { root_ca: "PEM".into(), ..Config::default() });
        start(&harness.context);
        harness.api.seed(&serde_json::from_value::<Namespace>(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})).unwrap());
        let data = |api: &knarr_client::fake::FakeApi| api.read::<ConfigMap>("a", NAME).and_then(|m| m.data).and_then(|d| d.get("ca.crt").cloned());
        harness.api.until(|api| data(api).as_deref() == Some("PEM")).await;
        harness.api.change::<ConfigMap>("a", NAME, |m| m.data = None);
        harness.api.until(|api| data(api).as_deref() == Some("PEM")).await;
        harness.api.client().within::<ConfigMap>("a").delete(NAME, &Default::default()).await.unwrap();
        harness.api.until(|api| data(api).as_deref() == Some("PEM")).await;
    }
}
