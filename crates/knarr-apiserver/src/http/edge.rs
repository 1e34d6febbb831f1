//! From a request off the wire to its answer (upstream: the filter chain of `server/config.go`).

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use knarr_core::{Result, Status, api::PatchType, go, metrics::OTHER};
use parking_lot::Mutex;

use super::{
    body::{Body, BoxError, RequestBody, read_all},
    connect, cors, impersonate,
    negotiate::{Accepted, Codecs, Media, Offers, Router, accept, content_essence, content_media, framed},
    paths,
    respond::{self, Shape},
    switched, traced, watch_socket,
};
use crate::{
    audit::Record,
    authn::{Credentials, User, request_header, websocket},
    call::{Call, Input, Outcome},
    catalog::Catalog,
    encode::{Format, table::Include},
    flowcontrol::{Asked, Class, LEVEL_HEADER, SCHEMA_HEADER, Seat},
    metrics::{Labels, Requests, timed, waited},
    pipeline::{attributes_for, panic_text, unrouted},
    request::{Query, RequestInfo, options_from_query, parse_bool},
    server::{Inner, Server},
    spans::Span,
    streaming::socket,
};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// DER of its certificates, leaf first, verified against the client CA.
    pub certificates: Arc<Vec<Vec<u8>>>,
    pub address: Option<SocketAddr>,
    /// When the leaf of its certificates ends, in seconds since 1970.
    pub expires: Option<i64>,
}

const AUDIT_ID: &str = "audit-id";

/// A request off the wire, as far as its first line tells.
pub struct Arrived<B> {
    request: Request<B>,
    query: Query,
    info: Result<RequestInfo>,
    started: Instant,
}

impl<B: HttpBody> Arrived<B> {
    pub fn new(request: Request<B>) -> Self {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
        Self { request, query, info, started: Instant::now() }
    }
}

/// Among no more objects than these those that a list wants are found within some tens of microseconds.
const BRIEF_LIST_OBJECTS_MAX: usize = 4096;

impl Server {
    /// Whether an answer takes the processor for a moment only, and never makes its thread wait. Such a one costs less than
    /// telling another thread of it. Writes are none: they wait for the disk, and are many at once when it matters.
    pub fn is_brief<B>(&self, arrived: &Arrived<B>) -> bool {
        let Ok(info) = &arrived.info else { return true };
        let inner = &self.inner;
        if !matches!(info.verb.as_str(), "get" | "list") || !info.subresource.is_empty() || inner.authorizer.load().may_wait() {
            return false;
        }
        let catalog = inner.catalog.load();
        // Custom resources may be converted by a webhook, which the thread waits for.
        let Some(served) = catalog.find(&info.group, &info.version, &info.resource).filter(|s| s.resource.custom.is_none()) else { return false };
        info.verb == "get" || served.resource.is_stored() && inner.storage.snapshot(&served.key).len() <= BRIEF_LIST_OBJECTS_MAX
    }

