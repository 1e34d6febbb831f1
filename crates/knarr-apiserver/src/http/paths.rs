//! Paths that name no resource: discovery, OpenAPI, health, metrics, version, keys.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use knarr_core::{
    KUBERNETES_VERSION, Result, Status, Value, json,
    metrics::{CONTENT_TYPE, Text},
};

use super::{
    body::Body,
    edge::Passage,
    negotiate::{self, Accepted, Convert, Media, Offers, Router, accept},
    respond::{self, Shape, answer, page_not_found},
    zpages,
};
use crate::{authn::User, authz::Attributes, catalog::not_served, encode::json, metrics::Now, request::Query, server::Inner};

const JSON: &str = "application/json";

/// Answers a path, if its user may.
///
/// # Errors
/// `Forbidden`, 405 and 406.
pub async fn serve(inner: &Inner, user: &User, passage: &Passage, headers: &HeaderMap) -> Result<Response<Body>> {
    let (info, query) = (&*passage.info, &passage.query);
    let path = info.path.trim_end_matches('/');
    let attributes = Attributes { user: user.clone(), verb: info.verb.clone(), path: info.path.clone(), ..Attributes::default() };
    inner.check_recorded(&attributes, passage.record()).await?;
    let routed =
        path == "/version" || ["/api", "/apis"].iter().any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if routed && info.verb != "get" {
        return Err(crate::pipeline::not_allowed());
    }
    match path {
        "" => index(inner),
        "/version" => {
            negotiate::route(headers, JSON)?;
            Ok(pretty(&version()))
        }
        "/metrics" => Ok(answer(200, CONTENT_TYPE, metrics(inner))),
        "/metrics/slis" => Ok(answer(200, CONTENT_TYPE, inner.health.results.text())),
        "/openapi/v2" => openapi_v2(inner, headers).await,
        // Upstream does not say that it is JSON.
        "/openapi/v3" if info.path == path => Ok(answer(200, "text/plain; charset=utf-8", inner.catalog.load().documents().openapi.v3_index().to_string())),
        "/.well-known/openid-configuration" => keys(inner, headers, JSON, |t| t.discovery()),
        "/openid/v1/jwks" => keys(inner, headers, "application/jwk-set+json", |t| t.jwks()),
        "/statusz" => zpages::statusz(headers, all_paths(inner)),
        "/flagz" => zpages::flagz(inner, headers),
        _ => match zpages::debug(&info.path).filter(|_| inner.config.profiling) {
            Some(page) => Ok(page),
            None => below(inner, path, query, headers).await,
        },
    }
}

async fn below(inner: &Inner, path: &str, query: &Query, headers: &HeaderMap) -> Result<Response<Body>> {
    for endpoint in ["healthz", "livez", "readyz"] {
        if let Some(rest) = path.strip_prefix('/').and_then(|p| p.strip_prefix(endpoint)) {
            match rest.strip_prefix('/') {
                Some(check) => return Ok(health(inner, endpoint, Some(check), query)),
                None if rest.is_empty() => return Ok(health(inner, endpoint, None, query)),
                None => {}
            }
        }
    }
    if let Some(rest) = path.strip_prefix("/openapi/v3/") {
        return openapi_v3(inner, rest, query, headers).await;
    }
    if path == "/api" || path == "/apis" || path.starts_with("/api/") || path.starts_with("/apis/") {
        return discovery(inner, path, headers).await;
    }
    if path == "/openapi/v3" {
        return Ok(nothing());
    }
    if let Some(page) = path.strip_prefix("/debug/api_priority_and_fairness/") {
        let details = query.get("includeRequestDetails").is_some_and(|v| !v.is_empty());
        return Ok(inner.flow.dump(page, details, &inner.env).map_or_else(page_not_found, |text| answer(200, "text/plain; charset=utf-8", text)));
    }
    Ok(page_not_found())
}

/// 404 without a word.
fn nothing() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

fn index(inner: &Inner) -> Result<Response<Body>> {
    Ok(pretty(&json!({"paths": all_paths(inner)})))
}

fn all_paths(inner: &Inner) -> Vec<String> {
    let mut paths = inner.catalog.load().documents().paths();
    paths.extend(inner.health.paths());
    paths.extend(
        ["/.well-known/openid-configuration", "/flagz", "/statusz", "/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/version"]
            .map(str::to_owned),
    );
    paths.extend(inner.catalog.load().documents().openapi.v3_paths().into_iter().map(|p| format!("/openapi/v3/{p}")));
    paths.sort();
    paths
}

