//! Requests that become streams. They are authorized and admitted here, then handed on whole.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use knarr_core::{Result, Status};

use super::body::{Body, BoxError, RequestBody};
use crate::{
    admission::{self, Operation, Review, connect_options},
    audit::Record,
    authn::User,
    authz::Attributes,
    catalog::{Catalog, Served, not_served},
    pipeline::{not_allowed, unrouted},
    request::RequestInfo,
    server::Inner,
    stored::Stored,
    streaming::{self, Connect, stream_options, target},
};

/// Whether a request is of this kind.
pub fn is_connect(catalog: &Catalog, info: &RequestInfo) -> bool {
    let known = matches!(
        (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()),
        ("", "pods", "exec" | "attach" | "portforward" | "proxy" | "log") | ("", "services" | "nodes", "proxy")
    );
    known && catalog.find(&info.group, &info.version, &info.resource).is_some()
}

/// Authorizes, admits, hands on.
///
/// # Errors
/// Whatever refuses it; 503 when nobody is there to hand it to.
pub async fn serve<B>(
    inner: &Inner,
    catalog: &Catalog,
    user: Arc<User>,
    info: RequestInfo,
    record: Option<&Record>,
    request: Request<B>,
) -> Result<Response<Body>>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let attributes = Attributes {
        user: (*user).clone(),
        verb: info.verb.clone(),
        namespace: info.namespace.clone(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        is_resource_request: true,
        ..Attributes::default()
    };
    inner.check_recorded(&attributes, record).await?;
    let interactive = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
    if interactive && info.verb == "get" {
        // Opening a stream takes the right to create one, also for those who open it by a GET.
        inner.check(&Attributes { verb: "create".into(), ..attributes.clone() }).await?;
    }
    let served = catalog.find(&info.group, &info.version, &info.resource).ok_or_else(not_served)?;
    if info.subresource != "proxy"
        && let Some(refused) = unrouted(served, &info, request.method())
    {
        return Err(refused);
    }
    let subresource = served.resource.subresource(&info.subresource).ok_or_else(not_served)?;
    // OPTIONS has no verb of its own, and is for the backend to answer.
    let asks_backend = info.subresource == "proxy" && *request.method() == http::Method::OPTIONS;
    if !asks_backend && !subresource.verbs.contains(&info.verb) {
        return Err(not_allowed());
    }
    stream_options::check(&info, request.uri().query().unwrap_or_default())?;
    if info.subresource != "log" {
        admit(inner, catalog, served, &attributes, request.uri().query().unwrap_or_default(), record).await?;
    }
    let objects = Stored(inner.storage.clone());
    if target::has_no_log(&objects, &info, request.uri().query().unwrap_or_default())? {
        let mut empty = Response::new(Body::empty());
        *empty.status_mut() = http::StatusCode::NO_CONTENT;
        return Ok(empty);
    }
    let Some(streaming) = inner.streaming.load_full().as_ref().clone() else {
        // Without a way to the nodes there is still something to say of what is not there.
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        if let Some(redirect) = streaming::redirected(&objects, &info, request.method(), (path, query))? {
            return Ok(redirect);
        }
        target::resolve(&objects, &info, path, query)?;
        return Err(Status::service_unavailable("no route to the nodes is configured"));
    };
    let request = request.map(|body| RequestBody::new(body.map_err(Into::into)));
    streaming.connect(Connect { user, info }, request).await
}

async fn admit(inner: &Inner, catalog: &Catalog, served: &Served, attributes: &Attributes, query: &str, record: Option<&Record>) -> Result<()> {
    let request = admission::Request::new(inner, catalog, served, &attributes.subresource, None);
    let object = connect_options(&request.kind, attributes, query);
    let mut review = Review { object: Some(object), request: Some(request), ..Review::new(Operation::Connect, attributes, &served.gvk) };
    let verdict = match admission::chain::mutate(inner, &mut review).await {
        Ok(()) => admission::chain::validate(inner, &review).await,
        refused => refused,
    };
    if let Some(record) = record {
        review.notes.take_annotations().into_iter().for_each(|(key, value)| record.annotate(key, value));
    }
    verdict
}
