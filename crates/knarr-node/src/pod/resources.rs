//! Requests and limits as the kernel counts them (upstream: `cm/helpers_linux.go`, `qos/policy.go`,
//! `component-helpers/resource`).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use knarr_core::quantity::Quantity;
use knarr_runtime::cri::Resources;

use super::spec::{self, PodExt, Qos, ResourceList, amount};

/// The least `cpu.shares` that the kernel takes.
pub const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
/// Microseconds over which a quota counts.
pub const QUOTA_PERIOD: u64 = 100_000;
const MIN_QUOTA: i64 = 1000;
/// The least CPU limit that a quota can say, in thousandths.
pub const MIN_MILLI_CPU_LIMIT: i64 = 10;

const GUARANTEED_OOM_SCORE_ADJ: i32 = -997;
const BEST_EFFORT_OOM_SCORE_ADJ: i32 = 1000;

pub fn milli_cpu_to_shares(milli: i64) -> u64 {
    if milli <= 0 { MIN_SHARES } else { u64::try_from(milli * SHARES_PER_CPU / 1000).unwrap_or(MIN_SHARES).clamp(MIN_SHARES, MAX_SHARES) }
}

/// Upstream: `sharesToMilliCPU`.
pub fn shares_to_milli_cpu(shares: u64) -> i64 {
    let shares = i64::try_from(shares).unwrap_or(i64::MAX / 1000);
    (shares * 1000 + SHARES_PER_CPU - 1) / SHARES_PER_CPU
}

/// Microseconds of every period; zero means no limit.
pub fn milli_cpu_to_quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * QUOTA_PERIOD as i64 / 1000).max(MIN_QUOTA) }
}

pub fn quota_to_milli_cpu(quota: i64, period: u64) -> i64 {
    if period == 0 { 0 } else { quota * 1000 / i64::try_from(period).unwrap_or(i64::MAX) }
}

/// Adds lists up by name.
fn add(to: &mut ResourceList, from: Option<&ResourceList>) {
    for (name, quantity) in from.into_iter().flatten() {
        let Ok(more) = quantity.0.parse::<Quantity>() else { continue };
        let sum = to.get(name).map_or(more, |_| amount(Some(to), name) + more);
        let text = if to.contains_key(name) { sum.to_string() } else { quantity.0.clone() };
        to.insert(name.clone(), ApiQuantity(text));
    }
}

/// Keeps the greater of each.
fn max(to: &mut ResourceList, from: &ResourceList) {
    for (name, quantity) in from {
        if !to.contains_key(name) || amount(Some(to), name) < amount(Some(from), name) {
            to.insert(name.clone(), quantity.clone());
        }
    }
}

fn aggregate(spec: &PodSpec, of: impl Fn(&Container) -> Option<&ResourceList>) -> ResourceList {
    let mut total = ResourceList::new();
    spec.containers.iter().for_each(|c| add(&mut total, of(c)));
    let (mut sidecars, mut init_peak) = (ResourceList::new(), ResourceList::new());
    for c in spec::init_containers(spec) {
        let mut here = sidecars.clone();
        add(&mut here, of(c));
        if spec::is_restartable_init(c) {
            add(&mut total, of(c));
            sidecars.clone_from(&here);
        }
        max(&mut init_peak, &here);
    }
    max(&mut total, &init_peak);
    total
}

/// Names that may be set for the whole pod.
fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn pod_level(total: &mut ResourceList, list: Option<&ResourceList>) {
    for (name, quantity) in list.into_iter().flatten().filter(|(name, _)| is_pod_level(name)) {
        total.insert(name.clone(), quantity.clone());
    }
}

/// What a pod asks for as a whole, overhead included (upstream: `PodRequests`).
pub fn pod_requests(spec: &PodSpec) -> ResourceList {
    let mut total = aggregate(spec, |c| spec::requests(c.resources.as_ref()));
    pod_level(&mut total, spec::requests(spec.resources.as_ref()));
    add(&mut total, spec.overhead.as_ref());
    total
}

