//! The decision: what to do with which pod, in which order. Pure. Upstream: `stateful_set_control.go`.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetCondition, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use knarr_core::{Result, Status};

use super::{claims, identity};
use crate::quantities::{nonzero, scaled};

/// Everything that a decision looks at.
pub struct Observed<'a> {
    pub set: &'a StatefulSet,
    /// Name and template of the revision that pods had, and of the one that they are to have.
    pub current: (&'a str, &'a PodTemplateSpec),
    pub update: (&'a str, &'a PodTemplateSpec),
    pub collisions: i32,
    pub pods: &'a [Pod],
    pub claim: &'a (dyn Fn(&str) -> Option<PersistentVolumeClaim> + Sync),
    pub now: Timestamp,
}

#[derive(Debug)]
pub enum Action {
    Create(Box<Pod>),
    /// Index into the observed pods.
    Delete(usize),
    Update(Box<Pod>),
    /// A claim, and the name of the pod that it is for.
    CreateClaim {
        claim: Box<PersistentVolumeClaim>,
        pod: String,
    },
    UpdateClaim(Box<PersistentVolumeClaim>),
    Warn {
        reason: &'static str,
        message: String,
    },
    /// Nothing can be done now; try again later.
    Fail(String),
}

/// What is done about one pod, one after the other.
pub type Step = Vec<Action>;

pub struct Plan {
    /// A phase begins when the one before it succeeded.
    pub phases: Vec<Vec<Step>>,
    /// The steps of a phase may run side by side.
    pub burst: bool,
    pub status: SetStatus,
}

/// A status in values that can be compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetStatus {
    pub observed_generation: i64,
    pub replicas: i32,
    pub ready_replicas: i32,
    pub available_replicas: i32,
    pub current_replicas: i32,
    pub updated_replicas: i32,
    pub current_revision: String,
    pub update_revision: String,
    pub collisions: i32,
    pub conditions: Vec<StatefulSetCondition>,
}

impl SetStatus {
    pub fn of(set: &StatefulSet) -> Self {
        let s = set.status.clone().unwrap_or_default();
        Self {
            observed_generation: s.observed_generation.unwrap_or(0),
            replicas: s.replicas,
            ready_replicas: s.ready_replicas.unwrap_or(0),
            available_replicas: s.available_replicas.unwrap_or(0),
            current_replicas: s.current_replicas.unwrap_or(0),
            updated_replicas: s.updated_replicas.unwrap_or(0),
            current_revision: s.current_revision.unwrap_or_default(),
            update_revision: s.update_revision.unwrap_or_default(),
            collisions: s.collision_count.unwrap_or(0),
            conditions: s.conditions.unwrap_or_default(),
        }
    }

    /// A rollout that is through makes the new revision the current one (upstream: `completeUpdate`).
    pub fn complete(mut self, set: &StatefulSet) -> Self {
        let wanted = wanted(set);
        if self.updated_replicas == wanted && self.ready_replicas == wanted && self.replicas == wanted {
            self.current_replicas = self.updated_replicas;
            self.current_revision.clone_from(&self.update_revision);
        }
        self
    }

    pub fn write(&self, mut set: StatefulSet) -> StatefulSet {
        set.status = Some(StatefulSetStatus {
            observed_generation: Some(self.observed_generation),
            replicas: self.replicas,
            ready_replicas: nonzero(self.ready_replicas),
            available_replicas: Some(self.available_replicas),
            current_replicas: nonzero(self.current_replicas),
            updated_replicas: nonzero(self.updated_replicas),
            current_revision: Some(self.current_revision.clone()),
            update_revision: Some(self.update_revision.clone()),
            collision_count: Some(self.collisions),
            conditions: (!self.conditions.is_empty()).then(|| self.conditions.clone()),
        });
        set
    }
}

/// `spec.replicas`.
fn wanted(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn first_ordinal(set: &StatefulSet) -> i64 {
    set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0).into()
}

/// Whether a pod of this ordinal should exist.
pub fn in_range(set: &StatefulSet, ordinal: i64) -> bool {
    let first = first_ordinal(set);
    (first..first + i64::from(wanted(set))).contains(&ordinal)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Since when the pod is ready; the outer none: it is not.
fn ready_since(pod: &Pod) -> Option<Option<Timestamp>> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map(|t| t.0))
}

struct Planner<'a> {
    o: &'a Observed<'a>,
    /// By ordinal, beginning with the first: the index of the observed pod, if it is there.
    replicas: Vec<Option<usize>>,
    /// Pods beyond the range, the highest ordinal first.
    condemned: Vec<usize>,
    first_unavailable: Option<Slot>,
    burst: bool,
    status: SetStatus,
}

/// A pod that is there, or one that should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    There(usize),
    Missing(usize),
}

/// Whether to go on with the next pod.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

