//! What a pod takes of a quota.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};
use knarr_core::{Value, ValueExt, quantity::Quantity};

use super::{Amounts, add, amounts};
use crate::pod::resources;

const NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// Names that every container must set a value for, once a quota limits them.
const DEMANDED: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
const HUGE_PAGES: &str = "hugepages-";

pub fn is_about(name: &str) -> bool {
    let requested = name.strip_prefix("requests.");
    NAMES.contains(&name) || name.starts_with(HUGE_PAGES) || requested.is_some_and(|of| of.starts_with(HUGE_PAGES) || is_extended(of))
}

/// Whether this names something that the cluster's own vocabulary does not (`nvidia.com/gpu`).
fn is_extended(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS) || (name.contains('/') && !name.contains("kubernetes.io/"))
}

pub fn add_usage(used: &mut Amounts, pod: &Value, now: Timestamp) {
    if is_over(pod, now) {
        return;
    }
    add(used, "pods", Quantity::from_i64(1));
    for (name, amount) in computed(&total(pod, "requests"), &total(pod, "limits")) {
        add(used, &name, amount);
    }
}

/// A pod that has ended, or should have, takes nothing but its place in the store.
fn is_over(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed")) {
        return true;
    }
    let deleted = pod.str_at(&["metadata", "deletionTimestamp"]).and_then(|t| t.parse::<Timestamp>().ok());
    let grace = pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]);
    deleted.zip(grace).is_some_and(|(at, grace)| at.checked_add(grace.seconds()).is_ok_and(|end| now > end))
}

/// Requests and limits under the names that quotas have for them.
fn computed(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::new();
    for (name, amount) in requests {
        let is_plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if is_plain {
            out.insert(name.clone(), *amount);
        }
        if is_plain || is_extended(name) {
            out.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")) {
        out.insert(format!("limits.{name}"), *amount);
    }
    out
}

/// Which of the demanded names a pod's containers leave open.
///
/// # Errors
/// The names and the containers, in upstream's words.
pub fn unset_for(limited: &[&str], pod: &Value) -> Result<(), String> {
    let of_pod = pod.at(&["spec", "resources"]);
    if of_pod.is_some_and(|r| !amounts(r.at(&["requests"])).is_empty() || !amounts(r.at(&["limits"])).is_empty()) {
        return Ok(());
    }
    let demanded: Vec<&str> = limited.iter().copied().filter(|name| DEMANDED.contains(name)).collect();
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"])) {
        let set = computed(&amounts(container.at(&["resources", "requests"])), &amounts(container.at(&["resources", "limits"])));
        for name in demanded.iter().filter(|name| !set.contains_key(**name)) {
            open.entry(name).or_default().push(container.str_at(&["name"]).unwrap_or_default());
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let text = |(name, containers): (&str, Vec<&str>)| {
        let mut containers = containers;
        containers.sort_unstable();
        containers.dedup();
        format!("{name} for: {}", containers.join(","))
    };
    Err(format!("must specify {}", open.into_iter().map(text).collect::<Vec<_>>().join("; ")))
}

/// All that a pod asks for at its peak (upstream: `resourcehelper.PodRequests`, `PodLimits`).
fn total(pod: &Value, which: &str) -> Amounts {
    let mut total = pod.at(&["spec"]).map(|spec| resources::aggregate_by(spec, |container| of_container(pod, container, which))).unwrap_or_default();
    total.extend(amounts(pod.at(&["spec", "resources", which])).into_iter().filter(|(name, _)| resources::is_pod_level(name)));
    for (name, overhead) in amounts(pod.at(&["spec", "overhead"])) {
        let is_limited = total.get(&name).is_some_and(|amount| !amount.is_zero());
        if which == "requests" || is_limited {
            add(&mut total, &name, overhead);
        }
    }
    total
}

/// While a container is resized it counts with the greater of what it should have and what it has.
fn of_container(pod: &Value, container: &Value, which: &str) -> Amounts {
    let mut wanted = resources::amounts(container, which);
    let mut statuses = ["containerStatuses", "initContainerStatuses"].into_iter().flat_map(|kind| pod.list_at(&["status", kind]));
    if let Some(status) = statuses.find(|s| s["name"] == container["name"]) {
        let mut actual = resources::amounts(status, which);
        if which == "requests" {
            resources::at_least(&mut actual, &amounts(status.at(&["allocatedResources"])));
        }
        actual.retain(|name, _| wanted.contains_key(name));
        resources::at_least(&mut wanted, &actual);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::{to_value, usage};
    use knarr_core::{GroupResource, json};

    #[test]
    fn a_pod_counts_with_its_peak_until_it_is_over() {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": "1"}, "limits": {"cpu": "1"}}}]}});
        let of = |pod: &Value| to_value(&usage(&GroupResource::new("", "pods"), pod, Timestamp::UNIX_EPOCH));
        let wanted = json!({"count/pods": "1", "pods": "1", "cpu": "2", "requests.cpu": "2", "limits.cpu": "1", "requests.nvidia.com/gpu": "1"});
        assert_eq!(of(&pod), wanted);
        pod["status"] = json!({"phase": "Failed"});
        assert_eq!(of(&pod), json!({"count/pods": "1"}));
    }

    #[test]
    fn limited_amounts_must_be_set() {
        let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(unset_for(&["cpu", "limits.memory", "pods"], &pod), Err("must specify cpu for: b; limits.memory for: a,b".to_owned()));
        assert_eq!(unset_for(&["pods"], &pod), Ok(()));
    }
}
