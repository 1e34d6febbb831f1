//! What the API server's handlers call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use knarr_core::Object;
use knarr_core::clock::Env;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::cache::{Cache, Resource};
use crate::disk::FolderDisk;
use crate::engine::{Engine, Request};
use crate::guard::Guard;
use crate::history::{Limits, WINDOW};
use crate::item::Item;
use crate::log::backup;
use crate::passed::Passed;
use crate::watch::{WatchFilter, WatchFrom, Watcher};
use crate::world::{Snapshot, World};
use crate::{Error, ObjectKey, ResourceKey, Result, Write, housekeeping};
use knarr_schema::codec;

/// How many snapshots are kept for lists in pages, beyond what the history gives.
const KEPT_SNAPSHOTS_MAX: usize = 256;

/// The store of one server. See the crate.
pub struct Storage {
    engine: Arc<dyn Engine>,
    cache: Arc<Cache>,
    env: Env,
    kept: Mutex<VecDeque<Kept>>,
    passed: Mutex<Passed>,
}

/// A snapshot that somebody is paging through.
struct Kept {
    resource: usize,
    snapshot: Snapshot,
    until: Instant,
}

impl Storage {
    /// Starts the engine and loads everything it has. Call it inside a runtime: expiry runs there.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn open(engine: Arc<dyn Engine>, env: Env) -> Result<Arc<Self>> {
        Self::open_with(engine, env, Limits::default())
    }

    /// As [`Self::open`], with other limits of history.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn open_with(engine: Arc<dyn Engine>, env: Env, limits: Limits) -> Result<Arc<Self>> {
        let cache = Arc::new(Cache::new(limits));
        engine.start(cache.clone())?;
        let storage = Arc::new(Self { engine, cache: cache.clone(), env, kept: Mutex::default(), passed: Mutex::default() });
        let waking = tokio::spawn({
            let cache = cache.clone();
            async move { cache.run_wakes().await }
        });
        tokio::spawn(housekeeping::run(Arc::downgrade(&storage), cache, waking.abort_handle()));
        Ok(storage)
    }

    /// The revision of the last write that is durable and visible.
    pub fn current_revision(&self) -> u64 {
        self.cache.revision()
    }

    /// Why no write can succeed any more, if it is so.
    pub fn failure(&self) -> Option<String> {
        self.engine.failure()
    }

    /// Waits until no write can succeed any more, and tells why: then the server should stop and start anew.
    pub async fn failed(&self) -> String {
        let mut failures = self.cache.failures();
        match failures.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            // The sender lives in the cache, which we hold.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends the engine in good order: every write that was taken is answered, later ones are refused.
    pub fn stop(&self) {
        self.engine.stop();
    }

    /// Writes everything that is there now into an empty folder, from which [`crate::log::backup::restore`] makes a store.
    /// Gives the revision of the backup. Takes as long as the disk does: not for a thread that serves others.
    ///
    /// # Errors
    /// [`Error::Engine`] when the folder is not empty or cannot be written.
    pub fn backup(&self, folder: &std::path::Path) -> Result<u64> {
        let disk = FolderDisk::open(folder).map_err(|e| Error::Engine(e.to_string()))?;
        backup::save(&self.cache, &disk, self.engine.sealer(), self.env.clock.as_ref())
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        self.cache.resources().iter().map(|resource| self.cache.snapshot(resource).len()).sum()
    }

    /// The resource under this key, for its indexed field.
    pub fn resource(&self, key: &ResourceKey) -> Arc<Resource> {
        self.cache.resource(key)
    }

    /// The state of everything at one revision.
    pub fn world(&self) -> Arc<World> {
        self.cache.world()
    }

    /// Writes a new object, which disappears after `ttl` if there is one.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoSpace`], [`Error::Engine`].
    pub async fn create(&self, resource: &ResourceKey, key: &ObjectKey, bytes: Bytes, ttl: Option<Duration>) -> Result<Object> {
        self.write(resource, key, Write::Create { bytes, ttl }).await
    }

    /// Replaces an object that is at `expected`. Bytes that change nothing are not written: the object stays at its revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::NoSpace`], [`Error::Engine`].
    pub async fn update(&self, resource: &ResourceKey, key: &ObjectKey, bytes: Bytes, expected: u64, ttl: Option<Duration>) -> Result<Object> {
        self.write(resource, key, Write::Update { bytes, expected, ttl }).await
    }

    /// Deletes an object that is at `expected`. Gives its last state, at the deletion's revision.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Engine`].
    pub async fn delete(&self, resource: &ResourceKey, key: &ObjectKey, expected: u64) -> Result<Object> {
        self.write(resource, key, Write::Delete { expected }).await
    }

    /// Any of the three.
    ///
    /// # Errors
    /// As theirs.
    pub async fn write(&self, resource: &ResourceKey, key: &ObjectKey, write: Write) -> Result<Object> {
        self.write_guarded(resource, key, write, None).await
    }

    /// As [`Self::write`], if the guard was not moved.
    ///
    /// # Errors
    /// As theirs, and [`Error::Moved`].
    pub async fn write_guarded(&self, resource: &ResourceKey, key: &ObjectKey, write: Write, guard: Option<Guard>) -> Result<Object> {
        let (resource, path) = (self.cache.resource(resource), key.path());
        if let Write::Update { bytes, expected, .. } = &write
            && let Some(item) = self.cache.get(&resource, &path)
            && item.revision() == *expected
            && codec::with_resource_version(bytes, *expected).bytes == item.object().bytes
        {
            return Ok(item.object());
        }
        self.submit_guarded(&resource, &path, write, guard).await.map(|item| item.object())
    }

    /// Hands a write to the engine at once; the future waits for the answer.
    pub(crate) fn submit(&self, resource: &Arc<Resource>, path: &str, write: Write) -> impl Future<Output = Result<Arc<Item>>> + use<> {
        self.submit_guarded(resource, path, write, None)
    }

    fn submit_guarded(&self, resource: &Arc<Resource>, path: &str, write: Write, guard: Option<Guard>) -> impl Future<Output = Result<Arc<Item>>> + use<> {
        let (reply, answer) = oneshot::channel();
        self.engine.submit(Request { resource: resource.clone(), path: path.to_owned(), write, guard, reply });
        async { answer.await.unwrap_or_else(|_| Err(Error::Engine("the store was closed".into()))) }
    }

    /// Reads one object, not older than `min_revision` (0 for whatever is there).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::TooLarge`] when the revision does not come in time.
    pub async fn get(&self, resource: &ResourceKey, key: &ObjectKey, min_revision: u64) -> Result<Arc<Item>> {
        self.wait_for_revision(min_revision, FRESH_TIMEOUT).await?;
        self.get_now(resource, key).ok_or(Error::NotFound)
    }

    /// The object as it is now.
    pub fn get_now(&self, resource: &ResourceKey, key: &ObjectKey) -> Option<Arc<Item>> {
        self.cache.get(&self.cache.resource(resource), &key.path())
    }

    /// All objects of a resource as they are now.
    pub fn snapshot(&self, resource: &ResourceKey) -> Snapshot {
        self.cache.snapshot(&self.cache.resource(resource))
    }

    /// All objects of a resource at an earlier revision: one that was kept, or one that can be made of the history.
    ///
    /// # Errors
    /// [`Error::TooOld`] when neither is there any more, or the revision had been replaced [`WINDOW`] ago; [`Error::TooLarge`] when the revision has not come yet.
    pub fn snapshot_at(&self, resource: &ResourceKey, revision: u64) -> Result<Snapshot> {
        let resource = self.cache.resource(resource);
        let kept = self.kept.lock().iter().find(|k| k.resource == resource.id && k.snapshot.revision() == revision).map(|k| k.snapshot.clone());
        match kept {
            Some(snapshot) => Ok(snapshot),
            None => {
                let oldest = self.passed.lock().begin(Instant::now(), WINDOW);
                if revision < oldest {
                    return Err(Error::TooOld { asked: revision, oldest });
                }
                self.cache.snapshot_at(&resource, revision)
            }
        }
    }

    /// As [`Self::snapshot_at`]; what is no longer here is read where it still may be.
    ///
    /// # Errors
    /// As [`Self::snapshot_at`], and [`Error::Engine`] when it cannot be read.
    pub async fn past(&self, resource: &ResourceKey, revision: u64) -> Result<Snapshot> {
        let gone = match self.snapshot_at(resource, revision) {
            Err(error @ Error::TooOld { .. }) => error,
            other => return other,
        };
        let Some(read) = self.engine.past(self.cache.resource(resource), revision) else { return Err(gone) };
        let snapshot = read.await?;
        // For the pages after this one.
        self.keep_snapshot(resource, &snapshot);
        Ok(snapshot)
    }

    /// Where others write into the same store, too: the revision of a guard's last change. Everything that was written up to then is
    /// visible afterwards.
    ///
    /// # Errors
    /// [`Error::Engine`] when nobody can tell, [`Error::TooLarge`] when it does not become visible in time.
    pub async fn guard(&self, name: &'static str) -> Result<Option<u64>> {
        let Some(read) = self.engine.guard(name) else { return Ok(None) };
        let (changed, revision) = read.await?;
        self.wait_for_revision(revision, FRESH_TIMEOUT).await?;
        Ok(Some(changed))
    }

    /// Notes the current revision, so that it is known later when it was replaced.
    pub(crate) fn note_revision(&self, now: Instant) {
        self.passed.lock().note(now, self.current_revision(), WINDOW);
    }

    /// Keeps a snapshot for the pages that will follow, about as long as history is kept. Call it when a list is cut.
    pub fn keep_snapshot(&self, resource: &ResourceKey, snapshot: &Snapshot) {
        let resource = self.cache.resource(resource).id;
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_SNAPSHOTS_MAX {
            kept.pop_front();
        }
        if kept.is_empty() {
            self.cache.aging.notify_one();
        }
        if !kept.iter().any(|k| k.resource == resource && k.snapshot.revision() == snapshot.revision()) {
            kept.push_back(Kept { resource, snapshot: snapshot.clone(), until: Instant::now() + WINDOW });
        }
    }

    /// Forgets snapshots that were kept long enough. Gives the time when this is due again.
    pub(crate) fn trim_kept(&self, now: Instant) -> Option<Instant> {
        let mut kept = self.kept.lock();
        while kept.front().is_some_and(|k| k.until <= now) {
            kept.pop_front();
        }
        kept.front().map(|k| k.until)
    }

    /// Whether other servers write into the same store.
    pub fn is_shared(&self) -> bool {
        self.engine.is_shared()
    }

    /// Waits until everything is visible that any server had acknowledged before the call. Where this process alone writes, that
    /// is so at any time.
    ///
    /// # Errors
    /// [`Error::Engine`] when nobody can tell, [`Error::TooLarge`] when it does not come in time.
    pub async fn settle(&self) -> Result<()> {
        let Some(newest) = self.engine.newest() else { return Ok(()) };
        self.wait_for_revision(newest.await?, FRESH_TIMEOUT).await
    }

    /// Waits until everything up to a revision is visible.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it is not in time.
    pub async fn wait_for_revision(&self, revision: u64, patience: Duration) -> Result<()> {
        if self.current_revision() >= revision {
            return Ok(());
        }
        let mut revisions = self.cache.revisions();
        let come = async {
            // An engine that follows another process may have to ask it how far it is.
            while timeout(HURRY, revisions.wait_for(|r| *r >= revision)).await.is_err() {
                self.engine.hurry();
            }
        };
        timeout(patience, come).await.map_err(|_| Error::TooLarge { asked: revision, current: self.current_revision() })
    }

    /// Watches a resource.
    ///
    /// # Errors
    /// [`Error::TooOld`] when the history does not reach back so far.
    pub fn watch(&self, resource: &ResourceKey, from: WatchFrom, filter: WatchFilter) -> Result<Watcher> {
        Watcher::new(self.cache.clone(), self.cache.resource(resource), from, filter)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.env.now().as_millisecond()).unwrap_or(0)
    }

    /// When the wall clock will say this, if nobody sets it.
    pub(crate) fn instant_of(&self, at_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(at_ms.saturating_sub(self.now_ms()))
    }
}

/// How long a revision may be on its way before the engine is told that somebody waits for it.
const HURRY: Duration = Duration::from_millis(5);

/// How long a read waits for a revision that has not come yet (upstream: `blockTimeout`).
pub const FRESH_TIMEOUT: Duration = Duration::from_secs(3);

impl Drop for Storage {
    fn drop(&mut self) {
        self.engine.stop();
        // Wakes the housekeeper, which then sees that we are gone.
        self.cache.aging.notify_one();
    }
}
