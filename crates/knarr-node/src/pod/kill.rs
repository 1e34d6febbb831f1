//! Ending containers: preStop hook, stop signal, and SIGKILL when the grace period is over. A grace period can only become
//! shorter while it runs (upstream: `kuberuntime_container.go:killContainer`, `kuberuntime_termination_order.go`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Lifecycle, Pod};
use knarr_runtime::cri::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use super::decide::KillReason;
use super::observed::Seen;
use super::sandbox;
use super::spec::{PodExt, find_container, init_containers, is_restartable_init};
use crate::context::Context;
use crate::events::{Level, container_reference};
use crate::lifecycle;

/// Even a pod without grace gets this time between the stop signal and SIGKILL.
const GRACE_MIN: Duration = Duration::from_secs(2);
/// The least grace period that a pod as a whole can have.
const POD_GRACE_MIN: Duration = Duration::from_secs(1);

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

/// The grace period of one container (upstream: `setTerminationGracePeriod`).
pub fn grace_period(pod: &Pod, container: &Container, reason: KillReason) -> Duration {
    let probe = match reason {
        KillReason::StartupProbe => container.startup_probe.as_ref(),
        KillReason::LivenessProbe => container.liveness_probe.as_ref(),
        KillReason::Other => None,
    };
    let of_pod = pod.spec().termination_grace_period_seconds;
    let chosen = pod.metadata.deletion_grace_period_seconds.or_else(|| of_pod.map(|p| probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or(p)));
    chosen.map_or(GRACE_MIN, seconds)
}

/// One container to be ended.
pub struct Killing {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    pub pod_ip: String,
    /// Text of the event; empty: the usual one.
    pub message: String,
}

impl Killing {
    /// Ends the container by `deadline`, which may move closer meanwhile. Sidecars wait for `turn` first.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn run(self, mut deadline: watch::Receiver<Instant>, turn: impl Future<Output = ()>) -> Result<(), String> {
        let reference = container_reference(&self.pod, &self.container.name);
        let message = if self.message.is_empty() { format!("Stopping container {}", self.container.name) } else { self.message.clone() };
        self.context.events.record(reference.clone(), Level::Normal, "Killing", &message);
        let hook = self.container.lifecycle.as_ref().and_then(|l: &Lifecycle| l.pre_stop.as_ref());
        if let Some(hook) = hook.filter(|_| *deadline.borrow() > Instant::now()) {
            let running = lifecycle::run(&self.context, &self.pod, &self.container, &self.id, &self.pod_ip, hook);
            tokio::select! {
                result = running => if result.is_err() {
                    // The message may hold secrets: the event does not tell it.
                    self.context.events.record(reference, Level::Warning, "FailedPreStopHook", "PreStopHook failed");
                },
                () = passed(&mut deadline) => {}
            }
        }
        tokio::select! {
            () = turn => {}
            () = passed(&mut deadline) => {}
        }
        self.stop(deadline).await
    }

    async fn stop(&self, mut deadline: watch::Receiver<Instant>) -> Result<(), String> {
        loop {
            let until = *deadline.borrow_and_update();
            let grace = until.saturating_duration_since(Instant::now()).max(GRACE_MIN);
            tokio::select! {
                result = self.context.runtime.stop_container(&self.id, grace) => return match result {
                    Ok(()) | Err(Error::NotFound(_)) => Ok(()),
                    Err(error) => Err(error.to_string()),
                },
                // Less time than before: ask again with what is left.
                () = moved_closer(&mut deadline, until) => {}
            }
        }
    }
}

/// Waits until the deadline is over.
async fn passed(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let until = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = deadline.changed() => if changed.is_err() {
                tokio::time::sleep_until(until).await;
                return;
            },
        }
    }
}

async fn moved_closer(deadline: &mut watch::Receiver<Instant>, than: Instant) {
    if deadline.wait_for(|d| *d < than).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Ends all of a pod's running containers, sidecars after all others and in reverse order, then its sandboxes.
///
/// # Errors
/// Text of a `FailedKillPod` event; it is to be called again.
pub async fn kill_pod(context: Arc<Context>, pod: Arc<Pod>, observed: super::observed::Observed, deadline: watch::Receiver<Instant>) -> Result<(), String> {
    let pod_ip = observed.ips.first().cloned().unwrap_or_default();
    let mut order = Order::new(&pod, observed.running());
    let mut kills = Vec::new();
    for seen in observed.running() {
        let container = find_container(pod.spec(), &seen.name).map_or_else(|| Container { name: seen.name.clone(), ..Default::default() }, |(c, _)| c);
        let (turn, done) = (order.turn(&seen.name), order.ended.remove(&seen.name));
        let killing = Killing { context: context.clone(), pod: pod.clone(), container, id: seen.id.clone(), pod_ip: pod_ip.clone(), message: String::new() };
        let deadline = deadline.clone();
        kills.push(async move {
            let result = killing.run(deadline, turn).await;
            drop(done);
            result
        });
    }
    let results = futures::future::join_all(kills).await;
    let mut errors: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    for sandbox in &observed.sandboxes {
        errors.extend(sandbox::stop(&context, &pod, sandbox).await.err());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join(", ")) }
}

/// Who waits for whom. Each running container has a sender that is dropped when it has ended.
struct Order {
    ended: BTreeMap<String, watch::Sender<()>>,
    running: BTreeMap<String, watch::Receiver<()>>,
    before: BTreeMap<String, Vec<String>>,
}

impl Order {
    fn new<'a>(pod: &Pod, running: impl Iterator<Item = &'a Seen>) -> Self {
        let (mut ended, mut receivers) = (BTreeMap::new(), BTreeMap::new());
        for seen in running {
            let (sender, receiver) = watch::channel(());
            ended.insert(seen.name.clone(), sender);
            receivers.insert(seen.name.clone(), receiver);
        }
        let spec = pod.spec();
        let mains: Vec<String> = spec.containers.iter().map(|c| c.name.clone()).collect();
        let mut before = BTreeMap::new();
        let mut later: Option<String> = None;
        for sidecar in init_containers(spec).iter().rev().filter(|c| is_restartable_init(c)) {
            before.insert(sidecar.name.clone(), mains.iter().cloned().chain(later.take()).collect());
            later = Some(sidecar.name.clone());
        }
        Self { ended, running: receivers, before }
    }

    /// Waits until everything has ended that has to end before this container.
    fn turn(&self, name: &str) -> impl Future<Output = ()> + Send + use<> {
        let waits: Vec<_> = self.before.get(name).into_iter().flatten().filter_map(|other| self.running.get(other).cloned()).collect();
        async move {
            for mut other in waits {
                // Nobody ever sends: the end of the channel is the end of the container.
                while other.changed().await.is_ok() {}
            }
        }
    }
}

/// The pod's own grace period when it is being ended (upstream: `calculateEffectiveGracePeriod`).
pub fn pod_grace(pod: &Pod) -> Duration {
    let chosen =
        pod.metadata.deletion_grace_period_seconds.filter(|g| *g > 0).or(if pod.is_deleting() { Some(1) } else { pod.spec().termination_grace_period_seconds });
    chosen.map_or(POD_GRACE_MIN, seconds).max(POD_GRACE_MIN)
}
