//! Revisions: which rollout a replica set belongs to, kept in annotations so that `kubectl rollout undo` can find its way
//! back. Upstream: `SetNewReplicaSetAnnotations` and others in `deployment/util`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::sets;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Longest revision history, in characters.
const HISTORY_MAX: usize = 2000;

fn is_ours(key: &str) -> bool {
    [LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO].contains(&key)
}

/// The revision of a set: zero without one, none when it is no number.
pub fn revision(set: &ReplicaSet) -> Option<i64> {
    sets::annotation(set, REVISION).map_or(Some(0), |t| t.parse().ok())
}

/// The highest revision among sets.
pub fn max_revision<'a>(all: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    all.into_iter().filter_map(revision).max().unwrap_or(0).max(0)
}

/// The second highest revision among sets.
pub fn last_revision<'a>(all: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    let (mut max, mut second) = (0, 0);
    for v in all.into_iter().filter_map(revision) {
        if v >= max {
            (max, second) = (v, max);
        } else if v > second {
            second = v;
        }
    }
    second
}

/// Brings the annotations of the new set up to date with its Deployment. Tells whether they changed.
pub fn annotate_new_set(d: &Deployment, set: &mut ReplicaSet, new_revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in d.metadata.annotations.iter().flatten().filter(|(k, _)| !is_ours(k)) {
        annotations.insert(key.clone(), value.clone());
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            // Upstream leaves a set alone whose revision it cannot read.
            Err(_) => return false,
        },
    };
    if old_number < new_revision {
        annotations.insert(REVISION.into(), new_revision.to_string());
        if let Some(old) = old {
            remember(annotations, &old);
        }
    }
    *annotations != before
}

/// A set that comes back to service keeps the revisions that it had before.
fn remember(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
    if history.is_empty() {
        annotations.insert(REVISION_HISTORY.into(), old.to_owned());
        return;
    }
    let mut kept: Vec<&str> = history.split(',').collect();
    let mut length = history.len() + old.len() + 1;
    while length > HISTORY_MAX && !kept.is_empty() {
        length -= kept.remove(0).len() + 1;
    }
    if length <= HISTORY_MAX {
        kept.push(old);
        annotations.insert(REVISION_HISTORY.into(), kept.join(","));
    }
}

/// Notes in a set how many replicas its Deployment wants and may have. Tells whether that changed.
pub fn note_replicas(set: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut put = |key: &str, n: i32| annotations.insert(key.to_owned(), n.to_string()) != Some(n.to_string());
    put(DESIRED_REPLICAS, desired) | put(MAX_REPLICAS, max)
}

/// Whether [`note_replicas`] would change something.
pub fn replicas_are_noted(set: &ReplicaSet, desired: i32, max: i32) -> bool {
    sets::annotation(set, DESIRED_REPLICAS) == Some(desired.to_string().as_str()) && sets::annotation(set, MAX_REPLICAS) == Some(max.to_string().as_str())
}

/// The revision that the deprecated annotation asks to roll back to.
pub fn rollback_to(d: &Deployment) -> Option<i64> {
    d.metadata.annotations.as_ref()?.get(ROLLBACK_TO)?.parse().ok()
}

/// Gives the Deployment the annotations of the set it rolls back to, except the ones that are ours.
pub fn take_annotations(d: &mut Deployment, set: &ReplicaSet) {
    let mut annotations = d.metadata.annotations.take().unwrap_or_default();
    annotations.retain(|key, _| is_ours(key));
    annotations.extend(set.metadata.annotations.iter().flatten().filter(|(k, _)| !is_ours(k)).map(|(k, v)| (k.clone(), v.clone())));
    d.metadata.annotations = Some(annotations);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(annotations: &[(&str, &str)]) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.annotations = Some(annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        set
    }

    #[test]
    fn a_set_that_comes_back_remembers_its_old_revisions() {
        let mut back = set(&[(REVISION, "1"), (REVISION_HISTORY, "0")]);
        assert!(annotate_new_set(&Deployment::default(), &mut back, 3));
        assert_eq!((sets::annotation(&back, REVISION), sets::annotation(&back, REVISION_HISTORY)), (Some("3"), Some("0,1")));
        assert!(!annotate_new_set(&Deployment::default(), &mut back, 3));
    }

    #[test]
    fn history_stays_short() {
        let long = "1234567890,".repeat(181) + "1";
        let mut back = set(&[(REVISION, "1"), (REVISION_HISTORY, &long)]);
        annotate_new_set(&Deployment::default(), &mut back, 3);
        assert!(sets::annotation(&back, REVISION_HISTORY).unwrap().len() <= HISTORY_MAX);
    }

    #[test]
    fn the_last_revision_is_the_second_highest() {
        let sets = [set(&[(REVISION, "2")]), set(&[(REVISION, "5")]), set(&[(REVISION, "3")])];
        assert_eq!((max_revision(&sets), last_revision(&sets)), (5, 3));
    }
}
