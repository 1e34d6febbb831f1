//! What is to be done for a pod, from what is wanted and what is seen. Pure: the actor does it.
//!
//! Follows `kuberuntime_manager.go:computePodActions` and `kuberuntime_container.go:computeInitContainerActions`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use knarr_runtime::cri::{ContainerState, SandboxState};

use super::observed::{Observed, ProbeKind, Seen, Verdict, Verdicts};
use super::spec::{self, PodExt, Role};

/// Everything that a decision depends on.
pub struct View<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub verdicts: &'a Verdicts,
    /// All containers are to be removed and started anew (`AllContainersRestarting`).
    pub restarting_all: bool,
    /// What each container's cgroup was last set to.
    pub actuated: &'a BTreeMap<String, ResourceRequirements>,
    /// Containers that were ended to run again whatever their restart policy says.
    pub forced: &'a BTreeSet<String>,
}

/// Why a running container has to end: it chooses the grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    StartupProbe,
    LivenessProbe,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    /// Text of the `Killing` event.
    pub message: String,
    pub reason: KillReason,
}

/// A container that is removed for an in-place restart of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    pub id: String,
    pub name: String,
    pub kill: bool,
}

/// What is to be done, in this order: kill, reset, sandbox, resize, start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop everything, the sandbox too. Without `create_sandbox` the pod has come to its end.
    pub kill_pod: bool,
    pub create_sandbox: bool,
    /// The latest sandbox there is.
    pub sandbox: Option<String>,
    /// Number of the sandbox to make, or of the one there is.
    pub attempt: u32,
    pub kill: Vec<Kill>,
    pub reset: Vec<Reset>,
    /// Containers whose cgroup is to follow the spec without a restart.
    pub resize: Vec<String>,
    /// Containers to start, one after the other.
    pub start: Vec<(Role, String)>,
}

/// Whether a new sandbox is needed: its attempt number, the latest sandbox, and the condition's message (upstream: `PodSandboxChanged`).
pub fn sandbox_changed(pod: &Pod, observed: &Observed) -> Option<(u32, Option<String>, &'static str)> {
    let Some(latest) = observed.sandboxes.first() else { return Some((0, None, "no pod sandbox exists")) };
    let next = latest.attempt + 1;
    let id = Some(latest.id.clone());
    if observed.sandboxes.iter().filter(|s| s.state == SandboxState::Ready).count() > 1 {
        return Some((next, id, "multiple pod sandboxes are ready and need to be reconciled"));
    }
    if latest.state != SandboxState::Ready {
        return Some((next, id, "pod sandbox is not ready"));
    }
    if !pod.host_network() && latest.ips.is_empty() {
        return Some((next, id, "pod sandbox has no IP address"));
    }
    None
}

/// Upstream: `ShouldContainerBeRestarted`.
pub fn should_be_restarted(container: &Container, pod: &Pod, observed: &Observed) -> bool {
    if pod.is_deleting() {
        return false;
    }
    match observed.find(&container.name) {
        None => true,
        Some(seen) => match seen.state {
            ContainerState::Running => false,
            ContainerState::Unknown | ContainerState::Created => true,
            ContainerState::Exited => spec::should_restart(container, pod.spec(), seen.exit_code),
        },
    }
}

/// Whether a regular container was ever made (upstream: `HasAnyRegularContainerCreated`).
pub fn any_regular_created(pod: &Pod, observed: &Observed) -> bool {
    pod.spec().containers.iter().any(|c| observed.find(&c.name).is_some_and(|s| s.state != ContainerState::Unknown))
}

/// Whether an exit, seen now or told before, restarts all containers in place (upstream: `ShouldAllContainersRestart`).
pub fn should_all_restart(pod: &Pod, observed: &Observed, old: &k8s_openapi::api::core::v1::PodStatus) -> bool {
    if old.conditions.iter().flatten().any(|c| c.type_ == "AllContainersRestarting" && c.status == "True") {
        return true;
    }
    let told = |name: &str| {
        let statuses = old.init_container_statuses.iter().flatten().chain(old.container_statuses.iter().flatten());
        statuses.filter(|s| s.name == name).find_map(|s| s.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code))
    };
    spec::init_containers(pod.spec()).iter().chain(&pod.spec().containers).any(|c| {
        let Some(seen) = observed.find(&c.name).filter(|s| s.has_exited()) else { return false };
        spec::restarts_all(c, seen.exit_code) || told(&c.name).is_some_and(|code| spec::restarts_all(c, code))
    })
}