    /// Answers one request. Whatever happens, there is an answer.
    pub async fn handle<B>(&self, arrived: Arrived<B>, peer: &Peer) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.inner;
        let Arrived { request, query, info, started } = arrived;
        let arrived = tokio::time::Instant::from_std(started);
        let audit_id = audit_id(inner, request.headers());
        if inner.refuses.load(Ordering::Acquire) && !is_served_to_the_end(&request) {
            return finish(inner, audit_id, going_away(request.version()));
        }
        let info = match info {
            Ok(info) => info,
            Err(status) => return finish(inner, audit_id, respond::failure(&status.into(), &Accepted::JSON)),
        };
        let origin = inner.config.cors.origin(request.headers());
        if let Some(mut response) = origin.as_ref().and_then(|_| cors::preflight(request.method())) {
            origin.into_iter().for_each(|origin| cors::grant(response.headers_mut(), origin));
            return finish(inner, audit_id, response);
        }
        let counted = counted(inner, request.method(), request.headers(), &info, &query);
        let sized = matches!(*request.method(), http::Method::GET) && matches!(info.verb.as_str(), "get" | "list") && !info.is_long_running();
        let (wanted, agent) = (request.headers().get(header::ACCEPT).cloned(), request.headers().get(header::USER_AGENT).cloned());
        let errors_as = || error_format(self.inner.config.codecs, wanted, agent);
        let lasting = info.is_long_running();
        let _under_way = (inner.config.shutdown_refuses && !lasting).then(|| inner.under_way.token());
        let time = if lasting { Ok(inner.config.request_timeout) } else { time_for(&query, inner.config.request_timeout) };
        let time = match time {
            Ok(time) => time,
            Err(status) => {
                counted.observe(status.code, started.elapsed(), Duration::ZERO);
                return finish(inner, audit_id, respond::failure(&status.into(), &errors_as()));
            }
        };
        let passage = Passage { info: Arc::new(info), query, arrived, time, audit_id, class: OnceLock::new(), record: OnceLock::new(), span: Mutex::default() };
        // In a place of its own, as are its largest parts: else all that may become of a request would be moved about with it, 60 KB.
        let work = Box::pin(timed(AssertUnwindSafe(self.route(request, peer, &passage)).catch_unwind()));
        let (response, webhooks) = if lasting {
            work.await
        } else {
            match tokio::time::timeout(time, work).await {
                Ok(done) => done,
                Err(_) => {
                    counted.terminate(504);
                    let seconds = time.as_secs_f64();
                    let status = Status::timeout(format!("request did not complete within requested timeout - context deadline exceeded ({seconds}s)"), 0);
                    (Ok(Err(status.into())), Duration::ZERO)
                }
            }
        };
        let response = match response.unwrap_or_else(|panic| Ok(passage.panicked(panic.as_ref()))) {
            Ok(response) => response,
            Err(refused) if refused.too_many => {
                counted.terminate(429);
                too_many(&refused)
            }
            Err(refused) => {
                if let Some(record) = passage.record() {
                    record.refused(&refused.status.status);
                }
                let mut response = respond::failure(&refused.status, &errors_as());
                respond::warn(response.headers_mut(), &refused.warnings);
                response
            }
        };
        let response = passage.written_down(passage.classified(response)).await;
        let code = response.status().as_u16();
        let response = passage.traced(response, lasting);
        let mut response = if lasting && code < 300 {
            // Counted when it ends.
            switched::hold(response, Box::new(counted.long_running(code, started)))
        } else {
            counted.observe(code, started.elapsed(), webhooks);
            if let Some(bytes) = response.body().size_hint().exact().filter(|_| sized) {
                counted.sized(bytes);
            }
            response
        };
        origin.into_iter().for_each(|origin| cors::grant(response.headers_mut(), origin));
        finish(inner, passage.audit_id, response)
    }

    async fn route<B>(&self, mut request: Request<B>, peer: &Peer, passage: &Passage) -> Result<Response<Body>, Refused>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.inner;
        websocket::take_token(request.headers_mut())?;
        let info = &*passage.info;
        let user = inner.authenticate(request.headers(), &info.path, peer).await;
        if let Some(auditor) = &inner.auditor {
            passage.begin_record(auditor, user.as_ref().ok().map(|u| Arc::new(u.clone())), &request, peer);
        }
        let user = user?;
        let record = passage.record();
        if let Some(record) = record {
            record.received().await?;
        }
        request_header::clear(request.headers_mut(), &inner.config.front_proxy_headers);
        if let Some(expires) = peer.expires {
            inner.metrics.certificate((expires - inner.env.now().as_second()) as f64);
        }
        let user = Arc::new(impersonate::apply(inner, user, info, request.headers_mut(), record).await?);
        match passage.begin_span(inner, &user, &request, peer) {
            Some(context) => context.around(|| self.route_known(request, passage, user)).await,
            None => self.route_known(request, passage, user).await,
        }
    }

    /// A request of somebody who is known.
    async fn route_known<B>(&self, request: Request<B>, passage: &Passage, user: Arc<User>) -> Result<Response<Body>, Refused>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (inner, info, record) = (&self.inner, &*passage.info, passage.record());
        let seat = inner.admit(&user, passage).await?;
        if let Some(remote) = inner.aggregation.find(info)
            && !inner.catalog.load().has_group_version(&remote.group, &remote.version)
        {
            inner.check_recorded(&attributes_for(&user, info), record).await?;
            let request = request.map(|body| RequestBody::new(body.map_err(Into::into)));
            let answer = Box::pin(crate::aggregate::forward(inner, &remote, &user, request)).await;
            return Ok(answer.unwrap_or_else(|status| respond::plain_error(status.code, &status.message)));
        }
        if !info.is_resource_request {
            return Ok(Box::pin(paths::serve(inner, &user, passage, request.headers())).await?);
        }
        let catalog = inner.catalog.load_full();
        if connect::is_connect(&catalog, info) {
            return Ok(Box::pin(connect::serve(inner, &catalog, user, info.clone(), record, request)).await?);
        }
        self.serve_resource(request, passage, user, &catalog, seat).await
    }

    /// `seat` is free again when the answer stands; of a watch, when its first state is told.
    async fn serve_resource<B>(
        &self,
        request: Request<B>,
        passage: &Passage,
        user: Arc<User>,
        catalog: &Catalog,
        seat: Option<Seat>,
    ) -> Result<Response<Body>, Refused>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.inner;
        let (mut parts, body) = request.into_parts();
        let (info, query) = (&*passage.info, &passage.query);
        let served = catalog.find(&info.group, &info.version, &info.resource);
        if let Some(refused) = served.and_then(|served| unrouted(served, info, &parts.method)) {
            inner.check_recorded(&attributes_for(&user, info), passage.record()).await?;
            return Err(refused.into());
        }
        let custom = served.is_some_and(|s| s.resource.custom.is_some());
        let tables =
            served.is_none_or(|s| !s.resource.list_kind.is_empty() && !WITHOUT_TABLE.contains(&(s.resource.plural.as_str(), info.subresource.as_str())));
        let raw_query = parts.uri.query().unwrap_or_default();
        let router = if custom { Router::None } else { Router::Restful };
        let codecs = inner.config.codecs;
        let accepted = accept(codecs, &parts.headers, raw_query, Offers::Resource { custom, tables }, matches!(info.verb.as_str(), "list" | "watch"), router);
        // What is not there is told to everybody.
        let accepted = if served.is_some() { accepted } else { Ok(accepted.unwrap_or(Accepted::JSON)) };
        let patch = if info.verb == "patch" { patch_type(codecs, &parts.headers) } else { None };
        let read = async {
            let accepted = accepted?;
            let include = if accepted.convert.is_some() { Include::from_query(query)? } else { Include::Metadata };
            Ok::<_, Status>((
                accepted,
                include,
                options_from_query(query, &info.verb, patch == Some(PatchType::Apply))?,
                read_input(codecs, &parts.headers, info, patch, body).await?,
            ))
        };
        let (accepted, include, options, input) = match read.await {
            Ok(read) => read,
            Err(unreadable) => {
                // Who may not ask learns that first.
                inner.check_recorded(&attributes_for(&user, info), passage.record()).await?;
                // The router's own refusal carries no warnings.
                let routed = !unreadable.message.starts_with("406: ") && served.is_some();
                let deprecated = served.as_ref().and_then(|s| s.resource.deprecated.as_ref());
                let warnings = deprecated.filter(|_| routed).map(|d| d.warning.clone());
                return Err(Refused::new(unreadable.into(), warnings.into_iter().collect()));
            }
        };
        let user_agent = parts.headers.get(header::USER_AGENT).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default();
        let record = passage.record.get().cloned();
        let call = Call { user, info: passage.info.clone(), options, query: query.clone(), input, patch, user_agent, record };
        let (outcome, warnings) = Box::pin(inner.answer(&call)).await;
        let mut outcome = outcome.map_err(|status| Refused::new(status, warnings.clone()))?;
        let mut socket = None;
        if matches!(outcome, Outcome::Watch { .. }) {
            framed(codecs, &accepted).map_err(|status| Refused::new(status.into(), warnings.clone()))?;
            socket = parts.extensions.remove::<OnUpgrade>().filter(|_| socket::is_asked_for(&parts.headers));
        }
        let media = accepted.media;
        let _seat = outcome.hold(inner, &call, seat);
        let format = Format { accepted, include, now: inner.env.now() };
        if let Some(record) = passage.record() {
            record.answered(&outcome, &format);
        }
        let span = traced::serializing(&outcome, &parts, &passage.audit_id, format.accepted.media.content_type());
        let response = respond::outcome(outcome, format, Shape::of(&parts.headers), &inner.pieces).await;
        drop(span);
        let over_socket = |client, answer: Response<Body>| watch_socket::answer(&parts.headers, client, answer.into_body(), media);
        let response = response.and_then(|answer| if let Some(client) = socket { over_socket(client, answer) } else { Ok(answer) });
        let mut response = response.map_err(|s| Refused::new(s.into(), warnings.clone()))?;
        respond::warn(response.headers_mut(), &warnings);
        Ok(response)
    }
}

