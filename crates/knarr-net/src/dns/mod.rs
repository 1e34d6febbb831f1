//! Cluster DNS, answered on every node from the same informers that the service proxy uses.
//!
//! ```text
//! pod ─► 10.96.0.10:53, an address of its own node ─► zone (pure) ─► answer
//!                                                     └─ not ours ─► cache ─► the node's own resolvers
//! ```
//!
//! The server's address is on the node's `lo`, so that packets end on the node they came from, without any translation. The
//! service proxy must leave the address alone: [`own_fronts`] tells it which.

mod cache;
mod directory;
mod packet;
mod prepared;
mod respond;
mod server;
mod upstream;
mod zone;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use knarr_client::SharedInformers;
use knarr_core::clock::Env;
use knarr_sys::netlink::{self, RouteSocket, route};
use tokio_util::sync::CancellationToken;

use crate::pods::Protocol;
use crate::pods::link::LOOPBACK;
use directory::Informed;
use prepared::Prepared;
use respond::Responder;
use upstream::{Source, Upstream};
use zone::Zone;

pub const PORT: u16 = 53;
/// Sockets for each address at most, one for each processor: the kernel spreads clients over them.
const SOCKETS_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is no domain: {1}")]
    Domain(String, hickory_proto::ProtoError),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("cannot serve DNS on {address}: {source}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// What stays the same while a node runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `cluster.local`
    pub domain: String,
    /// Where the server answers: the ClusterIP of `kube-system/kube-dns`. Put on `lo` as an address of this machine only.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// Where the node's resolvers are written down.
    pub resolv_conf: PathBuf,
    /// Whether the node can reach a resolver on 127.0.0.0/8: not from a network namespace of its own.
    pub loopback_resolvers: bool,
}

impl Config {
    pub fn new(domain: impl Into<String>, addresses: &[IpAddr]) -> Self {
        Self { domain: domain.into(), addresses: addresses.to_vec(), port: PORT, resolv_conf: "/etc/resolv.conf".into(), loopback_resolvers: true }
    }
}

/// The fronts that this server answers: what [`crate::proxy::Config::own_fronts`] is to have.
pub fn own_fronts(config: &Config) -> Vec<(Ipv4Addr, Protocol, u16)> {
    let v4 = config.addresses.iter().filter_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None });
    v4.flat_map(|a| [(a, Protocol::Udp, config.port), (a, Protocol::Tcp, config.port)]).collect()
}

/// A server that knows the cluster and answers wherever it is told to: for its own node, or, beside that node's agent, for several
/// nodes of a machine, so that names are known when one of the processes ends.
#[derive(Clone)]
pub struct Server {
    responder: Arc<Responder>,
    informed: Arc<Informed>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// # Errors
    /// The domain is none.
    pub fn new(config: &Config, informers: &SharedInformers, env: Env) -> Result<Self, Error> {
        let informed = Arc::new(Informed::new(informers));
        let own = config.addresses.iter().copied().collect();
        let source = Source { resolv_conf: config.resolv_conf.clone(), loopback: config.loopback_resolvers, own };
        let known = informed.clone();
        let responder = Arc::new(Responder {
            zone: Zone::new(&config.domain, config.addresses.first().copied()).map_err(|e| Error::Domain(config.domain.clone(), e))?,
            directory: informed.clone(),
            upstream: Upstream::new(source, env.clone()),
            prepared: Prepared::default(),
            is_ready: Box::new(move || known.has_synced()),
            env,
        });
        Ok(Self { responder, informed, addresses: config.addresses.iter().map(|a| SocketAddr::new(*a, config.port)).collect() })
    }

    /// Waits until it knows the cluster.
    pub async fn wait_synced(&self) {
        self.informed.wait_synced().await;
    }

    /// Opens sockets in the network namespace of the calling thread, so many for each address.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open(&self, count: usize) -> Result<Opened, Error> {
        let each = self.addresses.iter().flat_map(|a| std::iter::repeat_n(*a, count));
        each.map(|address| server::open_shared(address).map_err(|source| Error::Bind { address, source })).collect::<Result<_, _>>().map(Opened)
    }

    /// Answers through these sockets until `stop`. It must know the cluster: who asks an unknowing process is not asked again by the other.
    ///
    /// # Errors
    /// Another program has the address.
    pub fn serve(&self, opened: Opened, stop: &CancellationToken) -> Result<(), Error> {
        for sockets in opened.0 {
            let address = sockets.address();
            sockets.serve(&self.responder, stop).map_err(|source| Error::Bind { address, source })?;
        }
        Ok(())
    }
}

/// Sockets that are opened, but do not take questions yet.
pub struct Opened(Vec<server::Sockets>);

/// Starts the server of the calling thread's network namespace. It answers as soon as the informers know everything; until then
/// others may answer there.
///
/// # Errors
/// The domain is none, or the addresses cannot be had.
pub fn start(config: &Config, informers: &SharedInformers, env: Env, stop: &CancellationToken) -> Result<(), Error> {
    let server = Server::new(config, informers, env)?;
    add_addresses(&config.addresses)?;
    let opened = server.open(sockets_of_a_server())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = server.wait_synced() => if let Err(error) = server.serve(opened, &stop) {
                tracing::error!(%error, "names are not answered by this node's agent");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}

/// For each address.
fn sockets_of_a_server() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(SOCKETS_MAX)
}

fn add_addresses(addresses: &[IpAddr]) -> Result<(), Error> {
    let changes = addresses.iter().map(|a| route::add_address(LOOPBACK, IpNet::from(*a), route::Scope::Host));
    let mut socket = RouteSocket::open()?;
    socket.apply(&[netlink::link::set_up(LOOPBACK)])?;
    Ok(socket.apply(&changes.collect::<Vec<_>>())?)
}

/// Takes the server's addresses away again. For the end of a profile.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(config: &Config) -> Result<(), Error> {
    let changes: Vec<_> = config.addresses.iter().map(|a| route::delete_address(LOOPBACK, IpNet::from(*a))).collect();
    Ok(RouteSocket::open()?.remove(&changes)?)
}

#[cfg(test)]
mod tests;
