//! `events.k8s.io/v1` events: the first is written at once, the second turns it into a series, the following ones only
//! count until the series ends or is refreshed. Upstream: `k8s.io/client-go/tools/events`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use knarr_core::clock::Env;
use knarr_core::{Value, ValueExt, json, time};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::write::{Write, Writer};
use super::{EventKind, QUEUE_MAX};
use crate::client::Client;

/// A series that saw nothing for this long ends.
const FINISH_AFTER: Duration = Duration::from_secs(6 * 60);
/// The count of a running series is written this often.
const REFRESH_EVERY: Duration = Duration::from_secs(30 * 60);
/// Longest note; longer ones are cut (upstream: 1 KiB).
const NOTE_MAX: usize = 1024;

/// An event as a component tells it.
#[derive(Clone, Debug)]
pub struct Note {
    pub regarding: ObjectReference,
    pub related: Option<ObjectReference>,
    pub kind: EventKind,
    pub reason: String,
    pub action: String,
    pub note: String,
}

/// Records `events.k8s.io/v1` events of one component. Cheap to clone.
#[derive(Clone)]
pub struct SeriesRecorder {
    queue: mpsc::Sender<Note>,
}

impl SeriesRecorder {
    /// A recorder for `controller` (`default-scheduler`), `instance` being this process of it.
    pub fn start(client: Client, controller: &str, instance: &str, env: Env, stop: CancellationToken) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE_MAX);
        let ledger = Ledger { controller: controller.into(), instance: instance.into(), env, running: BTreeMap::new() };
        tokio::spawn(async move {
            tokio::select! {
                () = run(Writer::series(client), ledger, notes) => {}
                () = stop.cancelled() => {}
            }
        });
        Self { queue }
    }

    /// Tells something about an object.
    pub fn event(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            tracing::warn!("too many events wait to be written, one is lost");
        }
    }
}

/// An event that was told a short while ago.
struct Running {
    began: Began,
    /// Most events happen once: there is more to know only of those that are told again.
    series: Option<Box<Series>>,
}

/// When an event was first told, and the number that makes its name its own.
#[derive(Clone, Copy)]
struct Began {
    at: Timestamp,
    number: i64,
}

struct Series {
    event: Value,
    count: i64,
    last: Timestamp,
    written_count: i64,
}

/// Tells events apart that differ in more than note and time.
type Digest = [u64; 2];

fn digest(note: &Note) -> Digest {
    let text = json!([note.kind.as_str(), note.action, note.reason, note.regarding, note.related]).to_string();
    [0_u8, 1].map(|seed| {
        let mut hasher = DefaultHasher::new();
        (seed, &text).hash(&mut hasher);
        hasher.finish()
    })
}

struct Ledger {
    controller: String,
    instance: String,
    env: Env,
    running: BTreeMap<Digest, Running>,
}

impl Ledger {
    fn take(&mut self, note: Note) -> Option<Write> {
        let now = self.env.now();
        let digest = digest(&note);
        let Some(began) = self.running.get(&digest).map(|r| r.began) else {
            let number = i64::try_from(now.as_nanosecond()).unwrap_or(0).wrapping_add(i64::try_from(self.env.below(1000)).unwrap_or(0));
            let began = Began { at: now, number };
            self.running.insert(digest, Running { began, series: None });
            return Some(Write::First(self.event(&note, began)));
        };
        if self.running.get(&digest).is_some_and(|r| r.series.is_none()) {
            let series = Box::new(Series { event: self.event(&note, began), count: 1, last: now, written_count: 1 });
            self.running.insert(digest, Running { began, series: Some(series) });
        }
        let series = self.running.get_mut(&digest)?.series.as_mut()?;
        series.count += 1;
        series.last = now;
        (series.count == 2).then(|| series.write())
    }

    fn event(&self, note: &Note, began: Began) -> Value {
        let namespace = note.regarding.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let name = format!("{}.{:x}", note.regarding.name.as_deref().unwrap_or_default(), began.number);
        let mut text = note.note.clone();
        if text.len() > NOTE_MAX {
            text.truncate(text.floor_char_boundary(NOTE_MAX));
        }
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": time::format_micro(began.at),
            "reportingController": self.controller, "reportingInstance": self.instance,
            "action": note.action, "reason": note.reason, "note": text, "type": note.kind.as_str(),
            "regarding": note.regarding,
        });
        if let Some(related) = &note.related {
            event.set(&["related"], json!(related));
        }
        event
    }

    /// Ends the series that fell silent and gives what is still to be written of them; with `refresh` of all.
    fn settle(&mut self, refresh: bool) -> Vec<Write> {
        let now = self.env.now();
        let mut writes = Vec::new();
        self.running.retain(|_, running| {
            let last = running.series.as_ref().map_or(running.began.at, |s| s.last);
            let over = Duration::try_from(now.duration_since(last)).is_ok_and(|d| d >= FINISH_AFTER);
            if let Some(series) = &mut running.series
                && (over || refresh)
                && series.count > series.written_count
            {
                writes.push(series.write());
            }
            !over
        });
        writes
    }
}

