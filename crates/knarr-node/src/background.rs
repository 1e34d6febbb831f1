//! What goes on beside the pods: the Node object, its lease, log rotation, garbage collection, the node API.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Pods;
use crate::context::Context;
use crate::node::{Registrar, keep_lease};
use crate::server::{self, Server};

/// Starts everything. It ends with `tasks`.
///
/// # Errors
/// The node API's port cannot be had.
pub async fn start(context: &Arc<Context>, pods: &Arc<Pods>, tasks: &mut JoinSet<()>, stop: CancellationToken) -> std::io::Result<()> {
    let mut port = context.config.port;
    if let Some(serving) = context.config.serving.clone() {
        let listener = server::bind(port, &context.config.addresses).await?;
        port = listener.local_addr()?.port();
        let server = Arc::new(Server { context: context.clone(), pods: pods.clone(), auth: Default::default(), stats: Default::default() });
        tasks.spawn(server::serve(server, listener, serving, stop));
    }
    let registrar = Registrar { context: context.clone(), port, changed: Arc::new(Notify::new()) };
    tasks.spawn(registrar.run());
    tasks.spawn(keep_lease(context.clone()));
    tasks.spawn(crate::eviction::run(context.clone(), pods.clone()));
    tasks.spawn(crate::images::collect::run(context.clone()));
    tasks.spawn(crate::volumes::local::run(context.clone()));
    tasks.spawn(crate::logs::rotate::run(context.clone(), pods.clone()));
    Ok(())
}
