//! The node's own resolvers: finding them, asking them, and not waiting for the dead.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use knarr_core::clock::Env;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::cache::Cache;
use super::packet;

const PORT: u16 = 53;
/// Longest wait for one resolver (CoreDNS: 2 s).
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for all of them: clients give up after 5 s.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(4500);
/// A resolver that failed this often in a row is asked only as a probe.
const FAILURES_MAX: u32 = 2;
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Queries on their way at one time (CoreDNS in kubeadm's setting: 1000).
const CONCURRENT_MAX: usize = 1000;
/// How often the file of resolvers is looked at, when there is something to ask.
const FILE_CHECK_PERIOD: Duration = Duration::from_secs(1);
/// Where systemd-resolved writes the real resolvers behind its stub.
const SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const SYSTEMD_STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
const ANSWER_LEN_MAX: usize = 65_535;

/// Where resolvers are written down.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub resolv_conf: PathBuf,
    /// Whether a resolver on 127.0.0.0/8 can be reached: not from a node with a network namespace of its own.
    pub loopback: bool,
    /// Our own addresses: asking ourselves would go round and round.
    pub own: BTreeSet<IpAddr>,
}

impl Source {
    /// The resolvers, in order.
    fn read(&self) -> Vec<SocketAddr> {
        let named = |text: &str| -> Vec<IpAddr> { nameservers(text).into_iter().filter(|a| !self.own.contains(a) && !a.is_unspecified()).collect() };
        let mut found = named(&fs::read_to_string(&self.resolv_conf).unwrap_or_default());
        if found.iter().all(|a| SYSTEMD_STUBS.contains(a))
            && let Ok(text) = fs::read_to_string(SYSTEMD_RESOLVED)
        {
            let real = named(&text);
            if !real.is_empty() {
                found = real;
            }
        }
        found.into_iter().filter(|a| self.loopback || !a.is_loopback()).map(|a| SocketAddr::new(a, PORT)).collect()
    }
}

/// The addresses behind `nameserver`, each once.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next().and_then(|w| w.split('%').next()?.parse().ok())
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

struct Server {
    address: SocketAddr,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    next_probe: Option<Instant>,
}

impl Server {
    /// Whether to ask it now.
    fn may_be_asked(&self) -> bool {
        let now = Instant::now();
        let mut health = self.health.lock();
        if health.failures < FAILURES_MAX {
            return true;
        }
        let due = health.next_probe.is_none_or(|at| at <= now);
        if due {
            health.next_probe = Some(now + PROBE_PERIOD);
        }
        due
    }

    fn note(&self, worked: bool) {
        let mut health = self.health.lock();
        health.failures = if worked { 0 } else { health.failures + 1 };
    }
}

struct Known {
    servers: Arc<[Server]>,
    modified: Option<SystemTime>,
    looked_at: Instant,
}

/// All resolvers of the node, with what they answered lately.
pub(super) struct Upstream {
    source: Source,
    known: Mutex<Known>,
    cache: Cache,
    slots: Semaphore,
    env: Env,
}

impl Upstream {
    pub fn new(source: Source, env: Env) -> Self {
        let known = Known { servers: servers(source.read()), modified: modified(&source), looked_at: Instant::now() };
        Self { source, known: Mutex::new(known), cache: Cache::default(), slots: Semaphore::new(CONCURRENT_MAX), env }
    }

    /// For tests: resolvers by address and port.
    #[cfg(test)]
    pub fn fixed(addresses: Vec<SocketAddr>, env: Env) -> Self {
        let source = Source { resolv_conf: "/nonexistent".into(), loopback: true, own: BTreeSet::new() };
        let upstream = Self::new(source, env);
        upstream.known.lock().servers = servers(addresses);
        upstream
    }

    /// An answer that is known already.
    pub fn cached(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.cache.get(&packet::cache_key(query)?, query)
    }

    /// Asks the resolvers in turn. Absent when none of them answers.
    pub async fn ask(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let _slot = self.slots.try_acquire().ok()?;
        let answer = timeout(FORWARD_TIMEOUT, self.ask_all(query, tcp)).await.ok().flatten()?;
        if let Some(key) = packet::cache_key(query) {
            self.cache.put(key, &answer);
        }
        Some(answer)
    }

    async fn ask_all(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        for server in self.servers().iter().filter(|s| s.may_be_asked()) {
            let attempt = timeout(ATTEMPT_TIMEOUT, self.attempt(server.address, query, tcp)).await;
            let answer = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            server.note(answer.is_ok());
            match answer {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(resolver = %server.address, %error, "a resolver did not answer"),
            }
        }
        None
    }

    async fn attempt(&self, server: SocketAddr, query: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let id = self.env.below(1 << 16) as u16;
        let mut asked = query.to_vec();
        packet::set_id(&mut asked, id);
        let mut answer = if tcp { over_tcp(server, &asked).await? } else { over_udp(server, &asked).await? };
        packet::set_id(&mut answer, packet::id(query).unwrap_or_default());
        Ok(answer)
    }

    /// The resolvers as the file names them now.
    fn servers(&self) -> Arc<[Server]> {
        let mut known = self.known.lock();
        if known.looked_at.elapsed() >= FILE_CHECK_PERIOD {
            known.looked_at = Instant::now();
            let modified = modified(&self.source);
            if modified.is_some() && modified != known.modified {
                known.modified = modified;
                known.servers = servers(self.source.read());
            }
        }
        known.servers.clone()
    }
}

fn servers(addresses: Vec<SocketAddr>) -> Arc<[Server]> {
    addresses.into_iter().map(|address| Server { address, health: Mutex::default() }).collect()
}

fn modified(source: &Source) -> Option<SystemTime> {
    fs::metadata(&source.resolv_conf).and_then(|m| m.modified()).ok()
}

/// Whether an answer is one to this query.
fn belongs(answer: &[u8], query: &[u8]) -> bool {
    let same_question = match (packet::question(answer), packet::question(query)) {
        (Some(a), Some(q)) => a.eq_ignore_ascii_case(q),
        (None, _) => packet::rcode(answer) != 0,
        _ => false,
    };
    packet::is_response(answer) && packet::id(answer) == packet::id(query) && same_question
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; ANSWER_LEN_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Anything else is somebody's guess.
        if belongs(&buffer[..len], query) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], query].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    if belongs(&buffer, query) { Ok(buffer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_does_and_we_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(
            &path,
            "# x\nsearch a\nnameserver 192.0.2.1\nnameserver\nnameserver fe80::1%eth0\n nameserver 10.96.0.10\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n",
        )
        .unwrap();
        let read = |loopback| {
            let source = Source { resolv_conf: path.clone(), loopback, own: BTreeSet::from(["10.96.0.10".parse().unwrap()]) };
            source.read().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(read(true), ["192.0.2.1:53", "[fe80::1]:53", "127.0.0.1:53"]);
        assert_eq!(read(false), ["192.0.2.1:53", "[fe80::1]:53"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_resolver_is_asked_once_a_second() {
        let server = Server { address: "192.0.2.1:53".parse().unwrap(), health: Mutex::default() };
        for _ in 0..FAILURES_MAX {
            assert!(server.may_be_asked());
            server.note(false);
        }
        assert_eq!((server.may_be_asked(), server.may_be_asked()), (true, false));
        tokio::time::sleep(PROBE_PERIOD).await;
        assert!(server.may_be_asked());
        server.note(true);
        assert!(server.may_be_asked() && server.may_be_asked());
    }
}
