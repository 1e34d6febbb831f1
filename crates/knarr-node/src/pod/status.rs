//! The pod's status as the API gets it. Pure (upstream: `kubelet_pods.go:generateAPIPodStatus` and `getPhase`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements};

use super::container_status::{StatusExt, container_statuses, time};
use super::decide::should_all_restart;
use super::observed::{Observed, Verdicts};
use super::spec::{self, PodExt, Qos, Role};
use super::{conditions, resources};

/// Upstream's bound for all termination messages of a pod together, in bytes.
const TERMINATION_MESSAGES_BYTES_MAX: usize = 12 * 1024;

/// Everything that a status depends on.
pub struct Input<'a> {
    /// The pod as the API has it, with allocated resources in its spec.
    pub pod: &'a Pod,
    /// The last status that was made here, or the API's when there is none.
    pub old: &'a PodStatus,
    pub observed: &'a Observed,
    /// Why a container could not be started, by name: reason and message.
    pub reasons: &'a BTreeMap<String, (String, String)>,
    pub verdicts: &'a Verdicts,
    /// The pod's end has been decided and nothing of it runs any more.
    pub terminal: bool,
    /// Containers may still be running, so a terminal phase must not be told yet.
    pub could_run: bool,
    /// The volumes are mounted. Before that the sandbox, which is made meanwhile, is not told.
    pub prepared: bool,
    /// Phase `Failed` with this reason and message (eviction, deadline, rejection).
    pub failure: Option<(&'a str, &'a str)>,
    /// Why the node had to end the pod.
    pub disruption: Option<&'a str>,
    pub resize_conditions: &'a [PodCondition],
    /// The node's addresses, the primary one first.
    pub host_ips: &'a [String],
    pub now: Timestamp,
    pub agent_started: Timestamp,
}

/// Whole seconds, as the API keeps them.
pub fn api_time(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    time(at)
}

fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// A status, and whether the pod has come to its end though that may not be told yet.
pub struct Made {
    pub status: PodStatus,
    pub finished: bool,
}

pub fn generate(input: &Input) -> Made {
    let pod = input.pod;
    let mut status = PodStatus { qos_class: Some(Qos::of(pod).as_str().into()), ..Default::default() };
    addresses(input, &mut status);
    containers(input, &mut status);
    status.resources = Some(pod_resources(pod));
    status.allocated_resources = Some(resources::pod_requests(pod.spec())).filter(|r| !r.is_empty());
    set_phase(input, &mut status);
    status.conditions = Some(conditions::conditions(input, &status));
    keep_others(input, &mut status);
    let finished = is_terminal(status.phase.as_deref().unwrap_or_default());
    hold_back(input, &mut status);
    trim_messages(pod, &mut status);
    Made { status, finished }
}

fn containers(input: &Input, status: &mut PodStatus) {
    let spec = input.pod.spec();
    let restarting = should_all_restart(input.pod, input.observed, input.old);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let ephemeral: Vec<_> = spec::ephemeral_containers(spec).iter().map(spec::as_container).collect();
    status.container_statuses = some(container_statuses(input, &spec.containers, Role::Regular, restarting));
    status.init_container_statuses = some(container_statuses(input, spec::init_containers(spec), Role::Init, restarting));
    status.ephemeral_container_statuses = some(container_statuses(input, &ephemeral, Role::Ephemeral, restarting));
}

fn addresses(input: &Input, status: &mut PodStatus) {
    let hosts = input.host_ips;
    status.host_ip = hosts.first().cloned();
    status.host_ips = (!hosts.is_empty()).then(|| hosts.iter().take(2).map(|ip| HostIP { ip: ip.clone() }).collect());
    let ips: Vec<&String> = match (input.observed.ips.is_empty() || !input.prepared, input.pod.host_network()) {
        (false, _) => input.observed.ips.iter().collect(),
        (true, true) => hosts.iter().take(2).collect(),
        (true, false) => Vec::new(),
    };
    status.pod_ip = ips.first().map(|ip| (*ip).clone());
    status.pod_ips = (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: (*ip).clone() }).collect());
}

/// Pod-level resources (upstream: `convertToAPIPodLevelResourcesStatus`; the pod's cgroup always follows the allocation).
fn pod_resources(pod: &Pod) -> ResourceRequirements {
    let list = |l: spec::ResourceList| (!l.is_empty()).then_some(l);
    let mut all = pod.spec().resources.clone().unwrap_or_default();
    all.requests = list(resources::pod_requests(pod.spec()));
    all.limits = list(resources::pod_limits(pod.spec()));
    all
}

