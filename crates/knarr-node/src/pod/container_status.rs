//! `status.containerStatuses` and its siblings, from what is seen and what was said before.
//!
//! Follows `kubelet_pods.go:convertToAPIContainerStatuses` and `prober_manager.go:UpdatePodStatus`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
    LinuxContainerUser, Pod, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_core::quantity::Quantity;
use knarr_runtime::cri::{ContainerState, Resources};

use super::decide::{any_regular_created, should_be_restarted};
use super::observed::{ProbeKind, Seen, Verdict};
use super::resources::{MIN_MILLI_CPU_LIMIT, MIN_SHARES, quota_to_milli_cpu, shares_to_milli_cpu};
use super::spec::{self, PodExt, Role};
use super::status::Input;

const RESTARTING_ALL: &str = "RestartingAllContainers";
const REMOVED_FOR_RESTART: &str = "The container is removed because RestartAllContainers in place";
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// Whole seconds, as the API keeps them: two times that are written alike are equal.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

pub fn waiting(reason: &str, message: &str) -> ApiState {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ApiState { waiting: Some(ContainerStateWaiting { reason: some(reason), message: some(message) }), ..Default::default() }
}

pub fn terminated(exit_code: i32, reason: &str, message: &str) -> ApiState {
    let terminated = ContainerStateTerminated { exit_code, reason: Some(reason.into()), message: Some(message.into()), ..Default::default() };
    ApiState { terminated: Some(terminated), ..Default::default() }
}

/// Reads a status' state without caring that it may be absent.
pub trait StatusExt {
    fn is_running(&self) -> bool;
    fn is_waiting(&self) -> bool;
    fn terminated(&self) -> Option<&ContainerStateTerminated>;
    fn last_terminated(&self) -> Option<&ContainerStateTerminated>;
}

impl StatusExt for ContainerStatus {
    fn is_running(&self) -> bool {
        self.state.as_ref().is_some_and(|s| s.running.is_some())
    }

    fn is_waiting(&self) -> bool {
        self.state.as_ref().is_some_and(|s| s.waiting.is_some())
    }

    fn terminated(&self) -> Option<&ContainerStateTerminated> {
        self.state.as_ref()?.terminated.as_ref()
    }

    fn last_terminated(&self) -> Option<&ContainerStateTerminated> {
        self.last_state.as_ref()?.terminated.as_ref()
    }
}

/// Statuses of the containers in one list of the spec.
pub fn container_statuses(input: &Input, containers: &[Container], role: Role, restarting_all: bool) -> Vec<ContainerStatus> {
    let old: BTreeMap<&str, &ContainerStatus> = old_list(input, role).iter().map(|s| (s.name.as_str(), s)).collect();
    let mut statuses: Vec<ContainerStatus> = containers.iter().map(|c| one(input, c, role, old.get(c.name.as_str()).copied(), restarting_all)).collect();
    for (status, container) in statuses.iter_mut().zip(containers) {
        probed(input, container, role, status);
    }
    if role != Role::Init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

fn old_list<'a>(input: &Input<'a>, role: Role) -> &'a [ContainerStatus] {
    let list = match role {
        Role::Init | Role::Sidecar => &input.old.init_container_statuses,
        Role::Regular => &input.old.container_statuses,
        Role::Ephemeral => &input.old.ephemeral_container_statuses,
    };
    list.as_deref().unwrap_or_default()
}

fn default_waiting_reason(pod: &Pod) -> &'static str {
    if spec::init_containers(pod.spec()).is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

fn one(input: &Input, container: &Container, role: Role, old: Option<&ContainerStatus>, restarting_all: bool) -> ContainerStatus {
    let runs: Vec<&Seen> = input.observed.containers.iter().filter(|c| c.name == container.name).take(2).collect();
    let mut status = match runs.first() {
        None => absent(input, container, old, restarting_all),
        Some(latest) => {
            let mut status = converted(container, latest, old, restarting_all);
            if let Some(previous) = runs.get(1) {
                status.last_state = converted(container, previous, old, restarting_all).state;
            }
            status
        }
    };
    failed_start(input, container, role, &mut status);
    // The API writes an empty state where there is none: what is told has to be what comes back.
    status.last_state.get_or_insert_default();
    status
}

