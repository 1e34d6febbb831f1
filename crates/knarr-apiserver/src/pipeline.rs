//! The way of a request through the server, after somebody has read it and before somebody writes its answer: authorize,
//! find the resource, hand it to the verb. The wire and the in-process transport share all of it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use knarr_core::{GroupResource, Reason, Result, Status, field, status::Details};
use tokio::runtime::Handle;

use crate::{
    audit::Record,
    authn::User,
    authz::{Attributes, Opinion, Verdict, forbidden_message},
    call::{Call, Exchange, Failure, Outcome},
    catalog::{Served, no_page, not_served},
    flowcontrol::Stored,
    read,
    request::RequestInfo,
    reviews,
    server::Inner,
    spans::{self, Span},
    subresource, write,
};

/// Objects whose size is looked at to know that of all.
const SAMPLE: usize = 8;

impl Stored for Inner {
    fn size(&self, info: &RequestInfo) -> Option<(usize, usize)> {
        let catalog = self.catalog.load();
        let served = catalog.find(&info.group, &info.version, &info.resource).filter(|s| s.resource.is_stored())?;
        let snapshot = self.storage.snapshot(&served.key);
        let (count, bytes) = snapshot.iter(None, None).take(SAMPLE).fold((0, 0), |(n, sum), item| (n + 1, sum + item.size()));
        Some((snapshot.len(), bytes.checked_div(count).unwrap_or_default()))
    }
}

/// The refusal of an authorizer.
pub fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let message = forbidden_message(attributes);
    let why = if reason.is_empty() { message } else { format!("{message}: {reason}") };
    let resource = GroupResource::new(&attributes.group, &attributes.resource);
    Status::forbidden(&resource, &attributes.name, why)
}

impl Inner {
    /// Asks the chain of authorizers.
    pub async fn authorize(&self, attributes: &Attributes) -> Verdict {
        if let Opinion::Formed(verdict) = self.authorizer.load().authorize(attributes) {
            return verdict;
        }
        // Whoever must be waited for keeps its chain alive, should another take its place meanwhile.
        let authorizer = self.authorizer.load_full();
        authorizer.authorize(attributes).verdict().await
    }

    /// The same within code that is not asynchronous: the thread waits, and hands its other work on.
    pub fn authorize_blocking(&self, attributes: &Attributes) -> Verdict {
        let authorizer = self.authorizer.load_full();
        match authorizer.authorize(attributes) {
            Opinion::Formed(verdict) => verdict,
            Opinion::Pending(work) => tokio::task::block_in_place(|| Handle::current().block_on(work)),
        }
    }

    /// # Errors
    /// `Forbidden` unless an authorizer allows it; 500 when one that might have allowed it could not tell.
    pub async fn check(&self, attributes: &Attributes) -> Result<()> {
        self.check_recorded(attributes, None).await
    }

    /// The same of the request itself, which is written down with the verdict.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub async fn check_recorded(&self, attributes: &Attributes, record: Option<&Record>) -> Result<()> {
        let verdict = self.authorize(attributes).await;
        if let Some(record) = record {
            record.judged(&verdict, || self.authorizer.load().explain(attributes));
        }
        match (verdict.is_allowed(), verdict.error) {
            (true, _) => Ok(()),
            (false, Some(error)) => Err(Status::internal(error)),
            (false, None) => Err(forbidden(attributes, &verdict.reason)),
        }
    }

    /// Answers a call for a resource: authorization first, then existence, as upstream has it. The second part of the result
    /// are warnings.
    pub async fn answer(&self, call: &Call) -> (Result<Outcome, Failure>, Vec<String>) {
        let record = call.record.as_deref();
        if let Err(refused) = self.check_recorded(&attributes_of(call), record).await {
            return (Err(refused.into()), Vec::new());
        }
        let catalog = self.catalog.load_full();
        let info = &call.info;
        let Some(served) = catalog.find(&info.group, &info.version, &info.resource).cloned() else {
            let nothing = if catalog.has_group(&info.group) { not_served() } else { no_page() };
            return (Err(nothing.into()), Vec::new());
        };
        let ex = Exchange::new(self, catalog, served, call);
        let span = span_of(call);
        let outcome = match AssertUnwindSafe(span.around(|| dispatch(&ex))).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(panic) => Err(panicked(panic.as_ref(), call).into()),
        };
        drop(span);
        let mut warnings = ex.take_warnings();
        // Where there is no such route nobody warns.
        let routed = !outcome.as_ref().is_err_and(|f: &Failure| matches!(f.status.code, 405 | 415));
        let deprecated = ex.served.resource.deprecated.as_ref().filter(|_| routed);
        if let Some(deprecation) = deprecated {
            warnings.insert(0, deprecation.warning.clone());
        }
        if let Some(record) = record {
            ex.take_annotations().into_iter().for_each(|(key, value)| record.annotate(key, value));
            if deprecated.is_some() {
                record.annotate("k8s.io/deprecated", "true");
            }
        }
        (outcome, warnings)
    }
}

