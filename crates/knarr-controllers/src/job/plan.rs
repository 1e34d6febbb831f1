//! What a Job needs now: [`Sync::of`] counts its pods and finds out whether it is over, [`Sync::action`] says which pods to
//! create or remove. Pure: time comes in, nothing goes out. Upstream: `syncJob` and `manageJob` in `job_controller.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::{self, Backoff};
use super::indexes::Indexes;
use super::pod::{JobPod, is_indexed, is_suspended, replaces_only_failed};
use super::policies::{self, Failure};
use crate::pods::{PodItem, ranking};

/// Pods created or removed in one go.
const BURST: usize = 500;

/// A Job's state, as its pods and its status show it.
pub struct Sync<'a> {
    pub spec: &'a JobSpec,
    pub pods: &'a [JobPod],
    /// Pods that neither ended nor are being deleted.
    pub active: Vec<&'a JobPod>,
    pub terminating: i32,
    pub succeeded: i32,
    pub failed: i32,
    /// Indexes that the status has already, and those with the pods that are yet to be counted.
    pub counted: Indexes,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Option<Indexes>,
    /// Failed pods, by index, that stay until their successor carries on their count.
    pub handing_over: BTreeMap<i32, &'a JobPod>,
    pub backoff: Backoff,
    /// Why the Job is over: `SuccessCriteriaMet`, `FailureTarget` or `Failed`.
    pub end: Option<JobCondition>,
    pub now: Timestamp,
}

/// What to do about the pods of a Job that is not over.
#[derive(Debug)]
pub enum Action<'a> {
    Nothing,
    Wait(Duration),
    Remove(Vec<&'a JobPod>),
    /// One pod for each, with its index where the Job is indexed.
    Create(Vec<Option<i32>>),
}

pub fn condition(r#type: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: r#type.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The condition of that type, where it is true.
pub fn holds<'a>(status: &'a JobStatus, r#type: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == r#type && c.status == "True")
}

