//! Jobs: pods that run until enough of them succeeded, each counted exactly once. [`plan`] decides, [`track`] counts, this
//! module observes and executes. Upstream: `pkg/controller/job`.
//!
//! Unlike upstream, which waits a second after a change of a pod so as to take several at once, a change is looked at at
//! once; what changes meanwhile is taken together in the next round.

mod backoff;
mod indexes;
mod orphans;
mod plan;
mod pod;
mod policies;
mod track;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::events::reference;
use knarr_client::{Change, Client, EventKind, Informer, Key, Outcome, Patch, Recorder, client, read};
use knarr_core::clock::Env;
use knarr_core::{Result, Status, json};
use parking_lot::Mutex;

use crate::batch::{is_namespace_terminating, slow_start};
use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::ownership;
use crate::pods::{self, PodControl, PodItem, PodView, control::PODS};
use crate::quantities::nonzero;
use backoff::Backoff;
use plan::{Action, Sync, condition, number};
use pod::{JobPod, TRACKING, is_suspended};
pub use view::{End, JobView};

const OWN: &str = "jobs";
/// Pauses of a Job whose round failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

pub fn informer(context: &ControllerContext) -> Informer<JobView> {
    let jobs = context.informer::<Job, JobView>();
    ownership::index_by_controller(&jobs);
    jobs
}

pub fn start(context: &ControllerContext) {
    let client = context.client("job-controller");
    let recorder = context.recorder(&client, "job-controller");
    let this = Arc::new(Controller {
        jobs: informer(context),
        pods: pods::informer(context),
        control: PodControl { client: client.clone(), recorder: recorder.clone(), ledger: Ledger::default() },
        client: client.clone(),
        recorder,
        env: context.env.clone(),
        backoffs: Mutex::default(),
    });
    let queue = context.queue_with("job", RETRY);
    enqueue_all(&this.jobs, &queue);
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| me.jobs_of(change).into_iter().for_each(|key| woken.add(key)));
    orphans::start(context, client, &this.jobs, &this.pods);
    context.run("job", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    jobs: Informer<JobView>,
    pods: Informer<PodView>,
    control: PodControl,
    client: Client,
    recorder: Recorder,
    env: Env,
    backoffs: Mutex<BTreeMap<Key, Backoff>>,
}

/// What came of an [`Action`].
struct Managed {
    active: i32,
    ready: i32,
    terminating: i32,
    wait: Option<Duration>,
    result: Result<()>,
}

impl Controller {
    fn jobs_of(&self, change: &Change<PodView>) -> Vec<Key> {
        let owner = |pod: &Option<PodItem>| {
            let pod = pod.as_ref()?;
            let controller = pod.view.controller.as_deref().filter(|c| &*c.kind == "Job")?;
            Some(Key::new(pod.key.namespace(), &controller.name))
        };
        let mut keys: Vec<Key> = owner(&change.old).into_iter().chain(owner(&change.new)).collect();
        keys.dedup();
        if let Some(orphan) = change.new.as_ref().filter(|p| p.view.controller.is_none()) {
            let open = self.jobs.store().within(orphan.key.namespace()).into_iter().filter(|j| j.view.end.is_none());
            let selects = |job: &Job| selector(job).is_some_and(|s| ownership::labels_match(&orphan.object, &s));
            keys.extend(open.filter(|j| j.typed::<Job>().is_ok_and(|job| selects(&job))).map(|j| j.key.clone()));
        }
        keys
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let ledger = &self.control.ledger;
        if self.jobs.store().get(&key).is_none_or(|j| j.view.end.is_some()) {
            self.backoffs.lock().remove(&key);
            ledger.forget(&key);
            return Ok(Outcome::Done);
        }
        if !ledger.caught_up(&key, PODS, &self.pods).await || !ledger.caught_up(&key, OWN, &self.jobs).await {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.jobs.store().get(&key).filter(|j| j.view.end.is_none() && !j.view.managed_elsewhere) else {
            return Ok(Outcome::Done);
        };
        let mut job: Job = item.typed()?;
        let Some(spec) = job.spec.clone() else { return Ok(Outcome::Done) };
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let text = "Skipped Job sync because completion mode is unknown";
            self.recorder.event(&reference(&job), EventKind::Warning, "UnknownCompletionMode", text);
            return Ok(Outcome::Done);
        }
        let pods = self.claim(&key, &job, &item.view).await?;
        let now = self.env.now();
        let mut status = job.status.clone().unwrap_or_default();
        if status.start_time.is_none() && !is_suspended(&spec) {
            status.start_time = Some(Time(now));
        }
        let before = self.backoffs.lock().get(&key).copied().unwrap_or_default();
        let mut sync = Sync::of(&job, &spec, &status, &pods, before, now);
        let managed = self.manage(&key, &job, &mut sync, &mut status, item.view.deleting).await;
        status.active = nonzero(managed.active);
        status.ready = Some(managed.ready);
        status.terminating = Some(managed.terminating);
        let tracked = track::track(&sync, item.view.deleting, &mut status);
        self.write(&key, &mut job, status).await?;
        self.backoffs.lock().insert(key.clone(), sync.backoff);
        let ended = self.release_and_count(&key, &mut job, &pods, tracked).await?;
        managed.result?;
        let deadline = plan::deadline(&spec, &job.status.unwrap_or_default(), now).filter(|_| !ended && sync.end.is_none());
        Ok([managed.wait, deadline].into_iter().flatten().min().map_or(Outcome::Done, Outcome::After))
    }