/// Why there is no good answer.
pub(super) struct Refused {
    pub status: crate::call::Failure,
    pub warnings: Vec<String>,
    /// There was no place for it.
    pub too_many: bool,
}

impl Refused {
    fn new(status: crate::call::Failure, warnings: Vec<String>) -> Self {
        Self { status, warnings, too_many: false }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::new(status.into(), Vec::new())
    }
}

/// What is known of a request from its first line on, and what its way leaves for its end.
pub(super) struct Passage {
    pub info: Arc<RequestInfo>,
    pub query: Query,
    pub arrived: tokio::time::Instant,
    /// How long it may take, if it is none that lasts.
    time: Duration,
    pub audit_id: HeaderValue,
    class: OnceLock<Class>,
    pub record: OnceLock<Arc<Record>>,
    /// What of it is traced, if it is.
    pub span: Mutex<Span>,
}

impl Passage {
    /// Tells the client how its request was classified.
    fn classified(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(class) = self.class.get() {
            let (schema, level) = class.headers();
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static(LEVEL_HEADER), level);
            headers.insert(HeaderName::from_static(SCHEMA_HEADER), schema);
        }
        response
    }

    /// What the client is told when its request brought us to a panic (upstream: `WithPanicRecovery`).
    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Response<Body> {
        let text = panic_text(panic);
        tracing::error!(verb = self.info.verb, path = self.info.path, panic = text, "a request panicked");
        if let Some(record) = self.record() {
            record.panicked(text);
        }
        respond::plain_error(500, "This request caused apiserver to panic. Look in the logs for details.")
    }

    fn asked(&self) -> Asked {
        let flag = |name: &str| self.query.get(name).is_some_and(parse_bool);
        Asked {
            limit: self.query.get("limit").and_then(|l| l.parse().ok()),
            initial_events: flag("sendInitialEvents") || matches!(self.query.get("resourceVersion"), None | Some("" | "0")),
        }
    }
}

