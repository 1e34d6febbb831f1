//! Resources of a pod as a whole (upstream: `k8s.io/component-helpers/resource` and `pkg/api/pod.DefaultPodLevelResources`).

use std::collections::BTreeMap;

use knarr_core::{Value, ValueExt, quantity::Quantity};

use super::defaults::CONTAINERS;
use crate::tree::{entries, object};

pub type Amounts = BTreeMap<String, Quantity>;

/// Whether a pod's own `resources` may name the resource.
pub fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || is_huge_page(name)
}

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == Some("Always")
}

/// `requests` or `limits` of a container.
pub fn amounts(container: &Value, kind: &str) -> Amounts {
    entries(container, &["resources", kind]).filter_map(|(name, v)| Some((name.to_owned(), Quantity::from_json(v)?))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

pub fn at_least(max: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let kept = max.entry(name.clone()).or_insert(*amount);
        if *amount > *kept {
            *kept = *amount;
        }
    }
}

/// What all containers together need: the sum of those that run side by side, or the peak while the pod initialises.
pub fn aggregate(spec: &Value, kind: &str) -> Amounts {
    aggregate_by(spec, |container| amounts(container, kind))
}

/// The same, by what `of` says of each container.
pub fn aggregate_by(spec: &Value, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let mut sum = Amounts::new();
    for container in spec.list_at(&["containers"]) {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.list_at(&["initContainers"]) {
        let mut needed = of(container);
        if is_sidecar(container) {
            add(&mut sum, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        at_least(&mut peak, &needed);
    }
    at_least(&mut sum, &peak);
    sum
}

/// Completes a pod's own resources from those of its containers, if it names any.
pub fn default_pod_level(spec: &mut Value) {
    let given = |spec: &Value, kind: &str| entries(spec, &["resources", kind]).next().is_some();
    if !given(spec, "requests") && !given(spec, "limits") {
        return;
    }
    huge_page_limits(spec);
    requests(spec);
    limits(spec);
}

fn fill(spec: &mut Value, kind: &str, amounts: impl IntoIterator<Item = (String, Quantity)>) {
    for (name, amount) in amounts {
        if spec.at(&["resources", kind, &name]).is_none() {
            object(spec.ensure(&["resources", kind])).insert(name, amount.to_string().into());
        }
    }
}

fn huge_page_limits(spec: &mut Value) {
    let mut found = aggregate(spec, "limits");
    found.retain(|name, _| is_huge_page(name) && spec.at(&["resources", "requests", name]).is_none());
    fill(spec, "limits", found);
}

fn requests(spec: &mut Value) {
    let mut found = aggregate(spec, "requests");
    found.retain(|name, _| is_pod_level(name) && !is_huge_page(name));
    fill(spec, "requests", found);
    let mut limits: Amounts = entries(spec, &["resources", "limits"]).filter_map(|(n, v)| Some((n.to_owned(), Quantity::from_json(v)?))).collect();
    limits.retain(|name, _| is_pod_level(name));
    fill(spec, "requests", limits);
}

/// Limits that every container names add up to the pod's limit.
fn limits(spec: &mut Value) {
    let sum = aggregate(spec, "limits");
    let everywhere = |name: &str| CONTAINERS.iter().flat_map(|k| spec.list_at(&[k])).all(|c| c.at(&["resources", "limits", name]).is_some());
    let found: Amounts = entries(spec, &["resources", "requests"])
        .filter(|(name, _)| is_pod_level(name) && everywhere(name))
        .filter_map(|(name, request)| {
            let (request, limit) = (Quantity::from_json(request)?, *sum.get(name)?);
            Some((name.to_owned(), request.max(limit)))
        })
        .collect();
    fill(spec, "limits", found);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_as_a_peak_and_sidecars_as_a_sum() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut side = c("100m");
        side["restartPolicy"] = json!("Always");
        let spec = json!({"containers": [c("1"), c("500m")], "initContainers": [side, c("3")]});
        assert_eq!(aggregate(&spec, "requests")["cpu"].to_string(), "3100m");
    }

    #[test]
    fn a_pods_own_resources_are_completed_from_its_containers() {
        let mut spec = json!({"resources": {"limits": {"cpu": "4"}}, "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}}]});
        default_pod_level(&mut spec);
        assert_eq!(spec["resources"], json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "4", "memory": "2Gi"}}));
    }
}
