//! Where a request over the wire meets distributed tracing: its span, with the attributes that OpenTelemetry has agreed on for servers
//! (upstream: `filters/traces.go` and `otelhttp`).

use http::{HeaderValue, Request, Response, Version, header, request::Parts};

use super::{
    body::Body,
    edge::{Passage, Peer},
    switched,
};
use crate::{
    authn::User,
    call::Outcome,
    request::RequestInfo,
    server::Inner,
    spans::{self, Context, Span},
};

/// Whoever is in one of these may decide what is sampled.
const TRUSTED: [&str; 2] = ["system:masters", "system:monitoring"];

impl Passage {
    /// Begins the span of a request from a user. Gives what the request is done within, if that is anything.
    pub fn begin_span<B>(&self, inner: &Inner, user: &User, request: &Request<B>, peer: &Peer) -> Option<Context> {
        let remote = spans::extract(request.headers());
        let Some(tracer) = &inner.tracer else { return remote.map(Context::passing) };
        let trusted = user.groups.iter().any(|group| TRUSTED.contains(&group.as_str()));
        let start = inner.env.now() - self.arrived.elapsed();
        let (mut span, context) = tracer.request(remote, trusted, || name(request.method(), &self.info), start);
        if span.is_recording() {
            describe(&mut span, request, peer);
            span.set("audit-id", self.audit_id.to_str().unwrap_or_default());
        }
        *self.span.lock() = span;
        Some(context)
    }

    /// Ends the span with its answer; of one that lasts, when the answer's body ends.
    pub fn traced(&self, response: Response<Body>, lasting: bool) -> Response<Body> {
        let mut span = std::mem::take(&mut *self.span.lock());
        if !span.is_recording() {
            return response;
        }
        let status = response.status();
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail();
        }
        if lasting && status.as_u16() < 300 {
            return switched::hold(response, Box::new(span));
        }
        response
    }
}

/// Begins the span of writing an answer (upstream: `responsewriters.SerializeObject`); of a watch there is none.
pub fn serializing(outcome: &Outcome, request: &Parts, audit_id: &HeaderValue, media: &'static str) -> Span {
    if matches!(outcome, Outcome::Watch { .. }) {
        return Span::default();
    }
    let mut span = spans::child("SerializeObject", spans::Kind::Internal);
    if span.is_recording() {
        span.set("audit-id", audit_id.to_str().unwrap_or_default());
        span.set("method", request.method.as_str());
        span.set("url", request.uri.path());
        span.set("mediaType", media);
    }
    span
}

/// `GET /api/v1/namespaces/{:namespace}/pods/{:name}`; of what is no resource, the method.
fn name(method: &http::Method, info: &RequestInfo) -> String {
    if !info.is_resource_request {
        return method.to_string();
    }
    let group = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
    let namespace = if info.namespace.is_empty() { "" } else { "/namespaces/{:namespace}" };
    let one = if info.name.is_empty() { "" } else { "/{:name}" };
    let rest = if info.subresource.is_empty() { String::new() } else { format!("/{}", info.subresource) };
    format!("{method} {group}/{}{namespace}/{}{one}{rest}", info.version, info.resource)
}

fn describe<B>(span: &mut Span, request: &Request<B>, peer: &Peer) {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
    let authority = request.uri().authority().map(ToString::to_string).or_else(|| text(header::HOST).map(str::to_owned)).unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).unwrap_or((&authority, ""));
    span.set("server.address", host.trim_matches(['[', ']']));
    if let Ok(port) = port.parse::<i64>() {
        span.set("server.port", port);
    }
    span.set("http.request.method", request.method().as_str());
    span.set("url.scheme", "https");
    span.set("url.path", request.uri().path());
    span.set("http.target", request.uri().path_and_query().map_or("/", |p| p.as_str()));
    let address = peer.address.map(|a| a.ip().to_canonical().to_string());
    if let (Some(ip), Some(address)) = (&address, peer.address) {
        span.set("network.peer.address", ip.clone());
        span.set("network.peer.port", i64::from(address.port()));
    }
    let named = request.headers().get("x-forwarded-for").and_then(|v| v.to_str().ok()).and_then(|v| v.split(',').next()).map(|ip| ip.trim().to_owned());
    if let Some(client) = named.filter(|ip| !ip.is_empty()).or(address) {
        span.set("client.address", client);
    }
    if let Some(agent) = text(header::USER_AGENT) {
        span.set("user_agent.original", agent);
    }
    let version = if request.version() == Version::HTTP_2 { "2" } else { "1.1" };
    span.set("network.protocol.version", version);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    #[test]
    fn spans_are_named_by_what_is_asked_for_and_not_for_whom() {
        let check = |method: http::Method, path: &str, wanted: &str| {
            let info = RequestInfo::parse(&method, path, &Query::parse("")).unwrap();
            assert_eq!(name(&method, &info), wanted);
        };
        check(http::Method::GET, "/api/v1/namespaces/a/pods/b/log", "GET /api/v1/namespaces/{:namespace}/pods/{:name}/log");
        check(http::Method::POST, "/apis/apps/v1/namespaces/a/deployments", "POST /apis/apps/v1/namespaces/{:namespace}/deployments");
        check(http::Method::GET, "/api/v1/nodes", "GET /api/v1/nodes");
        check(http::Method::GET, "/healthz", "GET");
    }
}
