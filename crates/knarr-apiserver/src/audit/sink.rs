//! Where events go: at once or gathered, cut to size where that is wanted (upstream: `plugin/pkg/audit/buffered`, `truncate`,
//! `log`).

use std::{io::Write, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use knarr_core::clock::Env;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    event::Event,
    log_file::LogFile,
    metrics::Counts,
    policy::Level,
    settings::{BatchSettings, Format, LogSettings, Mode, TruncateSettings, WebhookSettings},
    webhook::Webhook,
};

/// How long what is still in a buffer may take when the server stops.
const SHUT_DOWN_MAX: Duration = Duration::from_secs(10);

/// An event with its text, which all sinks share.
pub struct Sent {
    pub event: Event,
    pub json: Bytes,
}

impl Sent {
    pub fn new(event: Event) -> Self {
        Self { json: event.to_json().into(), event }
    }

    /// The same without the objects, which are what makes an event large.
    fn truncated(&self) -> Self {
        let mut event = Event { request_object: None, response_object: None, ..self.event.clone() };
        event.annotations.insert("audit.k8s.io/truncated".into(), "true".into());
        Self::new(event)
    }
}

/// What takes events in the end.
#[async_trait]
pub trait Backend: Send + Sync {
    /// As metrics name it.
    fn plugin(&self) -> &'static str;

    /// # Errors
    /// Why the events are not there.
    async fn send(&self, events: &[Arc<Sent>]) -> Result<(), String>;
}

/// See the module.
pub struct Sink {
    mode: Mode,
    truncate: TruncateSettings,
    backend: Arc<dyn Backend>,
    batch: Option<Batch>,
    counts: Arc<Counts>,
    immediate: bool,
}

impl Sink {
    /// # Errors
    /// A file that cannot be written.
    pub fn log(settings: &LogSettings, counts: &Arc<Counts>, env: Env) -> Result<Self, String> {
        let backend = Arc::new(Log::open(settings, env)?);
        Ok(Self::new(backend, &settings.batch, settings.truncate, counts, Sends { beside: false, immediate: true }))
    }

    /// # Errors
    /// A kubeconfig that cannot be used.
    pub fn webhook(settings: &WebhookSettings, counts: &Arc<Counts>, env: Env) -> Result<Self, String> {
        let backend = Arc::new(Webhook::new(settings, env).map_err(|why| format!("initializing audit webhook: {why}"))?);
        Ok(Self::new(backend, &settings.batch, settings.truncate, counts, Sends { beside: true, immediate: false }))
    }

    fn new(backend: Arc<dyn Backend>, settings: &BatchSettings, truncate: TruncateSettings, counts: &Arc<Counts>, sends: Sends) -> Self {
        let batch = (settings.mode == Mode::Batch).then(|| Batch::start(backend.clone(), settings.clone(), counts.clone(), sends.beside));
        let immediate = sends.immediate || batch.is_some();
        Self { mode: settings.mode, truncate, backend, batch, counts: counts.clone(), immediate }
    }

    /// Whether taking an event needs nobody else.
    pub fn is_immediate(&self) -> bool {
        self.immediate
    }

    /// Takes an event. `false` when it is lost and nothing may be.
    pub async fn process(&self, sent: &Arc<Sent>) -> bool {
        let Some(sent) = self.fit(sent) else { return true };
        if let Some(batch) = &self.batch {
            if let Err(why) = batch.push(sent.clone()) {
                self.counts.error("buffered", why, std::iter::once(&*sent));
            }
            return true;
        }
        match self.backend.send(std::slice::from_ref(&sent)).await {
            Ok(()) => true,
            Err(why) => {
                self.counts.error(self.backend.plugin(), &why, std::iter::once(&*sent));
                self.mode != Mode::BlockingStrict
            }
        }
    }

    /// The event, without its objects if it is too large with them.
    fn fit(&self, sent: &Arc<Sent>) -> Option<Arc<Sent>> {
        let max = self.truncate.max_event_bytes;
        if !self.truncate.enabled || sent.json.len() <= max {
            return Some(sent.clone());
        }
        let cut = if sent.event.level >= Level::Request { Arc::new(sent.truncated()) } else { sent.clone() };
        if cut.json.len() > max {
            self.counts.error("truncate", "event is too large even after truncating", std::iter::once(&**sent));
            return None;
        }
        Some(cut)
    }

