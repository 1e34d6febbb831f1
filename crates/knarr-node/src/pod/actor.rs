//! The actor of one pod: a task that hears of everything that concerns its pod, keeps what is known, decides by the pure
//! functions of [`super::decide`] and [`super::status`], and sets work going. Work runs in tasks of its own, so the
//! actor always listens.
//!
//! ```text
//! Active ──deleted, deadline, evicted, finished──► Stopping ──all ended──► Cleaning ──volumes gone──► Done ──gone from the API──► removed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use knarr_core::{Object, Status};
use knarr_runtime::cri::{Resources, RuntimeEvent, SandboxStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::decide::{self, Plan, View};
use super::kill;
use super::look;
use super::observed::{Observed, ProbeKind, Verdicts};
use super::resize::Resize;
use super::spec::PodExt;
use super::start::Progress;
use super::status::{self, Input};
use crate::allocations::{Given, same_resources};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::events::{Level, pod_reference};
use crate::probes;
use crate::volumes::{self, Keeper, MountedVolumes};

/// Pause before something is tried again that failed for an unknown reason (upstream: `backOffPeriod`).
pub(super) const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Pause before an API call or the end of a pod is tried again.
pub(super) const RETRY_SOON: SignedDuration = SignedDuration::from_secs(1);
/// A container that the node ends to start it anew may be gone for so long before that is told (upstream looks at containers once a
/// second: `genericPlegRelistPeriod`). Telling of each step would take the pod out of its Services for the blink that a restart takes.
const REPLACEMENT_UNTOLD: SignedDuration = SignedDuration::from_secs(1);

/// What an actor hears.
#[derive(Debug)]
pub enum Message {
    /// A version of the pod from the API.
    Pod(Arc<Pod>),
    /// The API has the pod no more.
    Gone,
    Runtime(RuntimeEvent),
    /// Events were lost: look at the runtime again.
    Look,
    /// The pod has to end at once, for this reason.
    Evict {
        reason: String,
        message: String,
        grace: Duration,
        /// The node could not bear the pod: `DisruptionTarget` is told.
        disrupts: bool,
    },
    /// Something that the pod waits for may have changed.
    Wake,
}

/// What the actor's own work brings back.
pub(super) enum Done {
    /// The sandbox, and what its cgroup was set to.
    Sandbox(Result<SandboxStatus, String>, Resources),
    Pass(Progress),
    Killed(String, Result<(), String>),
    PodKilled(Result<(), String>),
    Cleaned(Result<(), String>),
    Resized(Result<(BTreeMap<String, ResourceRequirements>, Resources), String>),
    Removed(Vec<String>),
    /// Runs that nobody asks about any more.
    Pruned(Vec<String>),
    Written(Result<Object, Status>),
    Deleted(Result<(), Status>),
}

/// What others may see of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
    pub observed: Observed,
    /// Nothing of it runs any more.
    pub over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Active,
    Stopping,
    Cleaning,
    Done,
}

