//! The decision: on which nodes a pod comes or goes, and what the set says of itself. Pure.
//! Upstream: `podsShouldBeOnNode`, `rollingUpdate`, `updateDaemonSetStatus`.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use knarr_client::EventKind;

use super::{HASH, template};
use crate::ownership::label;
use crate::pods::{Phase, PodItem};
use crate::quantities::{nonzero, scaled};

/// Whether a pod should be there, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fits {
    pub run: bool,
    pub stay: bool,
}

/// One node as this set sees it.
pub struct OnNode {
    pub name: String,
    pub fits: Fits,
    pub pods: Vec<PodItem>,
    /// For each pod: whether it is being deleted, or we just did that.
    pub doomed: Vec<bool>,
}

impl OnNode {
    fn alive(&self) -> impl Iterator<Item = &PodItem> {
        self.pods.iter().zip(&self.doomed).filter(|(_, doomed)| !**doomed).map(|(pod, _)| pod)
    }

    fn oldest(&self) -> Option<&PodItem> {
        self.pods.iter().min_by_key(|p| age_order(p))
    }
}

/// Bound pods first, then the older ones (upstream: `podByCreationTimestampAndPhase`).
fn age_order(p: &PodItem) -> (bool, Timestamp, String) {
    (p.view.node.is_none(), p.view.created, p.key.name().to_owned())
}

pub struct Facts<'a> {
    pub set: &'a DaemonSet,
    pub hash: &'a str,
    pub generation: Option<String>,
    pub now: Timestamp,
}

impl Facts<'_> {
    fn is_updated(&self, pod: &PodItem) -> bool {
        let by_hash = !self.hash.is_empty() && label(&pod.object, HASH) == Some(self.hash);
        by_hash || self.generation.is_some() && label(&pod.object, template::generation_label()) == self.generation.as_deref()
    }

    fn is_available(&self, pod: &PodItem) -> bool {
        pod.view.is_available(self.set.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn rolling(&self) -> Option<&k8s_openapi::api::apps::v1::RollingUpdateDaemonSet> {
        self.set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref())
    }

    fn is_rolling(&self) -> bool {
        self.set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    fn max_surge(&self, desired: i32) -> i32 {
        if self.is_rolling() { scaled(self.rolling().and_then(|r| r.max_surge.as_ref()), desired, true).unwrap_or(0) } else { 0 }
    }

    fn max_unavailable(&self, desired: i32) -> i32 {
        let wanted = scaled(self.rolling().and_then(|r| r.max_unavailable.as_ref()), desired, true).unwrap_or(0);
        if desired > 0 && wanted == 0 && self.max_surge(desired) == 0 { 1 } else { wanted }
    }

    fn allows_surge(&self) -> bool {
        self.max_surge(1) > 0
    }
}

#[derive(Default)]
pub struct Plan {
    /// Names of nodes.
    pub create: Vec<String>,
    pub delete: Vec<PodItem>,
    pub events: Vec<(EventKind, &'static str, String)>,
    pub status: DaemonStatus,
}

/// A status in values that can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonStatus {
    pub observed_generation: i64,
    pub desired: i32,
    pub current: i32,
    pub misscheduled: i32,
    pub ready: i32,
    pub updated: i32,
    pub available: i32,
    pub unavailable: i32,
    pub collisions: Option<i32>,
}

impl DaemonStatus {
    pub fn of(set: &DaemonSet) -> Self {
        let s = set.status.clone().unwrap_or_default();
        Self {
            observed_generation: s.observed_generation.unwrap_or(0),
            desired: s.desired_number_scheduled,
            current: s.current_number_scheduled,
            misscheduled: s.number_misscheduled,
            ready: s.number_ready,
            updated: s.updated_number_scheduled.unwrap_or(0),
            available: s.number_available.unwrap_or(0),
            unavailable: s.number_unavailable.unwrap_or(0),
            collisions: s.collision_count,
        }
    }

    pub fn write(&self, mut set: DaemonSet) -> DaemonSet {
        let conditions = set.status.take().and_then(|s| s.conditions);
        set.status = Some(DaemonSetStatus {
            observed_generation: Some(self.observed_generation),
            desired_number_scheduled: self.desired,
            current_number_scheduled: self.current,
            number_misscheduled: self.misscheduled,
            number_ready: self.ready,
            updated_number_scheduled: nonzero(self.updated),
            number_available: nonzero(self.available),
            number_unavailable: nonzero(self.unavailable),
            collision_count: self.collisions,
            conditions,
        });
        set
    }
}

/// Decides. `may_replace` tells whether a failed pod on that node may be replaced already.
pub fn plan(facts: &Facts<'_>, nodes: &[OnNode], may_replace: &dyn Fn(&str) -> bool) -> Plan {
    let mut plan = Plan { status: count(facts, nodes), ..Plan::default() };
    for node in nodes {
        manage(facts, node, may_replace, &mut plan);
    }
    // A rollout goes on only when all is as it should be otherwise.
    if plan.create.is_empty() && plan.delete.is_empty() && facts.is_rolling() {
        let desired = plan.status.desired;
        if facts.max_surge(desired) == 0 { replace(facts, nodes, desired, &mut plan) } else { surge(facts, nodes, desired, &mut plan) }
    }
    plan
}

fn count(facts: &Facts<'_>, nodes: &[OnNode]) -> DaemonStatus {
    let mut status = DaemonStatus {
        observed_generation: facts.set.metadata.generation.unwrap_or(0),
        collisions: facts.set.status.as_ref().and_then(|s| s.collision_count),
        ..DaemonStatus::default()
    };
    for node in nodes {
        let pod = node.oldest();
        match (node.fits.run, pod) {
            (true, pod) => {
                status.desired += 1;
                let Some(pod) = pod else { continue };
                status.current += 1;
                status.ready += i32::from(pod.view.is_ready());
                status.available += i32::from(facts.is_available(pod));
                status.updated += i32::from(facts.is_updated(pod));
            }
            (false, Some(_)) => status.misscheduled += 1,
            (false, None) => {}
        }
    }
    status.unavailable = status.desired - status.available;
    status
}

fn manage(facts: &Facts<'_>, node: &OnNode, may_replace: &dyn Fn(&str) -> bool, plan: &mut Plan) {
    if node.fits.run && node.pods.is_empty() {
        plan.create.push(node.name.clone());
    } else if node.fits.stay {
        keep(facts, node, may_replace, plan);
    } else {
        plan.delete.extend(node.alive().cloned());
    }
}

fn keep(facts: &Facts<'_>, node: &OnNode, may_replace: &dyn Fn(&str) -> bool, plan: &mut Plan) {
    let mut running: Vec<&PodItem> = Vec::new();
    for pod in node.alive() {
        match pod.view.phase {
            Phase::Failed if may_replace(&node.name) => {
                let text = format!("Found failed daemon pod {} on node {}, will try to kill it", pod.key, node.name);
                plan.events.push((EventKind::Warning, "FailedDaemonPod", text));
                plan.delete.push(pod.clone());
            }
            Phase::Failed => {}
            Phase::Succeeded => {
                let text = format!("Found succeeded daemon pod {} on node {}, will try to delete it", pod.key, node.name);
                plan.events.push((EventKind::Normal, "SucceededDaemonPod", text));
                plan.delete.push(pod.clone());
            }
            _ => running.push(pod),
        }
    }
    running.sort_by_key(|p| age_order(p));
    if !facts.allows_surge() {
        plan.delete.extend(running.into_iter().skip(1).cloned());
        return;
    }
    if running.len() <= 1 {
        if running.is_empty() && node.fits.run {
            plan.create.push(node.name.clone());
        }
        return;
    }
    keep_pair(facts, &running, plan);
}

/// With surge a node may have one pod of the new template beside one of the old.
fn keep_pair(facts: &Facts<'_>, running: &[&PodItem], plan: &mut Plan) {
    let (mut new, mut old): (Option<&PodItem>, Option<&PodItem>) = (None, None);
    for pod in running {
        let slot = if label(&pod.object, HASH) == Some(facts.hash) { &mut new } else { &mut old };
        if slot.is_none() {
            *slot = Some(pod);
        } else {
            plan.delete.push((*pod).clone());
        }
    }
    if let (Some(new), Some(old)) = (new, old) {
        if !old.view.is_ready() || facts.is_available(new) {
            plan.delete.push(old.clone());
        }
    }
}

/// The pods of a node by template; none when there are several of one.
fn pair<'a>(facts: &Facts<'_>, node: &'a OnNode) -> Option<(Option<&'a PodItem>, Option<&'a PodItem>)> {
    let (mut new, mut old) = (None, None);
    for pod in node.alive() {
        let slot = if facts.is_updated(pod) { &mut new } else { &mut old };
        if slot.is_some() {
            return None;
        }
        *slot = Some(pod);
    }
    Some((new, old))
}

