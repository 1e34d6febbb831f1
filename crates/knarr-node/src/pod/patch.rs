//! The smallest patch that makes the API's status what it should be: a strategic merge patch over the fields that differ,
//! so that conditions of others stay (upstream: `pkg/util/pod.PatchPodStatus`).

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use knarr_client::ToTree;
use knarr_core::{Map, Value, json};

use super::spec::PodExt;

/// Lists of the status that are merged by a key; all others are replaced whole.
const MERGED: [(&str, &str); 3] = [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// The body of the patch, or nothing when the API has it all already.
pub fn status_patch(pod: &Pod, wanted: &PodStatus) -> Option<Value> {
    let tree = |status: &PodStatus| status.to_tree().unwrap_or_default();
    let (old, new) = (tree(pod.status()), tree(wanted));
    let (old, new) = (old.as_object()?, new.as_object()?);
    let mut patch = Map::new();
    for (field, value) in new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        match MERGED.iter().find(|(name, _)| name == field) {
            Some((_, key)) => merge_list(&mut patch, field, key, before, value),
            None => drop(patch.insert(field.clone(), value.clone())),
        }
    }
    for field in old.keys().filter(|f| !new.contains_key(*f)) {
        patch.insert(field.clone(), Value::Null);
    }
    if patch.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": pod.uid()}, "status": patch}))
}

/// The elements that are new or differ, those that go, and the order of all.
fn merge_list(patch: &mut Map<String, Value>, field: &str, key: &str, before: Option<&Value>, after: &Value) {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, after) = (list(before), list(Some(after)));
    let of = |v: &Value| v.get(key).cloned().unwrap_or_default();
    let mut elements: Vec<Value> = Vec::new();
    for element in after.iter().filter(|e| !before.contains(e)) {
        let mut element = element.clone();
        let old = before.iter().find(|b| of(b) == of(&element));
        // A merge leaves what it does not name: fields that go have to be named.
        for gone in old.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            if let Some(map) = element.as_object_mut().filter(|m| !m.contains_key(gone)) {
                map.insert(gone.clone(), Value::Null);
            }
        }
        elements.push(element);
    }
    let gone = before.iter().filter(|b| !after.iter().any(|a| of(a) == of(b)));
    elements.extend(gone.map(|b| json!({"$patch": "delete", key: of(b)})));
    if !elements.is_empty() {
        patch.insert(field.to_owned(), Value::Array(elements));
    }
    patch.insert(format!("$setElementOrder/{field}"), after.iter().map(|a| json!({key: of(a)})).collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;

    #[test]
    fn only_what_differs_is_sent() {
        let mut pod = pod_of(json!({"containers": []}));
        let status = |v: Value| -> PodStatus { serde_json::from_value(v).unwrap() };
        pod.status = Some(status(
            json!({"phase": "Pending", "reason": "x", "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "r"}]}),
        ));
        assert_eq!(status_patch(&pod, pod.status()), None);
        let wanted = status(
            json!({"phase": "Running", "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}], "podIPs": [{"ip": "1.1.1.1"}]}),
        );
        assert_eq!(
            status_patch(&pod, &wanted).unwrap()["status"],
            json!({"phase": "Running", "reason": null, "conditions": [{"type": "B", "status": "True", "reason": null}],
                "$setElementOrder/conditions": [{"type": "A"}, {"type": "B"}],
                "podIPs": [{"ip": "1.1.1.1"}], "$setElementOrder/podIPs": [{"ip": "1.1.1.1"}]})
        );
    }
}
