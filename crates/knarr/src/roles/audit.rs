//! The audit log, by kube-apiserver's flags.

use std::sync::Arc;

pub use knarr_apiserver::audit::FLAGS;
use knarr_apiserver::audit::{Auditor, Settings};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::clock::Env;

use super::flags::Flags;

/// What the flags say.
///
/// # Errors
/// Flags that do not fit together.
pub fn settings(flags: &Flags) -> Result<Settings> {
    Settings::from_flags(&|name| flags.get(name).map(str::to_owned)).map_err(|why| Failure::new("USAGE", Exit::Usage, why, ""))
}

/// Opens what is written to, if anything is.
///
/// # Errors
/// Flags that do not fit together, files that cannot be read or written.
pub fn auditor(settings: &Settings, env: &Env) -> Result<Option<Arc<Auditor>>> {
    Auditor::open(settings, env.clone()).map_err(|why| Failure::new("AUDIT", Exit::Usage, why, "look at the --audit-* flags and their files"))
}
