//! The sockets: UDP and TCP on every address. Several processes may share them, so that one can end without being noticed.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::respond::{Responder, Step, Transport};

/// Longest query that we read.
const QUERY_LEN_MAX: usize = 4096;
/// A connection without a query for this long is closed.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_CONNECTIONS_MAX: usize = 256;
const TCP_BACKLOG: i32 = 128;

/// Sockets that nobody sends to yet.
pub(super) struct Sockets {
    address: SocketAddr,
    udp: OwnedFd,
    tcp: OwnedFd,
}

/// Opens sockets in the network namespace of the calling thread, where they stay. The address need not be there yet.
pub(super) fn open_shared(address: SocketAddr) -> io::Result<Sockets> {
    Ok(Sockets { address, udp: shared_socket(address, SockType::Datagram)?, tcp: shared_socket(address, SockType::Stream)? })
}

fn shared_socket(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    if address.is_ipv4() {
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    Ok(fd)
}

impl Sockets {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on the kernel hands them a share of the questions, so whoever binds must be able to answer. Answers until `stop`.
    pub fn serve(self, responder: &Arc<Responder>, stop: &CancellationToken) -> io::Result<()> {
        bind(self.udp.as_raw_fd(), &SockaddrStorage::from(self.address))?;
        let udp: StdUdpSocket = self.udp.into();
        bind(self.tcp.as_raw_fd(), &SockaddrStorage::from(udp.local_addr()?))?;
        listen(&self.tcp, Backlog::new(TCP_BACKLOG)?)?;
        let tcp: StdTcpListener = self.tcp.into();
        let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
        tokio::spawn(until(stop.clone(), serve_udp(udp, responder.clone())));
        tokio::spawn(until(stop.clone(), serve_tcp(tcp, responder.clone(), stop.clone())));
        Ok(())
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, responder: Arc<Responder>) {
    let (mut buffer, mut ready) = (vec![0; QUERY_LEN_MAX], Vec::new());
    loop {
        // An error here is an earlier answer's that could not be delivered.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else { continue };
        if responder.again(&buffer[..len], &mut ready) {
            send(&socket, &ready, client).await;
            continue;
        }
        match responder.begin(&buffer[..len], Transport::Udp) {
            Step::Ignore => (),
            Step::Reply(answer) => send(&socket, &answer, client).await,
            Step::Wait(pending) => {
                let (socket, responder) = (socket.clone(), responder.clone());
                tokio::spawn(async move {
                    let answer = responder.finish(pending).await;
                    send(&socket, &answer, client).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "cannot send a DNS answer");
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let (responder, stop) = (responder.clone(), stop.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    tokio::select! {
                        done = converse(stream, &responder) => if let Err(error) = done { tracing::debug!(%client, %error, "a DNS connection ended badly") },
                        () = stop.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One query after the other, until the client ends or falls silent.
async fn converse(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let len = match timeout(TCP_IDLE_TIMEOUT, stream.read_u16()).await {
            Ok(Ok(len)) => usize::from(len),
            Ok(Err(e)) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => return Ok(()),
        };
        let mut query = vec![0; len.min(QUERY_LEN_MAX)];
        if len > query.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        timeout(TCP_IDLE_TIMEOUT, stream.read_exact(&mut query)).await??;
        let answer = match responder.begin(&query, Transport::Tcp) {
            Step::Ignore => return Ok(()),
            Step::Reply(answer) => answer,
            Step::Wait(pending) => responder.finish(pending).await,
        };
        let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes()[..], &answer].concat()).await?;
    }
}
