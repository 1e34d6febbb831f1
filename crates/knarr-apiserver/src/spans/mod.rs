//! Distributed tracing (KEP-647): what a request did and how long each part took, told to an OpenTelemetry collector. A request that a client
//! traces goes on as a part of that trace, and so do the calls that it causes at webhooks and other API servers.
//!
//! The span of a request is the context of all that is done for it: it is found by the task, so that nothing in between has to know of it.
//! A request that is not sampled costs one look at whether anybody traces.

mod config;
mod export;
pub mod message;
mod propagate;

use std::future::Future;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;
use knarr_core::clock::Env;

pub use config::{TracingConfiguration, load};
use export::Queue;
pub use propagate::{extract, inject};

tokio::task_local! {
    static CURRENT: Context;
}

/// Where in which trace something is done (W3C Trace Context: `traceparent`), and what travels with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanContext {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub sampled: bool,
    /// `tracestate`, as it came.
    pub state: String,
}

impl SpanContext {
    fn is_valid(&self) -> bool {
        self.trace != [0; 16] && self.span != [0; 8]
    }
}

/// What a task works for.
#[derive(Clone, Default)]
pub struct Context {
    at: SpanContext,
    baggage: Option<HeaderValue>,
    /// Absent where only somebody else traces.
    tracer: Option<Arc<Tracer>>,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// Who talks to whom, by OpenTelemetry's numbers (`trace.proto`: `SpanKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// What is told of one span when it is over.
#[derive(Clone, Debug)]
pub struct Ended {
    at: SpanContext,
    parent: Option<[u8; 8]>,
    link: Option<SpanContext>,
    name: String,
    kind: Kind,
    start: Timestamp,
    end: Timestamp,
    attributes: Vec<(&'static str, Value)>,
    failed: bool,
}

/// Something that is being done. It is over when this is dropped. One that is not sampled has nothing in it.
#[derive(Default)]
pub struct Span(Option<Box<Open>>);

struct Open {
    tracer: Arc<Tracer>,
    ended: Ended,
}

impl Span {
    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.ended.attributes.push((key, value.into()));
        }
    }

    /// Whether anything said about it is kept.
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// It did not come to a good end.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.0 {
            open.ended.failed = true;
        }
    }

    /// Does `work` as a part of this: what is begun there are its children.
    pub async fn around<F: Future>(&self, work: impl FnOnce() -> F) -> F::Output {
        let Some(open) = &self.0 else { return work().await };
        let mut context = CURRENT.try_with(Clone::clone).unwrap_or_default();
        context.at = open.ended.at.clone();
        context.tracer = Some(open.tracer.clone());
        // On the heap: whoever is not traced pays for no second place.
        CURRENT.scope(context, Box::pin(work())).await
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut open) = self.0.take() {
            open.ended.end = open.tracer.env.now();
            open.tracer.queue.push(open.ended);
        }
    }
}

/// Begins a part of what this task does.
pub fn child(name: &str, kind: Kind) -> Span {
    let begun = CURRENT.try_with(|context| context.tracer.as_ref().filter(|_| context.at.sampled).map(|tracer| tracer.child_of(&context.at, name, kind)));
    begun.ok().flatten().unwrap_or_default()
}

/// Makes spans and hands those that are sampled to the collector.
pub struct Tracer {
    env: Env,
    /// Of traces that nobody else has begun: the share that is sampled, as a bound of half a trace's id.
    bound: u64,
    queue: Queue,
}

/// The ids that can be, one more.
const IDS: u64 = 1 << 63;
const MILLION: u64 = 1_000_000;

impl Tracer {
    /// Starts sending. Needs a running tokio runtime.
    ///
    /// # Errors
    /// An endpoint that cannot be one.
    pub fn start(config: &TracingConfiguration, instance: &str, env: Env) -> Result<Arc<Self>, String> {
        let queue = Queue::start(&config.endpoint, instance)?;
        let bound = (u128::from(config.sampling_rate_per_million) * u128::from(IDS) / u128::from(MILLION)) as u64;
        Ok(Arc::new(Self { env, bound, queue }))
    }

    /// Begins the span of a request. `remote` is what the client traces; a client that is not `trusted` cannot make us sample: its trace is
    /// only linked to (upstream: `WithPublicEndpointFn(notSystemPrivilegedGroup)`).
    ///
    /// Gives the span, and what the request is done within.
    pub fn request(
        self: &Arc<Self>,
        remote: Option<(SpanContext, Option<HeaderValue>)>,
        trusted: bool,
        name: impl FnOnce() -> String,
        start: Timestamp,
    ) -> (Span, Context) {
        let (remote, baggage) = remote.map_or((None, None), |(at, baggage)| (Some(at), baggage));
        let (parent, link) = if trusted { (remote, None) } else { (None, remote) };
        let trace = parent.as_ref().map_or_else(|| self.trace_id(), |p| p.trace);
        let sampled = parent.as_ref().map_or_else(|| self.samples(&trace), |p| p.sampled);
        let state = parent.as_ref().map(|p| p.state.clone()).unwrap_or_default();
        let at = SpanContext { trace, span: self.span_id(), sampled, state };
        let context = Context { at: at.clone(), baggage, tracer: Some(self.clone()) };
        let span = if sampled { self.open(at, parent.map(|p| p.span), link, name(), Kind::Server, start) } else { Span::default() };
        (span, context)
    }

    fn child_of(self: &Arc<Self>, parent: &SpanContext, name: &str, kind: Kind) -> Span {
        let at = SpanContext { span: self.span_id(), ..parent.clone() };
        self.open(at, Some(parent.span), None, name.to_owned(), kind, self.env.now())
    }

    fn open(self: &Arc<Self>, at: SpanContext, parent: Option<[u8; 8]>, link: Option<SpanContext>, name: String, kind: Kind, start: Timestamp) -> Span {
        let ended = Ended { at, parent, link, name, kind, start, end: start, attributes: Vec::new(), failed: false };
        Span(Some(Box::new(Open { tracer: self.clone(), ended })))
    }

    /// OpenTelemetry's `TraceIdRatioBased`.
    fn samples(&self, trace: &[u8; 16]) -> bool {
        let half = u64::from_be_bytes(trace[8..].try_into().unwrap_or_default());
        half >> 1 < self.bound
    }

    fn trace_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.env.rng.next_u64().max(1).to_be_bytes());
        id[8..].copy_from_slice(&self.env.rng.next_u64().to_be_bytes());
        id
    }

    fn span_id(&self) -> [u8; 8] {
        self.env.rng.next_u64().max(1).to_be_bytes()
    }

    /// Sends what is left. Whatever cannot be sent in time is lost.
    pub async fn flush(&self) {
        self.queue.flush().await;
    }
}

impl Context {
    /// That of a request which somebody else traces and we do not.
    pub fn passing((at, baggage): (SpanContext, Option<HeaderValue>)) -> Self {
        Self { at, baggage, tracer: None }
    }

    /// Does `work` within this.
    pub async fn around<F: Future>(self, work: impl FnOnce() -> F) -> F::Output {
        CURRENT.scope(self, Box::pin(work())).await
    }
}