/// The limits of a pod as a whole (upstream: `PodLimits`). Overhead counts only where there is a limit.
pub fn pod_limits(spec: &PodSpec) -> ResourceList {
    let mut total = aggregate(spec, |c| spec::limits(c.resources.as_ref()));
    pod_level(&mut total, spec::limits(spec.resources.as_ref()));
    let limited: ResourceList = spec.overhead.iter().flatten().filter(|(name, _)| total.contains_key(*name)).map(|(n, q)| (n.clone(), q.clone())).collect();
    add(&mut total, Some(&limited));
    total
}

/// The pod's cgroup (upstream: `ResourceConfigForPod`).
pub fn pod_cgroup(pod: &Pod) -> Resources {
    let spec = pod.spec();
    let (requests, limits) = (pod_requests(spec), pod_limits(spec));
    let declared = |name: &str| {
        !amount(spec::limits(spec.resources.as_ref()), name).is_zero()
            || spec::init_containers(spec).iter().chain(&spec.containers).all(|c| !amount(spec::limits(c.resources.as_ref()), name).is_zero())
    };
    let quota = milli_cpu_to_quota(amount(Some(&limits), "cpu").millis());
    let memory = amount(Some(&limits), "memory").value();
    let qos = Qos::of(pod);
    let mut all = Resources { cpu_shares: Some(MIN_SHARES), hugepages: hugepages(&requests), ..Default::default() };
    if qos != Qos::BestEffort {
        all.cpu_shares = Some(milli_cpu_to_shares(amount(Some(&requests), "cpu").millis()));
        if qos == Qos::Guaranteed || declared("cpu") {
            (all.cpu_quota, all.cpu_period) = (Some(quota), Some(QUOTA_PERIOD));
        }
        if qos == Qos::Guaranteed || declared("memory") {
            all.memory_limit = Some(memory);
        }
    }
    all
}

/// A container's cgroup (upstream: `generateLinuxContainerResources`). `memory_capacity` is the node's, in bytes.
pub fn container_cgroup(pod: &Pod, container: &Container, memory_capacity: i64) -> Resources {
    let spec = pod.spec();
    let own = container.resources.as_ref();
    let limit = |name: &str| {
        let of_container = amount(spec::limits(own), name);
        if of_container.is_zero() { amount(spec::limits(spec.resources.as_ref()), name) } else { of_container }
    };
    let request = spec::requests(own).filter(|r| r.contains_key("cpu")).map_or_else(|| limit("cpu"), |r| amount(Some(r), "cpu"));
    let memory = limit("memory").value();
    let mut pages = hugepages(spec::limits(spec.resources.as_ref()).unwrap_or(&ResourceList::new()));
    pages.extend(hugepages(spec::limits(own).unwrap_or(&ResourceList::new())));
    Resources {
        cpu_shares: Some(milli_cpu_to_shares(request.millis())),
        cpu_quota: Some(milli_cpu_to_quota(limit("cpu").millis())),
        cpu_period: Some(QUOTA_PERIOD),
        memory_limit: (memory != 0).then_some(memory),
        pids_limit: None,
        oom_score_adj: Some(oom_score_adj(pod, container, memory_capacity)),
        hugepages: pages,
    }
}

/// Page size as cgroup files name it (`2MB`) to bytes.
fn hugepages(list: &ResourceList) -> std::collections::BTreeMap<String, u64> {
    let pages = list.keys().filter_map(|name| Some((name, name.strip_prefix("hugepages-")?.parse::<Quantity>().ok()?.value())));
    pages.map(|(name, size)| (page_size_name(size), u64::try_from(amount(Some(list), name).value()).unwrap_or_default())).collect()
}

fn page_size_name(bytes: i64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{}GB", b >> 30),
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}MB", b >> 20),
        b => format!("{}KB", b >> 10),
    }
}

