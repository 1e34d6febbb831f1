//! The way from node to node.
//!
//! A node that shares a link with us gets a plain route to its pods; one behind a gateway, which knows nothing of pods, is
//! reached through VXLAN. Everything follows from Node objects: pod CIDR and internal address. Link-layer addresses of VXLAN
//! devices are made of the nodes' addresses, so nodes need not tell them to each other.
//!
//! - [`plan`]: which routes there should be. Pure.
//! - [`local`]: several nodes on one machine, each in a network namespace of its own.

pub mod local;
mod plan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use knarr_client::read::Key;
use knarr_client::{Informer, SharedInformers};
use knarr_sys::netlink::link::{self, Ipv4Setting, Vxlan};
use knarr_sys::netlink::route::{self, Route, Scope};
use knarr_sys::netlink::{self, RouteSocket};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

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
    let worker = Worker { name: node_name.to_owned(), nodes, pods, kernel: Arc::new(Mutex::new(Kernel::open(outer)?)), reach: BTreeMap::new(), synced: sender };
    tokio::spawn(async move {
        tokio::select! {
            () = worker.run(&changed) => {}
            () = stop.cancelled() => {}
        }
    });
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
}

struct Worker {
    name: String,
    nodes: Informer<Node>,
    pods: PodNetwork,
    kernel: Arc<Mutex<Kernel>>,
    /// How each node's address is reached.
    reach: BTreeMap<IpAddr, Reach>,
    synced: watch::Sender<u64>,
}

impl Worker {
    async fn run(mut self, changed: &(Mutex<Vec<Key>>, Notify)) {
        self.nodes.wait_synced().await;
        loop {
            let keys = std::mem::take(&mut *changed.0.lock());
            if let Err(error) = self.sync().await {
                tracing::warn!(%error, "cannot bring the routes to other nodes about");
                changed.0.lock().extend(keys);
                // Ways may have changed.
                self.reach.clear();
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            changed.1.notified().await;
        }
    }

    async fn sync(&mut self) -> Result<()> {
        let nodes: Vec<_> = self.nodes.store().list().into_iter().map(|item| (item.key.name().to_owned(), item.view.clone())).collect();
        let own = nodes.iter().find(|(name, _)| *name == self.name).map(|(_, node)| node.clone()).unwrap_or_default();
        let (kernel, pods, name) = (self.kernel.clone(), self.pods.clone(), self.name.clone());
        let mut reach = std::mem::take(&mut self.reach);
        let work = tokio::task::spawn_blocking(move || {
            if let Some(cidr) = own.pod_cidrs.iter().find(|c| matches!(c, IpNet::V4(_))) {
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

/// The kernel's side.
struct Kernel {
    socket: RouteSocket,
    outer: Option<Outer>,
    /// What is known to be there; none before the first look.
    current: Option<Plan>,
}

impl Kernel {
    fn open(outer: Option<Outer>) -> Result<Self> {
        Ok(Self { socket: RouteSocket::open()?, outer, current: None })
    }

    fn sync(&mut self, name: &str, own: &Node, nodes: &[(String, Node)], reach: &mut BTreeMap<IpAddr, Reach>) -> Result<()> {
        if let Some(outer) = &mut self.outer {
            let cidrs: Vec<_> = own.pod_cidrs.iter().filter(|c| matches!(c, IpNet::V4(_))).copied().collect();
            return Ok(outer.announce(&cidrs)?);
        }
        for address in nodes.iter().flat_map(|(_, node)| &node.internal_ips) {
            if !reach.contains_key(address) {
                reach.insert(*address, self.find_way(*address)?);
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

    /// What an earlier agent left: routes with a gateway (those of pods have none), and the overlay's peers.
    fn look(&mut self) -> Result<Plan> {
        let vxlan = self.socket.link(VXLAN_LINK)?.map_or(0, |l| l.index);
        let mut found = Plan::default();
        for route in self.socket.own_routes(false)? {
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
            gone.push(route::delete_route(&Route::via(IpNet::V4(*net), (*gateway).into(), *link)));
        }
        for (net, peer) in current.peers.iter().filter(|(net, peer)| wanted.peers.get(net) != Some(peer)) {
            gone.push(route::delete_route(&Route::via(IpNet::V4(*net), net.network().into(), vxlan)));
            gone.push(route::delete_neighbour(vxlan, net.network().into()));
            gone.push(route::delete_forwarding(vxlan, vtep_mac(peer.address), peer.address.into()));
        }
        for (net, (gateway, link)) in wanted.routes.iter().filter(|(net, way)| current.routes.get(net) != Some(way)) {
            new.push(route::set_route(&Route::via(IpNet::V4(*net), (*gateway).into(), *link)));
        }
        for (net, peer) in wanted.peers.iter().filter(|(net, peer)| current.peers.get(net) != Some(peer)) {
            new.push(route::set_forwarding(vxlan, vtep_mac(peer.address), peer.address.into()));
            new.push(route::set_neighbour(vxlan, net.network().into(), vtep_mac(peer.address)));
            new.push(route::set_route(&Route::via(IpNet::V4(*net), net.network().into(), vxlan)));
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
    let mut socket = RouteSocket::open()?;
    let routes: Vec<_> = socket.own_routes(false)?.iter().filter(|r| r.gateway.is_some()).map(route::delete_route).collect();
    socket.remove(&routes)?;
    Ok(socket.remove(&[link::delete(VXLAN_LINK)])?)
}

#[cfg(test)]
mod tests;
