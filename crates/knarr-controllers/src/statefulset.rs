//! StatefulSets: pods with names that last, each with its own claims, created, updated and removed in order.
//!
//! [`plan`] decides; this module observes and executes. Upstream: `pkg/controller/statefulset`.

mod claims;
mod identity;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::events::reference;
use knarr_client::{Change, Client, EventKind, Informer, Key, Outcome, Recorder, client};
use knarr_core::clock::Env;
use knarr_core::{Reason, Result, Status};

use crate::batch::slow_start;
use crate::context::{ControllerContext, enqueue_all};
use crate::hash::{fnv32, safe_encode};
use crate::history::{self, History, REVISIONS};
use crate::ledger::Ledger;
use crate::ownership::{self, Owned};
use crate::pods::{self, PodControl, PodItem, PodView, control::PODS};
use plan::{Action, Observed, Plan, Step};

const OWN: &str = "statefulsets";
const CLAIMS: &str = "persistentvolumeclaims";
/// On revisions, beside the template's labels.
const REVISION_HASH: &str = "controller.kubernetes.io/hash";

pub fn start(context: &ControllerContext) {
    let client = context.client("statefulset-controller");
    let recorder = context.recorder(&client, "statefulset-controller");
    let this = Arc::new(Controller {
        sets: context.informer::<StatefulSet, Owned>(),
        pods: pods::informer(context),
        claims: context.informer::<PersistentVolumeClaim, Owned>(),
        history: History::new(context, &client),
        control: PodControl { client: client.clone(), recorder: recorder.clone(), ledger: Ledger::default() },
        client,
        recorder,
        env: context.env.clone(),
    });
    let queue = context.queue("statefulset");
    enqueue_all(&this.sets, &queue);
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| me.sets_of(change).into_iter().for_each(|key| woken.add(key)));
    context.run("statefulset", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    sets: Informer<Owned>,
    pods: Informer<PodView>,
    claims: Informer<Owned>,
    history: History,
    control: PodControl,
    client: Client,
    recorder: Recorder,
    env: Env,
}

/// The two revisions that a rollout goes between.
struct Revisions {
    current: ControllerRevision,
    update: ControllerRevision,
    collisions: i32,
}

