//! What a Deployment says about itself: counts, and the conditions `Available`, `Progressing` and `ReplicaFailure`.
//! Upstream: `deployment/sync.go` (`calculateStatus`), `deployment/progress.go`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{fences, sets};
use crate::quantities::nonzero;

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub const PAUSED: &str = "DeploymentPaused";

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub updated: Option<Time>,
    pub since: Option<Time>,
}

impl Condition {
    pub fn new(kind: &str, status: &str, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        let now = Some(Time(now));
        Self { kind: kind.into(), status: status.into(), reason: reason.into(), message: message.into(), updated: now.clone(), since: now }
    }
}

/// A status in numbers that can be compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutStatus {
    pub observed_generation: i64,
    pub replicas: i32,
    pub updated: i32,
    pub ready: i32,
    pub available: i32,
    pub unavailable: i32,
    pub terminating: Option<i32>,
    pub collisions: Option<i32>,
    pub conditions: Vec<Condition>,
}

impl RolloutStatus {
    pub fn of(d: &Deployment) -> Self {
        let s = d.status.clone().unwrap_or_default();
        let condition = |c: DeploymentCondition| Condition {
            kind: c.type_.unwrap_or_default(),
            status: c.status.unwrap_or_default(),
            reason: c.reason.unwrap_or_default(),
            message: c.message.unwrap_or_default(),
            updated: c.last_update_time,
            since: c.last_transition_time,
        };
        Self {
            observed_generation: s.observed_generation.unwrap_or(0),
            replicas: s.replicas.unwrap_or(0),
            updated: s.updated_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            unavailable: s.unavailable_replicas.unwrap_or(0),
            terminating: s.terminating_replicas,
            collisions: s.collision_count,
            conditions: s.conditions.into_iter().flatten().map(condition).collect(),
        }
    }

