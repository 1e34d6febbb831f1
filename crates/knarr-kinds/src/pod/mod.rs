//! Pods: defaulting, what a write may change, quality of service, deletion, table row.

mod cells;
pub mod defaults;
mod ephemeral;
pub mod image;
pub mod qos;
mod resize;
pub mod resources;
mod status;
pub mod validation;
pub mod warnings;

use crate::cells::{Cells, containers, labels, name};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json, time};

use crate::at;
use crate::disabled;
use crate::semantic::{same, same_at};
use crate::separation::{self, count, keep};
use crate::strategy::{Context, Graceful, Shape, Strategy, plain_field};
use crate::tree::{each, list_mut, object};

use validation::Options;

pub use ephemeral::EphemeralContainers;
pub use resize::Resize;

/// The pod itself (upstream: `pkg/registry/core/pod.podStrategy`).
pub struct Pod;

impl Strategy for Pod {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status().judges_prefix_again()
    }

    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_for_create(&self, cx: &Context<'_>, pod: &mut Value) {
        pod.set(&["metadata", "generation"], 1);
        pod.set(&["status"], json!({"phase": "Pending"}));
        disabled::drop_pod(pod, None);
        scheduling_gated(cx, pod);
        merge_match_label_keys(pod);
        app_armor_from_annotations(pod);
        if let Some(spec) = pod.at_mut(&["spec"]) {
            resources::default_pod_level(spec);
            let class = qos::class(spec);
            pod.set(&["status", "qosClass"], class);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, pod: &Value) -> ErrorList {
        validation::create(pod)
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, pod: &mut Value, old: &Value) {
        keep(pod, old, "status");
        keep_pod_resources(pod, old);
        disabled::drop_pod(pod, Some(old));
        count_spec(pod, old);
    }

    fn prepare_for_status_update(&self, cx: &Context<'_>, pod: &mut Value, old: &Value) {
        status::prepare(cx, pod, old);
    }

    fn validate_update(&self, _cx: &Context<'_>, pod: &Value, old: &Value) -> ErrorList {
        validation::update(pod, old)
    }

    fn validate_status_update(&self, _cx: &Context<'_>, pod: &Value, old: &Value) -> ErrorList {
        validation::status(pod, old)
    }

    fn warnings(&self, pod: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_none() { warnings::of_pod(pod) } else { Vec::new() }
    }

    fn status_warnings(&self, pod: &Value) -> Vec<String> {
        warnings::of_status(pod)
    }

    /// Unscheduled and finished pods go at once; others get their grace (upstream: `CheckGracefulDelete`).
    fn graceful(&self, pod: &Value, grace_seconds: Option<i64>) -> Graceful {
        let finished = matches!(pod.str_at(&["status", "phase"]), Some("Failed" | "Succeeded"));
        let unscheduled = pod.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty();
        let seconds = grace_seconds.or(pod.i64_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(0);
        match if seconds < 0 { 1 } else { seconds } {
            _ if finished || unscheduled => Graceful::Wait { seconds: 0 },
            seconds => Graceful::Wait { seconds },
        }
    }

    fn field(&self, pod: &Value, name: &str) -> String {
        match name {
            "spec.hostNetwork" => pod.bool_at(&["spec", "hostNetwork"]).unwrap_or(false).to_string(),
            "status.podIP" | "status.podIPs" => {
                let first = pod.list_at(&["status", "podIPs"]).first().and_then(|ip| ip.str_at(&["ip"]));
                first.or(pod.str_at(&["status", "podIP"])).unwrap_or_default().to_owned()
            }
            _ => plain_field(pod, name),
        }
    }

    fn cells(&self, pod: &Value, now: Timestamp) -> Cells {
        Some(cells::cells(pod, now))
    }
}

/// A client that does not know pod-level resources must not lose them.
fn keep_pod_resources(pod: &mut Value, old: &Value) {
    if pod.at(&["spec", "resources"]).is_none() && old.at(&["spec", "resources"]).is_some() {
        crate::separation::keep_at(pod, old, &["spec", "resources"]);
    }
}

fn count_spec(pod: &mut Value, old: &Value) {
    let changed = !same_at(pod, old, &["spec"]);
    count(pod, old, changed);
}

/// A pod that begins with scheduling gates says so in a condition.
fn scheduling_gated(cx: &Context<'_>, pod: &mut Value) {
    if pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        return;
    }
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
        "lastTransitionTime": time::format(cx.env.now()),
        "message": "Scheduling is blocked due to non-empty scheduling gates",
    });
    pod.set(&["status", "conditions"], json!([condition]));
}

