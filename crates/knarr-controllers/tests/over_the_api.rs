//! All controllers against the true API server of this process, with its admission and RBAC: each of them may do what it
//! must do, and the objects that they write are accepted.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_apiserver::authn::{MASTERS, User};
use knarr_apiserver::authz::rbac::Rbac;
use knarr_apiserver::authz::{self, Authorizer};
use knarr_apiserver::stored::Stored;
use knarr_apiserver::{Server, ServerBuilder, admission, bootstrap};
use knarr_client::client::Resource;
use knarr_client::{Client, Deletion, Patch, SharedInformers};
use knarr_controllers::{Config, ControllerContext};
use knarr_core::api::{Options, Transport};
use knarr_core::clock::Env;
use knarr_core::{Value, json};
use knarr_store::{MemoryEngine, Storage};
use tokio_util::sync::CancellationToken;

struct Cluster {
    server: Server,
    client: Client,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.stop();
    }
}

impl Cluster {
    async fn start() -> Self {
        let env = Env::system();
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
            cluster_dns: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))),
            client_ca: String::new(),
            front_proxy_ca: String::new(),
        };
        bootstrap::run(&own, &server.registry(), &config).await.unwrap();
        let stop = CancellationToken::new();
        let transports = server.clone();
        let manager = Client::new(Arc::new(server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:kube-controller-manager") })));
        let config = Config { root_ca: "PEM".into(), cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Config::default() };
        knarr_controllers::start_all(&ControllerContext {
            client_for: Arc::new(move |name| Client::new(Arc::new(transports.transport(User::service_account("kube-system", name))))),
            metrics_for: None,
            informers: SharedInformers::new(manager, env.clone(), stop.clone()),
            env,
            config: Arc::new(config),
            stop: stop.clone(),
        });
        let admin = User { name: "admin".into(), groups: vec![MASTERS.into()], ..User::default() };
        Self { client: Client::new(Arc::new(server.transport(admin))), server, stop }
    }

    async fn create<T: Resource>(&self, namespace: &str, value: Value) {
        let api = self.client.dynamic(knarr_client::client::gvr::<T>(), Some(namespace));
        api.create(value).await.unwrap();
    }

    async fn list<T: Resource>(&self, namespace: &str) -> Vec<T> {
        self.client.within::<T>(namespace).list(&Options::default()).await.unwrap().0
    }

    /// What a scheduler and a node agent would do with every pod of a namespace.
    async fn run_pods(&self, namespace: &str) {
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
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 80}]}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_lives_and_dies_with_everything_in_it() {
    let cluster = Cluster::start().await;
    cluster.create::<Namespace>("", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})).await;
    cluster.create::<Node>("", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "m"}]}});
    cluster.client.all::<Node>().dynamic().patch_status("n", Patch::strategic(ready)).await.unwrap();
    until("the node has a network and no taints", || async {
        let node = cluster.client.all::<Node>().get("n").await.unwrap().spec.unwrap_or_default();
        node.pod_cidr.is_some() && node.taints.unwrap_or_default().is_empty()
    })
    .await;
    until("the namespace has its account and CA", || async {
        let account = cluster.client.within::<ServiceAccount>("a").find("default").await.unwrap();
        account.is_some() && cluster.client.within::<ConfigMap>("a").find("kube-root-ca.crt").await.unwrap().is_some()
    })
    .await;

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template("one")}});
    cluster.create::<Deployment>("a", deployment).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.create::<Service>("a", service).await;
    let complete = || async {
        cluster.run_pods("a").await;
        let d = cluster.client.within::<Deployment>("a").get("web").await.unwrap();
        let status = d.status.unwrap_or_default();
        let reason = status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some("Progressing")).and_then(|c| c.reason.clone());
        status.observed_generation == d.metadata.generation
            && status.updated_replicas == Some(10)
            && status.available_replicas == Some(10)
            && status.replicas == Some(10)
            && reason.as_deref() == Some("NewReplicaSetAvailable")
    };
    until("the deployment is complete", complete).await;
    let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "two"}]);
    cluster.client.within::<Deployment>("a").patch("web", Patch::json(image)).await.unwrap();
    until("the update is complete", complete).await;
    until("the service shows its pods", || async {
        let slices = cluster.list::<EndpointSlice>("a").await;
        let endpoints = cluster.client.within::<Endpoints>("a").find("web").await.unwrap();
        let old = endpoints.and_then(|e| e.subsets).and_then(|s| s.into_iter().next()).and_then(|s| s.addresses);
        slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).sum::<usize>() == 10 && old.map(|a| a.len()) > Some(0)
    })
    .await;

    let stateful = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
    cluster.create::<StatefulSet>("a", stateful).await;
    until("the stateful set is complete", || async {
        cluster.run_pods("a").await;
        let status = cluster.client.within::<StatefulSet>("a").get("db").await.unwrap().status.unwrap_or_default();
        status.ready_replicas == Some(3) && status.current_revision == status.update_revision
    })
    .await;

    let foreground = Deletion { propagation_policy: Some("Foreground"), ..Deletion::default() };
    cluster.client.within::<Deployment>("a").delete("web", &foreground).await.unwrap();
    until("the deployment is gone with all it owned", || async {
        cluster.run_pods("a").await;
        let pods = cluster.list::<Pod>("a").await;
        let left = pods.iter().filter(|p| p.metadata.labels.as_ref().is_some_and(|l| l["app"] == "web")).count();
        left == 0 && cluster.client.within::<Deployment>("a").find("web").await.unwrap().is_none()
    })
    .await;
    cluster.client.all::<Namespace>().delete("a", &Deletion::default()).await.unwrap();
    until("the namespace is gone", || async {
        cluster.run_pods("a").await;
        let n = cluster.client.all::<Namespace>().find("a").await.unwrap();
        if let Some(n) = &n {
            eprintln!("{:#?}", n.status);
        }
        n.is_none()
    })
    .await;
}