/// Whether the in-place restart has removed everything (upstream: `AllContainersRestartCleanedUp`).
pub fn all_removed(pod: &Pod, observed: &Observed) -> bool {
    spec::init_containers(pod.spec()).iter().chain(&pod.spec().containers).all(|c| observed.find(&c.name).is_none())
}

pub fn decide(view: &View) -> Plan {
    let (pod, observed) = (view.pod, view.observed);
    let changed = sandbox_changed(pod, observed);
    let latest = observed.sandboxes.first();
    let mut plan = Plan {
        kill_pod: changed.is_some(),
        create_sandbox: changed.is_some(),
        sandbox: latest.map(|s| s.id.clone()),
        attempt: changed.as_ref().map_or_else(|| latest.map_or(0, |s| s.attempt), |c| c.0),
        ..Plan::default()
    };
    if view.restarting_all {
        plan.reset = resets(view);
        (plan.kill_pod, plan.create_sandbox) = (false, false);
        if !plan.reset.is_empty() {
            return plan;
        }
        (plan.kill_pod, plan.create_sandbox) = (changed.is_some(), changed.is_some());
    }
    if changed.is_some() {
        start_over(view, &mut plan);
        return plan;
    }
    for e in spec::ephemeral_containers(pod.spec()) {
        if observed.find(&e.name).is_none() {
            plan.start.push((Role::Ephemeral, e.name.clone()));
        }
    }
    if init_actions(view, &mut plan) && !plan.kill_pod {
        regular_actions(view, &mut plan);
    }
    plan
}

/// The sandbox is missing or no good: begin again, or end the pod if nothing is left to run.
fn start_over(view: &View, plan: &mut Plan) {
    let (pod, observed) = (view.pod, view.observed);
    if !spec::restarts_on_failure(pod.spec()) && plan.attempt != 0 && !observed.containers.is_empty() {
        plan.create_sandbox = false;
        return;
    }
    let succeeded = |c: &Container| observed.find(&c.name).is_some_and(|s| s.has_exited() && s.exit_code == 0);
    let run_once = |c: &Container| c.restart_policy.as_deref().or(pod.spec().restart_policy.as_deref()) == Some("OnFailure");
    let to_start: Vec<_> = pod.spec().containers.iter().filter(|c| !(run_once(c) && succeeded(c))).collect();
    if to_start.is_empty() && any_regular_created(pod, observed) {
        plan.create_sandbox = false;
        return;
    }
    match spec::init_containers(pod.spec()).first() {
        Some(first) => plan.start.push((role_of_init(first), first.name.clone())),
        None => plan.start.extend(to_start.iter().map(|c| (Role::Regular, c.name.clone()))),
    }
}

fn role_of_init(container: &Container) -> Role {
    if spec::is_restartable_init(container) { Role::Sidecar } else { Role::Init }
}

/// What an in-place restart removes: victims first, those whose exit caused it last (upstream: `getContainersToReset`).
fn resets(view: &View) -> Vec<Reset> {
    let spec = view.pod.spec();
    let of = |containers: &[Container]| -> (Vec<Reset>, Vec<Reset>) {
        let runs = containers.iter().flat_map(|c| view.observed.containers.iter().filter(move |s| s.name == c.name).map(move |s| (c, s)));
        let (sources, targets): (Vec<_>, Vec<_>) = runs.partition(|(c, s)| s.has_exited() && spec::restarts_all(c, s.exit_code));
        let reset = |(_, s): (&Container, &Seen)| Reset { id: s.id.clone(), name: s.name.clone(), kill: !s.has_exited() };
        (sources.into_iter().map(reset).collect(), targets.into_iter().map(reset).collect())
    };
    let (init_sources, init_targets) = of(spec::init_containers(spec));
    let (sources, targets) = of(&spec.containers);
    [targets, init_targets, sources, init_sources].concat()
}

