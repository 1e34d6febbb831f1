//! Looks at single objects and deletes, orphans or lets go. Upstream: `garbagecollector.go`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use knarr_client::client::DynamicApi;
use knarr_client::{Client, Deletion, EventKind, Outcome, Patch, Recorder, read};
use knarr_core::{GroupVersion, Result, Status, Value, json};
use serde::Deserialize;

use super::census::Census;
use super::graph::{FOREGROUND, Item, ORPHAN, Task, Uid};
use crate::resources::ResourceInfo;

pub struct Collector {
    pub client: Client,
    pub recorder: Recorder,
    pub census: Arc<Census>,
}

#[derive(Deserialize)]
struct Live {
    metadata: LiveMeta,
}

knarr_client::partial!(Live);

/// What the API itself says of an object now.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LiveMeta {
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<String>,
    finalizers: Vec<String>,
    owner_references: Vec<OwnerReference>,
}

impl LiveMeta {
    fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|f| f == name)
    }
}

/// The owners of an object, by what they mean for it.
#[derive(Default)]
struct Owners {
    /// Alive.
    solid: Vec<String>,
    dangling: Vec<String>,
    /// Being deleted, and waiting for its dependents.
    waiting: Vec<String>,
}

impl Collector {
    pub async fn work(&self, task: Task) -> Result<Outcome> {
        match task {
            Task::Delete(item) => self.look_at(&item).await,
            Task::Orphan(item) => self.orphan(&item).await,
            Task::TellForeignOwner(item, owner) => {
                self.tell_foreign_owner(&item, &owner).await?;
                Ok(Outcome::Done)
            }
        }
    }

    fn api(&self, item: &Item) -> DynamicApi {
        self.client.dynamic(self.census.resource(item.resource).gvr.clone(), Some(item.key.namespace()))
    }