/// The status of a container that the runtime does not know.
fn absent(input: &Input, container: &Container, old: Option<&ContainerStatus>, restarting_all: bool) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default_waiting_reason(input.pod), "")),
        volume_mounts: volume_mounts(container),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    if old.terminated().is_some() {
        status = old.clone();
    } else {
        status.restart_count = old.restart_count;
        status.last_state.clone_from(&old.last_state);
    }
    if restarting_all && !old.is_waiting() {
        status.state = Some(waiting(RESTARTING_ALL, REMOVED_FOR_RESTART));
        status.last_state = Some(terminated(137, RESTARTING_ALL, REMOVED_FOR_RESTART));
        status.restart_count = old.restart_count + 1;
    } else if old.is_running() && status.last_terminated().is_none() {
        // It ran, so the pod must not look as if it had never started.
        let text = "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(terminated(137, STATUS_UNKNOWN, text));
        if !input.pod.is_deleting() {
            status.restart_count += 1;
        }
    }
    status
}

/// The status of one run of a container (upstream: `convertContainerStatus`).
fn converted(container: &Container, seen: &Seen, old: Option<&ContainerStatus>, restarting_all: bool) -> ContainerStatus {
    let id = seen.api_id();
    let mut status = ContainerStatus {
        name: seen.name.clone(),
        restart_count: seen.restart_count,
        image: seen.image.clone(),
        image_id: seen.image_ref.clone(),
        container_id: Some(id.clone()),
        volume_mounts: volume_mounts(container),
        allocated_resources: spec::requests(container.resources.as_ref()).cloned(),
        resources: status_resources(container, seen),
        user: seen.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: (!groups.is_empty()).then(|| groups.clone()) }),
        }),
        ..Default::default()
    };
    if let Some(old) = old {
        inherit(&mut status, old, seen);
    }
    status.state = Some(match seen.state {
        ContainerState::Running => {
            if let Some(old) = old.filter(|o| o.terminated().is_some() && o.restart_count >= seen.restart_count) {
                status.restart_count = old.restart_count + 1;
            }
            ApiState { running: Some(ContainerStateRunning { started_at: seen.started_at.map(time) }), ..Default::default() }
        }
        ContainerState::Exited => exited(seen, id),
        ContainerState::Unknown if old.is_some_and(StatusExt::is_running) => {
            status.restart_count = old.map_or(0, |o| o.restart_count) + 1;
            let reason = if restarting_all { RESTARTING_ALL } else { STATUS_UNKNOWN };
            terminated(137, reason, "The container could not be located when the pod was terminated")
        }
        ContainerState::Created | ContainerState::Unknown => waiting("", ""),
    });
    status
}

/// Takes over from the status told before what the runtime does not know (any more).
fn inherit(status: &mut ContainerStatus, old: &ContainerStatus, seen: &Seen) {
    if old.volume_mounts.is_some() {
        status.volume_mounts.clone_from(&old.volume_mounts);
    }
    status.restart_count = status.restart_count.max(old.restart_count);
    let same = old.container_id == status.container_id;
    let last = if same { None } else { old.terminated() }.or(old.last_terminated());
    if let Some(last) = last {
        status.last_state = Some(ApiState { terminated: Some(last.clone()), ..Default::default() });
    }
    if seen.is_running() && same {
        status.started = old.started;
    }
}

