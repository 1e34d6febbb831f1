//! What must be true before a cluster can start, checked before anything is touched. Each check names what is wrong and the
//! command that mends it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};

use super::failure::{Exit, Failure, Result};

/// Less free space than this on the data folder's disk is refused.
const DISK_FREE_BYTES_MIN: u64 = 256 << 20;

/// Only root may make namespaces, mounts and rules.
pub fn root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("NOT_ROOT", Exit::Permission, "a cluster needs namespaces, mounts and network rules, which only root may make", "sudo knarr start"))
}

/// The kernel's features that containers cannot do without.
pub fn kernel() -> Result<()> {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|l| l.trim_start_matches("nodev").trim() == "overlay") {
        return Err(Failure::new("NO_OVERLAYFS", Exit::Host, "the kernel has no overlayfs, which images are mounted with", "modprobe overlay"));
    }
    for (file, name) in [("/proc/self/ns/net", "network"), ("/proc/self/ns/pid", "process"), ("/proc/self/ns/ipc", "IPC"), ("/proc/self/ns/uts", "hostname")] {
        if !Path::new(file).exists() {
            return Err(Failure::new("NO_NAMESPACES", Exit::Host, format!("the kernel has no {name} namespaces"), "boot a kernel with CONFIG_NAMESPACES"));
        }
    }
    nftables()?;
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && !Path::new("/sys/fs/cgroup/memory").exists() {
        return Err(Failure::new("NO_CGROUPS", Exit::Host, "no cgroup hierarchy is mounted on /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"));
    }
    Ok(())
}

/// Services are nftables rules: the kernel must take them.
fn nftables() -> Result<()> {
    let socket = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
    socket.map(drop).map_err(|_| Failure::new("NO_NFTABLES", Exit::Host, "the kernel has no nftables", "modprobe nf_tables"))
}

/// The port must be free on all addresses.
pub fn port_free(port: u16) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::new(
            "PORT_TAKEN",
            Exit::Resource,
            format!("port {port} cannot be listened on: {e}"),
            format!("end the program that holds it (ss -ltnp 'sport = :{port}'), or choose another: knarr start --port {}", port.saturating_add(1)),
        )),
    }
}

/// There must be some room for the store and the images.
pub fn disk(folder: &Path) -> Result<()> {
    let stat = nix::sys::statvfs::statvfs(folder).map_err(|e| Failure::file(folder, &e.into()))?;
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    if free >= DISK_FREE_BYTES_MIN {
        return Ok(());
    }
    Err(Failure::new(
        "DISK_FULL",
        Exit::Resource,
        format!("{} has {} MiB left; {} MiB are needed", folder.display(), free >> 20, DISK_FREE_BYTES_MIN >> 20),
        "free some space, or put the data elsewhere: knarr start --data FOLDER",
    ))
}

/// The address by which others reach this machine: the source address of its way out, or loopback on a machine without any.
pub fn advertise_address() -> IpAddr {
    // Nothing is sent: connecting a datagram socket only asks for a route.
    let way_out = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|s| s.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| s.local_addr()));
    match way_out.map(|a| a.ip()) {
        Ok(ip) if !ip.is_unspecified() => ip,
        _ => first_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

/// The address from which this machine would speak to another.
pub fn address_towards(other: std::net::SocketAddr) -> Option<IpAddr> {
    let any: std::net::SocketAddr = if other.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let towards = UdpSocket::bind(any).and_then(|s| s.connect(other).and_then(|()| s.local_addr()));
    towards.ok().map(|a| a.ip())
}

fn first_address() -> Option<IpAddr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|i| i.address?.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        .find(|a| !a.is_loopback())
        .map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_a_way_out() {
        let held = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let failure = port_free(port).unwrap_err();
        assert_eq!((failure.code, failure.exit), ("PORT_TAKEN", Exit::Resource));
        assert!(failure.advice.contains("--port"), "{}", failure.advice);
    }
}
