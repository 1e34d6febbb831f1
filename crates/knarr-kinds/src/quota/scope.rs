//! To which objects a quota is confined.

use knarr_core::{GroupResource, Value, ValueExt};

use crate::pod::qos;

/// Whether an object lies in every scope of a quota. Only pods and claims know scopes.
pub fn is_in_scope(quota: &Value, resource: &GroupResource, object: &Value) -> bool {
    let matches = |scope: &str, operator: &str, values: &[Value]| match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => pod_matches(object, scope, operator, values),
        ("", "persistentvolumeclaims") => scope == "VolumeAttributesClass" && claim_matches(object, operator, values),
        _ => false,
    };
    let plain = quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str).all(|scope| matches(scope, "Exists", &[]));
    plain
        && quota.list_at(&["spec", "scopeSelector", "matchExpressions"]).iter().all(|term| {
            let text = |key: &str| term.str_at(&[key]).unwrap_or_default();
            matches(text("scopeName"), text("operator"), term.list_at(&["values"]))
        })
}

fn pod_matches(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    match scope {
        "Terminating" => has_deadline(pod),
        "NotTerminating" => !has_deadline(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => matches_names(pod.str_at(&["spec", "priorityClassName"]).into_iter().collect(), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether a pod has a time after which it is ended.
pub fn has_deadline(pod: &Value) -> bool {
    pod.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

fn claim_matches(claim: &Value, operator: &str, values: &[Value]) -> bool {
    let paths: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    matches_names(paths.iter().filter_map(|path| claim.str_at(path)).collect(), operator, values)
}

fn matches_names(names: Vec<&str>, operator: &str, values: &[Value]) -> bool {
    let mut names = names.into_iter().filter(|name| !name.is_empty()).peekable();
    let is_named = names.peek().is_some();
    let mut is_listed = || names.any(|name| values.iter().any(|v| v == name));
    match operator {
        "Exists" => is_named,
        "DoesNotExist" => !is_named,
        "In" => is_listed(),
        "NotIn" => !is_listed(),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    qos::of_pod(pod) == "BestEffort"
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !term.list_at(&["namespaces"]).is_empty() || term.at(&["namespaceSelector"]).is_some_and(|s| !s.is_null());
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = |field: &str| pod.list_at(&["spec", "affinity", kind, field]);
        terms("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution").iter().filter_map(|t| t.at(&["podAffinityTerm"])).any(crosses)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn scopes_confine() {
        let pods = GroupResource::new("", "pods");
        let within = |scope: &str, pod: &Value| is_in_scope(&json!({"spec": {"scopes": [scope]}}), &pods, pod);
        let plain = json!({"spec": {"containers": [{"name": "c"}]}});
        let bounded = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}});
        assert!(within("NotTerminating", &plain) && within("BestEffort", &plain));
        assert!(within("Terminating", &bounded) && within("NotBestEffort", &bounded));
        let of_class = |operator: &str| json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}});
        let high = json!({"spec": {"priorityClassName": "high"}});
        assert!(is_in_scope(&of_class("In"), &pods, &high) && !is_in_scope(&of_class("NotIn"), &pods, &high));
        assert!(is_in_scope(&of_class("NotIn"), &pods, &plain) && !is_in_scope(&of_class("Exists"), &pods, &plain));
        assert!(!is_in_scope(&of_class("Exists"), &GroupResource::new("", "services"), &json!({})));
    }
}
