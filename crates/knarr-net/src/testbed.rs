//! A small world for tests: machines and pods are network namespaces that the test makes, with real links between them.
//! Nothing touches the namespace that the test was started in.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use knarr_sys::netlink::link::{self, Mac, VethEnd};
use knarr_sys::netlink::route::{self, ROUTE_PROTOCOL, ROUTE_PROTOCOL_MACHINE, Route, Scope};
use knarr_sys::netlink::{NetNs, RouteSocket};

use crate::pods::{PodNetwork, Sandbox};

/// Long enough for a packet, short enough for a test of packets that are lost.
const PATIENCE: Duration = Duration::from_millis(2500);

pub(crate) struct Machine {
    pub netns: NetNs,
}

impl Machine {
    pub fn new() -> Self {
        let machine = Self { netns: NetNs::anonymous().unwrap() };
        machine.run(|| RouteSocket::open().unwrap().apply(&[link::set_up(1)]).unwrap());
        machine
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).unwrap()
    }

    /// A cable to another machine, with addresses of one network at both ends.
    pub fn cable(&self, other: &Machine, name: &str, here: &str, there: &str) {
        let pair = link::add_veth(&VethEnd { name, mac: Mac([2, 0, 0, 0, 1, 1]) }, &VethEnd { name, mac: Mac([2, 0, 0, 0, 1, 2]) }, other.netns.as_fd(), 1500);
        self.run(|| RouteSocket::open().unwrap().apply(&[pair]).unwrap());
        for (machine, address) in [(self, here), (other, there)] {
            machine.run(|| {
                let mut socket = RouteSocket::open().unwrap();
                let index = socket.link(name).unwrap().unwrap().index;
                let address: IpNet = address.parse().unwrap();
                socket.apply(&[link::set_up(index), route::add_address(index, address, Scope::Universe)]).unwrap();
            });
        }
    }

    pub fn route(&self, destination: &str, via: &str) {
        self.run(|| {
            let mut socket = RouteSocket::open().unwrap();
            let via: IpAddr = via.parse().unwrap();
            let link = socket.path_to(via).unwrap().unwrap().link;
            /// Not ours: `RTPROT_STATIC`.
            const PROTOCOL: u8 = 4;
            socket.apply(&[route::set_route(&Route { protocol: PROTOCOL, ..Route::via(destination.parse().unwrap(), via, link) })]).unwrap();
        });
    }

    /// Serves TCP: tells every caller its own address as seen here, and a name.
    pub fn serve_tcp(&self, port: u16, name: &'static str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok(peer) = stream.peer_addr() else { continue };
                drop(stream.write_all(format!("{name} {}", peer.ip()).as_bytes()));
            }
        });
    }

    /// Like [`Self::serve_tcp`], over UDP.
    pub fn serve_udp(&self, port: u16, name: &'static str) {
        self.serve_udp_at(Ipv4Addr::UNSPECIFIED, port, name);
    }

    pub fn serve_udp_at(&self, address: Ipv4Addr, port: u16, name: &'static str) {
        let socket = self.run(|| UdpSocket::bind((address, port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer));
            }
        });
    }

    /// What a TCP server answers, or the kind of failure.
    pub fn ask(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        self.ask_for(PATIENCE, to)
    }

    /// The same where silence is expected.
    pub fn ask_briefly(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        self.ask_for(Duration::from_millis(300), to)
    }

    fn ask_for(&self, patience: Duration, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let mut answer = String::new();
            let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|e| e.kind())?;
            stream.set_read_timeout(Some(patience)).unwrap();
            stream.read_to_string(&mut answer).map_err(|e| e.kind())?;
            Ok(answer)
        })
    }

    /// Like [`Self::ask`], from a port of the caller's choice.
    pub fn ask_from(&self, port: u16, to: &str) -> Result<String, std::io::ErrorKind> {
        use tokio::io::AsyncReadExt;
        let to: SocketAddr = to.parse().unwrap();
        let asking = async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            // The kernel keeps the port of an earlier connection for a minute.
            socket.set_reuseaddr(true)?;
            socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
            let mut answer = String::new();
            socket.connect(to).await?.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) })
        })
        .map_err(|e: std::io::Error| e.kind())
    }

    /// A UDP socket for one peer.
    pub fn udp(&self, to: &str) -> UdpSocket {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }

    pub fn ask_udp(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        say(&self.udp(to))
    }

    /// Makes a pod here.
    pub fn pod(&self, network: &PodNetwork, id: &str) -> Pod {
        let machine = Machine { netns: NetNs::anonymous().unwrap() };
        let netns = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), machine.netns.as_fd().as_raw_fd()));
        let mut sandbox = Sandbox { id: id.into(), netns, ..Sandbox::default() };
        sandbox.ips = network.attach_now(&sandbox).unwrap();
        Pod { machine, ip: sandbox.ips[0].to_string(), sandbox }
    }

    /// What is set up here, as text: links, IPv4 addresses (the kernel gives cables others in its own time), our routes, tables.
    pub fn traces(&self) -> Vec<String> {
        self.run(|| {
            use knarr_sys::nft::{Family, KernelNft, Nft};
            let mut socket = RouteSocket::open().unwrap();
            let mut all: Vec<String> = socket.links().unwrap().into_iter().map(|l| format!("link {}", l.name)).collect();
            all.extend(socket.addresses().unwrap().into_iter().filter(|(_, net, _)| net.addr().is_ipv4()).map(|(_, net, _)| format!("address {net}")));
            for protocol in [ROUTE_PROTOCOL, ROUTE_PROTOCOL_MACHINE] {
                all.extend(socket.routes_by(protocol, false).unwrap().into_iter().map(|r| format!("route {}", r.destination)));
            }
            all.extend(KernelNft::open().unwrap().tables(Family::Ip).unwrap());
            all
        })
    }
}

pub(crate) fn say(socket: &UdpSocket) -> Result<String, std::io::ErrorKind> {
    let mut buffer = [0; 64];
    socket.send(b"hello").map_err(|e| e.kind())?;
    let len = socket.recv(&mut buffer).map_err(|e| e.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

pub(crate) struct Pod {
    pub machine: Machine,
    pub sandbox: Sandbox,
    pub ip: String,
}

impl std::ops::Deref for Pod {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}
