//! Hands a connecting request on to its target and the answer back. Only an answer of 101 makes a tunnel; anything else is an
//! ordinary answer, however it was asked for. Redirects are handed back, never followed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::{Method, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use knarr_core::{Result, Status};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::links::{self, Links};
use super::target::{self, Target, Tls};
use super::{Connect, Streaming, log_answer, log_socket, socket};
use crate::admission::Objects;
use crate::http::{Body, RequestBody, switched};
use crate::request::RequestInfo;

/// A backend that does not take the connection within this time is down.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection, or that tell who the client is to us.
const NOT_HANDED_ON: [&str; 6] = ["proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "proxy-authorization"];

/// Serves exec, attach, log, port-forward and proxies.
pub struct Backend {
    objects: Arc<dyn Objects>,
    /// Trusts the cluster's CA and shows the server's client certificate.
    node_tls: Arc<rustls::ClientConfig>,
    /// Trusts anybody.
    any_tls: Arc<rustls::ClientConfig>,
}

impl Backend {
    pub fn new(objects: Arc<dyn Objects>, node_tls: Arc<rustls::ClientConfig>) -> Self {
        Self { objects, node_tls, any_tls: Arc::new(super::trust::anybody()) }
    }

    async fn send<T>(&self, target: &Target, io: T, request: http::Request<RequestBody>) -> Result<Response<hyper::body::Incoming>>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let failed = |e: hyper::Error| Status::service_unavailable(format!("error trying to reach service: {e}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
        let address = target.address;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "a proxied connection ended");
            }
        });
        sender.send_request(request).await.map_err(failed)
    }

    async fn dial(&self, target: &Target, request: http::Request<RequestBody>) -> Result<Response<hyper::body::Incoming>> {
        let unreachable = |why: String| Status::service_unavailable(format!("error trying to reach service: {why}"));
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(target.address)).await;
        let stream = dialled.map_err(|_| unreachable(format!("dial tcp {}: i/o timeout", target.address)))?;
        let stream = stream.map_err(|e| unreachable(format!("dial tcp {}: {e}", target.address)))?;
        stream.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let (config, name) = match &target.tls {
            Tls::None => return self.send(target, TokioIo::new(stream), request).await,
            Tls::Node(name) => (&self.node_tls, name.clone()),
            Tls::Unverified => (&self.any_tls, target.address.ip().to_string()),
        };
        let name = ServerName::try_from(name).map_err(|e| unreachable(e.to_string()))?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|e| unreachable(format!("tls: {e}")))?;
        self.send(target, TokioIo::new(stream), request).await
    }
}

#[async_trait]
impl Streaming for Backend {
    async fn connect(&self, connect: Connect, mut request: http::Request<RequestBody>) -> Result<Response<Body>> {
        let (raw_path, raw_query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        if let Some(redirect) = redirected(self.objects.as_ref(), &connect.info, request.method(), (&raw_path, &raw_query))? {
            return Ok(redirect);
        }
        let target = target::resolve(self.objects.as_ref(), &connect.info, &raw_path, &raw_query)?;
        let client = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
        if connect.info.subresource == "log" && socket::is_asked_for(request.headers()) {
            let asked = request.headers().clone();
            request.headers_mut().remove(UPGRADE);
            let answer = self.dial(&target, outgoing(request, &target)?).await?;
            return match client.filter(|_| answer.status().is_success()) {
                Some(client) => log_socket::answer(&asked, client, answer),
                None => log_answer::checked(&connect.info.name, incoming(answer)).await,
            };
        }
        let links = target.prefix.as_ref().map(|prefix| Links { prefix: prefix.clone(), backend: target.address.to_string(), asked: asked_host(&request) });
        let answer = self.dial(&target, outgoing(request, &target)?).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return switch(client, answer);
        }
        let answer = incoming(answer);
        match links {
            Some(links) => links.rewrite(without_cors(answer)).await,
            None if connect.info.subresource == "log" => log_answer::checked(&connect.info.name, answer).await,
            None => Ok(answer),
        }
    }
}