/// As Go's `http.Error` tells it.
fn too_many(refused: &Refused) -> Response<Body> {
    let mut response = respond::plain_error(429, &refused.status.status.message);
    let retry = refused.status.status.details.as_ref().map_or(1, |d| d.retry_after_seconds);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    response
}

impl Inner {
    /// Finds the request a place. What lasts takes none, but for the beginning of a watch.
    async fn admit(&self, user: &Arc<User>, passage: &Passage) -> Result<Option<Seat>, Refused> {
        let info = &passage.info;
        if info.is_long_running() && info.verb != "watch" {
            return Ok(None);
        }
        let class = self.flow.classify(user, info);
        passage.class.get_or_init(|| class.clone());
        let patience = passage.time / 4;
        match self.flow.enter(&class, user, info, passage.asked(), self, (passage.arrived, patience)).await {
            Ok((seat, waiting)) => {
                waited(waiting);
                if let Some(record) = passage.record() {
                    record.queued(waiting);
                }
                Ok(Some(seat))
            }
            Err(refused) => Err(Refused { too_many: true, ..Status::from(refused).into() }),
        }
    }

    async fn authenticate(&self, headers: &HeaderMap, path: &str, peer: &Peer) -> Result<User> {
        let credentials = Credentials { headers, peer_certificates: &peer.certificates, path };
        let authenticator = self.authenticator.load_full();
        match authenticator.authenticate(&credentials).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(Status::unauthorized("Unauthorized")),
            Err(why) => {
                tracing::debug!(why = why.message, "a request could not be authenticated");
                Err(Status::unauthorized("Unauthorized"))
            }
        }
    }
}

