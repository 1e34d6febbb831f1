//! The way in for components of this process: the same pipeline, with trees for bodies and the watch cache's own bytes for
//! answers. Nothing is encoded.

use std::{
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, Stream, future::BoxFuture};
use knarr_core::{
    Result, Status,
    api::{Event, List, Reply, Request, Transport, Verb, Watch},
};
use tokio::time::Instant;

use crate::{
    audit::{Auditor, Beginning, Record},
    authn::User,
    call::{Call, Input, Outcome},
    encode::{Format, table::Include},
    flowcontrol::Asked,
    http::Accepted,
    read::Watching,
    request::{Query, RequestInfo},
    server::Server,
};

/// A [`Transport`] into a server of this process, for one user.
#[derive(Clone)]
pub struct InProcess {
    server: Server,
    user: Arc<User>,
    /// Owner of the fields that writes without a `fieldManager` set.
    agent: Arc<str>,
}

impl InProcess {
    pub(crate) fn new(server: Server, user: User) -> Self {
        let agent = agent_of(&user.name).into();
        Self { server, user: Arc::new(user), agent }
    }

    /// The same way in under another user agent, whose name `managedFields` show.
    #[must_use]
    pub fn with_agent(mut self, agent: &str) -> Self {
        self.agent = agent.into();
        self
    }

    fn call_of(&self, request: Request) -> Call {
        let patch = if let Verb::Patch(patch_type) = request.verb { Some(patch_type) } else { None };
        let info = Arc::new(RequestInfo {
            is_resource_request: true,
            path: String::new(),
            verb: request.verb.as_str().to_owned(),
            group: request.resource.group,
            version: request.resource.version,
            // As the path of a namespace itself names it as its namespace too.
            namespace: request.namespace.unwrap_or_default(),
            resource: request.resource.resource,
            subresource: request.subresource.unwrap_or_default(),
            name: request.name.unwrap_or_default(),
            rest: Vec::new(),
            label_selector: request.options.label_selector.clone(),
            field_selector: request.options.field_selector.clone(),
        });
        Call {
            user: self.user.clone(),
            info,
            options: request.options,
            query: Query::default(),
            input: request.body.map_or(Input::None, Input::Tree),
            patch,
            user_agent: self.agent.to_string(),
            record: None,
        }
    }

    async fn answer(&self, request: Request) -> Result<Outcome> {
        let mut call = self.call_of(request);
        let Some(auditor) = &self.server.inner.auditor else { return self.answer_call(&call).await };
        let Some(record) = self.record(auditor, &call) else { return self.answer_call(&call).await };
        record.received().await?;
        call.record = Some(record.clone());
        let mut outcome = self.answer_call(&call).await;
        match &mut outcome {
            Err(status) => {
                record.refused(status);
                record.complete(status.code).await;
            }
            Ok(Outcome::Watch { watching, .. }) => {
                record.started(200).await;
                watching.hold_ending(record.ending());
            }
            Ok(outcome) => {
                record.answered(outcome, &Format { accepted: Accepted::JSON, include: Include::Metadata, now: self.server.inner.env.now() });
                record.complete(outcome.code()).await;
            }
        }
        outcome
    }

    /// What would be written down of this call if it had come over the wire.
    fn record(&self, auditor: &Arc<Auditor>, call: &Call) -> Option<Arc<Record>> {
        Record::begin(
            auditor,
            Beginning {
                id: &self.server.inner.env.uuid(),
                uri: uri(call),
                agent: &call.user_agent,
                source_ips: vec![Ipv4Addr::LOCALHOST.into()],
                user: Some(call.user.clone()),
                info: &call.info,
            },
        )
    }

    async fn answer_call(&self, call: &Call) -> Result<Outcome> {
        let inner = &self.server.inner;
        let class = inner.flow.classify(&call.user, &call.info);
        let options = &call.options;
        let initial_events = options.send_initial_events == Some(true) || matches!(options.resource_version.as_deref(), None | Some("" | "0"));
        let asked = Asked { limit: options.limit, initial_events };
        let patience = inner.config.request_timeout / 4;
        let (seat, _) = inner.flow.enter(&class, &call.user, &call.info, asked, &**inner, (Instant::now(), patience)).await?;
        let (mut outcome, warnings) = inner.answer(call).await;
        let _seat = match &mut outcome {
            Ok(outcome) => outcome.hold(inner, call, Some(seat)),
            Err(_) => Some(seat),
        };
        for warning in warnings {
            tracing::debug!(user = self.user.name, warning, "a write was warned about");
        }
        outcome.map_err(|failure| failure.status)
    }
}

/// The path and the query that a client over the wire would have sent.
fn uri(call: &Call) -> String {
    let (info, options) = (&call.info, &call.options);
    let mut uri = if info.group.is_empty() { format!("/api/{}", info.version) } else { format!("/apis/{}/{}", info.group, info.version) };
    let namespace = if info.namespace.is_empty() { [""; 2] } else { ["namespaces", &info.namespace] };
    for part in namespace.into_iter().chain([info.resource.as_str(), &info.name, &info.subresource]).filter(|part| !part.is_empty()) {
        uri.push('/');
        uri += part;
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let texts = [
        ("labelSelector", &options.label_selector),
        ("fieldSelector", &options.field_selector),
        ("resourceVersion", &options.resource_version),
        ("fieldManager", &options.field_manager),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    if info.verb == "watch" {
        query.append_pair("watch", "true");
    }
    match query.finish() {
        query if query.is_empty() => uri,
        query => format!("{uri}?{query}"),
    }
}

fn unexpected() -> Status {
    Status::internal("the request was of another verb than its call")
}

/// The user agent of a component of this process: the name of upstream's program, by which others know it in `managedFields`
/// (upstream: `SAControllerClientBuilder` appends the account).
fn agent_of(user: &str) -> String {
    if user.starts_with("system:serviceaccount:kube-system:") {
        return format!("kube-controller-manager/{}/{user}", knarr_core::KUBERNETES_VERSION);
    }
    match user.rsplit(':').next().unwrap_or_default() {
        "apiserver" => "kube-apiserver".to_owned(),
        component => component.to_owned(),
    }
}

impl Transport for InProcess {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply>> {
        async move {
            match self.answer(request).await? {
                Outcome::Object { served, object, .. } => Ok(Reply::Object(served.present(&object)?.into_owned())),
                Outcome::Value { value, .. } | Outcome::Scale { scale: value, .. } => Ok(Reply::Value(value)),
                Outcome::List { .. } => Ok(Reply::Value(knarr_core::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))),
                Outcome::Watch { .. } => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<List>> {
        async move {
            let Outcome::List { served, page } = self.answer(request).await? else { return Err(unexpected()) };
            let items = page.items.iter().map(|i| served.present(&i.object()).map(std::borrow::Cow::into_owned)).collect::<Result<_>>()?;
            Ok(List {
                resource_version: page.meta.resource_version,
                continue_token: page.meta.continue_token,
                remaining_item_count: page.meta.remaining_item_count,
                items,
            })
        }
        .boxed()
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<Watch>> {
        async move {
            let Outcome::Watch { watching, .. } = self.answer(request).await? else { return Err(unexpected()) };
            Ok(Box::pin(Events(watching)) as Watch)
        }
        .boxed()
    }
}

struct Events(Box<Watching>);

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_event(cx)
    }
}
