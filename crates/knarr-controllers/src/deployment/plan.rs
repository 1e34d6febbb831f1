//! The decision: from a Deployment and its sets to everything that is to be written. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{EventKind, Outcome};
use knarr_core::{Result, Status, names};

use super::history::{self, REVISION, ROLLBACK_TO};
use super::status::{Condition, PAUSED, PROGRESSING, RolloutStatus, TIMED_OUT, has_progress_deadline};
use super::{fences, sets};
use crate::hash::template_hash;
use crate::ownership::controller_reference;

/// A replica set that is to be written, and what is to be told of it.
pub struct SetUpdate {
    pub set: ReplicaSet,
    pub event: Option<String>,
}

/// Something to be told of the Deployment.
pub struct Told {
    pub kind: EventKind,
    pub reason: &'static str,
    pub message: String,
}

/// Everything that is to be written, in this order.
pub struct Plan {
    pub create: Option<ReplicaSet>,
    pub updates: Vec<SetUpdate>,
    /// Names of old sets that history no longer needs.
    pub deletes: Vec<String>,
    pub events: Vec<Told>,
    /// The Deployment with its new status and annotations.
    pub deployment: Deployment,
    pub write_status: bool,
    /// A rollback changes the spec instead.
    pub write_spec: bool,
    pub outcome: Outcome,
}

/// One set on the way to its new state.
pub struct Draft {
    pub set: ReplicaSet,
    pub changed: bool,
    event: Option<String>,
}

/// The state of one decision.
pub struct Drafts<'a> {
    pub d: Deployment,
    pub status: RolloutStatus,
    pub now: Timestamp,
    pub has_running_pods: &'a dyn Fn(&str) -> bool,
    /// All sets, the oldest first.
    pub all: Vec<Draft>,
    /// Which of them is the new one.
    pub new: Option<usize>,
    created: bool,
    pub deletes: Vec<String>,
    events: Vec<Told>,
    write_spec: bool,
}

/// Decides. `has_running_pods` tells whether the set with that uid has pods that are not over.
///
/// # Errors
/// A strategy that is none.
pub fn plan(d: Deployment, mut all: Vec<ReplicaSet>, has_running_pods: &dyn Fn(&str) -> bool, now: Timestamp) -> Result<Plan> {
    all.sort_by(sets::by_age);
    let new = all.iter().position(|s| sets::same_template(s.spec.template.as_ref(), Some(&d.spec.template)));
    let known = RolloutStatus::of(&d);
    let annotations = d.metadata.annotations.clone().unwrap_or_default();
    let all = all.into_iter().map(|set| Draft { set, changed: false, event: None }).collect();
    let mut drafts =
        Drafts { status: known.clone(), d, now, has_running_pods, all, new, created: false, deletes: Vec::new(), events: Vec::new(), write_spec: false };
    drafts.decide()?;
    Ok(drafts.finish(&known, &annotations))
}

