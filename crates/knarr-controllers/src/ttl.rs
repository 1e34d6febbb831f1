//! TTL: tells node agents how long they may keep Secrets and ConfigMaps before asking again; the larger the cluster, the
//! longer. Upstream: `pkg/controller/ttl`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use knarr_client::{Key, Outcome, Patch};
use knarr_core::json;
use parking_lot::Mutex;

use crate::context::{ControllerContext, enqueue_all};
use crate::nodes;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// Fewest nodes, most nodes, seconds. Ranges overlap, so that a cluster at a boundary does not go to and fro.
const STEPS: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for so many nodes, coming from `step`.
fn next_step(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

pub fn start(context: &ControllerContext) {
    let client = context.client("ttl-controller");
    let nodes = nodes::informer(context);
    let queue = context.queue("ttlcontroller");
    enqueue_all(&nodes, &queue);
    let step = Arc::new(Mutex::new(0));
    context.run("ttl", queue.clone(), move |key: Key| {
        let (client, nodes, queue, step) = (client.clone(), nodes.clone(), queue.clone(), step.clone());
        async move {
            let (before, now) = {
                let mut step = step.lock();
                let before = *step;
                *step = next_step(before, nodes.store().len());
                (before, *step)
            };
            if before != now {
                nodes.store().list().iter().for_each(|n| queue.add(n.key.clone()));
            }
            let Some(node) = nodes.store().get(&key) else { return Ok(Outcome::Done) };
            let wanted = STEPS[now].2.to_string();
            let known: Node = node.typed()?;
            if known.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION)) == Some(&wanted) {
                return Ok(Outcome::Done);
            }
            let patch = Patch::merge(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
            match client.all::<Node>().dynamic().patch(key.name(), patch).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Outcome::Done),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_at_a_boundary_keeps_its_step() {
        assert_eq!([next_step(0, 95), next_step(1, 95), next_step(1, 89), next_step(0, 1500)], [0, 1, 0, 3]);
    }
}