    /// The counts that these sets amount to; conditions are taken over.
    pub fn calculate(d: &Deployment, known: &Self, all: &[&ReplicaSet], new_set: Option<&ReplicaSet>, now: Timestamp) -> Self {
        let sum = |f: fn(&ReplicaSet) -> i32| all.iter().map(|s| f(s)).sum::<i32>();
        let available = sum(sets::available);
        let mut status = Self {
            observed_generation: d.metadata.generation.unwrap_or(0),
            replicas: sum(sets::actual),
            updated: new_set.map_or(0, sets::actual),
            ready: sum(sets::ready),
            available,
            unavailable: (sum(sets::replicas) - available).max(0),
            terminating: terminating(all),
            collisions: known.collisions,
            conditions: known.conditions.clone(),
        };
        let condition = if available >= fences::wanted(d) - fences::max_unavailable(d) {
            Condition::new(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
        } else {
            Condition::new(AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now)
        };
        status.set(condition);
        status
    }

    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    pub fn progressing(&self) -> Option<&Condition> {
        self.condition(PROGRESSING)
    }

    /// Sets a condition unless it stands there with the same status and reason.
    pub fn set(&mut self, mut condition: Condition) {
        if let Some(known) = self.condition(&condition.kind).filter(|c| c.status == condition.status) {
            if known.reason == condition.reason {
                return;
            }
            condition.since.clone_from(&known.since);
        }
        self.remove(&condition.kind.clone());
        self.conditions.push(condition);
    }

    pub fn remove(&mut self, kind: &str) {
        self.conditions.retain(|c| c.kind != kind);
    }

    /// All replicas updated and available, none of the old left.
    pub fn is_complete(&self, d: &Deployment) -> bool {
        let wanted = fences::wanted(d);
        self.updated == wanted && self.replicas == wanted && self.available == wanted && self.observed_generation >= d.metadata.generation.unwrap_or(0)
    }

    /// Anything got better since `known`.
    fn has_progressed(&self, known: &Self) -> bool {
        self.updated > known.updated
            || self.replicas - self.updated < known.replicas - known.updated
            || self.ready > known.ready
            || self.available > known.available
    }

    fn has_timed_out(&self, d: &Deployment, now: Timestamp) -> bool {
        match (self.progressing(), deadline(d)) {
            (Some(c), Some(_)) if c.reason == NEW_SET_AVAILABLE => false,
            (Some(c), Some(_)) if c.reason == TIMED_OUT => true,
            (Some(c), Some(deadline)) => c.updated.as_ref().is_some_and(|at| at.0 + deadline < now),
            _ => false,
        }
    }

    /// Tells how the rollout goes (upstream: `syncRolloutStatus`).
    pub fn judge(&mut self, d: &Deployment, known: &Self, all: &[&ReplicaSet], new_set: Option<&ReplicaSet>, now: Timestamp) {
        if deadline(d).is_none() {
            self.remove(PROGRESSING);
        }
        let done_before = self.replicas == self.updated && known.progressing().is_some_and(|c| c.reason == NEW_SET_AVAILABLE);
        if deadline(d).is_some() && !done_before {
            self.judge_progress(d, known, new_set, now);
        }
        match replica_failure(all, new_set) {
            Some(failure) => self.set(failure),
            None => self.remove(REPLICA_FAILURE),
        }
    }

    fn judge_progress(&mut self, d: &Deployment, known: &Self, new_set: Option<&ReplicaSet>, now: Timestamp) {
        let subject = match new_set {
            Some(set) => format!("ReplicaSet {:?}", sets::name(set)),
            None => format!("Deployment {:?}", d.metadata.name.as_deref().unwrap_or_default()),
        };
        if self.is_complete(d) {
            self.set(Condition::new(PROGRESSING, "True", NEW_SET_AVAILABLE, format!("{subject} has successfully progressed."), now));
        } else if self.has_progressed(known) {
            let mut condition = Condition::new(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            // Each sign of progress renews the time, also when nothing else of the condition changes.
            if let Some(current) = known.progressing().filter(|c| c.status == "True") {
                condition.since.clone_from(&current.since);
            }
            self.remove(PROGRESSING);
            self.set(condition);
        } else if self.has_timed_out(d, now) {
            self.set(Condition::new(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."), now));
        }
    }

    /// When to look again whether a rollout got stuck (upstream: `requeueStuckDeployment`).
    pub fn check_again_in(&self, d: &Deployment, now: Timestamp) -> Option<Duration> {
        let condition = self.progressing()?;
        if self.is_complete(d) || condition.reason == TIMED_OUT {
            return None;
        }
        let at = condition.updated.as_ref()?.0 + deadline(d)?;
        Some(Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_secs(1))
    }

    /// The Deployment with this status.
    pub fn write(&self, mut d: Deployment) -> Deployment {
        let condition = |c: &Condition| DeploymentCondition {
            type_: Some(c.kind.clone()),
            status: Some(c.status.clone()),
            reason: Some(c.reason.clone()),
            message: Some(c.message.clone()),
            last_update_time: c.updated.clone(),
            last_transition_time: c.since.clone(),
        };
        d.status = Some(DeploymentStatus {
            observed_generation: (self.observed_generation != 0).then_some(self.observed_generation),
            replicas: nonzero(self.replicas),
            updated_replicas: nonzero(self.updated),
            ready_replicas: nonzero(self.ready),
            available_replicas: nonzero(self.available),
            unavailable_replicas: nonzero(self.unavailable),
            terminating_replicas: self.terminating,
            collision_count: self.collisions,
            conditions: (!self.conditions.is_empty()).then(|| self.conditions.iter().map(condition).collect()),
        });
        d
    }
}

/// The time in which a rollout must show progress; none when there is no limit.
fn deadline(d: &Deployment) -> Option<Duration> {
    let seconds = d.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
    Some(Duration::from_secs(seconds.unsigned_abs().into()))
}

pub fn has_progress_deadline(d: &Deployment) -> bool {
    deadline(d).is_some()
}

/// None when a set that was looked at does not tell.
fn terminating(all: &[&ReplicaSet]) -> Option<i32> {
    let of = |set: &&ReplicaSet| {
        let status = set.status.as_ref();
        let observed = status.and_then(|s| s.observed_generation).unwrap_or(0) != 0;
        match status.and_then(|s| s.terminating_replicas) {
            None if !observed => Some(0),
            told => told,
        }
    };
    all.iter().map(of).sum()
}

/// The failure of the new set, or else of any.
fn replica_failure(all: &[&ReplicaSet], new_set: Option<&ReplicaSet>) -> Option<Condition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref().and_then(|s| s.conditions.clone()).into_iter().flatten();
        let failure = conditions.into_iter().find(|c| c.type_.as_deref() == Some(REPLICA_FAILURE))?;
        Some(Condition {
            kind: REPLICA_FAILURE.into(),
            status: failure.status.unwrap_or_default(),
            reason: failure.reason.unwrap_or_default(),
            message: failure.message.unwrap_or_default(),
            updated: failure.last_transition_time.clone(),
            since: failure.last_transition_time,
        })
    };
    new_set.and_then(of).or_else(|| all.iter().find_map(|s| of(s)))
}
