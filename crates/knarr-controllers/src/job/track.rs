//! Counting pods once and only once. A pod that ended keeps the finalizer [`TRACKING`](super::pod::TRACKING) until the
//! Job's status has its uid under `uncountedTerminatedPods`; it is counted when the finalizer is gone. So neither a crash
//! nor a lost answer counts a pod twice or loses one. Upstream: `trackJobStatusAndRemoveFinalizers`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{Sync, condition, failed, holds};
use super::pod::{JobPod, is_indexed};
use super::policies::{self, Failure};
use crate::quantities::nonzero;

/// Uids that a status lists at most, so that it stays small.
const UNCOUNTED_MAX: usize = 500;

/// The next step: the status to write, the pods whose finalizer may go then, and the condition that may follow.
pub struct Tracked<'a> {
    pub release: Vec<&'a JobPod>,
    pub end: Option<JobCondition>,
    /// All pods that ended are in the status: the Job may end.
    pub complete: bool,
}

/// Puts the pods that ended into the status.
pub fn track<'a>(sync: &Sync<'a>, deleting: bool, status: &mut JobStatus) -> Tracked<'a> {
    count_released(status, &tracked_uids(sync.pods));
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let (mut release, mut new_indexes, mut complete) = (Vec::new(), Vec::new(), true);
    let mut pods: Vec<&JobPod> = sync.pods.iter().filter(|p| p.tracked).collect();
    if is_indexed(sync.spec) {
        pods.sort_by_key(|p| p.index);
    }
    for pod in pods {
        if !may_be_released(sync, deleting, pod) {
            continue;
        }
        release.push(pod);
        take_account(sync, pod, &mut uncounted, &mut new_indexes);
        let listed = |uids: &Option<Vec<String>>| uids.as_ref().map_or(0, Vec::len);
        if new_indexes.len() + listed(&uncounted.succeeded) + listed(&uncounted.failed) >= UNCOUNTED_MAX {
            complete = false;
            break;
        }
    }
    status.uncounted_terminated_pods = Some(uncounted);
    if is_indexed(sync.spec) {
        let succeeded = sync.succeeded_indexes.with(new_indexes);
        status.succeeded = nonzero(succeeded.total());
        status.completed_indexes = Some(succeeded.to_string()).filter(|s| !s.is_empty());
        status.failed_indexes = sync.failed_indexes.as_ref().map(ToString::to_string);
    }
    Tracked { release, end: announce(sync.end.clone(), status, sync.now), complete }
}

pub fn tracked_uids(pods: &[JobPod]) -> BTreeSet<&str> {
    pods.iter().filter(|p| p.tracked).map(JobPod::uid).collect()
}

fn may_be_released(sync: &Sync<'_>, deleting: bool, pod: &JobPod) -> bool {
    if deleting || sync.end.is_some() || pod.succeeded() {
        return true;
    }
    let hands_over = pod.index.and_then(|i| sync.handing_over.get(&i)).is_some_and(|p| p.uid() == pod.uid());
    pod.failed(sync.spec) && !hands_over
}

fn take_account(sync: &Sync<'_>, pod: &JobPod, uncounted: &mut UncountedTerminatedPods, new_indexes: &mut Vec<i32>) {
    let completions = sync.spec.completions.unwrap_or_default();
    let index = pod.index.filter(|i| *i < completions);
    let indexed = is_indexed(sync.spec);
    let lists = |uids: &Option<Vec<String>>| uids.iter().flatten().any(|uid| uid == pod.uid());
    let known_failed = lists(&uncounted.failed);
    if pod.succeeded() && !known_failed {
        // Of an indexed Job the index says all: it is not counted twice.
        if indexed {
            new_indexes.extend(index.filter(|i| !sync.counted.has(*i)));
        } else if !lists(&uncounted.succeeded) {
            uncounted.succeeded.get_or_insert_default().push(pod.uid().to_owned());
        }
        return;
    }
    // When a Job failed, every pod that did not succeed counts as failed.
    let over = sync.end.as_ref().is_some_and(|end| end.type_ != "SuccessCriteriaMet");
    let counts = (pod.failed(sync.spec) || over) && !known_failed && (!indexed || index.is_some());
    if counts && policies::judge(sync.spec, pod) != Failure::Ignored {
        uncounted.failed.get_or_insert_default().push(pod.uid().to_owned());
    }
}

/// The first of the two conditions that every end has goes into the status now; gives the second.
fn announce(end: Option<JobCondition>, status: &mut JobStatus, now: Timestamp) -> Option<JobCondition> {
    let end = end?;
    let conditions = |status: &mut JobStatus| status.conditions.get_or_insert_default().push(end.clone());
    match end.type_.as_str() {
        "FailureTarget" => {
            conditions(status);
            Some(failed(&end, now))
        }
        "SuccessCriteriaMet" => {
            if holds(status, "SuccessCriteriaMet").is_none() {
                conditions(status);
            }
            Some(condition("Complete", end.reason.as_deref().unwrap_or_default(), end.message.as_deref().unwrap_or_default(), now))
        }
        _ => Some(end),
    }
}

/// Counts the listed pods that are no longer tracked. True when there were any.
pub fn count_released(status: &mut JobStatus, tracked: &BTreeSet<&str>) -> bool {
    let count = |uids: &mut Option<Vec<String>>, total: &mut Option<i32>| {
        let Some(list) = uids.as_mut() else { return false };
        let before = list.len();
        list.retain(|uid| tracked.contains(uid.as_str()));
        let released = super::plan::number(before - list.len());
        *total = nonzero(total.unwrap_or(0) + released);
        if list.is_empty() {
            *uids = None;
        }
        released > 0
    };
    let JobStatus { uncounted_terminated_pods, succeeded, failed, .. } = status;
    let uncounted = uncounted_terminated_pods.get_or_insert_default();
    let any_succeeded = count(&mut uncounted.succeeded, succeeded);
    count(&mut uncounted.failed, failed) || any_succeeded
}

/// Ends the Job, if every pod is counted and gone.
pub fn finish(status: &mut JobStatus, end: &JobCondition) -> bool {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    if status.terminating.unwrap_or(0) > 0 || uncounted.is_some_and(|u| u.succeeded.is_some() || u.failed.is_some()) {
        return false;
    }
    let at = end.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    set(status, end.clone());
    if end.type_ == "Complete" {
        status.completion_time = Some(Time(at));
    }
    true
}

/// Sets a condition that differs; one that would be false is not added. True when something changed.
pub fn set(status: &mut JobStatus, new: JobCondition) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => return false,
        Some(old) => *old = new,
        None if new.status == "False" => return false,
        None => conditions.push(new),
    }
    true
}
