//! Follows the objects: what they say is used at once, their conditions are told, and what is gone of the defaults is made again
//! a minute later (upstream: `configController`, `bootstrapConfigurationEnsurer`).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use knarr_core::{
    GroupVersionResource, Value, ValueExt,
    api::{PatchType, Request, Transport, Verb},
    json, time,
};
use knarr_store::{ResourceKey, WatchFilter, WatchFrom, Watcher};
use tokio::time::{Instant, sleep_until};

use super::{
    FlowControl,
    ensure::{self, GROUP, LEVELS, SCHEMAS},
    schema::{LevelSpec, SchemaSpec},
};
use crate::{
    authn::{MASTERS, User},
    server::{Inner, Server},
};

/// How often seats are borrowed anew (upstream: `borrowingAdjustmentPeriod`).
const ADJUST_EVERY: Duration = Duration::from_secs(10);
/// How long a default object may be gone (upstream: the period of the ensurer).
const RESTORE_AFTER: Duration = Duration::from_secs(60);
/// A schema's condition is not written more often than this within a minute: somebody else might see it otherwise.
const WRITES_MAX: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// Starts following. Needs a running tokio runtime.
pub fn start(server: &Server) {
    let inner = &server.inner;
    let (weak, stop) = (Arc::downgrade(inner), inner.shutdown.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(weak) => {}
        }
    });
}

struct Watches {
    levels: Watcher,
    schemas: Watcher,
}

impl Watches {
    fn new(inner: &Inner) -> knarr_store::Result<Self> {
        let watch = |resource: &str| inner.storage.watch(&ResourceKey::new(GROUP, resource), WatchFrom::Now, WatchFilter::default());
        Ok(Self { levels: watch(LEVELS)?, schemas: watch(SCHEMAS)? })
    }
}

async fn run(weak: Weak<Inner>) {
    let Some(inner) = weak.upgrade() else { return };
    let Ok(mut watches) = Watches::new(&inner) else { return };
    let flow = inner.flow.clone();
    drop(inner);
    let mut adjust = tokio::time::interval(ADJUST_EVERY);
    adjust.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut follower = Follower::default();
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let later = follower.look(&Server { inner }).await;
        let timer = async {
            match later {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timer);
        // Adjustments do not need the objects.
        let happened = loop {
            tokio::select! {
                item = watches.levels.next() => break item.map(drop),
                item = watches.schemas.next() => break item.map(drop),
                () = flow.shared.again.notified() => break Ok(()),
                () = &mut timer => break Ok(()),
                _ = adjust.tick() => flow.adjust(),
            }
        };
        if let Err(error) = happened {
            tracing::warn!(%error, "the watches of flow control start anew");
            let Some(Ok(anew)) = weak.upgrade().map(|inner| Watches::new(&inner)) else { return };
            watches = anew;
        }
    }
}

impl FlowControl {
    fn adjust(&self) {
        let fair = self.config.load().adjust(self.shared.nanos(Instant::now()));
        self.fair.store(fair.to_bits(), Relaxed);
    }

    /// Uses these objects from now on. A level that cannot be used does not count as one.
    fn use_objects(&self, levels: &[Value], schemas: &[Value]) {
        let level = |object: &Value| {
            let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
            LevelSpec::new(object).inspect_err(|why| tracing::warn!(name, why, "a priority level cannot be used")).ok()
        };
        let levels = levels.iter().filter_map(level).collect();
        let schemas = schemas.iter().map(SchemaSpec::new).collect();
        let next = self.config.load().next(levels, schemas, self.seats, self.shared.nanos(Instant::now()), &self.counts);
        self.config.store(Arc::new(next));
    }
}

/// What is remembered from look to look.
#[derive(Default)]
struct Follower {
    /// When conditions of which schemas were written.
    written: HashMap<String, VecDeque<Instant>>,
    /// When the default objects are to be made again.
    restore_at: Option<Instant>,
    last: Option<(Vec<Value>, Vec<Value>)>,
}

