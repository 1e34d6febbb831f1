//! What is known of one request that is written down, from its beginning to its end (upstream: `audit.AuditContext`).

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use knarr_core::{Reason, Status, Value, ValueExt, go};
use knarr_schema::codec;
use parking_lot::Mutex;

use super::{
    Auditor,
    event::{self, Event, ObjectRef, ResponseStatus},
    policy::{Level, Ruling, Stage},
};
use crate::{
    authn::User,
    authz::Verdict,
    call::Outcome,
    encode::{self, Format},
    http::{Accepted, Media},
    request::RequestInfo,
};

/// Requests that took longer tell where the time went (upstream: `writeLatencyToAnnotation`).
const SLOW: Duration = Duration::from_millis(500);

/// How a request begins.
pub struct Beginning<'a> {
    pub id: &'a str,
    pub uri: String,
    pub agent: &'a str,
    pub source_ips: Vec<IpAddr>,
    /// Absent of a request that could not be authenticated.
    pub user: Option<Arc<User>>,
    pub info: &'a RequestInfo,
}

/// See the module.
pub struct Record {
    auditor: Arc<Auditor>,
    ruling: Ruling,
    event: Mutex<Event>,
    began: Instant,
    panicked: AtomicBool,
    /// Nanoseconds that it waited for a seat.
    queued: AtomicU64,
}

impl Record {
    /// Holds a request against the policy. Nothing when it is not to be written down.
    pub fn begin(auditor: &Arc<Auditor>, beginning: Beginning<'_>) -> Option<Arc<Self>> {
        let Beginning { id, uri, agent, source_ips, user, info } = beginning;
        let ruling = auditor.policy.evaluate(user.as_deref(), info);
        auditor.counts.level(ruling.level);
        if ruling.level == Level::None {
            return None;
        }
        let event = Event {
            level: ruling.level,
            id: id.to_owned(),
            uri,
            verb: info.verb.clone(),
            user,
            source_ips,
            agent: event::agent(agent),
            object: info.is_resource_request.then(|| ObjectRef::new(info)),
            received: auditor.env.now(),
            ..Event::default()
        };
        Some(Arc::new(Self {
            auditor: auditor.clone(),
            ruling,
            event: Mutex::new(event),
            began: Instant::now(),
            panicked: AtomicBool::new(false),
            queued: AtomicU64::new(0),
        }))
    }

    /// The request is about to be answered.
    ///
    /// # Errors
    /// When it cannot be written down, and may not be answered then.
    pub async fn received(&self) -> Result<(), Status> {
        if self.stage(Stage::RequestReceived).await {
            return Ok(());
        }
        self.auditor.counts.reject();
        Err(Status::new(500, Reason::InternalError, "failed to store audit event"))
    }

    /// Nobody knows who asks.
    pub fn is_unauthenticated(&self) -> bool {
        self.event.lock().user.is_none()
    }