fn exited(seen: &Seen, id: String) -> ApiState {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ApiState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id),
            exit_code: seen.exit_code,
            finished_at: seen.finished_at.map(time),
            message: some(&seen.message),
            reason: some(&seen.reason),
            started_at: Some(time(seen.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that could not be started, and is to be started again, is waiting with the reason of the failure.
fn failed_start(input: &Input, container: &Container, role: Role, status: &mut ContainerStatus) {
    let seen = input.observed.find(&container.name);
    if matches!(role, Role::Init | Role::Sidecar) {
        if seen.is_some_and(|s| s.has_exited() && s.exit_code == 0) {
            return;
        }
        let inferred = seen.is_none() && any_regular_created(input.pod, input.observed) && !spec::is_restartable_init(container) && status.is_waiting();
        if inferred {
            let text = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
            status.state = Some(terminated(0, "Completed", text));
            return;
        }
    }
    if !should_be_restarted(container, input.pod, input.observed) {
        return;
    }
    let Some((reason, message)) = input.reasons.get(&container.name) else { return };
    if status.terminated().is_some() {
        status.last_state.clone_from(&status.state);
    }
    status.state = Some(waiting(reason, message));
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let of = |m: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only.filter(|r| *r),
        recursive_read_only: (m.read_only == Some(true)).then(|| {
            let wanted = matches!(m.recursive_read_only.as_deref(), Some("IfPossible" | "Enabled"));
            if wanted { "Enabled".to_owned() } else { "Disabled".to_owned() }
        }),
        ..Default::default()
    };
    container.volume_mounts.as_ref().filter(|m| !m.is_empty()).map(|mounts| mounts.iter().map(of).collect())
}

/// What the cgroup really has, where the spec speaks of it (upstream: `convertContainerStatusResources`).
fn status_resources(container: &Container, seen: &Seen) -> Option<ResourceRequirements> {
    let mut resources = container.resources.clone().unwrap_or_default();
    if !seen.is_running() {
        return Some(resources);
    }
    let actual = Actual::of(&seen.resources);
    let put = |list: &mut spec::ResourceList, name: &str, value: Option<Quantity>, least: i64| {
        let Some(value) = value else { return };
        let wanted = spec::amount(Some(list), name);
        if least == 0 || value.millis() > least || wanted.millis() > least {
            // The same amount in other words is no change: the spec's spelling stays.
            if wanted != value {
                list.insert(name.into(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(value.to_string()));
            }
        }
    };
    if let Some(limits) = resources.limits.as_mut() {
        put(limits, "cpu", actual.cpu_limit, MIN_MILLI_CPU_LIMIT);
        put(limits, "memory", actual.memory_limit, 0);
    }
    if let Some(requests) = resources.requests.as_mut() {
        let same_shares = seen.resources.cpu_shares == Some(super::resources::milli_cpu_to_shares(spec::amount(Some(requests), "cpu").millis()));
        if !same_shares {
            put(requests, "cpu", actual.cpu_request, MIN_SHARES as i64);
        }
    }
    Some(resources)
}

struct Actual {
    cpu_request: Option<Quantity>,
    cpu_limit: Option<Quantity>,
    memory_limit: Option<Quantity>,
}

impl Actual {
    fn of(r: &Resources) -> Self {
        Self {
            cpu_request: r.cpu_shares.filter(|s| *s > 0).map(|s| Quantity::from_millis(shares_to_milli_cpu(s))),
            cpu_limit: r.cpu_quota.filter(|q| *q > 0).zip(r.cpu_period).map(|(q, p)| Quantity::from_millis(quota_to_milli_cpu(q, p))),
            memory_limit: r.memory_limit.filter(|m| *m > 0).map(Quantity::from_bytes),
        }
    }
}

/// Sets `started` and `ready` (upstream: `UpdatePodStatus` of the prober).
fn probed(input: &Input, container: &Container, role: Role, status: &mut ContainerStatus) {
    if role == Role::Ephemeral {
        return;
    }
    let id = status.container_id.as_deref().and_then(|id| id.strip_prefix(super::observed::ID_PREFIX)).unwrap_or_default().to_owned();
    let probes = role == Role::Regular || spec::is_restartable_init(container);
    let started = is_started(input, container, status, &id, probes);
    status.started = Some(started);
    if role != Role::Regular && !spec::is_restartable_init(container) {
        status.ready = status.terminated().is_some_and(|t| t.exit_code == 0);
        return;
    }
    if !started {
        return;
    }
    status.ready = status.is_running() && {
        let verdict = input.verdicts.get(ProbeKind::Readiness, &id);
        verdict == Some(Verdict::Success) || adopted_ready(input, container, status, verdict)
    };
}

fn is_started(input: &Input, container: &Container, status: &ContainerStatus, id: &str, probes: bool) -> bool {
    if !status.is_running() {
        return false;
    }
    if let Some(verdict) = input.verdicts.get(ProbeKind::Startup, id) {
        return verdict == Verdict::Success;
    }
    status.started == Some(true) || !(probes && container.startup_probe.is_some())
}

/// Readiness without a good verdict: a container without a probe is ready, and one that ran before the agent started
/// stays what the pod was (upstream: `setReadyStateOnKubeletRestart`, which lets go of a container that had just been started: a
/// Service whose pods are new would be without any when their agents are replaced).
fn adopted_ready(input: &Input, container: &Container, status: &ContainerStatus, verdict: Option<Verdict>) -> bool {
    let mut ready = container.readiness_probe.is_none();
    let started_at = status.state.as_ref().and_then(|s| s.running.as_ref()).and_then(|r| r.started_at.as_ref());
    let is_old = started_at.is_some_and(|at| at.0 < input.agent_started);
    if is_old {
        ready |= verdict.is_none();
        let pod_ready = input.pod.status().conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        if container.readiness_probe.is_some() && !pod_ready {
            ready = false;
        }
    }
    ready
}
