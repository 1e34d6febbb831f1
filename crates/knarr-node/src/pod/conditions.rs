//! The pod's conditions (upstream: `pkg/kubelet/status/generate.go`).

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::container_status::StatusExt;
use super::decide::{all_removed, sandbox_changed, should_all_restart};
use super::spec::{self, PodExt};
use super::status::Input;

/// Whether the agent alone writes conditions of this type (upstream: `PodConditionByKubelet`).
pub fn is_ours(condition_type: &str) -> bool {
    matches!(
        condition_type,
        "PodScheduled"
            | "Ready"
            | "Initialized"
            | "ContainersReady"
            | "PodResizeInProgress"
            | "PodResizePending"
            | "PodReadyToStartContainers"
            | "AllContainersRestarting"
    )
}

struct Maker {
    generation: i64,
}

impl Maker {
    fn make(&self, type_: &str, status: bool, reason: &str, message: &str) -> PodCondition {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PodCondition {
            type_: type_.into(),
            status: if status { "True" } else { "False" }.into(),
            reason: some(reason),
            message: some(message),
            observed_generation: (self.generation != 0).then_some(self.generation),
            ..Default::default()
        }
    }
}

/// All conditions of a status whose container statuses and phase are set, in upstream's order. Transition times are
/// carried over from `old` where the condition's status has not changed.
pub fn conditions(input: &Input, status: &PodStatus) -> Vec<PodCondition> {
    let make = Maker { generation: input.pod.generation() };
    let mut all: Vec<PodCondition> = input.pod.status().conditions.iter().flatten().filter(|c| !is_ours(&c.type_)).cloned().collect();
    all.extend(input.resize_conditions.iter().cloned());
    if let Some(disruption) = input.old.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget") {
        match all.iter_mut().find(|c| c.type_ == "DisruptionTarget") {
            Some(slot) => *slot = disruption.clone(),
            None => all.push(disruption.clone()),
        }
    }
    if let Some(why) = input.disruption.filter(|_| !all.iter().any(|c| c.type_ == "DisruptionTarget")) {
        all.push(make.make("DisruptionTarget", true, "TerminationByKubelet", why));
    }
    let phase = status.phase.as_deref().unwrap_or_default();
    let containers: Vec<&ContainerStatus> = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()).collect();
    let unprepared = (!input.prepared).then_some("no pod sandbox exists");
    all.push(match sandbox_changed(input.pod, input.observed).map(|(_, _, why)| why).or(unprepared) {
        None => make.make("PodReadyToStartContainers", true, "", ""),
        Some(why) => make.make("PodReadyToStartContainers", false, "PodSandboxNotReady", why),
    });
    let containers_ready = containers_ready(input, &make, &containers, phase);
    all.push(initialized(input, &make, &containers, phase));
    all.push(ready(input, &make, &all, &containers_ready));
    all.push(containers_ready);
    all.push(make.make("PodScheduled", true, "", ""));
    if spec::all_containers_could_restart(input.pod.spec()) {
        all.push(all_restarting(input, phase));
    }
    for condition in &mut all {
        keep_transition_time(input, condition);
    }
    all
}

fn keep_transition_time(input: &Input, condition: &mut PodCondition) {
    if !is_ours(&condition.type_) || condition.type_.starts_with("PodResize") {
        return;
    }
    let old = input.old.conditions.iter().flatten().find(|c| c.type_ == condition.type_ && c.status == condition.status);
    condition.last_transition_time = old.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(super::container_status::time(input.now)));
}

fn find<'a>(statuses: &[&'a ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name).copied()
}

fn listed(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
}

fn containers_ready(input: &Input, make: &Maker, statuses: &[&ContainerStatus], phase: &str) -> PodCondition {
    let spec = input.pod.spec();
    let watched = spec::init_containers(spec).iter().filter(|c| spec::is_restartable_init(c)).chain(&spec.containers);
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in watched {
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    let condition = "ContainersReady";
    if phase == "Succeeded" && unknown.is_empty() {
        return make.make(condition, false, "PodCompleted", "");
    }
    if phase == "Failed" {
        return make.make(condition, false, "PodFailed", "");
    }
    let message: Vec<String> = [listed("unknown", &unknown), listed("unready", &unready)].into_iter().flatten().collect();
    if message.is_empty() { make.make(condition, true, "", "") } else { make.make(condition, false, "ContainersNotReady", &message.join(", ")) }
}

fn ready(input: &Input, make: &Maker, so_far: &[PodCondition], containers_ready: &PodCondition) -> PodCondition {
    if containers_ready.status != "True" {
        return PodCondition { type_: "Ready".into(), ..containers_ready.clone() };
    }
    let mut missing = Vec::new();
    for gate in input.pod.spec().readiness_gates.iter().flatten() {
        match so_far.iter().find(|c| c.type_ == gate.condition_type) {
            None => missing.push(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, c.status));
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() { make.make("Ready", true, "", "") } else { make.make("Ready", false, "ReadinessGatesNotReady", &missing.join(", ")) }
}

fn initialized(input: &Input, make: &Maker, statuses: &[&ContainerStatus], phase: &str) -> PodCondition {
    let spec = input.pod.spec();
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec::init_containers(spec) {
        let done = |s: &ContainerStatus| if spec::is_restartable_init(container) { s.started == Some(true) } else { s.ready };
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !done(status) => incomplete.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    let condition = "Initialized";
    if phase == "Succeeded" && unknown.is_empty() {
        return make.make(condition, true, "PodCompleted", "");
    }
    if spec.containers.iter().filter_map(|c| find(statuses, &c.name)).any(|s| s.is_running() || s.terminated().is_some()) {
        return make.make(condition, true, "", "");
    }
    let message: Vec<String> = [listed("unknown", &unknown), listed("incomplete", &incomplete)].into_iter().flatten().collect();
    let was = input.old.conditions.iter().flatten().any(|c| c.type_ == condition && c.status == "True");
    if message.is_empty() || was { make.make(condition, true, "", "") } else { make.make(condition, false, "ContainersNotInitialized", &message.join(", ")) }
}

fn all_restarting(input: &Input, phase: &str) -> PodCondition {
    let make = Maker { generation: 0 };
    let condition = "AllContainersRestarting";
    match phase {
        "Succeeded" => make.make(condition, false, "PodCompleted", ""),
        "Failed" => make.make(condition, false, "PodFailed", ""),
        _ if !should_all_restart(input.pod, input.observed, input.old) || all_removed(input.pod, input.observed) => make.make(condition, false, "", ""),
        _ => make.make(condition, true, "RestartAllContainersStarted", "container exited with restart policy rule"),
    }
}

/// `Ready` and `ContainersReady` of a pod that has come to its end.
pub fn finish(conditions: &mut [PodCondition], phase: &str, now: jiff::Timestamp) {
    for condition in conditions.iter_mut().filter(|c| matches!(c.type_.as_str(), "Ready" | "ContainersReady") && c.status == "True") {
        condition.status = "False".into();
        condition.reason = Some(if phase == "Failed" { "PodFailed" } else { "PodCompleted" }.into());
        condition.message = None;
        condition.last_transition_time = Some(super::container_status::time(now));
    }
}
