//! The seam below the cache: who decides about writes and makes them durable.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::cache::{Cache, Resource};
use crate::guard::Guard;
use crate::item::Item;
use crate::seal::Sealer;
use crate::world::Snapshot;
use crate::{Result, Write};

/// One write on its way into an engine.
pub struct Request {
    pub resource: Arc<Resource>,
    /// `namespace/name`.
    pub path: String,
    pub write: Write,
    /// Only where others write into the same store.
    pub guard: Option<Guard>,
    /// Told when the write is durable and visible, or why it did not happen.
    pub reply: oneshot::Sender<Result<Arc<Item>>>,
}

/// Makes writes durable, in one order for all resources.
///
/// An engine checks each write against the state that all writes before it leave behind, gives it the next revision, makes
/// it durable, writes it into the cache ([`Cache::apply`]) and only then answers it.
pub trait Engine: Send + Sync + 'static {
    /// Fills the cache with what is stored, and keeps it for later writes. Called once.
    ///
    /// # Errors
    /// [`crate::Error::Engine`] when what is stored cannot be trusted, or is in use by another process.
    fn start(&self, cache: Arc<Cache>) -> Result<()>;

    /// Takes a write. Never waits.
    fn submit(&self, request: Request);

    /// What seals objects on this engine's disk, if anything does: backups are sealed by it, too.
    fn sealer(&self) -> Option<Arc<dyn Sealer>> {
        None
    }

    /// The revision up to which writes of anybody have been acknowledged, asked for now. `None`: this cache has seen them all,
    /// because nobody else writes.
    fn newest(&self) -> Option<BoxFuture<'static, Result<u64>>> {
        None
    }

    /// Whether other processes write into the same store.
    fn is_shared(&self) -> bool {
        false
    }

    /// The revision of a guard's last change (0: it is not there), and that of the store when it was read. `None`: nobody else writes.
    fn guard(&self, _name: &'static str) -> Option<BoxFuture<'static, Result<(u64, u64)>>> {
        None
    }

    /// Reads a resource as it was at a revision that the cache no longer has. `None`: what the cache does not have is gone.
    fn past(&self, _resource: Arc<Resource>, _revision: u64) -> Option<BoxFuture<'static, Result<Snapshot>>> {
        None
    }

    /// Somebody waits for a revision that may have come without telling anything.
    fn hurry(&self) {}

    /// Why no write can succeed at present: for ever where the disk has failed, until etcd is back where it is away.
    fn failure(&self) -> Option<String>;

    /// Ends the engine in good order: every write that was taken is answered.
    fn stop(&self);
}