    /// The Job's pods; orphans that match become its own. Pods that we deleted already do not count as active.
    async fn claim(&self, key: &Key, job: &Job, view: &JobView) -> Result<Vec<JobPod>> {
        let ledger = &self.control.ledger;
        let selector = selector(job).unwrap_or_else(knarr_core::selector::LabelSelector::nothing);
        let candidates = || ownership::controllees(&self.pods, &view.uid).into_iter().chain(ownership::orphans(&self.pods, key.namespace()));
        let sort = || ownership::claim(&view.uid, view.deleting, candidates(), |p| ownership::labels_match(&p.object, &selector));
        let mut claims = sort();
        if !claims.adopt.is_empty() {
            ownership::may_adopt(&self.client.within::<Job>(key.namespace()), key.name(), &view.uid).await?;
            let me = ownership::controller_reference(job);
            for pod in &claims.adopt {
                let owned = json!({"metadata": {"uid": &*pod.view.uid, "ownerReferences": [me], "finalizers": [TRACKING]}});
                self.control.patch(key, pod.key.name(), Patch::strategic(owned)).await?;
            }
            if !ledger.caught_up(key, PODS, &self.pods).await {
                return Err(Status::internal("adopted pods are not seen yet"));
            }
            claims = sort();
        }
        for pod in &claims.release {
            let freed = json!({"metadata": {"uid": &*pod.view.uid, "ownerReferences": [{"$patch": "delete", "uid": &*view.uid}],
                "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
            self.control.patch(key, pod.key.name(), Patch::strategic(freed)).await?;
        }
        ledger.keep_deleted(key, |uid| claims.owned.iter().any(|p| *p.view.uid == *uid && p.view.deleting.is_none()));
        claims.owned.into_iter().filter(|p| !ledger.is_deleted(key, &p.view.uid)).map(JobPod::read).collect()
    }

    /// Creates or removes pods, and finds out whether the Job is over by that.
    async fn manage(&self, key: &Key, job: &Job, sync: &mut Sync<'_>, status: &mut JobStatus, deleting: bool) -> Managed {
        let about = reference(job);
        let active = sync.active.clone();
        let mut managed = Managed { active: number(active.len()), ready: sync.ready(), terminating: sync.terminating, wait: None, result: Ok(()) };
        if sync.end.is_some() {
            let all_gone = self.remove(key, &about, &active, false, &mut managed).await;
            if !all_gone {
                // Pods that are left may yet succeed or fail: the Job is not over before they are dealt with.
                sync.end = None;
            }
            return managed;
        }
        if !deleting {
            self.act(key, job, &about, sync, &mut managed).await;
        }
        if sync.is_complete(managed.active) {
            sync.end = Some(condition("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods", sync.now));
        } else if !deleting {
            self.suspend_or_resume(&about, sync.spec, status, sync.now);
        }
        managed
    }

    async fn act(&self, key: &Key, job: &Job, about: &ObjectReference, sync: &Sync<'_>, managed: &mut Managed) {
        match sync.action() {
            Action::Nothing => {}
            Action::Wait(pause) => managed.wait = Some(pause),
            Action::Remove(pods) => {
                self.remove(key, about, &pods, true, managed).await;
            }
            Action::Create(indexes) => {
                let pods: Vec<Pod> = indexes.iter().map(|i| pod::new_pod(job, *i, i.and_then(|i| sync.failures_of(i)))).collect();
                let create = |i: usize| {
                    let pod = &pods[i];
                    async move {
                        match self.control.create(key, about, pod).await {
                            Err(error) if is_namespace_terminating(&error) => Ok(()),
                            other => other.map(drop),
                        }
                    }
                };
                let (created, failure) = slow_start(pods.len(), create).await;
                managed.active += number(created);
                managed.result = failure.map_or(Ok(()), Err);
            }
        }
    }

    /// Deletes pods; those that will never be counted lose their finalizer first. True when none is left.
    async fn remove(&self, key: &Key, about: &ObjectReference, pods: &[&JobPod], uncounted: bool, managed: &mut Managed) -> bool {
        let remove = |pod: &JobPod| {
            let (name, uid, tracked) = (pod.item.key.name().to_owned(), pod.uid().to_owned(), pod.tracked);
            async move {
                if uncounted && tracked {
                    self.control.patch(key, &name, release()).await?;
                }
                self.control.delete(key, about, &name, &uid).await
            }
        };
        let results = futures::future::join_all(pods.iter().map(|p| remove(p))).await;
        let mut all = true;
        for (pod, result) in pods.iter().zip(results) {
            match result {
                Ok(()) => {
                    managed.active -= 1;
                    managed.terminating += 1;
                    managed.ready -= i32::from(pod.item.view.is_ready());
                }
                Err(error) => {
                    all = false;
                    managed.result = Err(error);
                }
            }
        }
        all
    }

    fn suspend_or_resume(&self, about: &ObjectReference, spec: &JobSpec, status: &mut JobStatus, now: Timestamp) {
        let (state, reason, event, message) = match is_suspended(spec) {
            true => ("True", "JobSuspended", "Suspended", "Job suspended"),
            false => ("False", "JobResumed", "Resumed", "Job resumed"),
        };
        let new = JobCondition { status: state.to_owned(), ..condition("Suspended", reason, message, now) };
        if track::set(status, new) {
            self.recorder.event(about, EventKind::Normal, event, message);
            // The deadline counts the time since the Job was resumed.
            status.start_time = (!is_suspended(spec)).then_some(Time(now));
        }
    }

    /// Removes the finalizers of pods that the written status has, counts them, and ends the Job when it is over.
    async fn release_and_count(&self, key: &Key, job: &mut Job, pods: &[JobPod], tracked: track::Tracked<'_>) -> Result<bool> {
        let mut left = track::tracked_uids(pods);
        let patches = tracked.release.iter().map(|p| self.control.patch(key, p.item.key.name(), release()));
        let mut failure = None;
        for (pod, result) in tracked.release.iter().zip(futures::future::join_all(patches).await) {
            match result {
                Ok(_) => {
                    left.remove(pod.uid());
                }
                Err(error) => failure = Some(error),
            }
        }
        let mut status = job.status.clone().unwrap_or_default();
        track::count_released(&mut status, &left);
        if let Some(failure) = failure {
            self.write(key, job, status).await?;
            return Err(failure);
        }
        let end = tracked.end.filter(|_| tracked.complete);
        let ended = end.as_ref().is_some_and(|end| track::finish(&mut status, end));
        self.write(key, job, status).await?;
        if let Some(end) = end.filter(|_| ended) {
            self.tell_end(job, &end);
        }
        Ok(ended)
    }

    fn tell_end(&self, job: &Job, end: &JobCondition) {
        let about = reference(job);
        if end.type_ == "Complete" {
            let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or_default();
            if job.spec.as_ref().and_then(|s| s.completions).is_some_and(|completions| succeeded > completions) {
                let text = "Too many succeeded pods running after completion count reached";
                self.recorder.event(&about, EventKind::Warning, "TooManySucceededPods", text);
            }
            self.recorder.event(&about, EventKind::Normal, "Completed", "Job completed");
        } else {
            self.recorder.event(&about, EventKind::Warning, end.reason.as_deref().unwrap_or_default(), end.message.clone().unwrap_or_default());
        }
    }

    /// Writes a status that differs; the Job becomes what the API made of it. No second try on a conflict: a count must
    /// rest on the newest status.
    async fn write(&self, key: &Key, job: &mut Job, status: JobStatus) -> Result<()> {
        if job.status.as_ref() == Some(&status) {
            return Ok(());
        }
        job.status = Some(status);
        let written = self.client.within::<Job>(key.namespace()).dynamic().update_status(client::tree(job)?).await?;
        self.control.ledger.wrote(key, OWN, written.resource_version);
        *job = read::typed(&written)?;
        Ok(())
    }
}

fn selector(job: &Job) -> Option<knarr_core::selector::LabelSelector> {
    job.spec.as_ref().and_then(|s| s.selector.as_ref()).map(ownership::selector)
}

/// The patch by which a pod is no longer tracked.
fn release() -> Patch {
    Patch::strategic(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [TRACKING]}}))
}

#[cfg(test)]
mod tests;