/// Ends a task when it is dropped.
pub(super) struct Ends(pub JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct Actor {
    pub(super) context: Arc<Context>,
    /// The newest version known of the API's pod.
    pub(super) pod: Arc<Pod>,
    pub(super) observed: Observed,
    pub(super) verdicts: Verdicts,
    /// Why containers could not be started.
    pub(super) reasons: BTreeMap<String, (String, String)>,
    pub(super) backoffs: BTreeMap<String, Backoff>,
    /// Containers that are not to be tried before a time.
    pub(super) blocked: BTreeMap<String, Timestamp>,
    pub(super) forced: BTreeSet<String>,
    pub(super) actuated: BTreeMap<String, ResourceRequirements>,
    pub(super) resize: Resize,
    allocated: watch::Receiver<()>,
    pub(super) stage: Stage,
    pub(super) volumes: Option<Arc<MountedVolumes>>,
    pub(super) keeper: Option<Keeper>,
    pub(super) making_sandbox: bool,
    pub(super) sandbox_retry: Option<Timestamp>,
    pub(super) pass: Option<Ends>,
    /// The version of the pod whose containers are being started.
    pub(super) starting: Option<Arc<Pod>>,
    pub(super) killing: BTreeSet<String>,
    pub(super) removing: bool,
    pub(super) pruning: bool,
    pub(super) probes: BTreeMap<(String, ProbeKind), Ends>,
    /// When the pod's containers have to be gone, while it is being ended.
    pub(super) deadline: Option<watch::Sender<Instant>>,
    /// The pod has failed as a whole, for this reason.
    pub(super) failure: Option<(String, String)>,
    /// The pod was never let in: nothing is to be said of its containers.
    refused: bool,
    /// Why the node had to end the pod.
    disruption: Option<String>,
    pub(super) gone: bool,
    pub(super) status: Arc<PodStatus>,
    pub(super) writing: bool,
    pub(super) write_retry: Option<Timestamp>,
    /// The patch that the API has taken last: asking for the same again would change nothing.
    pub(super) sent: Option<knarr_core::Value>,
    pub(super) deleting: bool,
    pub(super) end_retry: Option<Timestamp>,
    view: watch::Sender<Arc<PodView>>,
    inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) done: mpsc::UnboundedSender<Done>,
    done_inbox: mpsc::UnboundedReceiver<Done>,
    pub(super) said: mpsc::UnboundedSender<probes::Said>,
    said_inbox: mpsc::UnboundedReceiver<probes::Said>,
    pub(super) mounted: mpsc::UnboundedSender<volumes::Outcome>,
    mounted_inbox: mpsc::UnboundedReceiver<volumes::Outcome>,
    pub(super) progress: mpsc::UnboundedSender<Progress>,
    progress_inbox: mpsc::UnboundedReceiver<Progress>,
}

/// The ways to an actor.
#[derive(Clone)]
pub struct Handle {
    pub messages: mpsc::UnboundedSender<Message>,
    pub view: watch::Receiver<Arc<PodView>>,
}

impl Actor {
    /// Makes the actor of a pod that may run already (`observed`), and the ways to it. A `rejection` (reason, message) makes it
    /// fail at once. The caller runs it.
    pub fn new(context: Arc<Context>, given: Given, observed: Observed, rejection: Option<(String, String)>) -> (Self, Handle) {
        let (pod, allocated) = (given.pod, context.allocations.changes());
        let (messages, inbox) = mpsc::unbounded_channel();
        let (done, done_inbox) = mpsc::unbounded_channel();
        let (said, said_inbox) = mpsc::unbounded_channel();
        let (mounted, mounted_inbox) = mpsc::unbounded_channel();
        let (progress, progress_inbox) = mpsc::unbounded_channel();
        let status = Arc::new(pod.status().clone());
        let (view, view_receiver) = watch::channel(Arc::new(PodView { pod: pod.clone(), status: status.clone(), observed: observed.clone(), over: false }));
        let refused = rejection.is_some();
        let mut actor = Self {
            context,
            observed,
            verdicts: Verdicts::default(),
            reasons: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            blocked: BTreeMap::new(),
            forced: BTreeSet::new(),
            actuated: BTreeMap::new(),
            resize: Resize { pending: given.pending, ..Resize::default() },
            allocated,
            stage: Stage::Active,
            volumes: None,
            keeper: None,
            making_sandbox: false,
            sandbox_retry: None,
            pass: None,
            starting: None,
            killing: BTreeSet::new(),
            removing: false,
            pruning: false,
            probes: BTreeMap::new(),
            deadline: None,
            failure: rejection,
            refused,
            disruption: None,
            gone: false,
            status,
            writing: false,
            write_retry: None,
            sent: None,
            deleting: false,
            end_retry: None,
            view,
            inbox,
            done,
            done_inbox,
            said,
            said_inbox,
            mounted,
            mounted_inbox,
            progress,
            progress_inbox,
            pod,
        };
        actor.adopt();
        (actor, Handle { messages, view: view_receiver })
    }

