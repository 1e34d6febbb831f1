//! What goes on beside the pods: the Node object, its lease, log rotation, garbage collection, the node API.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Pods;
use crate::context::Context;

/// Starts everything. It ends with `tasks`.
pub async fn start(_context: &Arc<Context>, _pods: &Arc<Pods>, _tasks: &mut JoinSet<()>, _stop: CancellationToken) -> std::io::Result<()> {
    Ok(())
}