    pub async fn shut_down(&self) {
        if let Some(batch) = &self.batch {
            batch.shut_down().await;
        }
    }
}

/// How a backend is used.
struct Sends {
    /// Batches do not wait for each other.
    beside: bool,
    /// Sending waits for nobody.
    immediate: bool,
}

/// Events that wait to be sent together.
struct Batch {
    sender: Mutex<Option<mpsc::Sender<Arc<Sent>>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Batch {
    fn start(backend: Arc<dyn Backend>, settings: BatchSettings, counts: Arc<Counts>, beside: bool) -> Self {
        let (sender, receiver) = mpsc::channel(settings.buffer_size);
        let task = tokio::spawn(collect(receiver, settings, backend, counts, beside));
        Self { sender: Mutex::new(Some(sender)), task: Mutex::new(Some(task)) }
    }

    fn push(&self, sent: Arc<Sent>) -> Result<(), &'static str> {
        match &*self.sender.lock() {
            None => Err("audit backend shut down"),
            Some(sender) => sender.try_send(sent).map_err(|_| "audit buffer queue blocked"),
        }
    }

    async fn shut_down(&self) {
        self.sender.lock().take();
        let task = self.task.lock().take();
        if let Some(task) = task
            && tokio::time::timeout(SHUT_DOWN_MAX, task).await.is_err()
        {
            tracing::error!("audit events were still in the buffer when the time to send them had passed");
        }
    }
}

/// Sends what comes in batches, until nothing comes any more.
async fn collect(mut receiver: mpsc::Receiver<Arc<Sent>>, settings: BatchSettings, backend: Arc<dyn Backend>, counts: Arc<Counts>, beside: bool) {
    let mut throttle = settings.throttle.map(|(qps, burst)| Throttle::new(qps, burst));
    let mut sends = JoinSet::new();
    while let Some(first) = receiver.recv().await {
        let mut events = vec![first];
        let end = Instant::now() + settings.max_wait;
        while events.len() < settings.max_size
            && let Ok(Some(next)) = timeout_at(end, receiver.recv()).await
        {
            events.push(next);
        }
        if let Some(throttle) = &mut throttle {
            throttle.wait().await;
        }
        let (backend, counts) = (backend.clone(), counts.clone());
        let send = async move {
            if let Err(why) = backend.send(&events).await {
                counts.error(backend.plugin(), &why, events.iter().map(|e| &**e));
            }
        };
        if beside {
            sends.spawn(send);
            while sends.try_join_next().is_some() {}
        } else {
            send.await;
        }
    }
    while sends.join_next().await.is_some() {}
}

/// So many a second, and some more at once after a rest.
struct Throttle {
    qps: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Throttle {
    fn new(qps: f64, burst: u32) -> Self {
        Self { qps, burst: f64::from(burst), tokens: f64::from(burst), at: Instant::now() }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.at).as_secs_f64() * self.qps).min(self.burst);
        self.at = now;
        self.tokens -= 1.0;
        if self.tokens < 0.0 {
            sleep_until(now + Duration::from_secs_f64(-self.tokens / self.qps)).await;
        }
    }
}

/// Writes lines to a file or to standard output.
struct Log {
    out: Mutex<Out>,
    format: Format,
}

enum Out {
    File(LogFile),
    Stdout,
}

impl Log {
    fn open(settings: &LogSettings, env: Env) -> Result<Self, String> {
        let file = || LogFile::open(settings, env).map(Out::File).map_err(|e| format!("ensureLogFile: open {}: {e}", settings.path));
        let out = if settings.path == "-" { Out::Stdout } else { file()? };
        Ok(Self { out: Mutex::new(out), format: settings.format })
    }
}

