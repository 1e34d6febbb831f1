//! The pod network of one node: every pod hangs on a routed veth pair of its own, without a bridge.
//!
//! ```text
//! pod:   eth0 10.244.1.5/32, default via 169.254.1.1 (a neighbour that is always the other end of the pair)
//! node:  knarr1a2b3c4d5e ── route 10.244.1.5/32      lo 10.244.1.1/32: the node's own address towards its pods
//!        lo ── route 10.244.1.0/24: addresses that no pod has
//! ```
//!
//! The node routes; nothing floods, nothing is learnt, and replies on one node need no `br_netfilter`. What leaves the
//! cluster is masqueraded, host ports are entries of one map ([`rules`]), addresses are files in a folder ([`addresses`]).

mod addresses;
pub(crate) mod link;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use knarr_sys::netlink::{self, NetNs, RouteSocket};
use knarr_sys::nft::{self, KernelNft, Nft};
use parking_lot::Mutex;
use tokio::sync::watch;

use addresses::AddressPool;

/// How long a detached link waits for its namespace to take it along.
const BURIAL_DELAY: Duration = Duration::from_secs(1);
/// The group of links that wait for their end; a number that nobody else uses.
const DEAD_GROUP: u32 = 0x6b6e_6172;

/// Why pods cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no pod CIDR has been assigned to this node yet")]
    NoPodCidr,
    #[error("all addresses of {0} are in use")]
    Exhausted(Ipv4Net),
    #[error("{0} is no network that pods can get addresses from")]
    UnusablePodCidr(IpNet),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the network worker ended: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Attributes a failure to a file.
fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::File { path: path.to_owned(), source }
}

/// A transport protocol, by its number in IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    /// As the API names it; the empty name is TCP.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// A port of the node that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub protocol: Protocol,
    /// Only this address of the node; all of them when absent.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// A pod's sandbox as the network sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Addresses from an earlier attach; empty before.
    pub ips: Vec<IpAddr>,
    pub host_ports: Vec<HostPort>,
}

/// What stays the same while a node runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for the addresses in use; it survives restarts of the agent.
    pub folder: PathBuf,
    /// Pods of all nodes live here: traffic to these networks keeps its source.
    pub cluster_cidrs: Vec<IpNet>,
    /// MTU of pods; unset follows the link of the default route, minus the room that an overlay needs.
    pub mtu: Option<u32>,
    /// Name of the packet filter's table.
    pub table: String,
}

impl Config {
    pub fn new(folder: impl Into<PathBuf>, cluster_cidrs: &[IpNet]) -> Self {
        Self { folder: folder.into(), cluster_cidrs: cluster_cidrs.to_vec(), mtu: None, table: "knarr-pods".into() }
    }
}

struct State {
    pool: Option<AddressPool>,
    /// Addresses and host ports of attached sandboxes, by id.
    attached: BTreeMap<String, (Ipv4Addr, Vec<HostPort>)>,
    host: RouteSocket,
    rules: Box<dyn Nft>,
    mtu: u32,
    /// Links of detached sandboxes that may still be there.
    dead_links: Vec<String>,
}

struct Inner {
    config: Config,
    state: Mutex<State>,
    problem: watch::Sender<Option<String>>,
    /// Deletes dead links, which takes its time.
    undertaker: Mutex<RouteSocket>,
    /// Whether that is about to happen.
    burying: AtomicBool,
}

/// The pod network of one node. Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork(Arc<Inner>);

impl PodNetwork {
    /// Works in the network namespace of the calling thread. Makes it forward packets.
    ///
    /// # Errors
    /// The kernel refuses, or `/proc/sys` is read-only and forwarding is off.
    pub fn new(config: Config) -> Result<Self> {
        enable_forwarding()?;
        let mut host = RouteSocket::open()?;
        host.apply(&[netlink::link::set_up(link::LOOPBACK)])?;
        let mtu = config.mtu.map_or_else(|| link::pod_mtu(&mut host), Ok)?;
        let state = State { pool: None, attached: BTreeMap::new(), host, rules: Box::new(KernelNft::open()?), mtu, dead_links: Vec::new() };
        let problem = watch::Sender::new(Some(Error::NoPodCidr.to_string()));
        Ok(Self(Arc::new(Inner { config, state: Mutex::new(state), problem, undertaker: Mutex::new(RouteSocket::open()?), burying: AtomicBool::new(false) })))
    }

