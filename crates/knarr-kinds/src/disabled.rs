//! Fields behind feature gates that 1.37 leaves off: a write drops them unless the object has them already
//! (upstream: the `DropDisabledFields` functions).

use knarr_core::{Map, Value, ValueExt};

/// Paths that one gate guards. If the old object has one of them, the new one may have all.
pub type Gate = &'static [&'static str];

/// Gates inside a pod's spec; `[]` steps into each item of a list.
const POD_SPEC: &[Gate] = &[
    &["schedulingGroup"],
    &["evictionResponders"],
    &[
        "containers[].livenessProbe.httpGet.protocol",
        "containers[].readinessProbe.httpGet.protocol",
        "containers[].startupProbe.httpGet.protocol",
        "containers[].lifecycle.postStart.httpGet.protocol",
        "containers[].lifecycle.preStop.httpGet.protocol",
        "initContainers[].livenessProbe.httpGet.protocol",
        "initContainers[].readinessProbe.httpGet.protocol",
        "initContainers[].startupProbe.httpGet.protocol",
        "initContainers[].lifecycle.postStart.httpGet.protocol",
        "initContainers[].lifecycle.preStop.httpGet.protocol",
        "ephemeralContainers[].livenessProbe.httpGet.protocol",
        "ephemeralContainers[].readinessProbe.httpGet.protocol",
        "ephemeralContainers[].startupProbe.httpGet.protocol",
    ],
    &[
        "containers[].livenessProbe.grpc.mode",
        "containers[].readinessProbe.grpc.mode",
        "containers[].startupProbe.grpc.mode",
        "initContainers[].livenessProbe.grpc.mode",
        "initContainers[].readinessProbe.grpc.mode",
        "initContainers[].startupProbe.grpc.mode",
        "ephemeralContainers[].livenessProbe.grpc.mode",
        "ephemeralContainers[].readinessProbe.grpc.mode",
        "ephemeralContainers[].startupProbe.grpc.mode",
    ],
    &["volumes[].emptyDir.mode"],
    &[
        "containers[].volumeMounts[].bindMountOptions",
        "initContainers[].volumeMounts[].bindMountOptions",
        "ephemeralContainers[].volumeMounts[].bindMountOptions",
    ],
    &[
        "volumes[].secret.defaultUser",
        "volumes[].secret.items[].user",
        "volumes[].configMap.defaultUser",
        "volumes[].configMap.items[].user",
        "volumes[].downwardAPI.defaultUser",
        "volumes[].downwardAPI.items[].user",
        "volumes[].projected.defaultUser",
        "volumes[].projected.sources[].secret.items[].user",
        "volumes[].projected.sources[].configMap.items[].user",
        "volumes[].projected.sources[].downwardAPI.items[].user",
        "volumes[].projected.sources[].serviceAccountToken.user",
        "volumes[].projected.sources[].clusterTrustBundle.user",
        "volumes[].projected.sources[].podCertificate.user",
    ],
];

/// Gates inside a pod's status.
const POD_STATUS: &[Gate] = &[
    &["nodeAllocatableResourceClaimStatuses"],
    &["volumeHealth"],
    &[
        "containerStatuses[].volumeMounts[].volumeStatus",
        "initContainerStatuses[].volumeMounts[].volumeStatus",
        "ephemeralContainerStatuses[].volumeMounts[].volumeStatus",
    ],
];

/// Annotations in which init containers stood before there was a field.
const INIT_CONTAINER_ANNOTATIONS: [&str; 4] = [
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-container-statuses",
    "pod.beta.kubernetes.io/init-container-statuses",
];

/// Drops disabled fields of a Pod.
pub fn drop_pod(pod: &mut Value, old: Option<&Value>) {
    drop_template(pod, old, &[]);
    drop(pod, old, &["status"], POD_STATUS);
}

/// Drops disabled fields of the pod template at a path.
pub fn drop_template(object: &mut Value, old: Option<&Value>, template: &[&str]) {
    let at = |rest: &[&'static str]| -> Vec<&str> { template.iter().copied().chain(rest.iter().copied()).collect() };
    drop(object, old, &at(&["spec"]), POD_SPEC);
    drop_stop_signals(object, old, &at(&["spec"]));
    if let Some(annotations) = object.at_mut(&at(&["metadata", "annotations"])).and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !INIT_CONTAINER_ANNOTATIONS.contains(&key.as_str()));
    }
}

const STOP_SIGNAL: Gate = &["containers[].lifecycle.stopSignal", "initContainers[].lifecycle.stopSignal", "ephemeralContainers[].lifecycle.stopSignal"];

/// A lifecycle that held nothing but a stop signal goes with it.
fn drop_stop_signals(object: &mut Value, old: Option<&Value>, spec: &[&str]) {
    if old.and_then(|o| o.at(spec)).is_some_and(|o| STOP_SIGNAL.iter().any(|path| has(o, path))) {
        return;
    }
    for kind in crate::pod::defaults::CONTAINERS {
        for container in crate::tree::list_mut(object, &[spec, &[kind]].concat()) {
            if container.remove(&["lifecycle", "stopSignal"]).is_some() && container.at(&["lifecycle"]).and_then(Value::as_object).is_some_and(Map::is_empty) {
                container.remove(&["lifecycle"]);
            }
        }
    }
}

/// Drops what each of `gates` guards under `root`, unless the old object has some of it.
pub fn drop(object: &mut Value, old: Option<&Value>, root: &[&str], gates: &[Gate]) {
    let old = old.and_then(|o| o.at(root));
    let Some(new) = object.at_mut(root) else { return };
    for gate in gates {
        if !old.is_some_and(|o| gate.iter().any(|path| has(o, path))) {
            gate.iter().for_each(|path| remove(new, path));
        }
    }
}

fn has(value: &Value, path: &str) -> bool {
    let (step, rest) = path.split_once('.').map_or((path, None), |(s, r)| (s, Some(r)));
    match (step.strip_suffix("[]"), rest) {
        (Some(list), Some(rest)) => value.list_at(&[list]).iter().any(|item| has(item, rest)),
        (None, Some(rest)) => value.at(&[step]).is_some_and(|v| has(v, rest)),
        (_, None) => value.at(&[step]).is_some(),
    }
}

fn remove(value: &mut Value, path: &str) {
    let (step, rest) = path.split_once('.').map_or((path, None), |(s, r)| (s, Some(r)));
    match (step.strip_suffix("[]"), rest) {
        (Some(list), Some(rest)) => crate::tree::each(value, &[list], |item| remove(item, rest)),
        (None, Some(rest)) => {
            if let Some(v) = value.at_mut(&[step]) {
                remove(v, rest);
            }
        }
        (_, None) => {
            value.remove(&[step]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_disabled_field_is_dropped_unless_it_was_there() {
        let pod = json!({"spec": {"containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGUSR1"}}]}});
        let mut new = pod.clone();
        drop_pod(&mut new, Some(&pod));
        assert_eq!(new, pod);
        drop_pod(&mut new, None);
        assert_eq!(new, json!({"spec": {"containers": [{"name": "c"}]}}));
    }
}