/// Old pods go, as many at once as may be missing; those that do not serve anyway first.
fn replace(facts: &Facts<'_>, nodes: &[OnNode], desired: i32, plan: &mut Plan) {
    let most = facts.max_unavailable(desired);
    let (mut missing, mut candidates) = (0, Vec::new());
    for node in nodes.iter().filter(|n| n.fits.run || !n.pods.is_empty()) {
        match pair(facts, node) {
            Some((Some(new), None)) => missing += i32::from(!facts.is_available(new)),
            Some((None, Some(old))) if !facts.is_available(old) => {
                plan.delete.push(old.clone());
                missing += 1;
            }
            Some((None, Some(old))) => candidates.push(old.clone()),
            _ => missing += 1,
        }
    }
    let room = usize::try_from(most - missing).unwrap_or(0);
    plan.delete.extend(candidates.into_iter().take(room));
}

/// New pods come beside old ones, as many at once as surge allows; an old one goes when the new one is available.
fn surge(facts: &Facts<'_>, nodes: &[OnNode], desired: i32, plan: &mut Plan) {
    let (mut surging, mut available) = (0, 0);
    let (mut candidates, mut unwanted) = (Vec::new(), Vec::new());
    for node in nodes.iter().filter(|n| n.fits.run || !n.pods.is_empty()) {
        let Some((new, old)) = pair(facts, node) else {
            surging += 1;
            continue;
        };
        available += i32::from(old.or(new).is_some_and(|p| facts.is_available(p)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if !node.fits.run && facts.is_available(old) => unwanted.push(old.clone()),
            (None, Some(old)) if !node.fits.run => plan.delete.push(old.clone()),
            (None, Some(old)) if !facts.is_available(old) => plan.create.push(node.name.clone()),
            (None, Some(_)) => candidates.push(node.name.clone()),
            (Some(new), Some(old)) if facts.is_available(new) => plan.delete.push(old.clone()),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    plan.delete.extend(unwanted.into_iter().take(usize::try_from(available - desired).unwrap_or(0)));
    let room = usize::try_from(facts.max_surge(desired) - surging).unwrap_or(0);
    plan.create.extend(candidates.into_iter().take(room));
}
