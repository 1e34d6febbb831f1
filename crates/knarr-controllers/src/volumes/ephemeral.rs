//! Generic ephemeral volumes: claims that are made for a pod and owned by it. Upstream: `pkg/controller/volume/ephemeral`.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::events::reference;
use knarr_client::{EventKind, Key, Outcome, client};
use knarr_core::{Reason, Result, Status};

use super::claims;
use crate::batch::is_namespace_terminating;
use crate::context::ControllerContext;
use crate::ownership::controller_reference;
use crate::pods;

/// Keys are those of pods.
pub fn start(context: &ControllerContext) {
    let client = context.client("ephemeral-volume-controller");
    let recorder = context.recorder(&client, "ephemeral_volume");
    let (pods, claims) = (pods::informer(context), claims(context));
    let queue = context.queue("ephemeral_volume");
    let woken = queue.clone();
    pods.on_change(move |change| {
        if change.new.as_ref().is_some_and(|p| p.view.deleting.is_none() && !p.view.claims.is_empty()) && change.old.is_none() {
            woken.add(change.key().clone());
        }
    });
    let (known, woken) = (pods.clone(), queue.clone());
    claims.on_change(move |change| {
        if change.new.is_none() {
            known.store().by_index(pods::BY_CLAIM, change.key().as_str()).iter().for_each(|p| woken.add(p.key.clone()));
        }
    });
    context.run("ephemeral-volume", queue, move |key: Key| {
        let (client, recorder, pods, claims) = (client.clone(), recorder.clone(), pods.clone(), claims.clone());
        async move {
            let Some(item) = pods.store().get(&key).filter(|p| p.view.deleting.is_none()) else { return Ok(Outcome::Done) };
            let pod: Pod = item.typed()?;
            for (volume, wanted) in wanted(&pod) {
                let name = wanted.metadata.name.clone().unwrap_or_default();
                let known: Option<PersistentVolumeClaim> = claims.store().find(key.namespace(), &name).map(|c| c.typed()).transpose()?;
                let made = match known {
                    Some(claim) => belongs(&claim, &pod),
                    None => client.within::<PersistentVolumeClaim>(key.namespace()).dynamic().create(client::tree(&wanted)?).await.map(drop),
                };
                match made {
                    Err(error) if error.is_already_exists() || is_namespace_terminating(&error) => {}
                    Err(error) => {
                        recorder.event(&reference(&pod), EventKind::Warning, "FailedBinding", format!("ephemeral volume {volume}: {error}"));
                        return Err(error);
                    }
                    Ok(()) => {}
                }
            }
            Ok(Outcome::Done)
        }
    });
}

/// The claims of a pod's ephemeral volumes, each with the name of its volume.
fn wanted(pod: &Pod) -> Vec<(String, PersistentVolumeClaim)> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
        let meta = template.metadata.unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        };
        Some((volume.name.clone(), PersistentVolumeClaim { metadata, spec: Some(template.spec), status: None }))
    };
    volumes.iter().filter_map(claim).collect()
}

fn belongs(claim: &PersistentVolumeClaim, pod: &Pod) -> Result<()> {
    let owner = claim.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    if owner.is_some_and(|o| Some(&o.uid) == pod.metadata.uid.as_ref()) {
        return Ok(());
    }
    let name = |m: &ObjectMeta| format!("{}/{}", m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default());
    let text = format!("PVC {} was not created for pod {} (pod is not owner)", name(&claim.metadata), name(&pod.metadata));
    Err(Status::new(409, Reason::Conflict, text))
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn a_pod_gets_the_claims_that_it_describes() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed_value(
            client::gvr::<Pod>(),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "u"}, "spec": {"containers": [],
                "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"k": "v"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}),
        );
        harness.settle().await;
        let claim = harness.api.read::<PersistentVolumeClaim>("a", "p-v").unwrap();
        assert_eq!(claim.metadata.owner_references.unwrap()[0].uid, "u");
        assert_eq!(claim.metadata.labels.unwrap()["k"], "v");
    }
}
