//! The way from node to node.
//!
//! A node that shares a link with us gets a plain route to its pods; one behind a gateway, which knows nothing of pods, is
//! reached through VXLAN. Everything follows from Node objects: pod CIDR and internal address. Link-layer addresses of VXLAN
//! devices are made of the nodes' addresses, so nodes need not tell them to each other. A node in a network namespace of its own is
//! behind the machine around it, as an annotation tells ([`crate::view::ANNOTATION_MACHINE`]); ways from there to other machines are
//! those of the node that lives on the machine's network, or, without one, are made by [`start_machine`].
//!
//! - [`plan`]: which routes there should be. Pure.
//! - [`local`]: several nodes on one machine, each in a network namespace of its own.

pub mod local;
mod plan;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use knarr_client::read::Key;
use knarr_client::{Informer, SharedInformers};
use knarr_sys::netlink::link::{self, Ipv4Setting, Vxlan};
use knarr_sys::netlink::route::{self, ROUTE_PROTOCOL, ROUTE_PROTOCOL_MACHINE, Route, Scope};
use knarr_sys::netlink::{self, RouteSocket};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use crate::view::ANNOTATION_MACHINE;

use crate::pods::PodNetwork;
use crate::pods::link::{OVERLAY_OVERHEAD, uplink_mtu};
use crate::view::Node;
use local::Outer;
use plan::{Peer, Plan, Reach, plan, vtep_mac};