/// A number of things as an API counts them.
pub fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl<'a> Sync<'a> {
    /// Takes stock. `status` is the Job's, with its start time set.
    pub fn of(job: &Job, spec: &'a JobSpec, status: &JobStatus, pods: &'a [JobPod], before: Backoff, now: Timestamp) -> Self {
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let (known_succeeded, known_failed) = (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
        let fits = |p: &&JobPod| p.tracked && (!is_indexed(spec) || p.index.is_some_and(|i| i < spec.completions.unwrap_or_default()));
        let is_new = |p: &&JobPod, known: &[String]| fits(p) && !known.iter().any(|uid| uid == p.uid());
        let new_succeeded: Vec<&JobPod> = pods.iter().filter(|p| is_new(p, &known_succeeded) && p.succeeded()).collect();
        let new_failed: Vec<&JobPod> = pods.iter().filter(|p| is_new(p, &known_failed) && p.failed(spec)).collect();
        let not_ignored = new_failed.iter().filter(|p| policies::judge(spec, p) != Failure::Ignored).count();
        let mut sync = Self {
            spec,
            pods,
            active: pods.iter().filter(|p| p.item.view.is_active()).collect(),
            terminating: number(pods.iter().filter(|p| p.item.view.is_terminating()).count()),
            succeeded: status.succeeded.unwrap_or(0) + number(new_succeeded.len() + known_succeeded.len()),
            failed: status.failed.unwrap_or(0) + number(not_ignored + known_failed.len()),
            counted: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            handing_over: BTreeMap::new(),
            backoff: before.after(&new_succeeded, &new_failed),
            end: None,
            now,
        };
        sync.end = sync.known_end(status).or_else(|| sync.limits_exceeded(job, status));
        if is_indexed(spec) {
            sync.count_indexes(status);
        }
        sync
    }

    /// An end that an earlier round decided on, or one that a failure policy demands.
    fn known_end(&self, status: &JobStatus) -> Option<JobCondition> {
        if let Some(met) = holds(status, "SuccessCriteriaMet") {
            return Some(met.clone());
        }
        if let Some(target) = holds(status, "FailureTarget") {
            return Some(failed(target, self.now));
        }
        let failed_pods = self.pods.iter().filter(|p| p.failed(self.spec));
        failed_pods.into_iter().find_map(|p| match policies::judge(self.spec, p) {
            Failure::FailsJob(message) => Some(condition("FailureTarget", "PodFailurePolicy", &message, self.now)),
            _ => None,
        })
    }

    fn limits_exceeded(&self, job: &Job, status: &JobStatus) -> Option<JobCondition> {
        let limit = self.spec.backoff_limit.unwrap_or(i32::MAX);
        if self.failed > limit || self.restarted_too_often(job, limit) {
            return Some(self.failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let late = deadline(self.spec, status, self.now) == Some(Duration::ZERO);
        late.then(|| self.failure("DeadlineExceeded", "Job was active longer than specified deadline"))
    }

    /// Containers that are restarted in place count as failures too.
    fn restarted_too_often(&self, job: &Job, limit: i32) -> bool {
        let template = job.spec.as_ref().and_then(|s| s.template.spec.as_ref());
        if template.and_then(|t| t.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self.pods.iter().filter(|p| !p.item.view.is_over()).map(JobPod::restarts).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn failure(&self, reason: &str, message: &str) -> JobCondition {
        condition("FailureTarget", reason, message, self.now)
    }

    fn count_indexes(&mut self, status: &JobStatus) {
        let (spec, completions) = (self.spec, self.spec.completions.unwrap_or_default());
        let valid = |p: &&JobPod| p.tracked && p.index.is_some_and(|i| i < completions);
        self.counted = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let new = self.pods.iter().filter(|p| valid(p) && p.succeeded()).filter_map(|p| p.index);
        self.succeeded_indexes = self.counted.with(new);
        self.succeeded = self.succeeded_indexes.total();
        if let Some(limit) = spec.backoff_limit_per_index {
            let known = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let failed = known.with(self.pods.iter().filter(|p| valid(p) && fails_index(spec, p, limit)).filter_map(|p| p.index));
            if self.end.is_none() {
                self.end = self.too_many_failed_indexes(&failed);
            }
            self.handing_over = self.handing_over(&failed, completions);
            self.failed_indexes = Some(failed);
        }
        if self.end.is_none() {
            let met = policies::success(spec, &self.succeeded_indexes);
            self.end = met.map(|message| condition("SuccessCriteriaMet", "SuccessPolicy", &message, self.now));
        }
    }

    fn too_many_failed_indexes(&self, failed: &Indexes) -> Option<JobCondition> {
        let total = failed.total();
        if self.spec.max_failed_indexes.is_some_and(|max| total > max) {
            return Some(self.failure("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"));
        }
        let all_over = total > 0 && total + self.succeeded_indexes.total() >= self.spec.completions.unwrap_or_default();
        all_over.then(|| self.failure("FailedIndexes", "Job has failed indexes"))
    }

    /// Of each index that is to be tried again the failed pod that knows the most failures.
    fn handing_over(&self, failed: &Indexes, completions: i32) -> BTreeMap<i32, &'a JobPod> {
        let active: BTreeSet<i32> = self.active.iter().filter_map(|p| p.index).collect();
        let open = |i: i32| i < completions && !self.succeeded_indexes.has(i) && !failed.has(i) && !active.contains(&i);
        let rank = |p: &JobPod| (p.failures_before().0.saturating_add(p.failures_before().1), p.finished_at());
        let mut last: BTreeMap<i32, &'a JobPod> = BTreeMap::new();
        for pod in self.pods.iter().filter(|p| p.tracked && p.failed(self.spec)) {
            if let Some(index) = pod.index.filter(|i| open(*i)) {
                let kept = last.entry(index).or_insert(pod);
                if rank(kept) <= rank(pod) {
                    *kept = pod;
                }
            }
        }
        last
    }

    pub fn ready(&self) -> i32 {
        number(self.active.iter().filter(|p| p.item.view.is_ready()).count())
    }

    /// What to do about the pods of a Job that is not over.
    pub fn action(&self) -> Action<'a> {
        let active = number(self.active.len());
        if is_suspended(self.spec) {
            return Action::Remove(self.active.clone());
        }
        let wanted = self.wanted(active);
        let excess = self.excess((active - wanted).max(0));
        if !excess.is_empty() {
            return Action::Remove(excess);
        }
        let ending = if replaces_only_failed(self.spec) { self.terminating } else { 0 };
        let lacking = usize::try_from(wanted - ending - active).unwrap_or_default();
        if lacking == 0 {
            return Action::Nothing;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let pause = if per_index { Duration::ZERO } else { self.backoff.remaining(self.now) };
        if !pause.is_zero() {
            return Action::Wait(pause);
        }
        let count = lacking.min(BURST);
        match is_indexed(self.spec) {
            false => Action::Create(vec![None; count]),
            true => self.next_indexes(self.pending(count), per_index),
        }
    }

    fn wanted(&self, active: i32) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        match self.spec.completions {
            // Once one succeeded no more are started; those that run may finish.
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        }
    }

    fn pending(&self, count: usize) -> Vec<i32> {
        let mut taken = self.succeeded_indexes.with(self.active.iter().filter_map(|p| p.index));
        if replaces_only_failed(self.spec) {
            taken = taken.with(self.pods.iter().filter(|p| p.item.view.is_terminating()).filter_map(|p| p.index));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.missing(count, self.spec.completions.unwrap_or_default())
    }

    fn next_indexes(&self, pending: Vec<i32>, per_index: bool) -> Action<'a> {
        if !per_index {
            return Action::Create(pending.into_iter().map(Some).collect());
        }
        let pause = |i: &i32| backoff::of_index(self.handing_over.get(i).copied(), self.now);
        let (due, waiting): (Vec<i32>, Vec<i32>) = pending.into_iter().partition(|i| pause(i).is_zero());
        match waiting.iter().map(pause).min() {
            Some(shortest) if due.is_empty() => Action::Wait(shortest),
            _ => Action::Create(due.into_iter().map(Some).collect()),
        }
    }

    /// Active pods to remove, at least that many: doubles of an index and pods without a valid one, then those that are
    /// least far.
    fn excess(&self, at_least: i32) -> Vec<&'a JobPod> {
        let at_least = usize::try_from(at_least).unwrap_or_default();
        let (mut remove, left) = if is_indexed(self.spec) { self.doubles() } else { (Vec::new(), self.active.clone()) };
        if remove.len() < at_least {
            remove.extend(self.least(left, at_least - remove.len()));
        }
        remove.truncate(BURST);
        remove
    }

    fn doubles(&self) -> (Vec<&'a JobPod>, Vec<&'a JobPod>) {
        let completions = self.spec.completions.unwrap_or_default();
        let mut by_index: BTreeMap<i32, Vec<&'a JobPod>> = BTreeMap::new();
        let mut remove = Vec::new();
        for pod in &self.active {
            match pod.index.filter(|i| *i < completions) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => remove.push(*pod),
            }
        }
        let mut left = Vec::new();
        for (_, pods) in by_index {
            let too_many = self.least(pods.clone(), pods.len() - 1);
            left.extend(pods.into_iter().filter(|p| !too_many.iter().any(|t| t.uid() == p.uid())));
            remove.extend(too_many);
        }
        (remove, left)
    }

    fn least(&self, pods: Vec<&'a JobPod>, count: usize) -> Vec<&'a JobPod> {
        if count == 0 {
            return Vec::new();
        }
        let items: Vec<PodItem> = pods.iter().map(|p| p.item.clone()).collect();
        let chosen = ranking::choose(items, &[], count, self.now);
        pods.into_iter().filter(|p| chosen.iter().any(|c| *c.view.uid == *p.uid())).collect()
    }

    /// The failures that a new pod of this index starts with, where they are counted.
    pub fn failures_of(&self, index: i32) -> Option<(i32, i32)> {
        self.spec.backoff_limit_per_index?;
        let Some(last) = self.handing_over.get(&index) else { return Some((0, 0)) };
        let (counted, ignored) = last.failures_before();
        Some(if policies::judge(self.spec, last) == Failure::Ignored { (counted, ignored + 1) } else { (counted + 1, ignored) })
    }

    /// Whether enough pods succeeded, once those that run are gone.
    pub fn is_complete(&self, active: i32) -> bool {
        active == 0 && self.spec.completions.map_or(self.succeeded > 0, |completions| self.succeeded >= completions)
    }
}

/// The condition that follows on `FailureTarget` when all pods are gone.
pub fn failed(target: &JobCondition, now: Timestamp) -> JobCondition {
    JobCondition { type_: "Failed".to_owned(), last_probe_time: Some(Time(now)), last_transition_time: Some(Time(now)), ..target.clone() }
}

/// How long the Job may still run: zero when it is too late, none when it may run forever.
pub fn deadline(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let started = status.start_time.as_ref().filter(|_| !is_suspended(spec))?;
    let allowed = Duration::from_secs(spec.active_deadline_seconds?.unsigned_abs());
    Some(Duration::try_from((started.0 + allowed).duration_since(now)).unwrap_or(Duration::ZERO))
}

fn fails_index(spec: &JobSpec, pod: &JobPod, limit: i32) -> bool {
    if !pod.failed(spec) {
        return false;
    }
    match policies::judge(spec, pod) {
        Failure::FailsIndex => true,
        Failure::Ignored => false,
        Failure::Counts | Failure::FailsJob(_) => pod.failures_before().0 >= limit,
    }
}
