//! What the agent asks of a pod's spec: names, kinds of containers, restart rules, quality of service.
//! Plain reading, no state (upstream: `pkg/api/v1/pod`, `pkg/apis/core/v1/helper/qos`).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use knarr_core::quantity::Quantity;

/// Amounts by resource name, as the API spells them.
pub type ResourceList = BTreeMap<String, ApiQuantity>;

/// Short ways into a pod that the API has validated.
pub trait PodExt {
    fn uid(&self) -> &str;
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn spec(&self) -> &PodSpec;
    fn status(&self) -> &PodStatus;
    fn generation(&self) -> i64;
    fn is_deleting(&self) -> bool;
    fn host_network(&self) -> bool;
    fn annotation(&self, key: &str) -> Option<&str>;
    /// `name_namespace(uid)`, as upstream's messages name a pod (`format.Pod`).
    fn described(&self) -> String;
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
static NO_STATUS: LazyLock<PodStatus> = LazyLock::new(PodStatus::default);

impl PodExt for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    fn status(&self) -> &PodStatus {
        self.status.as_ref().unwrap_or(&NO_STATUS)
    }

    fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn described(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
}

/// In which list of the spec a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next container starts.
    Init,
    /// A restartable init container.
    Sidecar,
    Regular,
    Ephemeral,
}

pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

pub fn ephemeral_containers(spec: &PodSpec) -> &[EphemeralContainer] {
    spec.ephemeral_containers.as_deref().unwrap_or_default()
}

/// Whether an init container is a sidecar.
pub fn is_restartable_init(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container as a container: it has all its fields.
pub fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        lifecycle: e.lifecycle.clone(),
        liveness_probe: e.liveness_probe.clone(),
        name: e.name.clone(),
        ports: e.ports.clone(),
        readiness_probe: e.readiness_probe.clone(),
        resize_policy: e.resize_policy.clone(),
        resources: e.resources.clone(),
        restart_policy: e.restart_policy.clone(),
        restart_policy_rules: e.restart_policy_rules.clone(),
        security_context: e.security_context.clone(),
        startup_probe: e.startup_probe.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
    }
}

/// The container of that name and its role.
pub fn find_container(spec: &PodSpec, name: &str) -> Option<(Container, Role)> {
    let of_init = |c: &Container| if is_restartable_init(c) { Role::Sidecar } else { Role::Init };
    let regular = spec.containers.iter().find(|c| c.name == name).map(|c| (c.clone(), Role::Regular));
    regular
        .or_else(|| init_containers(spec).iter().find(|c| c.name == name).map(|c| (c.clone(), of_init(c))))
        .or_else(|| ephemeral_containers(spec).iter().find(|c| c.name == name).map(|c| (as_container(c), Role::Ephemeral)))
}

/// Where a container stands in the spec, for `involvedObject.fieldPath` of its events (upstream: `container.fieldPath`).
pub fn field_path(spec: &PodSpec, name: &str) -> String {
    if spec.containers.iter().any(|c| c.name == name) {
        format!("spec.containers{{{name}}}")
    } else if init_containers(spec).iter().any(|c| c.name == name) {
        format!("spec.initContainers{{{name}}}")
    } else {
        format!("spec.ephemeralContainers{{{name}}}")
    }
}

/// The hash by which a change of the container's image is noticed. Only `image` and `name` can change and matter
/// (upstream: `HashContainer`; the value itself is the agent's own affair).
pub fn container_hash(container: &Container) -> u64 {
    let text = format!("{{\"image\":\"{}\",\"name\":\"{}\"}}", container.image.as_deref().unwrap_or_default(), container.name);
    u64::from(text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
}

/// The restart rule that an exit code meets (upstream: `FindMatchingContainerRestartRule`).
pub fn matching_restart_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether an exit restarts all containers of the pod in place.
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    matching_restart_rule(container, exit_code).is_some_and(|r| r.action == "RestartAllContainers")
}

