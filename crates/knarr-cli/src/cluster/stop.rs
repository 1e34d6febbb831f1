//! `knarr stop` and `knarr delete`. Stop ends the pods and the processes and keeps the state; delete leaves nothing behind.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use knarr_client::{Api, Deletion, TlsTransport};
use knarr_core::Status;

use super::config::{Cluster, Desired};
use super::failure::{Exit, Failure, Result};
use super::kubeconfig;
use super::process::{self, Process};
use super::start::Machine;
use super::supervise::{self, RoleLock};

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);
/// A question to a server that may be hanging waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(3);

/// Stops the cluster. With `keep_pods` the containers go on running, and the next start finds them again.
pub async fn stop_cluster(cluster: &Cluster, machine: &dyn Machine, keep_pods: bool) -> Result<()> {
    let mut stopped = cluster.clone();
    stopped.desired = Desired::Stopped;
    stopped.save()?;
    for (role, _) in supervise::roles(cluster).iter().rev() {
        end_role(cluster, role).await?;
    }
    if !keep_pods {
        for node in &cluster.nodes {
            machine.clear_node(cluster, node).await?;
        }
        machine.clear_machine(cluster).await?;
    }
    println!("Stopped cluster {:?}", cluster.profile);
    Ok(())
}

/// Ends a role. Nobody starts it again: the file says so already, and whoever was about to start it has done so or looks again.
async fn end_role(cluster: &Cluster, role: &str) -> Result<()> {
    let (locked, wanted) = (cluster.clone(), role.to_owned());
    let _lock = tokio::task::spawn_blocking(move || RoleLock::take(&locked, &wanted)).await.map_err(Failure::program)??;
    if let Some(process) = Process::from_pid_file(&cluster.pid_file(role)) {
        tokio::task::spawn_blocking(move || process::end(&process, GRACE)).await.map_err(Failure::program)?;
    }
    let file = cluster.pid_file(role);
    match std::fs::remove_file(&file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::file(&file, &e)),
        _ => Ok(()),
    }
}

/// Takes a node out of the cluster. One on this machine is stopped, and what it left taken away; one that joined from another
/// does that itself when it sees that it is out.
pub async fn remove_node(cluster: &Cluster, machine: &dyn Machine, name: &str) -> Result<()> {
    if cluster.joined {
        let advice = format!("knarr node remove {name}, where the server is; knarr delete, to end the node here");
        return Err(Failure::new("JOINED", Exit::Cluster, "the cluster's nodes are managed where its server is", advice));
    }
    // Asked before anything is taken away: a Node object that nobody could delete would be believed in.
    let api = TlsTransport::new(kubeconfig::client_config(cluster)?).map_err(Failure::program)?.client().all::<Node>();
    match api.get(name).await {
        Err(status) if !status.is_not_found() => return Err(unanswered(cluster, &status)),
        _ => {}
    }
    let Some(node) = cluster.nodes.iter().find(|n| n.name == name).cloned() else {
        if forget_node(&api, name).await? {
            println!("Removed node {name:?}");
            return Ok(());
        }
        return Err(Failure::new("NO_NODE", Exit::Cluster, format!("the cluster has no node {name:?}"), "knarr kubectl get nodes"));
    };
    let mut left = cluster.clone();
    left.nodes.iter_mut().filter(|n| n.name == name).for_each(|n| n.leaving = true);
    left.save()?;
    end_role(cluster, &Cluster::agent_role(&node)).await?;
    machine.clear_node(cluster, &node).await?;
    left.nodes.retain(|n| n.name != name);
    left.save()?;
    remove_folder(&cluster.node_data(&node))?;
    forget_node(&api, name).await?;
    println!("Removed node {name:?}");
    Ok(())
}

/// The server does not answer, which of a stopped cluster is no wonder.
fn unanswered(cluster: &Cluster, status: &Status) -> Failure {
    let start = format!("knarr start --profile {}", cluster.profile);
    match cluster.desired {
        Desired::Stopped => Failure::new("STOPPED", Exit::Cluster, format!("cluster {:?} is stopped", cluster.profile), start),
        Desired::Running => Failure::new("API", Exit::Cluster, status.message.clone(), "knarr status"),
    }
}

/// Deletes the Node object, by which everybody learns that the node's pods are no more. Says whether there was one.
async fn forget_node(api: &Api<Node>, name: &str) -> Result<bool> {
    match api.delete(name, &Deletion::default()).await {
        Ok(_) => Ok(true),
        Err(status) if status.is_not_found() => Ok(false),
        Err(status) => Err(Failure::new("API", Exit::Cluster, status.message, "knarr status")),
    }
}

/// Deletes the cluster.
pub async fn delete_cluster(cluster: &Cluster, machine: &dyn Machine) -> Result<()> {
    // Before the stop: systemd would start the cluster again.
    super::systemd::remove(cluster)?;
    let listed = still_listed(cluster).await;
    stop_cluster(cluster, machine, false).await?;
    kubeconfig::forget(cluster)?;
    for node in &cluster.nodes {
        machine.remove_volumes(cluster, node)?;
    }
    for folder in [&cluster.run, &cluster.data] {
        remove_folder(folder)?;
    }
    super::slots::Registry::of_machine().release(cluster)?;
    println!("Deleted cluster {:?}", cluster.profile);
    for name in listed {
        println!("The cluster at {} still lists the node {name:?}; where its server is: knarr node remove {name}", cluster.server_url());
    }
    if let Some(datastore) = &cluster.datastore {
        println!("Its objects stay in etcd ({}), which is yours", datastore.endpoints.join(", "));
    }
    Ok(())
}

/// Nodes of this machine that a cluster elsewhere still has. They may not take themselves out of it.
async fn still_listed(cluster: &Cluster) -> Vec<String> {
    let Ok(transport) = kubeconfig::client_config(cluster).and_then(|c| TlsTransport::new(c).map_err(Failure::program)) else { return Vec::new() };
    let nodes = transport.client().all::<Node>();
    let mut found = Vec::new();
    for node in cluster.nodes.iter().filter(|_| cluster.joined) {
        let asked = tokio::time::timeout(PATIENCE, nodes.find(&node.name)).await;
        found.extend(asked.is_ok_and(|answer| !matches!(answer, Ok(None))).then(|| node.name.clone()));
    }
    found
}

fn remove_folder(folder: &std::path::Path) -> Result<()> {
    knarr_sys::tree::remove(folder).map_err(|e| Failure::file(folder, &e))
}
