//! Commits groups of writes, and keeps the log short.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use knarr_core::clock::Clock;
use parking_lot::Mutex;

use super::files::{BALLAST, Files, UNFINISHED};
use super::journal::{AppendError, Journal, of_write};
use super::record::Records;
use super::recover::{is_young, recover};
use super::state::{self, Source};
use super::{Options, Shared, TIDY_PAUSE};
use crate::cache::Cache;
use crate::disk::Disk;
use crate::engine::Request;
use crate::sequence::{Batch, decide};
use crate::{Error, Write};

/// See the module.
pub struct Committer {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: Options,
    shared: Arc<Shared>,
    cache: Arc<Cache>,
    records: Records,
    journal: Journal,
    files: Files,
    /// The size of the newest snapshot, and when it was made.
    state_bytes: u64,
    state_ms: u64,
    snapshot: Option<Snapshotting>,
    is_full: bool,
    /// After a snapshot that could not be written: when to try again.
    retry_ms: u64,
    cleaner: Option<JoinHandle<()>>,
}

/// A commit that takes longer is not done in a writer's own thread again until one is faster.
const FAST: Duration = Duration::from_millis(1);

/// How long after a snapshot that failed the next is tried.
const RETRY: Duration = Duration::from_secs(2);

/// What became of a snapshot: its size, or nothing when it was told to stop.
type Written = std::io::Result<Option<u64>>;

