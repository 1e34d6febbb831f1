//! Fields behind feature gates that 1.37 leaves off: a write drops them unless the object has them already
//! (upstream: the `DropDisabledFields` functions).

use knarr_core::{Value, ValueExt};

/// Paths inside a pod's spec; `[]` steps into each item of a list.
const POD_SPEC: &[&str] = &[
    "schedulingGroup",
    "containers[].lifecycle.stopSignal",
    "initContainers[].lifecycle.stopSignal",
    "ephemeralContainers[].lifecycle.stopSignal",
    "containers[].livenessProbe.httpGet.protocol",
    "containers[].readinessProbe.httpGet.protocol",
    "containers[].startupProbe.httpGet.protocol",
    "containers[].livenessProbe.grpc.tls",
    "containers[].readinessProbe.grpc.tls",
    "containers[].startupProbe.grpc.tls",
    "volumes[].emptyDir.mode",
];

/// Drops disabled fields of a Pod.
pub fn drop_pod(pod: &mut Value, old: Option<&Value>) {
    drop(pod, old, &["spec"], POD_SPEC);
}

/// Drops disabled fields of the pod template at a path.
pub fn drop_template(object: &mut Value, old: Option<&Value>, template: &[&str]) {
    let spec: Vec<&str> = template.iter().copied().chain(["spec"]).collect();
    drop(object, old, &spec, POD_SPEC);
}

/// Drops each of `paths` under `root` that the old object does not have.
pub fn drop(object: &mut Value, old: Option<&Value>, root: &[&str], paths: &[&str]) {
    let old = old.and_then(|o| o.at(root));
    let Some(new) = object.at_mut(root) else { return };
    for path in paths {
        if !old.is_some_and(|o| has(o, path)) {
            remove(new, path);
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
        assert_eq!(new, json!({"spec": {"containers": [{"name": "c", "lifecycle": {}}]}}));
    }
}
