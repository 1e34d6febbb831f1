//! A pod takes over what its RuntimeClass says: overhead, node selector, tolerations. Follows
//! `k8s.io/kubernetes/plugin/pkg/admission/runtimeclass`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::quantity::Quantity;
use knarr_core::{Result, Value, ValueExt, json};

use super::{Objects, Operation, Plugin, Review, creates_pod};
use crate::authz::Attributes;

const GROUP: &str = "node.k8s.io";

pub struct RuntimeClass(pub Arc<dyn Objects>);

impl RuntimeClass {
    fn class_of(&self, review: &Review<'_>) -> Result<Option<Value>> {
        let Some(name) = review.object.as_ref().and_then(|p| p.str_at(&["spec", "runtimeClassName"])) else { return Ok(None) };
        let found = self.0.value(GROUP, "runtimeclasses", "", name);
        found.map(Some).ok_or_else(|| review.forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found")))
    }
}

/// The same amounts under the same names, however they are written.
fn same_amounts(a: Option<&Value>, b: Option<&Value>) -> bool {
    let read = |list: Option<&Value>| -> Vec<(String, Option<Quantity>)> {
        list.and_then(Value::as_object).into_iter().flatten().map(|(name, q)| (name.clone(), Quantity::from_json(q))).collect()
    };
    read(a) == read(b)
}

fn overhead(class: Option<&Value>) -> Option<&Value> {
    class?.at(&["overhead", "podFixed"])
}

fn set_overhead(review: &mut Review<'_>, class: &Value) -> Result<()> {
    let Some(wanted) = overhead(Some(class)) else { return Ok(()) };
    let given = review.object.as_ref().and_then(|p| p.at(&["spec", "overhead"])).filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
    if given.is_some() && !same_amounts(given, Some(wanted)) {
        return Err(review.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()));
    }
    if let Some(pod) = review.object.as_mut() {
        pod.set(&["spec", "overhead"], wanted.clone());
    }
    Ok(())
}

fn set_scheduling(review: &mut Review<'_>, class: &Value) -> Result<()> {
    for (key, value) in class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten() {
        let wanted = value.as_str().unwrap_or_default();
        let given = review.object.as_ref().and_then(|p| p.str_at(&["spec", "nodeSelector", key]));
        if let Some(given) = given.filter(|g| *g != wanted) {
            let text = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}");
            return Err(review.forbidden(text));
        }
        if let Some(pod) = review.object.as_mut() {
            pod.set(&["spec", "nodeSelector", key], wanted);
        }
    }
    let more = class.at(&["scheduling", "tolerations"]).and_then(Value::as_array).filter(|t| !t.is_empty());
    if let (Some(more), Some(pod)) = (more, review.object.as_mut()) {
        let own = pod.at(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
        pod.set(&["spec", "tolerations"], merged(own, more));
    }
    Ok(())
}

/// All of both, without those that another one covers (upstream: `MergeTolerations`).
fn merged(own: Vec<Value>, more: &[Value]) -> Value {
    let all: Vec<Value> = own.into_iter().chain(more.iter().cloned()).collect();
    let covered = |at: usize| all.iter().enumerate().any(|(other, t)| other != at && covers(t, &all[at]) && (other < at || !covers(&all[at], t)));
    json!((0..all.len()).filter(|at| !covered(*at)).map(|at| all[at].clone()).collect::<Vec<_>>())
}

/// Whether one toleration tolerates all that another does (upstream: `isSuperset`).
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |t: &Value, key: &str| t.str_at(&[key]).unwrap_or_default().to_owned();
    let exists = text(wide, "operator") == "Exists";
    if text(wide, "key") != text(narrow, "key") && !(text(wide, "key").is_empty() && exists) {
        return false;
    }
    if text(wide, "effect") != text(narrow, "effect") && !text(wide, "effect").is_empty() {
        return false;
    }
    if text(wide, "effect") == "NoExecute"
        && let Some(seconds) = wide.i64_at(&["tolerationSeconds"])
        && narrow.i64_at(&["tolerationSeconds"]).is_none_or(|n| n > seconds)
    {
        return false;
    }
    match text(wide, "operator").as_str() {
        "Exists" => true,
        "" | "Equal" => matches!(text(narrow, "operator").as_str(), "" | "Equal") && text(wide, "value") == text(narrow, "value"),
        _ => false,
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        creates_pod(operation, a)
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        let Some(class) = self.class_of(review)? else { return Ok(()) };
        set_overhead(review, &class)?;
        set_scheduling(review, &class)
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let class = self.class_of(review)?;
        let given = review.object.as_ref().and_then(|p| p.at(&["spec", "overhead"]));
        match (overhead(class.as_ref()), given) {
            (Some(wanted), given) if !same_amounts(Some(wanted), given) => {
                Err(review.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()))
            }
            (None, Some(_)) => Err(review.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, create};
    use super::*;

    fn plugin() -> RuntimeClass {
        RuntimeClass(Arc::new(Fixed(vec![(
            "runtimeclasses",
            json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "100m"}},
                "scheduling": {"nodeSelector": {"kvm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
        )])))
    }

    #[tokio::test]
    async fn a_pod_takes_over_what_its_class_says() {
        let own = json!([{"key": "vm", "operator": "Equal", "value": "1"}, {"key": "own", "operator": "Exists"}]);
        let pod = create(&plugin(), "", "pods", json!({"spec": {"runtimeClassName": "vm", "tolerations": own}})).await.unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "100m"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"kvm": "yes"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "own", "operator": "Exists"}, {"key": "vm", "operator": "Exists"}]));
    }

    #[tokio::test]
    async fn what_contradicts_the_class_is_refused() {
        let refused = async |spec: Value| create(&plugin(), "", "pods", json!({"metadata": {"name": "p"}, "spec": spec})).await.unwrap_err();
        assert_eq!(refused(json!({"runtimeClassName": "x"})).await, "pods \"p\" is forbidden: pod rejected: RuntimeClass \"x\" not found");
        assert!(refused(json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}})).await.contains("Overhead doesn't match"));
        assert!(
            refused(json!({"runtimeClassName": "vm", "nodeSelector": {"kvm": "no"}})).await.contains("conflict: runtimeClass.scheduling.nodeSelector[kvm]")
        );
    }
}