    /// Takes over containers that ran before this agent did: what the API was told of their resources is what they have.
    fn adopt(&mut self) {
        let told = self.pod.status().clone();
        let statuses = || told.init_container_statuses.iter().flatten().chain(told.container_statuses.iter().flatten());
        let spec = self.pod.spec();
        for container in super::spec::init_containers(spec).iter().chain(&spec.containers) {
            if self.observed.find(&container.name).is_some() {
                let known = statuses().find(|s| s.name == container.name).and_then(|s| s.resources.clone());
                self.actuated.insert(container.name.clone(), known.or_else(|| container.resources.clone()).unwrap_or_default());
            }
        }
        if self.observed.active_sandbox().is_some() {
            // Which limits the pod's cgroup has is not told by anybody: it is set again where a container's differs.
            let behind = spec.containers.iter().any(|c| self.actuated.get(&c.name).is_some_and(|a| !same_resources(Some(a), c.resources.as_ref())));
            self.resize.pod_cgroup = Some(if behind { Resources::default() } else { super::resources::pod_cgroup(&self.pod) });
        }
    }

    /// Runs until the pod is gone from the API and nothing is left of it here.
    pub async fn run(mut self) {
        loop {
            self.sync();
            if self.is_finished() {
                return;
            }
            // A probe that says what it said before is no reason to think again.
            while !self.hear().await {}
        }
    }

    /// Waits for the next thing to hear, and takes in all that is there. Gives whether any of it is news.
    async fn hear(&mut self) -> bool {
        let wake = self.next_wake();
        let sleep = async move {
            match wake {
                Some(at) => tokio::time::sleep(at).await,
                None => std::future::pending().await,
            }
        };
        let mut news = true;
        tokio::select! {
            message = self.inbox.recv() => match message {
                Some(message) => self.take_message(message).await,
                // The agent stops: containers live on.
                None => std::future::pending().await,
            },
            Some(done) = self.done_inbox.recv() => self.take_done(done).await,
            Some(progress) = self.progress_inbox.recv() => self.take_progress(progress).await,
            Some(said) = self.said_inbox.recv() => news = self.take_verdict(said),
            Some(outcome) = self.mounted_inbox.recv() => self.take_volumes(outcome),
            Ok(()) = self.allocated.changed() => if let Some(given) = self.context.allocations.of(self.pod.uid()) {
                self.take_allocation(given);
            },
            () = sleep => {}
        }
        self.hear_rest().await || news
    }

    /// What has come meanwhile is taken in before the next decision. Gives whether any of it is news.
    async fn hear_rest(&mut self) -> bool {
        let mut news = false;
        loop {
            if let Ok(said) = self.said_inbox.try_recv() {
                news |= self.take_verdict(said);
                continue;
            }
            if let Ok(message) = self.inbox.try_recv() {
                self.take_message(message).await;
            } else if let Ok(done) = self.done_inbox.try_recv() {
                self.take_done(done).await;
            } else if let Ok(progress) = self.progress_inbox.try_recv() {
                self.take_progress(progress).await;
            } else if let Ok(outcome) = self.mounted_inbox.try_recv() {
                self.take_volumes(outcome);
            } else {
                return news;
            }
            news = true;
        }
    }

    async fn take_message(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.take_pod(pod),
            Message::Gone => self.gone = true,
            Message::Runtime(event) => self.take_event(event).await,
            Message::Look => self.look_again().await,
            Message::Evict { reason, message, grace, disrupts } => {
                if disrupts && self.failure.is_none() {
                    self.disruption = Some(message.clone());
                }
                self.failure.get_or_insert((reason, message));
                self.end(grace);
            }
            Message::Wake => self.blocked.clear(),
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        let version = |p: &Pod| p.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
        if version(&pod) < version(&self.pod) {
            return;
        }
        let news = pod.metadata.generation != self.pod.metadata.generation
            || pod.metadata.annotations != self.pod.metadata.annotations
            || pod.is_deleting() != self.pod.is_deleting();
        if pod.status != self.pod.status {
            self.sent = None;
        }
        self.take_version(pod);
        if let Some(keeper) = &self.keeper {
            keeper.update(self.pod.clone());
        }
        if news {
            // What could not be made of the old version may be possible with this one. Crashes still have to wait.
            let reasons = &self.reasons;
            self.blocked.retain(|name, _| reasons.get(name).is_some_and(|(reason, _)| matches!(reason.as_str(), "CrashLoopBackOff" | "ImagePullBackOff")));
        }
        if self.stage == Stage::Stopping {
            self.end(kill::pod_grace(&self.pod));
        }
    }