/// Upstream: `GetContainerOOMScoreAdjust`.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    let spec = pod.spec();
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return GUARANTEED_OOM_SCORE_ADJ;
    }
    match Qos::of(pod) {
        Qos::Guaranteed => return GUARANTEED_OOM_SCORE_ADJ,
        Qos::BestEffort => return BEST_EFFORT_OOM_SCORE_ADJ,
        Qos::Burstable => {}
    }
    let memory = |c: &Container| amount(spec::requests(c.resources.as_ref()), "memory").value();
    let remaining = remaining_memory_per_container(spec);
    let capacity = memory_capacity.max(1);
    let score = |request: i64| 1000 - 1000i64.saturating_mul(request) / capacity;
    let mut adjust = score(memory(container) + remaining);
    let sidecar = spec::is_restartable_init(container) && spec::init_containers(spec).iter().any(|c| c.name == container.name);
    if sidecar {
        let least = spec.containers.iter().map(memory).min().unwrap_or_default();
        adjust = adjust.min(score(least + remaining));
    }
    let lowest = i64::from(1000 + GUARANTEED_OOM_SCORE_ADJ);
    let adjust = if adjust < lowest { lowest } else { adjust };
    i32::try_from(if adjust >= 1000 { 999 } else { adjust }).unwrap_or(999)
}

/// The share of a pod-level memory request that its containers have not claimed.
fn remaining_memory_per_container(spec: &PodSpec) -> i64 {
    let pod = amount(spec::requests(spec.resources.as_ref()), "memory").value();
    if pod == 0 {
        return 0;
    }
    let claimed = amount(Some(&aggregate(spec, |c| spec::requests(c.resources.as_ref()))), "memory").value();
    let count = spec.containers.len() + spec::init_containers(spec).iter().filter(|c| spec::is_restartable_init(c)).count();
    (pod - claimed).max(0) / i64::try_from(count.max(1)).unwrap_or(1)
}

/// The pod's cgroup under every controller: `kubepods[/CLASS]/podUID`.
pub fn cgroup_parent(pod: &Pod) -> String {
    match Qos::of(pod) {
        Qos::Guaranteed => format!("kubepods/pod{}", pod.uid()),
        Qos::Burstable => format!("kubepods/burstable/pod{}", pod.uid()),
        Qos::BestEffort => format!("kubepods/besteffort/pod{}", pod.uid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    #[test]
    fn shares_and_quotas_are_the_kernels() {
        assert_eq!([0, 1, 100, 1000, 4000].map(milli_cpu_to_shares), [2, 2, 102, 1024, 4096]);
        assert_eq!([0, 1, 100, 1500].map(milli_cpu_to_quota), [0, 1000, 10_000, 150_000]);
        assert_eq!(shares_to_milli_cpu(milli_cpu_to_shares(100)), 100);
    }

    #[test]
    fn init_containers_count_as_the_greater_and_sidecars_are_added() {
        let pod = pod_of(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "100Mi"}}}],
            "overhead": {"cpu": "50m"}}));
        let sum = pod_requests(pod.spec());
        assert_eq!((sum["cpu"].0.as_str(), sum["memory"].0.as_str()), ("2150m", "1Gi"));
    }

    #[test]
    fn a_burstable_pod_is_limited_only_when_all_its_containers_are() {
        let pod = |second: knarr_core::Value| {
            pod_of(json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b", "resources": second}]}))
        };
        assert_eq!(pod_cgroup(&pod(json!({}))).memory_limit, None);
        assert_eq!(pod_cgroup(&pod(json!({"limits": {"memory": "1Mi"}}))).memory_limit, Some(2 << 20));
    }

    #[test]
    fn the_more_memory_is_asked_for_the_later_a_container_is_killed() {
        let pod = pod_of(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}, {"name": "b"}]}));
        let adj = |i: usize| oom_score_adj(&pod, &pod.spec().containers[i], 10 << 30);
        assert_eq!((adj(0), adj(1)), (900, 999));
    }
}
