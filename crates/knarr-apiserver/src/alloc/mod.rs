//! What the server gives out when a Service is written: cluster addresses and node ports. Taken before the write, kept when it
//! succeeds, given back when it fails.

use knarr_core::{Result, Value};

use crate::{call::Exchange, server::Config};

/// The allocators of one server.
pub struct Allocators {}

/// What one write has taken. Dropping it gives everything back, unless it was committed.
#[derive(Default)]
pub struct Reserved {}

impl Reserved {
    /// The write succeeded: what it took stays taken, what it gave up is free.
    pub fn commit(&mut self) {}
}

impl Allocators {
    pub fn new(_config: &Config) -> Self {
        Self {}
    }

    /// Before a create is validated.
    ///
    /// # Errors
    /// `Invalid` when what the object wants cannot be had.
    pub async fn begin_create(&self, _ex: &Exchange<'_>, _object: &mut Value) -> Result<Reserved> {
        Ok(Reserved::default())
    }

    /// Before an update is validated.
    ///
    /// # Errors
    /// As [`Self::begin_create`].
    pub async fn begin_update(&self, _ex: &Exchange<'_>, _new: &mut Value, _old: &Value) -> Result<Reserved> {
        Ok(Reserved::default())
    }

    /// After a delete.
    pub fn release(&self, _ex: &Exchange<'_>, _object: &Value) {}
}
