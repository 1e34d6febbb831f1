//! How many pods the controllers of some pods want together. Upstream: `getExpectedScale` and its finders.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use knarr_client::{Client, client, read};
use knarr_core::{Object, Result, Status};
use serde::Deserialize;

use crate::ownership::ControllerRef;
use crate::pods::PodItem;
use crate::resources::Resources;

/// What was found out about the controllers of pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub replicas: i32,
    /// Names of pods without a controller.
    pub unmanaged: Vec<String>,
}

/// Asks controllers for their scale.
pub struct Scale {
    pub client: Client,
    pub resources: Resources,
}

/// The fields of a workload, or of a scale, that matter here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Workload {
    metadata: read::Meta,
    spec: WorkloadSpec,
}

knarr_client::partial!(Workload);

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadSpec {
    replicas: i32,
}

impl Scale {
    /// # Errors
    /// A controller that is of no kind with a scale; or as the API's.
    pub async fn of(&self, pods: &[PodItem]) -> Result<Counted> {
        let (mut counted, mut seen) = (Counted::default(), BTreeSet::new());
        for pod in pods {
            let Some(controller) = pod.view.controller.as_deref() else {
                counted.unmanaged.push(pod.key.name().into());
                continue;
            };
            if !seen.insert(controller.uid.clone()) {
                continue;
            }
            let Some((uid, replicas)) = self.find(pod.key.namespace(), controller).await? else {
                return Err(Status::internal(format!("found no controllers for pod \"{}\"", pod.key.name())));
            };
            // Several ReplicaSets of one Deployment count once.
            if uid == *controller.uid || seen.insert(uid.into()) {
                counted.replicas += replicas;
            }
        }
        Ok(counted)
    }

    /// The uid and the wanted replicas of a controller; for a ReplicaSet of a Deployment, those of the Deployment.
    async fn find(&self, namespace: &str, controller: &ControllerRef) -> Result<Option<(String, i32)>> {
        let group = controller.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, &*controller.kind) {
            ("apps", "ReplicaSet") => {
                let Some(set) = self.workload::<ReplicaSet>(namespace, controller).await? else { return Ok(None) };
                match ControllerRef::of(&set.metadata.owner_references).filter(|c| &*c.kind == "Deployment") {
                    Some(deployment) => Ok(self.workload::<Deployment>(namespace, &deployment).await?.map(counted)),
                    None => Ok(Some(counted(set))),
                }
            }
            ("apps", "StatefulSet") => Ok(self.workload::<StatefulSet>(namespace, controller).await?.map(counted)),
            ("", "ReplicationController") => Ok(self.workload::<ReplicationController>(namespace, controller).await?.map(counted)),
            _ => self.scaled(namespace, controller).await,
        }
    }

    async fn workload<T: client::Resource>(&self, namespace: &str, of: &ControllerRef) -> Result<Option<Workload>> {
        let found = self.client.within::<T>(namespace).dynamic().get(&of.name).await;
        let found: Option<Workload> = present(found)?.map(|object: Object| read::typed(&object)).transpose()?;
        Ok(found.filter(|w| w.metadata.uid == *of.uid))
    }

    /// What the scale subresource of any other kind says.
    async fn scaled(&self, namespace: &str, of: &ControllerRef) -> Result<Option<(String, i32)>> {
        let (group, version) = of.api_version.split_once('/').unwrap_or(("", &of.api_version));
        let Some(info) = self.resources.by_kind(group, version, &of.kind) else { return Ok(None) };
        let api = self.client.dynamic(info.gvr.clone(), Some(namespace));
        let Some(reply) = present(api.get_subresource(&of.name, "scale").await)? else {
            // Without the object there is nothing to count; without a scale nothing can be counted.
            return match present(api.get(&of.name).await)? {
                None => Ok(None),
                Some(_) => Err(Status::internal(format!("{} does not implement the scale subresource", info.gvr))),
            };
        };
        let scale: Workload = client::typed_reply(reply)?;
        Ok((scale.metadata.uid == *of.uid).then(|| counted(scale)))
    }
}

fn counted(workload: Workload) -> (String, i32) {
    (workload.metadata.uid, workload.spec.replicas)
}

fn present<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(e) if e.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}
