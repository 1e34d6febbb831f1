//! `exec`, `attach`, `run` and `portForward`: requests that become streams.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use knarr_runtime::cri::Streams;
use sha1::{Digest, Sha1};

use super::query::Query;
use super::{Body, Server, full, plain, wants_websocket};
use crate::context::Context;
use crate::pod::actor::PodView;
use crate::pod::spec::PodExt;
use crate::streams::forward::{self, Connect};
use crate::streams::remote::{self, Outcome, Remote, Wanted};
use crate::streams::websocket::{self, COMMAND_PROTOCOLS, FORWARD_PROTOCOLS, Protocol, TUNNEL_PROTOCOL};

const PROTOCOL_VERSION: &str = "x-stream-protocol-version";
const ACCEPTED_VERSIONS: &str = "x-accepted-stream-protocol-versions";
const WEBSOCKET_KEY: &str = "sec-websocket-key";
const WEBSOCKET_ACCEPT: &str = "sec-websocket-accept";
const WEBSOCKET_PROTOCOL: &str = "sec-websocket-protocol";
/// What RFC 6455 adds to the client's key.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How long a command without streams may run.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

type Refused = Box<Response<Body>>;

fn refuse(status: StatusCode, text: impl Into<String>) -> Refused {
    Box::new(plain(status, text))
}

/// What a command is run in, or what one attaches to.
enum Doing {
    Exec(Vec<String>),
    Attach,
}

impl Server {
    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<PodView>, Refused> {
        let handle = self.pods.find(namespace, name);
        handle.map(|h| h.view.borrow().clone()).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))
    }

    fn container(&self, namespace: &str, pod: &str, container: &str) -> Result<String, Refused> {
        let view = self.pod(namespace, pod)?;
        let found = view.observed.find(container).filter(|c| c.is_running()).map(|c| c.id.clone());
        found.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")")))
    }

    pub(super) async fn exec(&self, request: Request<Incoming>, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
        let command: Vec<String> = query.all("command").map(str::to_owned).collect();
        self.remote(request, namespace, pod, container, query, Doing::Exec(command))
    }

    pub(super) async fn attach(&self, request: Request<Incoming>, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
        self.remote(request, namespace, pod, container, query, Doing::Attach)
    }

    fn remote(&self, request: Request<Incoming>, namespace: &str, pod: &str, container: &str, query: &Query, doing: Doing) -> Response<Body> {
        let begun = wanted(query).and_then(|wanted| {
            let id = self.container(namespace, pod, container)?;
            let context = self.context.clone();
            if wants_websocket(&request) {
                let (protocol, answer) = switch_to_websocket(request.headers(), &COMMAND_PROTOCOLS)?;
                upgraded(request, move |io| async move { execute(context, id, doing, wanted, remote::over_websocket(io, protocol, wanted).await).await });
                return Ok(answer);
            }
            let (protocol, answer) = switch_to_spdy(request.headers(), &remote::SPDY_PROTOCOLS)?;
            upgraded(request, move |io| async move {
                match remote::over_spdy(io, protocol, wanted).await {
                    Ok(remote) => execute(context, id, doing, wanted, remote).await,
                    Err(why) => tracing::debug!(why, "a remote command did not begin"),
                }
            });
            Ok(answer)
        });
        begun.unwrap_or_else(|refused| *refused)
    }

    /// Runs a command without streams and gives its output.
    pub(super) async fn run(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
        let id = match self.container(namespace, pod, container) {
            Ok(id) => id,
            Err(refused) => return *refused,
        };
        let command: Vec<String> = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
        match self.context.runtime.exec_sync(&id, &command, RUN_TIMEOUT).await {
            Ok(output) if output.exit_code == 0 => Response::new(full([output.stdout, output.stderr].concat())),
            Ok(output) => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("command '{}' exited with {}: {}", command.join(" "), output.exit_code, String::from_utf8_lossy(&output.stderr)),
            ),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    pub(super) async fn port_forward(&self, request: Request<Incoming>, namespace: &str, pod: &str, query: &Query) -> Response<Body> {
        self.forward(request, namespace, pod, query).unwrap_or_else(|refused| *refused)
    }

    fn forward(&self, request: Request<Incoming>, namespace: &str, pod: &str, query: &Query) -> Result<Response<Body>, Refused> {
        let view = self.pod(namespace, pod)?;
        let sandbox = view.observed.active_sandbox().map(|s| s.id.clone());
        let sandbox = sandbox.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to find sandboxID for pod {}", view.pod.described())))?;
        let named = format!("{sandbox}, uid {}", view.pod.uid());
        let context = self.context.clone();
        let connect: Connect = Arc::new(move |port| {
            let (context, sandbox) = (context.clone(), sandbox.clone());
            async move { context.runtime.port_forward(&sandbox, port).await.map_err(|e| e.to_string()) }.boxed()
        });
        if !wants_websocket(&request) {
            let (_, answer) = switch_to_spdy(request.headers(), &forward::SPDY_PROTOCOLS)?;
            upgraded(request, move |io| forward::over_spdy(io, named, connect));
            return Ok(answer);
        }
        if asked_protocols(request.headers()).iter().any(|p| p == TUNNEL_PROTOCOL) {
            let answer = websocket_answer(request.headers(), TUNNEL_PROTOCOL)?;
            upgraded(request, move |io| async move { forward::over_spdy(websocket::tunnel(io).await, named, connect).await });
            return Ok(answer);
        }
        let ports = ports(query)?;
        let (protocol, answer) = switch_to_websocket(request.headers(), &FORWARD_PROTOCOLS)?;
        upgraded(request, move |io| forward::over_websocket(io, protocol, ports, named, connect));
        Ok(answer)
    }
}

