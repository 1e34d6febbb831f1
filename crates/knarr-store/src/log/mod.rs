//! The engine of one machine: an append-only log with snapshots.
//!
//! ```text
//! state-0000000000000400   everything at revision 1024
//! log-0000000000000401     the writes after it, one frame a group of writes
//! ballast                  nothing: given up when the disk is full
//! ```
//!
//! Why not redb or another B-tree: all current state is in the cache anyway, so the disk is only ever read at start, and in
//! order. A log then is the simplest thing that is safe. It costs one sync for any number of waiting writes (0.1 ms, six
//! times the rate of redb), stores 100,000 objects in their own size instead of a page for each, and recovery is one pass
//! over checksummed frames. What is given up: state must fit in memory, which the cache asks for in any case.
//!
//! - Writes wait for each other: while one group is being synced, the next gathers. While writes are rare and
//!   the disk is fast, a write is committed where it comes from, which saves two changes of threads (0.12 ms instead of 0.16).
//! - When the log has grown as large as the state, a thread writes a snapshot while writers go on in a new log file; then what
//!   came before is removed. The disk never holds more than a few times the state.
//! - After a failed sync nothing is known of the file: no write is acknowledged any more, and [`LogEngine::failure`] says why.
//! - A full disk refuses writes but takes deletions, from a reserve, and goes on when there is space.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use knarr_core::clock::Clock;
use parking_lot::{Condvar, Mutex};

use crate::cache::Cache;
use crate::disk::{Disk, FolderDisk};
use crate::engine::{Engine, Request};
use crate::seal::Sealer;
use crate::{Error, Result};

pub mod backup;
mod committer;
mod files;
mod frame;
mod journal;
mod record;
mod recover;
mod state;
#[cfg(test)]
mod tests;

use committer::Committer;
pub use journal::Space;
use record::Records;

/// How a log is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A log file that is longer than this, and than the last snapshot, is replaced by a snapshot.
    pub log_bytes_max: u64,
    pub space: Space,
    /// Without threads, writes wait until [`LogEngine::flush`], and snapshots are written there. For tests that must be the
    /// same each time.
    pub threads: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_bytes_max: 32 << 20, space: Space::default(), threads: true }
    }
}

/// See the module.
pub struct LogEngine {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: Options,
    records: Records,
    shared: Arc<Shared>,
    committer: Arc<OnceLock<Mutex<Committer>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writers and the writing thread share.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    failure: OnceLock<String>,
    stopping: AtomicBool,
    /// Whether the last commit took no longer than a writer may be held up.
    is_fast: AtomicBool,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    is_closed: bool,
    /// When the last writes came.
    arrivals: VecDeque<Instant>,
}

/// While this many writes took longer than [`CALM_TIME`] to come, there is nothing to group them with.
const CALM_WRITES: usize = 8;
const CALM_TIME: Duration = Duration::from_micros(1600);

impl Queue {
    /// Notes that a write has come. True when writes come so slowly that grouping them gains nothing.
    fn note_arrival(&mut self) -> bool {
        let now = Instant::now();
        self.arrivals.push_back(now);
        if self.arrivals.len() <= CALM_WRITES {
            return true;
        }
        self.arrivals.pop_front().is_some_and(|first| now - first > CALM_TIME)
    }
}

impl LogEngine {
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: Options) -> Self {
        Self { disk, clock, options, records: Records::default(), shared: Arc::default(), committer: Arc::default(), writer: Mutex::default() }
    }

    /// The store in a folder of this machine, which is made if it is not there and locked until the engine is dropped.
    ///
    /// # Errors
    /// `… is locked by another process`, or what the system says.
    pub fn at(folder: impl AsRef<std::path::Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let disk = FolderDisk::open(folder).map_err(|e| Error::Engine(e.to_string()))?;
        Ok(Self::new(Arc::new(disk), clock, Options::default()))
    }

    /// The same engine, which seals some objects.
    #[must_use]
    pub fn with_sealer(mut self, sealer: Arc<dyn Sealer>) -> Self {
        self.records.sealer = Some(sealer);
        self
    }

    /// Commits everything that waits. Only without threads.
    pub fn flush(&self) {
        let requests = std::mem::take(&mut self.shared.queue.lock().requests);
        if let Some(committer) = self.committer.get() {
            committer.lock().commit(requests);
        }
    }

    fn run(shared: &Shared, committer: &Mutex<Committer>) {
        while let Some(requests) = shared.next_requests(committer) {
            committer.lock().commit(requests);
        }
    }
}

impl Shared {
    /// Waits for requests. `None` when there will be no more.
    fn next_requests(&self, committer: &Mutex<Committer>) -> Option<Vec<Request>> {
        loop {
            let mut queue = self.queue.lock();
            if !queue.requests.is_empty() {
                return Some(std::mem::take(&mut queue.requests));
            }
            if queue.is_closed {
                return None;
            }
            drop(queue);
            let pause = committer.lock().tidy();
            let mut queue = self.queue.lock();
            if queue.requests.is_empty() && !queue.is_closed {
                match pause {
                    None => self.ready.wait(&mut queue),
                    Some(pause) => drop(self.ready.wait_for(&mut queue, pause)),
                }
            }
        }
    }
}

impl Engine for LogEngine {
    fn start(&self, cache: Arc<Cache>) -> Result<()> {
        let committer =
            Committer::open(self.disk.clone(), self.clock.clone(), self.options, self.records.clone(), self.shared.clone(), cache).map_err(Error::Engine)?;
        if self.committer.set(Mutex::new(committer)).is_err() {
            return Err(Error::Engine("started twice".into()));
        }
        if self.options.threads {
            let (shared, committer) = (self.shared.clone(), self.committer.clone());
            let run = move || committer.get().into_iter().for_each(|c| Self::run(&shared, c));
            let thread = std::thread::Builder::new().name("store-writer".into()).spawn(run).map_err(|e| Error::Engine(e.to_string()))?;
            *self.writer.lock() = Some(thread);
        }
        Ok(())
    }

    fn submit(&self, request: Request) {
        let mut queue = self.shared.queue.lock();
        if queue.is_closed {
            request.reply.send(Err(Error::Engine("the store was closed".into()))).ok();
            return;
        }
        let is_calm = queue.note_arrival();
        if is_calm
            && queue.requests.is_empty()
            && self.options.threads
            && self.shared.is_fast.load(SeqCst)
            && let Some(mut committer) = self.committer.get().and_then(Mutex::try_lock)
        {
            drop(queue);
            committer.commit(vec![request]);
            return;
        }
        queue.requests.push(request);
        if queue.requests.len() == 1 {
            self.shared.ready.notify_one();
        }
    }

    fn sealer(&self) -> Option<Arc<dyn Sealer>> {
        self.records.sealer.clone()
    }

    fn failure(&self) -> Option<String> {
        self.shared.failure.get().cloned()
    }

    fn stop(&self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.stopping.store(true, SeqCst);
        self.shared.ready.notify_one();
        match self.writer.lock().take() {
            Some(writer) => {
                if writer.join().is_err() {
                    tracing::error!("the thread that writes the store has panicked");
                }
            }
            None => self.flush(),
        }
        if let Some(committer) = self.committer.get() {
            committer.lock().close();
        }
    }
}

/// How long to wait before looking again at what could not be removed yet.
const TIDY_PAUSE: Duration = Duration::from_secs(30);
