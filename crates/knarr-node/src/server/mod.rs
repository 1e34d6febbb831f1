//! The node API on port 10250 (upstream: `pkg/kubelet/server`): logs, exec, attach, port forwarding, pods, statistics, metrics. Every
//! request is authenticated (client certificate, or token by TokenReview) and authorized (SubjectAccessReview on `nodes/…`).

mod auth;
mod command;
mod files;
mod logs;
mod pods;
mod query;
pub mod stats;
mod text;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use auth::Auth;

use crate::agent::Pods;
use crate::config::ServingConfig;
use crate::context::Context;
use query::Query;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2000;
/// How long a client may take for the TLS handshake and for its headers.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where requests lead.
pub struct Server {
    pub context: Arc<Context>,
    pub pods: Arc<Pods>,
    pub auth: Auth,
    pub stats: stats::Stats,
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// An answer in plain text, as Go's `http.Error` writes it.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Opens the port of the node API. All addresses of the node are served.
///
/// # Errors
/// The port is taken.
pub async fn bind(port: u16, addresses: &[IpAddr]) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).await {
        Ok(listener) => Ok(listener),
        // A machine without IPv6.
        Err(_) if addresses.iter().all(IpAddr::is_ipv4) => TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await,
        Err(error) => Err(error),
    }
}

/// Serves until `stop`.
pub async fn serve(server: Arc<Server>, listener: TcpListener, config: ServingConfig, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(config.tls);
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, acceptor) = (server.clone(), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(server, acceptor, stream).await {
                tracing::debug!(%peer, %error, "a connection to the node API ended");
            }
            drop(permit);
        });
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificate: Option<CertificateDer<'static>> = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.clone().into_owned());
    let certificate = Arc::new(certificate);
    let service = service_fn(move |request| {
        let (server, certificate) = (server.clone(), certificate.clone());
        async move { Ok::<_, Infallible>(server.handle(request, (*certificate).as_ref()).await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
}

impl Server {
    async fn handle(&self, request: Request<Incoming>, certificate: Option<&CertificateDer<'static>>) -> Response<Body> {
        match self.auth.check(&self.context, &request, certificate).await {
            Ok(()) => self.route(request).await,
            Err(refusal) => refusal,
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().trim_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match parts.as_slice() {
            ["exec", namespace, pod, .., container] if parts.len() <= 5 => self.exec(request, namespace, pod, container, &query).await,
            ["attach", namespace, pod, .., container] if parts.len() <= 5 => self.attach(request, namespace, pod, container, &query).await,
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => self.port_forward(request, namespace, pod, &query).await,
            ["run", namespace, pod, .., container] if parts.len() <= 5 && *request.method() == Method::POST => {
                self.run(namespace, pod, container, &query).await
            }
            _ if !reads => plain(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
            ["healthz", ..] => plain(StatusCode::OK, "ok"),
            ["containerLogs", namespace, pod, container] => self.container_logs(namespace, pod, container, &query).await,
            ["pods"] => json(&self.all_pods()),
            ["runningpods"] => json(&self.running_pods()),
            ["stats", "summary"] => json(&self.stats.summary(&self.context, &self.pods, query.flag("only_cpu_and_memory")).await),
            ["metrics"] => text::page(text::own(&self.context, &self.pods)),
            ["metrics", "resource"] => text::page(text::resource(&self.stats.collect(&self.context, &self.pods).await)),
            ["metrics", "cadvisor"] => text::page(text::cadvisor(&self.stats.collect(&self.context, &self.pods).await)),
            ["metrics", "probes"] => text::page(text::probes(&self.context.probes)),
            ["configz"] => json(&pods::configuration(&self.context)),
            ["logs", ..] => files::serve(&parts[1..]),
            _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

/// Whether a request asks to become a WebSocket.
fn wants_websocket(request: &Request<Incoming>) -> bool {
    request.headers().get(UPGRADE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}