/// Gives whether the pod is initialized (upstream: `computeInitContainerActions`).
fn init_actions(view: &View, plan: &mut Plan) -> bool {
    let inits = spec::init_containers(view.pod.spec());
    if inits.is_empty() {
        return true;
    }
    let mut pass =
        InitPass { view, initialized: view.observed.any_active(view.pod.spec().containers.iter().map(|c| c.name.as_str())), starts: Vec::new(), fatal: false };
    let mut previously = pass.initialized;
    // Backwards: finished init containers may be gone, so the last one that is there tells how far the pod is.
    for (index, container) in inits.iter().enumerate().rev() {
        let Some(seen) = view.observed.find_active(&container.name) else {
            if previously && spec::is_restartable_init(container) {
                pass.starts.push(index);
            }
            continue;
        };
        if previously && !spec::is_restartable_init(container) {
            continue;
        }
        pass.look_at(plan, index, container, seen, previously, inits.len());
        if pass.fatal {
            plan.kill_pod = true;
            return false;
        }
        previously = true;
    }
    if !previously {
        pass.starts.push(0);
    }
    plan.start.extend(pass.starts.iter().rev().map(|&i| (role_of_init(&inits[i]), inits[i].name.clone())));
    pass.initialized
}

struct InitPass<'a> {
    view: &'a View<'a>,
    initialized: bool,
    /// Indices, the last container first.
    starts: Vec<usize>,
    /// An init container failed for good.
    fatal: bool,
}

impl InitPass<'_> {
    fn look_at(&mut self, plan: &mut Plan, index: usize, container: &Container, seen: &Seen, previously: bool, count: usize) {
        let sidecar = spec::is_restartable_init(container);
        match seen.state {
            ContainerState::Created => self.starts.push(index),
            ContainerState::Running if !sidecar => resize(self.view, plan, container, seen),
            ContainerState::Running => self.look_at_sidecar(plan, index, container, seen, previously, count),
            ContainerState::Exited if sidecar => self.starts.push(index),
            ContainerState::Exited if seen.exit_code != 0 => {
                if should_be_restarted(container, self.view.pod, self.view.observed) {
                    self.starts.push(index);
                } else {
                    self.fatal = true;
                }
            }
            ContainerState::Exited => self.passed(index, previously, count),
            ContainerState::Unknown => {
                let policy = container.restart_policy.as_deref().or(self.view.pod.spec().restart_policy.as_deref());
                if !sidecar && policy == Some("Never") {
                    self.fatal = true;
                    return;
                }
                plan.kill.push(kill(seen, "Init container is in \"unknown\" state, try killing it before restart".into(), KillReason::Other));
                self.starts.push(index);
            }
        }
    }

    /// This init container is done (or, a sidecar, started): the next one may start.
    fn passed(&mut self, index: usize, previously: bool, count: usize) {
        if index + 1 == count {
            self.initialized = true;
        } else if !previously {
            self.starts.push(index + 1);
        }
    }

    fn look_at_sidecar(&mut self, plan: &mut Plan, index: usize, container: &Container, seen: &Seen, previously: bool, count: usize) {
        let verdict = |kind| self.view.verdicts.get(kind, &seen.id);
        if container.startup_probe.is_some() {
            match verdict(ProbeKind::Startup) {
                Some(Verdict::Success) => {}
                Some(Verdict::Failure) => {
                    plan.kill.push(kill(seen, format!("Init container {} failed startup probe", seen.name), KillReason::StartupProbe));
                    self.starts.push(index);
                    return;
                }
                _ => return,
            }
        }
        let alive = container.liveness_probe.as_ref().map(|_| verdict(ProbeKind::Liveness));
        self.passed(index, previously, count);
        if seen.hash != spec::container_hash(container) {
            plan.kill.push(kill(seen, format!("Init container {} definition changed", seen.name), KillReason::Other));
            self.starts.push(index);
            return;
        }
        match alive {
            Some(Some(Verdict::Failure)) => {
                plan.kill.push(kill(seen, format!("Init container {} failed liveness probe", seen.name), KillReason::LivenessProbe));
                self.starts.push(index);
            }
            Some(None) => {}
            _ => resize(self.view, plan, container, seen),
        }
    }
}