/// The streams that a request asks for (upstream: `remotecommand.NewOptions`).
fn wanted(query: &Query) -> Result<Wanted, Refused> {
    let tty = query.flag("tty");
    let wanted = Wanted { stdin: query.flag("input"), stdout: query.flag("output"), stderr: query.flag("error") && !tty, tty };
    if wanted.stdin || wanted.stdout || wanted.stderr {
        Ok(wanted)
    } else {
        Err(refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"))
    }
}

fn ports(query: &Query) -> Result<Vec<u16>, Refused> {
    let bad = |text: String| refuse(StatusCode::BAD_REQUEST, text);
    let mut ports = Vec::new();
    for text in query.all("port").flat_map(|p| p.split(',')) {
        let port: u16 = text.parse().map_err(|_| bad(format!("unable to parse \"{text}\" as a port")))?;
        if port == 0 {
            return Err(bad(format!("port \"{text}\" must be > 0")));
        }
        ports.push(port);
    }
    match ports.len() {
        0 => Err(bad("query parameter \"port\" is required".into())),
        n if n > forward::PORTS_MAX => Err(bad(format!("more than {} ports", forward::PORTS_MAX))),
        _ => Ok(ports),
    }
}

async fn execute(context: Arc<Context>, id: String, doing: Doing, wanted: Wanted, remote: Remote) {
    let Remote { stdin, stdout, stderr, resize, mut ending } = remote;
    let streams = Streams { stdin, stdout, stderr, tty: wanted.tty, resize };
    let running = async {
        match &doing {
            Doing::Exec(command) => match context.runtime.exec(&id, command, streams).await {
                Ok(code) => Outcome::Exited(code),
                Err(error) => Outcome::Failed(format!("error executing command in container: {error}")),
            },
            Doing::Attach => match context.runtime.attach(&id, streams).await {
                Ok(()) => Outcome::Exited(0),
                Err(error) => Outcome::Failed(format!("error attaching to container: {error}")),
            },
        }
    };
    let outcome = tokio::select! {
        outcome = running => Some(outcome),
        // Nobody is left to hear it.
        () = ending.client_left() => None,
    };
    if let Some(outcome) = outcome {
        ending.finish(&outcome).await;
    }
}

/// Goes on with the connection once the answer is out.
fn upgraded<F, R>(request: Request<Incoming>, then: F)
where
    F: FnOnce(TokioIo<Upgraded>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => then(TokioIo::new(io)).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

fn listed<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty())
}

