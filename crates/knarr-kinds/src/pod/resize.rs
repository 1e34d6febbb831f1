//! Writes to `pods/resize`: changed resources of a running pod (upstream: `podResizeStrategy`).

use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::{Pod, count_spec, keep_pod_resources, resources, validation};
use crate::disabled;
use crate::separation::{keep, keep_at, keep_metadata};
use crate::strategy::{Context, Shape, Strategy};

pub struct Resize;

impl Strategy for Resize {
    fn shape(&self) -> Shape {
        Pod.shape()
    }

    fn default(&self, object: &mut Value) {
        Pod.default(object);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, pod: &mut Value, old: &Value) {
        keep_all_but_resources(pod, old);
        keep_pod_resources(pod, old);
        if let Some(spec) = pod.at_mut(&["spec"]) {
            resources::default_pod_level(spec);
        }
        disabled::drop_pod(pod, Some(old));
        count_spec(pod, old);
    }

    fn validate_update(&self, _cx: &Context<'_>, pod: &Value, old: &Value) -> ErrorList {
        validation::resize(pod, old)
    }

    fn field(&self, object: &Value, name: &str) -> String {
        Pod.field(object, name)
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
        Pod.cells(object, now)
    }
}

/// Takes everything but resources over from the old pod. Containers that were added, removed or renamed stay as sent, so that
/// validation refuses them.
fn keep_all_but_resources(pod: &mut Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|k| pod.list_at(&["spec", k]).len() != old.list_at(&["spec", k]).len()) {
        return;
    }
    let own = pod.at(&["spec", "resources"]).cloned();
    let merged: Vec<Vec<Value>> = lists.iter().map(|k| merge(pod.list_at(&["spec", k]), old.list_at(&["spec", k]))).collect();
    keep(pod, old, "spec");
    keep(pod, old, "status");
    keep_metadata(pod, old);
    match own {
        Some(resources) => pod.set(&["spec", "resources"], resources),
        None => {
            pod.remove(&["spec", "resources"]);
        }
    }
    for (kind, containers) in lists.iter().zip(merged) {
        if !containers.is_empty() {
            pod.set(&["spec", kind], Value::Array(containers));
        }
    }
}

fn merge(new: &[Value], old: &[Value]) -> Vec<Value> {
    if new.iter().zip(old).any(|(n, o)| n.get("name") != o.get("name")) {
        return new.to_vec();
    }
    let one = |(new, old): (&Value, &Value)| {
        let mut container = old.clone();
        keep_at(&mut container, new, &["resources"]);
        keep_at(&mut container, new, &["resizePolicy"]);
        container
    };
    new.iter().zip(old).map(one).collect()
}
