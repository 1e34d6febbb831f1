//! The small HTTP client of probes and lifecycle hooks: one request, no pool, certificates not checked, redirects followed
//! only on the same host (upstream: `pkg/probe/http`).

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

/// Bytes of an answer that are read; the rest is of no interest.
const BODY_BYTES_MAX: usize = 10 * 1024;
const REDIRECTS_MAX: usize = 10;

/// A probe answers 200–399; what it means is the caller's.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u16,
    pub body: String,
    /// It pointed to another host, where probes do not follow.
    pub redirected_away: bool,
}

/// A port by number or by its name in the container (upstream: `ResolveContainerPort`).
///
/// # Errors
/// There is no such port.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => match container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
            Some(found) => found.container_port,
            None => name.parse().map_err(|_| format!("strconv.Atoi: parsing \"{name}\": invalid syntax"))?,
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// The URL and headers of an `httpGet`.
#[derive(Clone, Debug)]
pub struct Target {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub http2: bool,
    pub user_agent: &'static str,
}

impl Target {
    /// # Errors
    /// The port has no number.
    pub fn new(action: &HTTPGetAction, container: &Container, pod_ip: &str, user_agent: &'static str) -> Result<Self, String> {
        let path = action.path.as_deref().unwrap_or_default();
        Ok(Self {
            tls: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_owned(),
            port: resolve_port(&action.port, container)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
            http2: action.protocol.as_deref() == Some("HTTP2"),
            user_agent,
        })
    }

    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    /// As error messages name it.
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let named = |name: &str| self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let host = named("host").filter(|h| !h.is_empty()).map_or_else(|| self.authority(), str::to_owned);
        let path: String = self.path.bytes().map(|b| if b.is_ascii_graphic() { (b as char).to_string() } else { format!("%{b:02X}") }).collect();
        let uri = if self.http2 { format!("http://{host}{path}") } else { path };
        let mut request = Request::builder().uri(uri);
        if !self.http2 {
            request = request.header(HOST, host);
        }
        if named("user-agent").is_none() {
            request = request.header(USER_AGENT, self.user_agent);
        }
        if named("accept").is_none() {
            request = request.header(ACCEPT, "*/*");
        }
        for (name, value) in self.headers.iter().filter(|(n, v)| !n.eq_ignore_ascii_case("host") && !(n.eq_ignore_ascii_case("accept") && v.is_empty())) {
            let name = HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?;
            request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|e| e.to_string())?);
        }
        request.body(Empty::new()).map_err(|e| e.to_string())
    }

    /// The same target at the place that an answer points to; `None` on another host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let mut next = self.clone();
        if let Some(host) = uri.host() {
            if host.trim_matches(['[', ']']) != self.host {
                return None;
            }
            next.tls = uri.scheme_str() == Some("https");
            next.port = uri.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
        }
        uri.path_and_query().map_or("/", |p| p.as_str()).clone_into(&mut next.path);
        Some(next)
    }
}

/// Asks once, following redirects on the same host.
///
/// # Errors
/// No connection, or no answer, in words that begin with the method and URL as Go's do.
pub async fn get(target: &Target) -> Result<Answer, String> {
    let mut target = target.clone();
    for _ in 0..=REDIRECTS_MAX {
        let response = once(&target).await.map_err(|e| format!("Get \"{}\": {e}", target.url()))?;
        let code = response.status().as_u16();
        let location =
            response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308)).map(str::to_owned);
        let body = match Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(all) => String::from_utf8_lossy(&all.to_bytes()).into_owned(),
            // A long or broken body does not change what the status says.
            Err(_) => String::new(),
        };
        match location.map(|l| target.redirected(&l)) {
            None => return Ok(Answer { code, body, redirected_away: false }),
            Some(None) => return Ok(Answer { code, body, redirected_away: true }),
            Some(Some(next)) => target = next,
        }
    }
    Err(format!("Get \"{}\": stopped after {REDIRECTS_MAX} redirects", target.url()))
}

async fn once(target: &Target) -> Result<Response<Incoming>, String> {
    let tcp = dial(&target.host, target.port).await?;
    let request = target.request()?;
    if !target.tls {
        return if target.http2 { send_http2(TokioIo::new(tcp), request).await } else { send(TokioIo::new(tcp), request).await };
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
    let tls = tokio_rustls::TlsConnector::from(TLS.clone()).connect(name, tcp).await.map_err(|e| {
        // What Go says when a plain server answers; hooks look for it.
        let text = e.to_string();
        if text.contains("InvalidContentType") || text.contains("corrupt message") {
            "http: server gave HTTP response to HTTPS client".into()
        } else {
            format!("tls: {text}")
        }
    })?;
    send(TokioIo::new(tls), request).await
}

/// Opens a connection, with Go's words for what goes wrong.
///
/// # Errors
/// There is none.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    TcpStream::connect((host, port)).await.map_err(|e| {
        let why = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {at}: {why}")
    })
}

async fn send<S>(io: TokioIo<S>, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    // It ends with the response's body, which the caller reads.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() })
}

async fn send_http2<S>(io: TokioIo<S>, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// Probes ask whether a server answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &rustls::DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &rustls::DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring speaks the default protocol versions");
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth();
    config.enable_sni = false;
    Arc::new(config)
});

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers each connection with the next text and tells what it was asked.
    async fn serve(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let n = socket.read(&mut buffer).await.unwrap();
                asked.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, task)
    }

    fn target(port: u16, path: &str) -> Target {
        Target {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: path.into(),
            headers: vec![("X-A".into(), "b".into())],
            http2: false,
            user_agent: "kube-probe/1.37",
        }
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_only() {
        let away = "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/x\r\nContent-Length: 0\r\n\r\n";
        let near = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned();
        let (port, asked) = serve(vec![near, good]).await;
        assert_eq!(get(&target(port, "/a")).await.unwrap(), Answer { code: 200, body: "ok".into(), redirected_away: false });
        let asked = asked.await.unwrap();
        assert!(asked[0].starts_with("GET /a HTTP/1.1\r\n") && asked[0].contains("user-agent: kube-probe/1.37") && asked[0].contains("x-a: b"), "{}", asked[0]);
        assert!(asked[1].starts_with("GET /there "));
        let (port, _task) = serve(vec![away.into()]).await;
        assert!(get(&target(port, "/")).await.unwrap().redirected_away);
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_in_gos_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(
            get(&target(port, "/x")).await.unwrap_err(),
            format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused")
        );
    }
}