/// The redirect to a proxied root, for who comes without its slash to something that is there.
///
/// # Errors
/// What is not there, and Services without endpoints.
pub fn redirected(objects: &dyn Objects, info: &RequestInfo, method: &Method, (path, query): (&str, &str)) -> Result<Option<Response<Body>>> {
    let Some(redirect) = with_slash(info, method, path, query) else { return Ok(None) };
    match target::resolve(objects, info, path, query) {
        Err(e) if e.is_not_found() || info.resource == "services" => Err(e),
        _ => Ok(Some(redirect)),
    }
}

/// A proxied root is asked for with a slash at its end, so that relative links work.
fn with_slash(info: &RequestInfo, method: &Method, raw_path: &str, raw_query: &str) -> Option<Response<Body>> {
    let is_root = info.subresource == "proxy" && raw_path.ends_with("/proxy") && matches!(*method, Method::GET | Method::HEAD);
    if !is_root {
        return None;
    }
    let query = if raw_query.is_empty() { String::new() } else { format!("?{raw_query}") };
    Response::builder().status(StatusCode::MOVED_PERMANENTLY).header(LOCATION, format!("{raw_path}/{query}")).body(Body::empty()).ok()
}

/// The request as the backend gets it: HTTP/1.1, its own path, without our client's credentials. A proxied backend sees the
/// name that the client asked for, and by which path.
fn outgoing(request: http::Request<RequestBody>, target: &Target) -> Result<http::Request<RequestBody>> {
    let asked = asked_host(&request);
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.headers.get(UPGRADE).cloned();
    strip(&mut parts.headers);
    parts.headers.remove(AUTHORIZATION);
    let impersonation: Vec<HeaderName> = parts.headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|k| drop(parts.headers.remove(k)));
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    let host = match &target.prefix {
        Some(prefix) => {
            let path = target.path.split('?').next().unwrap_or_default();
            let slash = if path.ends_with('/') { "/" } else { "" };
            let forwarded = format!("{}{slash}", links::joined(prefix, path));
            parts.headers.insert("x-forwarded-uri", HeaderValue::from_str(&forwarded).map_err(Status::internal)?);
            asked
        }
        None => target.address.to_string(),
    };
    let host = HeaderValue::from_str(&host).map_err(Status::internal)?;
    parts.headers.insert(HOST, host);
    parts.uri = target.path.parse().map_err(|e| Status::bad_request(format!("{}: {e}", target.path)))?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(http::Request::from_parts(parts, body))
}

pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).filter_map(|n| n.trim().parse().ok()).collect();
    named.iter().for_each(|n| drop(headers.remove(n)));
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
    NOT_HANDED_ON.iter().for_each(|n| drop(headers.remove(*n)));
}

/// The backend's answer as the client gets it.
fn incoming(answer: Response<hyper::body::Incoming>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    strip(&mut parts.headers);
    let stream = body.into_data_stream().map(|chunk| chunk.map_err(Into::into));
    Response::from_parts(parts, Body::Stream(Box::pin(stream)))
}

/// A backend does not say who may read from our origin (upstream: `removeCORSHeaders`).
fn without_cors(mut answer: Response<Body>) -> Response<Body> {
    for name in ["credentials", "headers", "methods", "origin"] {
        answer.headers_mut().remove(format!("access-control-allow-{name}"));
    }
    answer
}

/// Host and port that the client asked for.
fn asked_host<B>(request: &http::Request<B>) -> String {
    let header = request.headers().get(HOST).and_then(|h| h.to_str().ok());
    header.or_else(|| request.uri().authority().map(|a| a.as_str())).unwrap_or_default().to_owned()
}

/// The answer of a backend that switches protocols, for the client; then both talk to each other.
///
/// # Errors
/// The client has not asked for it.
pub(crate) fn switch(client: Option<hyper::upgrade::OnUpgrade>, mut answer: Response<hyper::body::Incoming>) -> Result<Response<Body>> {
    let client = client.ok_or_else(|| Status::internal("the backend switched protocols unasked"))?;
    let backend = hyper::upgrade::on(&mut answer);
    Ok(switched::talk_on(answer.map(|_| Body::empty()), tunnel(client, backend)))
}

/// Copies both ways until either side is done.
async fn tunnel(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a tunnel was not made"),
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::debug!(%error, "a tunnel ended");
    }
}
