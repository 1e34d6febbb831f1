//! The running scheduler: informers in, bindings out.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use knarr_client::events::{EventKind, Note, SeriesRecorder};
use knarr_client::read::Meta;
use knarr_client::{Change, Client, Deletion, Informer, Patch, SharedInformers};
use knarr_core::clock::Env;
use knarr_core::{Status, Value, json, time};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::condition;
use crate::decide::{NoNode, decide};
use crate::filter;
use crate::node::{NodeFacts, NodeState};
use crate::pod::PodInfo;
use crate::preempt::{self, Budget};
use crate::queue::Queue;
use crate::volumes::{self, Claim};

/// The name by which pods ask for this scheduler.
pub const NAME: &str = "default-scheduler";

/// Refusals that are written at once.
const REFUSALS_MAX: usize = 32;

struct Scheduler {
    client: Client,
    env: Env,
    events: SeriesRecorder,
    queue: Queue,
    cluster: Mutex<Cluster>,
    /// How many refusals may be on their way to the pods' status.
    refusals: Arc<Semaphore>,
    pods: Informer<Arc<PodInfo>>,
    claims: Informer<()>,
    volumes: Informer<()>,
    classes: Informer<()>,
}

/// Runs until `stop`.
pub async fn start(client: Client, informers: SharedInformers, env: Env, stop: CancellationToken) {
    let pods = informers.all::<Pod, Arc<PodInfo>>();
    let nodes = informers.all::<Node, NodeFacts>();
    let namespaces = informers.all::<Namespace, Meta>();
    let budgets = informers.all::<PodDisruptionBudget, Budget>();
    let scheduler = Arc::new(Scheduler {
        events: SeriesRecorder::start(client.clone(), NAME, NAME, env.clone(), stop.clone()),
        client,
        env,
        queue: Queue::default(),
        cluster: Mutex::default(),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        pods: pods.clone(),
        claims: informers.all::<PersistentVolumeClaim, ()>(),
        volumes: informers.all::<PersistentVolume, ()>(),
        classes: informers.all::<StorageClass, ()>(),
    });
    informers.wait_synced().await;
    let s = scheduler.clone();
    namespaces.on_change(move |change| s.namespace_changed(change));
    let s = scheduler.clone();
    budgets.on_change(move |change| s.budget_changed(change));
    let s = scheduler.clone();
    nodes.on_change(move |change| s.node_changed(change));
    for informer in [&scheduler.claims, &scheduler.volumes, &scheduler.classes] {
        let s = scheduler.clone();
        informer.on_change(move |_| s.volumes_changed());
    }
    let s = scheduler.clone();
    pods.on_change(move |change| s.pod_changed(change));
    tokio::select! {
        () = scheduler.run() => {}
        () = stop.cancelled() => {}
    }
}

impl Scheduler {
    async fn run(self: &Arc<Self>) {
        loop {
            let pod = self.queue.next().await;
            self.schedule(pod).await;
        }
    }

    async fn schedule(self: &Arc<Self>, pod: Arc<PodInfo>) {
        match self.decide(&pod) {
            Ok(node) => {
                let scheduler = self.clone();
                tokio::spawn(async move { scheduler.bind(pod, node).await });
            }
            Err((no_node, candidate)) => self.no_node(&pod, &no_node, candidate).await,
        }
    }

    /// Finds a node and assumes that the pod is there; or tells why there is none, and where room can be made.
    fn decide(&self, pod: &PodInfo) -> Result<String, (NoNode, Option<preempt::Candidate>)> {
        let mut cluster = self.cluster.lock();
        let node = match decide(pod, &cluster, |n| usize::try_from(self.env.below(n as u64)).unwrap_or(0)) {
            Ok(node) => node,
            Err(no_node) => {
                let candidate = if preempt::is_waiting(pod, &cluster) { None } else { preempt::find(pod, &mut cluster, &no_node) };
                return Err((no_node, candidate));
            }
        };
        cluster.forget_promise(&pod.uid);
        cluster.place(Arc::new(PodInfo { node: node.as_str().into(), ..pod.clone() }));
        Ok(node)
    }

    async fn bind(self: Arc<Self>, pod: Arc<PodInfo>, node: String) {
        match self.select_nodes_for_claims(&pod, &node).await {
            Ok(()) => {}
            Err(error) => return self.not_bound(&pod, &error),
        }
        match self.client.bind(pod.namespace(), pod.name(), &pod.uid, &node).await {
            Ok(()) => {
                self.note(&pod, EventKind::Normal, "Scheduled", "Binding", format!("Successfully assigned {} to {node}", pod.key));
            }
            Err(error) => self.not_bound(&pod, &error),
        }
    }

    fn not_bound(&self, pod: &PodInfo, error: &Status) {
        self.cluster.lock().displace(&pod.uid);
        if error.is_not_found() {
            self.queue.remove(&pod.uid);
            return;
        }
        self.note(pod, EventKind::Warning, "FailedScheduling", "Scheduling", error.to_string());
        self.queue.failed(&pod.uid);
    }

