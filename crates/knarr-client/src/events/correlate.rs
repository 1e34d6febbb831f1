//! Which events are written, and how: the rules that keep one broken object from flooding the API.
//! Upstream: `k8s.io/client-go/tools/record/events_cache.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use knarr_core::clock::Env;
use knarr_core::{Value, ValueExt, json, time};

use super::EventKind;
use super::write::Write;

/// Events that an object may cause at once, and the seconds until it may cause one more.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_SECONDS: f64 = 300.0;
/// From this many different messages of one reason on they are combined, as long as they come within the interval.
const SIMILAR_MAX: usize = 10;
const SIMILAR_SECONDS: i64 = 600;
/// Entries in each memory; beyond them the oldest half is forgotten.
const MEMORY_MAX: usize = 4096;

/// An event as a component tells it.
pub struct Told {
    pub about: Arc<ObjectReference>,
    pub kind: EventKind,
    pub reason: String,
    pub message: String,
    pub annotations: Vec<(String, String)>,
}

type SourceKey = (String, EventKind);

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: BTreeSet<String>,
    at: Timestamp,
}

struct Written {
    name: String,
    first: Timestamp,
    count: i64,
}

/// A map that forgets its oldest entries.
struct Memory<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    uses: u64,
}

impl<K: Ord + Clone, V> Memory<K, V> {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), uses: 0 }
    }

    fn entry(&mut self, key: K, fresh: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.entries.len() >= MEMORY_MAX && !self.entries.contains_key(&key) {
            let mut ages: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            let (_, median, _) = ages.select_nth_unstable(MEMORY_MAX / 2);
            let median = *median;
            self.entries.retain(|_, (used, _)| *used > median);
        }
        let (used, value) = self.entries.entry(key).or_insert_with(|| (0, fresh()));
        *used = self.uses;
        value
    }
}

pub struct Correlator {
    component: String,
    host: String,
    env: Env,
    buckets: Memory<SourceKey, Bucket>,
    similar: Memory<(SourceKey, String), Similar>,
    written: Memory<(SourceKey, String, Option<String>), Option<Written>>,
}

impl Correlator {
    pub fn new(component: &str, host: &str, env: Env) -> Self {
        Self { component: component.into(), host: host.into(), env, buckets: Memory::new(), similar: Memory::new(), written: Memory::new() }
    }

    /// What to write for this event, if anything.
    pub fn take(&mut self, told: Told) -> Option<Write> {
        let now = self.env.now();
        let source = (object_key(&told.about), told.kind);
        let combined = self.is_one_too_many(&source, &told, now);
        if self.is_spam(&source, now) {
            return None;
        }
        let message = if combined { format!("(combined from similar events): {}", told.message) } else { told.message.clone() };
        let key = (source, told.reason.clone(), (!combined).then(|| told.message.clone()));
        let written = self.written.entry(key, || None);
        if let Some(known) = written {
            known.count += 1;
            let event = event(&self.component, &self.host, &told, &message, known, now);
            let patch = json!({"count": known.count, "lastTimestamp": time::format(now), "message": message});
            return Some(Write::Repeat { event, patch });
        }
        let name = format!("{}.{:x}", told.about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
        let name = if self.uses_up(&name) { format!("{name}{:x}", self.env.below(1 << 16)) } else { name };
        let fresh = Written { name, first: now, count: 1 };
        let event = event(&self.component, &self.host, &told, &message, &fresh, now);
        let key = ((object_key(&told.about), told.kind), told.reason.clone(), (!combined).then_some(told.message));
        *self.written.entry(key, || None) = Some(fresh);
        Some(Write::First(event))
    }

    /// Virtual clocks stand still, so two events may ask for one name.
    fn uses_up(&self, name: &str) -> bool {
        self.written.entries.values().any(|(_, w)| w.as_ref().is_some_and(|w| w.name == name))
    }

    fn is_one_too_many(&mut self, source: &SourceKey, told: &Told, now: Timestamp) -> bool {
        let similar = self.similar.entry((source.clone(), told.reason.clone()), || Similar { messages: BTreeSet::new(), at: now });
        if now.duration_since(similar.at).as_secs() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.at = now;
        similar.messages.insert(told.message.clone());
        if similar.messages.len() < SIMILAR_MAX {
            return false;
        }
        similar.messages.pop_first();
        true
    }

    fn is_spam(&mut self, source: &SourceKey, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(source.clone(), || Bucket { tokens: SPAM_BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed / SPAM_REFILL_SECONDS).min(SPAM_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return true;
        }
        bucket.tokens -= 1.0;
        false
    }
}

fn object_key(o: &ObjectReference) -> String {
    let part = |field: &Option<String>| field.clone().unwrap_or_default();
    [part(&o.kind), part(&o.namespace), part(&o.name), part(&o.uid), part(&o.api_version), part(&o.field_path)].join("\n")
}

fn event(component: &str, host: &str, told: &Told, message: &str, written: &Written, now: Timestamp) -> Value {
    let namespace = told.about.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let mut event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": written.name, "namespace": namespace},
        "involvedObject": &*told.about,
        "reason": told.reason, "message": message, "type": told.kind.as_str(),
        "source": {"component": component},
        "firstTimestamp": time::format(written.first), "lastTimestamp": time::format(now), "count": written.count,
        "reportingComponent": component, "reportingInstance": host,
    });
    if !host.is_empty() {
        event.set(&["source", "host"], host);
    }
    for (key, value) in &told.annotations {
        event.set(&["metadata", "annotations", key], value.as_str());
    }
    event
}
