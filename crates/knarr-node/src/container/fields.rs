//! What a pod can tell its containers about themselves: the downward API, in variables and in volumes (upstream:
//! `pkg/fieldpath`, `pkg/api/v1/resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use knarr_core::field::go_quote;
use knarr_core::names::is_qualified_name;
use knarr_core::quantity::Quantity;

use crate::pod::spec::{self, PodExt, ResourceList, amount};

/// `key="value"` lines, ordered by key.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect::<Vec<_>>().join("\n")
}

/// A field of the pod's metadata.
///
/// # Errors
/// The path names no field that can be told.
pub fn metadata_field(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let checked = if base == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
        let problems = is_qualified_name(&checked);
        let map = match base {
            "metadata.annotations" => meta.annotations.as_ref(),
            "metadata.labels" => meta.labels.as_ref(),
            _ => return Err(format!("fieldPath {} does not support subscript", go_quote(path))),
        };
        if !problems.is_empty() {
            return Err(format!("invalid key subscript in {path}: {}", problems.join(";")));
        }
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.annotations" => Ok(lines(meta.annotations.as_ref())),
        "metadata.labels" => Ok(lines(meta.labels.as_ref())),
        "metadata.name" => Ok(pod.name().into()),
        "metadata.namespace" => Ok(pod.namespace().into()),
        "metadata.uid" => Ok(pod.uid().into()),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// A field of the pod as an environment variable may name it.
///
/// # Errors
/// As [`metadata_field`].
pub fn env_field(pod: &Pod, path: &str, pod_ips: &[String], host_ips: &[String]) -> Result<String, String> {
    Ok(match path {
        "spec.nodeName" => pod.spec().node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => host_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => return metadata_field(pod, path),
    })
}

/// A request or limit, divided. Limits that are not set are the pod's or what the node can give (`allocatable`).
///
/// # Errors
/// The selector names no container or no resource.
pub fn resource_field(pod: &Pod, selector: &ResourceFieldSelector, own: Option<&Container>, allocatable: &ResourceList) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let found = match named {
        Some(name) => Some(spec::find_container(pod.spec(), name).map(|(c, _)| c).ok_or_else(|| format!("container {name} not found"))?),
        None => own.cloned(),
    };
    let container = found.ok_or_else(|| "container name is required".to_owned())?;
    let divisor = selector.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok()).filter(|d| !d.is_zero()).unwrap_or(Quantity::from_i64(1));
    let (kind, name) = selector.resource.split_once('.').unwrap_or_default();
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let value = match kind {
        "requests" if known => amount(spec::requests(container.resources.as_ref()), name),
        "limits" if known => limit(pod, &container, name, allocatable),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    Ok(if name == "cpu" { ceil(value.millis(), divisor.millis()) } else { ceil(value.value(), divisor.value()) }.to_string())
}

fn limit(pod: &Pod, container: &Container, name: &str, allocatable: &ResourceList) -> Quantity {
    let own = amount(spec::limits(container.resources.as_ref()), name);
    if !own.is_zero() || name.starts_with("hugepages-") {
        return own;
    }
    let of_pod = amount(spec::limits(pod.spec().resources.as_ref()), name);
    if of_pod.is_zero() { amount(Some(allocatable), name) } else { of_pod }
}

fn ceil(value: i64, by: i64) -> i64 {
    let by = by.max(1);
    value / by + i64::from(value % by > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    #[test]
    fn metadata_is_told_as_text() {
        let mut pod = pod_of(json!({"containers": []}));
        pod.metadata.labels = Some([("b".to_owned(), "2\"".to_owned()), ("a".to_owned(), "1".to_owned())].into());
        assert_eq!(metadata_field(&pod, "metadata.labels").unwrap(), "a=\"1\"\nb=\"2\\\"\"");
        assert_eq!(metadata_field(&pod, "metadata.labels['a']").unwrap(), "1");
        assert_eq!(metadata_field(&pod, "metadata.annotations['x.io/y']").unwrap(), "");
        assert_eq!(metadata_field(&pod, "spec.x").unwrap_err(), "unsupported fieldPath: spec.x");
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let pod = pod_of(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1500m", "memory": "100Mi"}}}]}));
        let allocatable: ResourceList = serde_json::from_value(json!({"cpu": "4", "memory": "8Gi"})).unwrap();
        let field = |resource: &str, divisor: &str| {
            let selector = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            resource_field(&pod, &selector, Some(&pod.spec().containers[0]), &allocatable).unwrap()
        };
        assert_eq!(field("requests.cpu", "0"), "2");
        assert_eq!(field("requests.cpu", "1m"), "1500");
        assert_eq!(field("requests.memory", "1Mi"), "100");
        assert_eq!(field("limits.cpu", "1"), "4", "what the node can give");
        assert_eq!(field("limits.memory", "1Gi"), "8");
    }
}
