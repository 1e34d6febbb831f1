//! An engine without a disk, for simulation and tests: every write is as durable as the process, and happens where it is
//! submitted, so that one seed tells one story.

use std::sync::{Arc, OnceLock};

use knarr_core::clock::Clock;
use parking_lot::Mutex;

use crate::cache::Cache;
use crate::engine::{Engine, Request};
use crate::sequence::decide;
use crate::{Error, Result};

/// See the module.
pub struct MemoryEngine {
    clock: Arc<dyn Clock>,
    cache: OnceLock<Arc<Cache>>,
    /// Held while a write is decided and shown.
    turn: Mutex<()>,
}

impl MemoryEngine {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, cache: OnceLock::new(), turn: Mutex::new(()) }
    }
}

impl Engine for MemoryEngine {
    fn start(&self, cache: Arc<Cache>) -> Result<()> {
        self.cache.set(cache).map_err(|_| Error::Engine("started twice".into()))
    }

    fn submit(&self, request: Request) {
        let Some(cache) = self.cache.get() else {
            request.reply.send(Err(Error::Engine("not started".into()))).ok();
            return;
        };
        let _turn = self.turn.lock();
        decide(cache, self.clock.as_ref(), vec![request]).publish(cache);
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn stop(&self) {}
}
