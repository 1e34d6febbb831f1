//! Hands a request on to another server, over TLS to one of its endpoints, under the name of its user.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version,
    header::{AUTHORIZATION, CONNECTION, HOST, LOCATION, UPGRADE},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use knarr_core::{Reason, Result, Status};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Remote;
use crate::{
    admission::Objects,
    authn::User,
    http::{Body, RequestBody},
    server::Inner,
    spans,
    stored::Stored,
    streaming::{backend, target},
};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept for later, for each other server.
const IDLE_MAX: usize = 16;

/// Connections that wait for their next request.
#[derive(Default)]
pub struct Pool(Arc<Mutex<Vec<SendRequest<RequestBody>>>>);

impl Pool {
    fn take(&self) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.0.lock();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Puts a connection back when its answer has been read.
    fn give_back(&self, mut sender: SendRequest<RequestBody>) {
        let idle = self.0.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = idle.lock();
                if idle.len() < IDLE_MAX {
                    idle.push(sender);
                }
            }
        });
    }
}

/// An endpoint of the Service.
pub fn endpoint(objects: &dyn Objects, remote: &Remote) -> Option<SocketAddr> {
    use knarr_core::ValueExt;
    let service = objects.value("", "services", &remote.namespace, &remote.service)?;
    let port = service.list_at(&["spec", "ports"]).iter().find(|p| p.i64_at(&["port"]) == Some(remote.port))?;
    let (ip, number) = target::endpoint(objects, &remote.namespace, &remote.service, port.str_at(&["name"]).unwrap_or_default())?;
    Some(SocketAddr::new(ip.parse().ok()?, number))
}

fn unavailable() -> Status {
    Status::new(503, Reason::ServiceUnavailable, "service unavailable")
}

async fn connect(inner: &Inner, remote: &Remote) -> Result<SendRequest<RequestBody>> {
    let address = endpoint(&Stored(inner.storage.clone()), remote).ok_or_else(unavailable)?;
    let failed = |why: String| Status::service_unavailable(format!("error trying to reach service: {why}"));
    let tcp = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(|_| failed(format!("dial tcp {address}: i/o timeout")))?.map_err(|e| failed(format!("dial tcp {address}: {e}")))?;
    tcp.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
    let name = ServerName::try_from(remote.host()).map_err(|e| failed(e.to_string()))?;
    let tls = TlsConnector::from(remote.tls.clone()).connect(name, tcp).await.map_err(|e| failed(format!("tls: {e}")))?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| failed(e.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%address, %error, "a connection to another API server ended");
        }
    });
    Ok(sender)
}

/// Sends a request in a user's name.
///
/// # Errors
/// When the other server cannot be reached.
pub async fn send(inner: &Inner, remote: &Remote, user: &User, request: Request<RequestBody>) -> Result<Response<Incoming>> {
    let failed = |e: hyper::Error| Status::service_unavailable(format!("error trying to reach service: {e}"));
    let mut sender = match remote.pool.take() {
        Some(sender) => sender,
        None => connect(inner, remote).await?,
    };
    let upgrade = request.headers().contains_key(UPGRADE);
    let mut span = spans::child(&format!("HTTP {}", request.method()), spans::Kind::Client);
    span.set("http.request.method", request.method().as_str());
    span.set("server.address", remote.host());
    let exchange = async {
        let mut request = outgoing(request, remote, user)?;
        spans::inject(request.headers_mut());
        sender.send_request(request).await.map_err(failed)
    };
    let answer = span.around(|| exchange).await?;
    span.set("http.response.status_code", i64::from(answer.status().as_u16()));
    if !upgrade {
        remote.pool.give_back(sender);
    }
    Ok(answer)
}

/// Hands a client's request on and the answer back.
///
/// # Errors
/// 503 while the other server is not available, 502 when it redirects.
pub async fn forward(inner: &Inner, remote: &Remote, user: &User, mut request: Request<RequestBody>) -> Result<Response<Body>> {
    if !remote.is_available() {
        return Err(unavailable());
    }
    let client = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let answer = send(inner, remote, user, request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return backend::switch(client, answer);
    }
    // A redirect would make the client show its credentials elsewhere (CVE-2022-3172).
    if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
        return Err(Status::new(502, Reason::Unknown, "the backend attempted to redirect this request, which is not permitted"));
    }
    let (mut parts, body) = answer.into_parts();
    backend::strip(&mut parts.headers);
    parts.version = Version::default();
    let stream = body.into_data_stream().map(|chunk| chunk.map_err(Into::into));
    Ok(Response::from_parts(parts, Body::Stream(Box::pin(stream))))
}

/// The request as the other server gets it: without the client's credentials, with our word for who it is.
fn outgoing(request: Request<RequestBody>, remote: &Remote, user: &User) -> Result<Request<RequestBody>> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.headers.get(UPGRADE).cloned();
    backend::strip(&mut parts.headers);
    parts.headers.remove(AUTHORIZATION);
    let ours = |k: &&HeaderName| k.as_str().starts_with("x-remote-") || k.as_str().starts_with("impersonate-");
    let spoofed: Vec<HeaderName> = parts.headers.keys().filter(ours).cloned().collect();
    spoofed.iter().for_each(|k| drop(parts.headers.remove(k)));
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    vouch(&mut parts.headers, user)?;
    parts.headers.insert(HOST, HeaderValue::from_str(&remote.host()).map_err(Status::internal)?);
    parts.uri = parts.uri.path_and_query().map_or("/", |p| p.as_str()).parse().map_err(Status::internal)?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

/// `X-Remote-User` and its like (upstream: `transport.SetAuthProxyHeaders`).
fn vouch(headers: &mut HeaderMap, user: &User) -> Result<()> {
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(Status::internal);
    headers.insert("x-remote-user", value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert("x-remote-uid", value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append("x-remote-group", value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        let name = HeaderName::from_bytes(name.to_lowercase().as_bytes()).map_err(Status::internal)?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// What may not stand in a header's name is percent-encoded.
fn escaped(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_told_in_headers() {
        let mut user = User { name: "alice".into(), uid: "7".into(), groups: vec!["a".into(), "b".into()], ..User::default() };
        user.extra.insert("example.com/scope".into(), vec!["x".into()]);
        let mut headers = HeaderMap::new();
        vouch(&mut headers, &user).unwrap();
        let all: Vec<String> = headers.iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())).collect();
        assert_eq!(all, ["x-remote-user=alice", "x-remote-uid=7", "x-remote-group=a", "x-remote-group=b", "x-remote-extra-example.com%2fscope=x"]);
    }
}