    /// Goes on with a newer version of the pod, as far as its resources have been allocated.
    pub(super) fn take_version(&mut self, pod: Arc<Pod>) {
        if self.stage == Stage::Active && self.failure.is_none() {
            let given = self.context.allocations.update(&self.context, &pod);
            self.take_allocation(given);
        } else {
            self.pod = pod;
        }
    }

    async fn take_event(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::ContainerStarted { container_id, .. } | RuntimeEvent::ContainerExited { container_id, .. } => self.look_at(&container_id).await,
            RuntimeEvent::SandboxGone { .. } => self.look_again().await,
        }
    }

    /// Looks at one container again.
    pub(super) async fn look_at(&mut self, id: &str) {
        match look::container(&self.context, &self.observed.sandboxes, id).await {
            Ok(Some(seen)) => {
                if seen.has_exited() {
                    self.forget_probes(id);
                    self.forced_is_over(&seen.name);
                }
                self.observed.put(seen);
            }
            Ok(None) => self.observed.remove(id),
            Err(error) => tracing::warn!(pod = self.pod.described(), container = id, %error, "cannot look at a container"),
        }
    }

    fn forced_is_over(&mut self, name: &str) {
        // A start that was promised while the container ran stays promised until it happens.
        if self.observed.find(name).is_none() {
            self.forced.remove(name);
        }
    }

    /// Looks at everything of this pod again.
    pub(super) async fn look_again(&mut self) {
        match look::pod(&self.context, self.pod.uid()).await {
            Ok(mut fresh) => {
                if fresh.ips.is_empty() {
                    // The last status still names the addresses of a sandbox that has ended.
                    fresh.ips = std::mem::take(&mut self.observed.ips);
                }
                self.observed = fresh;
                let ended: Vec<String> = self.observed.containers.iter().filter(|c| c.has_exited()).map(|c| c.id.clone()).collect();
                ended.iter().for_each(|id| self.forget_probes(id));
            }
            Err(error) => tracing::warn!(pod = self.pod.described(), %error, "cannot look at the pod's containers"),
        }
    }

    /// Gives whether the verdict is news.
    fn take_verdict(&mut self, (kind, id, verdict): probes::Said) -> bool {
        self.observed.containers.iter().any(|c| c.id == id && c.is_running()) && self.verdicts.set(kind, &id, verdict)
    }

    fn take_volumes(&mut self, outcome: volumes::Outcome) {
        match outcome {
            Ok(mounted) => self.volumes = Some(mounted),
            Err(failures) => failures.iter().for_each(|f| self.event(Level::Warning, "FailedMount", &f.event())),
        }
    }

    pub(super) fn event(&self, level: Level, reason: &str, message: &str) {
        self.context.events.record(pod_reference(&self.pod), level, reason, message);
    }

    /// Begins to end the pod, or shortens the time it has left for that.
    pub(super) fn end(&mut self, grace: Duration) {
        let until = Instant::now() + grace;
        match &self.deadline {
            Some(deadline) => {
                deadline.send_if_modified(|d| {
                    let sooner = until < *d;
                    if sooner {
                        *d = until;
                    }
                    sooner
                });
            }
            None => self.deadline = Some(watch::channel(until).0),
        }
    }

    /// One round: what is the state, what is to be told, what is to be done.
    fn sync(&mut self) {
        let now = self.context.env.now();
        self.check_deadline(now);
        self.check_resize();
        let finished = self.make_status(now);
        if self.stage == Stage::Active {
            let plan = self.plan();
            let over = plan.kill_pod && !plan.create_sandbox;
            if self.deadline.is_none() && (finished || over || self.pod.is_deleting() || self.gone || self.failure.is_some()) {
                self.end(kill::pod_grace(&self.pod));
            }
            if self.deadline.is_some() {
                self.begin_stopping();
            } else {
                self.act(&plan, now);
            }
        }
        self.go_on_ending(now);
        self.publish();
        self.write_status(now);
    }

    pub(super) fn plan(&self) -> Plan {
        let restarting_all = self.status.conditions.iter().flatten().any(|c| c.type_ == "AllContainersRestarting" && c.status == "True");
        decide::decide(&View {
            pod: &self.pod,
            observed: &self.observed,
            verdicts: &self.verdicts,
            restarting_all,
            actuated: &self.actuated,
            forced: &self.forced,
        })
    }

    fn check_deadline(&mut self, now: Timestamp) {
        if self.stage == Stage::Active && self.failure.is_none() && self.active_deadline().is_some_and(|at| now >= at) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.event(Level::Warning, "DeadlineExceeded", message);
            self.failure = Some(("DeadlineExceeded".into(), message.into()));
        }
    }

    pub(super) fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec().active_deadline_seconds?;
        Some(self.status.start_time.as_ref()?.0 + SignedDuration::from_secs(seconds))
    }

    /// Until when nothing is told, because containers that the node has ended are about to run again.
    fn untold_until(&self) -> Option<Timestamp> {
        let active = self.stage == Stage::Active && self.failure.is_none() && self.deadline.is_none();
        let replaced = self.forced.iter().filter(|name| active && !self.reasons.contains_key(*name));
        let ended = replaced.filter_map(|name| self.observed.find(name).filter(|seen| seen.has_exited())?.finished_at);
        Some(ended.max()? + REPLACEMENT_UNTOLD)
    }

    /// Makes the status anew. Gives whether the pod has come to its end by itself.
    pub(super) fn make_status(&mut self, now: Timestamp) -> bool {
        if self.untold_until().is_some_and(|until| now < until) {
            return false;
        }
        let host_ips = self.context.config.host_ips();
        let resize_conditions = if self.stage == Stage::Active { self.resize.conditions() } else { Vec::new() };
        let input = Input {
            pod: &self.pod,
            old: &self.status,
            observed: &self.observed,
            reasons: &self.reasons,
            verdicts: &self.verdicts,
            terminal: matches!(self.stage, Stage::Cleaning | Stage::Done),
            could_run: matches!(self.stage, Stage::Active | Stage::Stopping),
            prepared: self.volumes.is_some() || self.stage != Stage::Active || self.observed.containers.iter().any(|c| c.is_running()),
            failure: self.failure.as_ref().map(|(r, m)| (r.as_str(), m.as_str())),
            disruption: self.disruption.as_deref(),
            resize_conditions: &resize_conditions,
            host_ips: &host_ips,
            now,
            agent_started: self.context.started,
        };
        let made = status::generate(&input);
        let mut status = made.status;
        if self.refused {
            (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses) = (None, None, None);
        } else if self.stage == Stage::Done {
            status = status::terminate(&self.pod, status, now);
        }
        if *self.status != status {
            self.status = Arc::new(status);
        }
        made.finished
    }

    fn publish(&self) {
        let over = self.stage == Stage::Done;
        let view = PodView { pod: self.pod.clone(), status: self.status.clone(), observed: self.observed.clone(), over };
        self.view.send_replace(Arc::new(view));
    }

    /// The next time at which something is due though nothing happens.
    fn next_wake(&self) -> Option<Duration> {
        let now = self.context.env.now();
        let active = self.stage == Stage::Active;
        let deadline = self.active_deadline().filter(|_| active && self.failure.is_none());
        let blocked = self.blocked.values().min().copied().filter(|_| active && self.pass.is_none());
        let untold = self.untold_until().filter(|until| now < *until);
        let due = [deadline, blocked, untold, self.sandbox_retry.filter(|_| active), self.resize_due().filter(|_| active), self.write_retry, self.end_retry]
            .into_iter()
            .flatten()
            .min()?;
        Some(Duration::try_from(due.duration_since(now)).unwrap_or_default())
    }
}
