//! The status of a set, computed from what is observed (upstream: `replica_set_utils.go`).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_core::selector::LabelSelector;
use knarr_core::{Map, Value};

use super::kind::Replicated;
use super::{Failure, failure_reason};
use crate::ownership;
use crate::pods::PodItem;

const REPLICA_FAILURE: &str = "ReplicaFailure";

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub since: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaStatus {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
}

/// The status that these pods amount to.
pub fn calculate(set: &Replicated, pods: &[PodItem], terminating: usize, failure: Failure<'_>, counts_terminating: bool, now: Timestamp) -> ReplicaStatus {
    let labels: Map<String, Value> = set.template_labels().map(|(k, v)| (k.to_owned(), v.into())).collect();
    let labels = LabelSelector::from_map(Some(&Value::Object(labels)));
    let count = |accept: &dyn Fn(&&PodItem) -> bool| number(pods.iter().filter(accept).count());
    ReplicaStatus {
        replicas: number(pods.len()),
        fully_labeled: count(&|p| ownership::labels_match(&p.object, &labels)),
        ready: count(&|p| p.view.is_ready()),
        available: count(&|p| p.view.is_available(set.min_ready_seconds, now)),
        terminating: counts_terminating.then(|| number(terminating)),
        observed_generation: set.generation,
        conditions: conditions(set, pods.len(), failure, now),
    }
}

/// A failure puts `ReplicaFailure` there unless it stands there already; success takes it away.
fn conditions(set: &Replicated, have: usize, failure: Failure<'_>, now: Timestamp) -> Vec<Condition> {
    let mut conditions = set.status.conditions.clone();
    let known = conditions.iter().any(|c| c.kind == REPLICA_FAILURE);
    match failure {
        Some(failure) if !known => conditions.push(Condition {
            kind: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: failure_reason(set, have).into(),
            message: failure.message.clone(),
            since: Some(Time(now)),
        }),
        None if known => conditions.retain(|c| c.kind != REPLICA_FAILURE),
        _ => {}
    }
    conditions
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