impl Follower {
    /// Brings everything in line with the objects. Gives the time at which to look again without a reason.
    async fn look(&mut self, server: &Server) -> Option<Instant> {
        let inner = &server.inner;
        let (levels, schemas) = (objects(inner, LEVELS), objects(inner, SCHEMAS));
        let specs = (levels.iter().map(spec).collect(), schemas.iter().map(spec).collect());
        let leaving = inner.flow.config.load().levels.values().any(|l| l.room.quiescing.load(Relaxed));
        if leaving || self.last.as_ref() != Some(&specs) {
            inner.flow.use_objects(&levels, &schemas);
            self.last = Some(specs);
        }
        let own: Arc<dyn Transport> = Arc::new(server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:apiserver") }));
        let again = self.tell(server, &own, &schemas).await;
        if inner.flow.keeps.load(Relaxed) {
            let stored: Vec<Value> = levels.into_iter().chain(schemas).collect();
            self.restore(&own, &stored).await;
        }
        [again, self.restore_at].into_iter().flatten().min()
    }

    /// Writes the conditions that are not as they should be. Gives a time when some were left for later.
    async fn tell(&mut self, server: &Server, own: &Arc<dyn Transport>, schemas: &[Value]) -> Option<Instant> {
        let config = server.inner.flow.config.load_full();
        let now = Instant::now();
        let mut later = None;
        for schema in schemas {
            let Some((name, condition)) = condition_due(schema, |level| config.has_level(level)) else { continue };
            let writes = self.written.entry(name.to_owned()).or_default();
            while writes.front().is_some_and(|at| now - *at > MINUTE) {
                writes.pop_front();
            }
            if writes.len() >= WRITES_MAX {
                later = Some(now + MINUTE);
                continue;
            }
            writes.push_back(now);
            let mut condition = condition;
            condition.set(&["lastTransitionTime"], time::format(server.inner.env.now()));
            if let Err(status) = own.call(apply_status(name, &condition)).await
                && !status.is_not_found()
            {
                tracing::warn!(name, error = %status, "the condition of a FlowSchema could not be written");
                later = Some(now + MINUTE);
            }
        }
        later
    }

    /// Makes the default objects again when it is time; else sets that time.
    async fn restore(&mut self, own: &Arc<dyn Transport>, stored: &[Value]) {
        let plan = ensure::plan(stored, &ensure::defaults());
        if plan.is_empty() {
            self.restore_at = None;
            return;
        }
        let now = Instant::now();
        if *self.restore_at.get_or_insert(now + RESTORE_AFTER) > now {
            return;
        }
        self.restore_at = None;
        if let Err(error) = ensure::apply(own, plan).await {
            tracing::warn!(%error, "the default objects of flow control could not be brought up to date");
            self.restore_at = Some(now + RESTORE_AFTER);
        }
    }
}

/// What a change of an object must touch to matter: its name, its uid, its spec.
fn spec(object: &Value) -> Value {
    let part = |path: &[&str]| object.at(path).cloned().unwrap_or_default();
    json!([part(&["metadata", "name"]), part(&["metadata", "uid"]), part(&["spec"])])
}

fn objects(inner: &Inner, resource: &str) -> Vec<Value> {
    let catalog = inner.catalog.load_full();
    let Ok(served) = catalog.need(GROUP, resource) else { return Vec::new() };
    let snapshot = inner.storage.snapshot(&ResourceKey::new(GROUP, resource));
    snapshot.iter(None, None).filter_map(|item| served.load(&item.object()).ok()).collect()
}

/// The name of a schema and its condition, when that should be otherwise (upstream: `presyncFlowSchemaStatus`).
fn condition_due(schema: &Value, has_level: impl Fn(&str) -> bool) -> Option<(&str, Value)> {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]).unwrap_or_default();
    let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {}", knarr_core::field::go_quote(level));
    let (status, reason, message) = match has_level(level) {
        true => ("False", "Found", format!("{about} and it exists")),
        false => ("True", "NotFound", format!("{about} but there is no such object")),
    };
    let told = schema.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
    if told.is_some_and(|c| c["status"] == status && c["reason"] == reason && c["message"] == message.as_str()) {
        return None;
    }
    let name = schema.str_at(&["metadata", "name"])?;
    Some((name, json!({"type": "Dangling", "status": status, "reason": reason, "message": message})))
}

fn apply_status(name: &str, condition: &Value) -> Request {
    let mut request = Request::new(Verb::Patch(PatchType::Apply), GroupVersionResource::new(GROUP, "v1", SCHEMAS));
    request.name = Some(name.to_owned());
    request.subresource = Some("status".into());
    request.options.field_manager = Some(MANAGER.into());
    request.options.force = Some(true);
    request.body = Some(json!({"apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": name}, "status": {"conditions": [condition]}}));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_without_its_level_dangles() {
        let mut schema = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let (name, missing) = condition_due(&schema, |_| false).unwrap();
        assert_eq!((name, &missing["status"], &missing["reason"]), ("s", &json!("True"), &json!("NotFound")));
        schema.set(&["status", "conditions"], json!([missing]));
        assert_eq!(condition_due(&schema, |_| false), None);
        let (_, found) = condition_due(&schema, |level| level == "l").unwrap();
        assert_eq!(found["message"], "This FlowSchema references the PriorityLevelConfiguration object named \"l\" and it exists");
        schema.set(&["status", "conditions"], json!([found]));
        assert_eq!(condition_due(&schema, |_| true), None);
    }
}
