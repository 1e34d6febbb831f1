//! A namespace's LimitRanges: defaults for containers that name no resources, and bounds that pods, containers and claims must
//! keep. Follows `k8s.io/kubernetes/plugin/pkg/admission/limitranger`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::quantity::Quantity;
use knarr_core::{Result, Value, ValueExt};

use super::{Objects, Operation, Plugin, Review, is_resource};
use crate::authz::Attributes;

pub struct LimitRanger(pub Arc<dyn Objects>);

type Amounts = BTreeMap<String, Quantity>;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        match operation {
            Operation::Create => is_resource(a, "", "pods") || is_resource(a, "", "persistentvolumeclaims"),
            Operation::Update => is_resource(a, "", "persistentvolumeclaims") || (a.group.is_empty() && a.resource == "pods" && a.subresource == "resize"),
            _ => false,
        }
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        if review.attributes.resource != "pods" || review.operation != Operation::Create {
            return Ok(());
        }
        let ranges = self.0.values("", "limitranges", Some(&review.attributes.namespace));
        let Some(pod) = review.object.as_mut().filter(|_| !ranges.is_empty()) else { return Ok(()) };
        for range in &ranges {
            set_defaults(pod, range);
        }
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let Some(object) = review.object.as_ref() else { return Ok(()) };
        let mut errors = Vec::new();
        for range in self.0.values("", "limitranges", Some(&review.attributes.namespace)) {
            for item in range.list_at(&["spec", "limits"]) {
                match (item.str_at(&["type"]).unwrap_or_default(), review.attributes.resource.as_str()) {
                    ("Container", "pods") => {
                        for container in object.list_at(&["spec", "containers"]).iter().chain(object.list_at(&["spec", "initContainers"])) {
                            check(
                                item,
                                "Container",
                                &amounts(container.at(&["resources", "requests"])),
                                &amounts(container.at(&["resources", "limits"])),
                                &mut errors,
                            );
                        }
                    }
                    ("Pod", "pods") => check(item, "Pod", &pod_sum(object, "requests"), &pod_sum(object, "limits"), &mut errors),
                    ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                        let requests = amounts(object.at(&["spec", "resources", "requests"]));
                        bounds(item, "PersistentVolumeClaim", &requests, &mut errors);
                    }
                    _ => {}
                }
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(review.forbidden(one)),
            many => Err(review.forbidden(format!("[{}]", many.join(", ")))),
        }
    }
}

fn amounts(map: Option<&Value>) -> Amounts {
    map.and_then(Value::as_object).map_or_else(Amounts::new, |m| m.iter().filter_map(|(k, v)| Some((k.clone(), Quantity::from_json(v)?))).collect())
}

fn set_defaults(pod: &mut Value, range: &Value) {
    let mut defaulted = Vec::new();
    for item in range.list_at(&["spec", "limits"]).iter().filter(|i| i["type"] == "Container") {
        for kind in ["containers", "initContainers"] {
            let Some(containers) = pod.at_mut(&["spec", kind]).and_then(Value::as_array_mut) else { continue };
            for container in containers {
                for (source, target) in [("default", "limits"), ("defaultRequest", "requests")] {
                    let added = fill(container, item.at(&[source]), target);
                    if !added.is_empty() {
                        let name = container.str_at(&["name"]).unwrap_or_default();
                        let single = target.trim_end_matches('s');
                        let kind = if kind == "containers" { "container" } else { "init container" };
                        defaulted.push(format!("{} {single} for {kind} {name}", added.join(", ")));
                    }
                }
            }
        }
    }
    if !defaulted.is_empty() {
        defaulted.sort();
        pod.set(&["metadata", "annotations", "kubernetes.io/limit-ranger"], format!("LimitRanger plugin set: {}", defaulted.join("; ")));
    }
}

/// Puts the amounts that a container does not name itself; gives their names.
fn fill(container: &mut Value, defaults: Option<&Value>, target: &str) -> Vec<String> {
    let Some(defaults) = defaults.and_then(Value::as_object) else { return Vec::new() };
    let mut added = Vec::new();
    for (name, amount) in defaults {
        if container.at(&["resources", target, name]).is_none() {
            container.set(&["resources", target, name], amount.clone());
            added.push(name.clone());
        }
    }
    added
}