/// A snapshot on its way.
struct Snapshotting {
    revision: u64,
    time_ms: u64,
    result: Arc<Mutex<Option<Written>>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: Options,
        records: Records,
        shared: Arc<Shared>,
        cache: Arc<Cache>,
    ) -> Result<Self, String> {
        let now_ms = now_ms(clock.as_ref());
        let recovered = recover(disk.as_ref(), &cache, &records, now_ms)?;
        let mut files = recovered.files;
        let journal = match &recovered.tail {
            Some(tail) => Journal::resume(disk.clone(), tail, options.space, records.clone()).map_err(AppendError::Failed),
            None => {
                files.logs.push(recovered.revision + 1);
                Journal::create(disk.clone(), recovered.revision + 1, now_ms, options.space, records.clone())
            }
        };
        let journal = journal.map_err(|error| match error {
            AppendError::NoSpace => "no space left on device".to_owned(),
            AppendError::Failed(error) => error.to_string(),
        })?;
        if !files.has_ballast {
            files.has_ballast = fill_ballast(disk.as_ref(), options.space.ballast).is_ok();
        }
        let state_ms = if files.states.len() > 1 { now_ms } else { 0 };
        Ok(Self {
            disk,
            clock,
            options,
            shared,
            cache,
            records,
            journal,
            files,
            state_bytes: recovered.state_bytes,
            state_ms,
            snapshot: None,
            is_full: false,
            retry_ms: 0,
            cleaner: None,
        })
    }

    /// Decides on writes, makes them durable in one go, shows and answers them.
    pub fn commit(&mut self, requests: Vec<Request>) {
        if let Some(failure) = self.shared.failure.get() {
            requests.into_iter().for_each(|r| refuse(r, &Error::Engine(failure.clone())));
            return;
        }
        let start = Instant::now();
        self.leave_full();
        let requests = self.admit(requests);
        let batch = decide(&self.cache, self.clock.as_ref(), requests);
        match self.journal.append(&batch.changes, now_ms(self.clock.as_ref()), self.is_full) {
            Ok(()) => batch.publish(&self.cache),
            Err(AppendError::NoSpace) => self.run_full(batch),
            Err(AppendError::Failed(error)) => self.fail(batch, &error),
        }
        self.keep_short();
        self.shared.is_fast.store(start.elapsed() < FAST, SeqCst);
    }

    /// While the disk is full, only deletions go through.
    fn admit(&self, requests: Vec<Request>) -> Vec<Request> {
        if !self.is_full {
            return requests;
        }
        let (deletions, others): (Vec<_>, Vec<_>) = requests.into_iter().partition(|r| matches!(r.write, Write::Delete { .. }));
        others.into_iter().for_each(|r| refuse(r, &Error::NoSpace));
        deletions
    }

    fn run_full(&mut self, batch: Batch) {
        if !self.is_full {
            tracing::error!("the disk of the store is full: only deletions go through");
        }
        self.is_full = true;
        self.retry_ms = 0;
        batch.fail(&Error::NoSpace);
    }

    /// The disk is no longer full when what was given up can be had back.
    fn leave_full(&mut self) {
        if !self.is_full || now_ms(self.clock.as_ref()) < self.retry_ms {
            return;
        }
        self.files.has_ballast = self.files.has_ballast || fill_ballast(self.disk.as_ref(), self.options.space.ballast).is_ok();
        self.is_full = !self.files.has_ballast;
        if !self.is_full {
            tracing::info!("the disk of the store has space again");
        }
    }

    fn fail(&mut self, batch: Batch, error: &std::io::Error) {
        let failure = format!("the log cannot be written any more: {error}");
        tracing::error!(%error, "the store has failed: no write will be acknowledged until it is opened anew");
        batch.fail(&Error::Engine(failure.clone()));
        self.cache.report_failure(failure.clone());
        self.shared.failure.get_or_init(|| failure);
    }

    /// Starts a snapshot when the log has grown enough, and ends one that is written.
    fn keep_short(&mut self) {
        self.end_snapshot();
        let is_long = self.journal.len() >= self.options.log_bytes_max.max(self.state_bytes);
        let is_due = (is_long || self.is_full) && now_ms(self.clock.as_ref()) >= self.retry_ms;
        if is_due && self.snapshot.is_none() && self.shared.failure.get().is_none() {
            self.start_snapshot();
        }
    }

    fn start_snapshot(&mut self) {
        let (revision, time_ms) = (self.cache.revision(), now_ms(self.clock.as_ref()));
        if self.is_full {
            self.make_room();
        }
        // Also while the disk is full: what is deleted makes room only by a new snapshot.
        self.retry_ms = time_ms + RETRY.as_millis() as u64;
        if !self.journal.is_empty() {
            match self.journal.roll(revision + 1, time_ms) {
                Ok(()) => self.files.logs.push(revision + 1),
                Err(AppendError::NoSpace) => return,
                Err(AppendError::Failed(error)) => return self.fail(Batch::default(), &error),
            }
        }
        let resources = self.cache.resources().into_iter().map(|r| (r.clone(), r.history.lock().last())).collect();
        let source = Source { world: self.cache.world(), resources, time_ms };
        let result = Arc::new(Mutex::new(None));
        let (disk, records, shared, slot) = (self.disk.clone(), self.records.clone(), self.shared.clone(), result.clone());
        let write = move || {
            let written = state::write(disk.as_ref(), &source, &records, &shared.stopping);
            *slot.lock() = Some(written);
        };
        let thread = if self.options.threads {
            std::thread::Builder::new().name("store-snapshot".into()).spawn(write).ok()
        } else {
            write();
            None
        };
        self.snapshot = Some(Snapshotting { revision, time_ms, result, thread });
        self.end_snapshot();
    }

    fn end_snapshot(&mut self) {
        let Some(running) = &self.snapshot else { return };
        let Some(result) = running.result.lock().take() else { return };
        let (revision, time_ms) = (running.revision, running.time_ms);
        self.snapshot = None;
        match result {
            Ok(Some(bytes)) => {
                let before = self.files.states.last().copied();
                self.files.states.push(revision);
                (self.state_bytes, self.state_ms, self.retry_ms) = (bytes, time_ms, 0);
                // The one before stays as long as somebody may resume from the writes after it.
                self.forget_before(if self.is_full { Some(revision) } else { before });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "a snapshot of the store could not be written; the log goes on");
                self.retry_ms = now_ms(self.clock.as_ref()) + RETRY.as_millis() as u64;
                if matches!(of_write(error), AppendError::NoSpace) {
                    self.disk.remove(UNFINISHED).unwrap_or_else(|error| tracing::warn!(%error, "an unfinished snapshot could not be removed"));
                }
            }
        }
    }

    /// Removes what is not needed to start from this snapshot. Large files take long to remove: a thread does it.
    fn forget_before(&mut self, base: Option<u64>) {
        let garbage = self.files.forget_before(base.unwrap_or(0));
        if garbage.is_empty() {
            return;
        }
        self.join_cleaner();
        let disk = self.disk.clone();
        let clean = move || {
            if let Err(error) = garbage.remove(disk.as_ref()) {
                tracing::warn!(%error, "old files of the store could not be removed");
            }
        };
        if self.options.threads && !self.is_full {
            self.cleaner = std::thread::Builder::new().name("store-cleaner".into()).spawn(clean).ok();
        } else {
            clean();
        }
    }

    /// Gives up, while the disk is full, what is not needed to go on.
    fn make_room(&mut self) {
        self.forget_before(self.files.states.last().copied());
        if self.files.has_ballast {
            self.files.has_ballast = self.disk.remove(BALLAST).is_err();
        }
    }

    fn join_cleaner(&mut self) {
        if self.cleaner.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that removes old files has panicked");
        }
    }

    /// Removes what nobody can resume from any more. Gives the time after which there may be something again.
    pub fn tidy(&mut self) -> Option<Duration> {
        self.end_snapshot();
        if self.files.states.len() > 1 && !is_young(self.state_ms, now_ms(self.clock.as_ref())) {
            self.forget_before(self.files.states.last().copied());
        }
        (self.files.states.len() > 1 || self.snapshot.is_some()).then_some(TIDY_PAUSE)
    }

    /// Waits for a snapshot on its way, which has been told to stop.
    pub fn close(&mut self) {
        if let Some(thread) = self.snapshot.take().and_then(|s| s.thread)
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes snapshots has panicked");
        }
        self.join_cleaner();
    }
}

/// Takes space. Not synced: what of it is not there after a power cut is not missed.
fn fill_ballast(disk: &dyn Disk, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let written = disk.create(BALLAST).and_then(|file| file.write_at(&zeros, 0));
    written.or_else(|error| disk.remove(BALLAST).and(Err(error)))
}

fn refuse(request: Request, error: &Error) {
    // A writer that has gone away does not want to know.
    request.reply.send(Err(error.clone())).ok();
}

fn now_ms(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().as_millisecond()).unwrap_or(0)
}
