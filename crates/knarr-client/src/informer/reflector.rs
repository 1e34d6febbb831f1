//! The list-and-watch machine: follows a resource for ever and hands what it learns to a [`Sink`].
//!
//! ```text
//! start ──watch with sendInitialEvents──► collecting ──bookmark──► replace, then following
//!   └─(the server refuses)─► list ──► replace, then following
//! following: each event or bookmark moves the resource version
//!   closed by the server → watch again from there       410 → start       other error → back off, watch again
//! ```
//!
//! Upstream: `k8s.io/client-go/tools/cache/reflector.go`.

use std::time::Duration;

use futures::StreamExt;
use knarr_core::api::{EventType, Options, Watch};
use knarr_core::clock::Env;
use knarr_core::{Object, Reason, Result};
use tokio::time::Instant;

use super::Query;
use crate::client::{Client, DynamicApi};

/// First pause after a failure.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
/// Longest pause after a failure (upstream: 30 s).
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A watch that lived this long ends the backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// How long one watch may last: a random time between this and twice this, so that servers see no herd.
const WATCH_TIMEOUT: Duration = Duration::from_secs(300);
/// Objects in one page of a list.
const PAGE: i64 = 5000;

/// Takes in what a reflector learns, in order.
pub trait Sink: Send + 'static {
    /// The whole content at one resource version.
    fn replace(&mut self, objects: Vec<Object>, resource_version: u64);

    /// One change, or a bookmark (whose object has nothing but a resource version).
    ///
    /// # Errors
    /// The event makes no sense; the reflector starts anew from a list.
    fn event(&mut self, event_type: EventType, object: Object) -> Result<()>;
}

/// Follows one query.
pub struct Reflector {
    api: DynamicApi,
    query: Query,
    env: Env,
    /// Where to resume; none: start from a list.
    version: Option<u64>,
    watch_list: bool,
}

impl Reflector {
    pub fn new(client: Client, query: Query, env: Env) -> Self {
        let api = client.dynamic(query.resource.clone(), query.namespace.as_deref());
        Self { api, query, env, version: None, watch_list: true }
    }

    /// Runs for ever. Dropping the future ends it.
    pub async fn run(mut self, mut sink: impl Sink) {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let result = self.session(&mut sink).await;
            if began.elapsed() >= HEALTHY_AFTER {
                failures = 0;
            }
            match result {
                // A server that closes watches at once is not to be asked in a tight loop either.
                Ok(()) if began.elapsed() >= BACKOFF_BASE => failures = 0,
                Ok(()) => failures += 1,
                Err(error) if error.is_expired() => {
                    tracing::debug!(resource = %self.query.resource, %error, "the watch fell behind, listing again");
                    self.version = None;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(resource = %self.query.resource, %error, failures, "list or watch failed");
                }
            }
            if failures > 0 {
                tokio::time::sleep(self.pause(failures)).await;
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let longest = BACKOFF_BASE.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
        let spread = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX).max(1);
        longest + Duration::from_millis(self.env.below(spread))
    }

    /// One watch, from its start to its end; before it, a list where there is nothing to resume from.
    async fn session(&mut self, sink: &mut impl Sink) -> Result<()> {
        if self.version.is_none() && self.watch_list {
            match self.start_by_watch(sink).await {
                Ok(watch) => return self.follow(watch, sink).await,
                Err(error) if matches!(error.reason, Reason::Invalid | Reason::BadRequest | Reason::MethodNotAllowed) => self.watch_list = false,
                Err(error) => return Err(error),
            }
        }
        let version = match self.version {
            Some(version) => version,
            None => self.start_by_list(sink).await?,
        };
        let watch = self.api.watch(&Options { resource_version: Some(version.to_string()), ..self.watch_options() }).await?;
        self.follow(watch, sink).await
    }

    fn watch_options(&self) -> Options {
        let timeout = WATCH_TIMEOUT + Duration::from_secs(self.env.below(WATCH_TIMEOUT.as_secs()));
        Options { allow_watch_bookmarks: true, timeout: Some(timeout), ..self.query.options() }
    }

    /// Gets the first state as events and gives the watch that goes on after them.
    async fn start_by_watch(&mut self, sink: &mut impl Sink) -> Result<Watch> {
        let options = Options { send_initial_events: Some(true), resource_version_match: Some("NotOlderThan".into()), ..self.watch_options() };
        let mut watch = self.api.watch(&options).await?;
        let mut objects = Vec::new();
        while let Some(event) = watch.next().await {
            let event = event?;
            match event.event_type {
                EventType::Bookmark if event.initial_events_end => {
                    self.take_all(objects, event.object.resource_version, sink);
                    return Ok(watch);
                }
                EventType::Added | EventType::Modified => objects.push(event.object),
                EventType::Bookmark => {}
                // Changes during the first state: the key order of the store sorts it out.
                EventType::Deleted => {
                    let key = crate::read::key(&event.object);
                    objects.retain(|o| crate::read::key(o) != key);
                }
            }
        }
        Err(knarr_core::Status::service_unavailable("the watch ended before its first state was complete"))
    }

    async fn start_by_list(&mut self, sink: &mut impl Sink) -> Result<u64> {
        let mut options = Options { limit: Some(PAGE), ..self.query.options() };
        let mut objects = Vec::new();
        loop {
            let page = self.api.list(&options).await?;
            objects.extend(page.items);
            if page.continue_token.is_empty() {
                self.take_all(objects, page.resource_version, sink);
                return Ok(page.resource_version);
            }
            options.continue_token = Some(page.continue_token);
        }
    }

    fn take_all(&mut self, objects: Vec<Object>, version: u64, sink: &mut impl Sink) {
        sink.replace(objects, version);
        self.version = Some(version);
    }

    async fn follow(&mut self, mut watch: Watch, sink: &mut impl Sink) -> Result<()> {
        while let Some(event) = watch.next().await {
            let event = event?;
            let version = event.object.resource_version;
            if let Err(error) = sink.event(event.event_type, event.object) {
                self.version = None;
                return Err(error);
            }
            self.version = self.version.max(Some(version));
        }
        Ok(())
    }
}
