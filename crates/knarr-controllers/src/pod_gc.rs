//! Pod garbage collection: pods that nobody will clean up go by force. Upstream: `pkg/controller/podgc`.
//!
//! - finished pods beyond a limit, the oldest first;
//! - pods whose node is gone, after a pause in which it may come back;
//! - pods that are being deleted and never had a node, or whose node is out of service.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use knarr_client::{Client, Deletion, Informer, Key, Outcome};
use knarr_core::Result;
use knarr_core::clock::Env;

use crate::context::ControllerContext;
use crate::nodes::{self, NodeView, OUT_OF_SERVICE};
use crate::pods::{self, BY_NODE, PodItem, PodView, disruption};

/// How long a node may be away before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The index of finished pods.
const OVER: &str = "over";

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// There may be too many finished pods.
    Finished,
    /// This node may be gone.
    Node(Key),
    /// This pod may have nobody to end it.
    Pod(Key),
}

pub fn start(context: &ControllerContext) {
    let this = Arc::new(Collector {
        nodes: nodes::informer(context),
        pods: pods::informer(context),
        client: context.client("pod-garbage-collector"),
        env: context.env.clone(),
        finished_max: context.config.terminated_pods_max,
    });
    this.pods.store().add_index(OVER, |item| if item.view.is_over() { vec![String::new()] } else { Vec::new() });
    let queue = context.queue("orphaned_pods_nodes");
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        if pod.view.is_over() && change.old.as_ref().is_none_or(|o| !o.view.is_over()) {
            woken.add(Work::Finished);
        }
        if pod.view.deleting.is_some() {
            woken.add(Work::Pod(pod.key.clone()));
        }
        if let Some(node) = pod.view.node.as_deref().filter(|n| me.nodes.store().find("", n).is_none()) {
            woken.add_after(Work::Node(Key::new("", node)), QUARANTINE);
        }
    });
    let (me, woken) = (this.clone(), queue.clone());
    this.nodes.on_change(move |change| match &change.new {
        None => woken.add_after(Work::Node(change.key().clone()), QUARANTINE),
        Some(node) if is_out_of_service(&node.view) => {
            me.pods.store().by_index(BY_NODE, node.key.name()).iter().for_each(|p| woken.add(Work::Pod(p.key.clone())));
        }
        Some(_) => {}
    });
    context.run("pod-garbage-collector", queue, move |work| {
        let this = this.clone();
        async move { this.work(work).await.map(|()| Outcome::Done) }
    });
}

fn is_out_of_service(node: &NodeView) -> bool {
    !node.is_ready() && node.taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

struct Collector {
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    client: Client,
    env: Env,
    finished_max: usize,
}

impl Collector {
    async fn work(&self, work: Work) -> Result<()> {
        match work {
            Work::Finished => self.limit_finished().await,
            Work::Node(node) => self.follow_node(&node).await,
            Work::Pod(pod) => self.end(&pod).await,
        }
    }

    async fn limit_finished(&self) -> Result<()> {
        let mut finished = self.pods.store().by_index(OVER, "");
        if self.finished_max == 0 || finished.len() <= self.finished_max {
            return Ok(());
        }
        finished.sort_by(|a, b| a.view.created.cmp(&b.view.created).then_with(|| a.key.name().cmp(b.key.name())));
        let excess = finished.len() - self.finished_max;
        self.delete_all(&finished[..excess]).await
    }

    /// The pods of a node that is gone go too; the API itself is asked, because our cache may be what is late.
    async fn follow_node(&self, node: &Key) -> Result<()> {
        if self.nodes.store().get(node).is_some() {
            return Ok(());
        }
        match self.client.all::<Node>().dynamic().get(node.name()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let pods = self.pods.store().by_index(BY_NODE, node.name());
        let target = disruption::Target { reason: "DeletionByPodGC", message: "PodGC: node no longer exists", fail: true };
        for pod in pods.iter().filter(|p| !p.view.is_over()) {
            disruption::mark(&self.client, pod, &target, self.env.now()).await?;
        }
        self.delete_all(&pods).await
    }

    /// A pod that is being deleted, with nobody to end it.
    async fn end(&self, key: &Key) -> Result<()> {
        let Some(pod) = self.pods.store().get(key).filter(|p| p.view.deleting.is_some()) else { return Ok(()) };
        let out_of_service = |name: &str| self.nodes.store().find("", name).is_some_and(|n| is_out_of_service(&n.view));
        if pod.view.node.as_deref().is_some_and(|n| !out_of_service(n)) {
            return Ok(());
        }
        if !pod.view.is_over() {
            disruption::fail(&self.client, &pod).await?;
        }
        self.delete_all(&[pod]).await
    }

    async fn delete_all(&self, pods: &[PodItem]) -> Result<()> {
        let delete = |pod: &PodItem| {
            let (api, name, uid) = (self.client.within::<Pod>(pod.key.namespace()), pod.key.name().to_owned(), pod.view.uid.to_string());
            async move {
                let deletion = Deletion { grace_period_seconds: Some(0), ..Deletion::of_uid(uid) };
                match api.delete(&name, &deletion).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(()),
                }
            }
        };
        futures::future::join_all(pods.iter().map(delete)).await.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::context::{Config, testing::Harness};

    fn pod(name: &str, node: Option<&str>, phase: &str) -> Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn names(harness: &Harness) -> Vec<String> {
        harness.api.read_all::<Pod>().into_iter().filter_map(|p| p.metadata.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_node_that_is_gone_go_after_a_pause() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed_value(knarr_client::client::gvr::<Node>(), json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}));
        harness.api.seed(&pod("here", Some("n"), "Running"));
        harness.api.seed(&pod("lost", Some("m"), "Running"));
        tokio::time::sleep(Duration::from_secs(39)).await;
        assert_eq!(names(&harness), ["here", "lost"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(names(&harness), ["here"]);
        harness.api.client().all::<Node>().delete("n", &Deletion::default()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(42)).await;
        assert!(names(&harness).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn finished_pods_are_limited() {
        let harness = Harness::with(Config { terminated_pods_max: 2, ..Config::default() });
        start(&harness.context);
        for n in 0..5 {
            harness.api.seed(&pod(&format!("p{n}"), None, "Succeeded"));
            harness.settle().await;
        }
        assert_eq!(names(&harness), ["p3", "p4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_pods_end_when_their_node_is_out_of_service() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed_value(knarr_client::client::gvr::<Node>(), json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}}));
        harness.api.seed(&pod("p", Some("n"), "Running"));
        harness.api.client().within::<Pod>("a").delete("p", &Deletion::default()).await.unwrap();
        harness.settle().await;
        assert_eq!(names(&harness), ["p"]);
        harness.api.change::<Node>("", "n", |n| {
            n.spec.get_or_insert_default().taints = Some(vec![nodes::taint(OUT_OF_SERVICE, "NoExecute", harness.context.env.now())])
        });
        harness.settle().await;
        assert!(names(&harness).is_empty());
    }
}
