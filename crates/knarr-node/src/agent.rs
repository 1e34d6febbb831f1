//! The agent: follows the pods of its node, keeps an actor for each, and hands the runtime's events on to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use knarr_client::informer::{Reflector, Sink};
use knarr_client::{Client, Query, read};
use knarr_core::api::EventType;
use knarr_core::clock::Env;
use knarr_core::{Object, Result};
use knarr_runtime::cri::{Runtime, RuntimeEvent, SandboxState};
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Refusal;
use crate::allocations::{Allocations, Given};
use crate::config::AgentConfig;
use crate::context::Context;
use crate::events::Recorder;
use crate::images::Images;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::node::NodeView;
use crate::objects::Objects;
use crate::pod::actor::{Actor, Handle, Message};
use crate::pod::observed::labels;
use crate::pod::spec::PodExt;
use crate::pod::{kill, look, sandbox, work};
use crate::services::Services;
use crate::tokens::Tokens;
use crate::volumes::followed::Shared;
use crate::volumes::local::LocalVolumes;
use crate::volumes::mounter::{Kernel, Mounter};
use crate::volumes::{self, pod_certificates};

/// Pause before leftovers of a pod are tried to be removed again.
const LEFTOVERS_RETRY: Duration = Duration::from_secs(5);
/// The time that pods get which the API does not know any more when the agent starts.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

/// The pods of this node, by uid: the way to each actor. Shared with the node API.
#[derive(Default)]
pub struct Pods(RwLock<BTreeMap<String, Handle>>);

impl Pods {
    pub fn get(&self, uid: &str) -> Option<Handle> {
        self.0.read().get(uid).cloned()
    }

    pub fn all(&self) -> Vec<Handle> {
        self.0.read().values().cloned().collect()
    }

    /// The pod of that name; of several (one of them on its way out) the one that is not over, or the younger.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Handle> {
        let all = self.0.read();
        let fitting = all.values().filter(|h| {
            let view = h.view.borrow();
            view.pod.namespace() == namespace && view.pod.name() == name
        });
        fitting
            .max_by_key(|h| {
                let view = h.view.borrow();
                (!view.over, view.pod.metadata.creation_timestamp.clone())
            })
            .cloned()
    }
}

/// What the pods' reflector has learned.
enum News {
    All(Vec<Object>),
    One(EventType, Object),
}

struct Forward(mpsc::UnboundedSender<News>);

impl Sink for Forward {
    fn replace(&mut self, objects: Vec<Object>, _resource_version: u64) {
        drop(self.0.send(News::All(objects)));
    }

    fn event(&mut self, event_type: EventType, object: Object) -> Result<()> {
        drop(self.0.send(News::One(event_type, object)));
        Ok(())
    }
}

/// What an agent is made of, besides its configuration.
pub struct Parts {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub network: Arc<dyn PodNetwork>,
    pub events: Arc<dyn Recorder>,
    pub env: Env,
    /// Absent: the kernel.
    pub mounter: Option<Arc<dyn Mounter>>,
}

/// One node.
pub struct Agent {
    context: Arc<Context>,
    pods: Arc<Pods>,
    stop: CancellationToken,
    actors: JoinSet<String>,
}

