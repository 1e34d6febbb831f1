//! What the cluster verbs need of this machine: nodes made and cleared away.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use knarr_cli::cluster::config::{Cluster, Node, private_folder};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_cli::cluster::process::Process;
use knarr_cli::cluster::slots::Ranges;
use knarr_cli::cluster::start::Machine;
use knarr_cli::cluster::supervise;

use crate::roles;

/// This machine.
pub struct Local;

#[async_trait::async_trait]
impl Machine for Local {
    async fn make_node(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        private_folder(&cluster.node_run(node))?;
        let runs = Process::from_pid_file(&cluster.pid_file(&Cluster::agent_role(node))).is_some();
        if node.index == 0 || runs {
            return Ok(());
        }
        roles::local_nodes(cluster)?.create(index(node)?).map(drop).map_err(Failure::program)
    }

    /// A process of its own does it: it must enter the node's namespaces. These are gone when the cluster was stopped before, or the machine, and
    /// are made once more, since what was made in them may still be noted.
    async fn clear_node(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        if node.index > 0 {
            let (nodes, index) = (roles::local_nodes(cluster)?, index(node)?);
            if !nodes.node(index).map_err(Failure::program)?.netns.exists() {
                nodes.create(index).map_err(Failure::program)?;
            }
        }
        let mut command = Command::new("/proc/self/exe");
        command.args(supervise::agent_args(cluster, &node.name)).arg("--clear").stdin(Stdio::null());
        let status = tokio::task::spawn_blocking(move || command.status()).await.map_err(Failure::program)?.map_err(Failure::program)?;
        if !status.success() {
            return Err(Failure::program(format!("node {} was not cleared away: {status}", node.name)));
        }
        if node.index == 0 { Ok(()) } else { roles::local_nodes(cluster)?.delete(index(node)?).map_err(Failure::program) }
    }

    async fn clear_machine(&self, cluster: &Cluster) -> Result<()> {
        roles::clear_ways(cluster)?;
        // Whatever nodes it has now: there may have been others.
        roles::local_nodes(cluster)?.delete_all().map_err(Failure::program)
    }

    fn check_apiserver_args(&self, args: &[String]) -> Result<()> {
        roles::check_apiserver_args(args)
    }

    fn remove_volumes(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        knarr_node::volumes::local::remove_all(&roles::local_volumes(cluster, node)).map_err(Failure::program)
    }

    fn node_address(&self, cluster: &Cluster, index: usize) -> IpAddr {
        // The first address is the machine's.
        let host = u32::try_from(index + 1).unwrap_or(u32::MAX);
        IpAddr::V4(Ipv4Addr::from_bits(Ranges::of(cluster.slot).transfer.network().to_bits().saturating_add(host)))
    }
}

fn index(node: &Node) -> Result<u32> {
    u32::try_from(node.index).map_err(Failure::program)
}