fn pretty(value: &Value) -> Response<Body> {
    let mut compact = Vec::new();
    json::put_value(&mut compact, value);
    answer(200, JSON, json::pretty(&compact))
}

/// What `/version` says: the release whose wire this is.
pub fn version() -> Value {
    let (major, minor) =
        KUBERNETES_VERSION.trim_start_matches('v').split_once('.').map_or(("1", "0"), |(major, rest)| (major, rest.split('.').next().unwrap_or("0")));
    let previous = minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |m| m.saturating_sub(1).to_string());
    let platform = format!(
        "linux/{}",
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    );
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": previous,
        "gitVersion": format!("{KUBERNETES_VERSION}+knarr"), "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": platform,
    })
}

fn health(inner: &Inner, endpoint: &str, check: Option<&str>, query: &Query) -> Response<Body> {
    let report = inner.health.report(endpoint, check, query);
    if !report.found {
        return page_not_found();
    }
    let mut response = answer(if report.healthy { 200 } else { 500 }, "text/plain; charset=utf-8", report.text);
    if report.healthy && check.is_some() {
        return response;
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn metrics(inner: &Inner) -> String {
    let catalog = inner.catalog.load();
    let mut keys: Vec<_> = catalog.registry.all().iter().filter(|r| r.is_stored()).map(|r| knarr_store::ResourceKey::new(&r.storage.0, &r.plural)).collect();
    keys.sort();
    keys.dedup();
    let objects: Vec<_> = keys.iter().map(|k| (k.group.to_string(), k.resource.to_string(), inner.storage.snapshot(k).len())).collect();
    let mut audit = Text::default();
    if let Some(auditor) = &inner.auditor {
        auditor.write_metrics(&mut audit);
    }
    let catalog = inner.catalog.load();
    let now = Now {
        inflight: inner.flow.current(),
        flow: &inner.flow,
        objects: &objects,
        storage_size: inner.storage_size.as_ref().map(|size| size()),
        version: &version(),
        deprecated: &|group, version, resource| catalog.find(group, version, resource)?.resource.deprecated.as_ref().map(|d| d.removed.clone()),
    };
    without(inner.metrics.text(&now) + &audit.into_string(), &inner.config.disabled_metrics)
}

/// The text of all metrics but these.
fn without(text: String, disabled: &BTreeSet<String>) -> String {
    if disabled.is_empty() {
        return text;
    }
    let mut is_told = true;
    let told = text.split_inclusive('\n').filter(|line| {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            is_told = !rest.split_whitespace().next().is_some_and(|name| disabled.contains(name));
        }
        is_told
    });
    told.collect()
}

fn keys<T: ToString>(
    inner: &Inner,
    headers: &HeaderMap,
    content_type: &'static str,
    of: impl Fn(&dyn crate::tokens::TokenIssuer) -> T,
) -> Result<Response<Body>> {
    match inner.tokens.load().as_ref() {
        None => Ok(page_not_found()),
        Some(tokens) => {
            negotiate::route(headers, content_type)?;
            let mut response = answer(200, content_type, of(tokens.as_ref()).to_string());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
            Ok(response)
        }
    }
}

async fn discovery(inner: &Inner, path: &str, headers: &HeaderMap) -> Result<Response<Body>> {
    let (offers, catalog) = (if matches!(path, "/api" | "/apis") { Offers::Discovery } else { Offers::Plain }, inner.catalog.load_full());
    let router = match *path.split('/').skip(1).collect::<Vec<_>>() {
        ["apis"] | ["apis", _] => Router::None,
        ["apis", group, version] if catalog.is_custom(group, version) => Router::None,
        _ => Router::Restful,
    };
    let accepted = match accept(inner.config.codecs, headers, "", offers, false, router) {
        Ok(accepted) => accepted,
        Err(_) if catalog.documents().find(path, &Accepted::JSON, "").is_none() => Accepted::JSON,
        Err(refused) => return Err(refused),
    };
    let address = match (inner.config.advertise_address.as_str(), headers.get(header::HOST)) {
        ("", Some(host)) => host.to_str().unwrap_or_default().to_owned(),
        (address, _) => address.to_owned(),
    };
    let Some(document) = catalog.documents().find_all(&inner.aggregation, path, &accepted, &address) else {
        // A group of ours has a router, which knows what a `Status` is.
        let ours = path.strip_prefix("/apis/").map_or("", |rest| rest.split('/').next().unwrap_or_default());
        return if catalog.has_builtin_group(ours) { Err(not_served()) } else { Ok(page_not_found()) };
    };
    let aggregated = accepted.convert == Some(Convert::Discovery);
    let content_type = match (aggregated, accepted.media) {
        (false, media) => media.content_type(),
        (true, Media::Protobuf) => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        (true, Media::Cbor) => "application/cbor;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        (true, _) => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    let bytes = document.bytes(&accepted);
    // Only the aggregated document says which version of itself it is.
    if !aggregated {
        return Ok(respond::finish(200, content_type, bytes, Shape::of(headers)).await);
    }
    let mut response = tagged(bytes, &document.etag, content_type, headers).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}

/// The binary form's media type, and the older spelling by which clients ask for it and which is no media type by the rules: what is
/// answered carries the first.
type Proto = [&'static str; 2];
const OPENAPI_V3_PROTO: Proto = ["application/com.github.proto-openapi.spec.v3.v1.0+protobuf", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"];
const OPENAPI_V2_PROTO: Proto = ["application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// Whether the client wants the binary form and would not take JSON before it.
fn wants(headers: &HeaderMap, proto: &Proto) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let binary = |a: &str| proto.iter().any(|p| a.starts_with(p));
    accepts.split(',').map(str::trim).find(|a| binary(a) || a.starts_with(JSON)).is_some_and(binary)
}

/// Whether the client takes JSON or the binary form; otherwise it gets 406 without a word.
fn takes_openapi(headers: &HeaderMap, proto: &Proto) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let takes = |a: &str| {
        let a = a.trim();
        proto.contains(&a) || matches!(a.split(';').next().unwrap_or_default().trim(), "" | "*/*" | "application/*" | JSON)
    };
    accepts.split(',').any(takes)
}

async fn openapi_v2(inner: &Inner, headers: &HeaderMap) -> Result<Response<Body>> {
    if !takes_openapi(headers, &OPENAPI_V2_PROTO) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::NOT_ACCEPTABLE;
        vary(&mut response);
        return Ok(response);
    }
    let catalog = inner.catalog.load_full();
    let proto = wants(headers, &OPENAPI_V2_PROTO);
    let work = move || {
        let openapi = &catalog.documents().openapi;
        (if proto { openapi.v2_protobuf().clone() } else { openapi.v2().bytes(&Accepted::JSON) }, openapi.v2_tag())
    };
    let (bytes, etag) = tokio::task::spawn_blocking(work).await.map_err(Status::internal)?;
    let mut response = tagged(bytes, &etag, if proto { OPENAPI_V2_PROTO[0] } else { JSON }, headers).await;
    vary(&mut response);
    Ok(response)
}

/// The answer depends on both.
fn vary(response: &mut Response<Body>) {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
}

async fn openapi_v3(inner: &Inner, path: &str, query: &Query, headers: &HeaderMap) -> Result<Response<Body>> {
    if !takes_openapi(headers, &OPENAPI_V3_PROTO) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::NOT_ACCEPTABLE;
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        return Ok(response);
    }
    let (catalog, path) = (inner.catalog.load_full(), path.to_owned());
    let work = move || catalog.documents().openapi.v3(&path).map(|d| (d.bytes(&Accepted::JSON), d.etag.clone()));
    let Some((bytes, etag)) = tokio::task::spawn_blocking(work).await.map_err(Status::internal)? else { return Ok(nothing()) };
    let mut response = tagged(bytes, &etag, JSON, headers).await;
    // A URL that changes with its contents may be kept for ever.
    if query.get("hash") == Some(&etag) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

/// A document with its ETag, or 304 when the client has it.
async fn tagged(bytes: Bytes, etag: &str, content_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{etag}\"");
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == etag.as_bytes());
    let mut response = if known { answer(304, content_type, Body::empty()) } else { respond::finish(200, content_type, bytes, Shape::of(headers)).await };
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}
