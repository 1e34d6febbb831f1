//! What the node agent asks of the pod network. The agent knows no links, routes or rules: it names a sandbox and gets
//! addresses back. `knarr-net` implements this.

use std::collections::BTreeMap;
use std::net::IpAddr;

use async_trait::async_trait;
use knarr_runtime::cri::SandboxStatus;
use tokio::sync::watch;

/// Why a sandbox could not be attached or detached. The text ends in a `FailedCreatePodSandBox` or `FailedKillPod` event.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of the node that leads to a port of the pod (`containers[].ports[].hostPort`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub protocol: Protocol,
    /// Only this address of the node; all of them when absent.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// What the network may want to know of the pod behind a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAttachment {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub host_ports: Vec<HostPort>,
    /// The pod's annotations (`kubernetes.io/ingress-bandwidth` and the like).
    pub annotations: BTreeMap<String, String>,
}

/// Links sandboxes to the pod network. Never called for pods with the node's network. Calls for one sandbox come one
/// after the other; those for different sandboxes run side by side.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the namespace at `sandbox.netns` its link, addresses, routes and host ports, and returns the addresses, that of
    /// the node's primary family first. `lo` is up already. A failed attach leaves nothing behind.
    async fn attach(&self, sandbox: &SandboxStatus, pod: &PodAttachment) -> Result<Vec<IpAddr>>;

    /// Takes back what `attach` gave; the namespace still exists. Detaching what is not attached succeeds.
    async fn detach(&self, sandbox: &SandboxStatus, pod: &PodAttachment) -> Result<()>;

    /// Called once, before anything else, with the sandboxes that survived a restart of the agent (`sandbox.ips` holds their
    /// addresses). They keep links, addresses and host ports; what belongs to no sandbox in the list is to be freed.
    async fn restore(&self, sandboxes: &[(SandboxStatus, PodAttachment)]) -> Result<()>;

    /// Why pods cannot be attached now, if so: the node's `Ready` condition follows it. The default is a network that
    /// is ready at once.
    fn problem(&self) -> watch::Receiver<Option<String>> {
        watch::channel(None).1
    }
}
