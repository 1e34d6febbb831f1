//! One node: runtime, pod network, service proxy, DNS and the node agent, in one process.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use knarr_apiserver::pki::{Leaf, Pki};
use knarr_cli::cluster::config::{Cluster, Node, private_folder};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_cli::cluster::process::Home;
use knarr_cli::cluster::slots::Ranges;
use knarr_client::tls::Config as ClientConfig;
use knarr_client::{Recorder, SharedInformers, TlsTransport};
use knarr_core::clock::Env;
use knarr_net::nodes::local::{LocalNodes, Outer};
use knarr_node::{Agent, AgentConfig, Parts, ServingConfig};
use knarr_runtime::{Embedded, EmbeddedConfig, Hosts, Runtime};
use knarr_sys::netlink::NetNs;
use tokio_util::sync::CancellationToken;

use super::network::Network;
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
    let identity = Identity::make(cluster, node, &env)?;
    let client = TlsTransport::new(identity.client).map_err(Failure::program)?.client();
    let network_client = TlsTransport::new(identity.network).map_err(Failure::program)?.client();
    let services = SharedInformers::new(network_client, env.clone(), stop.clone());
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
/// and DNS, which see every Service.
struct Identity {
    client: ClientConfig,
    network: ClientConfig,
    serving: ServingConfig,
}

impl Identity {
    fn make(cluster: &Cluster, node: &Node, env: &Env) -> Result<Self> {
        let pki = Pki::load_or_create(&cluster.pki(), env.now()).map_err(Failure::program)?;
        let user = format!("system:node:{}", node.name);
        let leaf = Leaf {
            common_name: &user,
            organization: Some("system:nodes"),
            dns_names: std::slice::from_ref(&node.name),
            addresses: &[node.address, IpAddr::from([127, 0, 0, 1])],
            client: true,
            server: true,
        };
        let pair = pki.leaf(&format!("node-{}", node.name), &leaf, env.now()).map_err(Failure::program)?;
        let proxy =
            Leaf { common_name: "system:kube-proxy", organization: Some("system:coredns"), dns_names: &[], addresses: &[], client: true, server: false };
        let proxy = pki.leaf(&format!("kube-proxy-{}", node.name), &proxy, env.now()).map_err(Failure::program)?;
        let config = |identity: &knarr_apiserver::pki::Identity, agent: &str| {
            let mut config = ClientConfig::new(cluster.server_url());
            config.certificate_authority = Some(pki.ca.certificate.clone().into_bytes());
            config.client_certificate = Some((identity.certificate.clone().into_bytes(), identity.key.clone().into_bytes()));
            config.user_agent = format!("{agent}/{}", knarr_core::KUBERNETES_VERSION);
            config
        };
        let serving = ServingConfig { tls: tls::server(&pair, Some(&pki.ca.certificate), &["h2", "http/1.1"])? };
        Ok(Self { client: config(&pair, "kubelet"), network: config(&proxy, "kube-proxy"), serving })
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

/// The default profile's first node has upstream's folders, which other programs look for; others have their own.
pub fn folders(cluster: &Cluster, node: &Node) -> (PathBuf, PathBuf, PathBuf) {
    if node.index == 0 {
        return ("/var/lib/kubelet".into(), "/var/log/pods".into(), "/var/log/containers".into());
    }
    let data = cluster.node_data(node);
    (data.join("kubelet"), data.join("log/pods"), data.join("log/containers"))
}

fn agent_config(cluster: &Cluster, node: &Node, serving: ServingConfig) -> AgentConfig {
    let (root_dir, pod_log_dir, container_log_dir) = folders(cluster, node);
    AgentConfig {
        addresses: vec![node.address],
        seccomp_dir: root_dir.join("seccomp"),
        root_dir,
        pod_log_dir,
        container_log_dir,
        cluster_dns: vec![cluster.cluster_dns],
        cluster_domain: cluster.cluster_domain.clone(),
        port: node.kubelet_port,
        serving: Some(serving),
        ..AgentConfig::new(&node.name)
    }
}
