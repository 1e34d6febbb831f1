//! The listener: TCP and TLS, HTTP/1.1 and HTTP/2, with a deadline and a limit for everything a client could drag out.

use std::{io, pin::Pin, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use arc_swap::ArcSwap;
use futures::future::Either;
use http::{Request, Response, Version};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::Body,
    cork::{Turns, Wire, cork},
    edge::{Arrived, Peer},
    streams::{Answer, Begun, Streams},
};
use crate::{authn, server::Server};

/// Lines of headers of an HTTP/1.1 request: each group that a user is impersonated with takes one.
const HEADERS_MAX: usize = 1000;

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for the headers of an HTTP/1.1 request.
    pub headers: Duration,
    /// Streams at once on one HTTP/2 connection (upstream: 100 by default in kube-apiserver).
    pub streams_max: u32,
    /// Whether HTTP/2 is spoken at all.
    pub http2: bool,
    /// Flow-control windows of HTTP/2: a body of the largest size fits.
    pub stream_window: u32,
    pub connection_window: u32,
    /// Bytes of headers.
    pub header_list_bytes_max: u32,
    /// A silent HTTP/2 connection is asked after this time whether it is still there.
    pub keep_alive: Duration,
    /// How long connections may go on after the server was told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(32),
            streams_max: 250,
            http2: true,
            stream_window: 256 * 1024,
            connection_window: 25 * 1024 * 1024,
            header_list_bytes_max: 1024 * 1024,
            keep_alive: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// The name of HTTP/2 in ALPN.
const HTTP2: &[u8] = b"h2";

/// After an error of `accept` (out of descriptors) this long passes before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How TLS is spoken with clients, and may be spoken otherwise with those that come later.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    /// Counts for connections that are still to come.
    pub fn set(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }
}

/// Serves connections until the server is stopped, then lets those that are open finish. Without `tls` it speaks plain HTTP.
///
/// # Errors
/// When the listener itself fails.
pub async fn serve(server: Server, listener: TcpListener, tls: Option<Tls>, limits: Limits) -> io::Result<()> {
    let stop = server.inner.shutdown.clone();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, _)) => {
                let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config()));
                let one = connection(server.clone(), tcp, acceptor, limits, stop.clone());
                connections.spawn(one);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!("connections were still open when the time to drain them had passed");
    }
    Ok(())
}

impl Server {
    /// Whether a client of HTTP/2 is to come anew after this request (upstream: `probabilisticGoawayDecider`).
    fn sends_away(&self) -> bool {
        let chance = self.inner.config.goaway_chance;
        chance > 0.0 && ((self.inner.env.rng.next_u64() >> 11) as f64) < chance * (1_u64 << 53) as f64
    }
}

fn builder(limits: Limits, begun: Begun) -> Builder<Begun> {
    let mut builder = Builder::new(begun);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers).keep_alive(true).max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.header_list_bytes_max)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive);
    builder
}

/// What speaks HTTP/1.1 and nothing else: [`Builder`] looks what a client speaks, also where it is told.
fn http1(limits: Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.headers).keep_alive(true).max_headers(HEADERS_MAX);
    builder
}

async fn connection(server: Server, tcp: TcpStream, acceptor: Option<TlsAcceptor>, limits: Limits, stop: CancellationToken) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let mut peer = Peer { address: tcp.peer_addr().ok(), ..Peer::default() };
    let Some(acceptor) = acceptor else { return exchange(server, tcp, false, peer, limits, stop).await };
    match timeout(limits.handshake, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => {
            let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
            peer.certificates = Arc::new(certificates.iter().map(|c| c.to_vec()).collect());
            peer.expires = peer.certificates.first().and_then(|der| authn::expires(der));
            let is_http2 = tls.get_ref().1.alpn_protocol() == Some(HTTP2);
            exchange(server, tls, is_http2, peer, limits, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, peer = ?peer.address, "TLS handshake failed"),
        Err(_) => tracing::debug!(peer = ?peer.address, "TLS handshake took too long"),
    }
}

/// `many` says that the connection has many streams: then it runs them, and their writes are sent together.
async fn exchange<S>(server: Server, stream: S, many: bool, peer: Peer, limits: Limits, stop: CancellationToken)
where
    S: Wire + Send + 'static,
{
    let connections = server.clone();
    connections.inner.metrics.connections.fetch_add(1, Relaxed);
    let peer = Arc::new(peer);
    // This connection alone: cancelled when it is to end before the server does.
    let stop = stop.child_token();
    let end = stop.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        if request.version() == Version::HTTP_2 && server.sends_away() {
            end.cancel();
        }
        let (server, peer) = (server.clone(), peer.clone());
        let arrived = Arrived::new(request);
        // Streams of one connection share a task; what takes longer must not hold the others up.
        let apart = many && !server.is_brief(&arrived);
        let answer = async move { server.handle(arrived, &peer).await };
        let answer = if apart { Either::Left(Answer::of(answer)) } else { Either::Right(Box::pin(answer)) };
        async move { Ok::<Response<Body>, std::convert::Infallible>(answer.await) }
    });
    let (stream, turns) = cork(stream);
    let stream = TokioIo::new(stream);
    let result = if many {
        let begun = Begun::kept();
        let streams = Streams::new(begun.clone());
        // Who agreed on HTTP/2 is held to it. What is upgraded there is a stream, and not the connection.
        let builder = builder(limits, begun).http2_only();
        until_stopped(builder.serve_connection(stream, service), |c| c.graceful_shutdown(), turns, Some(streams), stop).await
    } else if !limits.http2 {
        let connection = http1(limits).serve_connection(stream, service).with_upgrades();
        until_stopped(connection, |c| c.graceful_shutdown(), turns, None, stop).await.map_err(Into::into)
    } else {
        let builder = builder(limits, Begun::default());
        until_stopped(builder.serve_connection_with_upgrades(stream, service), |c| c.graceful_shutdown(), turns, None, stop).await
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended in an error");
    }
    connections.inner.metrics.connections.fetch_sub(1, Relaxed);
}

/// Runs a connection; when the server is to stop, the connection is asked to, and runs on until it does.
async fn until_stopped<C, S>(serving: C, shut_down: fn(Pin<&mut C>), turns: Turns<S>, mut streams: Option<Streams>, stop: CancellationToken) -> C::Output
where
    C: Future,
    S: Wire,
{
    tokio::pin!(serving);
    tokio::select! {
        result = turns.run(serving.as_mut(), streams.as_mut()) => result,
        () = stop.cancelled() => {
            shut_down(serving.as_mut());
            turns.run(serving, streams.as_mut()).await
        }
    }
}
