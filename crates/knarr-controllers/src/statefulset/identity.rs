//! The lasting identity of pods: their ordinal, the labels and names that follow from it. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use super::claims;
use crate::ownership::controller_reference;
use crate::pods::control;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const REVISION: &str = "controller-revision-hash";

/// Splits `web-3` into set and ordinal.
pub fn parent_and_ordinal(name: &str) -> Option<(&str, i64)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    ordinal.parse::<i32>().ok().filter(|_| digits).map(|ordinal| (parent, ordinal.into()))
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's ordinal; -1 when its name has none.
pub fn ordinal(pod: &Pod) -> i64 {
    parent_and_ordinal(name(pod)).map_or(-1, |(_, ordinal)| ordinal)
}

/// The name of the revision that the pod was made from.
pub fn revision(pod: &Pod) -> &str {
    label(pod, REVISION)
}

fn label<'a>(pod: &'a Pod, key: &str) -> &'a str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(key)).map_or("", String::as_str)
}

pub fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The pod of that ordinal as it is to be created.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let mut pod = control::from_template(template, controller_reference(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name(set, ordinal));
    restore_identity(set, &mut pod);
    pod.metadata.labels.get_or_insert_default().insert(REVISION.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name(set, ordinal));
    spec.subdomain = set.spec.service_name.clone();
    restore_storage(set, &mut pod);
    pod
}

/// Whether the pod still carries what its name promises.
pub fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(pod) >= 0 && name(pod) == pod_name(set, ordinal(pod)) && label(pod, POD_NAME) == name(pod)
}

pub fn restore_identity(set: &StatefulSet, pod: &mut Pod) {
    let ordinal = ordinal(pod);
    pod.metadata.namespace.clone_from(&set.metadata.namespace);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), pod_name(set, ordinal));
    labels.insert(POD_INDEX.into(), ordinal.to_string());
}

/// Whether the pod mounts its own claims.
pub fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mounts = |volume: &str, claim: &str| {
        let source = volumes.iter().find(|v| v.name == volume).and_then(|v| v.persistent_volume_claim.as_ref());
        source.is_some_and(|s| s.claim_name == claim)
    };
    ordinal(pod) >= 0 && claims::of(set, ordinal(pod)).iter().all(|(volume, claim)| mounts(volume, claim.metadata.name.as_deref().unwrap_or_default()))
}

pub fn restore_storage(set: &StatefulSet, pod: &mut Pod) {
    let own = claims::of(set, ordinal(pod));
    let spec = pod.spec.get_or_insert_default();
    let mut volumes: Vec<Volume> = own
        .iter()
        .map(|(volume, claim)| Volume {
            name: volume.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim.metadata.name.clone().unwrap_or_default(), read_only: None }),
            ..Volume::default()
        })
        .collect();
    volumes.extend(spec.volumes.take().into_iter().flatten().filter(|v| !own.iter().any(|(name, _)| *name == v.name)));
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_the_number_at_the_end() {
        assert_eq!(parent_and_ordinal("my-web-12"), Some(("my-web", 12)));
        assert_eq!(parent_and_ordinal("web"), None);
        assert_eq!(parent_and_ordinal("web-x"), None);
        assert_eq!(parent_and_ordinal("web-+1"), None);
    }
}
