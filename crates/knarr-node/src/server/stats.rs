//! What pods and the node use: read from the runtime and `/proc` when somebody asks, not before (upstream: `pkg/kubelet/server/stats`,
//! `pkg/kubelet/stats`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use knarr_core::{Value, json, time};
use knarr_runtime::cri::ContainerStats;
use parking_lot::Mutex;

use crate::agent::Pods;
use crate::context::Context;
use crate::machine::{disk_usage, meminfo};
use crate::pod::actor::PodView;
use crate::pod::spec::PodExt;

/// A running container and its numbers.
#[derive(Clone, Debug)]
pub struct ContainerUse {
    pub name: String,
    pub image: String,
    pub id: String,
    pub started_at: Timestamp,
    pub stats: ContainerStats,
    /// Thousand-millionths of a processor, over the time since somebody asked last.
    pub nano_cores: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct PodUse {
    pub view: Arc<PodView>,
    pub containers: Vec<ContainerUse>,
    pub network: Vec<Interface>,
}

/// Counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received_bytes: u64,
    pub received_packets: u64,
    pub received_errors: u64,
    pub received_dropped: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    pub sent_errors: u64,
    pub sent_dropped: u64,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Use {
    pub at: Timestamp,
    pub node_cpu_nanos: u64,
    pub node_working_set: u64,
    pub pods: Vec<PodUse>,
    /// Some containers did not tell.
    pub incomplete: bool,
}

/// Remembers the last numbers of each container, so that a rate can be told.
#[derive(Default)]
pub struct Stats(Mutex<BTreeMap<String, (Timestamp, u64)>>);

impl Stats {
    /// Asks every running container.
    pub async fn collect(&self, context: &Context, pods: &Pods) -> Use {
        let views: Vec<Arc<PodView>> = pods.all().into_iter().map(|h| h.view.borrow().clone()).collect();
        let asked = futures::future::join_all(views.into_iter().map(|view| self.pod(context, view))).await;
        let incomplete = asked.iter().any(|(_, incomplete)| *incomplete);
        let pods: Vec<PodUse> = asked.into_iter().map(|(pod, _)| pod).filter(|p| !p.containers.is_empty()).collect();
        self.0.lock().retain(|id, _| pods.iter().any(|p| p.containers.iter().any(|c| c.id == *id)));
        Use { at: context.env.now(), node_cpu_nanos: node_cpu_nanos(), node_working_set: node_working_set(), pods, incomplete }
    }

    async fn pod(&self, context: &Context, view: Arc<PodView>) -> (PodUse, bool) {
        let mut incomplete = false;
        let mut containers = Vec::new();
        for seen in view.observed.running() {
            match context.runtime.container_stats(&seen.id).await {
                Ok(stats) => containers.push(ContainerUse {
                    name: seen.name.clone(),
                    image: seen.image.clone(),
                    id: seen.id.clone(),
                    started_at: seen.started_at.unwrap_or(seen.created_at),
                    nano_cores: self.rate(&seen.id, stats.at, stats.cpu_usage_nanos),
                    stats,
                }),
                Err(error) => {
                    tracing::debug!(container = seen.name, %error, "a container does not tell its numbers");
                    incomplete = true;
                }
            }
        }
        let network = match containers.first() {
            Some(first) if !view.pod.host_network() => network_of(context, &first.id).await,
            _ => Vec::new(),
        };
        (PodUse { view, containers, network }, incomplete)
    }

    fn rate(&self, id: &str, at: Timestamp, nanos: u64) -> Option<u64> {
        let mut last = self.0.lock();
        let (since, before) = last.insert(id.to_owned(), (at, nanos))?;
        let elapsed = u128::try_from(at.duration_since(since).as_nanos()).ok().filter(|e| *e > 0)?;
        u64::try_from(u128::from(nanos.checked_sub(before)?) * 1_000_000_000 / elapsed).ok()
    }