    /// The object as it is now; none when it is gone or another one has its name, which is then noted.
    async fn live(&self, item: &Item) -> Result<Option<LiveMeta>> {
        match self.api(item).get(item.key.name()).await {
            Ok(object) => {
                let live = read::typed::<Live>(&object)?.metadata;
                if Uid::of(&live.uid) == item.uid {
                    return Ok(Some(live));
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.census.gone(item.uid);
        Ok(None)
    }

    /// Upstream: `attemptToDeleteItem`.
    async fn look_at(&self, item: &Item) -> Result<Outcome> {
        let (known, being_deleted, waits) = self.census.graph(|g| (g.contains(item.uid), g.is_being_deleted(item.uid), g.is_deleting_dependents(item.uid)));
        if !known || being_deleted && !waits {
            return Ok(Outcome::Done);
        }
        let Some(live) = self.live(item).await? else { return Ok(Outcome::Done) };
        if waits {
            return self.wait_for_dependents(item, &live).await;
        }
        if live.owner_references.is_empty() {
            return Ok(Outcome::Done);
        }
        let Some(owners) = self.classify(item, &live).await? else { return Ok(Outcome::Done) };
        if !owners.solid.is_empty() {
            let lost: Vec<String> = owners.dangling.into_iter().chain(owners.waiting).collect();
            if !lost.is_empty() {
                self.leave(item, &live, &lost).await?;
            }
            return Ok(Outcome::Done);
        }
        let dependents = self.census.graph(|g| g.dependents(item.uid));
        let policy = if !owners.waiting.is_empty() && !dependents.is_empty() {
            let circle = self.census.graph(|g| dependents.iter().any(|d| g.is_deleting_dependents(d.uid)));
            if circle {
                self.unblock(item, &live).await?;
            }
            "Foreground"
        } else if live.has_finalizer(ORPHAN) {
            "Orphan"
        } else if live.has_finalizer(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        self.delete(item, &live, policy).await?;
        Ok(Outcome::Done)
    }

    async fn delete(&self, item: &Item, live: &LiveMeta, policy: &'static str) -> Result<()> {
        let deletion = Deletion { uid: Some(live.uid.clone()), propagation_policy: Some(policy), ..Deletion::default() };
        match self.api(item).delete(item.key.name(), &deletion).await {
            Err(error) if error.is_not_found() => {
                self.census.gone(item.uid);
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// An object with `foregroundDeletion`: it goes when nothing blocks it any more.
    async fn wait_for_dependents(&self, item: &Item, live: &LiveMeta) -> Result<Outcome> {
        let blocking = self.census.graph(|g| g.blocking_dependents(item.uid));
        if blocking.is_empty() {
            self.remove_finalizer(item, live, FOREGROUND).await?;
        }
        for dependent in blocking {
            if !self.census.graph(|g| g.is_deleting_dependents(dependent.uid)) {
                self.census.tasks().add(Task::Delete(dependent));
            }
        }
        Ok(Outcome::Done)
    }

    /// None when an owner reference makes no sense and never will.
    async fn classify(&self, item: &Item, live: &LiveMeta) -> Result<Option<Owners>> {
        let mut owners = Owners::default();
        for reference in &live.owner_references {
            if self.census.graph(|g| g.is_absent(Uid::of(&reference.uid))) {
                owners.dangling.push(reference.uid.clone());
                continue;
            }
            let resource = self.resource_of(reference)?;
            if resource.namespaced && item.key.namespace().is_empty() {
                tracing::debug!(?item, owner = reference.name, "a cluster-scoped object refers to a namespaced owner");
                return Ok(None);
            }
            match self.owner(item, reference, &resource).await? {
                None => owners.dangling.push(reference.uid.clone()),
                Some(owner) if owner.deletion_timestamp.is_some() && owner.has_finalizer(FOREGROUND) => owners.waiting.push(reference.uid.clone()),
                Some(_) => owners.solid.push(reference.uid.clone()),
            }
        }
        Ok(Some(owners))
    }

    fn resource_of(&self, reference: &OwnerReference) -> Result<ResourceInfo> {
        let found = GroupVersion::parse(&reference.api_version).and_then(|gv| self.census.resources.by_kind(&gv.group, &gv.version, &reference.kind));
        found.ok_or_else(|| Status::internal(format!("no matches for kind {:?} in version {:?}", reference.kind, reference.api_version)))
    }

    /// The owner as it is now, looked for where the reference says: in the object's own namespace.
    async fn owner(&self, item: &Item, reference: &OwnerReference, resource: &ResourceInfo) -> Result<Option<LiveMeta>> {
        let namespace = resource.namespaced.then(|| item.key.namespace());
        match self.client.dynamic(resource.gvr.clone(), namespace).get(&reference.name).await {
            Ok(object) => Ok(Some(read::typed::<Live>(&object)?.metadata).filter(|owner| owner.uid == reference.uid)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes owners out of the object.
    async fn leave(&self, item: &Item, live: &LiveMeta, owners: &[String]) -> Result<()> {
        let kept: Vec<&OwnerReference> = live.owner_references.iter().filter(|o| !owners.contains(&o.uid)).collect();
        self.patch(item, live, "ownerReferences", json!(kept)).await
    }

    /// Lets no owner wait for the object: a circle of waiting objects would never end.
    async fn unblock(&self, item: &Item, live: &LiveMeta) -> Result<()> {
        let mut owners = live.owner_references.clone();
        owners.iter_mut().filter(|o| o.block_owner_deletion == Some(true)).for_each(|o| o.block_owner_deletion = Some(false));
        self.patch(item, live, "ownerReferences", json!(owners)).await
    }

    async fn remove_finalizer(&self, item: &Item, live: &LiveMeta, finalizer: &str) -> Result<()> {
        let kept: Vec<&String> = live.finalizers.iter().filter(|f| *f != finalizer).collect();
        if kept.len() == live.finalizers.len() { Ok(()) } else { self.patch(item, live, "finalizers", json!(kept)).await }
    }

    /// Replaces a list in metadata, if nothing changed since it was read; a conflict brings the task back.
    async fn patch(&self, item: &Item, live: &LiveMeta, field: &str, value: Value) -> Result<()> {
        let patch = Patch::merge(json!({"metadata": {"uid": live.uid, "resourceVersion": live.resource_version, field: value}}));
        match self.api(item).patch(item.key.name(), patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Upstream: `attemptToOrphanWorker`.
    async fn orphan(&self, item: &Item) -> Result<Outcome> {
        let Some(live) = self.live(item).await? else { return Ok(Outcome::Done) };
        let dependents = self.census.graph(|g| g.dependents(item.uid));
        let owner = [live.uid.clone()];
        let left = dependents.iter().map(|dependent| async {
            match self.live(dependent).await? {
                Some(live) if live.owner_references.iter().any(|o| o.uid == owner[0]) => self.leave(dependent, &live, &owner).await,
                _ => Ok(()),
            }
        });
        futures::future::join_all(left).await.into_iter().collect::<Result<()>>()?;
        self.remove_finalizer(item, &live, ORPHAN).await?;
        Ok(Outcome::Done)
    }

    /// Upstream: `reportInvalidNamespaceOwnerRef`.
    async fn tell_foreign_owner(&self, item: &Item, owner: &str) -> Result<()> {
        let Some(live) = self.live(item).await? else { return Ok(()) };
        let Some(reference) = live.owner_references.iter().find(|o| o.uid == owner) else { return Ok(()) };
        let resource = self.census.resource(item.resource);
        let about = ObjectReference {
            api_version: Some(resource.gvr.group_version().to_string()),
            kind: Some(resource.kind.clone()),
            name: Some(item.key.name().to_owned()),
            namespace: Some(item.key.namespace().to_owned()),
            uid: Some(live.uid.clone()),
            ..ObjectReference::default()
        };
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        let namespace = item.key.namespace();
        let text = format!("ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}");
        self.recorder.event(&about, EventKind::Warning, "OwnerRefInvalidNamespace", text);
        Ok(())
    }
}