fn set_phase(input: &Input, status: &mut PodStatus) {
    let pod = input.pod;
    let told = pod.status().phase.as_deref().unwrap_or_default();
    let old = input.old.phase.as_deref().unwrap_or_default();
    let mut phase = phase(input, status).to_owned();
    if !is_terminal(&phase) {
        if is_terminal(old) {
            phase = old.into();
        } else if is_terminal(told) {
            phase = told.into();
        }
    }
    if phase == old {
        status.reason = input.old.reason.clone().or_else(|| pod.status().reason.clone());
        status.message = input.old.message.clone().or_else(|| pod.status().message.clone());
    }
    if let Some((reason, message)) = input.failure {
        phase = "Failed".into();
        status.reason = Some(reason.into());
        status.message = Some(message.into());
    }
    if is_terminal(told) {
        phase = told.into();
    }
    status.phase = Some(phase);
}

#[derive(Default)]
struct Count {
    pending_init: usize,
    pending_sidecar: usize,
    failed_init: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// Upstream: `getPhase`.
fn phase(input: &Input, status: &PodStatus) -> &'static str {
    let spec = input.pod.spec();
    let mut n = Count::default();
    for c in spec::init_containers(spec) {
        let s = status.init_container_statuses.iter().flatten().find(|s| s.name == c.name);
        if spec::is_restartable_init(c) { count_sidecar(&mut n, s) } else { count_init(&mut n, input, c, s) }
    }
    for c in &spec.containers {
        count_regular(&mut n, input, c, status.container_statuses.iter().flatten().find(|s| s.name == c.name));
    }
    let initialized = input.observed.any_active(spec.containers.iter().map(|c| c.name.as_str()));
    if n.failed_init > 0 {
        return "Failed";
    }
    if n.pending_init > 0 || (n.pending_sidecar > 0 && !initialized) || n.waiting > 0 {
        return "Pending";
    }
    if n.running > 0 && n.unknown == 0 {
        return "Running";
    }
    if n.running == 0 && n.stopped > 0 && n.unknown == 0 {
        if !input.terminal && n.stopped != n.stopped_for_good {
            return "Running";
        }
        return if n.stopped == n.succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

/// Whether an exit is the container's last.
fn for_good(input: &Input, c: &k8s_openapi::api::core::v1::Container, t: &k8s_openapi::api::core::v1::ContainerStateTerminated) -> bool {
    !spec::should_restart(c, input.pod.spec(), t.exit_code) && t.reason.as_deref() != Some("RestartingAllContainers")
}

fn count_init(n: &mut Count, input: &Input, c: &k8s_openapi::api::core::v1::Container, s: Option<&ContainerStatus>) {
    let Some(s) = s else {
        n.pending_init += 1;
        return;
    };
    let ended = s.terminated().or(if s.is_waiting() { s.last_terminated() } else { None });
    match ended {
        Some(t) if t.exit_code != 0 => n.failed_init += usize::from(for_good(input, c, t)),
        Some(_) => {}
        None => n.pending_init += 1,
    }
}

fn count_sidecar(n: &mut Count, s: Option<&ContainerStatus>) {
    match s {
        None => n.unknown += 1,
        Some(s) if s.is_running() => {
            n.pending_sidecar += usize::from(s.started != Some(true));
            n.running += 1;
        }
        Some(s) if s.terminated().is_some() => {}
        Some(s) if s.is_waiting() => {
            if s.last_terminated().is_none() {
                n.pending_sidecar += 1;
                n.waiting += 1;
            }
        }
        Some(_) => {
            n.pending_sidecar += 1;
            n.unknown += 1;
        }
    }
}

fn count_regular(n: &mut Count, input: &Input, c: &k8s_openapi::api::core::v1::Container, s: Option<&ContainerStatus>) {
    match s {
        Some(s) if s.is_running() => n.running += 1,
        Some(s) => {
            if let Some(t) = s.terminated() {
                n.stopped += 1;
                n.stopped_for_good += usize::from(for_good(input, c, t));
                n.succeeded += usize::from(t.exit_code == 0);
            } else if !s.is_waiting() {
                n.unknown += 1;
            } else if let Some(t) = s.last_terminated() {
                n.stopped += 1;
                n.stopped_for_good += usize::from(for_good(input, c, t));
            } else {
                n.waiting += 1;
            }
        }
        None => n.unknown += 1,
    }
}

/// What others own in the status, and what never changes.
fn keep_others(input: &Input, status: &mut PodStatus) {
    let (told, old) = (input.pod.status(), input.old);
    status.start_time = old.start_time.clone().or_else(|| told.start_time.clone()).or_else(|| Some(time(input.now)));
    let generation = input.pod.generation().max(old.observed_generation.unwrap_or_default());
    status.observed_generation = (generation != 0).then_some(generation);
    status.nominated_node_name.clone_from(&told.nominated_node_name);
    status.resource_claim_statuses.clone_from(&told.resource_claim_statuses);
    status.extended_resource_claim_status.clone_from(&told.extended_resource_claim_status);
    status.node_allocatable_resource_claim_statuses.clone_from(&told.node_allocatable_resource_claim_statuses);
    status.volume_health.clone_from(&old.volume_health);
}

/// A terminal phase is not told while containers may run (upstream: `mergePodStatus`).
fn hold_back(input: &Input, status: &mut PodStatus) {
    let told = input.pod.status();
    let (was, is) = (told.phase.as_deref().unwrap_or_default(), status.phase.as_deref().unwrap_or_default());
    if is_terminal(is) && !is_terminal(was) && input.could_run {
        status.phase = Some(if was.is_empty() { "Pending" } else { was }.into());
        status.reason.clone_from(&told.reason);
        status.message.clone_from(&told.message);
        if let Some(all) = status.conditions.as_mut() {
            all.retain(|c| c.type_ != "DisruptionTarget" || told.conditions.iter().flatten().any(|t| t.type_ == c.type_));
        }
    } else if is_terminal(is) {
        let phase = is.to_owned();
        if let Some(all) = status.conditions.as_mut() {
            conditions::finish(all, &phase, input.now);
        }
    }
}

fn trim_messages(pod: &Pod, status: &mut PodStatus) {
    let spec = pod.spec();
    let count = spec.containers.len() + spec::init_containers(spec).len() + spec::ephemeral_containers(spec).len();
    let bytes_max = TERMINATION_MESSAGES_BYTES_MAX / count.max(1);
    let lists = [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses];
    for one in lists.into_iter().flatten().flatten() {
        for state in [&mut one.state, &mut one.last_state].into_iter().flatten() {
            if let Some(message) = state.terminated.as_mut().and_then(|t| t.message.as_mut()) {
                let mut end = message.len().min(bytes_max);
                while !message.is_char_boundary(end) {
                    end -= 1;
                }
                message.truncate(end);
            }
        }
    }
}

/// The status of a pod that will have no more containers: whatever is not known to have ended has failed (upstream:
/// `TerminatePod`).
pub fn terminate(pod: &Pod, mut status: PodStatus, now: Timestamp) -> PodStatus {
    let lost = || super::container_status::terminated(137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated");
    if has_initialized(pod, &status) {
        for s in status.container_statuses.iter_mut().flatten().filter(|s| s.terminated().is_none()) {
            s.state = Some(lost());
        }
    }
    if let Some(list) = status.init_container_statuses.as_mut() {
        let tried = list.iter().rposition(|s| !s.is_waiting() || s.last_terminated().is_some()).map_or(1, |i| i + 1).min(list.len());
        for s in list[..tried].iter_mut().filter(|s| s.terminated().is_none()) {
            s.state = Some(lost());
        }
    }
    let phase = status.phase.as_deref().filter(|p| is_terminal(p)).unwrap_or("Failed").to_owned();
    if let Some(all) = status.conditions.as_mut() {
        conditions::finish(all, &phase, now);
    }
    status.phase = Some(phase);
    status
}

/// Upstream: `hasPodInitialized`.
fn has_initialized(pod: &Pod, status: &PodStatus) -> bool {
    let inits = spec::init_containers(pod.spec());
    let Some(last) = inits.last() else { return true };
    if status.container_statuses.iter().flatten().any(|s| s.last_terminated().is_some() || !s.is_waiting()) {
        return true;
    }
    let Some(s) = status.init_container_statuses.iter().flatten().find(|s| s.name == last.name) else { return false };
    if spec::is_restartable_init(last) {
        s.is_running() && s.started == Some(true)
    } else {
        s.terminated().or(s.last_terminated()).is_some_and(|t| t.exit_code == 0)
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
