//! What the actor sets going, and what it does with what comes back.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use knarr_client::{Deletion, Patch, read};
use knarr_core::{Object, Status};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::{Actor, Done, Ends, RETRY, RETRY_SOON, Stage};
use super::decide::{Kill, Plan};
use super::kill::{self, Killing, grace_period};
use super::observed::{ID_PREFIX, ProbeKind, Seen, Verdict};
use super::patch::status_patch;
use super::spec::{self, PodExt, Role, find_container};
use super::start::{Failure, Item, Pass, Progress};
use super::{look, resources, sandbox};
use crate::backoff::{Backoff, go_duration};
use crate::events::{Level, container_reference};
use crate::probes::Prober;
use crate::volumes::{self, Keeper};

impl Actor {
    /// Does what the plan says, as far as it can be done now.
    pub(super) fn act(&mut self, plan: &Plan, now: Timestamp) {
        self.keep_volumes();
        if !plan.reset.is_empty() {
            self.reset(plan);
            return;
        }
        plan.kill.iter().for_each(|k| self.kill(k, plan));
        if plan.create_sandbox {
            self.make_sandbox(plan, now);
        } else {
            self.resize(&plan.resize, now);
            self.start(plan, now);
        }
        self.keep_probes();
        self.prune();
    }

    /// Of the runs of a container that have ended only the last is kept: the status tells of it, and its log can be read (upstream:
    /// `MaxPerPodContainerCount`).
    fn prune(&mut self) {
        if self.pruning || self.removing || self.pass.is_some() {
            return;
        }
        let superseded = super::observed::superseded(&self.observed);
        if superseded.is_empty() {
            return;
        }
        self.pruning = true;
        let (context, pod, done) = (self.context.clone(), self.pod.clone(), self.done.clone());
        tokio::spawn(async move {
            let mut removed = Vec::new();
            for seen in superseded {
                match sandbox::remove_container(&context, &seen.id).await {
                    Ok(()) => {
                        crate::logs::links::unlink(&context.config, &pod, &seen.name, &seen.id);
                        crate::logs::rotate::remove(&crate::container::config::pod_log_dir(&context, &pod).join(&seen.log_path));
                        removed.push(seen.id);
                    }
                    Err(error) => tracing::warn!(pod = pod.described(), container = seen.name, error, "cannot remove a run that is over"),
                }
            }
            drop(done.send(Done::Pruned(removed)));
        });
    }

    fn keep_volumes(&mut self) {
        if self.keeper.is_none() {
            self.keeper = Some(Keeper::start(self.context.clone(), self.pod.clone(), self.mounted.clone()));
        }
    }

    /// Removes all containers for an in-place restart of the pod, one after the other.
    fn reset(&mut self, plan: &Plan) {
        if self.removing || self.pass.is_some() {
            return;
        }
        self.removing = true;
        let (context, done, resets) = (self.context.clone(), self.done.clone(), plan.reset.clone());
        self.probes.clear();
        tokio::spawn(async move {
            let mut removed = Vec::new();
            for reset in resets {
                if reset.kill
                    && let Err(error) = context.runtime.stop_container(&reset.id, Duration::from_secs(2)).await
                {
                    tracing::warn!(container = reset.name, %error, "cannot end a container for the restart of its pod");
                    break;
                }
                match sandbox::remove_container(&context, &reset.id).await {
                    Ok(()) => removed.push(reset.id),
                    Err(error) => {
                        tracing::warn!(container = reset.name, error, "cannot remove a container for the restart of its pod");
                        break;
                    }
                }
            }
            drop(done.send(Done::Removed(removed)));
        });
    }

    fn pod_ip(&self) -> String {
        self.status.pod_ip.clone().unwrap_or_default()
    }

