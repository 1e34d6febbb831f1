//! ReplicaSets and ReplicationControllers: so many pods like this one. Two kinds, one implementation; what differs stands
//! in [`kind`]. Upstream: `pkg/controller/replicaset`, `pkg/controller/replication`.

mod kind;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ObjectReference, ReplicationController};
use knarr_client::events::reference;
use knarr_client::{Change, Informer, Key, Outcome, WorkQueue};
use knarr_core::clock::Env;
use knarr_core::{Result, Status};

use crate::batch::{is_namespace_terminating, slow_start};
use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::ownership::{self, ControllerRef, Owned};
use crate::pods::{self, PodControl, PodItem, PodView, control, ranking};
use kind::{Replicated, ReplicatedKind};

/// Pods created or deleted in one go.
const BURST: usize = 500;
/// The name of replica sets in a [`Ledger`].
const OWN: &str = "replicasets";

/// Starts the controllers of both kinds.
pub fn start(context: &ControllerContext) {
    Controller::<ReplicaSet>::start(context);
    Controller::<ReplicationController>::start(context);
}

struct Controller<K> {
    sets: Informer<Owned>,
    pods: Informer<PodView>,
    control: PodControl,
    env: Env,
    of: std::marker::PhantomData<fn() -> K>,
}

impl<K: ReplicatedKind> Controller<K> {
    fn start(context: &ControllerContext) {
        let client = context.client(K::COMPONENT);
        let (sets, pods) = (context.informer::<K, Owned>(), pods::informer(context));
        ownership::index_by_controller(&sets);
        let queue = context.queue(K::QUEUE);
        enqueue_all(&sets, &queue);
        let recorder = context.recorder(&client, K::COMPONENT);
        let control = PodControl { client, recorder, ledger: Ledger::default() };
        let this = Arc::new(Self { sets, pods, control, env: context.env.clone(), of: std::marker::PhantomData });
        this.clone().follow_pods(queue.clone());
        context.run(K::QUEUE, queue, move |key| {
            let this = this.clone();
            async move { this.reconcile(key).await }
        });
    }

    /// A changed pod wakes its set; a changed orphan wakes every set that might adopt it.
    fn follow_pods(self: Arc<Self>, queue: WorkQueue<Key>) {
        let pods = self.pods.clone();
        pods.on_change(move |change| {
            for key in self.sets_of(change) {
                queue.add(key);
            }
        });
    }

    fn sets_of(&self, change: &Change<PodView>) -> Vec<Key> {
        let owner = |pod: &Option<PodItem>| pod.as_ref().and_then(|p| p.view.controller.as_deref().and_then(|c| self.set_named(&p.key, c)));
        let mut keys: Vec<Key> = owner(&change.old).into_iter().chain(owner(&change.new)).collect();
        keys.dedup();
        let orphan = change.new.as_ref().filter(|p| p.view.controller.is_none() && p.view.is_active());
        if let Some(pod) = orphan {
            keys.extend(self.sets_selecting(pod));
        }
        keys
    }

    fn set_named(&self, pod: &Key, controller: &ControllerRef) -> Option<Key> {
        (*controller.kind == *K::KIND).then(|| Key::new(pod.namespace(), &controller.name))
    }

    fn sets_selecting(&self, pod: &PodItem) -> Vec<Key> {
        let sets = self.sets.store().within(pod.key.namespace());
        let selects = |set: &Replicated| ownership::labels_match(&pod.object, &set.selector);
        sets.into_iter().filter(|s| s.typed::<K>().is_ok_and(|k| selects(&k.replicated()))).map(|s| s.key.clone()).collect()
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        let ledger = &self.control.ledger;
        let Some(item) = self.sets.store().get(&key) else {
            ledger.forget(&key);
            return Ok(Outcome::Done);
        };
        if !ledger.caught_up(&key, control::PODS, &self.pods).await || !ledger.caught_up(&key, OWN, &self.sets).await {
            return Ok(Outcome::Retry);
        }
        let item = self.sets.store().get(&key).unwrap_or(item);
        let object: K = item.typed()?;
        let set = object.replicated();
        let about = reference(&object);
        let now = self.env.now();
        let all = self.candidates(&key, &item.view);
        let pods = self.claim(&key, &object, &set, all.iter().filter(|p| p.view.is_active()).cloned()).await?;
        let terminating = all.iter().filter(|p| p.view.is_terminating() && set.owns(p)).count();
        let managed = if item.view.deleting { Ok(()) } else { self.manage(&key, &set, &about, &pods).await };

        let new = status::calculate(&set, &pods, terminating, managed.as_ref().err(), K::COUNTS_TERMINATING, now);
        self.write_status(&key, object, &set, &new).await?;
        managed?;
        let waiting = set.min_ready_seconds > 0 && new.ready != new.available;
        Ok(if waiting { pods::next_available(&pods, set.min_ready_seconds, now).map_or(Outcome::Done, Outcome::After) } else { Outcome::Done })
    }