    /// The first value of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.event.lock().annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    /// It waited so long for a seat.
    pub fn queued(&self, waited: Duration) {
        self.queued.store(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// What the authorizers said. `explain` tells why, where the verdict does not.
    pub fn judged(&self, verdict: &Verdict, explain: impl FnOnce() -> String) {
        if !verdict.is_allowed() && verdict.error.is_some() {
            return self.annotate("authorization.k8s.io/reason", "internal error");
        }
        let reason = if verdict.is_allowed() && verdict.reason.is_empty() { explain() } else { verdict.reason.clone() };
        self.annotate("authorization.k8s.io/decision", if verdict.is_allowed() { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// The request goes on as somebody else; `constraint` is the mode, if it was constrained.
    pub fn impersonated(&self, user: &User, constraint: &str) {
        let mut event = self.event.lock();
        event.impersonated = Some(Arc::new(user.clone()));
        constraint.clone_into(&mut event.constraint);
    }

    /// The object in the body, read and with its defaults.
    pub fn request_object(&self, object: &Value) {
        let json = (self.ruling.level >= Level::Request).then(|| self.object_json(object));
        let mut event = self.event.lock();
        event.object.get_or_insert_default().fill(object);
        event.request_object = json;
    }

    /// The patch in the body.
    pub fn request_patch(&self, json: impl FnOnce() -> Bytes) {
        if self.ruling.level >= Level::Request {
            self.event.lock().request_object = Some(json());
        }
    }

    fn object_json(&self, object: &Value) -> Bytes {
        if !self.ruling.omit_managed_fields || object.at(&["metadata", "managedFields"]).is_none() {
            return codec::encode_json(object).into();
        }
        let mut object = object.clone();
        object.remove(&["metadata", "managedFields"]);
        codec::encode_json(&object).into()
    }

    /// A refusal, as its client is told.
    pub fn refused(&self, status: &Status) {
        // Of a panic, the log tells more than the client hears.
        if self.panicked.load(Relaxed) {
            return;
        }
        let object = (self.ruling.level >= Level::RequestResponse).then(|| Bytes::from(codec::encode_json(&status.to_value())));
        let mut event = self.event.lock();
        event.response = Some(status.into());
        event.response_object = object;
    }

    /// A good answer, in the form in which its client gets it but for the encoding. A watch has none.
    pub fn answered(&self, outcome: &Outcome, format: &Format) {
        if let Outcome::Value { value, code } = outcome
            && value.str_at(&["kind"]) == Some("Status")
        {
            self.event.lock().response = Some(ResponseStatus { status: Some(value.clone()), code: *code });
        }
        if self.ruling.level < Level::RequestResponse {
            return;
        }
        let accepted = Accepted { media: Media::Json, pretty: false, ..format.accepted.clone() };
        let format = Format { accepted, ..format.clone() };
        let json = match outcome {
            Outcome::Object { served, object, .. } => encode::object(served, object, &format),
            Outcome::Value { value, .. } => encode::value(value, &format.accepted),
            Outcome::Scale { served, scale, .. } => encode::scale(served, scale, &format),
            Outcome::List { served, page } => encode::list(served, &page.meta, page.objects().iter(), &format),
            Outcome::Watch { .. } => return,
        };
        match json {
            Ok(json) => self.event.lock().response_object = Some(self.without_managed_fields(json)),
            // The client is told the same error.
            Err(error) => tracing::debug!(%error, "an answer could not be encoded for the audit log"),
        }
    }

    fn without_managed_fields(&self, json: Bytes) -> Bytes {
        let tree = || codec::parse_at_rest(&json).ok();
        let Some(mut object) = self.ruling.omit_managed_fields.then(tree).flatten() else { return json };
        object.remove(&["metadata", "managedFields"]);
        for (list, inner) in [("items", &[][..]), ("rows", &["object"][..])] {
            for item in object.at_mut(&[list]).and_then(Value::as_array_mut).into_iter().flatten() {
                let path: Vec<&str> = inner.iter().copied().chain(["metadata", "managedFields"]).collect();
                item.remove(&path);
            }
        }
        codec::encode_json(&object).into()
    }

    /// The request brought the server to a panic.
    pub fn panicked(&self, text: &str) {
        self.panicked.store(true, Relaxed);
        let status = Status::new(500, Reason::InternalError, format!("APIServer panic'd: {text}"));
        self.event.lock().response = Some((&status).into());
    }

    /// The head of the answer goes out, of a request that lasts.
    pub async fn started(&self, code: u16) {
        self.code(code);
        self.stage(Stage::ResponseStarted).await;
    }

    /// The answer has been given.
    pub async fn complete(&self, code: u16) {
        self.code(code);
        self.end().await;
    }

    fn code(&self, code: u16) {
        if !self.panicked.load(Relaxed) {
            self.event.lock().response.get_or_insert_default().code = code;
        }
    }

    async fn end(&self) {
        if self.panicked.load(Relaxed) {
            self.stage(Stage::Panic).await;
            return;
        }
        let (took, waited) = (self.began.elapsed(), Duration::from_nanos(self.queued.load(Relaxed)));
        if took > SLOW {
            if !waited.is_zero() {
                self.annotate("apiserver.latency.k8s.io/apf-queue-wait", go::duration_text(waited));
            }
            self.annotate("apiserver.latency.k8s.io/total", go::duration_text(took));
        }
        self.stage(Stage::ResponseComplete).await;
    }

    /// What ends a request that lasts when it is dropped.
    pub fn ending(self: &Arc<Self>) -> Ending {
        Ending(self.clone())
    }

    async fn stage(&self, stage: Stage) -> bool {
        if self.ruling.omit_stages.has(stage) {
            return true;
        }
        let event = {
            let mut event = self.event.lock();
            event.stage = stage;
            event.staged = if stage == Stage::RequestReceived { event.received } else { self.auditor.env.now() };
            event.clone()
        };
        self.auditor.process(event).await
    }
}

/// Writes down the end of a request that lasts.
pub struct Ending(Arc<Record>);

impl Drop for Ending {
    fn drop(&mut self) {
        let record = self.0.clone();
        if record.auditor.is_immediate() {
            // Nothing here waits for anybody.
            record.end().now_or_never();
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { record.end().await });
        }
    }
}