/// Upstream: `httpstream.Handshake`.
fn switch_to_spdy(headers: &HeaderMap, spoken: &[&'static str]) -> Result<(&'static str, Response<Body>), Refused> {
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let connection = listed(headers, CONNECTION.as_str()).any(|v| v.eq_ignore_ascii_case("upgrade"));
    if !connection || !upgrade.to_lowercase().contains("spdy/3.1") {
        return Err(refuse(StatusCode::BAD_REQUEST, format!("unable to upgrade: missing upgrade headers in request: {upgrade:?}")));
    }
    let asked: Vec<&str> = listed(headers, PROTOCOL_VERSION).collect();
    if asked.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: header X-Stream-Protocol-Version does not exist in request"));
    }
    let Some(chosen) = asked.iter().find_map(|a| spoken.iter().find(|s| *s == a)) else {
        let text = format!("unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]", asked.join(" "), spoken.join(" "));
        let mut refused = refuse(StatusCode::FORBIDDEN, text);
        for version in spoken {
            refused.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(version));
        }
        return Err(refused);
    };
    let mut answer = switching("SPDY/3.1");
    answer.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(chosen));
    Ok((chosen, answer))
}

fn asked_protocols(headers: &HeaderMap) -> Vec<String> {
    listed(headers, WEBSOCKET_PROTOCOL).map(str::to_owned).collect()
}

fn switch_to_websocket(headers: &HeaderMap, spoken: &[Protocol]) -> Result<(Protocol, Response<Body>), Refused> {
    let asked = asked_protocols(headers);
    let protocol = websocket::negotiate(&asked, spoken)
        .ok_or_else(|| refuse(StatusCode::FORBIDDEN, format!("unable to upgrade: none of the protocols [{}] is supported", asked.join(" "))))?;
    Ok((protocol, websocket_answer(headers, protocol.name)?))
}

fn websocket_answer(headers: &HeaderMap, protocol: &'static str) -> Result<Response<Body>, Refused> {
    let key = headers.get(WEBSOCKET_KEY).ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "unable to upgrade: no Sec-WebSocket-Key"))?;
    let accept = STANDARD.encode(Sha1::new().chain_update(key.as_bytes()).chain_update(WEBSOCKET_GUID).finalize());
    let mut answer = switching("websocket");
    let accept = HeaderValue::from_str(&accept).map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    answer.headers_mut().insert(WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        answer.headers_mut().insert(WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn spdy_is_spoken_only_in_a_version_that_both_know() {
        let ask = |version: &'static str| {
            let asked = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", version)]);
            switch_to_spdy(&asked, &remote::SPDY_PROTOCOLS).map(|(p, _)| p).map_err(|r| r.status().as_u16())
        };
        assert_eq!(ask("v9, v4.channel.k8s.io"), Ok("v4.channel.k8s.io"));
        assert_eq!((ask("v9"), ask("")), (Err(403), Err(400)));
        assert!(switch_to_spdy(&headers(&[]), &remote::SPDY_PROTOCOLS).is_err());
    }

    #[test]
    fn a_websocket_is_accepted_as_the_rfc_says() {
        let asked = headers(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-protocol", "v5.channel.k8s.io")]);
        let (protocol, answer) = switch_to_websocket(&asked, &COMMAND_PROTOCOLS).unwrap();
        assert_eq!((protocol.name, answer.headers()["sec-websocket-accept"].to_str().unwrap()), ("v5.channel.k8s.io", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}
