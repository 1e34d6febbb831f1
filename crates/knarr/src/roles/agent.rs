//! One node: runtime, pod network, service proxy, DNS and the node agent, in one process.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use knarr_apiserver::pki::{self, Leaf, Pki, Shown};
use knarr_cli::cluster::config::{Cluster, Node, private_folder};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_cli::cluster::process::Home;
use knarr_cli::cluster::slots::Ranges;
use knarr_client::tls::Config as ClientConfig;
use knarr_client::{Client, Recorder, SharedInformers, TlsTransport};
use knarr_core::clock::Env;
use knarr_net::nodes::ANNOTATION_MACHINE;
use knarr_net::nodes::local::{LocalNodes, Outer};
use knarr_node::{Agent, AgentConfig, Parts, ServingConfig};
use knarr_runtime::{Embedded, EmbeddedConfig, Hosts, Runtime};
use knarr_sys::netlink::NetNs;
use tokio_util::sync::CancellationToken;

use super::joined::{self, Certificates};
use super::network::Network;
use super::renewal::keep_fresh;
use super::tls;

/// Where a node stands: what it still holds of the machine outside, when it lives in a namespace of its own.
#[derive(Default)]
pub struct Place {
    outer: Option<Outer>,
    /// The machine's own network, from which registries are reached.
    machine: Option<Arc<NetNs>>,
}

impl Place {
    /// Where the cluster's other processes are to be started.
    pub fn home(&self) -> Home {
        Home::at(self.machine.clone())
    }
}

/// The namespaces of a cluster's nodes on this machine.
pub fn local_nodes(cluster: &Cluster) -> Result<LocalNodes> {
    Ok(LocalNodes::new(&cluster.profile, Ranges::of(cluster.slot).transfer))
}

/// Puts this process, which must have a single thread, into the network namespace of a node that does not live on the machine's.
pub fn enter_node(cluster: &Cluster, node: &Node) -> Result<Place> {
    if node.index == 0 {
        return Ok(Place::default());
    }
    let machine = NetNs::current().map_err(Failure::program)?;
    let index = u32::try_from(node.index).map_err(Failure::program)?;
    let outer = local_nodes(cluster)?.node(index).and_then(|n| n.enter()).map_err(Failure::program)?;
    Ok(Place { outer: Some(outer), machine: Some(Arc::new(machine)) })
}

/// Runs until told to stop. The pods go on running.
pub async fn run(cluster: &Cluster, node: &Node, place: Place) -> Result<()> {
    let env = Env::system();
    let stop = CancellationToken::new();
    let identity = Identity::of(cluster, node, &env)?;
    let (client, network_client) = (Client::new(identity.client.clone()), Client::new(identity.network.clone()));
    let services = SharedInformers::new(network_client, env.clone(), stop.clone());
    if let Some(certificates) = identity.renewed {
        joined::leave_when_removed(cluster, node, &services);
        certificates.keep(client.clone(), vec![identity.client, identity.network], env.clone(), stop.clone());
    }
    let runtime = open_runtime(cluster, node, place.machine).await?;
    let network = knarr_net::network::start(&super::network::config(cluster, node)?, &services, place.outer, &env, &stop).map_err(Failure::program)?;
    let events = Recorder::start(client.clone(), "kubelet", &node.name, env.clone(), stop.clone());
    let parts =
        Parts { client, runtime: Arc::new(runtime), network: Arc::new(Network::new(network.pods.clone())), events: Arc::new(events), env, mounter: None };
    let agent = Agent::new(agent_config(cluster, node, identity.serving), parts);
    let cancel = stop.clone();
    let running = tokio::spawn(agent.run(cancel));
    super::until_told_to_stop().await?;
    stop.cancel();
    drop(network);
    running.await.map_err(Failure::program)?.map_err(Failure::program)
}

/// Ends every pod of the node and takes away what the node has made. Nothing else of the node may run.
pub async fn clear(cluster: &Cluster, node: &Node) -> Result<()> {
    let runtime = open_runtime(cluster, node, None).await?;
    knarr_net::network::remove(&super::network::config(cluster, node)?).map_err(Failure::program)?;
    for sandbox in runtime.list_pod_sandboxes().await.map_err(Failure::program)? {
        runtime.stop_pod_sandbox(&sandbox.id).await.map_err(Failure::program)?;
        runtime.remove_pod_sandbox(&sandbox.id).await.map_err(Failure::program)?;
    }
    super::traces::remove(cluster, node)
}

/// The node's certificates: one pair that serves the node API and asks the API server as the node, and one for the service proxy
/// and DNS, which see every Service. Both are renewed while the agent runs.
struct Identity {
    client: Arc<TlsTransport>,
    network: Arc<TlsTransport>,
    serving: ServingConfig,
    /// Those of a node that joined are renewed while it runs.
    renewed: Option<Certificates>,
}

impl Identity {
    fn of(cluster: &Cluster, node: &Node, env: &Env) -> Result<Self> {
        if !cluster.joined {
            return Self::make(cluster, node, env);
        }
        let own = Certificates::open(cluster, node)?;
        let transport = |agent| TlsTransport::new(own.client(agent)?).map(Arc::new).map_err(Failure::program);
        Ok(Self { client: transport("kubelet")?, network: transport("kube-proxy")?, serving: own.serving()?, renewed: Some(own) })
    }