impl Agent {
    /// Makes the agent. It must be called inside the async runtime; nothing is told to the API before [`Agent::run`].
    pub fn new(config: AgentConfig, parts: Parts) -> Self {
        let stop = CancellationToken::new();
        let client = parts.client.with_field_manager("kubelet");
        let machine = Machine::read(&config.root_dir);
        let context = Arc::new(Context {
            objects: Objects::new(client.clone(), parts.env.clone()),
            tokens: Tokens::new(client.clone(), parts.env.clone()),
            trust_bundles: Shared::new(client.clone(), parts.env.clone(), Query::all::<ClusterTrustBundle>()),
            pod_certificates: Shared::new(client.clone(), parts.env.clone(), pod_certificates::query(&config.node_name)),
            persistent_volumes: Shared::new(client.clone(), parts.env.clone(), Query::all::<PersistentVolume>()),
            local_volumes: LocalVolumes::new(config.local_volumes_dir.clone().unwrap_or_else(|| config.root_dir.join("local-volumes"))),
            services: Services::start(client.clone(), parts.env.clone(), stop.clone()),
            images: Images::default(),
            started: parts.env.now(),
            mounter: parts.mounter.unwrap_or_else(|| Arc::new(Kernel)),
            client,
            runtime: parts.runtime,
            network: parts.network,
            env: parts.env,
            events: parts.events,
            machine,
            node: NodeView::new(config.labels.clone(), config.taints.clone()),
            allocations: Allocations::default(),
            probes: Default::default(),
            config,
        });
        Self { context, pods: Arc::default(), stop, actors: JoinSet::new() }
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub fn pods(&self) -> &Arc<Pods> {
        &self.pods
    }

    /// Runs the node until `cancel`. Containers go on running afterwards: the next agent takes them over.
    ///
    /// # Errors
    /// The runtime cannot be reached, or the agent's folders cannot be made.
    pub async fn run(mut self, cancel: CancellationToken) -> std::io::Result<()> {
        let _stop = self.stop.clone().drop_guard();
        std::fs::create_dir_all(self.context.config.root_dir.join("pods"))?;
        volumes::prepare_memory(&self.context)?;
        let mut events = self.context.runtime.events();
        let (sender, mut news) = mpsc::unbounded_channel();
        let query = Query::all::<Pod>().fields(&format!("spec.nodeName={}", self.context.config.node_name));
        let reflector = Reflector::new(self.context.client.clone(), query, self.context.env.clone());
        let mut background = JoinSet::new();
        background.spawn(reflector.run(Forward(sender)));
        crate::background::start(&self.context, &self.pods, &mut background, self.stop.clone()).await?;
        let mut network = self.context.network.problem();
        let mut begun = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                Some(item) = news.recv() => match item {
                    News::All(objects) => {
                        let pods = decode_all(&objects);
                        if !begun {
                            begun = true;
                            self.begin(&pods).await?;
                        }
                        self.replace(pods).await;
                    }
                    News::One(EventType::Deleted, object) => self.gone(&read::uid(&object)),
                    News::One(EventType::Bookmark, _) => {}
                    News::One(_, object) => if let Some(pod) = decode(&object) {
                        self.changed(pod).await;
                    },
                },
                event = events.recv() => self.dispatch(event).await,
                Some(ended) = self.actors.join_next(), if !self.actors.is_empty() => match ended {
                    Ok(uid) => drop(self.pods.0.write().remove(&uid)),
                    Err(error) => tracing::error!(%error, "a pod's actor broke"),
                },
                Ok(()) = network.changed() => self.tell_all(|| Message::Wake),
            }
        }
    }

    /// The first list is there: what survived a restart keeps its network, and what nobody wants any more goes.
    async fn begin(&self, pods: &[Arc<Pod>]) -> std::io::Result<()> {
        let (sandboxes, _) = look::everything(&*self.context.runtime).await.map_err(std::io::Error::other)?;
        let wanted: BTreeMap<&str, &Arc<Pod>> = pods.iter().map(|p| (p.uid(), p)).collect();
        let named = |s: &knarr_runtime::cri::SandboxStatus| crate::network::PodAttachment {
            namespace: s.namespace.clone(),
            name: s.name.clone(),
            uid: s.uid.clone(),
            ..Default::default()
        };
        let alive = sandboxes.iter().filter(|s| s.state == SandboxState::Ready && s.netns.is_some());
        let alive: Vec<_> = alive.map(|s| (s.clone(), wanted.get(s.uid.as_str()).map_or_else(|| named(s), |p| sandbox::attachment(p)))).collect();
        if let Err(error) = self.context.network.restore(&alive).await {
            tracing::error!(%error, "the network could not take its sandboxes over");
        }
        let orphans: BTreeMap<String, Pod> = sandboxes.iter().filter(|s| !wanted.contains_key(s.uid.as_str())).map(|s| (s.uid.clone(), shadow(s))).collect();
        for pod in orphans.into_values() {
            tokio::spawn(end_orphan(self.context.clone(), Arc::new(pod)));
        }
        self.remove_orphaned_folders(&wanted, &sandboxes.iter().map(|s| s.uid.clone()).collect());
        Ok(())
    }

    /// Folders of pods that neither the API nor the runtime knows.
    fn remove_orphaned_folders(&self, wanted: &BTreeMap<&str, &Arc<Pod>>, running: &BTreeSet<String>) {
        let Ok(entries) = std::fs::read_dir(self.context.config.root_dir.join("pods")) else { return };
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        for uid in names.filter(|uid| !wanted.contains_key(uid.as_str()) && !running.contains(uid)) {
            let removed = volumes::tear_down(&self.context, &uid).and_then(|()| volumes::remove_pod_dir(&self.context, &uid));
            if let Err(error) = removed {
                tracing::warn!(uid, %error, "cannot remove the folder of a pod that is gone");
            }
        }
    }

    /// Makes these all the pods there are.
    async fn replace(&mut self, pods: Vec<Arc<Pod>>) {
        let there: BTreeSet<String> = pods.iter().map(|p| p.uid().to_owned()).collect();
        let gone: Vec<String> = self.pods.0.read().keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.gone(uid));
        for pod in pods {
            self.changed(pod).await;
        }
    }

    /// The API knows the pod no more. Whatever it still has here is being ended; its place may have been given away already, so it is not
    /// held against those who come (upstream: `GetActivePods`, which asks the pod manager).
    fn gone(&self, uid: &str) {
        self.context.allocations.release(&self.context, uid);
        if let Some(handle) = self.pods.get(uid) {
            drop(handle.messages.send(Message::Gone));
        }
    }

    async fn changed(&mut self, pod: Arc<Pod>) {
        if let Some(handle) = self.pods.get(pod.uid()) {
            drop(handle.messages.send(Message::Pod(pod)));
            return;
        }
        let observed = match look::pod(&self.context, pod.uid()).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::error!(pod = pod.described(), %error, "cannot look at the pod's containers");
                Default::default()
            }
        };
        let fresh = observed.sandboxes.is_empty() && observed.containers.is_empty();
        let (given, rejection) = self.allocate(pod.clone(), fresh).await;
        let uid = pod.uid().to_owned();
        let (actor, handle) = Actor::new(self.context.clone(), given, observed, rejection);
        self.pods.0.write().insert(uid.clone(), handle.clone());
        let context = self.context.clone();
        self.actors.spawn(async move {
            actor.run().await;
            let pod = handle.view.borrow().pod.clone();
            clear(&context, &pod).await;
            uid
        });
    }

    /// Gives a pod its share of the node, or tells why it cannot have it. A pod that has run here before has been admitted.
    async fn allocate(&self, pod: Arc<Pod>, fresh: bool) -> (Given, Option<(String, String)>) {
        let over = matches!(pod.status().phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || pod.is_deleting() {
            return (Given { pod, pending: None }, None);
        }
        if !fresh {
            return (self.context.allocations.take_over(&self.context, &pod), None);
        }
        let mut verdict = self.context.allocations.admit(&self.context, &pod);
        if verdict.as_ref().is_err_and(Refusal::is_about_the_object) {
            // The labels and taints that we know may be older than those that the scheduler went by.
            match self.context.client.all::<Node>().get(&self.context.config.node_name).await {
                Ok(node) => {
                    self.context.node.see(&node);
                    verdict = self.context.allocations.admit(&self.context, &pod);
                }
                Err(error) => tracing::warn!(%error, "cannot read the node's labels and taints"),
            }
        }
        match verdict {
            Ok(given) => (given, None),
            Err(refusal) => (Given { pod, pending: None }, Some((refusal.reason, refusal.message))),
        }
    }

    async fn dispatch(&self, event: std::result::Result<RuntimeEvent, broadcast::error::RecvError>) {
        match event {
            Ok(event) => match self.concerned(&event).await {
                Some(handle) => drop(handle.messages.send(Message::Runtime(event))),
                None => tracing::debug!(?event, "an event of the runtime that concerns no pod of ours"),
            },
            Err(broadcast::error::RecvError::Lagged(_)) => self.tell_all(|| Message::Look),
            // The runtime is gone; so will the agent be.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Whose event it is: found by the sandbox, or by the container's labels when the actor does not know the sandbox yet.
    async fn concerned(&self, event: &RuntimeEvent) -> Option<Handle> {
        let (sandbox, container) = match event {
            RuntimeEvent::ContainerStarted { sandbox_id, container_id } | RuntimeEvent::ContainerExited { sandbox_id, container_id } => {
                (sandbox_id, Some(container_id))
            }
            RuntimeEvent::SandboxGone { sandbox_id } => (sandbox_id, None),
        };
        let known = self.pods.all().into_iter().find(|h| h.view.borrow().observed.sandboxes.iter().any(|s| s.id == *sandbox));
        if known.is_some() {
            return known;
        }
        let status = self.context.runtime.container_status(container?).await.ok()?;
        self.pods.get(status.labels.get(labels::POD_UID)?)
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        self.pods.all().iter().for_each(|h| drop(h.messages.send(message())));
    }
}

fn decode(object: &Object) -> Option<Arc<Pod>> {
    match read::typed(object) {
        Ok(pod) => Some(Arc::new(pod)),
        Err(error) => {
            tracing::error!(key = %read::key(object), %error, "a pod could not be read");
            None
        }
    }
}

fn decode_all(objects: &[Object]) -> Vec<Arc<Pod>> {
    objects.iter().filter_map(decode).collect()
}

/// As much of a pod as its sandbox tells.
fn shadow(sandbox: &knarr_runtime::cri::SandboxStatus) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(sandbox.name.clone());
    pod.metadata.namespace = Some(sandbox.namespace.clone());
    pod.metadata.uid = Some(sandbox.uid.clone());
    pod
}

async fn end_orphan(context: Arc<Context>, pod: Arc<Pod>) {
    let observed = match look::pod(&context, pod.uid()).await {
        Ok(observed) => observed,
        Err(error) => return tracing::warn!(pod = pod.described(), %error, "cannot look at an orphaned pod"),
    };
    let deadline = watch::channel(Instant::now() + ORPHAN_GRACE).1;
    if let Err(error) = kill::kill_pod(context.clone(), pod.clone(), observed, deadline).await {
        tracing::warn!(pod = pod.described(), error, "cannot end an orphaned pod");
    }
    let uid = pod.uid().to_owned();
    if let Err(error) = volumes::tear_down(&context, &uid) {
        tracing::warn!(pod = pod.described(), %error, "cannot take an orphaned pod's volumes away");
    }
    clear(&context, &pod).await;
}

/// Removes what is left of a pod, trying until it is done.
async fn clear(context: &Context, pod: &Pod) {
    while let Err(error) = work::remove_leftovers(context, pod).await {
        tracing::warn!(pod = pod.described(), error, "cannot remove what is left of a pod");
        tokio::time::sleep(LEFTOVERS_RETRY).await;
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
