//! From ended spans to the collector: in batches, over gRPC, and never at the expense of a request (upstream: the SDK's
//! `BatchSpanProcessor` with its defaults, and `otlptracegrpc`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use knarr_store::grpc::{Channel, Endpoint, Failure, Service};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::message::{self, Any, AnyValue, ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue};
use super::{Ended, Value};

/// Spans that may wait; more are dropped (the SDK's `OTEL_BSP_MAX_QUEUE_SIZE`).
const QUEUE_MAX: usize = 2048;
const BATCH_MAX: usize = 512;
const BATCH_WAIT: Duration = Duration::from_secs(5);
/// A collector that is away is asked again, as long as this (the exporter's `MaxElapsedTime`), with a pause that grows by half.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a server that stops waits for what is left.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
const SERVICE: Service = Service { package: "opentelemetry.proto.collector.trace.v1", metadata: &[] };
const METHOD: &str = "TraceService/Export";
const SCOPE: &str = "knarr";
/// `STATUS_CODE_ERROR`.
const FAILED: i32 = 2;
const SAMPLED: u32 = 1;

enum Item {
    Span(Box<Ended>),
    Flush(oneshot::Sender<()>),
}

/// Where spans wait.
pub struct Queue {
    items: mpsc::Sender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// # Errors
    /// An endpoint that cannot be one.
    pub fn start(endpoint: &str, instance: &str) -> Result<Self, String> {
        let endpoint = Endpoint::parse(&format!("http://{endpoint}"))?;
        let channel = Channel::new(SERVICE, vec![endpoint], None);
        let (items, inbox) = mpsc::channel(QUEUE_MAX);
        let dropped = Arc::<AtomicU64>::default();
        let resource = [("service.name", "apiserver"), ("service.instance.id", instance)];
        let resource = resource.map(|(key, value)| attribute(key, &value.into())).to_vec();
        tokio::spawn(Exporter { channel, inbox, resource, dropped: dropped.clone(), is_away: false }.run());
        Ok(Self { items, dropped })
    }

    pub fn push(&self, span: Ended) {
        if self.items.try_send(Item::Span(Box::new(span))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let work = async {
            if self.items.send(Item::Flush(done)).await.is_ok() {
                drop(flushed.await);
            }
        };
        drop(tokio::time::timeout(FLUSH_WAIT, work).await);
    }
}

struct Exporter {
    channel: Channel,
    inbox: mpsc::Receiver<Item>,
    resource: Vec<KeyValue>,
    dropped: Arc<AtomicU64>,
    is_away: bool,
}

impl Exporter {
    async fn run(mut self) {
        while let Some((spans, flushed)) = self.batch().await {
            if !spans.is_empty() {
                let request = self.request(&spans);
                self.send(&request, spans.len()).await;
            }
            if let Some(flushed) = flushed {
                // Whoever asked may have lost patience.
                flushed.send(()).unwrap_or_default();
            }
        }
    }

    /// What has come until the batch is full, old enough or asked for. `None`: the server is gone.
    async fn batch(&mut self) -> Option<(Vec<Ended>, Option<oneshot::Sender<()>>)> {
        let mut spans = match self.inbox.recv().await? {
            Item::Span(span) => vec![*span],
            Item::Flush(done) => return Some((Vec::new(), Some(done))),
        };
        let until = Instant::now() + BATCH_WAIT;
        while spans.len() < BATCH_MAX {
            match timeout_at(until, self.inbox.recv()).await {
                Ok(Some(Item::Span(span))) => spans.push(*span),
                Ok(Some(Item::Flush(done))) => return Some((spans, Some(done))),
                Ok(None) | Err(_) => break,
            }
        }
        Some((spans, None))
    }

    async fn send(&mut self, request: &ExportTraceServiceRequest, count: usize) {
        let (begun, mut pause) = (Instant::now(), PAUSE_MIN);
        loop {
            match self.channel.call::<ExportTraceServiceResponse>(METHOD, request).await {
                Ok(answer) => {
                    self.is_away = false;
                    if let Some(partial) = answer.partial_success.filter(|p| p.rejected_spans > 0) {
                        tracing::warn!(rejected = partial.rejected_spans, why = partial.error_message, "the collector has not taken all spans");
                    }
                    break;
                }
                Err(failure) => {
                    let passes = !matches!(failure, Failure::Refused { code, .. } if !RETRIED.contains(&code));
                    if !passes || begun.elapsed() + pause > PATIENCE {
                        tracing::warn!(spans = count, why = %failure, "spans are lost: the collector does not take them");
                        break;
                    }
                    if !std::mem::replace(&mut self.is_away, true) {
                        tracing::warn!(why = %failure, "the collector of traces does not answer: it is asked again");
                    }
                    sleep(pause).await;
                    pause = (pause * 3 / 2).min(PAUSE_MAX);
                }
            }
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "more spans ended than the collector took");
        }
    }

    fn request(&self, spans: &[Ended]) -> ExportTraceServiceRequest {
        let scope_spans = message::ScopeSpans { scope: Some(message::Scope { name: SCOPE.to_owned() }), spans: spans.iter().map(encoded).collect() };
        let resource = message::Resource { attributes: self.resource.clone() };
        ExportTraceServiceRequest { resource_spans: vec![message::ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans] }] }
    }
}

/// gRPC's codes after which an export is tried again (OTLP: "Failures"): cancelled, deadline exceeded, aborted, out of range, unavailable,
/// data loss.
const RETRIED: [u32; 6] = [1, 4, 10, 11, 14, 15];

fn encoded(span: &Ended) -> message::Span {
    let nanoseconds = |at: jiff::Timestamp| u64::try_from(at.as_nanosecond()).unwrap_or_default();
    let flags = |sampled: bool| u32::from(sampled) * SAMPLED;
    let links = span.link.iter().map(|link| message::Link {
        trace_id: link.trace.to_vec(),
        span_id: link.span.to_vec(),
        trace_state: link.state.clone(),
        flags: flags(link.sampled),
    });
    message::Span {
        trace_id: span.at.trace.to_vec(),
        span_id: span.at.span.to_vec(),
        trace_state: span.at.state.clone(),
        parent_span_id: span.parent.map(|p| p.to_vec()).unwrap_or_default(),
        name: span.name.clone(),
        kind: span.kind as i32,
        start_time_unix_nano: nanoseconds(span.start),
        end_time_unix_nano: nanoseconds(span.end),
        attributes: span.attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
        links: links.collect(),
        status: Some(message::Status { code: if span.failed { FAILED } else { 0 } }),
        flags: flags(span.at.sampled),
    }
}

fn attribute(key: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => Any::Text(text.clone()),
        Value::Number(number) => Any::Number(*number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