/// Writes `matchLabelKeys` and `mismatchLabelKeys` out into the label selectors beside them.
fn merge_match_label_keys(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    for affinity in ["podAffinity", "podAntiAffinity"] {
        each(pod, &["spec", "affinity", affinity, "requiredDuringSchedulingIgnoredDuringExecution"], |term| merge_keys(term, &labels));
        each(pod, &["spec", "affinity", affinity, "preferredDuringSchedulingIgnoredDuringExecution"], |weighted| {
            if let Some(term) = weighted.at_mut(&["podAffinityTerm"]) {
                merge_keys(term, &labels);
            }
        });
    }
    each(pod, &["spec", "topologySpreadConstraints"], |constraint| merge_keys(constraint, &labels));
}

fn merge_keys(term: &mut Value, labels: &Value) {
    if term.at(&["labelSelector"]).is_none() {
        return;
    }
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys: Vec<Value> = term.list_at(&[field]).to_vec();
        for key in keys {
            let Some(value) = key.as_str().and_then(|k| labels.get(k)) else { continue };
            let expressions = term.ensure(&["labelSelector", "matchExpressions"]);
            let requirement = json!({"key": key, "operator": operator, "values": [value]});
            match expressions {
                Value::Array(list) => list.push(requirement),
                empty => *empty = json!([requirement]),
            }
        }
    }
}

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The old annotations name AppArmor profiles that now stand in `securityContext`.
fn app_armor_from_annotations(pod: &mut Value) {
    if pod.str_at(&["spec", "os", "name"]) == Some("windows") {
        return;
    }
    let pod_profile = pod.at(&["spec", "securityContext", "appArmorProfile"]).cloned();
    let annotations = pod.at(&["metadata", "annotations"]).cloned().unwrap_or_default();
    for kind in defaults::CONTAINERS {
        for container in list_mut(pod, &["spec", kind]) {
            let name = container.str_at(&["name"]).unwrap_or_default();
            let profile = annotations.get(format!("{APP_ARMOR_ANNOTATION}{name}")).and_then(Value::as_str).and_then(annotation_profile);
            let Some(profile) = profile else { continue };
            if container.at(&["securityContext", "appArmorProfile"]).is_none() && !same(Some(&profile), pod_profile.as_ref()) {
                object(container.ensure(&["securityContext"])).insert("appArmorProfile".into(), profile);
            }
        }
    }
}

/// The profile that an annotation names, if it can be read.
fn annotation_profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/").filter(|n| !n.is_empty() && n.trim() == *n)?;
            Some(json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

/// PodTemplate (upstream: `pkg/registry/core/podtemplate`).
pub struct PodTemplate;

impl Strategy for PodTemplate {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
    }

    fn default(&self, object: &mut Value) {
        defaults::template(object.ensure(&["template"]));
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &["template"]);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &["template"]);
        separation::update(self.shape(), object, old);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| validation::template(&root.get("template"), &Options::of_template(None), e))
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| validation::template(&root.get("template"), &Options::of_template(old.at(&["template"])), e))
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        at::warn(object, |root, out| warnings::of_template(&root.get("template"), out))
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["template", "spec", "containers"]);
        Some(vec![name(object), names, images, labels(object.at(&["template", "metadata", "labels"])).into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::clock::Env;

    fn created(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec, "status": {"phase": "Running"}});
        Pod.default(&mut pod);
        Pod.prepare_for_create(&Context::internal(&Env::system(), "default"), &mut pod);
        pod
    }

    #[test]
    fn a_new_pod_is_pending_with_its_quality_of_service() {
        let pod = created(json!({"containers": [{"name": "c", "image": "i"}]}));
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(pod["metadata"]["generation"], json!(1));
    }

    #[test]
    fn gates_and_match_label_keys_are_worked_out_on_create() {
        let pod = created(json!({"containers": [], "schedulingGates": [{"name": "g"}],
            "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["a", "x"]}]}));
        assert_eq!(pod["status"]["conditions"][0]["reason"], json!("SchedulingGated"));
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]})
        );
    }

    #[test]
    fn pods_that_nobody_runs_are_deleted_at_once() {
        for (node, phase, grace, wanted) in [
            ("", "Pending", None, Graceful::Wait { seconds: 0 }),
            ("n", "Running", None, Graceful::Wait { seconds: 30 }),
            ("n", "Running", Some(5), Graceful::Wait { seconds: 5 }),
            ("n", "Running", Some(0), Graceful::Wait { seconds: 0 }),
            ("n", "Running", Some(-1), Graceful::Wait { seconds: 1 }),
            ("n", "Failed", None, Graceful::Wait { seconds: 0 }),
        ] {
            let pod = json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
            assert_eq!(Pod.graceful(&pod, grace), wanted, "{node} {phase} {grace:?}");
        }
    }
}