    /// Reserves volumes for the claims that waited for this pod, and tells the volume binder on which node the others will be used.
    async fn select_nodes_for_claims(&self, pod: &PodInfo, node: &str) -> Result<(), Status> {
        let given = {
            let cluster = self.cluster.lock();
            let node = cluster.node(node).ok_or_else(|| Status::internal(format!("node {node:?} is gone")))?;
            volumes::assign(pod, node, &cluster).ok_or_else(|| Status::internal("the volumes for the pod's claims are gone"))?
        };
        for (claim, volume) in given {
            match volume {
                Some(volume) => self.reserve(pod.namespace(), claim, &volume).await?,
                None => {
                    let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
                    self.client.within::<PersistentVolumeClaim>(pod.namespace()).patch(claim, Patch::merge(patch)).await?;
                }
            }
        }
        Ok(())
    }

    /// Points a volume at the claim that gets it; the volume binder does the rest.
    async fn reserve(&self, namespace: &str, claim: &str, volume: &str) -> Result<(), Status> {
        let gone = |what: &str, name: &str| Status::internal(format!("{what} {name:?} is gone"));
        let claim: PersistentVolumeClaim = self.claims.store().find(namespace, claim).ok_or_else(|| gone("claim", claim))?.typed()?;
        let known: PersistentVolume = self.volumes.store().find("", volume).ok_or_else(|| gone("volume", volume))?.typed()?;
        // Another pod may have been faster: only the volume as it was seen.
        let patch = json!({
            "metadata": {"resourceVersion": known.metadata.resource_version, "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim.metadata.name,
                "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version}},
        });
        self.client.all::<PersistentVolume>().patch(volume, Patch::merge(patch)).await.map(drop)
    }

    async fn no_node(self: &Arc<Self>, pod: &Arc<PodInfo>, no_node: &NoNode, candidate: Option<preempt::Candidate>) {
        let mut message = no_node.message();
        let mut outdone = Vec::new();
        match &candidate {
            Some(candidate) => {
                let promised = PodInfo { nominated: candidate.node.as_str().into(), ..pod.as_ref().clone() };
                outdone = self.cluster.lock().promise(promised);
            }
            None if no_node.nodes > 0 => message += &no_preemption(pod, no_node),
            None => {}
        }
        self.note(pod, EventKind::Warning, "FailedScheduling", "Scheduling", message.clone());
        // The semaphore is never closed.
        let Ok(permit) = self.refusals.clone().acquire_owned().await else { return };
        tokio::spawn(self.clone().refuse(pod.clone(), message, candidate, outdone, permit));
    }

    /// Makes room, if some can be made, and tells the pod why it waits. Only then may it be tried again: so of two refusals the later one stands, and
    /// nobody is made to leave twice.
    async fn refuse(
        self: Arc<Self>,
        pod: Arc<PodInfo>,
        message: String,
        candidate: Option<preempt::Candidate>,
        outdone: Vec<Arc<PodInfo>>,
        permit: OwnedSemaphorePermit,
    ) {
        if let Some(candidate) = &candidate {
            self.evict(&pod, candidate).await;
        }
        for other in outdone {
            self.take_back_promise(&other).await;
        }
        self.set_condition(&pod, &message, candidate.as_ref().map(|c| c.node.as_str())).await;
        self.queue.unschedulable(&pod.uid);
        drop(permit);
    }

    /// Upstream: `ClearNominatedNodeName`.
    async fn take_back_promise(&self, pod: &PodInfo) {
        self.patch_status(pod, json!({"nominatedNodeName": null})).await;
    }

    /// A pod that is gone needs no status.
    async fn patch_status(&self, pod: &PodInfo, status: Value) {
        let patch = Patch::strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
        match self.client.within::<Pod>(pod.namespace()).dynamic().patch_status(pod.name(), patch).await {
            Err(error) if !error.is_not_found() => tracing::warn!(pod = %pod.key, %error, "cannot write the status of a pod that waits"),
            _ => {}
        }
    }

    async fn evict(&self, pod: &PodInfo, candidate: &preempt::Candidate) {
        for victim in &candidate.victims {
            let text = format!("{NAME}: preempting to accommodate a higher priority pod");
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": text, "lastTransitionTime": time::format(self.env.now())});
            let api = self.client.within::<Pod>(victim.namespace());
            if let Err(error) = api.patch_status(victim.name(), Patch::strategic(json!({"status": {"conditions": [condition]}}))).await {
                tracing::warn!(pod = %victim.key, %error, "cannot mark a pod that must leave");
            }
            match api.delete(victim.name(), &Deletion::of_uid(&*victim.uid)).await {
                Err(error) if !error.is_not_found() => tracing::warn!(pod = %victim.key, %error, "cannot make room"),
                _ => self.note(victim, EventKind::Normal, "Preempted", "Preempting", format!("Preempted by pod {} on node {}", pod.uid, candidate.node)),
            }
        }
    }

    async fn set_condition(&self, pod: &PodInfo, message: &str, nominated: Option<&str>) {
        let Some(item) = self.pods.store().get(&pod.key) else { return };
        let known = item.typed::<condition::Known>().unwrap_or_default();
        let Some(status) = condition::unschedulable(&known, message, nominated, self.env.now()) else { return };
        self.patch_status(pod, status).await;
    }

    fn note(&self, pod: &PodInfo, kind: EventKind, reason: &str, action: &str, note: String) {
        let regarding = k8s_openapi::api::core::v1::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace().to_owned()),
            name: Some(pod.name().to_owned()),
            uid: Some(pod.uid.to_string()),
            ..Default::default()
        };
        self.events.event(Note { regarding, related: None, kind, reason: reason.into(), action: action.into(), note });
    }

    fn pod_changed(&self, change: &Change<Arc<PodInfo>>) {
        let pod = &change.item().view;
        let Some(new) = &change.new else {
            self.queue.remove(&pod.uid);
            let mut cluster = self.cluster.lock();
            cluster.displace(&pod.uid);
            cluster.forget_promise(&pod.uid);
            drop(cluster);
            return self.queue.something_changed(|_| true);
        };
        let pod = new.view.clone();
        if !pod.node.is_empty() || pod.ended {
            self.queue.remove(&pod.uid);
            let freed = pod.ended && change.old.as_ref().is_some_and(|o| !o.view.ended);
            let came = change.old.as_ref().is_none_or(|o| o.view.node.is_empty() || o.view.labels != pod.labels);
            let mut cluster = self.cluster.lock();
            cluster.forget_promise(&pod.uid);
            cluster.place(pod);
            drop(cluster);
            if freed || came {
                self.queue.something_changed(|waiting| freed || waiting.has_affinity() || !waiting.spread.is_empty());
            }
        } else if pod.scheduler == NAME && pod.gates.is_empty() && !pod.deleting {
            let before = change.old.as_ref().map_or("", |o| &*o.view.nominated);
            self.cluster.lock().told_promise(before, &pod);
            self.queue.put(pod);
        } else {
            self.queue.remove(&pod.uid);
        }
    }

    fn node_changed(&self, change: &Change<NodeFacts>) {
        let facts = &change.item().view;
        match &change.new {
            None => self.cluster.lock().remove_node(&facts.name),
            Some(new) => {
                let same = change.old.as_ref().is_some_and(|o| o.view == new.view);
                if same {
                    return;
                }
                self.cluster.lock().set_node(new.view.clone());
                let empty = NodeState::empty(new.view.clone());
                self.queue.something_changed(|waiting| filter::may_help(waiting, &empty));
            }
        }
    }

    fn namespace_changed(&self, change: &Change<Meta>) {
        let meta = &change.item().view;
        let mut cluster = self.cluster.lock();
        match &change.new {
            Some(new) => drop(cluster.namespaces.insert(meta.name.clone(), new.view.labels.clone())),
            None => drop(cluster.namespaces.remove(&meta.name)),
        }
    }

    fn budget_changed(&self, change: &Change<Budget>) {
        let mut cluster = self.cluster.lock();
        let key = change.item().key.as_str().to_owned();
        match &change.new {
            Some(new) => drop(cluster.budgets.insert(key, new.view.clone())),
            None => drop(cluster.budgets.remove(&key)),
        }
    }

    /// Volumes change seldom: everything about claims is read anew.
    fn volumes_changed(&self) {
        let all: Vec<PersistentVolume> = self.volumes.store().list().iter().filter_map(|v| v.typed().ok()).collect();
        let class = |name: &str| self.classes.store().find("", name)?.typed::<StorageClass>().ok();
        let claims = self.claims.store().list().into_iter().filter_map(|item| {
            let claim = item.typed::<PersistentVolumeClaim>().ok()?;
            let class = claim.spec.as_ref().and_then(|s| class(s.storage_class_name.as_deref()?));
            Some((item.key.as_str().to_owned(), Claim::new(&claim, &all, class.as_ref())))
        });
        let claims = claims.collect();
        self.cluster.lock().volumes = claims;
        self.queue.something_changed(|pod| !pod.claims.is_empty());
    }
}

/// The second sentence of a refusal: why making room does not help either.
fn no_preemption(pod: &PodInfo, no_node: &NoNode) -> String {
    let n = no_node.nodes;
    if pod.never_preempts {
        return " preemption: not eligible due to preemptionPolicy=Never.".into();
    }
    let hopeless = no_node.refusals.iter().filter(|(_, r)| !r.resolvable).count();
    let mut parts = Vec::new();
    if n > hopeless {
        parts.push(format!("{} No preemption victims found for incoming pod", n - hopeless));
    }
    if hopeless > 0 {
        parts.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    parts.sort();
    format!(" preemption: 0/{n} nodes are available: {}.", parts.join(", "))
}
