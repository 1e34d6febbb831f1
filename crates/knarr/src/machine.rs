//! What the cluster verbs need of this machine: nodes made and cleared away.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use knarr_cli::cluster::config::{Cluster, Node};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_cli::cluster::start::Machine;
use knarr_cli::cluster::supervise;

/// This machine.
pub struct Local;

#[async_trait::async_trait]
impl Machine for Local {
    async fn make_node(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        knarr_cli::cluster::config::private_folder(&cluster.node_run(node))?;
        if node.index == 0 {
            return Ok(());
        }
        Err(Failure::program("nodes beside the first are not there yet"))
    }

    /// A process of its own does it: it must enter the node's namespaces.
    async fn clear_node(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.args(supervise::agent_args(cluster, &node.name)).arg("--clear").stdin(Stdio::null());
        let status = tokio::task::spawn_blocking(move || command.status()).await.map_err(Failure::program)?.map_err(Failure::program)?;
        if status.success() { Ok(()) } else { Err(Failure::program(format!("node {} was not cleared away: {status}", node.name))) }
    }

    fn node_address(&self, cluster: &Cluster, index: usize) -> IpAddr {
        let part = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        IpAddr::from([10, 89, part(cluster.slot), part(index + 1)])
    }
}
