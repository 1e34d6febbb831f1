//! Claims: which persistent volume is behind one, and whether this node can mount it (upstream:
//! `volumemanager/populator/desired_state_of_world_populator.go`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use knarr_client::Client;

use super::local::LocalVolumes;
use crate::pod::spec::PodExt;

/// What a claim stands for on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub volume: String,
    pub path: String,
    pub block: bool,
    /// `hostPath` volumes are not given to `fsGroup`.
    pub managed: bool,
    pub host_path_type: Option<String>,
}

/// # Errors
/// Why the claim cannot be mounted, for a `FailedMount` event.
pub async fn resolve(client: &Client, local: &LocalVolumes, pod: &Pod, claim: &str, generic_ephemeral: bool) -> Result<Resolved, String> {
    let ns = pod.namespace();
    let pvc = client.within::<PersistentVolumeClaim>(ns).get(claim).await;
    let pvc = pvc.map_err(|e| format!("error processing PVC {ns}/{claim}: failed to fetch PVC from API server: {e}"))?;
    if generic_ephemeral && !pvc.metadata.owner_references.iter().flatten().any(|o| o.uid == pod.uid() && o.controller == Some(true)) {
        return Err(format!("PVC {ns}/{claim} was not created for pod {ns}/{} (pod is not owner)", pod.name()));
    }
    if pvc.metadata.deletion_timestamp.is_some() {
        return Err(format!("error processing PVC {ns}/{claim}: PVC is being deleted"));
    }
    let name = pvc.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default();
    let phase = pvc.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if phase != "Bound" || name.is_empty() {
        return Err(format!("error processing PVC {ns}/{claim}: PVC is not bound"));
    }
    let pv = client.all::<PersistentVolume>().get(&name).await.map_err(|e| format!("failed to fetch PV {name} from API server: {e}"))?;
    local.keep(&pv).map_err(|e| format!("PV {name} cannot be noted: {e}"))?;
    let spec = pv.spec.unwrap_or_default();
    let bound_to = spec.claim_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or_default();
    if bound_to != pvc.metadata.uid.as_deref().unwrap_or_default() {
        return Err(format!("PV {name} claimRef.UID {bound_to} does not match expected PVC UID"));
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    let resolved = |path: &str, managed, host_path_type| Ok(Resolved { volume: name.clone(), path: path.into(), block, managed, host_path_type });
    match (&spec.local, &spec.host_path) {
        (Some(local), _) => resolved(&local.path, true, None),
        (_, Some(host)) => resolved(&host.path, false, host.type_.clone()),
        _ => Err(format!("no volume plugin matched: this node mounts hostPath and local persistent volumes only, PV {name} is neither")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_client::fake::FakeApi;
    use knarr_core::clock::Env;
    use knarr_core::json;

    #[tokio::test(start_paused = true)]
    async fn a_bound_claim_leads_to_the_path_of_its_volume() {
        let api = FakeApi::new(Env::simulated(1, jiff::Timestamp::UNIX_EPOCH));
        let pod = pod_of(json!({"containers": []}));
        let claim = |name: &str, phase: &str| {
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": name, "uid": name},
                "spec": {"volumeName": "pv"}, "status": {"phase": phase}})
        };
        for (name, phase) in [("c", "Bound"), ("pending", "Pending"), ("other", "Bound")] {
            api.seed::<PersistentVolumeClaim>(&serde_json::from_value(claim(name, phase)).unwrap());
        }
        let pv =
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "c"}, "local": {"path": "/data"}}});
        api.seed::<PersistentVolume>(&serde_json::from_value(pv).unwrap());
        let of = async |name: &str| resolve(&api.client(), &LocalVolumes::new("/nonexistent".into()), &pod, name, false).await.map(|r| r.path);
        assert_eq!(of("c").await, Ok("/data".into()));
        assert_eq!(of("pending").await, Err("error processing PVC default/pending: PVC is not bound".into()));
        assert!(of("other").await.is_err() && of("gone").await.is_err());
    }
}