impl Controller {
    fn sets_of(&self, change: &Change<PodView>) -> Vec<Key> {
        let owner = |pod: &Option<PodItem>| {
            let pod = pod.as_ref()?;
            let controller = pod.view.controller.as_deref().filter(|c| &*c.kind == "StatefulSet")?;
            Some(Key::new(pod.key.namespace(), &controller.name))
        };
        let mut keys: Vec<Key> = owner(&change.old).into_iter().chain(owner(&change.new)).collect();
        keys.dedup();
        if let Some(orphan) = change.new.as_ref().filter(|p| p.view.controller.is_none()) {
            // Only the set that its name belongs to may adopt a pod.
            let parent = identity::parent_and_ordinal(orphan.key.name()).map(|(parent, _)| Key::new(orphan.key.namespace(), parent));
            keys.extend(parent.filter(|key| self.sets.store().get(key).is_some()));
        }
        keys
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let ledger = &self.control.ledger;
        if self.sets.store().get(&key).is_none() {
            ledger.forget(&key);
            return Ok(Outcome::Done);
        }
        let caught_up = ledger.caught_up(&key, PODS, &self.pods).await
            && ledger.caught_up(&key, OWN, &self.sets).await
            && ledger.caught_up(&key, CLAIMS, &self.claims).await
            && ledger.caught_up(&key, REVISIONS, &self.history.revisions).await;
        if !caught_up {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.sets.store().get(&key) else { return Ok(Outcome::Done) };
        let set: StatefulSet = item.typed()?;
        let selector = ownership::selector(&set.spec.selector);
        let known = self.history.claim(&key, &set, &selector, ledger).await?;
        let items = self.claim(&key, &set, &selector).await?;
        let mut all: Vec<Pod> = items.iter().map(|p| p.typed()).collect::<Result<_>>()?;
        for pod in all.iter_mut().filter(|p| ledger.is_deleted(&key, p.metadata.uid.as_deref().unwrap_or_default())) {
            // We deleted it already and only wait to see that.
            pod.metadata.deletion_timestamp.get_or_insert(Time(self.env.now()));
        }
        let revisions = self.revisions(&key, &set, &known).await?;
        let now = self.env.now();
        let observed = Observed {
            set: &set,
            current: (history::name(&revisions.current), &history::template(&revisions.current)?),
            update: (history::name(&revisions.update), &history::template(&revisions.update)?),
            collisions: revisions.collisions,
            pods: &all,
            claim: &|name: &str| self.claims.store().find(key.namespace(), name).and_then(|c| c.typed().ok()),
            now,
        };
        let Plan { phases, burst, status } = plan::plan(&observed)?;
        let done = self.execute(&key, &set, &all, phases, burst).await;
        if set.metadata.deletion_timestamp.is_none() || done.is_ok() {
            self.write_status(&key, &set, status.clone()).await?;
        }
        done?;
        self.truncate_history(&key, &set, &known, &revisions, &all).await?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
        let waiting = min_ready > 0 && status.ready_replicas != status.available_replicas;
        Ok(if waiting { pods::next_available(&items, min_ready, now).map_or(Outcome::Done, Outcome::After) } else { Outcome::Done })
    }

    async fn claim(&self, key: &Key, set: &StatefulSet, selector: &knarr_core::selector::LabelSelector) -> Result<Vec<PodItem>> {
        let ledger = &self.control.ledger;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let own = ownership::controllees(&self.pods, &uid);
        ledger.keep_deleted(key, |uid| own.iter().any(|p| *p.view.uid == *uid && p.view.deleting.is_none()));
        let candidates = own.into_iter().chain(ownership::orphans(&self.pods, key.namespace()));
        let is_member = |p: &PodItem| identity::parent_and_ordinal(p.key.name()).is_some_and(|(parent, _)| parent == key.name());
        let deleting = set.metadata.deletion_timestamp.is_some();
        let claims = ownership::claim(&uid, deleting, candidates.filter(|p| p.view.controller.is_some() || is_member(p)), |p| {
            ownership::labels_match(&p.object, selector)
        });
        let mut owned = claims.owned;
        if !claims.adopt.is_empty() {
            ownership::may_adopt(&self.client.within::<StatefulSet>(key.namespace()), key.name(), &uid).await?;
        }
        let me = ownership::controller_reference(set);
        for pod in claims.adopt {
            if self.control.patch(key, pod.key.name(), ownership::adoption(&me, &pod.view.uid)).await? {
                owned.push(pod);
            }
        }
        for pod in claims.release {
            self.control.patch(key, pod.key.name(), ownership::release(&uid, &pod.view.uid)).await?;
        }
        Ok(owned)
    }

    /// The revision that pods are to have, and the one that they had before (upstream: `getStatefulSetRevisions`).
    async fn revisions(&self, key: &Key, set: &StatefulSet, known: &[ControllerRevision]) -> Result<Revisions> {
        let ledger = &self.control.ledger;
        let template = &set.spec.template;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let next = known.last().map_or(1, |r| history::number(r) + 1);
        let equal = known.iter().rposition(|r| history::holds(r, template));
        let (update, collisions) = match equal {
            Some(i) if i + 1 == known.len() => (known[i].clone(), collisions),
            Some(i) => (self.history.renumber(key, ledger, known[i].clone(), next).await?, collisions),
            None => {
                let make = |collisions: i32| {
                    let data = history::data(template)?.to_string();
                    let hash = safe_encode(&fnv32(data.bytes().chain(collisions.to_string().bytes())).to_string());
                    history::new_revision(set, history::revision_name(key.name(), &hash), (REVISION_HASH, &hash), template, next)
                };
                self.history.create(key, ledger, collisions, make).await?
            }
        };
        let named = set.status.as_ref().and_then(|s| s.current_revision.as_deref()).unwrap_or_default();
        let current = known.iter().find(|r| history::name(r) == named).unwrap_or(&update).clone();
        Ok(Revisions { current, update, collisions })
    }

    async fn execute(&self, key: &Key, set: &StatefulSet, pods: &[Pod], phases: Vec<Vec<Step>>, burst: bool) -> Result<()> {
        let about = reference(set);
        for phase in phases {
            if burst {
                let (_, failure) = slow_start(phase.len(), |i| self.take(key, &about, pods, &phase[i])).await;
                failure.map_or(Ok(()), Err)?;
            } else {
                for step in &phase {
                    self.take(key, &about, pods, step).await?;
                }
            }
        }
        Ok(())
    }

    async fn take(&self, key: &Key, about: &ObjectReference, pods: &[Pod], step: &Step) -> Result<()> {
        for action in step {
            self.act(key, about, pods, action).await?;
        }
        Ok(())
    }

    async fn act(&self, key: &Key, about: &ObjectReference, pods: &[Pod], action: &Action) -> Result<()> {
        let ledger = &self.control.ledger;
        match action {
            Action::Create(pod) => {
                let created = self.client.within::<Pod>(key.namespace()).dynamic().create(client::tree(pod)?).await;
                self.tell(about, "Create", identity::name(pod), key, created.as_ref().err().filter(|e| !e.is_already_exists()));
                ledger.wrote(key, PODS, created?.resource_version);
            }
            Action::Delete(i) => {
                let pod = &pods[*i];
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                let deleted = self.delete(key, identity::name(pod), uid).await;
                self.tell(about, "Delete", identity::name(pod), key, deleted.as_ref().err());
                deleted?;
            }
            Action::Update(pod) => {
                let updated = self.client.within::<Pod>(key.namespace()).dynamic().update(client::tree(pod)?).await;
                self.tell(about, "Update", identity::name(pod), key, updated.as_ref().err());
                ledger.wrote(key, PODS, updated?.resource_version);
            }
            Action::CreateClaim { claim, pod } => {
                let created = self.client.within::<PersistentVolumeClaim>(key.namespace()).dynamic().create(client::tree(claim)?).await;
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                match created {
                    Ok(object) => {
                        ledger.wrote(key, CLAIMS, object.resource_version);
                        let text = format!("Create Claim {name} Pod {pod} in StatefulSet {} success", key.name());
                        self.recorder.event(about, EventKind::Normal, "SuccessfulCreate", text);
                    }
                    Err(error) if error.is_already_exists() => {}
                    Err(error) => {
                        let text = format!("Create Claim {name} for Pod {pod} in StatefulSet {} failed error: {error}", key.name());
                        self.recorder.event(about, EventKind::Warning, "FailedCreate", text);
                        return Err(error);
                    }
                }
            }
            Action::UpdateClaim(claim) => {
                let object = self.client.within::<PersistentVolumeClaim>(key.namespace()).dynamic().update(client::tree(claim)?).await?;
                ledger.wrote(key, CLAIMS, object.resource_version);
            }
            Action::Warn { reason, message } => self.recorder.event(about, EventKind::Warning, reason, message.as_str()),
            Action::Fail(message) => return Err(Status::new(500, Reason::InternalError, message.as_str())),
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, name: &str, uid: &str) -> Result<()> {
        let ledger = &self.control.ledger;
        ledger.deleting(key, uid);
        match self.client.within::<Pod>(key.namespace()).delete(name, &knarr_client::Deletion::of_uid(uid)).await {
            Ok(knarr_core::api::Reply::Object(object)) => ledger.wrote(key, PODS, object.resource_version),
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                ledger.not_deleted(key, uid);
                return Err(error);
            }
        }
        Ok(())
    }

    fn tell(&self, about: &ObjectReference, title: &str, pod: &str, set: &Key, failure: Option<&Status>) {
        match failure {
            None => {
                let text = format!("{title} Pod {pod} in StatefulSet {} successful", set.name());
                self.recorder.event(about, EventKind::Normal, &format!("Successful{title}"), text);
            }
            Some(error) => {
                let text = format!("{title} Pod {pod} in StatefulSet {} failed error: {error}", set.name());
                self.recorder.event(about, EventKind::Warning, &format!("Failed{title}"), text);
            }
        }
    }

    async fn write_status(&self, key: &Key, set: &StatefulSet, status: plan::SetStatus) -> Result<()> {
        let status = status.complete(set);
        if status == plan::SetStatus::of(set) {
            return Ok(());
        }
        let api = self.client.within::<StatefulSet>(key.namespace());
        let written = match api.dynamic().update_status(client::tree(&status.write(set.clone()))?).await {
            Err(error) if error.is_conflict() => {
                let fresh = api.get(key.name()).await?;
                api.dynamic().update_status(client::tree(&status.write(fresh))?).await
            }
            other => other,
        };
        match written {
            Ok(object) => self.control.ledger.wrote(key, OWN, object.resource_version),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn truncate_history(&self, key: &Key, set: &StatefulSet, known: &[ControllerRevision], revisions: &Revisions, pods: &[Pod]) -> Result<()> {
        let is_live = |r: &ControllerRevision| {
            let name = history::name(r);
            name == history::name(&revisions.current) || name == history::name(&revisions.update) || pods.iter().any(|p| identity::revision(p) == name)
        };
        let old: Vec<&ControllerRevision> = known.iter().filter(|r| !is_live(r)).collect();
        let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX);
        for revision in &old[..old.len().saturating_sub(limit)] {
            self.history.delete(key, revision).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
