//! Connections to one server: HTTP/2 connections that many requests share, or idle HTTP/1.1 ones that wait for the next.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::config::certified_key;
use super::{Config, Error, Identity};

/// Requests that share one HTTP/2 connection before another is opened (servers allow 100 to 250 streams).
const STREAMS_MAX: usize = 80;
/// Connections on which an unsent request is tried.
const TRIES_MAX: u32 = 3;
/// Idle HTTP/1.1 connections that are kept.
const IDLE_MAX: usize = 8;
/// A dead server is noticed after interval and timeout (upstream: 30 s and 15 s).
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// TCP and TLS handshakes must be over after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A token file is read again when the last look is older than this.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(10);
/// Windows of HTTP/2 flow control: a long list must not wait for round trips.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

type Payload = Full<Bytes>;
type Stream = TokioIo<Box<dyn Io>>;
/// A connection that has left HTTP.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The client certificate of the moment.
#[derive(Debug, Default)]
struct ClientCertificate(ArcSwapOption<CertifiedKey>);

impl rustls::client::ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

struct Shared {
    sender: http2::SendRequest<Payload>,
    streams: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Connections {
    shared: Vec<Shared>,
    idle: Vec<http1::SendRequest<Payload>>,
}

struct Token {
    value: HeaderValue,
    read_at: Instant,
}

pub struct Pool {
    config: Config,
    uri: http::Uri,
    /// `host:port`.
    address: String,
    name: ServerName<'static>,
    tls: Option<[tokio_rustls::TlsConnector; 2]>,
    certificate: Arc<ClientCertificate>,
    connections: Arc<Mutex<Connections>>,
    /// Only one connection is opened at a time, so that a burst of first requests shares it.
    connecting: tokio::sync::Mutex<()>,
    token: Mutex<Option<Token>>,
}

/// A connection to send one request on.
enum Sender {
    Shared(http2::SendRequest<Payload>, Arc<AtomicUsize>),
    Own(http1::SendRequest<Payload>),
}

impl Pool {
    pub fn new(config: Config) -> Result<Self, Error> {
        let uri: http::Uri = config.server.trim_end_matches('/').parse().map_err(|e| Error::Config(format!("server {:?}: {e}", config.server)))?;
        let host = uri.host().ok_or_else(|| Error::Config(format!("server {:?} has no host", config.server)))?.trim_matches(['[', ']']);
        let secure = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let name = config.tls_server_name.clone().unwrap_or_else(|| host.to_owned());
        let name = ServerName::try_from(name).map_err(|e| Error::Config(format!("server name: {e}")))?;
        let certificate = Arc::new(ClientCertificate::default());
        if let Some((pem, key)) = &config.client_certificate {
            certificate.0.store(Some(Arc::new(certified_key(pem, key)?)));
        }
        let tls = if secure { Some(connectors(&config, &certificate)?) } else { None };
        Ok(Self { uri, address, name, tls, certificate, connections: Arc::default(), connecting: tokio::sync::Mutex::new(()), token: Mutex::new(None), config })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn set_identity(&self, certificate_pem: &[u8], key_pem: &[u8]) -> Result<(), Error> {
        self.certificate.0.store(Some(Arc::new(certified_key(certificate_pem, key_pem)?)));
        *self.connections.lock() = Connections::default();
        Ok(())
    }

    /// Sends on any connection. A request that never reached the server is sent again on another one.
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, Error> {
        let request = self.complete(request)?;
        let mut tries = 1;
        loop {
            let sender = self.sender().await?;
            match self.send_on(sender, request.clone()).await {
                Err(Failed { unsent: true, .. }) if tries < TRIES_MAX => tries += 1,
                Err(failed) => return Err(failed.error.into()),
                Ok(response) => return Ok(response),
            }
        }
    }

    async fn send_on(&self, sender: Sender, request: http::Request<Payload>) -> Result<http::Response<Body>, Failed> {
        let (response, lease) = match sender {
            Sender::Shared(mut sender, streams) => {
                let lease = Lease::Stream { _counted: Counted::new(streams) };
                (sender.try_send_request(request).await.map_err(Failed::from)?, lease)
            }
            Sender::Own(mut sender) => {
                sender.ready().await.map_err(|error| Failed { error, unsent: true })?;
                let response = sender.try_send_request(origin_form(request)).await.map_err(Failed::from)?;
                (response, Lease::Own(Some(sender), self.connections.clone()))
            }
        };
        Ok(response.map(|inner| Body { inner, ended: false, lease }))
    }

    pub async fn upgrade(&self, request: http::Request<Bytes>) -> Result<(http::Response<Bytes>, Option<Upgraded>), Error> {
        let request = self.complete(request)?;
        let (stream, _) = self.dial(true).await?;
        let (mut sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection.with_upgrades());
        let mut response = sender.send_request(origin_form(request)).await?;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(&mut response).await?;
            return Ok((response.map(|_| Bytes::new()), Some(TokioIo::new(upgraded))));
        }
        let (head, body) = response.into_parts();
        Ok((http::Response::from_parts(head, body.collect().await?.to_bytes()), None))
    }

