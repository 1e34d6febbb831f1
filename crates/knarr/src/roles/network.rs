//! The pod network as the node agent wants it, over the one that `knarr-net` has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use knarr_cli::cluster::config::{Cluster, Node, private_folder};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_net::network::Config;
use knarr_net::pods::{HostPort, PodNetwork, Protocol, Sandbox};
use knarr_node::network as wanted;
use knarr_runtime::cri::SandboxStatus;
use tokio::sync::watch;

/// Ports of the service proxy, as upstream has them.
const PROXY_HEALTH_PORT: u16 = 10256;
const PROXY_METRICS_PORT: u16 = 10249;

/// The node's pod network. Clones are the same network.
#[derive(Clone)]
pub struct Network(PodNetwork);

impl Network {
    pub fn new(pods: PodNetwork) -> Self {
        Self(pods)
    }
}

fn sandbox(status: &SandboxStatus, ports: &[wanted::HostPort]) -> Option<Sandbox> {
    Some(Sandbox {
        id: status.id.clone(),
        netns: status.netns.clone()?,
        ips: status.ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        host_ports: ports.iter().map(host_port).collect(),
    })
}

fn host_port(port: &wanted::HostPort) -> HostPort {
    let protocol = match port.protocol {
        wanted::Protocol::Tcp => Protocol::Tcp,
        wanted::Protocol::Udp => Protocol::Udp,
        wanted::Protocol::Sctp => Protocol::Sctp,
    };
    HostPort { protocol, host_ip: port.host_ip, host_port: port.host_port, container_port: port.container_port }
}

fn failed(error: impl std::fmt::Display) -> wanted::Error {
    wanted::Error(error.to_string())
}

#[async_trait]
impl wanted::PodNetwork for Network {
    async fn attach(&self, status: &SandboxStatus, pod: &wanted::PodAttachment) -> wanted::Result<Vec<IpAddr>> {
        let sandbox = sandbox(status, &pod.host_ports).ok_or_else(|| failed("the sandbox has no network namespace"))?;
        self.0.attach(&sandbox).await.map_err(failed)
    }

    async fn detach(&self, status: &SandboxStatus, pod: &wanted::PodAttachment) -> wanted::Result<()> {
        match sandbox(status, &pod.host_ports) {
            Some(sandbox) => self.0.detach(&sandbox).await.map_err(failed),
            None => Ok(()),
        }
    }

    async fn restore(&self, sandboxes: &[(SandboxStatus, wanted::PodAttachment)]) -> wanted::Result<()> {
        let known: Vec<Sandbox> = sandboxes.iter().filter_map(|(status, pod)| sandbox(status, &pod.host_ports)).collect();
        self.0.restore(&known).await.map_err(failed)
    }

    fn problem(&self) -> watch::Receiver<Option<String>> {
        self.0.problem()
    }
}

/// What the node's network is to be like.
pub fn config(cluster: &Cluster, node: &Node) -> Result<Config> {
    let folder = cluster.node_data(node);
    private_folder(&folder)?;
    let network = |text: &str| text.parse().map_err(Failure::program);
    Ok(Config {
        cluster_cidrs: vec![network(&cluster.pod_cidr)?],
        service_cidrs: vec![network(&cluster.service_cidr)?],
        cluster_domain: cluster.cluster_domain.clone(),
        cluster_dns: vec![cluster.cluster_dns],
        proxy_health_address: Some(SocketAddr::new(node.address, PROXY_HEALTH_PORT)),
        proxy_metrics_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_METRICS_PORT))),
        ..Config::new(&node.name, folder)
    })
}
