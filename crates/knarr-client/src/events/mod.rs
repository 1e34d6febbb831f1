//! Recorders of `Event` objects: what a component tells users about an object.
//!
//! [`Recorder`] writes core `v1` events as controllers and the node agent do (similar ones are combined, repeated ones
//! counted, chatty objects silenced); [`SeriesRecorder`] writes `events.k8s.io/v1` as the scheduler does. Recording never
//! waits: events go through a bounded queue to a task that writes them, several at once.

mod correlate;
mod series;
mod write;

pub use series::{Note, SeriesRecorder};

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_core::clock::Env;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use correlate::{Correlator, Told};
use write::Writer;

/// Events that may wait to be written; more are dropped with a warning (upstream: 1000).
const QUEUE_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// A reference to a typed object, as events carry it.
pub fn reference<T>(object: &T) -> ObjectReference
where
    T: k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(T::API_VERSION.to_owned()),
        kind: Some(T::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Records core `v1` events of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
}

impl Recorder {
    /// A recorder for `component` (`replicaset-controller`, `kubelet`) on `host` (empty for controllers). Its task ends with
    /// `stop`.
    pub fn start(client: Client, component: &str, host: &str, env: Env, stop: CancellationToken) -> Self {
        let (queue, told) = mpsc::channel(QUEUE_MAX);
        let correlator = Correlator::new(component, host, env);
        tokio::spawn(async move {
            tokio::select! {
                () = run(Writer::core(client), correlator, told) => {}
                () = stop.cancelled() => {}
            }
        });
        Self { queue }
    }

    /// Tells something about an object.
    pub fn event(&self, about: &ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.annotated(about, kind, reason, message, Vec::new());
    }

    /// The same with annotations on the event.
    pub fn annotated(&self, about: &ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>, annotations: Vec<(String, String)>) {
        let told = Told { about: Arc::new(about.clone()), kind, reason: reason.to_owned(), message: message.into(), annotations };
        if self.queue.try_send(told).is_err() {
            tracing::warn!(?about, reason, "too many events wait to be written, this one is lost");
        }
    }

    /// A recorder that says nothing, for tests.
    pub fn silent() -> Self {
        let (queue, mut told) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        Self { queue }
    }
}

async fn run(mut writer: Writer, mut correlator: Correlator, mut told: mpsc::Receiver<Told>) {
    while let Some(next) = writer.working_until(told.recv()).await {
        if let Some(write) = correlator.take(next) {
            writer.write(write).await;
        }
    }
    writer.finish().await;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Event, Pod};
    use knarr_core::json;

    use super::*;
    use crate::fake::FakeApi;

    fn pod() -> ObjectReference {
        let pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "u"}})).unwrap();
        reference(&pod)
    }

    fn texts(api: &FakeApi) -> Vec<(String, i32)> {
        api.read_all::<Event>().into_iter().map(|e| (e.message.unwrap_or_default(), e.count.unwrap_or_default())).collect()
    }

    fn recorder() -> (Arc<FakeApi>, Recorder) {
        let env = Env::simulated(1, jiff::Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(env.clone());
        let recorder = Recorder::start(api.client(), "test-controller", "", env, CancellationToken::new());
        (api, recorder)
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_event_is_counted() {
        let (api, recorder) = recorder();
        for _ in 0..3 {
            recorder.event(&pod(), EventKind::Normal, "Started", "it runs");
        }
        api.until(|api| texts(api) == [("it runs".to_owned(), 3)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn similar_events_are_combined_after_nine() {
        let (api, recorder) = recorder();
        for n in 0..12 {
            recorder.event(&pod(), EventKind::Normal, "Created", format!("pod {n}"));
        }
        api.until(|api| texts(api).contains(&("(combined from similar events): pod 11".to_owned(), 3))).await;
        assert_eq!(texts(&api).len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chatty_object_is_silenced() {
        let (api, recorder) = recorder();
        for n in 0..40 {
            recorder.event(&pod(), EventKind::Warning, &format!("Reason{n}"), "x");
        }
        recorder.event(&ObjectReference { name: Some("other".into()), ..pod() }, EventKind::Normal, "Last", "x");
        api.until(|api| api.read_all::<Event>().iter().any(|e| e.reason.as_deref() == Some("Last"))).await;
        assert_eq!(texts(&api).len(), 26);
    }
}