    /// Adds what every request has: server, credentials, user agent.
    fn complete(&self, request: http::Request<Bytes>) -> Result<http::Request<Payload>, Error> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let prefix = self.uri.path().trim_end_matches('/');
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(format!("{prefix}{path}").parse().map_err(|e| Error::Config(format!("path {path:?}: {e}")))?);
        head.uri = http::Uri::from_parts(parts).map_err(|e| Error::Config(e.to_string()))?;
        let headers = &mut head.headers;
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_str(&self.config.user_agent).map_err(|e| Error::Config(e.to_string()))?);
        if let Some(value) = self.authorization()? {
            headers.entry(AUTHORIZATION).or_insert(value);
        }
        for (name, value) in &self.config.headers {
            headers.append(name, value.clone());
        }
        Ok(http::Request::from_parts(head, Full::new(body)))
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Error> {
        let text = match &self.config.identity {
            Identity::None => return Ok(None),
            Identity::Token(token) => format!("Bearer {token}"),
            Identity::Basic { username, password } => {
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
            }
            Identity::TokenFile(path) => {
                let mut cached = self.token.lock();
                if let Some(token) = cached.as_ref().filter(|t| t.read_at.elapsed() < TOKEN_AGE_MAX) {
                    return Ok(Some(token.value.clone()));
                }
                let text = std::fs::read_to_string(path).map_err(|e| Error::Config(format!("token file {}: {e}", path.display())))?;
                let value = bearer(&format!("Bearer {}", text.trim()))?;
                *cached = Some(Token { value: value.clone(), read_at: Instant::now() });
                return Ok(Some(value));
            }
        };
        bearer(&text).map(Some)
    }

    /// An open connection with room for one more request, or a new one.
    async fn sender(&self) -> Result<Sender, Error> {
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        let (stream, multiplexed) = self.dial(false).await?;
        if multiplexed {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(stream)
                .await?;
            tokio::spawn(connection);
            let streams = Arc::new(AtomicUsize::new(0));
            self.connections.lock().shared.push(Shared { sender: sender.clone(), streams: streams.clone() });
            return Ok(Sender::Shared(sender, streams));
        }
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Sender::Own(sender))
    }

    /// An open connection with room.
    fn open(&self) -> Option<Sender> {
        let mut connections = self.connections.lock();
        connections.shared.retain(|c| !c.sender.is_closed());
        if let Some(c) = connections.shared.iter().find(|c| c.streams.load(Ordering::Relaxed) < STREAMS_MAX) {
            return Some(Sender::Shared(c.sender.clone(), c.streams.clone()));
        }
        connections.idle.retain(|sender| !sender.is_closed());
        connections.idle.pop().map(Sender::Own)
    }

    /// Connects, and tells whether HTTP/2 was agreed on.
    async fn dial(&self, http1_only: bool) -> Result<(Stream, bool), Error> {
        let work = async {
            let tcp = TcpStream::connect(&self.address).await.map_err(|source| Error::Connect { address: self.address.clone(), source })?;
            tcp.set_nodelay(true).map_err(|source| Error::Connect { address: self.address.clone(), source })?;
            let Some(tls) = &self.tls else { return Ok((TokioIo::new(Box::new(tcp) as Box<dyn Io>), false)) };
            let stream = tls[usize::from(http1_only)].connect(self.name.clone(), tcp).await.map_err(Error::Tls)?;
            let multiplexed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok((TokioIo::new(Box::new(stream) as Box<dyn Io>), multiplexed))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, work).await.unwrap_or(Err(Error::Timeout(CONNECT_TIMEOUT)))
    }
}

/// A connector for any protocol and one for HTTP/1.1 alone.
fn connectors(config: &Config, certificate: &Arc<ClientCertificate>) -> Result<[tokio_rustls::TlsConnector; 2], Error> {
    let mut any = config.rustls(certificate.clone())?;
    let mut one = any.clone();
    any.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    one.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok([Arc::new(any).into(), Arc::new(one).into()])
}

fn bearer(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Config("the token has characters that no header may have".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// As HTTP/1.1 wants it: only the path in the first line, the server in `Host`.
fn origin_form(mut request: http::Request<Payload>) -> http::Request<Payload> {
    if let Some(host) = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = http::Uri::from(path);
    }
    request
}

/// A request without an answer.
struct Failed {
    error: hyper::Error,
    /// Not a byte of it reached the server.
    unsent: bool,
}

impl<T> From<hyper::client::conn::TrySendError<T>> for Failed {
    fn from(mut failed: hyper::client::conn::TrySendError<T>) -> Self {
        let unsent = failed.take_message().is_some();
        Self { error: failed.into_error(), unsent }
    }
}

/// What an answer holds of its connection until its body ends.
enum Lease {
    Stream { _counted: Counted },
    Own(Option<http1::SendRequest<Payload>>, Arc<Mutex<Connections>>),
}

/// One of the streams of a shared connection.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(streams: Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(streams)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The body has ended: its connection may serve another request.
    fn give_back(&mut self) {
        if let Self::Own(sender, connections) = self {
            let idle = &mut connections.lock().idle;
            if idle.len() < IDLE_MAX {
                idle.extend(sender.take());
            }
        }
    }
}

/// The body of an answer.
pub struct Body {
    inner: Incoming,
    ended: bool,
    lease: Lease,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx).map_err(Error::Http);
        self.ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.ended || http_body::Body::is_end_stream(&self.inner) {
            self.lease.give_back();
        }
    }
}
