//! Resizing a pod in place: what runs gets the cgroup limits that the pod has been allocated, and the pod's conditions tell how far
//! that is (upstream: `kuberuntime_manager.go:doPodResizeAction`, `status_manager.go:SetPodResizeInProgressCondition`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use knarr_core::{Value, json};
use knarr_runtime::cri::Resources;

use super::actor::{Actor, Done, RETRY};
use super::spec::{self, PodExt, amount, find_container, init_containers};
use super::{resources, status};
use crate::allocations::{Given, Pending};
use crate::context::Context;
use crate::events::Level;

/// How far the pod's resize is.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    pub pending: Option<Pending>,
    /// Allocated but not everywhere in force: the generation it belongs to, since when, and why it cannot be done now.
    pub running: Option<(i64, Timestamp, Option<String>)>,
    /// What is being set now.
    pub busy: bool,
    pub retry: Option<Timestamp>,
    /// What the pod's own cgroup was last set to.
    pub pod_cgroup: Option<Resources>,
}

impl Resize {
    /// `PodResizePending` and `PodResizeInProgress`.
    pub fn conditions(&self) -> Vec<PodCondition> {
        let make = |type_: &str, reason: Option<&str>, message: Option<&str>, generation: i64, at: Timestamp| PodCondition {
            type_: type_.into(),
            status: "True".into(),
            reason: reason.map(Into::into),
            message: message.map(Into::into),
            observed_generation: (generation != 0).then_some(generation),
            last_transition_time: Some(status::api_time(at)),
            ..Default::default()
        };
        let pending = self.pending.as_ref().map(|p| make("PodResizePending", Some("Deferred"), Some(&p.message), p.generation, p.since));
        let running = self
            .running
            .as_ref()
            .map(|(generation, at, error)| make("PodResizeInProgress", error.as_ref().map(|_| "Error"), error.as_deref(), *generation, *at));
        pending.into_iter().chain(running).collect()
    }
}

/// Everything that one resize sets, in an order in which no child is ever allowed more than its parent.
struct Work {
    pod_now: Option<Resources>,
    pod_then: Resources,
    /// Id, old and new limits, those that shrink first.
    containers: Vec<(String, String, Resources)>,
    shrinking_memory: Vec<(String, String, i64)>,
}

/// The looser of both limits: in force while children change.
fn widest(now: &Resources, then: &Resources) -> Resources {
    let quota = match (now.cpu_quota, then.cpu_quota) {
        (Some(a), Some(b)) if a > 0 && b > 0 => Some(a.max(b)),
        (None, None) => None,
        _ => Some(0),
    };
    let memory = match (now.memory_limit, then.memory_limit) {
        (Some(a), Some(b)) if a > 0 && b > 0 => Some(a.max(b)),
        _ => then.memory_limit.filter(|_| now.memory_limit.is_none()),
    };
    Resources { cpu_quota: quota, memory_limit: memory, ..then.clone() }
}

impl Work {
    async fn run(self, context: &Context, sandbox: &str) -> Result<(), String> {
        for (id, name, limit) in &self.shrinking_memory {
            let usage = context.runtime.container_stats(id).await.map_err(|e| format!("missing container \"{name}\" memory usage: {e}"))?;
            if i64::try_from(usage.memory_usage_bytes).unwrap_or(i64::MAX) >= *limit {
                return Err(format!(
                    "cannot decrease memory limits: attempting to set container \"{name}\" memory limit ({limit}) below current usage ({})",
                    usage.memory_usage_bytes
                ));
            }
        }
        if let Some(now) = &self.pod_now {
            context.runtime.update_sandbox_resources(sandbox, &widest(now, &self.pod_then)).await.map_err(|e| e.to_string())?;
        }
        for (id, name, limits) in &self.containers {
            context.runtime.update_container_resources(id, limits).await.map_err(|e| format!("container \"{name}\": {e}"))?;
        }
        context.runtime.update_sandbox_resources(sandbox, &self.pod_then).await.map_err(|e| e.to_string())
    }
}

