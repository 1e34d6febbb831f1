//! NetworkPolicy: which pods may talk to which, enforced on the nodes of both.
//!
//! ```text
//! forward ─► egress: established? else who is the sender ─► its policies ─► accept, or drop at the end
//!         └► ingress: the same for the receiver
//! ```
//!
//! Selectors become sets of addresses, shared by all policies that use them; a pod that comes or goes changes elements, no
//! rules. Pods of this node that the same policies select share a chain. Traffic between a node and its own pods is always
//! allowed, as the API promises, and so is a pod's traffic to itself; open connections go on when policies change.
//!
//! Nothing is watched beyond NetworkPolicies until there is one.

mod model;
mod table;
mod view;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod as ApiPod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use knarr_client::{Informer, Project, SharedInformers};
use knarr_sys::nft::{Batch, Family, KernelNft, Nft};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use model::{Cluster, Model};
use table::Table;
use view::{Labels, Pod, Policy};

pub use knarr_sys::netlink::{Error, Result};

/// Name of the packet filter's table.
pub const TABLE_DEFAULT: &str = "knarr-policy";
/// How often we look whether somebody took the table away.
const INTACT_CHECK_PERIOD: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Running enforcement. It ends with its `stop` token and leaves the rules.
pub struct Enforcer {
    synced: watch::Receiver<u64>,
}

impl Enforcer {
    /// Counts the times that everything known was brought into the kernel. 0: not yet.
    pub fn synced(&self) -> watch::Receiver<u64> {
        self.synced.clone()
    }
}

/// Enforces policies for the pods of one node, in the network namespace of the calling thread.
///
/// # Errors
/// The kernel refuses the socket.
pub fn start(node_name: &str, table: &str, informers: &SharedInformers, stop: CancellationToken) -> Result<Enforcer> {
    let table = Table::new(Box::new(KernelNft::open()?), table);
    let changed: Arc<Notify> = Arc::default();
    let policies: Informer<Policy> = informers.all::<NetworkPolicy, _>();
    wake_on_change(&policies, &changed);
    let (sender, synced) = watch::channel(0);
    let worker = Worker { node_name: node_name.to_owned(), informers: informers.clone(), policies, others: None, changed, table: Some(table), synced: sender };
    tokio::spawn(async move {
        tokio::select! {
            () = worker.run() => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(Enforcer { synced })
}

/// Takes the table away, from the network namespace of the calling thread.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(table: &str) -> Result<()> {
    KernelNft::open()?.apply(Batch::new(Family::Ip, table).remove_table())
}

fn wake_on_change<P: Project + PartialEq>(informer: &Informer<P>, changed: &Arc<Notify>) {
    let changed = changed.clone();
    informer.on_change(move |change| {
        if change.old.as_ref().map(|i| &i.view) != change.new.as_ref().map(|i| &i.view) {
            changed.notify_one();
        }
    });
}

/// What is looked at only when there are policies.
struct Others {
    pods: Informer<Pod>,
    namespaces: Informer<Labels>,
}

struct Worker {
    node_name: String,
    informers: SharedInformers,
    policies: Informer<Policy>,
    others: Option<Others>,
    changed: Arc<Notify>,
    table: Option<Table>,
    synced: watch::Sender<u64>,
}

impl Worker {
    async fn run(mut self) {
        self.policies.wait_synced().await;
        let mut check_at = Instant::now() + INTACT_CHECK_PERIOD;
        loop {
            if self.others.is_none() && !self.policies.store().is_empty() {
                self.look_around().await;
            }
            let model = self.model();
            if !self.apply(move |table| table.sync(&model)).await {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            self.synced.send_modify(|n| *n += 1);
            loop {
                tokio::select! {
                    () = self.changed.notified() => break,
                    () = tokio::time::sleep_until(check_at) => {
                        check_at = Instant::now() + INTACT_CHECK_PERIOD;
                        if !self.apply(Table::check).await {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Starts to watch pods and namespaces.
    async fn look_around(&mut self) {
        let (pods, namespaces) = (self.informers.all::<ApiPod, Pod>(), self.informers.all::<Namespace, Labels>());
        pods.wait_synced().await;
        namespaces.wait_synced().await;
        wake_on_change(&pods, &self.changed);
        wake_on_change(&namespaces, &self.changed);
        self.others = Some(Others { pods, namespaces });
    }

    fn model(&self) -> Model {
        let Some(others) = &self.others else { return Model::default() };
        let (policies, pods, namespaces) = (self.policies.store().list(), others.pods.store().list(), others.namespaces.store().list());
        let cluster = Cluster {
            node_name: &self.node_name,
            policies: policies.iter().map(|p| (&p.key, &p.view)).collect(),
            pods: pods.iter().map(|p| (p.key.namespace(), &p.view)).collect(),
            namespaces: namespaces.iter().map(|n| (n.key.name(), &n.view)).collect(),
        };
        model::model(&cluster)
    }

    /// Does something to the table on a thread where waiting for the kernel harms nobody; says whether it worked.
    async fn apply(&mut self, work: impl FnOnce(&mut Table) -> Result<()> + Send + 'static) -> bool {
        let Some(mut table) = self.table.take() else { return false };
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut table);
            (table, done)
        });
        let Ok((table, done)) = done.await else { return false };
        self.table = Some(table);
        done.inspect_err(|error| tracing::error!(%error, "cannot bring network policies into the kernel")).is_ok()
    }
}

#[cfg(test)]
mod tests;
