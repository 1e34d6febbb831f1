//! The way in for components of this process: the same pipeline, with trees for bodies and the watch cache's own bytes for
//! answers. Nothing is encoded.

use std::{
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
    authn::User,
    call::{Call, Input, Outcome},
    flowcontrol::Asked,
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
        let component = user.name.rsplit(':').next().unwrap_or_default();
        // The server's own writes show the name of its program.
        let agent = if component == "apiserver" { "kube-apiserver" } else { component }.into();
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
        }
    }

    async fn answer(&self, request: Request) -> Result<Outcome> {
        let (call, inner) = (self.call_of(request), &self.server.inner);
        let class = inner.flow.classify(&call.user, &call.info);
        let options = &call.options;
        let initial_events = options.send_initial_events == Some(true) || matches!(options.resource_version.as_deref(), None | Some("" | "0"));
        let asked = Asked { limit: options.limit, initial_events };
        let patience = inner.config.request_timeout / 4;
        let (seat, _) = inner.flow.enter(&class, &call.user, &call.info, asked, &**inner, (Instant::now(), patience)).await?;
        let (mut outcome, warnings) = inner.answer(&call).await;
        let _seat = match &mut outcome {
            Ok(outcome) => outcome.hold(inner, &call, Some(seat)),
            Err(_) => Some(seat),
        };
        for warning in warnings {
            tracing::debug!(user = self.user.name, warning, "a write was warned about");
        }
        outcome.map_err(|failure| failure.status)
    }
}

fn unexpected() -> Status {
    Status::internal("the request was of another verb than its call")
}

impl Transport for InProcess {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Reply>> {
        async move {
            match self.answer(request).await? {
                Outcome::Object { served, object, .. } => Ok(Reply::Object(served.present(&object)?.into_owned())),
                Outcome::Value { value, .. } => Ok(Reply::Value(value)),
                Outcome::List { .. } => Ok(Reply::Value(knarr_core::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))),
                Outcome::Watch { .. } => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<List>> {
        async move {
            let Outcome::List { served, page } = self.answer(request).await? else { return Err(unexpected()) };
            let items = page.items.iter().map(|i| served.present(&i.object).map(std::borrow::Cow::into_owned)).collect::<Result<_>>()?;
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
