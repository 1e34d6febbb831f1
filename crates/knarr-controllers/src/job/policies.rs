//! What a Job's policies say: of a failed pod whether it counts, fails its index or the whole Job; of the succeeded indexes
//! whether they are enough. Upstream: `pod_failure_policy.go`, `success_policy.go`.

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, SuccessPolicyRule};

use super::indexes::Indexes;
use super::pod::{ContainerEnd, JobPod};

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Counts,
    Ignored,
    FailsIndex,
    /// With the message of the condition.
    FailsJob(String),
}

/// The verdict of the first rule that matches; without one a failure counts.
pub fn judge(spec: &JobSpec, pod: &JobPod) -> Failure {
    let Some(policy) = &spec.pod_failure_policy else { return Failure::Counts };
    let name = || pod.item.key.as_str();
    for (n, rule) in policy.rules.iter().enumerate() {
        let message = if let Some(codes) = &rule.on_exit_codes {
            pod.containers().find(|c| exits_as(c, codes)).map(|container| {
                let code = container.exit_code().unwrap_or_default();
                format!("Container {} for pod {} failed with exit code {code} matching {} rule at index {n}", container.name, name(), rule.action)
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            let matching = |r#type: &str, status: &str| patterns.iter().any(|p| p.type_ == r#type && p.status.as_deref().unwrap_or("True") == status);
            let condition = pod.conditions().iter().find(|c| matching(&c.r#type, &c.status));
            condition.map(|c| format!("Pod {} has condition {} matching {} rule at index {n}", name(), c.r#type, rule.action))
        };
        match (message, rule.action.as_str()) {
            (Some(_), "Ignore") => return Failure::Ignored,
            (Some(_), "FailIndex") => return Failure::FailsIndex,
            (Some(_), "Count") => return Failure::Counts,
            (Some(message), "FailJob") => return Failure::FailsJob(message),
            _ => {}
        }
    }
    Failure::Counts
}

fn exits_as(container: &ContainerEnd, codes: &PodFailurePolicyOnExitCodesRequirement) -> bool {
    let Some(code) = container.exit_code().filter(|c| *c != 0) else { return false };
    let named = codes.container_name.as_ref().is_none_or(|n| *n == container.name);
    let listed = codes.values.contains(&code);
    named
        && match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
}

/// The message of the condition when a rule of the success policy is met.
pub fn success(spec: &JobSpec, succeeded: &Indexes) -> Option<String> {
    let rules = spec.success_policy.as_ref().map(|p| p.rules.as_slice()).unwrap_or_default();
    let met = |rule: &SuccessPolicyRule| match &rule.succeeded_indexes {
        Some(text) => {
            let required = Indexes::parse(text, spec.completions.unwrap_or_default());
            let common = required.common(succeeded);
            !required.is_empty() && (common == required.total() || rule.succeeded_count.is_some_and(|n| common >= n))
        }
        None => rule.succeeded_count.is_some_and(|n| succeeded.total() >= n),
    };
    let n = if succeeded.is_empty() { None } else { rules.iter().position(met) };
    n.map(|n| format!("Matched rules at index {n}"))
}
