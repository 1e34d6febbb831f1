//! Several nodes on one machine: every node but the first of the default profile has a network namespace of its own.
//!
//! ```text
//! machine: lo 10.88.0.1/32      knode1a2b3c4d ── route 10.88.0.2/32, and 10.244.1.0/24 via 10.88.0.2 once the node knows it
//! node:    eth0 10.88.0.2/32, default via 169.254.1.1
//! ```
//!
//! The machine routes between nodes, and hides them behind its own address towards the outside.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use knarr_sys::netlink::link;
use knarr_sys::netlink::route::{self, ROUTE_PROTOCOL_OUTER, Route, Scope};
use knarr_sys::netlink::{self, NetNs, RouteSocket};
use knarr_sys::nft::{Batch, Chain, ChainKind, Change, Compare, Expression, Family, Hook, KernelNft, MetaKey, Nft, Verdict};

use super::{Error, Result};
use crate::pods::enable_forwarding;
use crate::pods::link::{LOOPBACK, Wire, connect_host, connect_pod, host_net, uplink_mtu, wait_until_operational};
use crate::rules::{DESTINATION, PRIORITY_SNAT, SOURCE, fnv1a, if_address_within, reg};

/// Names of links to nodes begin with this.
const LINK_PREFIX: &str = "knode";
/// Where namespaces are kept while their nodes run.
pub const FOLDER_DEFAULT: &str = "/run/knarr";

/// The nodes of one profile that have network namespaces of their own.
#[derive(Clone, Debug)]
pub struct LocalNodes {
    pub profile: String,
    /// Nodes and the machine have addresses of this network towards each other: the machine the first, node N the (N+1)th.
    pub transfer: Ipv4Net,
    /// [`FOLDER_DEFAULT`]
    pub folder: PathBuf,
}

/// A namespace for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Path of the namespace.
    pub netns: PathBuf,
    /// The node's internal address.
    pub address: Ipv4Addr,
    /// The machine's end of the link to it.
    pub link: String,
}

impl LocalNodes {
    pub fn new(profile: impl Into<String>, transfer: Ipv4Net) -> Self {
        Self { profile: profile.into(), transfer: transfer.trunc(), folder: FOLDER_DEFAULT.into() }
    }

    /// Where node `index` is, whether or not it exists.
    ///
    /// # Errors
    /// The transfer network is too small.
    pub fn node(&self, index: u32) -> Result<LocalNode> {
        let address = Ipv4Addr::from_bits(self.transfer.network().to_bits().saturating_add(index).saturating_add(1));
        if index == 0 || !self.transfer.contains(&address) || address == self.transfer.broadcast() {
            return Err(Error::NoRoom(index, self.transfer));
        }
        let id = fnv1a(format!("{}/{index}", self.profile).as_bytes());
        let netns = self.folder.join(&self.profile).join("netns").join(format!("node-{index}"));
        Ok(LocalNode { netns, address, link: format!("{LINK_PREFIX}{:08x}", id as u32) })
    }

    fn table(&self) -> String {
        format!("knarr-{}-nodes", self.profile)
    }

