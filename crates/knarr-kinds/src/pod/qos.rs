//! The quality-of-service class of a pod (upstream: `pkg/apis/core/helper/qos`).

use knarr_core::{Value, ValueExt, quantity::Quantity};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    BestEffort,
    Burstable,
    Guaranteed,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

/// The class that the resources of a pod's spec give it: of the pod as a whole if it names such, else of its containers together.
pub fn class(spec: &Value) -> &'static str {
    if let Some(resources) = spec.at(&["resources"]).filter(|r| names_any(r)) {
        return of_requirements(Some(resources)).name();
    }
    let containers = ["initContainers", "containers"].into_iter().flat_map(|kind| spec.list_at(&[kind]));
    all_equal(containers.map(|c| of_requirements(c.at(&["resources"])))).name()
}

/// The class of a pod as its status tells it, or as its resources give it.
pub fn of_pod(pod: &Value) -> String {
    let told = pod.str_at(&["status", "qosClass"]).unwrap_or_default();
    if told.is_empty() { class(pod.at(&["spec"]).unwrap_or(&Value::Null)).to_owned() } else { told.to_owned() }
}

/// Equal classes give that class, different ones are Burstable.
fn all_equal(classes: impl Iterator<Item = Class>) -> Class {
    classes.reduce(|a, b| if a == b { a } else { Class::Burstable }).unwrap_or(Class::BestEffort)
}

fn of_requirements(resources: Option<&Value>) -> Class {
    all_equal(["cpu", "memory"].into_iter().map(|name| {
        let amount = |kind| resources.and_then(|r| r.at(&[kind, name])).and_then(Quantity::from_json).unwrap_or(Quantity::ZERO);
        match (amount("requests"), amount("limits")) {
            (request, limit) if request != limit => Class::Burstable,
            (request, _) if request.is_zero() => Class::BestEffort,
            _ => Class::Guaranteed,
        }
    }))
}

/// Whether requests or limits of a whole pod name a resource that a pod may have.
fn names_any(resources: &Value) -> bool {
    ["requests", "limits"].iter().any(|kind| {
        let names = resources.at(&[kind]).and_then(Value::as_object);
        names.is_some_and(|map| map.keys().any(|name| super::resources::is_pod_level(name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let c = |resources: Value| json!({"containers": [{"resources": resources}]});
        for (spec, wanted) in [
            (json!({"containers": [{}]}), "BestEffort"),
            (c(json!({"requests": {"cpu": "1"}})), "Burstable"),
            (c(json!({"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1000m", "memory": "1"}})), "Guaranteed"),
            (c(json!({"limits": {"nvidia.com/gpu": "1"}})), "BestEffort"),
            (c(json!({"requests": {"cpu": "0"}})), "BestEffort"),
            (json!({"resources": {"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}}, "containers": [{}]}), "Guaranteed"),
        ] {
            assert_eq!(class(&spec), wanted, "{spec}");
        }
    }
}