fn memory_limit(resources: Option<&ResourceRequirements>) -> i64 {
    amount(spec::limits(resources), "memory").value()
}

impl Actor {
    /// Takes in what the pod has been allocated.
    pub(super) fn take_allocation(&mut self, given: Given) {
        let now = self.context.env.now();
        let resized = given.pod.generation() >= self.pod.generation() && !same_resources_in(&given.pod, &self.pod);
        let told = |p: &Pending| (p.message.clone(), p.generation);
        if let Some(pending) = given.pending.as_ref().filter(|p| self.resize.pending.as_ref().map(told) != Some(told(p))) {
            self.event(Level::Warning, "ResizeDeferred", &summary(&given.pod, pending.generation, Some(&pending.message), "Pod resize Deferred"));
        }
        self.resize.pending = given.pending;
        self.pod = given.pod;
        if resized {
            let generation = self.pod.generation();
            self.resize.running = Some((generation, now, None));
            self.resize.retry = None;
            self.event(Level::Normal, "ResizeStarted", &summary(&self.pod, generation, None, "Pod resize started"));
        }
    }

    /// Whether something that runs has not yet what it has been allocated (upstream: `IsPodResizeInProgress`).
    fn is_behind(&self) -> bool {
        let spec = self.pod.spec();
        let same = |a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>| {
            ["cpu", "memory"]
                .iter()
                .all(|n| amount(spec::requests(a), n) == amount(spec::requests(b), n) && amount(spec::limits(a), n) == amount(spec::limits(b), n))
        };
        let containers = init_containers(spec).iter().chain(&spec.containers);
        let behind = |c: &Container| self.observed.find(&c.name).is_some_and(|s| s.is_running()) && !same(self.actuated.get(&c.name), c.resources.as_ref());
        containers.into_iter().any(behind) || self.pod_is_behind()
    }

    fn pod_is_behind(&self) -> bool {
        self.resize.pod_cgroup.as_ref().is_some_and(|have| *have != resources::pod_cgroup(&self.pod))
    }

    /// Tells when a resize has come to its end.
    pub(super) fn check_resize(&mut self) {
        if self.resize.running.is_none() || self.is_behind() {
            return;
        }
        if let Some((generation, ..)) = self.resize.running.take() {
            self.event(Level::Normal, "ResizeCompleted", &summary(&self.pod, generation, None, "Pod resize completed"));
        }
    }

    /// Sets the cgroups of these running containers, and the pod's, to what the pod has been allocated.
    pub(super) fn resize(&mut self, names: &[String], now: Timestamp) {
        if (names.is_empty() && !self.pod_is_behind()) || self.resize.busy || self.resize.retry.is_some_and(|at| now < at) {
            return;
        }
        let Some(sandbox) = self.observed.active_sandbox().map(|s| s.id.clone()) else { return };
        let memory = i64::try_from(self.context.machine.memory).unwrap_or(i64::MAX);
        let mut work =
            Work { pod_now: self.resize.pod_cgroup.clone(), pod_then: resources::pod_cgroup(&self.pod), containers: Vec::new(), shrinking_memory: Vec::new() };
        let mut wanted = BTreeMap::new();
        for name in names {
            let Some((container, _)) = find_container(self.pod.spec(), name) else { continue };
            let Some(id) = self.observed.find(name).filter(|s| s.is_running()).map(|s| s.id.clone()) else { continue };
            let (old, new) = (memory_limit(self.actuated.get(name)), memory_limit(container.resources.as_ref()));
            if new != 0 && (old == 0 || new < old) {
                work.shrinking_memory.push((id.clone(), name.clone(), new));
            }
            work.containers.push((id, name.clone(), resources::container_cgroup(&self.pod, &container, memory)));
            wanted.insert(name.clone(), container.resources.unwrap_or_default());
        }
        self.resize.busy = true;
        let (context, done, pod_cgroup) = (self.context.clone(), self.done.clone(), work.pod_then.clone());
        tokio::spawn(async move {
            let result = work.run(&context, &sandbox).await;
            drop(done.send(Done::Resized(result.map(|()| (wanted, pod_cgroup)))));
        });
    }