    /// `/stats/summary`.
    pub async fn summary(&self, context: &Context, pods: &Pods, only_cpu_and_memory: bool) -> Value {
        let all = self.collect(context, pods).await;
        let at = time::format(all.at);
        let mut node = json!({
            "nodeName": context.config.node_name,
            "startTime": time::format(context.started),
            "cpu": {"time": at, "usageCoreNanoSeconds": all.node_cpu_nanos},
            "memory": {"time": at, "availableBytes": context.machine.memory.saturating_sub(all.node_working_set), "usageBytes": node_usage(), "workingSetBytes": all.node_working_set},
        });
        if !only_cpu_and_memory {
            node["fs"] = file_system(&context.config.root_dir, &at);
            let image_fs = context.runtime.image_fs().await;
            if let Ok((path, used, _)) = image_fs {
                let mut fs = file_system(&path, &at);
                fs["usedBytes"] = json!(used);
                node["runtime"] = json!({"imageFs": fs.clone(), "containerFs": fs});
            }
            node["rlimit"] = json!({"time": at, "maxpid": number("/proc/sys/kernel/pid_max"), "curproc": processes()});
        }
        let pods: Vec<Value> = all.pods.iter().map(|p| pod_summary(p, &at, only_cpu_and_memory, &context.config.root_dir)).collect();
        json!({"node": node, "pods": pods})
    }
}

fn pod_summary(used: &PodUse, at: &str, only_cpu_and_memory: bool, root: &Path) -> Value {
    let pod = &used.view.pod;
    let sum = |of: fn(&ContainerStats) -> u64| used.containers.iter().map(|c| of(&c.stats)).sum::<u64>();
    let nano_cores: Option<u64> = used.containers.iter().map(|c| c.nano_cores).sum();
    let containers: Vec<Value> = used
        .containers
        .iter()
        .map(|c| {
            let mut one = json!({"name": c.name, "startTime": time::format(c.started_at), "cpu": cpu(at, c.stats.cpu_usage_nanos, c.nano_cores),
                "memory": memory(at, c.stats.memory_usage_bytes, c.stats.memory_working_set_bytes, c.stats.memory_rss_bytes)});
            if !only_cpu_and_memory {
                let mut fs = file_system(root, at);
                fs["usedBytes"] = json!(c.stats.writable_layer_bytes);
                one["rootfs"] = fs;
            }
            one
        })
        .collect();
    let mut all = json!({
        "podRef": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
        "startTime": used.view.status.start_time.as_ref().map(|t| time::format(t.0)),
        "containers": containers,
        "cpu": cpu(at, sum(|s| s.cpu_usage_nanos), nano_cores),
        "memory": memory(at, sum(|s| s.memory_usage_bytes), sum(|s| s.memory_working_set_bytes), sum(|s| s.memory_rss_bytes)),
    });
    if !only_cpu_and_memory {
        all["process_stats"] = json!({"process_count": sum(|s| s.process_count)});
        let mut storage = file_system(root, at);
        storage["usedBytes"] = json!(sum(|s| s.writable_layer_bytes));
        all["ephemeral-storage"] = storage;
        if let Some(main) = used.network.first() {
            let of = |i: &Interface| json!({"name": i.name, "rxBytes": i.received_bytes, "rxErrors": i.received_errors, "txBytes": i.sent_bytes, "txErrors": i.sent_errors});
            let mut network = of(main);
            network["time"] = json!(at);
            network["interfaces"] = used.network.iter().map(of).collect();
            all["network"] = network;
        }
    }
    all
}

fn cpu(at: &str, nanos: u64, nano_cores: Option<u64>) -> Value {
    let mut all = json!({"time": at, "usageCoreNanoSeconds": nanos});
    if let Some(rate) = nano_cores {
        all["usageNanoCores"] = json!(rate);
    }
    all
}

fn memory(at: &str, usage: u64, working_set: u64, rss: u64) -> Value {
    json!({"time": at, "usageBytes": usage, "workingSetBytes": working_set, "rssBytes": rss})
}

fn file_system(path: &Path, at: &str) -> Value {
    let d = disk_usage(path).unwrap_or_default();
    json!({"time": at, "availableBytes": d.available, "capacityBytes": d.capacity, "usedBytes": d.used,
        "inodesFree": d.inodes_free, "inodes": d.inodes, "inodesUsed": d.inodes - d.inodes_free})
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn processes() -> Option<u64> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Time that all processors have worked, in nanoseconds.
fn node_cpu_nanos() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal: all but idle and waiting.
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum();
    ticks * 10_000_000
}

fn node_usage() -> u64 {
    meminfo("MemTotal").unwrap_or_default().saturating_sub(meminfo("MemFree").unwrap_or_default())
}

/// Used memory that cannot be taken back at once.
pub fn node_working_set() -> u64 {
    node_usage().saturating_sub(meminfo("Inactive(file)").unwrap_or_default())
}

/// The interfaces of the network namespace that a container's process is in.
async fn network_of(context: &Context, id: &str) -> Vec<Interface> {
    let pid = context.runtime.container_status(id).await.ok().and_then(|s| s.pid);
    pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()).map(|text| interfaces(&text)).unwrap_or_default()
}

/// Reads `/proc/net/dev`; `lo` is left out.
fn interfaces(text: &str) -> Vec<Interface> {
    let of = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let n: Vec<u64> = numbers.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let name = name.trim();
        (name != "lo" && n.len() >= 12).then(|| Interface {
            name: name.into(),
            received_bytes: n[0],
            received_packets: n[1],
            received_errors: n[2],
            received_dropped: n[3],
            sent_bytes: n[8],
            sent_packets: n[9],
            sent_errors: n[10],
            sent_dropped: n[11],
        })
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo:       1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0\n";
        let all = interfaces(text);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].name.as_str(), all[0].received_bytes, all[0].sent_bytes, all[0].sent_dropped), ("eth0", 1000, 2000, 4));
    }

    #[test]
    fn this_machine_has_worked() {
        assert!(node_cpu_nanos() > 0 && node_working_set() > 0);
    }
}
