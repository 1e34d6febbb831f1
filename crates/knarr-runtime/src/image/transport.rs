//! HTTP to registries: connections, TLS, redirects that carry no credentials to other hosts.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_sys::netlink::NetNs;
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
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

/// How TLS is spoken to a host beyond the ordinary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// Authorities that are trusted beside the machine's.
    pub ca_files: Vec<PathBuf>,
    /// Certificate and key that we show.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Believes whoever answers.
    pub skip_verify: bool,
}

/// A request without its credentials.
pub struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    pub fn get(uri: &Uri, headers: &HeaderMap) -> Self {
        Self { method: Method::GET, uri: uri.clone(), headers: headers.clone(), body: Bytes::new() }
    }

    pub fn post_form(uri: &Uri, form: String) -> Self {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        Self { method: Method::POST, uri: uri.clone(), headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]), body: form.into() }
    }

    pub fn is_get(&self) -> bool {
        self.method == Method::GET
    }
}

/// An HTTP client.
#[derive(Clone)]
pub struct Transport(Client<Connector, Full<Bytes>>);

impl Transport {
    /// Makes its connections in `network`: that of the machine, for a node in one of its own. Absent: that of the process.
    pub fn new(tls: TlsOptions, network: Option<Arc<NetNs>>) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE_TIMEOUT).pool_timer(hyper_util::rt::TokioTimer::new());
        Self(builder.build(Connector { tls: Arc::new(std::sync::OnceLock::new()), options: Arc::new(tls), network }))
    }

    /// Sends a request and follows redirects of a GET. `authorization` goes to the first host only, and never from https to http.
    pub async fn send(&self, request: Request, authorization: Option<&HeaderValue>) -> io::Result<Response<Incoming>> {
        let mut target = request.uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut attempt = http::Request::new(Full::new(request.body.clone()));
            (*attempt.method_mut(), *attempt.uri_mut(), *attempt.headers_mut()) = (request.method.clone(), target.clone(), request.headers.clone());
            attempt.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION"))));
            if let Some(value) = authorization.filter(|_| same_origin(&request.uri, &target)) {
                attempt.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let response = tokio::time::timeout(RESPONSE_TIMEOUT, self.0.request(attempt)).await;
            let response = response.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 60s"))?.map_err(root_cause)?;
            match redirect(&target, &response)? {
                Some(next) if request.is_get() => target = next,
                _ => return Ok(response),
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
    options: Arc<TlsOptions>,
    /// Absent: that of the process.
    network: Option<Arc<NetNs>>,
}

impl Connector {
    /// Reading the machine's authorities takes milliseconds: only once, and only for https.
    fn tls(&self) -> io::Result<TlsConnector> {
        let made = self.tls.get_or_init(|| tls_config(&self.options).map(Arc::new));
        made.clone().map(TlsConnector::from).map_err(io::Error::other)
    }
}

fn tls_config(options: &TlsOptions) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = if options.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Gullible(provider)))
    } else {
        builder.with_root_certificates(roots(options)?)
    };
    let mut config = match &options.client {
        Some((certificates, key)) => {
            let failed = |e: rustls::pki_types::pem::Error| format!("{}: {e}", key.display());
            builder.with_client_auth_cert(read_certificates(certificates)?, PrivateKeyDer::from_pem_file(key).map_err(failed)?).map_err(|e| e.to_string())?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(options: &TlsOptions) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in &options.ca_files {
        roots.add_parsable_certificates(read_certificates(file)?);
    }
    if roots.is_empty() {
        return Err("no certificate authorities found on this machine (looked in /etc/ssl and SSL_CERT_FILE)".to_owned());
    }
    Ok(roots)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|e| format!("{}: {e}", file.display()))
}

/// Checks nothing but that the other side holds the key it shows: what a user has asked for with `insecure_skip_verify`.
#[derive(Debug)]
struct Gullible(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
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