    pub(super) async fn resized(&mut self, result: Result<(BTreeMap<String, ResourceRequirements>, Resources), String>, now: Timestamp) {
        self.resize.busy = false;
        match result {
            Ok((containers, pod_cgroup)) => {
                self.resize.pod_cgroup = Some(pod_cgroup);
                let ids: Vec<String> = containers.keys().filter_map(|name| self.observed.find(name).map(|s| s.id.clone())).collect();
                self.actuated.extend(containers);
                for id in ids {
                    self.look_at(&id).await;
                }
            }
            Err(error) => {
                tracing::warn!(pod = self.pod.described(), error, "cannot resize the pod now");
                let (generation, since) = self.resize.running.as_ref().map_or((self.pod.generation(), now), |(g, at, _)| (*g, *at));
                let told = self.resize.running.as_ref().and_then(|(.., told)| told.clone());
                if told.as_ref() != Some(&error) {
                    self.event(Level::Warning, "ResizeError", &summary(&self.pod, generation, Some(&error), "Pod resize error"));
                }
                let since = if told.is_some() { since } else { now };
                self.resize.running = Some((generation, since, Some(error)));
                self.resize.retry = Some(now + RETRY);
            }
        }
    }

    /// When a resize that failed is due again.
    pub(super) fn resize_due(&self) -> Option<Timestamp> {
        self.resize.retry.filter(|_| !self.resize.busy && self.resize.running.is_some())
    }
}

/// Whether both have the same resources allocated.
fn same_resources_in(a: &Arc<Pod>, b: &Arc<Pod>) -> bool {
    use crate::allocations::same_resources;
    let (a, b) = (a.spec(), b.spec());
    let pairs = |s: &k8s_openapi::api::core::v1::PodSpec| -> BTreeMap<String, Option<ResourceRequirements>> {
        init_containers(s).iter().chain(&s.containers).map(|c| (c.name.clone(), c.resources.clone())).collect()
    };
    let other = pairs(b);
    same_resources(a.resources.as_ref(), b.resources.as_ref())
        && pairs(a).iter().all(|(name, r)| other.get(name).is_none_or(|o| same_resources(r.as_ref(), o.as_ref())))
}

/// The message of a resize event: the resources in question as JSON (upstream: `podResizeMessage`).
fn summary(pod: &Pod, generation: i64, error: Option<&str>, prefix: &str) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        containers.iter().map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()})).collect()
    };
    let spec = pod.spec();
    let mut text = String::from("{");
    let mut put = |key: &str, value: Value| {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&format!("\"{key}\":{value}"));
    };
    for (key, containers) in [("initContainers", init_containers(spec)), ("containers", spec.containers.as_slice())] {
        if !containers.is_empty() {
            put(key, Value::Array(list(containers)));
        }
    }
    put("generation", json!(generation));
    if let Some(error) = error {
        put("error", json!(error));
    }
    format!("{prefix}: {text}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;

    #[test]
    fn a_parent_is_widened_before_its_children_and_narrowed_after_them() {
        let of = |quota, memory| Resources { cpu_quota: quota, memory_limit: memory, ..Default::default() };
        assert_eq!(widest(&of(Some(10), Some(5)), &of(Some(20), Some(3))), of(Some(20), Some(5)));
        assert_eq!(widest(&of(Some(0), None), &of(Some(20), Some(3))), of(Some(0), Some(3)));
    }

    #[test]
    fn events_tell_the_resources_in_question() {
        let pod = pod_of(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(
            summary(&pod, 2, Some("no room"), "Pod resize Deferred"),
            "Pod resize Deferred: {\"containers\":[{\"name\":\"a\",\"resources\":{\"requests\":{\"cpu\":\"1\"}}}],\"generation\":2,\"error\":\"no room\"}"
        );
    }
}