/// Whether a container that ended with `exit_code` is to run again (upstream: `ContainerShouldRestart`).
pub fn should_restart(container: &Container, spec: &PodSpec, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        if let Some(rule) = matching_restart_rule(container, exit_code)
            && matches!(rule.action.as_str(), "Restart" | "RestartAllContainers")
        {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match spec.restart_policy.as_deref() {
        Some("OnFailure") => exit_code != 0,
        Some("Never") => false,
        _ => true,
    }
}

/// Whether the pod's own policy restarts failed containers (upstream: `shouldRestartOnFailure`).
pub fn restarts_on_failure(spec: &PodSpec) -> bool {
    spec.restart_policy.as_deref() != Some("Never")
}

/// Whether some container may restart all of them (upstream: `AllContainersCouldRestart`).
pub fn all_containers_could_restart(spec: &PodSpec) -> bool {
    init_containers(spec).iter().chain(&spec.containers).flat_map(|c| c.restart_policy_rules.iter().flatten()).any(|r| r.action == "RestartAllContainers")
}

/// An amount out of a list; zero when absent or unreadable.
pub fn amount(list: Option<&ResourceList>, name: &str) -> Quantity {
    list.and_then(|l| l.get(name)).and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

pub fn requests(resources: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    resources?.requests.as_ref()
}

pub fn limits(resources: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    resources?.limits.as_ref()
}

/// Quality of service, which orders eviction and names the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The pod's class: the one in its status, which never changes, or the one that its spec gives (upstream: `GetPodQOS`).
    pub fn of(pod: &Pod) -> Self {
        match pod.status().qos_class.as_deref() {
            Some("Guaranteed") => Self::Guaranteed,
            Some("Burstable") => Self::Burstable,
            Some("BestEffort") => Self::BestEffort,
            _ => Self::compute(pod.spec()),
        }
    }

    /// Upstream: `ComputePodQOS`.
    pub fn compute(spec: &PodSpec) -> Self {
        let pod_level = spec.resources.as_ref().filter(|r| has_compute(r.requests.as_ref()) || has_compute(r.limits.as_ref()));
        if let Some(resources) = pod_level {
            return if equal_and_complete(resources) { Self::Guaranteed } else { Self::Burstable };
        }
        let none = ResourceRequirements::default();
        let all: Vec<&ResourceRequirements> = init_containers(spec).iter().chain(&spec.containers).map(|c| c.resources.as_ref().unwrap_or(&none)).collect();
        if all.iter().all(|r| !has_compute(r.requests.as_ref()) && !has_compute(r.limits.as_ref())) {
            Self::BestEffort
        } else if all.iter().all(|r| equal_and_complete(r)) {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }
}

const COMPUTE: [&str; 2] = ["cpu", "memory"];

fn has_compute(list: Option<&ResourceList>) -> bool {
    COMPUTE.iter().any(|name| !amount(list, name).is_zero())
}

fn equal_and_complete(resources: &ResourceRequirements) -> bool {
    COMPUTE.iter().all(|name| {
        let limit = amount(resources.limits.as_ref(), name);
        let request = resources.requests.as_ref().and_then(|r| r.get(*name)).map_or(limit, |_| amount(resources.requests.as_ref(), name));
        !limit.is_zero() && limit == request
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn spec(value: knarr_core::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        for (containers, wanted) in [
            (json!([{"name": "a"}]), Qos::BestEffort),
            (json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]), Qos::Burstable),
            (json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]), Qos::Guaranteed),
            (json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]), Qos::Burstable),
            (json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]), Qos::Burstable),
            (json!([{"name": "a", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}]), Qos::BestEffort),
        ] {
            assert_eq!(Qos::compute(&spec(json!({"containers": containers}))), wanted, "{containers}");
        }
    }

    #[test]
    fn a_containers_own_restart_rules_come_before_the_pods_policy() {
        let never = spec(json!({"restartPolicy": "Never", "containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]},
            {"name": "b"}]}));
        assert!(should_restart(&never.containers[0], &never, 42));
        assert!(!should_restart(&never.containers[0], &never, 1));
        assert!(!should_restart(&never.containers[1], &never, 42));
        let on_failure = spec(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}]}));
        assert!(should_restart(&on_failure.containers[0], &on_failure, 1));
        assert!(!should_restart(&on_failure.containers[0], &on_failure, 0));
    }

    #[test]
    fn a_new_image_gives_a_new_hash() {
        let of = |image: &str| container_hash(&Container { name: "a".into(), image: Some(image.into()), ..Default::default() });
        assert_ne!(of("x:1"), of("x:2"));
        assert_eq!(of("x:1"), of("x:1"));
    }
}