/// Name of the overlay's device.
const VXLAN_LINK: &str = "knarr-vxlan";
/// Tells our overlay from others that use the same port.
const VXLAN_ID: u32 = 0x6b_6e;
/// The port that firewalls are opened for with flannel and k3s.
const VXLAN_PORT: u16 = 8472;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Pods(#[from] crate::pods::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("node {0} does not fit into the transfer network {1}")]
    NoRoom(u32, ipnet::Ipv4Net),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Follows Node objects: tells the pod network its pod CIDR and keeps the routes to other nodes' pods. Works in the network
/// namespace of the calling thread. `outer` is set for a node in a namespace of its own: the machine outside then knows the
/// way to all nodes, and this node's part is to tell it its own pod CIDR.
///
/// # Errors
/// The kernel refuses a socket.
pub fn start(node_name: &str, informers: &SharedInformers, pods: PodNetwork, outer: Option<Outer>, stop: CancellationToken) -> Result<NodeRoutes> {
    let own = Own::Node { name: node_name.to_owned(), pods };
    follow(own, Kernel::open(outer, Marks::node())?, informers, stop)
}

/// The same for a machine that is no node itself, for the nodes inside it: keeps the ways from there to nodes on other machines.
/// `address` is where those find this one; pods of the cluster live in `cluster_cidrs`.
///
/// # Errors
/// The kernel refuses a socket.
pub fn start_machine(address: IpAddr, cluster_cidrs: &[IpNet], informers: &SharedInformers, stop: CancellationToken) -> Result<NodeRoutes> {
    follow(Own::Machine { address }, Kernel::open(None, Marks::machine(cluster_cidrs))?, informers, stop)
}

fn follow(own: Own, kernel: Kernel, informers: &SharedInformers, stop: CancellationToken) -> Result<NodeRoutes> {
    let nodes: Informer<Node> = informers.all::<k8s_openapi::api::core::v1::Node, _>();
    let changed: Arc<(Mutex<Vec<Key>>, Notify)> = Arc::default();
    let (notify, sender) = (changed.clone(), watch::Sender::new(0));
    nodes.on_change(move |change| {
        let before = change.old.as_ref().map(|i| &i.view);
        if before != change.new.as_ref().map(|i| &i.view) {
            notify.0.lock().push(change.key().clone());
            notify.1.notify_one();
        }
    });
    let synced = sender.subscribe();
    let worker = Worker { own, nodes, kernel: Arc::new(Mutex::new(kernel)), reach: BTreeMap::new(), synced: sender };
    tokio::spawn(async move { worker.run(&changed, &stop).await });
    Ok(NodeRoutes { synced })
}

/// Running node routes. They stay when this ends.
pub struct NodeRoutes {
    synced: watch::Receiver<u64>,
}

impl NodeRoutes {
    /// Counts the times that everything known was brought into the kernel.
    pub fn synced(&self) -> watch::Receiver<u64> {
        self.synced.clone()
    }

    /// Waits for the end: from then on nothing is changed in the kernel any more.
    pub async fn ended(mut self) {
        while self.synced.changed().await.is_ok() {}
    }
}

/// Whose ways are kept.
enum Own {
    Node { name: String, pods: PodNetwork },
    Machine { address: IpAddr },
}

impl Own {
    /// Its name among the nodes, and what the others see of it. A machine stands for all nodes inside it.
    fn among(&self, nodes: &[(String, Node)]) -> (String, Node) {
        match self {
            Self::Node { name, .. } => (name.clone(), nodes.iter().find(|(other, _)| other == name).map(|(_, node)| node.clone()).unwrap_or_default()),
            Self::Machine { address } => {
                let mut pod_cidrs: Vec<IpNet> = nodes.iter().filter(|(_, n)| n.machine == Some(*address)).flat_map(|(_, n)| n.pod_cidrs.clone()).collect();
                pod_cidrs.sort();
                (String::new(), Node { pod_cidrs, internal_ips: vec![*address], ..Node::default() })
            }
        }
    }
}

struct Worker {
    own: Own,
    nodes: Informer<Node>,
    kernel: Arc<Mutex<Kernel>>,
    /// How each node's address is reached.
    reach: BTreeMap<IpAddr, Reach>,
    synced: watch::Sender<u64>,
}

impl Worker {
    /// Stops between two changes, never within one.
    async fn run(mut self, changed: &(Mutex<Vec<Key>>, Notify), stop: &CancellationToken) {
        let mut waited = stop.run_until_cancelled(self.nodes.wait_synced()).await;
        while waited.is_some() {
            let keys = std::mem::take(&mut *changed.0.lock());
            if let Err(error) = self.sync().await {
                tracing::warn!(%error, "cannot bring the routes to other nodes about");
                changed.0.lock().extend(keys);
                // Ways may have changed.
                self.reach.clear();
                waited = stop.run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await;
                continue;
            }
            waited = stop.run_until_cancelled(changed.1.notified()).await;
        }
    }

    async fn sync(&mut self) -> Result<()> {
        let nodes: Vec<_> = self.nodes.store().list().into_iter().map(|item| (item.key.name().to_owned(), item.view.clone())).collect();
        let (name, own) = self.own.among(&nodes);
        let pods = if let Own::Node { pods, .. } = &self.own { Some(pods.clone()) } else { None };
        let kernel = self.kernel.clone();
        let mut reach = std::mem::take(&mut self.reach);
        let work = tokio::task::spawn_blocking(move || {
            if let (Some(pods), Some(cidr)) = (pods, own.pod_cidrs.iter().find(|c| matches!(c, IpNet::V4(_)))) {
                pods.set_pod_cidr(*cidr)?;
            }
            kernel.lock().sync(&name, &own, &nodes, &mut reach)?;
            Ok::<_, Error>(reach)
        });
        self.reach = work.await.map_err(std::io::Error::other)??;
        self.synced.send_modify(|n| *n += 1);
        Ok(())
    }
}

/// By what routes are known as those of one set: several may be kept on one machine.
#[derive(Clone, Debug)]
struct Marks {
    protocol: u8,
    /// Where they lead; empty for anywhere.
    within: Vec<IpNet>,
}

impl Marks {
    fn node() -> Self {
        Self { protocol: ROUTE_PROTOCOL, within: Vec::new() }
    }

    fn machine(cluster_cidrs: &[IpNet]) -> Self {
        Self { protocol: ROUTE_PROTOCOL_MACHINE, within: cluster_cidrs.to_vec() }
    }

    fn way(&self, net: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Route {
        Route { protocol: self.protocol, ..Route::via(IpNet::V4(net), gateway.into(), link) }
    }

    /// Those with a gateway: routes to pods of the node itself have none.
    fn routes(&self, socket: &mut RouteSocket) -> netlink::Result<Vec<Route>> {
        let ours = |route: &Route| route.gateway.is_some() && (self.within.is_empty() || self.within.iter().any(|net| net.contains(&route.destination)));
        Ok(socket.routes_by(self.protocol, false)?.into_iter().filter(ours).collect())
    }

    fn remove(&self) -> Result<()> {
        let mut socket = RouteSocket::open()?;
        let routes: Vec<_> = self.routes(&mut socket)?.iter().map(route::delete_route).collect();
        socket.remove(&routes)?;
        let Some(vxlan) = socket.link(VXLAN_LINK)?.map(|l| l.index) else { return Ok(()) };
        let mut others = socket.routes_by(ROUTE_PROTOCOL, false)?;
        others.extend(socket.routes_by(ROUTE_PROTOCOL_MACHINE, false)?);
        // Another cluster of this machine may use it, too.
        if others.iter().all(|route| route.link != vxlan) {
            socket.remove(&[link::delete(VXLAN_LINK)])?;
        }
        Ok(())
    }
}

/// The kernel's side.
struct Kernel {
    socket: RouteSocket,
    outer: Option<Outer>,
    marks: Marks,
    /// What is known to be there; none before the first look.
    current: Option<Plan>,
}

impl Kernel {
    fn open(outer: Option<Outer>, marks: Marks) -> Result<Self> {
        Ok(Self { socket: RouteSocket::open()?, outer, marks, current: None })
    }

    fn sync(&mut self, name: &str, own: &Node, nodes: &[(String, Node)], reach: &mut BTreeMap<IpAddr, Reach>) -> Result<()> {
        if let Some(outer) = &mut self.outer {
            let cidrs: Vec<_> = own.pod_cidrs.iter().filter(|c| matches!(c, IpNet::V4(_))).copied().collect();
            return Ok(outer.announce(&cidrs)?);
        }
        for address in plan::places(nodes) {
            if let Entry::Vacant(unknown) = reach.entry(address) {
                unknown.insert(self.find_way(address)?);
            }
        }
        let wanted = plan(name, nodes, reach);
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.look()?,
        };
        if !wanted.peers.is_empty() {
            self.ensure_vxlan(own)?;
        }
        self.change(&mut current, &wanted)?;
        self.current = Some(wanted);
        Ok(())
    }

    fn find_way(&mut self, address: IpAddr) -> Result<Reach> {
        Ok(match self.socket.path_to(address)? {
            Some(path) if path.link == crate::pods::link::LOOPBACK => Reach::Own,
            Some(path) if path.gateway.is_none() => Reach::Direct { link: path.link },
            Some(_) => Reach::Gateway,
            None => Reach::Nowhere,
        })
    }

    /// What an earlier one left: routes, and the overlay's peers.
    fn look(&mut self) -> Result<Plan> {
        let vxlan = self.socket.link(VXLAN_LINK)?.map_or(0, |l| l.index);
        let mut found = Plan::default();
        for route in self.marks.routes(&mut self.socket)? {
            match (route.destination, route.gateway) {
                (IpNet::V4(net), Some(IpAddr::V4(gateway))) if route.link != vxlan => {
                    found.routes.insert(net, (gateway, route.link));
                }
                (IpNet::V4(net), Some(_)) => {
                    // Whose it is we do not know any more: an address that no node has is replaced.
                    found.peers.insert(net, Peer { address: Ipv4Addr::UNSPECIFIED });
                }
                _ => (),
            }
        }
        Ok(found)
    }

    fn change(&mut self, current: &mut Plan, wanted: &Plan) -> Result<()> {
        let vxlan = self.socket.link(VXLAN_LINK)?.map_or(0, |l| l.index);
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (net, (gateway, link)) in current.routes.iter().filter(|(net, way)| wanted.routes.get(net) != Some(way)) {
            gone.push(route::delete_route(&self.marks.way(*net, *gateway, *link)));
        }
        for (net, peer) in current.peers.iter().filter(|(net, peer)| wanted.peers.get(net) != Some(peer)) {
            gone.push(route::delete_route(&self.marks.way(*net, net.network(), vxlan)));
            gone.push(route::delete_neighbour(vxlan, net.network().into()));
            // Several networks may be behind one machine.
            if wanted.peers.values().all(|other| other != peer) {
                gone.push(route::delete_forwarding(vxlan, vtep_mac(peer.address), peer.address.into()));
            }
        }
        for (net, (gateway, link)) in wanted.routes.iter().filter(|(net, way)| current.routes.get(net) != Some(way)) {
            new.push(route::set_route(&self.marks.way(*net, *gateway, *link)));
        }
        for (net, peer) in wanted.peers.iter().filter(|(net, peer)| current.peers.get(net) != Some(peer)) {
            new.push(route::set_forwarding(vxlan, vtep_mac(peer.address), peer.address.into()));
            new.push(route::set_neighbour(vxlan, net.network().into(), vtep_mac(peer.address)));
            new.push(route::set_route(&self.marks.way(*net, net.network(), vxlan)));
        }
        self.socket.remove(&gone)?;
        Ok(self.socket.apply(&new)?)
    }

    /// The overlay's device, with the first address of our pod CIDR: what we send into it ourselves comes from there.
    fn ensure_vxlan(&mut self, own: &Node) -> Result<()> {
        let v4 = |net: &IpNet| if let IpNet::V4(v4) = net { Some(v4.network()) } else { None };
        let (Some(local), Some(network)) = (plan::internal_v4(own), own.pod_cidrs.iter().find_map(v4)) else { return Ok(()) };
        if self.socket.link(VXLAN_LINK)?.is_none() {
            let mtu = uplink_mtu(&mut self.socket)?.saturating_sub(OVERLAY_OVERHEAD);
            let vxlan = Vxlan { name: VXLAN_LINK, id: VXLAN_ID, local, link: 0, port: VXLAN_PORT, mac: vtep_mac(local), mtu };
            self.socket.apply(&[link::add_vxlan(&vxlan)])?;
        }
        let index = self.socket.link(VXLAN_LINK)?.map_or(0, |l| l.index);
        // Node ports on 127.0.0.1 lead to pods of other nodes, too.
        let settings = [(Ipv4Setting::RouteLocalnet, 1), (Ipv4Setting::AcceptRedirects, 0)];
        Ok(self.socket.apply(&[link::configure(index, &settings), route::add_address(index, IpNet::from(IpAddr::V4(network)), Scope::Universe)])?)
    }
}

/// Takes the overlay and all routes to other nodes away, from the network namespace of the calling thread.
///
/// # Errors
/// The kernel's refusal.
pub fn remove() -> Result<()> {
    Marks::node().remove()
}

/// Takes away what [`start_machine`] made for this cluster.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_machine(cluster_cidrs: &[IpNet]) -> Result<()> {
    Marks::machine(cluster_cidrs).remove()
}

#[cfg(test)]
mod tests;