/// How a refusal is written: in what the client accepts, or for people to read.
fn error_format(codecs: Codecs, wanted: Option<HeaderValue>, agent: Option<HeaderValue>) -> Accepted {
    let wanted = wanted.into_iter().map(|value| (header::ACCEPT, value));
    let headers: HeaderMap = wanted.chain(agent.map(|value| (header::USER_AGENT, value))).collect();
    accept(codecs, &headers, "", Offers::Plain, false, Router::None).unwrap_or(Accepted { pretty: true, ..Accepted::JSON })
}

/// The id that the client gives its request, or a new one.
fn audit_id(inner: &Inner, headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
    given.unwrap_or_else(|| HeaderValue::try_from(inner.env.uuid()).unwrap_or(HeaderValue::from_static("")))
}

/// How long a request may take that does not last: as long as it says itself, but no longer than the server lets any
/// (upstream: `filters/request_deadline.go`).
fn time_for(query: &Query, max: Duration) -> Result<Duration> {
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(max) };
    let wanted = go::parse_duration(text).map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
    Ok(Duration::try_from(wanted).ok().filter(|wanted| !wanted.is_zero()).map_or(max, |wanted| wanted.min(max)))
}

/// Whether it is answered even by a server that is about to stop (upstream: `isRequestExemptFromRetryAfter`).
fn is_served_to_the_end<B>(request: &Request<B>) -> bool {
    let is_servers_own = || request.headers().get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"kube-apiserver/"));
    ["/readyz", "/livez", "/healthz", "/metrics"].iter().any(|path| request.uri().path().starts_with(path)) || is_servers_own()
}

/// The answer of a server that is about to stop (upstream: `WithRetryAfter`).
fn going_away(version: Version) -> Response<Body> {
    let mut response = respond::plain_error(429, "The apiserver is shutting down, please try again later.");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The headers that every answer carries.
fn finish(inner: &Inner, audit_id: HeaderValue, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if let Some(directives) = &inner.config.transport_security {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, directives.clone());
    }
    headers.insert(AUDIT_ID, audit_id);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

/// The media type of an apply in CBOR.
const APPLY_CBOR: &str = "application/apply-patch+cbor";

fn patch_type(codecs: Codecs, headers: &HeaderMap) -> Option<PatchType> {
    let essence = content_essence(headers);
    if codecs.cbor && essence == APPLY_CBOR {
        return Some(PatchType::Apply);
    }
    [PatchType::Json, PatchType::Merge, PatchType::StrategicMerge, PatchType::Apply].into_iter().find(|t| t.content_type() == essence)
}

async fn read_input<B>(codecs: Codecs, headers: &HeaderMap, info: &RequestInfo, patch: Option<PatchType>, body: B) -> Result<Input>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let media = match info.verb.as_str() {
        "create" | "update" => content_media(codecs, headers)?,
        "patch" if patch == Some(PatchType::Apply) && content_essence(headers) == APPLY_CBOR => Media::Cbor,
        "patch" if patch == Some(PatchType::Apply) => Media::Yaml,
        "patch" => Media::Json,
        "delete" | "deletecollection" => {
            let bytes = read_all(body).await?;
            let media = if bytes.is_empty() { Media::Json } else { content_media(codecs, headers)? };
            return Ok(Input::Encoded { media, bytes });
        }
        _ => return Ok(Input::None),
    };
    Ok(Input::Encoded { media, bytes: read_all(body).await? })
}