fn kill(seen: &Seen, message: String, reason: KillReason) -> Kill {
    Kill { id: seen.id.clone(), name: seen.name.clone(), message, reason }
}

fn regular_actions(view: &View, plan: &mut Plan) {
    let mut keep = false;
    let mut starts = Vec::new();
    for container in &view.pod.spec().containers {
        match view.observed.find(&container.name) {
            Some(seen) if seen.is_running() => {
                let Some((message, reason, restart)) = why_kill(view, container, seen) else {
                    let kills = plan.kill.len();
                    resize(view, plan, container, seen);
                    if plan.kill.len() == kills {
                        keep = true;
                    } else {
                        starts.push(container.name.clone());
                    }
                    continue;
                };
                let message = if restart { format!("{message}, will be restarted") } else { message };
                if restart {
                    starts.push(container.name.clone());
                }
                plan.kill.push(kill(seen, message, reason));
            }
            seen => {
                if should_be_restarted(container, view.pod, view.observed) || view.forced.contains(&container.name) {
                    if let Some(seen) = seen.filter(|s| s.state == ContainerState::Unknown) {
                        plan.kill.push(kill(seen, "Container is in \"unknown\" state, try killing it before restart".into(), KillReason::Other));
                    }
                    starts.push(container.name.clone());
                }
            }
        }
    }
    if !keep && starts.is_empty() {
        plan.kill_pod = true;
        // Sidecars must not keep a finished pod alive.
        plan.start.retain(|(role, _)| *role == Role::Ephemeral);
    }
    plan.start.extend(starts.into_iter().map(|name| (Role::Regular, name)));
}

/// Why a running regular container has to end, and whether it runs again afterwards.
fn why_kill(view: &View, container: &Container, seen: &Seen) -> Option<(String, KillReason, bool)> {
    let name = &container.name;
    let restart = container.restart_policy.as_deref().map_or_else(|| spec::restarts_on_failure(view.pod.spec()), |p| p != "Never");
    if seen.hash != spec::container_hash(container) {
        Some((format!("Container {name} definition changed"), KillReason::Other, true))
    } else if view.verdicts.get(ProbeKind::Liveness, &seen.id) == Some(Verdict::Failure) {
        Some((format!("Container {name} failed liveness probe"), KillReason::LivenessProbe, restart))
    } else if view.verdicts.get(ProbeKind::Startup, &seen.id) == Some(Verdict::Failure) {
        Some((format!("Container {name} failed startup probe"), KillReason::StartupProbe, restart))
    } else {
        None
    }
}

/// Plans the change of a running container's cgroup, or its restart where its resize policy wants one (upstream: `computePodResizeAction`).
fn resize(view: &View, plan: &mut Plan, container: &Container, seen: &Seen) {
    let Some(current) = view.actuated.get(&container.name) else { return };
    let numbers = |r: Option<&ResourceRequirements>| {
        let of = |list, name: &str| spec::amount(list, name);
        [
            ("memory", of(spec::limits(r), "memory").value(), of(spec::requests(r), "memory").value()),
            ("cpu", of(spec::limits(r), "cpu").millis(), of(spec::requests(r), "cpu").millis()),
        ]
    };
    let changed: Vec<&str> =
        numbers(container.resources.as_ref()).into_iter().zip(numbers(Some(current))).filter(|(want, have)| want != have).map(|(want, _)| want.0).collect();
    if changed.is_empty() {
        return;
    }
    let restarts = container.resize_policy.iter().flatten().any(|p| changed.contains(&p.resource_name.as_str()) && p.restart_policy == "RestartContainer");
    if restarts {
        plan.kill.push(kill(seen, format!("Container {} resize requires restart", container.name), KillReason::Other));
    } else {
        plan.resize.push(container.name.clone());
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