/// Sum over the containers; an init container counts where it is greater than the sum.
fn pod_sum(pod: &Value, which: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in pod.list_at(&["spec", "containers"]) {
        for (name, amount) in amounts(container.at(&["resources", which])) {
            *sum.entry(name).or_insert(Quantity::ZERO) += amount;
        }
    }
    for container in pod.list_at(&["spec", "initContainers"]) {
        for (name, amount) in amounts(container.at(&["resources", which])) {
            let entry = sum.entry(name).or_insert(Quantity::ZERO);
            if container.str_at(&["restartPolicy"]) == Some("Always") {
                *entry += amount;
            } else {
                *entry = (*entry).max(amount);
            }
        }
    }
    sum
}

fn check(item: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, min) in amounts(item.at(&["min"])) {
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => errors.push(format!("minimum {name} usage per {kind} is {min}.  No request is specified")),
            (Some(r), _) if *r < min => errors.push(format!("minimum {name} usage per {kind} is {min}, but request is {r}")),
            (_, Some(l)) if *l < min => errors.push(format!("minimum {name} usage per {kind} is {min}, but limit is {l}")),
            _ => {}
        }
    }
    for (name, max) in amounts(item.at(&["max"])) {
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => errors.push(format!("maximum {name} usage per {kind} is {max}.  No limit is specified")),
            (_, Some(l)) if *l > max => errors.push(format!("maximum {name} usage per {kind} is {max}, but limit is {l}")),
            (Some(r), _) if *r > max => errors.push(format!("maximum {name} usage per {kind} is {max}, but request is {r}")),
            _ => {}
        }
    }
    for (name, ratio) in amounts(item.at(&["maxLimitRequestRatio"])) {
        match (requests.get(&name).filter(|r| !r.is_zero()), limits.get(&name).filter(|l| !l.is_zero())) {
            (Some(r), Some(l)) => {
                let actual = l.millis() as f64 / r.millis() as f64;
                if actual > ratio.millis() as f64 / 1000.0 {
                    errors.push(format!("{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {actual:.6}"));
                }
            }
            (None, _) => errors.push(format!("{name} max limit to request ratio per {kind} is {ratio}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{name} max limit to request ratio per {kind} is {ratio}, but no limit is specified or limit is 0")),
        }
    }
}

/// Bounds of something that has requests alone.
fn bounds(item: &Value, kind: &str, requests: &Amounts, errors: &mut Vec<String>) {
    for (name, min) in amounts(item.at(&["min"])) {
        match requests.get(&name) {
            None => errors.push(format!("minimum {name} usage per {kind} is {min}.  No request is specified")),
            Some(r) if *r < min => errors.push(format!("minimum {name} usage per {kind} is {min}, but request is {r}")),
            _ => {}
        }
    }
    for (name, max) in amounts(item.at(&["max"])) {
        if let Some(r) = requests.get(&name).filter(|r| **r > max) {
            errors.push(format!("maximum {name} usage per {kind} is {max}, but request is {r}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, create};
    use super::*;
    use knarr_core::json;

    fn plugin() -> LimitRanger {
        let range = json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"limits": [
            {"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}, "default": {"cpu": "300m"}, "defaultRequest": {"cpu": "100m"}}]}});
        LimitRanger(Arc::new(Fixed(vec![("limitranges", range)])))
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[tokio::test]
    async fn defaults_are_filled_in_and_told() {
        let pod = create(&plugin(), "", "pods", pod(json!({}))).await.unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "300m"}, "requests": {"cpu": "100m"}}));
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu limit for container c; cpu request for container c"
        );
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let refused = create(&plugin(), "", "pods", pod(json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "1"}}))).await.unwrap_err();
        assert_eq!(
            refused,
            "pods \"p\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, maximum cpu usage per Container is 500m, but limit is 1]"
        );
    }
}
