//! Ends pods before the node as a whole suffers: when memory, disk or process ids run short, and when a pod uses more local storage
//! than it may (upstream: `pkg/kubelet/eviction`). Observing is here, deciding in [`decide`].

mod decide;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use knarr_core::quantity::Quantity;
use tokio::time::MissedTickBehavior;

use crate::agent::Pods;
use crate::container::config::pod_log_dir;
use crate::context::Context;
use crate::events::{Level, node_reference};
use crate::machine::disk_usage;
use crate::node::Pressure;
use crate::pod::actor::{Handle, Message, PodView};
use crate::pod::resources::pod_limits;
use crate::pod::spec::{PodExt, amount, init_containers, limits};
use crate::server::stats::{Stats, node_working_set};
use crate::volumes::pod_dir;
use decide::{Observation, Usage};
pub use decide::{Signal, Threshold, thresholds};

/// How often the node is looked at (upstream: `monitoringInterval`).
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a pressure is told after it was seen last (upstream: `evictionPressureTransitionPeriod`).
const TRANSITION: SignedDuration = SignedDuration::from_secs(300);
/// Grace of a pod that is evicted by a hard threshold.
const GRACE: Duration = Duration::from_secs(1);

/// Looks after the node until the task is dropped.
pub async fn run(context: Arc<Context>, pods: Arc<Pods>) {
    let mut manager = Manager { thresholds: thresholds(&context.config.eviction_hard), stats: Stats::default(), seen: [None; 3], context, pods };
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        manager.look().await;
    }
}

struct Manager {
    context: Arc<Context>,
    pods: Arc<Pods>,
    thresholds: Vec<Threshold>,
    stats: Stats,
    /// When memory, disk and process ids were seen to be short last.
    seen: [Option<Timestamp>; 3],
}

impl Manager {
    async fn look(&mut self) {
        let observations = self.observe().await;
        let met: Vec<&Threshold> = self.thresholds.iter().filter(|t| observations.iter().any(|o| t.is_met(o))).collect();
        let now = self.context.env.now();
        for threshold in &met {
            self.seen[threshold.signal.condition()] = Some(now);
        }
        let recent = |i: usize| self.seen[i].is_some_and(|at| now.duration_since(at) < TRANSITION);
        self.context.node.set_pressure(Pressure { memory: recent(0), disk: recent(1), pid: recent(2) });
        if self.evict_overusers().await {
            return;
        }
        let Some(threshold) = met.into_iter().min_by_key(|t| t.signal).cloned() else { return };
        self.reclaim(&threshold, &observations).await;
    }

    /// What there is of each signal that has a threshold.
    async fn observe(&self) -> Vec<Observation> {
        let mut all = Vec::new();
        let memory = self.context.machine.memory;
        all.push(Observation { signal: Signal::Memory, available: memory.saturating_sub(node_working_set()), capacity: memory });
        let mut disk = |path: &Path, bytes: Signal, inodes: Signal| {
            let Some(d) = disk_usage(path) else { return };
            all.push(Observation { signal: bytes, available: d.available, capacity: d.capacity });
            // Some file systems do not count inodes.
            if d.inodes > 0 {
                all.push(Observation { signal: inodes, available: d.inodes_free, capacity: d.inodes });
            }
        };
        disk(&self.context.config.root_dir, Signal::NodeFs, Signal::NodeFsInodes);
        if let Ok((path, ..)) = self.context.runtime.image_fs().await {
            disk(&path, Signal::ImageFs, Signal::ImageFsInodes);
        }
        if let Some((running, most)) = process_ids() {
            all.push(Observation { signal: Signal::Pid, available: most.saturating_sub(running), capacity: most });
        }
        all
    }

    fn active(&self) -> Vec<(Handle, Arc<PodView>)> {
        let views = self.pods.all().into_iter().map(|h| (h.clone(), h.view.borrow().clone()));
        views.filter(|(_, v)| !v.over && !v.pod.is_deleting() && !matches!(v.status.phase.as_deref(), Some("Succeeded" | "Failed"))).collect()
    }

    /// Frees what the node can free, or else ends one pod.
    async fn reclaim(&self, threshold: &Threshold, observations: &[Observation]) {
        let resource = threshold.signal.resource();
        let about = node_reference(&self.context.config.node_name, None);
        self.context.events.record(about, Level::Warning, "EvictionThresholdMet", &format!("Attempting to reclaim {resource}"));
        if threshold.signal.is_disk() {
            crate::images::collect::unused(&self.context).await;
            let again = self.observe().await;
            if !again.iter().any(|o| threshold.is_met(o)) {
                return;
            }
        }
        let active = self.active();
        let used = self.stats.collect(&self.context, &self.pods).await;
        let mut candidates = Vec::new();
        for (handle, view) in active {
            let containers = used.pods.iter().find(|p| p.view.pod.uid() == view.pod.uid()).map(|p| p.containers.as_slice()).unwrap_or_default();
            let mut usage = Usage {
                memory: containers.iter().map(|c| c.stats.memory_working_set_bytes).sum(),
                processes: containers.iter().map(|c| c.stats.process_count).sum(),
                disk: 0,
            };
            if threshold.signal.is_disk() {
                usage.disk = containers.iter().map(|c| c.stats.writable_layer_bytes).sum::<u64>() + self.local_storage(view.pod.clone()).await;
            }
            candidates.push((view.pod.clone(), usage, handle));
        }
        candidates.sort_by_cached_key(|(pod, usage, _)| decide::rank(pod, usage, threshold.signal));
        let Some((pod, usage, handle)) = candidates.into_iter().find(|(pod, ..)| !crate::admission::is_critical(pod)) else {
            return tracing::warn!(resource, "the node runs short, but no pod can be evicted");
        };
        let observation = observations.iter().find(|o| threshold.is_met(o));
        self.evict(&handle, &pod, decide::message(threshold, observation, &pod, &usage), true);
    }

