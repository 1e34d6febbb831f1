//! HTTP to registries: connections, TLS, redirects that carry no credentials to other hosts.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_sys::netlink::NetNs;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A registry that does not pick up the phone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A registry that thinks for too long before its first byte.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Go's and curl's habit.
const REDIRECTS_MAX: usize = 10;
/// Idle connections are closed: a node pulls in bursts.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// An HTTP client.
#[derive(Clone)]
pub struct Transport(Client<Connector, Empty<Bytes>>);

impl Transport {
    /// Trusts the machine's certificate authorities and `extra` ones (DER).
    pub fn new(extra: Vec<rustls::pki_types::CertificateDer<'static>>) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE_TIMEOUT).pool_timer(hyper_util::rt::TokioTimer::new());
        Self(builder.build(Connector { tls: Arc::new(std::sync::OnceLock::new()), extra: Arc::new(extra), network: None }))
    }

    /// Makes its connections in another network namespace: that of the machine, for a node in one of its own.
    pub fn within(network: Arc<NetNs>) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE_TIMEOUT).pool_timer(hyper_util::rt::TokioTimer::new());
        Self(builder.build(Connector { tls: Arc::new(std::sync::OnceLock::new()), extra: Arc::default(), network: Some(network) }))
    }

    /// Sends a request and follows redirects. `authorization` goes to the first host only, and never from https to http.
    pub async fn get(&self, method: Method, uri: &Uri, authorization: Option<&HeaderValue>, headers: &http::HeaderMap) -> io::Result<Response<Incoming>> {
        let mut target = uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder().method(method.clone()).uri(&target).body(Empty::new()).map_err(io::Error::other)?;
            *request.headers_mut() = headers.clone();
            request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION"))));
            if let Some(value) = authorization.filter(|_| same_origin(uri, &target)) {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let response = tokio::time::timeout(RESPONSE_TIMEOUT, self.0.request(request)).await;
            let response = response.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 60s"))?.map_err(root_cause)?;
            match redirect(&target, &response)? {
                Some(next) => target = next,
                None => return Ok(response),
            }
        }
        Err(io::Error::other(format!("stopped after {REDIRECTS_MAX} redirects")))
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority().map(|x| x.as_str()) == b.authority().map(|x| x.as_str())
}

fn redirect(from: &Uri, response: &Response<Incoming>) -> io::Result<Option<Uri>> {
    let redirects = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = response.headers().get(header::LOCATION).filter(|_| redirects) else { return Ok(None) };
    let location = location.to_str().map_err(io::Error::other)?;
    let next = join(from, location).ok_or_else(|| io::Error::other(format!("redirect to an invalid location {location:?}")))?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(io::Error::other(format!("redirect from https to {location} refused")));
    }
    Ok(Some(next))
}

/// A location relative to the address it came from. Dots in paths are left to the server.
fn join(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let absolute = match location {
        _ if location.starts_with("http://") || location.starts_with("https://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{}:{location}", from.scheme_str()?),
        _ if location.starts_with('/') => format!("{}://{}{location}", from.scheme_str()?, from.authority()?),
        _ => format!("{}://{}{}/{location}", from.scheme_str()?, from.authority()?, from.path().rsplit_once('/')?.0),
    };
    absolute.parse().ok()
}

/// The innermost error says what happened; the outer ones say "client error". A connection that broke after it was made is told apart
/// (`ConnectionAborted`): asking again may help.
fn root_cause(error: hyper_util::client::legacy::Error) -> io::Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let kind = if error.is_connect() { io::ErrorKind::NotConnected } else { io::ErrorKind::ConnectionAborted };
    io::Error::new(kind, cause.to_string())
}

#[derive(Clone)]
struct Connector {
    tls: Arc<std::sync::OnceLock<Result<Arc<rustls::ClientConfig>, String>>>,
    extra: Arc<Vec<rustls::pki_types::CertificateDer<'static>>>,
    /// Absent: that of the process.
    network: Option<Arc<NetNs>>,
}

impl Connector {
    /// Reading the machine's authorities takes milliseconds: only once, and only for https.
    fn tls(&self) -> io::Result<TlsConnector> {
        let made = self.tls.get_or_init(|| tls_config(&self.extra).map(Arc::new));
        made.clone().map(TlsConnector::from).map_err(io::Error::other)
    }
}

fn tls_config(extra: &[rustls::pki_types::CertificateDer<'static>]) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(extra.iter().cloned());
    if roots.is_empty() {
        return Err("no certificate authorities found on this machine (looked in /etc/ssl and SSL_CERT_FILE)".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let timeout = || io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {}: i/o timeout", uri.authority().map_or("", |a| a.as_str())));
            tokio::time::timeout(CONNECT_TIMEOUT, connect(&connector, &uri)).await.map_err(|_| timeout())?
        })
    }
}

async fn connect(connector: &Connector, uri: &Uri) -> io::Result<Stream> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = dial(connector.network.as_ref(), host, port).await.map_err(|e| io::Error::new(e.kind(), format!("dial tcp {host}:{port}: {e}")))?;
    tcp.set_nodelay(true)?;
    if !secure {
        return Ok(Stream::Plain(TokioIo::new(tcp)));
    }
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Stream::Tls(TokioIo::new(Box::new(connector.tls()?.connect(name, tcp).await?))))
}

async fn dial(network: Option<&Arc<NetNs>>, host: &str, port: u16) -> io::Result<TcpStream> {
    let Some(network) = network.cloned() else { return TcpStream::connect((host, port)).await };
    let host = host.to_owned();
    let dialled = tokio::task::spawn_blocking(move || network.run(|| std::net::TcpStream::connect((host.as_str(), port)))).await;
    let stream = dialled.map_err(io::Error::other)???;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// A connection, with or without TLS.
pub enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(tls) if tls.inner().get_ref().1.alpn_protocol() == Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_to_where_they_came_from() {
        let check = |location: &str, expected: &str| {
            let from = "https://r.io:5000/v2/a/blobs/x".parse().unwrap();
            assert_eq!(join(&from, location).unwrap().to_string(), expected);
        };
        check("https://cdn.io/x?y=z#f", "https://cdn.io/x?y=z");
        check("//cdn.io/x", "https://cdn.io/x");
        check("/v2/b", "https://r.io:5000/v2/b");
        check("y", "https://r.io:5000/v2/a/blobs/y");
    }
}