    fn machine(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.transfer.network().to_bits() + 1)
    }

    /// Makes the namespace of node `index` (from 1) with ways to the machine, to the other nodes and to the outside. One
    /// that exists is kept, and its link made anew. Works from the network namespace of the calling thread, which is the
    /// machine's.
    ///
    /// # Errors
    /// The kernel's refusal; then nothing is left behind.
    pub fn create(&self, index: u32) -> Result<LocalNode> {
        let node = self.node(index)?;
        let netns = if node.netns.exists() { NetNs::open(&node.netns)? } else { NetNs::create_at(&node.netns)? };
        let done = self.connect(&node, &netns);
        if done.is_err()
            && let Err(error) = self.delete(index)
        {
            tracing::warn!(index, %error, "could not undo a failed start of a local node");
        }
        done.map(|()| node)
    }

    fn connect(&self, node: &LocalNode, netns: &NetNs) -> Result<()> {
        enable_forwarding()?;
        let mut machine = RouteSocket::open()?;
        let own = route::add_address(LOOPBACK, host_net(self.machine()), Scope::Universe);
        machine.apply(&[link::set_up(LOOPBACK), own])?;
        let wire = Wire { name: node.link.clone(), address: node.address, source: self.machine(), mtu: uplink_mtu(&mut machine)?, strict: false };
        connect_host(&mut machine, netns, &wire)?;
        netns.run(|| connect_pod(&wire))??;
        wait_until_operational(&wire.name, || machine.link(&wire.name))?;
        Ok(KernelNft::open()?.apply(&self.rules())?)
    }

    /// What nodes send to the outside gets the machine's address.
    fn rules(&self) -> Batch {
        let mut batch = Batch::new(Family::Ip, self.table());
        batch.recreate_table("knarr local nodes");
        batch.push(Change::AddChain(Chain::base("nat-postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT + 2)));
        let between = vec![
            Expression::Meta { key: MetaKey::OutgoingLinkName, to: reg(0) },
            Expression::Compare { register: reg(0), op: Compare::Equal, value: LINK_PREFIX.into() },
            Expression::Verdict(Verdict::Return),
        ];
        batch.rule("nat-postrouting", between);
        let mut outside = if_address_within(SOURCE, &self.transfer, Compare::Equal);
        outside.extend(if_address_within(DESTINATION, &self.transfer, Compare::NotEqual));
        outside.push(Expression::Masquerade { random: true });
        batch.rule("nat-postrouting", outside);
        batch
    }

    /// Takes the namespace of a node away, with its link and the routes to its pods. One that is not there is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete(&self, index: u32) -> Result<()> {
        let node = self.node(index)?;
        RouteSocket::open()?.remove(&[link::delete(&node.link)])?;
        Ok(NetNs::delete_at(&node.netns)?)
    }

    /// Takes everything of the profile away.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_all(&self) -> Result<()> {
        let folder = self.folder.join(&self.profile).join("netns");
        for index in indexes(&folder)? {
            self.delete(index)?;
        }
        RouteSocket::open()?.remove(&[route::delete_address(LOOPBACK, host_net(self.machine()))])?;
        Ok(KernelNft::open()?.apply(Batch::new(Family::Ip, self.table()).remove_table())?)
    }
}

/// Indexes of the namespaces in a folder.
fn indexes(folder: &Path) -> std::io::Result<Vec<u32>> {
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(entries) => {
            let names = entries.map(|e| e.map(|e| e.file_name())).collect::<std::io::Result<Vec<_>>>()?;
            Ok(names.iter().filter_map(|n| n.to_str()?.strip_prefix("node-")?.parse().ok()).collect())
        }
    }
}

/// Makes the namespace of node `index` of a profile: [`LocalNodes::create`] with the default folder.
///
/// # Errors
/// As there.
pub fn local_node_netns_create(profile: &str, index: u32, transfer: Ipv4Net) -> Result<LocalNode> {
    LocalNodes::new(profile, transfer).create(index)
}

/// Takes it away: [`LocalNodes::delete`] with the default folder.
///
/// # Errors
/// As there.
pub fn local_node_netns_delete(profile: &str, index: u32, transfer: Ipv4Net) -> Result<()> {
    LocalNodes::new(profile, transfer).delete(index)
}

impl LocalNode {
    /// Moves the calling thread, and every thread that it makes from now on, into the node's namespace: for the first lines
    /// of an agent's `main`. What comes back is the way out, for [`super::start`].
    ///
    /// # Errors
    /// The namespace is not there, or the kernel refuses.
    pub fn enter(&self) -> Result<Outer> {
        let outer = Outer { socket: RouteSocket::open()?, link: self.link.clone(), address: self.address, announced: Vec::new() };
        NetNs::open(&self.netns)?.enter()?;
        Ok(outer)
    }
}

/// The machine outside, as a node in a namespace of its own sees it.
pub struct Outer {
    /// Opened outside, so it acts there.
    socket: RouteSocket,
    link: String,
    address: Ipv4Addr,
    announced: Vec<IpNet>,
}

impl Outer {
    /// Tells the machine that these networks are behind this node.
    pub(super) fn announce(&mut self, cidrs: &[IpNet]) -> netlink::Result<()> {
        if self.announced == cidrs {
            return Ok(());
        }
        let index = self.socket.link(&self.link)?.map_or(0, |l| l.index);
        let way = |net: &IpNet| Route { protocol: ROUTE_PROTOCOL_OUTER, ..Route::via(*net, IpAddr::V4(self.address), index) };
        let gone: Vec<_> = self.announced.iter().filter(|net| !cidrs.contains(net)).map(|net| route::delete_route(&way(net))).collect();
        let new: Vec<_> = cidrs.iter().map(|net| route::set_route(&way(net))).collect();
        self.socket.remove(&gone)?;
        self.socket.apply(&new)?;
        self.announced = cidrs.to_vec();
        Ok(())
    }
}
