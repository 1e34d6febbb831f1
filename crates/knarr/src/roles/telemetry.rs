//! Distributed tracing, by kube-apiserver's flag.

use std::path::Path;
use std::sync::Arc;

use knarr_apiserver::spans::{Tracer, load};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::clock::Env;

use super::flags::Flags;

/// The flag that is read here.
pub const FLAGS: &[&str] = &["tracing-config-file"];

/// Starts telling the collector that the file names, if there is a file. Needs a running tokio runtime.
///
/// # Errors
/// A file that cannot be read, or does not say what it should.
pub fn tracer(flags: &Flags, env: &Env) -> Result<Option<Arc<Tracer>>> {
    let Some(path) = flags.get("tracing-config-file").filter(|path| !path.is_empty()) else { return Ok(None) };
    let failed = |why: String| Failure::new("TRACING", Exit::Usage, why, "look at the file of --tracing-config-file");
    let config = load(Path::new(path)).map_err(failed)?;
    let instance = format!("apiserver-{}", env.uuid());
    Tracer::start(&config, &instance, env.clone()).map(Some).map_err(failed)
}
