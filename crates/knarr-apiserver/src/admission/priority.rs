//! A pod's priority comes from its class. Follows `k8s.io/kubernetes/plugin/pkg/admission/priority`.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Value, ValueExt};

use super::{Objects, Operation, Plugin, Review, is_resource};
use crate::authz::Attributes;

const GROUP: &str = "scheduling.k8s.io";

pub struct Priority(pub Arc<dyn Objects>);

impl Priority {
    /// Name, value and preemption policy of the class for pods that name none.
    fn default_class(&self) -> Option<Value> {
        let mut classes = self.0.values(GROUP, "priorityclasses", None);
        classes.retain(|c| c.bool_at(&["globalDefault"]) == Some(true));
        classes.into_iter().min_by_key(|c| c.i64_at(&["value"]))
    }
}

/// What was filled in when the pod was made stays.
fn keep(review: &mut Review<'_>) {
    let (Some(pod), Some(old)) = (review.object.as_mut(), review.old) else { return };
    for field in ["priority", "preemptionPolicy"] {
        let path = ["spec", field];
        if let (None, Some(before)) = (pod.at(&path), old.at(&path)) {
            pod.set(&path, before.clone());
        }
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        match operation {
            Operation::Create => is_resource(a, "", "pods") || is_resource(a, GROUP, "priorityclasses"),
            Operation::Update => is_resource(a, "", "pods") || is_resource(a, GROUP, "priorityclasses"),
            _ => false,
        }
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        if review.attributes.resource != "pods" {
            return Ok(());
        }
        if review.operation == Operation::Update {
            keep(review);
            return Ok(());
        }
        let named = review.object.as_ref().and_then(|p| p.str_at(&["spec", "priorityClassName"])).unwrap_or_default().to_owned();
        let class = if named.is_empty() {
            self.default_class()
        } else {
            let found = self.0.value(GROUP, "priorityclasses", "", &named);
            Some(found.ok_or_else(|| review.forbidden(format!("no PriorityClass with name {named} was found")))?)
        };
        let wanted = class.as_ref().and_then(|c| c.i64_at(&["value"])).unwrap_or(0);
        let policy = class.as_ref().and_then(|c| c.str_at(&["preemptionPolicy"])).unwrap_or("PreemptLowerPriority").to_owned();
        let given = review.object.as_ref().and_then(|p| p.i64_at(&["spec", "priority"]));
        if given.is_some_and(|g| g != wanted) {
            return Err(review.forbidden(format!("the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {wanted} from the given PriorityClass name", given.unwrap_or(0))));
        }
        let given_policy = review.object.as_ref().and_then(|p| p.str_at(&["spec", "preemptionPolicy"])).map(str::to_owned);
        if given_policy.as_ref().is_some_and(|g| *g != policy) {
            return Err(review.forbidden(format!(
                "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name",
                given_policy.unwrap_or_default()
            )));
        }
        let Some(pod) = review.object.as_mut() else { return Ok(()) };
        pod.set(&["spec", "priority"], wanted);
        pod.set(&["spec", "preemptionPolicy"], policy);
        if let Some(name) = class.as_ref().and_then(|c| c.str_at(&["metadata", "name"])).filter(|_| named.is_empty()) {
            pod.set(&["spec", "priorityClassName"], name);
        }
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        if review.attributes.resource != "priorityclasses" || review.object.as_ref().and_then(|c| c.bool_at(&["globalDefault"])) != Some(true) {
            return Ok(());
        }
        let name = review.object.as_ref().and_then(|c| c.str_at(&["metadata", "name"])).unwrap_or_default();
        match self.default_class().as_ref().and_then(|c| c.str_at(&["metadata", "name"])) {
            Some(other) if other != name => Err(review.forbidden(format!("PriorityClass {other} is already marked as default. Only one default can exist"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, create};
    use super::*;
    use knarr_core::json;

    fn plugin() -> Priority {
        Priority(Arc::new(Fixed(vec![("priorityclasses", json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}))])))
    }

    #[tokio::test]
    async fn a_pod_gets_the_priority_of_its_class() {
        let pod = create(&plugin(), "", "pods", json!({"spec": {"priorityClassName": "high"}})).await.unwrap();
        assert_eq!((&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]), (&json!(1000), &json!("Never")));
        let plain = create(&plugin(), "", "pods", json!({"spec": {}})).await.unwrap();
        assert_eq!((&plain["spec"]["priority"], &plain["spec"]["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    }

    #[tokio::test]
    async fn a_class_that_is_not_there_and_a_number_of_ones_own_are_refused() {
        let refused = create(&plugin(), "", "pods", json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "low"}})).await.unwrap_err();
        assert_eq!(refused, "pods \"p\" is forbidden: no PriorityClass with name low was found");
        assert!(create(&plugin(), "", "pods", json!({"spec": {"priority": 7}})).await.is_err());
    }
}