#[async_trait]
impl Backend for Log {
    fn plugin(&self) -> &'static str {
        "log"
    }

    async fn send(&self, events: &[Arc<Sent>]) -> Result<(), String> {
        let mut out = self.out.lock();
        for sent in events {
            let mut line = match self.format {
                Format::Json => sent.json.to_vec(),
                Format::Legacy => sent.event.to_line().into_bytes(),
            };
            line.push(b'\n');
            match &mut *out {
                Out::File(file) => file.write(&line),
                Out::Stdout => std::io::stdout().lock().write_all(&line),
            }
            .map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes the sizes of its batches; fails as long as it is told to.
    #[derive(Default)]
    struct Noting {
        batches: Mutex<Vec<Vec<Bytes>>>,
        fails: bool,
    }

    #[async_trait]
    impl Backend for Noting {
        fn plugin(&self) -> &'static str {
            "noting"
        }
        async fn send(&self, events: &[Arc<Sent>]) -> Result<(), String> {
            self.batches.lock().push(events.iter().map(|e| e.json.clone()).collect());
            if self.fails { Err("no".into()) } else { Ok(()) }
        }
    }

    fn event(size: usize) -> Arc<Sent> {
        let request_object = Some(Bytes::from(format!("\"{}\"", "x".repeat(size))));
        Arc::new(Sent::new(Event { level: Level::Request, request_object, ..Event::default() }))
    }

    fn batch(mode: Mode, max_size: usize) -> BatchSettings {
        BatchSettings { mode, buffer_size: 10, max_size, max_wait: Duration::from_secs(30), throttle: None }
    }

    fn sink(backend: &Arc<Noting>, settings: &BatchSettings, truncate: TruncateSettings) -> (Sink, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        (Sink::new(backend.clone(), settings, truncate, &counts, Sends { beside: true, immediate: false }), counts)
    }

    fn errors(counts: &Counts) -> String {
        let mut text = knarr_core::metrics::Text::default();
        counts.write(&mut text);
        text.into_string().lines().filter(|l| l.starts_with("apiserver_audit_error_total{")).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_has_waited() {
        let backend = Arc::new(Noting::default());
        let (sink, _) = sink(&backend, &batch(Mode::Batch, 3), TruncateSettings::default());
        let sizes = || backend.batches.lock().iter().map(Vec::len).collect::<Vec<_>>();
        for _ in 0..4 {
            assert!(sink.process(&event(1)).await);
        }
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(sizes(), [3]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(sizes(), [3, 1]);
        sink.process(&event(1)).await;
        sink.shut_down().await;
        assert_eq!(sizes(), [3, 1, 1]);
        assert!(sink.process(&event(1)).await, "a request is not refused for it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_into_the_buffer_is_lost_and_counted() {
        let backend = Arc::new(Noting::default());
        let settings = BatchSettings { throttle: Some((1.0, 1)), ..batch(Mode::Batch, 1) };
        let (sink, counts) = sink(&backend, &settings, TruncateSettings::default());
        for _ in 0..12 {
            assert!(sink.process(&event(1)).await);
        }
        assert_eq!(errors(&counts), "apiserver_audit_error_total{plugin=\"buffered\"} 2");
        let began = Instant::now();
        sink.shut_down().await;
        assert_eq!(backend.batches.lock().len(), 10);
        assert!(began.elapsed() >= Duration::from_secs(9), "one a second: {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn only_the_strict_mode_refuses() {
        let backend = Arc::new(Noting { fails: true, ..Noting::default() });
        for (mode, wanted) in [(Mode::Blocking, true), (Mode::BlockingStrict, false)] {
            let (sink, counts) = sink(&backend, &batch(mode, 1), TruncateSettings::default());
            assert_eq!(sink.process(&event(1)).await, wanted);
            assert_eq!(errors(&counts), "apiserver_audit_error_total{plugin=\"noting\"} 1");
        }
    }

    #[tokio::test]
    async fn large_events_lose_their_objects() {
        let backend = Arc::new(Noting::default());
        let truncate = |max_event_bytes| TruncateSettings { enabled: true, max_event_bytes, ..TruncateSettings::default() };
        let (cutting, _) = sink(&backend, &batch(Mode::Blocking, 1), truncate(1000));
        assert!(cutting.process(&event(10)).await && cutting.process(&event(2000)).await);
        let sent = backend.batches.lock().concat();
        let text = |i: usize| String::from_utf8_lossy(&sent[i]).into_owned();
        assert!(text(0).contains("requestObject") && !text(1).contains("requestObject") && text(1).contains("\"audit.k8s.io/truncated\":\"true\""));
        let (none, counts) = sink(&backend, &batch(Mode::BlockingStrict, 1), truncate(50));
        assert!(none.process(&event(10)).await);
        assert_eq!(errors(&counts), "apiserver_audit_error_total{plugin=\"truncate\"} 1");
    }
}