    fn make(cluster: &Cluster, node: &Node, env: &Env) -> Result<Self> {
        let pki = Arc::new(Pki::load_or_create(&cluster.pki(), env.now()).map_err(Failure::program)?);
        let (pair, proxy) = (node_pair(&pki, node), proxy_pair(&pki, node));
        let (first, first_proxy) = (pair(env.now()).map_err(Failure::program)?, proxy(env.now()).map_err(Failure::program)?);
        let transport = |identity: &pki::Identity, agent: &str| -> Result<Arc<TlsTransport>> {
            let mut config = ClientConfig::new(cluster.server_url());
            config.certificate_authority = Some(pki.ca.certificate.clone().into_bytes());
            config.client_certificate = Some((identity.certificate.clone().into_bytes(), identity.key.clone().into_bytes()));
            config.user_agent = format!("{agent}/{}", knarr_core::KUBERNETES_VERSION);
            Ok(Arc::new(TlsTransport::new(config).map_err(Failure::program)?))
        };
        let (client, network) = (transport(&first, "kubelet")?, transport(&first_proxy, "kube-proxy")?);
        let shown = Shown::new(&first).map_err(Failure::program)?;
        let serving = ServingConfig { tls: tls::server(shown.clone(), Some(&pki.ca.certificate), &["h2", "http/1.1"])? };
        let own = client.clone();
        keep_fresh("node", env, &first, pair, move |made| shown.set(made).and_then(|()| exchange(&own, made)));
        let own = network.clone();
        keep_fresh("kube-proxy", env, &first_proxy, proxy, move |made| exchange(&own, made));
        Ok(Self { client, network, serving, renewed: None })
    }
}

fn exchange(transport: &TlsTransport, made: &pki::Identity) -> std::result::Result<(), String> {
    transport.set_identity(made.certificate.as_bytes(), made.key.as_bytes()).map_err(|e| e.to_string())
}

fn node_pair(pki: &Arc<Pki>, node: &Node) -> impl Fn(Timestamp) -> pki::Result<pki::Identity> + Send + 'static {
    let (pki, name, addresses) = (pki.clone(), node.name.clone(), [node.address, IpAddr::from([127, 0, 0, 1])]);
    move |now| {
        let user = format!("system:node:{name}");
        let names = std::slice::from_ref(&name);
        let leaf = Leaf { common_name: &user, organization: Some("system:nodes"), dns_names: names, addresses: &addresses, client: true, server: true };
        pki.leaf(&format!("node-{name}"), &leaf, now)
    }
}

fn proxy_pair(pki: &Arc<Pki>, node: &Node) -> impl Fn(Timestamp) -> pki::Result<pki::Identity> + Send + 'static {
    let (pki, name) = (pki.clone(), node.name.clone());
    move |now| {
        let leaf = Leaf { common_name: "system:kube-proxy", organization: Some("system:coredns"), dns_names: &[], addresses: &[], client: true, server: false };
        pki.leaf(&format!("kube-proxy-{name}"), &leaf, now)
    }
}

/// Opens the node's runtime. Nodes of one cluster share one content store.
async fn open_runtime(cluster: &Cluster, node: &Node, registry_network: Option<Arc<NetNs>>) -> Result<Embedded> {
    let (root, run) = (cluster.node_data(node).join("runtime"), cluster.node_run(node).join("runtime"));
    for folder in [&root, &run, &images_folder(cluster)] {
        private_folder(folder)?;
    }
    let mut config = EmbeddedConfig::new(root, run);
    config.images = Some(images_folder(cluster));
    config.registry_network = registry_network;
    config.endpoints = Box::new(Hosts::of_machine());
    Embedded::open(config).await.map_err(Failure::program)
}

pub fn images_folder(cluster: &Cluster) -> PathBuf {
    cluster.data.join("images")
}

/// Where a node notes its local volumes.
pub fn local_volumes(cluster: &Cluster, node: &Node) -> PathBuf {
    cluster.node_data(node).join("local-volumes")
}

/// The default profile's first node has upstream's folders, which other programs look for; others have their own.
pub fn folders(cluster: &Cluster, node: &Node) -> (PathBuf, PathBuf, PathBuf) {
    if node.index == 0 {
        return ("/var/lib/kubelet".into(), "/var/log/pods".into(), "/var/log/containers".into());
    }
    let data = cluster.node_data(node);
    (data.join("kubelet"), data.join("log/pods"), data.join("log/containers"))
}

/// A node inside this machine says where other machines find it.
fn annotations(cluster: &Cluster, node: &Node) -> BTreeMap<String, String> {
    let known = node.index > 0 && !cluster.advertise.is_loopback();
    known.then(|| (ANNOTATION_MACHINE.to_owned(), cluster.advertise.to_string())).into_iter().collect()
}

fn agent_config(cluster: &Cluster, node: &Node, serving: ServingConfig) -> AgentConfig {
    let (root_dir, pod_log_dir, container_log_dir) = folders(cluster, node);
    AgentConfig {
        addresses: vec![node.address],
        seccomp_dir: root_dir.join("seccomp"),
        root_dir,
        local_volumes_dir: Some(local_volumes(cluster, node)),
        pod_log_dir,
        container_log_dir,
        cluster_dns: vec![cluster.cluster_dns],
        cluster_domain: cluster.cluster_domain.clone(),
        port: node.kubelet_port,
        serving: Some(serving),
        annotations: annotations(cluster, node),
        ..AgentConfig::new(&node.name)
    }
}
