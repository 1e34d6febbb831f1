//! A cluster in this process: the true API server with its admission and RBAC, and all controllers.
#![allow(dead_code)]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use knarr_apiserver::authn::{LegacyClaims, MASTERS, ServiceAccountKey, User};
use knarr_apiserver::authz::rbac::Rbac;
use knarr_apiserver::authz::{self, Authorizer};
use knarr_apiserver::pki::Pki;
use knarr_apiserver::stored::Stored;
use knarr_apiserver::{Server, ServerBuilder, admission, bootstrap};
use knarr_client::client::Resource;
use knarr_client::{Client, Deletion, Patch, SharedInformers};
use knarr_controllers::{ClusterKeys, Config, ControllerContext};
use knarr_core::api::{Options, Transport};
use knarr_core::clock::Env;
use knarr_core::{Result, Status, Value, json};
use knarr_kinds::certificates::request::CertificateRequest;
use knarr_store::{MemoryEngine, Storage};
use tokio_util::sync::CancellationToken;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub struct Cluster {
    pub server: Server,
    pub client: Client,
    pub pki: Arc<Pki>,
    stop: CancellationToken,
}

/// The keys of a cluster in memory.
struct Keys {
    pki: Arc<Pki>,
    tokens: Arc<ServiceAccountKey>,
    env: Env,
}

impl ClusterKeys for Keys {
    fn sign(&self, request: &CertificateRequest, usages: &[&str], seconds: i64) -> Result<String> {
        self.pki.ca.sign(request, usages, seconds, self.env.now()).map_err(Status::internal)
    }

    fn secret_token(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String> {
        self.tokens.issue_legacy(&LegacyClaims::new(namespace, account, account_uid, secret))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.stop();
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let env = Env::system();
        let folder = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::load_or_create(folder.path(), env.now()).unwrap());
        let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
        let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(authz::node::NodeAuthorizer::new(&bootstrap::system_node_role())));
        authz::feed::start(&storage, &rbac, &node).await;
        let authorizers: Vec<Arc<dyn Authorizer>> = vec![node, rbac];
        let objects: Arc<dyn admission::Objects> = Arc::new(Stored(storage.clone()));
        let server = ServerBuilder::new(storage)
            .config(knarr_apiserver::Config { service_cidrs: vec!["10.96.0.0/16".parse().unwrap()], ..knarr_apiserver::Config::default() })
            .env(env.clone())
            .authorizer(Arc::new(authz::Union(authorizers)))
            .plugins(admission::default_plugins(&objects))
            .build();
        let own: Arc<dyn Transport> = Arc::new(server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:apiserver") }));
        let config = bootstrap::Config {
            advertise: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            port: 6443,
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            alone: false,
            cluster_dns: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))),
            client_ca: String::new(),
            front_proxy: None,
            node_port: None,
            endpoints: true,
        };
        bootstrap::run(&own, &server.registry(), &config).await.unwrap();
        let stop = CancellationToken::new();
        let transports = server.clone();
        let tokens = Arc::new(ServiceAccountKey::from_pem(&pki.service_account_key, ISSUER).unwrap());
        let manager = Client::new(Arc::new(server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:kube-controller-manager") })));
        let config = Config { root_ca: pki.ca.certificate.clone(), cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Config::default() };
        knarr_controllers::start_all(&ControllerContext {
            client_for: Arc::new(move |name| Client::new(Arc::new(transports.transport(User::service_account("kube-system", name))))),
            manager: manager.clone(),
            keys: Some(Arc::new(Keys { pki: pki.clone(), tokens, env: env.clone() })),
            metrics_for: None,
            registry: server.registry(),
            informers: SharedInformers::new(manager, env.clone(), stop.clone()),
            env,
            config: Arc::new(config),
            stop: stop.clone(),
        });
        let admin = User { name: "admin".into(), groups: vec![MASTERS.into()], ..User::default() };
        Self { client: Client::new(Arc::new(server.transport(admin))), server, pki, stop }
    }

    pub async fn create<T: Resource>(&self, namespace: &str, value: Value) {
        let api = self.client.dynamic(knarr_client::client::gvr::<T>(), Some(namespace));
        api.create(value).await.unwrap();
    }

    pub async fn list<T: Resource>(&self, namespace: &str) -> Vec<T> {
        self.client.within::<T>(namespace).list(&Options::default()).await.unwrap().0
    }

    /// What a scheduler and a node agent would do with every pod of a namespace.
    pub async fn run_pods(&self, namespace: &str) {
        let pods = self.client.within::<Pod>(namespace);
        for pod in self.list::<Pod>(namespace).await {
            let (name, uid) = (pod.metadata.name.unwrap(), pod.metadata.uid.unwrap());
            if pod.metadata.deletion_timestamp.is_some() {
                let now = Deletion { grace_period_seconds: Some(0), ..Deletion::of_uid(uid) };
                drop(pods.delete(&name, &now).await);
            } else if pod.spec.unwrap().node_name.is_none() {
                self.client.bind(namespace, &name, &uid, "n").await.unwrap();
                let number = name.bytes().map(u32::from).sum::<u32>() % 250 + 1;
                let status = json!({"phase": "Running", "podIP": format!("10.244.0.{number}"), "podIPs": [{"ip": format!("10.244.0.{number}")}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
                pods.dynamic().patch_status(&name, Patch::strategic(json!({"status": status}))).await.unwrap();
            }
        }
    }
}

/// Waits for a condition, which is looked at again and again: this test drives the cluster from outside.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}