/// What the request is counted under (upstream: `metrics.CleanVerb`, `CleanScope`, `cleanDryRun`). What is not served is not
/// told apart: no client can fill the memory with paths that it made up.
fn counted(inner: &Inner, method: &http::Method, headers: &HeaderMap, info: &RequestInfo, query: &Query) -> Arc<Requests> {
    let (scope, dry_run) = (info.scope(), dry_run(query));
    let verb = verb(inner.config.codecs, method, headers, info, scope);
    let nowhere = Labels { verb, group: "", version: "", resource: "", subresource: "", scope, dry_run };
    if !info.is_resource_request {
        let endpoint = ["/healthz", "/livez", "/readyz"].into_iter().find(|e| info.path == *e).unwrap_or_default();
        return inner.metrics.requests(&Labels { subresource: endpoint, ..nowhere });
    }
    let catalog = inner.catalog.load();
    let labels = match catalog.find(&info.group, &info.version, &info.resource) {
        Some(served) => {
            let known = info.subresource.is_empty() || served.resource.subresource(&info.subresource).is_some();
            let subresource = if known { &info.subresource } else { OTHER };
            Labels { group: &info.group, version: &info.version, resource: &info.resource, subresource, ..nowhere }
        }
        None if inner.aggregation.find(info).is_some() => Labels { group: &info.group, version: &info.version, resource: OTHER, ..nowhere },
        None => Labels { resource: OTHER, ..nowhere },
    };
    inner.metrics.requests(&labels)
}

fn verb(codecs: Codecs, method: &http::Method, headers: &HeaderMap, info: &RequestInfo, scope: &str) -> &'static str {
    if info.is_resource_request && matches!(info.subresource.as_str(), "log" | "exec" | "portforward" | "attach" | "proxy") {
        return "CONNECT";
    }
    match method.as_str() {
        "GET" | "HEAD" if info.verb == "watch" => "WATCH",
        "GET" | "HEAD" if matches!(scope, "namespace" | "cluster") => "LIST",
        "GET" | "HEAD" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" if patch_type(codecs, headers) == Some(PatchType::Apply) => "APPLY",
        "PATCH" => "PATCH",
        "CONNECT" => "CONNECT",
        _ => OTHER,
    }
}

/// Subresources of which upstream makes no table.
const WITHOUT_TABLE: [(&str, &str); 7] = [
    ("customresourcedefinitions", "status"),
    ("apiservices", "status"),
    ("certificatesigningrequests", "approval"),
    ("devicetaintrules", "status"),
    ("resourceclaims", "status"),
    ("pods", "ephemeralcontainers"),
    ("pods", "resize"),
];

fn dry_run(query: &Query) -> &'static str {
    if query.get("dryRun").is_none() {
        return "";
    }
    if query.all("dryRun").all(|v| v == "All") { "All" } else { "invalid" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_do() {
        let check = |method: &str, url: &str, wanted: (&str, &str, &str)| {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let (method, query) = (http::Method::from_bytes(method.as_bytes()).unwrap(), Query::parse(query));
            let info = RequestInfo::parse(&method, path, &query).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/apply-patch+yaml"));
            let scope = info.scope();
            assert_eq!((verb(Codecs::default(), &method, &headers, &info, scope), scope, dry_run(&query)), wanted, "{method} {url}");
        };
        check("GET", "/api/v1/pods", ("LIST", "cluster", ""));
        check("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db", ("LIST", "namespace", ""));
        check("GET", "/api/v1/namespaces/a/pods?watch=1", ("WATCH", "namespace", ""));
        check("GET", "/api/v1/namespaces/a/pods/b", ("GET", "resource", ""));
        check("GET", "/api/v1/namespaces/a/pods/b/log", ("CONNECT", "resource", ""));
        check("POST", "/api/v1/namespaces/a/pods?dryRun=All", ("POST", "resource", "All"));
        check("PATCH", "/api/v1/namespaces/a/pods/b?dryRun=x", ("APPLY", "resource", "invalid"));
        check("DELETE", "/api/v1/namespaces/a/pods", ("DELETE", "namespace", ""));
        check("GET", "/version", ("GET", "", ""));
        check("BREW", "/version", (OTHER, "", ""));
    }
}