    /// Why pods cannot be attached now, if so.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.0.problem.subscribe()
    }

    /// Tells the network its `spec.podCIDR`. The first call makes it ready; the same value again changes nothing.
    ///
    /// # Errors
    /// The network is too small, its folder cannot be written, or the kernel refuses.
    pub fn set_pod_cidr(&self, cidr: IpNet) -> Result<()> {
        let IpNet::V4(cidr) = cidr else { return Err(Error::UnusablePodCidr(cidr)) };
        let mut state = self.0.state.lock();
        if state.pool.as_ref().is_some_and(|p| p.network() == cidr) {
            return Ok(());
        }
        let pool = AddressPool::open(cidr, &self.0.config.folder)?;
        let own = netlink::route::add_address(link::LOOPBACK, IpNet::from(IpAddr::V4(pool.gateway())), netlink::route::Scope::Universe);
        state.host.apply(&[own, netlink::route::set_route(&way_of_the_gone(cidr))])?;
        state.pool = Some(pool);
        self.install_rules(&mut state)?;
        self.0.problem.send_replace(None);
        Ok(())
    }

    /// Links a sandbox: gives its namespace `eth0`, an address and routes, and opens its host ports. Attaching again gives
    /// the same address and a fresh link.
    ///
    /// # Errors
    /// No pod CIDR yet, no free address, or the kernel's refusal; then nothing is left behind.
    pub async fn attach(&self, sandbox: &Sandbox) -> Result<Vec<IpAddr>> {
        let (this, sandbox) = (self.clone(), sandbox.clone());
        tokio::task::spawn_blocking(move || this.attach_now(&sandbox)).await?
    }

    /// Takes back what [`Self::attach`] gave. Detaching what is not attached succeeds.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn detach(&self, sandbox: &Sandbox) -> Result<()> {
        let (this, id) = (self.clone(), sandbox.id.clone());
        let done = tokio::task::spawn_blocking(move || this.detach_now(&id)).await?;
        if !self.0.burying.swap(true, Ordering::SeqCst) {
            let this = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(BURIAL_DELAY).await;
                this.0.burying.store(false, Ordering::SeqCst);
                match tokio::task::spawn_blocking(move || this.bury_now()).await {
                    Ok(Ok(())) => (),
                    Ok(Err(error)) => tracing::warn!(%error, "cannot delete the links of ended pods"),
                    Err(error) => tracing::warn!(%error, "cannot delete the links of ended pods"),
                }
            });
        }
        done
    }

    /// Called once at start with the sandboxes that outlived an earlier agent: they keep links, addresses and host ports;
    /// what belongs to none of them is freed.
    ///
    /// # Errors
    /// The kernel's refusal, or a folder that cannot be read.
    pub async fn restore(&self, sandboxes: &[Sandbox]) -> Result<()> {
        let (this, sandboxes) = (self.clone(), sandboxes.to_vec());
        tokio::task::spawn_blocking(move || this.restore_now(&sandboxes)).await?
    }

    /// Like [`Self::attach`], on the calling thread.
    pub fn attach_now(&self, sandbox: &Sandbox) -> Result<Vec<IpAddr>> {
        let netns = NetNs::open(&sandbox.netns).map_err(at(&sandbox.netns))?;
        let (address, wire) = {
            let mut state = self.0.state.lock();
            let name = link::name(&sandbox.id);
            state.dead_links.retain(|dead| *dead != name);
            let pool = state.pool.as_mut().ok_or(Error::NoPodCidr)?;
            let address = pool.allocate(&sandbox.id)?;
            (address, link::Wire { name, address, source: pool.gateway(), mtu: state.mtu, strict: true })
        };
        let done = self.connect(sandbox, &netns, &wire);
        if done.is_err()
            && let Err(e) = self.detach_now(&sandbox.id)
        {
            tracing::warn!(sandbox = sandbox.id, error = %e, "could not undo a failed attach");
        }
        done.map(|()| vec![address.into()])
    }

    fn connect(&self, sandbox: &Sandbox, netns: &NetNs, wire: &link::Wire) -> Result<()> {
        link::connect_host(&mut self.0.state.lock().host, netns, wire)?;
        netns.run(|| link::connect_pod(wire)).map_err(at(&sandbox.netns))??;
        link::wait_until_operational(&wire.name, || self.0.state.lock().host.link(&wire.name))?;
        let mut state = self.0.state.lock();
        let old = state.attached.insert(sandbox.id.clone(), (wire.address, sandbox.host_ports.clone()));
        let changes = rules::replace_host_ports(&self.0.config.table, old.as_ref(), state.attached.get(&sandbox.id));
        self.change_rules(&mut state, &changes)
    }

    /// Like [`Self::detach`], on the calling thread. The link itself stays until [`Self::bury_now`], or until its namespace
    /// goes, which is soon and costs nothing extra; no packet takes it any more.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub fn detach_now(&self, id: &str) -> Result<()> {
        let mut state = self.0.state.lock();
        let old = state.attached.remove(id);
        if let Some(address) = old.as_ref().map(|(address, _)| *address).or_else(|| state.pool.as_ref()?.address_of(id)) {
            let way = netlink::route::Route::direct(link::host_net(address), 0);
            state.host.remove(&[netlink::route::delete_route(&way)])?;
        }
        self.change_rules(&mut state, &rules::replace_host_ports(&self.0.config.table, old.as_ref(), None))?;
        state.dead_links.push(link::name(id));
        state.pool.as_mut().map_or(Ok(()), |pool| pool.free(id))
    }

    /// Deletes the links of detached sandboxes, all at once.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn bury_now(&self) -> Result<()> {
        let mut state = self.0.state.lock();
        let names = std::mem::take(&mut state.dead_links);
        let alive: BTreeSet<String> = state.attached.keys().map(|id| link::name(id)).collect();
        let dead: Vec<_> = names.iter().filter(|name| !alive.contains(*name)).map(|name| netlink::link::set_group(name, DEAD_GROUP)).collect();
        if dead.is_empty() {
            return Ok(());
        }
        state.host.remove(&dead)?;
        // Attaching must not wait for this.
        drop(state);
        Ok(self.0.undertaker.lock().remove(&[netlink::link::delete_group(DEAD_GROUP)])?)
    }

    /// Like [`Self::restore`], on the calling thread.
    pub fn restore_now(&self, sandboxes: &[Sandbox]) -> Result<()> {
        let alive: BTreeSet<&str> = sandboxes.iter().map(|s| s.id.as_str()).collect();
        addresses::release_all_but(&self.0.config.folder, &alive)?;
        let mut state = self.0.state.lock();
        if let Some(pool) = &mut state.pool {
            pool.reload()?;
        }
        let names: BTreeSet<_> = alive.iter().map(|id| link::name(id)).collect();
        let leaked = state.host.links()?.into_iter().filter(|l| link::is_ours(&l.name) && !names.contains(&l.name));
        state.dead_links = leaked.map(|l| l.name).collect();
        state.attached = sandboxes.iter().filter_map(|s| Some((s.id.clone(), (ipv4_of(s)?, s.host_ports.clone())))).collect();
        self.install_rules(&mut state)?;
        drop(state);
        self.bury_now()
    }

    /// [`remove`] for this network.
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self) -> Result<()> {
        remove(&self.0.config)
    }

    /// Makes changes to the table; where it is not as expected (somebody flushed it), it is written anew.
    fn change_rules(&self, state: &mut State, changes: &nft::Batch) -> Result<()> {
        let Err(error) = state.rules.apply(changes) else { return Ok(()) };
        if error.already_exists() {
            return Err(error.into());
        }
        tracing::warn!(%error, "the pod network's rules were changed by somebody else, writing them anew");
        self.install_rules(state)
    }

    /// Writes the whole table anew, in one step.
    fn install_rules(&self, state: &mut State) -> Result<()> {
        let pod_cidr = state.pool.as_ref().map(AddressPool::network);
        let batch = rules::table(&self.0.config.table, pod_cidr, &self.0.config.cluster_cidrs, state.attached.values());
        Ok(state.rules.apply(&batch)?)
    }
}

