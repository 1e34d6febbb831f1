//! The garbage collector: what nobody owns any more goes. It follows the metadata of every object of every resource
//! ([`census`]), keeps a graph of owners ([`graph`]), and deletes, orphans or lets go ([`collect`]).
//! Upstream: `pkg/controller/garbagecollector`.

pub mod census;
mod collect;
pub mod graph;

use std::sync::Arc;

use crate::context::ControllerContext;
use census::Census;

/// Tasks that are worked on at once (upstream: 20 workers for deletions and 20 for orphans).
const WORKERS: usize = 40;

/// Starts following everything, and collecting.
pub fn start(context: &ControllerContext, census: &Arc<Census>) {
    let client = context.client("generic-garbage-collector");
    let recorder = context.recorder(&client, "garbage-collector-controller");
    let collector = Arc::new(collect::Collector { client, recorder, census: census.clone() });
    let (queue, following) = (census.tasks(), census.clone());
    context.run_after("garbage-collector", WORKERS, async move { following.wait_complete().await }, queue, move |task| {
        let collector = collector.clone();
        async move { collector.work(task).await }
    });
}

#[cfg(test)]
mod tests;