impl Series {
    /// Writes the count as it is now.
    fn write(&mut self) -> Write {
        self.written_count = self.count;
        let series = json!({"count": self.count, "lastObservedTime": time::format_micro(self.last)});
        self.event.set(&["series"], series.clone());
        Write::Repeat { event: self.event.clone(), patch: json!({"series": series}) }
    }
}

async fn run(mut writer: Writer, mut ledger: Ledger, mut notes: mpsc::Receiver<Note>) {
    let mut finish_at = tokio::time::Instant::now() + FINISH_AFTER;
    let mut refresh_at = tokio::time::Instant::now() + REFRESH_EVERY;
    loop {
        let idle = ledger.running.is_empty();
        let next = writer.working_until(async {
            tokio::select! {
                note = notes.recv() => Some(note),
                () = tokio::time::sleep_until(finish_at), if !idle => None,
            }
        });
        let now = tokio::time::Instant::now();
        match next.await {
            Some(None) => break,
            Some(Some(note)) => {
                if idle {
                    (finish_at, refresh_at) = (now + FINISH_AFTER, now + REFRESH_EVERY);
                }
                if let Some(write) = ledger.take(note) {
                    writer.write(write).await;
                }
            }
            None => {
                let refresh = finish_at >= refresh_at;
                for write in ledger.settle(refresh) {
                    writer.write(write).await;
                }
                refresh_at = if refresh { finish_at + REFRESH_EVERY } else { refresh_at };
                finish_at += FINISH_AFTER;
            }
        }
    }
    writer.finish().await;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::events::v1::Event;

    use super::*;
    use crate::fake::FakeApi;

    #[tokio::test(start_paused = true)]
    async fn the_second_event_makes_a_series_and_the_rest_count_until_it_ends() {
        let env = Env::simulated(1, Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(env.clone());
        let recorder = SeriesRecorder::start(api.client(), "default-scheduler", "s-1", env, CancellationToken::new());
        let note = Note {
            regarding: ObjectReference { name: Some("p".into()), namespace: Some("a".into()), ..ObjectReference::default() },
            related: None,
            kind: EventKind::Warning,
            reason: "FailedScheduling".into(),
            action: "Scheduling".into(),
            note: "no nodes".into(),
        };
        let count = |api: &FakeApi| api.read_all::<Event>().first().and_then(|e| e.series.as_ref().map(|s| s.count));
        for _ in 0..5 {
            recorder.event(note.clone());
        }
        api.until(|api| count(api) == Some(2)).await;
        api.until(|api| count(api) == Some(5)).await;
        assert_eq!(api.log().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_series_whose_event_is_gone_is_written_whole() {
        let env = Env::simulated(1, Timestamp::UNIX_EPOCH);
        let api = FakeApi::new(env.clone());
        let recorder = SeriesRecorder::start(api.client(), "c", "c-1", env, CancellationToken::new());
        let note = |name: &str| Note {
            regarding: ObjectReference { name: Some(name.into()), namespace: Some("a".into()), ..ObjectReference::default() },
            related: None,
            kind: EventKind::Normal,
            reason: "Pulled".into(),
            action: "Pulling".into(),
            note: format!("image of {name}"),
        };
        recorder.event(note("p"));
        recorder.event(note("q"));
        api.until(|api| api.read_all::<Event>().len() == 2).await;
        let names = |api: &FakeApi| api.read_all::<Event>().into_iter().filter_map(|e| e.metadata.name).collect::<Vec<_>>();
        let first = names(&api);
        api.client().within::<Event>("a").delete(&first[0], &crate::client::Deletion::default()).await.unwrap();
        recorder.event(note("p"));
        api.until(|api| api.read_all::<Event>().len() == 2).await;
        assert_eq!(names(&api), first);
        let again = api.read_all::<Event>().into_iter().find(|e| e.metadata.name.as_ref() == Some(&first[0])).unwrap();
        assert_eq!((again.note.as_deref(), again.series.map(|s| s.count)), (Some("image of p"), Some(2)));
    }
}
