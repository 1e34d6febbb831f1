//! Group versions of another server, and the APIServices of our own.

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::Engine;
use knarr_apiserver::{
    ServerBuilder,
    authn::{Authenticator, Credentials, MASTERS, User},
    http::{Limits, serve},
    pki::Pki,
};
use knarr_core::{
    GroupVersionResource, Result, Value, ValueExt,
    api::{Request, Transport, Verb},
    clock::Env,
    json,
};
use knarr_schema::{codec, registry::Registry};
use knarr_store::{MemoryEngine, ObjectKey, ResourceKey, Storage};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use support::Cluster;
use tokio::net::TcpListener;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Asks until the answer is as wanted.
async fn until(cluster: &Cluster, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    for _ in 0..1000 {
        let answer = cluster.get(path).await;
        let json = serde_json::from_slice(&answer.body).unwrap_or_default();
        if wanted(answer.code, &json) {
            return json;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{path} did not become what was wanted: {}", cluster.get(path).await.text());
}

fn available(service: &Value) -> Option<(&str, &str, &str)> {
    let condition = service.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Available")?;
    Some((condition.str_at(&["status"])?, condition.str_at(&["reason"])?, condition.str_at(&["message"])?))
}

fn definition(group: &str, singular: &str) -> Value {
    let plural = format!("{singular}s");
    json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"plural": plural, "singular": singular, "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

#[tokio::test]
async fn what_is_served_here_is_registered() {
    let cluster = Cluster::start().await;
    let service = until(&cluster, &format!("{SERVICES}/v1.apps"), |code, _| code == 200).await;
    assert_eq!(available(&service), Some(("True", "Local", "Local APIServices are always available")));
    assert_eq!(service["spec"], json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15}));
    until(&cluster, &format!("{SERVICES}/v1."), |code, _| code == 200).await;

    assert_eq!(cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition("stable.example.com", "tab")).await.code, 201);
    let ours = format!("{SERVICES}/v1.stable.example.com");
    let service = until(&cluster, &ours, |code, _| code == 200).await;
    assert_eq!(service["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    assert_eq!(service["spec"]["groupPriorityMinimum"], 1000);
    cluster.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tabs.stable.example.com").await;
    until(&cluster, &ours, |code, _| code == 404).await;
}

/// Believes what a front proxy says.
struct Told;

#[async_trait]
impl Authenticator for Told {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        let name = credentials.headers.get("x-remote-user").and_then(|v| v.to_str().ok()).unwrap_or("nobody");
        assert!(credentials.headers.get("authorization").is_none());
        let groups: Vec<String> = credentials.headers.get_all("x-remote-group").iter().map(|g| g.to_str().unwrap().to_owned()).collect();
        Ok(Some(User { name: name.into(), groups, ..User::default() }))
    }
}

/// Another server, that has a custom resource `metrics.example.com/v1`, `things`. Gives its address and its CA.
async fn other() -> (SocketAddr, String) {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::system();
    let pki = Pki::load_or_create(folder.path(), env.now()).unwrap();
    let identity = pki.serving(&["metrics.default.svc".into()], &[], env.now()).unwrap();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(|c| c.unwrap()).collect();
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap())
        .unwrap();
    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
    let server = ServerBuilder::new(storage).env(env).authenticator(Arc::new(Told)).build();
    let definitions = GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let mut create = Request::new(Verb::Create, definitions);
    create.body = Some(definition("metrics.example.com", "thing"));
    server.transport(User { name: "admin".into(), groups: vec![MASTERS.into()], ..User::default() }).call(create).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(server, listener, Some(Arc::new(tls).into()), Limits::default()));
    (address, pki.ca.certificate)
}

async fn put(storage: &Storage, group: &str, plural: &str, object: &Value) {
    let resource = Registry::builtin().by_resource(group, "v1", plural).unwrap().clone();
    let bytes = codec::encode_stored(&resource, object).unwrap();
    let place = ObjectKey::new("default", object.str_at(&["metadata", "name"]).unwrap());
    storage.create(&ResourceKey::new(group, plural), &place, bytes, None).await.unwrap();
}

#[tokio::test]
async fn requests_are_handed_on_in_their_users_name() {
    let (address, ca) = other().await;
    let cluster = Cluster::start().await;
    let service = json!({
        "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": "v1.metrics.example.com"},
        "spec": {
            "group": "metrics.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": "default", "name": "metrics"}, "caBundle": base64::engine::general_purpose::STANDARD.encode(ca),
        },
    });
    let created = cluster.post(SERVICES, &service).await;
    assert_eq!(created.code, 201, "{}", created.text());
    let path = format!("{SERVICES}/v1.metrics.example.com");
    let missing = "service/metrics in \"default\" is not present";
    until(&cluster, &path, |_, s| available(s) == Some(("False", "ServiceNotFound", missing))).await;
    let refused = cluster.get("/apis/metrics.example.com/v1/things").await;
    assert_eq!((refused.code, refused.text().as_str()), (503, "service unavailable\n"));

    let object = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "metrics"},
        "spec": {"clusterIP": "None", "ports": [{"port": 443, "protocol": "TCP", "targetPort": address.port()}]},
    });
    assert_eq!(cluster.post("/api/v1/namespaces/default/services", &object).await.code, 201);
    // Straight into the store: a loopback address would be refused.
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": "metrics-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "metrics"}},
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}], "ports": [{"name": "", "port": address.port(), "protocol": "TCP"}],
    });
    put(&cluster.storage, "discovery.k8s.io", "endpointslices", &slice).await;
    until(&cluster, &path, |_, s| available(s) == Some(("True", "Passed", "all checks passed"))).await;

    let things = "/apis/metrics.example.com/v1/namespaces/default/things";
    let body = json!({"kind": "Thing", "apiVersion": "metrics.example.com/v1", "metadata": {"name": "a"}, "data": {"x": "y"}});
    let headers = [("content-type", "application/json"), ("authorization", "Bearer secret"), ("x-remote-user", "mallory")];
    for round in 0..3 {
        let list = cluster.get(things).await;
        assert_eq!((list.code, list.json()["items"].as_array().map(Vec::len)), (200, Some(usize::from(round > 0))), "{}", list.text());
        let created = cluster.send("POST", things, &headers, body.to_string()).await;
        assert_eq!(created.code, if round == 0 { 201 } else { 409 }, "{}", created.text());
    }
    let groups = cluster.get("/apis").await.json();
    let entry = json!({"groupVersion": "metrics.example.com/v1", "version": "v1"});
    let wanted = json!({"name": "metrics.example.com", "versions": [entry], "preferredVersion": entry});
    assert_eq!(groups.list_at(&["groups"]).last(), Some(&wanted));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = cluster.send("GET", "/apis", &[("accept", accept)], "").await.json();
    let last = aggregated.list_at(&["items"]).last().unwrap();
    assert_eq!(last["versions"][0]["freshness"], "Current");
    assert_eq!(last["versions"][0]["resources"][0]["resource"], "things");
    let list = cluster.get("/apis/metrics.example.com/v1").await.json();
    assert_eq!(list["resources"][0]["name"], "things");

    cluster.delete(&path).await;
    until(&cluster, "/apis/metrics.example.com/v1", |code, _| code == 404).await;
}