    fn kill(&mut self, wanted: &Kill, plan: &Plan) {
        let Some((container, _)) = find_container(self.pod.spec(), &wanted.name) else { return };
        if !self.killing.insert(wanted.id.clone()) {
            return;
        }
        if plan.start.iter().any(|(_, name)| *name == wanted.name) {
            self.forced.insert(wanted.name.clone());
        }
        self.forget_probes(&wanted.id);
        let deadline = watch::channel(Instant::now() + grace_period(&self.pod, &container, wanted.reason)).1;
        let killing = Killing {
            context: self.context.clone(),
            pod: self.pod.clone(),
            container,
            id: wanted.id.clone(),
            pod_ip: self.pod_ip(),
            message: wanted.message.clone(),
        };
        let (done, id) = (self.done.clone(), wanted.id.clone());
        tokio::spawn(async move {
            let result = killing.run(deadline, std::future::ready(())).await;
            drop(done.send(Done::Killed(id, result)));
        });
    }

    fn make_sandbox(&mut self, plan: &Plan, now: Timestamp) {
        if self.making_sandbox || self.pass.is_some() || self.sandbox_retry.is_some_and(|at| now < at) {
            return;
        }
        if !self.pod.host_network()
            && let Some(problem) = self.context.network.problem().borrow().clone()
        {
            self.event(Level::Warning, "NetworkNotReady", &format!("network is not ready: {problem}"));
            self.sandbox_retry = Some(now + RETRY_SOON);
            return;
        }
        if plan.sandbox.is_some() {
            self.event(Level::Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
        (self.making_sandbox, self.sandbox_retry) = (true, None);
        let (context, pod, observed, done) = (self.context.clone(), self.pod.clone(), self.observed.clone(), self.done.clone());
        let attempt = plan.attempt;
        tokio::spawn(async move {
            let cgroup = resources::pod_cgroup(&pod);
            let result = async {
                if !observed.sandboxes.is_empty() {
                    let deadline = watch::channel(Instant::now() + kill::pod_grace(&pod)).1;
                    kill::kill_pod(context.clone(), pod.clone(), observed.clone(), deadline).await?;
                    let is_init = |name: &str| spec::init_containers(pod.spec()).iter().any(|c| c.name == name);
                    for init in observed.containers.iter().filter(|c| is_init(&c.name)) {
                        sandbox::remove_container(&context, &init.id).await?;
                    }
                }
                sandbox::create(&context, &pod, attempt).await
            };
            drop(done.send(Done::Sandbox(result.await, cgroup)));
        });
    }

    /// Starts what the plan names and nothing holds back.
    fn start(&mut self, plan: &Plan, now: Timestamp) {
        if self.pass.is_some() || plan.start.is_empty() || self.removing {
            return;
        }
        let (Some(volumes), Some(sandbox)) = (self.volumes.clone(), self.observed.active_sandbox().map(|s| s.id.clone())) else { return };
        let mut items = Vec::new();
        for (role, name) in &plan.start {
            let dying = self.observed.containers.iter().any(|c| c.name == *name && self.killing.contains(&c.id));
            let held = dying || self.blocked.get(name).is_some_and(|at| now < *at) || self.is_in_back_off(name, now);
            if !held {
                items.push(self.item(*role, name));
            } else if *role == Role::Init {
                break;
            }
        }
        if items.is_empty() {
            return;
        }
        for item in &items {
            self.blocked.remove(&item.name);
        }
        let ips = self.status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        self.starting = Some(self.pod.clone());
        let pass = Pass { context: self.context.clone(), pod: self.pod.clone(), sandbox_id: sandbox, ips, volumes, items };
        self.pass = Some(Ends(tokio::spawn(pass.run(self.progress.clone()))));
    }

    fn item(&self, role: Role, name: &str) -> Item {
        let attempt = match self.observed.find(name) {
            Some(last) => u32::try_from(last.restart_count + 1).unwrap_or_default(),
            None => self.attempt_by_logs(name),
        };
        let target = spec::ephemeral_containers(self.pod.spec()).iter().find(|e| e.name == name).and_then(|e| e.target_container_name.as_deref());
        let target = target.and_then(|t| self.observed.find(t)).map(|s| s.id.clone());
        Item { role, name: name.to_owned(), attempt, target }
    }

    /// After a reboot the runtime may know no earlier run, but its log files are there (upstream: `calcRestartCountByLogDir`).
    fn attempt_by_logs(&self, name: &str) -> u32 {
        let dir = crate::container::config::pod_log_dir(&self.context, &self.pod).join(name);
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.split_once(".log")?.0.parse::<u32>().ok());
        numbers.max().map_or(0, |n| n + 1)
    }

    /// Whether a crashed container has to wait; if so that is told, else this attempt is counted (upstream: `doBackOff`).
    fn is_in_back_off(&mut self, name: &str, now: Timestamp) -> bool {
        let Some(ended_at) = self.observed.containers.iter().find(|c| c.name == name && c.has_exited()).and_then(|c| c.finished_at) else { return false };
        let backoff = self.backoffs.get(name).copied();
        let Some((until, wait)) = backoff.and_then(|b| Some((b.until_since(ended_at, now)?, b.wait))) else {
            self.backoffs.insert(name.to_owned(), Backoff::next(backoff, ended_at, now));
            return false;
        };
        let pod = self.pod.described();
        self.context.events.record(
            container_reference(&self.pod, name),
            Level::Warning,
            "BackOff",
            &format!("Back-off restarting failed container {name} in pod {pod}"),
        );
        let message = format!("back-off {} restarting failed container={name} pod={pod}", go_duration(wait));
        self.reasons.insert(name.to_owned(), ("CrashLoopBackOff".into(), message));
        self.blocked.insert(name.to_owned(), until);
        true
    }

    /// Every running container has the probes that are due, and no others.
    fn keep_probes(&mut self) {
        let containers: Vec<(Container, Seen)> = {
            let spec = self.pod.spec();
            let probed = spec::init_containers(spec).iter().filter(|c| spec::is_restartable_init(c)).chain(&spec.containers);
            let running = |c: &Container| self.observed.find(&c.name).filter(|s| s.is_running() && !self.killing.contains(&s.id)).cloned();
            probed
                .filter(|c| c.startup_probe.is_some() || c.readiness_probe.is_some() || c.liveness_probe.is_some())
                .filter_map(|c| Some((c.clone(), running(c)?)))
                .collect()
        };
        for (container, seen) in containers {
            self.first_verdicts(&container, &seen);
            let started =
                container.startup_probe.is_none() || self.verdicts.get(ProbeKind::Startup, &seen.id) == Some(Verdict::Success) || self.was_started(&seen);
            let wanted = if started { [ProbeKind::Readiness, ProbeKind::Liveness].as_slice() } else { &[ProbeKind::Startup] };
            for kind in wanted {
                self.keep_probe(*kind, &container, &seen);
            }
        }
    }

    /// Whether a container that ran before this agent did had started up then.
    fn was_started(&self, seen: &Seen) -> bool {
        let id = format!("{ID_PREFIX}{}", seen.id);
        let told = self.pod.status();
        let mut statuses = told.init_container_statuses.iter().flatten().chain(told.container_statuses.iter().flatten());
        let mut had = || statuses.any(|s| s.container_id.as_deref() == Some(&id) && s.started == Some(true));
        self.verdicts.get(ProbeKind::Startup, &seen.id).is_none() && self.is_adopted(seen) && had()
    }

    fn is_adopted(&self, seen: &Seen) -> bool {
        seen.started_at.is_some_and(|at| at < self.context.started)
    }

    fn first_verdicts(&mut self, container: &Container, seen: &Seen) {
        if self.is_adopted(seen) {
            return;
        }
        let first = [
            (ProbeKind::Startup, container.startup_probe.is_some(), Verdict::Unknown),
            (ProbeKind::Readiness, container.readiness_probe.is_some(), Verdict::Failure),
            (ProbeKind::Liveness, container.liveness_probe.is_some(), Verdict::Success),
        ];
        for (kind, wanted, verdict) in first {
            if wanted && self.verdicts.get(kind, &seen.id).is_none() {
                self.verdicts.set(kind, &seen.id, verdict);
            }
        }
    }

    fn keep_probe(&mut self, kind: ProbeKind, container: &Container, seen: &Seen) {
        let key = (seen.id.clone(), kind);
        let has = match kind {
            ProbeKind::Startup => container.startup_probe.is_some(),
            ProbeKind::Readiness => container.readiness_probe.is_some(),
            ProbeKind::Liveness => container.liveness_probe.is_some(),
        };
        if !has || self.probes.contains_key(&key) {
            return;
        }
        let prober = Prober {
            context: self.context.clone(),
            pod: self.pod.clone(),
            container: container.clone(),
            kind,
            container_id: seen.id.clone(),
            started_at: seen.started_at.unwrap_or(seen.created_at),
            pod_ip: self.pod_ip(),
        };
        self.probes.insert(key, Ends(tokio::spawn(prober.run(self.said.clone()))));
    }

    pub(super) fn forget_probes(&mut self, id: &str) {
        self.probes.retain(|(container, _), _| container != id);
        self.verdicts.forget(id);
    }

    pub(super) async fn take_progress(&mut self, progress: Progress) {
        self.take_done(Done::Pass(progress)).await;
    }

    pub(super) async fn take_done(&mut self, done: Done) {
        let now = self.context.env.now();
        match done {
            Done::Sandbox(result, cgroup) => {
                if result.is_ok() {
                    self.resize.pod_cgroup = Some(cgroup);
                }
                self.sandbox_made(result, now).await;
            }
            Done::Pass(Progress::Changed(id)) => self.look_at(&id).await,
            Done::Pass(Progress::Settled(name, result)) => self.settled(&name, result, now),
            Done::Pass(Progress::Over) => self.pass = None,
            Done::Killed(id, result) => self.killed(&id, result).await,
            Done::PodKilled(result) => self.pod_killed(result, now).await,
            Done::Cleaned(result) => self.cleaned(result, now),
            Done::Resized(result) => self.resized(result, now).await,
            Done::Removed(ids) => {
                ids.iter().for_each(|id| self.observed.remove(id));
                self.removing = false;
                self.look_again().await;
            }
            Done::Pruned(ids) => {
                self.pruning = false;
                ids.iter().for_each(|id| self.observed.remove(id));
            }
            Done::Written(result) => self.written(result, now),
            Done::Deleted(result) => self.deleted(result, now),
        }
    }

    async fn sandbox_made(&mut self, result: Result<knarr_runtime::cri::SandboxStatus, String>, now: Timestamp) {
        self.making_sandbox = false;
        match result {
            Ok(made) => {
                self.look_again().await;
                if self.observed.active_sandbox().is_none_or(|s| s.id != made.id) {
                    tracing::warn!(pod = self.pod.described(), sandbox = made.id, "a sandbox that was just made is gone");
                }
            }
            Err(error) => {
                if self.deadline.is_none() {
                    self.event(Level::Warning, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error}"));
                }
                self.sandbox_retry = Some(now + self.jittered(RETRY));
                self.look_again().await;
            }
        }
    }

    /// A pause and up to half of it more.
    fn jittered(&self, pause: SignedDuration) -> SignedDuration {
        let half = u64::try_from(pause.as_millis() / 2).unwrap_or(1).max(1);
        pause + SignedDuration::from_millis(i64::try_from(self.context.env.below(half)).unwrap_or_default())
    }

    fn settled(&mut self, name: &str, result: Result<(), Failure>, now: Timestamp) {
        match result {
            Ok(()) => {
                self.reasons.remove(name);
                self.forced.remove(name);
                let pod = self.starting.as_ref().unwrap_or(&self.pod);
                if let Some((container, _)) = find_container(pod.spec(), name) {
                    self.actuated.insert(name.to_owned(), container.resources.unwrap_or_default());
                }
            }
            Err(failure) => {
                let at_once = failure.retry_at.is_none() && failure.reason == "ErrImagePull";
                if !at_once {
                    self.blocked.insert(name.to_owned(), failure.retry_at.unwrap_or_else(|| now + self.jittered(RETRY)));
                }
                self.reasons.insert(name.to_owned(), (failure.reason, failure.message));
            }
        }
    }

    async fn killed(&mut self, id: &str, result: Result<(), String>) {
        self.killing.remove(id);
        if let Err(error) = result {
            tracing::warn!(pod = self.pod.described(), container = id, error, "cannot end a container");
        }
        self.look_at(id).await;
    }

    /// From now on nothing new begins; what runs is ended.
    pub(super) fn begin_stopping(&mut self) {
        self.stage = Stage::Stopping;
        self.pass = None;
        self.probes.retain(|(_, kind), _| *kind == ProbeKind::Readiness);
        self.end_retry = Some(self.context.env.now());
    }

    /// The steps after `Stopping`, each when the one before is done.
    pub(super) fn go_on_ending(&mut self, now: Timestamp) {
        let due = self.end_retry.is_some_and(|at| now >= at);
        match self.stage {
            Stage::Active => {}
            Stage::Stopping if due && !self.making_sandbox => {
                self.end_retry = None;
                self.stop_all();
            }
            Stage::Cleaning if due => {
                self.end_retry = None;
                self.clean();
            }
            Stage::Done => self.finish(due),
            Stage::Stopping | Stage::Cleaning => {}
        }
    }

    fn stop_all(&mut self) {
        let Some(deadline) = self.deadline.as_ref().map(watch::Sender::subscribe) else { return };
        let (context, pod, done) = (self.context.clone(), self.pod.clone(), self.done.clone());
        tokio::spawn(async move {
            // What began to start a moment ago may not be known yet: the runtime is asked.
            let result = match look::pod(&context, pod.uid()).await {
                Ok(observed) => kill::kill_pod(context, pod, observed, deadline).await,
                Err(error) => Err(error.to_string()),
            };
            drop(done.send(Done::PodKilled(result)));
        });
    }

    async fn pod_killed(&mut self, result: Result<(), String>, now: Timestamp) {
        self.look_again().await;
        let error = match result {
            Ok(()) if self.observed.running().next().is_none() => {
                self.probes.clear();
                self.keeper = None;
                // From now on the status says that the pod has ended, and the scheduler gives its place away.
                self.context.allocations.release(&self.context, self.pod.uid());
                (self.stage, self.end_retry) = (Stage::Cleaning, Some(now));
                return;
            }
            // Something began to run while the rest was ended.
            Ok(()) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            self.event(Level::Warning, "FailedKillPod", &format!("error killing pod: {error}"));
        }
        self.end_retry = Some(now + RETRY_SOON);
    }

    fn clean(&mut self) {
        let (context, done, uid) = (self.context.clone(), self.done.clone(), self.pod.uid().to_owned());
        tokio::task::spawn_blocking(move || {
            let result = volumes::tear_down(&context, &uid).map_err(|e| e.to_string());
            drop(done.send(Done::Cleaned(result)));
        });
    }

    fn cleaned(&mut self, result: Result<(), String>, now: Timestamp) {
        match result {
            Ok(()) => {
                self.context.tokens.forget(self.pod.uid());
                (self.stage, self.end_retry) = (Stage::Done, None);
            }
            Err(error) => {
                tracing::warn!(pod = self.pod.described(), error, "cannot take the pod's volumes away");
                self.end_retry = Some(now + RETRY_SOON);
            }
        }
    }

    /// Deletes the API's object once it says that the pod has ended, and removes what is left here once it is gone.
    fn finish(&mut self, due: bool) {
        let told = matches!(self.pod.status().phase.as_deref(), Some("Succeeded" | "Failed")) && self.untold().is_none();
        let waits = self.end_retry.is_some() && !due;
        if self.gone || !self.pod.is_deleting() || !told || self.deleting || waits {
            return;
        }
        (self.deleting, self.end_retry) = (true, None);
        let pods = self.context.client.within::<k8s_openapi::api::core::v1::Pod>(self.pod.namespace());
        let (name, uid, done) = (self.pod.name().to_owned(), self.pod.uid().to_owned(), self.done.clone());
        tokio::spawn(async move {
            let deletion = Deletion { grace_period_seconds: Some(0), ..Deletion::of_uid(uid) };
            let result = pods.delete(&name, &deletion).await.map(drop);
            drop(done.send(Done::Deleted(result)));
        });
    }

    fn deleted(&mut self, result: Result<(), Status>, now: Timestamp) {
        match result {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                tracing::warn!(pod = self.pod.described(), %error, "cannot delete the pod");
                (self.deleting, self.end_retry) = (false, Some(now + RETRY_SOON));
            }
            // The watch tells when it is gone; finalizers may still hold it.
            _ => {}
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stage == Stage::Done && self.gone
    }

    /// What the API does not say yet. It may write some things in its own way: what it has taken once is told.
    fn untold(&self) -> Option<knarr_core::Value> {
        status_patch(&self.pod, &self.status).filter(|body| self.sent.as_ref() != Some(body))
    }

    /// Sends what differs between the API's status and ours, one write at a time.
    pub(super) fn write_status(&mut self, now: Timestamp) {
        if self.gone || self.writing || self.write_retry.is_some_and(|at| now < at) {
            return;
        }
        let Some(body) = self.untold() else { return };
        (self.writing, self.write_retry) = (true, None);
        self.sent = Some(body.clone());
        let pods = self.context.client.within::<k8s_openapi::api::core::v1::Pod>(self.pod.namespace());
        let (name, done) = (self.pod.name().to_owned(), self.done.clone());
        tokio::spawn(async move {
            let result = pods.dynamic().patch_status(&name, Patch::strategic(body)).await;
            drop(done.send(Done::Written(result)));
        });
    }

    fn written(&mut self, result: Result<Object, Status>, now: Timestamp) {
        self.writing = false;
        let pod = result.and_then(|object| read::typed::<k8s_openapi::api::core::v1::Pod>(&object));
        match pod {
            Ok(pod) if pod.uid() == self.pod.uid() => self.take_version(Arc::new(pod)),
            Ok(_) => self.gone = true,
            // A pod of another uid has taken the name, or none: the watch tells.
            Err(error) if error.is_not_found() || error.is_conflict() => (self.sent, self.write_retry) = (None, Some(now + RETRY)),
            Err(error) => {
                self.sent = None;
                tracing::warn!(pod = self.pod.described(), %error, "cannot write the pod's status");
                self.write_retry = Some(now + RETRY_SOON);
            }
        }
    }
}

/// Removes everything that the runtime and the disk still hold of a pod that is gone.
pub async fn remove_leftovers(context: &crate::context::Context, pod: &k8s_openapi::api::core::v1::Pod) -> Result<(), String> {
    let observed = look::pod(context, pod.uid()).await.map_err(|e| e.to_string())?;
    for seen in &observed.containers {
        crate::logs::links::unlink(&context.config, pod, &seen.name, &seen.id);
        sandbox::remove_container(context, &seen.id).await?;
    }
    for s in &observed.sandboxes {
        sandbox::stop(context, pod, s).await?;
        sandbox::remove(context, &s.id).await?;
    }
    volumes::remove_pod_dir(context, pod.uid()).map_err(|e| e.to_string())?;
    let logs = crate::container::config::pod_log_dir(context, pod);
    knarr_sys::tree::remove(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    context.images.forget(pod.uid());
    context.probes.forget(pod.uid());
    Ok(())
}
