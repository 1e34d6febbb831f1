//! The pod network as the node agent wants it, over the one that `knarr-net` has.

use std::net::IpAddr;

use async_trait::async_trait;
use knarr_cli::cluster::config::{Cluster, Node, private_folder};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_net::dns;
use knarr_net::pods::{self, Config, HostPort, PodNetwork, Protocol, Sandbox};
use knarr_node::network as wanted;
use knarr_runtime::cri::SandboxStatus;
use tokio::sync::watch;

/// The node's pod network. Clones are the same network.
#[derive(Clone)]
pub struct Network(PodNetwork, Config);

impl Network {
    pub fn new(cluster: &Cluster, node: &Node) -> Result<Self> {
        let folder = cluster.node_data(node).join("network");
        private_folder(&folder)?;
        let config = Config::new(folder, &super::agent::cluster_cidrs(cluster)?);
        Ok(Self(PodNetwork::new(config.clone()).map_err(Failure::program)?, config))
    }

    pub fn pods(&self) -> PodNetwork {
        self.0.clone()
    }

    /// Detaches a sandbox of which only the runtime knows.
    pub async fn forget(&self, status: &SandboxStatus) -> Result<()> {
        match sandbox(status, &[]) {
            Some(sandbox) => self.0.detach(&sandbox).await.map_err(Failure::program),
            None => Ok(()),
        }
    }

    /// Takes every trace of it out of the kernel.
    pub fn remove(&self) -> Result<()> {
        pods::remove(&self.1).map_err(Failure::program)
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

/// How the node's own DNS server is set up.
pub fn dns_config(cluster: &Cluster, node: &Node) -> dns::Config {
    let mut config = dns::Config::new(&cluster.cluster_domain, &[cluster.cluster_dns]);
    config.loopback_resolvers = node.index == 0;
    config
}