    fn evict(&self, handle: &Handle, pod: &Pod, message: String, disrupts: bool) {
        tracing::warn!(pod = pod.described(), message, "evicting a pod");
        self.context.events.record(crate::events::pod_reference(pod), Level::Warning, "Evicted", &message);
        drop(handle.messages.send(Message::Evict { reason: "Evicted".into(), message, grace: GRACE, disrupts }));
    }

    /// Bytes that a pod has in volumes of the node's disk and in logs.
    async fn local_storage(&self, pod: Arc<Pod>) -> u64 {
        let context = self.context.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let logs = tree_size(&pod_log_dir(&context, &pod));
            disk_volumes(&context, &pod).iter().map(|(_, size)| size).sum::<u64>() + logs
        });
        measured.await.unwrap_or_default()
    }

    /// Ends pods that use more local storage than they may. Gives whether there were any.
    async fn evict_overusers(&self) -> bool {
        let mut found = false;
        for (handle, view) in self.active() {
            if !is_limited(&view.pod) || crate::admission::is_critical(&view.pod) {
                continue;
            }
            if let Some(message) = self.overuse(&view).await {
                self.evict(&handle, &view.pod, message, false);
                found = true;
            }
        }
        found
    }

    async fn overuse(&self, view: &PodView) -> Option<String> {
        let pod = &view.pod;
        let (context, for_volumes) = (self.context.clone(), pod.clone());
        let measured = tokio::task::spawn_blocking(move || {
            let spec = for_volumes.spec();
            let logs_of = |name: &str| tree_size(&pod_log_dir(&context, &for_volumes).join(name));
            let names = init_containers(spec).iter().chain(&spec.containers).map(|c| c.name.clone());
            (disk_volumes(&context, &for_volumes), names.map(|n| (n.clone(), logs_of(&n))).collect::<Vec<_>>())
        });
        let (volumes, logs) = measured.await.ok()?;
        for volume in pod.spec().volumes.iter().flatten() {
            let Some(limit) = volume.empty_dir.as_ref().filter(|e| e.medium.as_deref() != Some("Memory")).and_then(|e| e.size_limit.as_ref()) else { continue };
            let most = limit.0.parse::<Quantity>().map_or(0, |q| q.value());
            let used = volumes.iter().find(|(name, _)| *name == volume.name).map_or(0, |(_, size)| *size);
            if most > 0 && i64::try_from(used).is_ok_and(|used| used > most) {
                return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
            }
        }
        let mut total: u64 = volumes.iter().map(|(_, size)| size).sum::<u64>() + logs.iter().map(|(_, size)| size).sum::<u64>();
        let mut over = None;
        for seen in view.observed.running() {
            let layer = self.context.runtime.container_stats(&seen.id).await.map_or(0, |s| s.writable_layer_bytes);
            total += layer;
            let Some((container, _)) = crate::pod::spec::find_container(pod.spec(), &seen.name) else { continue };
            let limit = amount(limits(container.resources.as_ref()), "ephemeral-storage");
            let used = layer + logs.iter().find(|(name, _)| *name == seen.name).map_or(0, |(_, size)| *size);
            if !limit.is_zero() && i64::try_from(used).is_ok_and(|used| used > limit.value()) {
                over = over.or(Some(format!("Container {} exceeded its local ephemeral storage limit \"{limit}\". ", seen.name)));
            }
        }
        let of_pod = pod_limits(pod.spec());
        let most = amount(Some(&of_pod), "ephemeral-storage");
        if !most.is_zero() && i64::try_from(total).is_ok_and(|used| used > most.value()) {
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {most}. "));
        }
        over
    }
}

/// Whether a pod has a limit of local storage that nobody but us enforces.
fn is_limited(pod: &Pod) -> bool {
    let spec = pod.spec();
    pod_limits(spec).contains_key("ephemeral-storage")
        || spec.volumes.iter().flatten().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some() && e.medium.as_deref() != Some("Memory")))
}

/// The pod's volumes on the node's own disk, and their bytes.
fn disk_volumes(context: &Context, pod: &Pod) -> Vec<(String, u64)> {
    let root = pod_dir(&context.config.root_dir, pod.uid()).join("volumes");
    let of = |v: &k8s_openapi::api::core::v1::Volume| {
        let on_disk = v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().is_none_or(str::is_empty));
        let plugin = if on_disk {
            "kubernetes.io~empty-dir"
        } else if v.config_map.is_some() {
            "kubernetes.io~configmap"
        } else if v.downward_api.is_some() {
            "kubernetes.io~downward-api"
        } else {
            return None;
        };
        Some((v.name.clone(), tree_size(&root.join(plugin).join(&v.name))))
    };
    pod.spec().volumes.iter().flatten().filter_map(of).collect()
}

/// Bytes on disk of a folder and all in it. Links are not followed; what vanishes meanwhile counts nothing.
fn tree_size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

/// Processes that run, and how many may.
fn process_ids() -> Option<(u64, u64)> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let running = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    Some((running, number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max").unwrap_or(u64::MAX))))
}
