//! The ways from this machine to nodes on others. The node that lives on the machine's own network keeps them; where there is none, since
//! all nodes have network namespaces of their own, somebody must do it for them: the guard, who is there as long as the cluster runs.

use ipnet::IpNet;
use knarr_cli::cluster::config::Cluster;
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_client::SharedInformers;
use knarr_net::nodes;
use knarr_sys::inotify::{DELETE_SELF, Inotify, MOVED_TO};
use tokio_util::sync::CancellationToken;

/// Keeps the ways whenever nobody else does, until the cluster is gone.
pub async fn keep(cluster: &Cluster, informers: &SharedInformers, stop: &CancellationToken) -> Result<()> {
    let changes = Inotify::new().and_then(|i| i.watch(&cluster.data, MOVED_TO | DELETE_SELF).map(|()| i)).map_err(Failure::program)?;
    let mut keeping: Option<CancellationToken> = None;
    while Cluster::exists(&cluster.data) {
        match Cluster::load(&cluster.data) {
            Ok(now) if is_ours(&now) && keeping.is_none() => {
                let own = stop.child_token();
                nodes::start_machine(now.advertise, &pods(&now)?, informers, own.clone()).map_err(Failure::program)?;
                keeping = Some(own);
            }
            Ok(now) if !is_ours(&now) => {
                if let Some(own) = keeping.take() {
                    own.cancel();
                    clear(&now)?;
                }
            }
            _ => {}
        }
        changes.changed().await.map_err(Failure::program)?;
    }
    Ok(())
}

/// Takes the ways away that a guard has made for this cluster.
pub fn clear(cluster: &Cluster) -> Result<()> {
    nodes::remove_machine(&pods(cluster)?).map_err(Failure::program)
}

/// Whether there are nodes inside this machine and none on its own network.
fn is_ours(cluster: &Cluster) -> bool {
    let mut living = cluster.nodes.iter().filter(|n| !n.leaving).peekable();
    living.peek().is_some() && living.all(|n| n.index > 0) && !cluster.advertise.is_loopback()
}

fn pods(cluster: &Cluster) -> Result<Vec<IpNet>> {
    Ok(vec![cluster.pod_cidr.parse().map_err(Failure::program)?])
}
