//! Node IPAM: each node gets a network of its own for its pods. Upstream: `pkg/controller/nodeipam` (range allocator).

mod subnets;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use knarr_client::{Client, Informer, Key, Outcome, Patch, Recorder};
use knarr_core::{Reason, Result, Status, json};
use parking_lot::Mutex;

use crate::context::{ControllerContext, enqueue_all};
use crate::nodes::{self, NodeView};
use subnets::Subnets;

/// Does nothing without pod networks in the settings.
pub fn start(context: &ControllerContext) {
    if context.config.cluster_cidrs.is_empty() {
        return;
    }
    let client = context.client("node-controller");
    let mut pools: Vec<Subnets> = Vec::new();
    for cidr in &context.config.cluster_cidrs {
        let mask = if cidr.addr().is_ipv4() { context.config.node_mask_v4 } else { context.config.node_mask_v6 };
        let mut pool = Subnets::new(*cidr, mask);
        context.config.service_cidrs.iter().for_each(|s| pool.occupy(s));
        pools.push(pool);
    }
    let this = Arc::new(Allocator {
        nodes: nodes::informer(context),
        recorder: context.recorder(&client, "cidrAllocator"),
        client,
        state: Mutex::new(State { pools, given: BTreeMap::new() }),
    });
    // What is given already must be known before anything new is given: this handler runs before the first key is worked on.
    let me = this.clone();
    this.nodes.on_change(move |change| match &change.new {
        Some(node) => me.state.lock().note(node.key.name(), &node.view.pod_cidrs),
        None => me.state.lock().release(change.key().name()),
    });
    let queue = context.queue("cidrallocator_node");
    enqueue_all(&this.nodes, &queue);
    context.run("node-ipam", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Allocator {
    nodes: Informer<NodeView>,
    client: Client,
    recorder: Recorder,
    state: Mutex<State>,
}

struct State {
    /// One for each family.
    pools: Vec<Subnets>,
    /// What each node has, by its name.
    given: BTreeMap<String, Vec<ipnet::IpNet>>,
}

impl State {
    fn note(&mut self, node: &str, cidrs: &[Box<str>]) {
        if cidrs.is_empty() {
            return;
        }
        let cidrs: Vec<ipnet::IpNet> = cidrs.iter().filter_map(|c| c.parse().ok()).collect();
        if self.given.get(node) != Some(&cidrs) {
            self.release(node);
            cidrs.iter().for_each(|c| self.pools.iter_mut().for_each(|p| p.occupy(c)));
            self.given.insert(node.to_owned(), cidrs);
        }
    }

    fn release(&mut self, node: &str) {
        for cidr in self.given.remove(node).unwrap_or_default() {
            self.pools.iter_mut().for_each(|p| p.release(&cidr));
        }
    }

    /// A network of each family; none when one of them is used up.
    fn give(&mut self, node: &str) -> Option<Vec<ipnet::IpNet>> {
        if let Some(given) = self.given.get(node) {
            return Some(given.clone());
        }
        let given: Option<Vec<_>> = self.pools.iter_mut().map(Subnets::take).collect();
        if let Some(given) = &given {
            self.given.insert(node.to_owned(), given.clone());
        }
        given
    }
}

impl Allocator {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let Some(node) = self.nodes.store().get(&key).filter(|n| n.view.pod_cidrs.is_empty()) else { return Ok(Outcome::Done) };
        let Some(given) = self.state.lock().give(key.name()) else {
            nodes::tell_status(&self.recorder, key.name(), &node.view.uid, "CIDRNotAvailable");
            return Err(Status::new(
                500,
                Reason::InternalError,
                "failed to allocate cidr from cluster cidr: there are no remaining CIDRs left to allocate in the accepted range",
            ));
        };
        let cidrs: Vec<String> = given.iter().map(ToString::to_string).collect();
        let patch = json!({"metadata": {"uid": &*node.view.uid}, "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}});
        match self.client.all::<Node>().dynamic().patch(key.name(), Patch::strategic(patch)).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_not_found() => {
                self.state.lock().release(key.name());
                Ok(Outcome::Done)
            }
            Err(error) => {
                nodes::tell_status(&self.recorder, key.name(), &node.view.uid, "CIDRAssignmentFailed");
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Config, testing::Harness};

    fn node(name: &str, cidr: Option<&str>) -> Node {
        let spec = cidr.map_or(json!({}), |c| json!({"podCIDR": c, "podCIDRs": [c]}));
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn cidr(harness: &Harness, name: &str) -> Option<String> {
        harness.api.read::<Node>("", name)?.spec?.pod_cidr
    }

    #[tokio::test(start_paused = true)]
    async fn each_node_gets_a_network_that_nobody_has() {
        let harness = Harness::with(Config {
            cluster_cidrs: vec!["10.244.0.0/22".parse().unwrap()],
            service_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
            ..Config::default()
        });
        harness.api.seed(&node("old", Some("10.244.2.0/24")));
        start(&harness.context);
        harness.api.seed(&node("a", None));
        harness.api.seed(&node("b", None));
        harness.settle().await;
        let mut got = [cidr(&harness, "a"), cidr(&harness, "b")];
        got.sort();
        assert_eq!(got, [Some("10.244.1.0/24".into()), Some("10.244.3.0/24".into())]);
        harness.api.seed(&node("late", None));
        harness.settle().await;
        assert_eq!(cidr(&harness, "late"), None);
        harness.api.client().all::<Node>().delete("old", &Default::default()).await.unwrap();
        harness.api.until(|_| cidr(&harness, "late") == Some("10.244.2.0/24".into())).await;
    }
}