impl Drafts<'_> {
    fn decide(&mut self) -> Result<()> {
        let spec = self.d.spec.clone();
        if self.d.metadata.deletion_timestamp.is_some() {
            self.sync_revision(false)?;
            self.count();
            return Ok(());
        }
        self.note_pause(spec.paused == Some(true));
        if spec.paused == Some(true) {
            return self.sync(true);
        }
        if history::rollback_to(&self.d).is_some() {
            return self.rollback();
        }
        self.sync_revision(false)?;
        if self.is_scaling() {
            return self.sync(false);
        }
        match fences::strategy(&self.d) {
            "Recreate" => self.roll_by_recreation(),
            "RollingUpdate" => self.roll(),
            other => Err(Status::internal(format!("unexpected deployment strategy type: {other}"))),
        }
    }

    fn finish(self, known: &RolloutStatus, annotations: &std::collections::BTreeMap<String, String>) -> Plan {
        let outcome = self.status.check_again_in(&self.d, self.now).map_or(Outcome::Done, Outcome::After);
        let annotated = self.d.metadata.annotations.clone().unwrap_or_default() != *annotations;
        let write_status = annotated || self.status != *known;
        let mut plan = Plan {
            create: None,
            updates: Vec::new(),
            deletes: self.deletes,
            events: self.events,
            deployment: self.status.write(self.d),
            write_status,
            write_spec: self.write_spec,
            outcome,
        };
        for (i, draft) in self.all.into_iter().enumerate() {
            if self.created && Some(i) == self.new {
                plan.create = Some(draft.set);
            } else if draft.changed {
                plan.updates.push(SetUpdate { set: draft.set, event: draft.event });
            }
        }
        plan
    }

    pub fn wanted(&self) -> i32 {
        fences::wanted(&self.d)
    }

    pub fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|i| &self.all[i].set)
    }

    /// Indexes of the sets that are not the new one, the oldest first.
    pub fn old(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|i| Some(*i) != self.new).collect()
    }

    pub fn size(&self, i: usize) -> i32 {
        sets::replicas(&self.all[i].set)
    }

    pub fn total(&self) -> i32 {
        self.all.iter().map(|d| sets::replicas(&d.set)).sum()
    }

    pub fn active(&self, indexes: Vec<usize>) -> Vec<usize> {
        indexes.into_iter().filter(|i| self.size(*i) > 0).collect()
    }

    /// Upstream: `checkPausedConditions`.
    fn note_pause(&mut self, paused: bool) {
        let current = self.status.progressing().map(|c| c.reason.clone());
        if !has_progress_deadline(&self.d) || current.as_deref() == Some(TIMED_OUT) {
            return;
        }
        let known = current.as_deref() == Some(PAUSED);
        if paused && !known {
            self.status.set(Condition::new(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", self.now));
        } else if !paused && known {
            self.status.set(Condition::new(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", self.now));
        }
    }

    /// Brings revisions up to date, and makes the new set if there is none and `create` says so
    /// (upstream: `getAllReplicaSetsAndSyncRevision`).
    pub fn sync_revision(&mut self, create: bool) -> Result<()> {
        let revision = history::max_revision(self.old().iter().map(|i| &self.all[*i].set)) + 1;
        match self.new {
            Some(i) => self.sync_new_set(i, revision),
            None if create => return self.make_new_set(revision),
            None => {}
        }
        Ok(())
    }

    fn sync_new_set(&mut self, i: usize, revision: i64) {
        let min_ready = self.d.spec.min_ready_seconds.unwrap_or(0);
        let draft = &mut self.all[i];
        let annotated = history::annotate_new_set(&self.d, &mut draft.set, revision);
        let spec = &mut draft.set.spec;
        let waits = spec.min_ready_seconds.unwrap_or(0) != min_ready;
        if waits {
            spec.min_ready_seconds = Some(min_ready);
        }
        draft.changed |= annotated || waits;
        let noted = sets::annotation(&draft.set, REVISION).unwrap_or_default().to_owned();
        let name = sets::name(&draft.set).to_owned();
        self.d.metadata.annotations.get_or_insert_default().insert(REVISION.into(), noted);
        if has_progress_deadline(&self.d) && self.status.progressing().is_none() {
            self.status.set(Condition::new(PROGRESSING, "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"), self.now));
        }
    }

    fn make_new_set(&mut self, revision: i64) -> Result<()> {
        let spec = self.d.spec.clone();
        let hash = template_hash(&spec.template, self.status.collisions)?;
        let mut template = spec.template;
        template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(sets::HASH_LABEL.into(), hash.clone());
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(sets::HASH_LABEL.into(), hash.clone());
        let size = fences::new_set_size(&self.d, self.total(), 0);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(set_name(self.d.metadata.name.as_deref().unwrap_or_default(), &hash)),
                namespace: self.d.metadata.namespace.clone(),
                labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
                owner_references: Some(vec![controller_reference(&self.d)]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec { replicas: Some(size), min_ready_seconds: spec.min_ready_seconds, selector, template: Some(template) },
            status: None,
        };
        history::annotate_new_set(&self.d, &mut set, revision);
        history::note_replicas(&mut set, self.wanted(), self.wanted() + fences::max_surge(&self.d));
        self.d.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.to_string());
        if has_progress_deadline(&self.d) {
            let message = format!("Created new replica set {:?}", sets::name(&set));
            self.status.set(Condition::new(PROGRESSING, "True", "NewReplicaSetCreated", message, self.now));
        }
        self.all.push(Draft { set, changed: false, event: None });
        (self.new, self.created) = (Some(self.all.len() - 1), true);
        Ok(())
    }

    /// Gives a set a new size; without `force` only when it differs. Tells whether the size changed.
    pub fn scale(&mut self, i: usize, size: i32, force: bool) -> bool {
        let old = self.size(i);
        let (desired, max) = (self.wanted(), self.wanted() + fences::max_surge(&self.d));
        if old == size && (!force || history::replicas_are_noted(&self.all[i].set, desired, max)) {
            return false;
        }
        let draft = &mut self.all[i];
        sets::set_replicas(&mut draft.set, size);
        history::note_replicas(&mut draft.set, desired, max);
        draft.changed = true;
        if old != size {
            let direction = if old < size { "up" } else { "down" };
            draft.event = Some(format!("Scaled {direction} replica set {} from {old} to {size}", sets::name(&draft.set)));
        }
        old != size
    }

    /// Whether the wanted number changed since the sets were sized (upstream: `isScalingEvent`).
    fn is_scaling(&self) -> bool {
        let noted = |d: &Draft| sets::annotation(&d.set, history::DESIRED_REPLICAS).and_then(|t| t.parse::<i32>().ok());
        self.all.iter().filter(|d| sets::replicas(&d.set) > 0).filter_map(noted).any(|n| n != self.wanted())
    }

    /// Scaling, and everything while paused.
    fn sync(&mut self, paused: bool) -> Result<()> {
        self.sync_revision(false)?;
        self.scale_all();
        if paused && history::rollback_to(&self.d).is_none() {
            self.clean_up();
        }
        self.count();
        Ok(())
    }

    /// Counts only: no judgement of progress.
    fn count(&mut self) {
        self.status = self.calculate();
    }

    fn calculate(&self) -> RolloutStatus {
        let all: Vec<&ReplicaSet> = self.all.iter().map(|d| &d.set).collect();
        RolloutStatus::calculate(&self.d, &self.status, &all, self.new_set(), self.now)
    }

    /// Counts, and judges how the rollout goes.
    pub fn judge(&mut self) {
        let mut status = self.calculate();
        let all: Vec<&ReplicaSet> = self.all.iter().map(|d| &d.set).collect();
        status.judge(&self.d, &self.status, &all, self.new_set(), self.now);
        self.status = status;
    }

    /// Deletes old sets beyond the history that is kept (upstream: `cleanupDeployment`).
    pub fn clean_up(&mut self) {
        let Some(limit) = self.d.spec.revision_history_limit.filter(|l| *l != i32::MAX) else { return };
        let mut old: Vec<&ReplicaSet> = self.old().into_iter().map(|i| &self.all[i].set).filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by(|a, b| match (history::revision(a), history::revision(b)) {
            (Some(x), Some(y)) if x != y => x.cmp(&y),
            _ => sets::by_age(a, b),
        });
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let observed = |s: &ReplicaSet| s.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        let is_idle = |s: &&&ReplicaSet| sets::actual(s) == 0 && sets::replicas(s) == 0 && s.metadata.generation.unwrap_or(0) <= observed(s);
        self.deletes = old[..excess].iter().filter(is_idle).map(|s| sets::name(s).to_owned()).collect();
    }

    /// Goes back to the template of an older revision (the deprecated way; kubectl patches the template itself).
    fn rollback(&mut self) -> Result<()> {
        self.sync_revision(true)?;
        let asked = history::rollback_to(&self.d).unwrap_or(0);
        let wanted = if asked == 0 { history::last_revision(self.all.iter().map(|d| &d.set)) } else { asked };
        self.write_spec = true;
        let target = self.all.iter().position(|d| wanted != 0 && history::revision(&d.set) == Some(wanted)).map(|i| self.all[i].set.clone());
        match target {
            None if wanted == 0 => self.tell(EventKind::Warning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.".into()),
            None => self.tell(EventKind::Warning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.".into()),
            Some(set) => self.take_template(&set, wanted),
        }
        if let Some(annotations) = &mut self.d.metadata.annotations {
            annotations.remove(ROLLBACK_TO);
        }
        Ok(())
    }

    fn take_template(&mut self, set: &ReplicaSet, revision: i64) {
        let name = self.d.metadata.name.clone().unwrap_or_default();
        let (spec, Some(template)) = (&mut self.d.spec, set.spec.template.clone()) else { return };
        if sets::same_template(Some(&spec.template), Some(&template)) {
            let message = format!("The rollback revision contains the same template as current deployment {name:?}");
            return self.tell(EventKind::Warning, "DeploymentRollbackTemplateUnchanged", message);
        }
        spec.template = template;
        if let Some(labels) = spec.template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(sets::HASH_LABEL);
        }
        history::take_annotations(&mut self.d, set);
        self.tell(EventKind::Normal, "DeploymentRollback", format!("Rolled back deployment {name:?} to revision {revision}"));
    }

    fn tell(&mut self, kind: EventKind, reason: &'static str, message: String) {
        self.events.push(Told { kind, reason, message });
    }
}

/// The name of a set: that of the Deployment, cut where the whole would be too long, and the hash.
fn set_name(deployment: &str, hash: &str) -> String {
    let room = names::DNS1123_SUBDOMAIN_MAX - 1 - hash.len();
    format!("{}-{hash}", &deployment[..deployment.len().min(room)])
}
