//! The service proxy: what kube-proxy does, by maps instead of chains.
//!
//! ```text
//! Services, EndpointSlices ─► compile (pure) ─► entries ─► table (difference) ─► nf_tables batch
//! ```
//!
//! One lookup finds what to do for (address, protocol, port), one more the endpoint. A change touches the elements that
//! differ. Chains exist per number of endpoints, since the kernel wants the modulus of a random number as a constant.

mod compile;
mod endpoints;
mod entry;
mod flows;
mod health;
mod layout;
mod table;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use knarr_client::read::Key;
use knarr_client::{Informer, SharedInformers};
use knarr_core::clock::Env;
use knarr_sys::netlink::conntrack::ConntrackSocket;
use knarr_sys::nft::{Batch, Family, KernelNft, Nft};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pods::Protocol;
use crate::view::{self, SLICES_BY_SERVICE};
use compile::{Compiled, FlowEnds, OwnFronts, compile};
use endpoints::NodeView;
use health::{Health, HealthCheckPorts};
use table::Table;

pub use knarr_sys::netlink::{Error, Result};

/// How often the proxy looks whether somebody took its table away (kube-proxy's sync period).
const INTACT_CHECK_PERIOD: Duration = Duration::from_secs(30);
/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Names of the table, for [`Config::table`].
pub const TABLE_DEFAULT: &str = "knarr-services";

/// What stays the same while a node runs.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// Name of the packet filter's table.
    pub table: String,
    /// Pods of all nodes live here; everybody else's traffic to ClusterIPs gets the node's address.
    pub cluster_cidrs: Vec<IpNet>,
    /// Fronts that a server on this node answers itself, DNS above all: packets to them are left alone.
    pub own_fronts: Vec<(Ipv4Addr, Protocol, u16)>,
    /// `/healthz`, usually on port 10256; unset serves none.
    pub health_address: Option<SocketAddr>,
    /// `/metrics`, usually on port 10249; unset serves none.
    pub metrics_address: Option<SocketAddr>,
}

impl Config {
    pub fn new(node_name: impl Into<String>, cluster_cidrs: &[IpNet]) -> Self {
        Self {
            node_name: node_name.into(),
            table: TABLE_DEFAULT.into(),
            cluster_cidrs: cluster_cidrs.to_vec(),
            own_fronts: Vec::new(),
            health_address: None,
            metrics_address: None,
        }
    }
}

/// Services that wait to be brought into the kernel.
#[derive(Default)]
struct Pending {
    services: Mutex<(BTreeSet<Key>, Vec<jiff::Timestamp>)>,
    wake: Notify,
}

impl Pending {
    fn add(&self, service: Key, triggered_at: Option<jiff::Timestamp>) {
        let mut pending = self.services.lock();
        pending.0.insert(service);
        pending.1.extend(triggered_at);
        drop(pending);
        self.wake.notify_one();
    }

    fn take(&self) -> (BTreeSet<Key>, Vec<jiff::Timestamp>) {
        std::mem::take(&mut *self.services.lock())
    }
}

/// How far a proxy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// How often everything that was known then was brought into the kernel. 0: not yet.
    pub times: u64,
    /// How long the last time took.
    pub took: Duration,
}

/// A running proxy. It ends with its `stop` token and leaves the rules, so that connections go on.
pub struct ServiceProxy {
    synced: watch::Receiver<Synced>,
}

/// Starts the proxy of the network namespace of the calling thread.
///
/// # Errors
/// The kernel refuses the sockets (no CAP_NET_ADMIN).
pub fn start(config: Config, informers: &SharedInformers, env: Env, stop: CancellationToken) -> Result<ServiceProxy> {
    let table = Table::new(Box::new(KernelNft::open()?), &config.table, &config.cluster_cidrs);
    let kernel = Kernel { table, conntrack: ConntrackSocket::open()? };
    let health = Health::new(env);
    if let Some(address) = config.health_address {
        tokio::spawn(health::serve_health(address, health.clone(), stop.clone()));
    }
    if let Some(address) = config.metrics_address {
        tokio::spawn(health::serve_metrics(address, health.clone(), stop.clone()));
    }
    let (sender, synced) = watch::channel(Synced::default());
    let worker = Worker::new(config, informers, health, kernel, sender, stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = worker.run() => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(ServiceProxy { synced })
}

/// Takes the table of a proxy away, from the network namespace of the calling thread. For the end of a profile.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(table: &str) -> Result<()> {
    KernelNft::open()?.apply(Batch::new(Family::Ip, table).remove_table())
}

impl ServiceProxy {
    /// A receiver that sees each step of its progress.
    pub fn synced(&self) -> watch::Receiver<Synced> {
        self.synced.clone()
    }
}

/// What is done on a thread where waiting for the kernel harms nobody.
struct Kernel {
    table: Table,
    conntrack: ConntrackSocket,
}

impl Kernel {
    fn sync(&mut self, changes: Vec<(Key, Compiled)>, lost: Vec<FlowEnds>, node: &NodeView) -> Result<()> {
        self.table.sync(changes)?;
        if !lost.is_empty() {
            let forgotten = flows::forget_stale(&mut self.conntrack, lost, &node.ips)?;
            tracing::debug!(forgotten, "looked through flows");
        }
        Ok(())
    }
}

