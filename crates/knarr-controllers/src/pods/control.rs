//! How pods are made from templates, adopted, released and deleted, with the events that tell of it
//! (upstream: `RealPodControl` in `pkg/controller/controller_utils.go`).

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_client::{Client, Deletion, EventKind, Key, Patch, Recorder, client};
use knarr_core::api::Reply;
use knarr_core::{Object, Result, Status, names};

use crate::batch::is_namespace_terminating;
use crate::ledger::Ledger;

/// The name of pods in a [`Ledger`].
pub const PODS: &str = "pods";

/// A pod as a template describes it, for the owner of that name. Its own name is left to the API.
pub fn from_template(template: &PodTemplateSpec, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut prefix = format!("{}-", owner.name);
    // As upstream: the dash is left out where it would make the name too long.
    if !names::is_dns1123_subdomain(prefix.trim_end_matches('-')).is_empty() || prefix.len() > names::DNS1123_SUBDOMAIN_MAX {
        prefix.pop();
    }
    Pod {
        metadata: ObjectMeta {
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            generate_name: Some(prefix),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Writes pods on behalf of other objects, and keeps account of it.
pub struct PodControl {
    pub client: Client,
    pub recorder: Recorder,
    pub ledger: Ledger,
}

impl PodControl {
    /// Creates a pod for the object `about`, whose key is `key`.
    ///
    /// # Errors
    /// As the API's; told in an event unless the namespace is being deleted.
    pub async fn create(&self, key: &Key, about: &ObjectReference, pod: &Pod) -> Result<Object> {
        if pod.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
            return Err(Status::bad_request("unable to create pods, no labels"));
        }
        let pods = self.client.within::<Pod>(key.namespace());
        match pods.dynamic().create(client::tree(pod)?).await {
            Ok(object) => {
                self.ledger.wrote(key, PODS, object.resource_version);
                let name = knarr_schema::codec::meta(&object).name.to_owned();
                self.recorder.event(about, EventKind::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(object)
            }
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    self.recorder.event(about, EventKind::Warning, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error)
            }
        }
    }

    /// Deletes the pod of that name and uid.
    ///
    /// # Errors
    /// As the API's, except that a pod that is gone already is no error.
    pub async fn delete(&self, key: &Key, about: &ObjectReference, name: &str, uid: &str) -> Result<()> {
        self.ledger.deleting(key, uid);
        let pods = self.client.within::<Pod>(key.namespace());
        match pods.delete(name, &Deletion::of_uid(uid)).await {
            Ok(reply) => {
                if let Reply::Object(object) = reply {
                    self.ledger.wrote(key, PODS, object.resource_version);
                }
                self.recorder.event(about, EventKind::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            // Gone, or another pod has its name by now.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                self.ledger.not_deleted(key, uid);
                self.recorder.event(about, EventKind::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(Status { message: format!("unable to delete pods: {error}"), ..error })
            }
        }
    }

    /// Patches a pod; one that is gone is left out.
    ///
    /// # Errors
    /// As the API's, except `NotFound`.
    pub async fn patch(&self, key: &Key, name: &str, patch: Patch) -> Result<bool> {
        match self.client.within::<Pod>(key.namespace()).dynamic().patch(name, patch).await {
            Ok(object) => {
                self.ledger.wrote(key, PODS, object.resource_version);
                Ok(true)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