/// What is traced of the verb itself (upstream: `traceFields` of the handlers).
fn span_of(call: &Call) -> Span {
    let info = &call.info;
    let name = match info.verb.as_str() {
        "get" => "Get",
        "list" => "List",
        "watch" => "WatchList",
        "create" => "Create",
        "update" => "Update",
        "patch" => "Patch",
        "delete" | "deletecollection" => "Delete",
        _ => return Span::default(),
    };
    let mut span = spans::child(name, spans::Kind::Internal);
    if span.is_recording() {
        let fields = [
            ("api-group", &info.group),
            ("api-version", &info.version),
            ("name", &info.name),
            ("subresource", &info.subresource),
            ("namespace", &info.namespace),
            ("resource", &info.resource),
            ("url", &info.path),
            ("user-agent", &call.user_agent),
            ("verb", &info.verb),
        ];
        fields.into_iter().for_each(|(key, value)| span.set(key, value.as_str()));
        span.set("scope", info.scope());
    }
    span
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

fn panicked(panic: &(dyn std::any::Any + Send), call: &Call) -> Status {
    let text = panic_text(panic);
    tracing::error!(verb = call.info.verb, path = call.info.path, panic = text, "a handler panicked");
    if let Some(record) = &call.record {
        record.panicked(text);
    }
    Status::new(500, Reason::InternalError, "This request caused apiserver to panic. Look in the logs for details.")
}

/// What the authorizer is asked about a call.
pub fn attributes_of(call: &Call) -> Attributes {
    attributes_for(&call.user, &call.info)
}

/// The same of a request that is not a call yet.
pub fn attributes_for(user: &User, info: &RequestInfo) -> Attributes {
    Attributes {
        user: user.clone(),
        verb: info.verb.clone(),
        namespace: info.namespace.clone(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        is_resource_request: info.is_resource_request,
        label_selector: info.label_selector.clone(),
        field_selector: info.field_selector.clone(),
    }
}

/// Whether a request must see everything that was acknowledged before it came, by any server. Reads that name a version and pages
/// of a list say themselves what they want to see.
fn needs_newest(call: &Call) -> bool {
    let options = &call.options;
    match call.info.verb.as_str() {
        "get" | "list" | "watch" => options.resource_version.as_deref().is_none_or(str::is_empty) && options.continue_token.is_none(),
        _ => true,
    }
}

async fn dispatch(ex: &Exchange<'_>) -> Result<Outcome, Failure> {
    check_scope(ex)?;
    if needs_newest(ex.call) {
        ex.server.storage.settle().await.map_err(|e| read::store_error(&e, &ex.served.group_resource, &ex.call.info.name))?;
    }
    let info = &ex.call.info;
    if !info.subresource.is_empty() {
        return Ok(subresource::dispatch(ex).await?);
    }
    let verbs = &ex.served.resource.verbs;
    if !verbs.contains(&info.verb) {
        return Err(not_allowed().into());
    }
    if !ex.served.resource.is_stored() {
        return Ok(reviews::create(ex).await?);
    }
    if ex.served.is("", "componentstatuses") {
        return Ok(read::components::answer(ex)?);
    }
    match info.verb.as_str() {
        "get" => Ok(read::get(ex).await?),
        "list" => read::list(ex).await,
        "watch" => Ok(read::watch(ex).await?),
        "update" | "patch" if info.name.is_empty() => Err(not_allowed().into()),
        // The router of custom resources does not look at the name; the object has its own.
        "create" if !info.name.is_empty() && ex.served.resource.custom.is_none() => Err(not_allowed().into()),
        "create" => Ok(write::create(ex).await?),
        "update" => Ok(write::update(ex).await?),
        "patch" => Ok(write::patch(ex).await?),
        "delete" => Ok(write::delete(ex).await?),
        "deletecollection" => write::delete_collection(ex).await,
        _ => Err(not_allowed().into()),
    }
}

/// What the router answers itself, of requests off the wire for a resource that is served. Routes are looked for by path first, then by
/// method. Custom resources have a router of their own, which takes a HEAD for a GET and sees no path behind a subresource
/// (upstream: go-restful, and `crdHandler.ServeHTTP`).
pub fn unrouted(served: &Served, info: &RequestInfo, method: &http::Method) -> Option<Status> {
    let resource = &served.resource;
    let is_there = info.subresource.is_empty() || resource.subresource(&info.subresource).is_some();
    if resource.custom.is_some() {
        return match (is_there, info.verb.as_str()) {
            (false, _) => Some(Status::not_found(&served.group_resource, &info.name)),
            (true, "") => Some(unsupported_verb(served, "")),
            (true, "update" | "patch") if info.name.is_empty() => Some(Status::bad_request("name must be provided")),
            _ => None,
        };
    }
    if !is_there || !info.rest.is_empty() {
        return Some(not_served());
    }
    (method == http::Method::HEAD).then(not_allowed)
}

/// 405 of a handler that knows its resource.
fn unsupported_verb(served: &Served, verb: &str) -> Status {
    let GroupResource { group, resource } = &served.group_resource;
    let message = format!("{verb} is not supported on resources of kind {}", field::go_quote(&served.group_resource.to_string()));
    let details = Details { group: group.clone(), kind: resource.clone(), ..Details::default() };
    Status::new(405, Reason::MethodNotAllowed, message).with_details(details)
}

/// 405, in upstream's words.
pub fn not_allowed() -> Status {
    Status::new(405, Reason::MethodNotAllowed, "the server does not allow this method on the requested resource").with_details(Default::default())
}

/// A namespaced object is reached through its namespace only, a cluster-scoped one never.
fn check_scope(ex: &Exchange<'_>) -> Result<()> {
    let info = &ex.call.info;
    let is_namespaces = ex.served.is("", "namespaces");
    let wrong = if ex.served.resource.namespaced {
        info.namespace.is_empty() && (!info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch") || info.verb == "deletecollection")
    } else {
        !info.namespace.is_empty() && !is_namespaces
    };
    if wrong { Err(not_served()) } else { Ok(()) }
}