struct Worker {
    config: Config,
    own_fronts: OwnFronts,
    services: Informer<view::Service>,
    slices: Informer<view::Slice>,
    nodes: Informer<view::Node>,
    pending: Arc<Pending>,
    health: Arc<Health>,
    health_checks: HealthCheckPorts,
    kernel: Option<Kernel>,
    synced: watch::Sender<Synced>,
}

impl Worker {
    fn new(config: Config, informers: &SharedInformers, health: Arc<Health>, kernel: Kernel, synced: watch::Sender<Synced>, stop: CancellationToken) -> Self {
        let worker = Self {
            own_fronts: config.own_fronts.iter().copied().collect(),
            services: informers.all::<k8s_openapi::api::core::v1::Service, _>(),
            slices: view::slices(informers),
            nodes: informers.all::<k8s_openapi::api::core::v1::Node, _>(),
            pending: Arc::default(),
            health_checks: HealthCheckPorts::new(health.clone(), stop),
            kernel: Some(kernel),
            config,
            health,
            synced,
        };
        worker.listen();
        worker
    }

    /// Every change says which Services it concerns.
    fn listen(&self) {
        let (pending, health) = (self.pending.clone(), self.health.clone());
        self.services.on_change(move |change| {
            health.queued();
            pending.add(change.key().clone(), None);
        });
        let (pending, health) = (self.pending.clone(), self.health.clone());
        self.slices.on_change(move |change| {
            health.queued();
            for item in [&change.old, &change.new].into_iter().flatten() {
                if !item.view.service.is_empty() {
                    let triggered_at = change.new.as_ref().and_then(|n| n.view.triggered_at);
                    pending.add(Key::new(item.key.namespace(), &item.view.service), triggered_at);
                }
            }
        });
        let (pending, services, name) = (self.pending.clone(), self.services.clone(), self.config.node_name.clone());
        self.nodes.on_change(move |change| {
            let differs = change.old.as_ref().map(|o| &o.view) != change.new.as_ref().map(|n| &n.view);
            if change.key().name() == name && differs {
                services.store().list().iter().for_each(|s| pending.add(s.key.clone(), None));
            }
        });
    }

    async fn run(mut self) {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
        // The first pass writes the table even when there is nothing to put into it.
        let mut force = true;
        let mut check_at = Instant::now() + INTACT_CHECK_PERIOD;
        loop {
            let (services, triggered_at) = self.pending.take();
            if !services.is_empty() || force {
                force = !self.sync(&services, &triggered_at).await;
                if force {
                    services.into_iter().for_each(|s| self.pending.add(s, None));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
            tokio::select! {
                () = self.pending.wake.notified() => {}
                () = tokio::time::sleep_until(check_at) => {
                    force = !self.is_intact().await;
                    check_at = Instant::now() + INTACT_CHECK_PERIOD;
                }
            }
        }
    }

    /// Brings Services into the kernel; says whether that worked.
    async fn sync(&mut self, services: &BTreeSet<Key>, triggered_at: &[jiff::Timestamp]) -> bool {
        let began = Instant::now();
        let Some(mut kernel) = self.kernel.take() else { return false };
        let node = self.node();
        let changes: Vec<_> = services.iter().map(|key| (key.clone(), self.compile(key, &node, &kernel.table))).collect();
        let nothing = Compiled::default();
        let lost = changes.iter().flat_map(|(key, new)| new.lost_since(kernel.table.compiled(key).unwrap_or(&nothing))).collect();
        for (key, compiled) in &changes {
            self.health_checks.set(key, compiled.health_check);
        }
        let work = tokio::task::spawn_blocking(move || {
            let done = kernel.sync(changes, lost, &node);
            (kernel, done)
        });
        let done = match work.await {
            Ok((kernel, done)) => {
                self.kernel = Some(kernel);
                done.map_err(|e| e.to_string())
            }
            Err(panic) => Err(panic.to_string()),
        };
        match done {
            Ok(()) => {
                self.health.synced(began.elapsed(), triggered_at);
                self.synced.send_modify(|s| *s = Synced { times: s.times + 1, took: began.elapsed() });
                tracing::debug!(services = services.len(), took = ?began.elapsed(), "services are in the kernel");
                true
            }
            Err(error) => {
                self.health.failed();
                tracing::error!(error, "cannot bring services into the kernel");
                false
            }
        }
    }

    fn compile(&self, key: &Key, node: &NodeView, table: &Table) -> Compiled {
        let Some(service) = self.services.store().get(key) else { return Compiled::default() };
        let slices = self.slices.store().by_index(SLICES_BY_SERVICE, key.as_str());
        let views: Vec<_> = slices.iter().map(|s| &s.view).collect();
        let nothing = Compiled::default();
        compile(&service.view, &views, node, &self.own_fronts, table.compiled(key).unwrap_or(&nothing))
    }

    fn node(&self) -> NodeView {
        let found = self.nodes.store().find("", &self.config.node_name);
        let (zone, ips) = found.map(|n| (n.view.zone.to_string(), n.view.internal_ips.clone())).unwrap_or_default();
        NodeView { name: self.config.node_name.clone(), zone, ips }
    }

    async fn is_intact(&mut self) -> bool {
        let Some(mut kernel) = self.kernel.take() else { return false };
        let work = tokio::task::spawn_blocking(move || {
            let intact = kernel.table.is_intact();
            (kernel, intact)
        });
        let Ok((kernel, intact)) = work.await else { return false };
        self.kernel = Some(kernel);
        match intact {
            Ok(true) => true,
            Ok(false) => {
                tracing::warn!("somebody took the services' table away or changed it, writing it anew");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look at the services' table");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