/// Decides.
///
/// # Errors
/// A value in the spec that cannot be read.
pub fn plan(o: &Observed<'_>) -> Result<Plan> {
    let burst = o.set.spec.pod_management_policy.as_deref() == Some("Parallel");
    let mut planner = Planner {
        replicas: vec![None; usize::try_from(wanted(o.set)).unwrap_or(0)],
        condemned: Vec::new(),
        first_unavailable: None,
        burst,
        status: SetStatus::default(),
        o,
    };
    planner.sort_pods();
    planner.count();
    let mut phases = Vec::new();
    if o.set.metadata.deletion_timestamp.is_none() {
        planner.decide(&mut phases)?;
    }
    Ok(Plan { phases, burst, status: planner.status })
}

impl Planner<'_> {
    fn sort_pods(&mut self) {
        let set = self.o.set;
        for (i, pod) in self.o.pods.iter().enumerate() {
            let ordinal = identity::ordinal(pod);
            if in_range(set, ordinal) {
                if let Ok(index) = usize::try_from(ordinal - first_ordinal(set)) {
                    self.replicas[index] = Some(i);
                }
            } else if ordinal >= 0 {
                self.condemned.push(i);
            }
        }
        self.condemned.sort_by_key(|i| std::cmp::Reverse(identity::ordinal(&self.o.pods[*i])));
        let replicas = self.replicas.iter().enumerate().map(|(at, pod)| pod.map_or(Slot::Missing(at), Slot::There));
        let condemned = self.condemned.iter().rev().map(|i| Slot::There(*i));
        self.first_unavailable = replicas.chain(condemned).find(|slot| self.is_unavailable(*slot));
    }

    fn is_ready(&self, pod: &Pod) -> bool {
        phase(pod) == "Running" && ready_since(pod).is_some()
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min = self.o.set.spec.min_ready_seconds.unwrap_or(0);
        match ready_since(pod) {
            None => false,
            Some(_) if min <= 0 => true,
            Some(None) => false,
            Some(Some(since)) => since + std::time::Duration::from_secs(min.unsigned_abs().into()) <= self.o.now,
        }
    }

    fn is_unavailable(&self, slot: Slot) -> bool {
        match slot {
            Slot::Missing(_) => true,
            Slot::There(i) => !self.is_available(&self.o.pods[i]) || is_terminating(&self.o.pods[i]),
        }
    }

    fn count(&mut self) {
        let set = self.o.set;
        let known = SetStatus::of(set);
        let mut status = SetStatus {
            observed_generation: set.metadata.generation.unwrap_or(0),
            current_revision: self.o.current.0.to_owned(),
            update_revision: self.o.update.0.to_owned(),
            collisions: self.o.collisions,
            conditions: known.conditions,
            ..SetStatus::default()
        };
        for pod in self.o.pods {
            status.replicas += 1;
            status.ready_replicas += i32::from(self.is_ready(pod));
            status.available_replicas += i32::from(self.is_ready(pod) && self.is_available(pod));
            if !is_terminating(pod) {
                status.current_replicas += i32::from(identity::revision(pod) == self.o.current.0);
                status.updated_replicas += i32::from(identity::revision(pod) == self.o.update.0);
            }
        }
        self.status = status;
    }

    fn decide(&mut self, phases: &mut Vec<Vec<Step>>) -> Result<()> {
        for work in [Self::keep_replicas, Self::keep_condemned_claims, Self::remove_condemned] {
            let mut steps = Vec::new();
            let next = work(self, &mut steps);
            phases.push(steps.into_iter().filter(|s: &Step| !s.is_empty()).collect());
            if next == Next::Stop && !self.burst {
                return Ok(());
            }
        }
        if self.o.set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            let mut steps = Vec::new();
            self.roll(&mut steps)?;
            phases.push(steps);
        }
        Ok(())
    }

    fn keep_replicas(&mut self, steps: &mut Vec<Step>) -> Next {
        for at in 0..self.replicas.len() {
            let mut step = Vec::new();
            let next = match self.replicas[at] {
                Some(i) => self.keep_replica(&self.o.pods[i], i, &mut step),
                None => self.create_replica(at, &mut step),
            };
            steps.push(step);
            if next == Next::Stop && !self.burst {
                return Next::Stop;
            }
        }
        Next::GoOn
    }

    fn create_replica(&self, at: usize, step: &mut Step) -> Next {
        let set = self.o.set;
        let ordinal = first_ordinal(set) + i64::try_from(at).unwrap_or(0);
        let (revision, template) = if self.keeps_current(ordinal) { self.o.current } else { self.o.update };
        let pod = identity::new_pod(set, template, revision, ordinal);
        let known = |claim: &PersistentVolumeClaim| (self.o.claim)(claim.metadata.name.as_deref().unwrap_or_default());
        if claims::of(set, ordinal).iter().filter_map(|(_, c)| known(c)).any(|c| claims::is_stale(set, &pod, &c)) {
            // The claims of an earlier pod of this name are about to be collected: wait for that.
            return Next::Stop;
        }
        self.create_claims(&pod, step);
        step.push(Action::Create(Box::new(pod.clone())));
        self.keep_claims(&pod, step);
        Next::Stop
    }

    /// During a rolling update new pods below the partition are still of the current revision.
    fn keeps_current(&self, ordinal: i64) -> bool {
        let set = self.o.set;
        let strategy = set.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") != "RollingUpdate" {
            return false;
        }
        let below = match strategy.and_then(|s| s.rolling_update.as_ref()) {
            None => set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
            Some(rolling) => rolling.partition.unwrap_or(0),
        };
        ordinal < first_ordinal(set) + i64::from(below)
    }

    fn keep_replica(&self, pod: &Pod, index: usize, step: &mut Step) -> Next {
        let set = self.o.set;
        if is_over(pod) {
            if !is_terminating(pod) {
                step.push(Action::Delete(index));
            }
            return Next::Stop;
        }
        if phase(pod) == "Pending" {
            self.create_claims(pod, step);
        }
        if !self.burst && (is_terminating(pod) || !self.is_ready(pod) || !self.is_available(pod)) {
            self.keep_claims(pod, step);
            return Next::Stop;
        }
        self.keep_claims(pod, step);
        if !identity::identity_matches(set, pod) || !identity::storage_matches(set, pod) {
            let mut restored = pod.clone();
            identity::restore_identity(set, &mut restored);
            identity::restore_storage(set, &mut restored);
            step.push(Action::Update(Box::new(restored)));
        }
        Next::GoOn
    }

    fn create_claims(&self, pod: &Pod, step: &mut Step) {
        for (_, claim) in claims::of(self.o.set, identity::ordinal(pod)) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            match (self.o.claim)(&name) {
                None => step.push(Action::CreateClaim { claim: Box::new(claim), pod: identity::name(pod).to_owned() }),
                Some(known) if known.metadata.deletion_timestamp.is_some() => step.push(Action::Fail(format!("pvc {name} is being deleted"))),
                Some(_) => {}
            }
        }
    }

    /// Brings the owners of the pod's claims in line with the retention policy.
    fn keep_claims(&self, pod: &Pod, step: &mut Step) {
        for (_, claim) in claims::of(self.o.set, identity::ordinal(pod)) {
            let name = claim.metadata.name.unwrap_or_default();
            let Some(known) = (self.o.claim)(&name) else { continue };
            match claims::judge(self.o.set, pod, &known) {
                claims::Verdict::Fine => {}
                claims::Verdict::Change(claim) => step.push(Action::UpdateClaim(claim)),
                claims::Verdict::Conflict(change) => {
                    let message = format!(
                        "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
                    );
                    step.push(Action::Warn { reason: "ConflictingController", message });
                    step.extend(change.map(Action::UpdateClaim));
                }
            }
        }
    }

    fn keep_condemned_claims(&mut self, steps: &mut Vec<Step>) -> Next {
        for i in &self.condemned {
            let mut step = Vec::new();
            self.keep_claims(&self.o.pods[*i], &mut step);
            steps.push(step);
        }
        Next::GoOn
    }

    fn remove_condemned(&mut self, steps: &mut Vec<Step>) -> Next {
        for &i in &self.condemned {
            let pod = &self.o.pods[i];
            if is_terminating(pod) {
                if !self.burst {
                    return Next::Stop;
                }
                continue;
            }
            let is_first = self.first_unavailable == Some(Slot::There(i));
            if !self.burst && !is_first && (!self.is_ready(pod) || !self.is_available(pod)) {
                return Next::Stop;
            }
            steps.push(vec![Action::Delete(i)]);
            if !self.burst {
                return Next::Stop;
            }
        }
        Next::GoOn
    }

    /// Upstream: `updateStatefulSetAfterInvariantEstablished`.
    fn roll(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        let rolling = self.o.set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let partition = usize::try_from(rolling.and_then(|r| r.partition).unwrap_or(0)).unwrap_or(0);
        let most = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
            None => 1,
            some => scaled(some, wanted(self.o.set), false).ok_or_else(|| Status::bad_request("invalid value for maxUnavailable"))?.max(1),
        };
        let slots: Vec<Slot> = self.replicas.iter().enumerate().map(|(at, pod)| pod.map_or(Slot::Missing(at), Slot::There)).collect();
        let is_old = |slot: &Slot| match slot {
            Slot::There(i) => identity::revision(&self.o.pods[*i]) != self.o.update.0 && !is_terminating(&self.o.pods[*i]),
            Slot::Missing(_) => false,
        };
        let unavailable = slots.iter().filter(|s| self.is_unavailable(**s)).count();
        let mut room = usize::try_from(most).unwrap_or(1).saturating_sub(unavailable);
        let stuck = slots.iter().filter(|s| self.burst && self.is_unavailable(**s) && is_old(s)).count();
        if room == 0 && stuck == 0 {
            return Ok(());
        }
        let mut chosen = Vec::new();
        for slot in slots.iter().skip(partition).rev().filter(|s| is_old(s)) {
            let Slot::There(i) = *slot else { continue };
            // Side by side, what does not serve anyway costs nothing.
            let free = self.burst && !self.is_available(&self.o.pods[i]);
            if free || room > 0 && !(self.burst && self.is_unavailable(*slot)) {
                room -= usize::from(!free);
                chosen.push(i);
            }
        }
        for i in chosen {
            steps.push(vec![Action::Delete(i)]);
            self.status.current_replicas -= i32::from(identity::revision(&self.o.pods[i]) == self.o.current.0);
        }
        Ok(())
    }
}