    /// The set's own pods and the orphans beside them, without those that we deleted already.
    fn candidates(&self, key: &Key, set: &Owned) -> Vec<PodItem> {
        let own = ownership::controllees(&self.pods, &set.uid);
        let ledger = &self.control.ledger;
        ledger.keep_deleted(key, |uid| own.iter().any(|p| *p.view.uid == *uid && p.view.deleting.is_none()));
        let orphans = ownership::orphans(&self.pods, key.namespace());
        own.into_iter().filter(|p| !ledger.is_deleted(key, &p.view.uid)).chain(orphans).collect()
    }

    async fn claim(&self, key: &Key, object: &K, set: &Replicated, pods: impl Iterator<Item = PodItem>) -> Result<Vec<PodItem>> {
        let claims = ownership::claim(&set.uid, set.deleting, pods, |p| ownership::labels_match(&p.object, &set.selector));
        let mut owned = claims.owned;
        if !claims.adopt.is_empty() {
            let api = self.control.client.within::<K>(key.namespace());
            ownership::may_adopt(&api, key.name(), &set.uid).await?;
        }
        let me = ownership::controller_reference(object);
        for pod in claims.adopt {
            if self.control.patch(key, pod.key.name(), ownership::adoption(&me, &pod.view.uid)).await? {
                owned.push(pod);
            }
        }
        for pod in claims.release {
            self.control.patch(key, pod.key.name(), ownership::release(&set.uid, &pod.view.uid)).await?;
        }
        Ok(owned)
    }

    /// Creates or deletes pods until there are as many as there should be.
    async fn manage(&self, key: &Key, set: &Replicated, about: &ObjectReference, pods: &[PodItem]) -> Result<()> {
        match decide(set.replicas, pods.len()) {
            Decision::Nothing => Ok(()),
            Decision::Create(count) => {
                let Some(pod) = set.new_pod() else { return Ok(()) };
                let create = |_| async {
                    match self.control.create(key, about, &pod).await {
                        Err(error) if is_namespace_terminating(&error) => Ok(()),
                        other => other.map(drop),
                    }
                };
                slow_start(count, create).await.1.map_or(Ok(()), Err)
            }
            Decision::Delete(count) => {
                let chosen = ranking::choose(pods.to_vec(), &self.related(set), count, self.env.now());
                let deletes = chosen.iter().map(|p| self.control.delete(key, about, p.key.name(), &p.view.uid));
                futures::future::join_all(deletes).await.into_iter().collect()
            }
        }
    }

    /// The pods of all sets that the same Deployment owns (upstream: `getIndirectlyRelatedPods`).
    fn related(&self, set: &Replicated) -> Vec<PodItem> {
        let Some(owner) = &set.controller_uid else { return Vec::new() };
        let siblings = ownership::controllees(&self.sets, owner);
        siblings.iter().flat_map(|s| ownership::controllees(&self.pods, &s.view.uid)).collect()
    }

    /// Writes a status that differs; on a conflict once more over the newest object.
    async fn write_status(&self, key: &Key, object: K, set: &Replicated, new: &status::ReplicaStatus) -> Result<()> {
        if *new == set.status {
            return Ok(());
        }
        let api = self.control.client.within::<K>(key.namespace());
        let written = match api.dynamic().update_status(knarr_client::client::tree(&object.with_status(new))?).await {
            Err(error) if error.is_conflict() => {
                let fresh = api.get(key.name()).await?;
                if fresh.replicated().uid != set.uid {
                    return Err(error);
                }
                api.dynamic().update_status(knarr_client::client::tree(&fresh.with_status(new))?).await
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
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Nothing,
    Create(usize),
    Delete(usize),
}

fn decide(wanted: i32, have: usize) -> Decision {
    let wanted = usize::try_from(wanted).unwrap_or_default();
    match have.cmp(&wanted) {
        std::cmp::Ordering::Equal => Decision::Nothing,
        std::cmp::Ordering::Less => Decision::Create((wanted - have).min(BURST)),
        std::cmp::Ordering::Greater => Decision::Delete((have - wanted).min(BURST)),
    }
}

/// The failure of managing replicas, as a condition names it.
fn failure_reason(set: &Replicated, have: usize) -> &'static str {
    match decide(set.replicas, have) {
        Decision::Create(_) => "FailedCreate",
        Decision::Delete(_) => "FailedDelete",
        Decision::Nothing => "",
    }
}

/// A failure that tells a user something (kept apart so that status stays pure).
type Failure<'a> = Option<&'a Status>;

#[cfg(test)]
mod tests;