/// Takes away every trace of a pod network in the kernel, from the network namespace of the calling thread: rules, links and
/// the node's own address. For the end of a profile; its folder is the caller's.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(config: &Config) -> Result<()> {
    let mut host = RouteSocket::open()?;
    let ours: Vec<_> = host.links()?.into_iter().filter(|l| link::is_ours(&l.name)).map(|l| l.name).collect();
    host.remove(&ours.iter().map(|name| netlink::link::set_group(name, DEAD_GROUP)).collect::<Vec<_>>())?;
    host.remove(&[netlink::link::delete_group(DEAD_GROUP)])?;
    let inside = |net: &IpNet| config.cluster_cidrs.iter().any(|cidr| cidr.contains(net));
    let own = host.addresses()?.into_iter().filter(|(index, net, _)| *index == link::LOOPBACK && inside(net));
    let mut own: Vec<_> = own.map(|(_, net, _)| netlink::route::delete_address(link::LOOPBACK, net)).collect();
    let ways = host.own_routes(false)?.into_iter().filter(|way| way.link == link::LOOPBACK && inside(&way.destination));
    own.extend(ways.map(|way| netlink::route::delete_route(&way)));
    host.remove(&own)?;
    Ok(KernelNft::open()?.apply(nft::Batch::new(nft::Family::Ip, &config.table).remove_table())?)
}

/// The way of packets to addresses that no pod has now; [`rules`] answers them.
fn way_of_the_gone(pod_cidr: Ipv4Net) -> netlink::route::Route {
    netlink::route::Route::direct(IpNet::V4(pod_cidr), link::LOOPBACK)
}

fn ipv4_of(sandbox: &Sandbox) -> Option<Ipv4Addr> {
    sandbox.ips.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None })
}

/// Lets the machine (the network namespace of the calling thread) pass packets on.
pub(crate) fn enable_forwarding() -> Result<()> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    if std::fs::read_to_string(path).map_err(at(path))?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(path, "1").map_err(at(path))
}

#[cfg(test)]
mod tests;
