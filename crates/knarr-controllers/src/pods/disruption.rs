//! The condition `DisruptionTarget`: why a pod is being taken away, so that a Job's failure policy can tell it from a failure
//! of the pod's own.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_client::{Client, Patch};
use knarr_core::{Result, json, time};

use super::PodItem;

/// Why, and whether the pod is over at once.
pub struct Target {
    pub reason: &'static str,
    pub message: &'static str,
    /// Nobody is left to report the pod's end: its phase becomes `Failed`.
    pub fail: bool,
}

/// Writes the condition into the pod's status; a pod that is gone is left out.
///
/// # Errors
/// As the API's, except `NotFound` and `Conflict` (another pod of that name).
pub async fn mark(client: &Client, pod: &PodItem, target: &Target, now: Timestamp) -> Result<()> {
    let mut condition = json!({"type": "DisruptionTarget", "status": "True", "reason": target.reason, "message": target.message,
        "lastTransitionTime": time::format(now)});
    let generation = knarr_schema::codec::meta(&pod.object).generation;
    if generation != 0 {
        condition["observedGeneration"] = generation.into();
    }
    let mut status = json!({"conditions": [condition]});
    if target.fail {
        status["phase"] = "Failed".into();
    }
    write(client, pod, json!({"metadata": {"uid": &*pod.view.uid}, "status": status})).await
}

/// Makes a pod `Failed` of which nobody will report again.
///
/// # Errors
/// As [`mark`].
pub async fn fail(client: &Client, pod: &PodItem) -> Result<()> {
    write(client, pod, json!({"metadata": {"uid": &*pod.view.uid}, "status": {"phase": "Failed"}})).await
}

async fn write(client: &Client, pod: &PodItem, patch: knarr_core::Value) -> Result<()> {
    let pods = client.within::<Pod>(pod.key.namespace());
    match pods.dynamic().patch_status(pod.key.name(), Patch::strategic(patch)).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}
