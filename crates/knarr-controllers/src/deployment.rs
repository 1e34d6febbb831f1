//! Deployments: roll a pod template out over replica sets, old ones out, a new one in, within surge and unavailability.
//!
//! [`plan`] computes from a Deployment and its replica sets everything that is to be written; this module executes it.
//! Upstream: `pkg/controller/deployment`.

mod fences;
mod history;
mod plan;
mod rollout;
mod sets;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use knarr_client::events::reference;
use knarr_client::{Change, Client, Deletion, EventKind, Informer, Key, Outcome, Recorder, client};
use knarr_core::clock::Env;
use knarr_core::{Result, Status};

use crate::batch::is_namespace_terminating;
use crate::context::{ControllerContext, enqueue_all};
use crate::ledger::Ledger;
use crate::ownership::{self, Owned};
use crate::pods::{self, PodView};
use plan::Plan;

/// The names of resources in the [`Ledger`].
const SETS: &str = "replicasets";
const OWN: &str = "deployments";

pub fn start(context: &ControllerContext) {
    let client = context.client("deployment-controller");
    let this = Arc::new(Controller {
        deployments: context.informer::<Deployment, Owned>(),
        sets: context.informer::<ReplicaSet, Owned>(),
        pods: pods::informer(context),
        recorder: context.recorder(&client, "deployment-controller"),
        client,
        ledger: Ledger::default(),
        env: context.env.clone(),
    });
    ownership::index_by_controller(&this.sets);
    let queue = context.queue("deployment");
    enqueue_all(&this.deployments, &queue);
    let (me, woken) = (this.clone(), queue.clone());
    this.sets.on_change(move |change| me.deployments_of(change).into_iter().for_each(|key| woken.add(key)));
    let (me, woken) = (this.clone(), queue.clone());
    this.pods.on_change(move |change| {
        if change.new.is_none() || change.item().view.is_over() {
            me.deployment_of_pod(change).into_iter().for_each(|key| woken.add(key));
        }
    });
    context.run("deployment", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    deployments: Informer<Owned>,
    sets: Informer<Owned>,
    pods: Informer<PodView>,
    client: Client,
    recorder: Recorder,
    ledger: Ledger,
    env: Env,
}

impl Controller {
    /// The owners of a changed set; for an orphan all deployments that may adopt it.
    fn deployments_of(&self, change: &Change<Owned>) -> Vec<Key> {
        let owner = |set: &Option<Arc<knarr_client::Item<Owned>>>| {
            let set = set.as_ref()?;
            let controller = set.view.controller.as_deref().filter(|c| &*c.kind == "Deployment")?;
            Some(Key::new(set.key.namespace(), &controller.name))
        };
        let mut keys: Vec<Key> = owner(&change.old).into_iter().chain(owner(&change.new)).collect();
        keys.dedup();
        if let Some(orphan) = change.new.as_ref().filter(|s| s.view.controller.is_none()) {
            let all = self.deployments.store().within(orphan.key.namespace());
            let selects = |d: &Deployment| ownership::labels_match(&orphan.object, &ownership::selector(&d.spec.selector));
            keys.extend(all.iter().filter(|d| d.typed().is_ok_and(|d| selects(&d))).map(|d| d.key.clone()));
        }
        keys
    }

    /// The deployment whose recreation may wait for this pod to end.
    fn deployment_of_pod(&self, change: &Change<PodView>) -> Option<Key> {
        let pod = change.item();
        let set = pod.view.controller.as_deref().filter(|c| &*c.kind == "ReplicaSet")?;
        let set = self.sets.store().find(pod.key.namespace(), &set.name)?;
        let owner = set.view.controller.as_deref().filter(|c| &*c.kind == "Deployment")?;
        Some(Key::new(pod.key.namespace(), &owner.name))
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        if self.deployments.store().get(&key).is_none() {
            self.ledger.forget(&key);
            return Ok(Outcome::Done);
        }
        if !self.ledger.caught_up(&key, OWN, &self.deployments).await || !self.ledger.caught_up(&key, SETS, &self.sets).await {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.deployments.store().get(&key) else { return Ok(Outcome::Done) };
        let deployment: Deployment = item.typed()?;
        if deployment.spec.selector == Default::default() {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&deployment), EventKind::Warning, "SelectingAll", text);
            return self.observe_only(&key, deployment).await;
        }
        let sets = self.claim(&key, &deployment).await?;
        let has_running_pods = |uid: &str| ownership::controllees(&self.pods, uid).iter().any(|p| !p.view.is_over());
        let plan = plan::plan(deployment, sets, &has_running_pods, self.env.now())?;
        self.execute(&key, plan).await
    }

    async fn observe_only(&self, key: &Key, mut deployment: Deployment) -> Result<Outcome> {
        let status = deployment.status.get_or_insert_default();
        if status.observed_generation < deployment.metadata.generation {
            status.observed_generation = deployment.metadata.generation;
            self.write_status(key, &deployment).await?;
        }
        Ok(Outcome::Done)
    }

    /// The deployment's sets, after adopting and releasing.
    async fn claim(&self, key: &Key, deployment: &Deployment) -> Result<Vec<ReplicaSet>> {
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let selector = ownership::selector(&deployment.spec.selector);
        let candidates = ownership::controllees(&self.sets, &uid).into_iter().chain(ownership::orphans(&self.sets, key.namespace()));
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        let claims = ownership::claim(&uid, deleting, candidates, |s| ownership::labels_match(&s.object, &selector));
        let mut sets: Vec<ReplicaSet> = claims.owned.iter().map(|s| s.typed()).collect::<Result<_>>()?;
        if !claims.adopt.is_empty() {
            ownership::may_adopt(&self.client.within::<Deployment>(key.namespace()), key.name(), &uid).await?;
        }
        let me = ownership::controller_reference(deployment);
        for set in claims.adopt {
            sets.extend(self.patch_set(key, set.key.name(), ownership::adoption(&me, &set.view.uid)).await?);
        }
        for set in claims.release {
            self.patch_set(key, set.key.name(), ownership::release(&uid, &set.view.uid)).await?;
        }
        Ok(sets)
    }

    async fn patch_set(&self, key: &Key, name: &str, patch: knarr_client::Patch) -> Result<Option<ReplicaSet>> {
        match self.client.within::<ReplicaSet>(key.namespace()).dynamic().patch(name, patch).await {
            Ok(object) => {
                self.ledger.wrote(key, SETS, object.resource_version);
                knarr_client::read::typed(&object).map(Some)
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn execute(&self, key: &Key, plan: Plan) -> Result<Outcome> {
        let about = reference(&plan.deployment);
        let sets = self.client.within::<ReplicaSet>(key.namespace());
        if let Some(created) = &plan.create {
            if let Err(error) = self.create_set(key, created, &plan).await {
                return if is_namespace_terminating(&error) { Ok(Outcome::Done) } else { Err(error) };
            }
        }
        for update in &plan.updates {
            let object = sets.dynamic().update(client::tree(&update.set)?).await?;
            self.ledger.wrote(key, SETS, object.resource_version);
            if let Some(event) = &update.event {
                self.recorder.event(&about, EventKind::Normal, "ScalingReplicaSet", event.as_str());
            }
        }
        for name in &plan.deletes {
            match sets.delete(name, &Deletion::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        for event in &plan.events {
            self.recorder.event(&about, event.kind, event.reason, event.message.as_str());
        }
        if plan.write_spec {
            let deployments = self.client.within::<Deployment>(key.namespace());
            let object = deployments.dynamic().update(client::tree(&plan.deployment)?).await?;
            self.ledger.wrote(key, OWN, object.resource_version);
        } else if plan.write_status {
            self.write_status(key, &plan.deployment).await?;
        }
        Ok(plan.outcome)
    }

    async fn write_status(&self, key: &Key, deployment: &Deployment) -> Result<()> {
        let deployments = self.client.within::<Deployment>(key.namespace());
        match deployments.dynamic().update_status(client::tree(deployment)?).await {
            Ok(object) => self.ledger.wrote(key, OWN, object.resource_version),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Creates the new set. A set of that name with another template is a collision of hashes: the count of collisions
    /// goes up and the next name will differ.
    async fn create_set(&self, key: &Key, set: &ReplicaSet, plan: &Plan) -> Result<()> {
        let sets = self.client.within::<ReplicaSet>(key.namespace());
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let about = reference(&plan.deployment);
        match sets.dynamic().create(client::tree(set)?).await {
            Ok(object) => {
                self.ledger.wrote(key, SETS, object.resource_version);
                let replicas = sets::replicas(set);
                if replicas > 0 {
                    self.recorder.event(&about, EventKind::Normal, "ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}"));
                }
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                let existing = sets.get(name).await?;
                let ours = sets::controller_uid(&existing) == plan.deployment.metadata.uid.as_deref();
                if ours && sets::same_template(set.spec.template.as_ref(), existing.spec.template.as_ref()) {
                    return Ok(());
                }
                self.count_collision(key, &plan.deployment).await?;
                Err(error)
            }
            Err(error) if is_namespace_terminating(&error) => Err(error),
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                self.tell_failure(key, &plan.deployment, &message).await?;
                self.recorder.event(&about, EventKind::Warning, "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }

    async fn count_collision(&self, key: &Key, deployment: &Deployment) -> Result<()> {
        let mut fresh: Deployment = self.client.within(key.namespace()).get(deployment.metadata.name.as_deref().unwrap_or_default()).await?;
        let count = fresh.status.get_or_insert_default().collision_count.get_or_insert(0);
        *count += 1;
        self.write_status(key, &fresh).await
    }

    async fn tell_failure(&self, key: &Key, deployment: &Deployment, message: &str) -> Result<(), Status> {
        if !status::has_progress_deadline(deployment) {
            return Ok(());
        }
        let fresh: Deployment = self.client.within(key.namespace()).get(key.name()).await?;
        let mut told = status::RolloutStatus::of(&fresh);
        let known = told.clone();
        told.set(status::Condition::new(status::PROGRESSING, "False", "ReplicaSetCreateError", message.to_owned(), self.env.now()));
        if told == known { Ok(()) } else { self.write_status(key, &told.write(fresh)).await }
    }
}

#[cfg(test)]
mod tests;
