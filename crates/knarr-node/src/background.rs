//! What goes on beside the pods: the Node object, its lease, log rotation, garbage collection, the node API.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Pods;
use crate::context::Context;
use crate::node::{Pressure, Registrar, keep_lease};

/// Starts everything. It ends with `tasks`.
///
/// # Errors
/// The node API's port cannot be had.
pub async fn start(context: &Arc<Context>, _pods: &Arc<Pods>, tasks: &mut JoinSet<()>, _stop: CancellationToken) -> std::io::Result<()> {
    let (_pressure, pressed) = watch::channel(Pressure::default());
    let registrar = Registrar { context: context.clone(), port: context.config.port, pressure: pressed, changed: Arc::new(Notify::new()) };
    tasks.spawn(registrar.run());
    tasks.spawn(keep_lease(context.clone()));
    Ok(())
}
