//! The second process that answers each node's names: the guard. It shares the port with the node's agent, from sockets in the node's
//! network namespace, so that a name is known while the agent is started again; and the agent answers while the guard is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_cli::cluster::config::{Cluster, Node};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_client::SharedInformers;
use knarr_core::clock::Env;
use knarr_net::dns;
use knarr_sys::inotify::{DELETE_SELF, Inotify, MOVED_TO};
use knarr_sys::netlink::NetNs;
use tokio_util::sync::CancellationToken;

/// A network that is not there yet is looked for again after this time.
const RETRY: Duration = Duration::from_millis(500);

/// Answers for every node of this machine, those that come later too, until the cluster is gone.
pub async fn answer(cluster: &Cluster, informers: &SharedInformers, env: &Env, stop: &CancellationToken) -> Result<()> {
    let config = dns::Config::new(&cluster.cluster_domain, &[cluster.cluster_dns]);
    let server = dns::Server::new(&config, informers, env.clone()).map_err(Failure::program)?;
    server.wait_synced().await;
    let changes = Inotify::new().and_then(|i| i.watch(&cluster.data, MOVED_TO | DELETE_SELF).map(|()| i)).map_err(Failure::program)?;
    let mut answered = Answered { server, by_node: BTreeMap::new(), stop: stop.clone() };
    while Cluster::exists(&cluster.data) {
        let complete = Cluster::load(&cluster.data).is_ok_and(|now| answered.keep(&now));
        tokio::select! {
            seen = changes.changed() => seen.map_err(Failure::program)?,
            () = tokio::time::sleep(RETRY), if !complete => {}
        }
    }
    Ok(())
}

/// The networks that are answered in: by node, with the namespace's id.
struct Answered {
    server: dns::Server,
    by_node: BTreeMap<String, (u64, CancellationToken)>,
    stop: CancellationToken,
}

impl Answered {
    /// Answers in the networks of these nodes and of no others. False when one of them could not be had.
    fn keep(&mut self, cluster: &Cluster) -> bool {
        let wanted: Vec<&Node> = cluster.nodes.iter().filter(|n| !n.leaving).collect();
        self.by_node.retain(|name, (_, stop)| {
            let stays = wanted.iter().any(|n| n.name == *name);
            if !stays {
                stop.cancel();
            }
            stays
        });
        wanted.into_iter().fold(true, |all, node| {
            let done = self.join(cluster, node);
            if let Err(error) = &done {
                tracing::debug!(node = node.name, %error, "names are not answered beside the agent yet");
            }
            all && done.is_ok()
        })
    }

    fn join(&mut self, cluster: &Cluster, node: &Node) -> Result<()> {
        let network = network(cluster, node)?;
        let network = NetNs::open(&network).map_err(|e| Failure::file(&network, &e))?;
        let id = network.id().map_err(Failure::program)?;
        if self.by_node.get(&node.name).is_some_and(|(known, _)| *known == id) {
            return Ok(());
        }
        let opened = network.run(|| self.server.open(1)).map_err(Failure::program)?.map_err(Failure::program)?;
        let stop = self.stop.child_token();
        self.server.serve(opened, &stop).map_err(Failure::program)?;
        if let Some((_, before)) = self.by_node.insert(node.name.clone(), (id, stop)) {
            before.cancel();
        }
        Ok(())
    }
}

/// Where a node's network namespace is; the guard itself is on the machine's.
fn network(cluster: &Cluster, node: &Node) -> Result<PathBuf> {
    let Some(index) = u32::try_from(node.index).ok().filter(|i| *i > 0) else { return Ok(Path::new("/proc/self/ns/net").into()) };
    Ok(super::local_nodes(cluster)?.node(index).map_err(Failure::program)?.netns)
}
