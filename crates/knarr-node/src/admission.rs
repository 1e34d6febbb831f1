//! Whether a pod can be run here at all: pressure, kernel parameters, operating system, room, node affinity, ports, taints.
//! Pure (upstream: `pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl`, the eviction manager's `Admit`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Taint, Toleration};
use knarr_client::node_affinity;

use crate::node::Pressure;
use crate::pod::resources::pod_requests;
use crate::pod::spec::{self, PodExt, Qos, ResourceList, amount, init_containers};

/// Kernel parameters that harm nobody else, and the kernel from which each belongs to the network namespace (upstream: `safeSysctls`).
const SAFE_SYSCTLS: [(&str, (u32, u32)); 14] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
    ("net.ipv4.tcp_slow_start_after_idle", (4, 15)),
    ("net.ipv4.tcp_notsent_lowat", (4, 6)),
];
/// Prefixes of kernel parameters that belong to a namespace of a pod's.
const IPC_SYSCTLS: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
/// A pod of this priority or a higher one is critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// Where a pod comes from: `api` unless it says `file`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// On the API's copy of a pod that comes from a file.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Why a pod is refused: it fails with this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    fn predicate(name: &str, why: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"))
    }

    /// Whether a look at the newest labels and taints of the node might change the verdict.
    pub fn is_about_the_object(&self) -> bool {
        matches!(self.reason.as_str(), "NodeAffinity" | "TaintToleration")
    }
}

/// The node as admission sees it.
pub struct NodeFacts<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub taints: &'a [Taint],
    pub allocatable: &'a ResourceList,
    pub pressure: &'a Pressure,
    /// `6.1.0-…`
    pub kernel: &'a str,
    /// Kernel parameters that the operator allows besides the safe ones; a trailing `*` is a prefix.
    pub allowed_sysctls: &'a [String],
}

/// Whether a pod comes from a file of the node's and not from the API.
pub fn is_static(pod: &Pod) -> bool {
    pod.annotation(SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// Upstream: `IsCriticalPod`.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || pod.annotation(MIRROR_ANNOTATION).is_some() || pod.spec().priority.is_some_and(|p| p >= CRITICAL_PRIORITY)
}

/// Why `pod` cannot run on a node where `others` do.
pub fn check<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod> + Clone, node: &NodeFacts<'_>) -> Option<Refusal> {
    pressed(pod, node.pressure)
        .or_else(|| forbidden_sysctl(pod, node))
        .or_else(|| wrong_system(pod))
        .or_else(|| no_room(pod, others.clone(), node))
        .or_else(|| unwanted_here(pod, node))
        .or_else(|| port_taken(pod, others))
        .or_else(|| tainted(pod, node.taints))
}

/// Whether changed requests have room. They wait where they have none.
pub fn check_resize<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod> + Clone, node: &NodeFacts<'_>) -> Option<Refusal> {
    no_room(pod, others, node)
}

fn pressed(pod: &Pod, pressure: &Pressure) -> Option<Refusal> {
    let conditions: Vec<&str> = [("MemoryPressure", pressure.memory), ("DiskPressure", pressure.disk), ("PIDPressure", pressure.pid)]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect();
    if conditions.is_empty() || is_critical(pod) {
        return None;
    }
    if conditions == ["MemoryPressure"] {
        let taint = Taint { key: "node.kubernetes.io/memory-pressure".into(), effect: "NoSchedule".into(), ..Default::default() };
        if Qos::of(pod) != Qos::BestEffort || tolerates(pod, &taint) {
            return None;
        }
    }
    Some(Refusal::new("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

/// `major.minor` of a kernel release.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-', '+']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn forbidden_sysctl(pod: &Pod, node: &NodeFacts<'_>) -> Option<Refusal> {
    let spec = pod.spec();
    let refuse = |why: String| Some(Refusal::new("SysctlForbidden", format!("forbidden sysctl: {why}")));
    for sysctl in spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten()) {
        let name = normal_sysctl(&sysctl.name);
        let safe = SAFE_SYSCTLS.iter().any(|(safe, kernel)| *safe == name && kernel_version(node.kernel) >= *kernel);
        let allowed = node.allowed_sysctls.iter().any(|a| a.strip_suffix('*').map_or(*a == name, |prefix| name.starts_with(prefix)));
        let namespace = sysctl_namespace(&name);
        match namespace {
            Some("ipc") if (safe || allowed) && spec.host_ipc == Some(true) => return refuse(format!("\"{name}\" not allowed with host ipc enabled")),
            Some("net") if (safe || allowed) && pod.host_network() => return refuse(format!("\"{name}\" not allowed with host net enabled")),
            Some(_) if safe || allowed => {}
            _ => return refuse(format!("\"{name}\" not allowlisted")),
        }
    }
    None
}

/// `a/b/c` and `a.b.c` name the same; the first separator decides which is meant (upstream: `NormalizeName`).
fn normal_sysctl(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn sysctl_namespace(name: &str) -> Option<&'static str> {
    if name.starts_with("net.") {
        Some("net")
    } else if IPC_SYSCTLS.iter().any(|p| name.starts_with(p)) {
        Some("ipc")
    } else {
        None
    }
}

fn wrong_system(pod: &Pod) -> Option<Refusal> {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != "linux") {
        return Some(Refusal::new("PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"));
    }
    let os = pod.spec().os.as_ref().map(|os| os.name.as_str());
    os.filter(|os| *os != "linux").map(|_| Refusal::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
}

/// As the kernel and the scheduler count: thousandths of processors, whole units of all else.
fn counted(list: &ResourceList, name: &str) -> i64 {
    let amount = amount(Some(list), name);
    if name == "cpu" { amount.millis() } else { amount.value() }
}

fn no_room<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod> + Clone, node: &NodeFacts<'_>) -> Option<Refusal> {
    let lack = |name: &str, requested: i64, used: i64, capacity: i64| {
        let reason = match name {
            "ephemeral-storage" => "OutOfephemeral-storage".to_owned(),
            other => format!("OutOf{other}"),
        };
        let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
        Some(Refusal::new(reason, message))
    };
    let (used, capacity) = (i64::try_from(others.clone().count()).unwrap_or(i64::MAX), counted(node.allocatable, "pods"));
    if used + 1 > capacity {
        return lack("pods", 1, used, capacity);
    }
    let wanted = pod_requests(pod.spec());
    let mut names: Vec<&str> = wanted.keys().map(String::as_str).collect();
    names.sort_by_key(|name| ["cpu", "memory", "ephemeral-storage"].iter().position(|n| n == name).unwrap_or(usize::MAX));
    let taken: Vec<ResourceList> = if names.is_empty() { Vec::new() } else { others.map(|p| pod_requests(p.spec())).collect() };
    for name in names {
        // A resource that this node has never heard of is the cluster's affair.
        let requested = counted(&wanted, name);
        if requested == 0 || (is_extended(name) && !node.allocatable.contains_key(name)) {
            continue;
        }
        let (used, capacity) = (taken.iter().map(|t| counted(t, name)).sum::<i64>(), counted(node.allocatable, name));
        if requested > capacity - used {
            return lack(name, requested, used, capacity);
        }
    }
    None
}

/// Whether a resource is one that somebody outside Kubernetes has named.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.starts_with("kubernetes.io/") && !name.contains(".kubernetes.io/")
}

fn unwanted_here(pod: &Pod, node: &NodeFacts<'_>) -> Option<Refusal> {
    let spec = pod.spec();
    if !node_affinity::fits(spec, node.name, |key| node.labels.get(key).map(String::as_str)) {
        return Some(Refusal::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let elsewhere = spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name);
    elsewhere.then(|| Refusal::predicate("NodeName", "node(s) didn't match the requested node name"))
}

/// Address, protocol and port that a pod claims on the node.
fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let spec = pod.spec();
    let sidecars = init_containers(spec).iter().filter(|c| spec::is_restartable_init(c));
    let ports = sidecars.chain(&spec.containers).flat_map(|c: &Container| c.ports.iter().flatten());
    let any = |text: &Option<String>, default: &str| text.clone().filter(|t| !t.is_empty()).unwrap_or_else(|| default.to_owned());
    ports.filter_map(|p| Some((any(&p.host_ip, "0.0.0.0"), any(&p.protocol, "TCP"), p.host_port.filter(|n| *n > 0)?))).collect()
}

fn port_taken<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>) -> Option<Refusal> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return None;
    }
    let collides = |a: &(String, String, i32), b: &(String, String, i32)| a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0");
    let taken = others.flat_map(host_ports).any(|t| wanted.iter().any(|w| collides(w, &t)));
    taken.then(|| Refusal::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

fn tainted(pod: &Pod, taints: &[Taint]) -> Option<Refusal> {
    let untolerated = !is_static(pod) && taints.iter().any(|t| t.effect == "NoExecute" && !tolerates(pod, t));
    untolerated.then(|| Refusal::predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    pod.spec().tolerations.iter().flatten().any(|t: &Toleration| {
        let (key, effect, value) = (text(&t.key), text(&t.effect), text(&t.value));
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match text(&t.operator).as_str() {
                "" | "Equal" => value == text(&taint.value),
                "Exists" => true,
                operator => compares(operator, &text(&taint.value), &value),
            }
    })
}

/// `Gt` and `Lt` of tolerations (KEP-5471): the taint's number against the toleration's.
fn compares(operator: &str, taint: &str, toleration: &str) -> bool {
    let (Ok(taint), Ok(toleration)) = (taint.parse::<i64>(), toleration.parse::<i64>()) else { return false };
    match operator {
        "Gt" => taint > toleration,
        "Lt" => taint < toleration,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;
    use crate::testing::pod_of;

    struct Node {
        labels: BTreeMap<String, String>,
        taints: Vec<Taint>,
        allocatable: ResourceList,
        pressure: Pressure,
    }

    impl Default for Node {
        fn default() -> Self {
            Self {
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                taints: Vec::new(),
                allocatable: serde_json::from_value(json!({"cpu": "2", "memory": "1Gi", "pods": "3"})).unwrap(),
                pressure: Pressure::default(),
            }
        }
    }

    impl Node {
        fn verdict(&self, spec: Value, others: &[Pod]) -> String {
            let facts = NodeFacts {
                name: "n",
                labels: &self.labels,
                taints: &self.taints,
                allocatable: &self.allocatable,
                pressure: &self.pressure,
                kernel: "6.1.0-18",
                allowed_sysctls: &["kernel.msg*".to_owned()],
            };
            check(&pod_of(spec), others.iter(), &facts).map(|r| format!("{}: {}", r.reason, r.message)).unwrap_or_default()
        }
    }

    fn asking(requests: Value) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": requests}}]})
    }

    #[test]
    fn a_pod_needs_room() {
        let node = Node::default();
        let others = [pod_of(asking(json!({"cpu": "1500m"})))];
        assert_eq!(node.verdict(asking(json!({"cpu": "500m", "example.com/unknown": "5"})), &others), "");
        assert_eq!(
            node.verdict(asking(json!({"cpu": "501m"})), &others),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
        );
        assert!(node.verdict(asking(json!({"memory": "2Gi"})), &others).starts_with("OutOfmemory: "));
        let three: Vec<Pod> = (0..3).map(|_| pod_of(asking(json!({})))).collect();
        assert_eq!(node.verdict(asking(json!({})), &three), "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3");
    }

    #[test]
    fn labels_and_names_of_the_node_count() {
        let node = Node::default();
        let with = |key: &str, value: Value| json!({"containers": [{"name": "a"}], key: value});
        assert_eq!(node.verdict(with("nodeSelector", json!({"zone": "a"})), &[]), "");
        assert_eq!(
            node.verdict(with("nodeSelector", json!({"zone": "b"})), &[]),
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        );
        let affinity = |name: &str| {
            let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
            with("affinity", json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}))
        };
        assert_eq!(node.verdict(affinity("n"), &[]), "");
        assert!(node.verdict(affinity("m"), &[]).starts_with("NodeAffinity"));
        assert!(node.verdict(with("os", json!({"name": "windows"})), &[]).starts_with("PodOSNotSupported"));
    }

    #[test]
    fn host_ports_are_given_once() {
        let node = Node::default();
        let port = |ip: &str| json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]});
        let taken = [pod_of(port("10.0.0.1"))];
        assert_eq!(node.verdict(port("10.0.0.2"), &taken), "");
        assert!(node.verdict(port("10.0.0.1"), &taken).starts_with("NodePorts"));
        assert!(node.verdict(port(""), &taken).starts_with("NodePorts"));
    }

    #[test]
    fn only_kernel_parameters_of_namespaces_of_ones_own_may_be_set() {
        let node = Node::default();
        let with = |name: &str, more: Value| {
            let mut spec = json!({"containers": [{"name": "a"}], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            node.verdict(spec, &[])
        };
        assert_eq!(with("kernel.shm_rmid_forced", json!({})), "");
        assert_eq!(with("net/ipv4/tcp_syncookies", json!({})), "");
        assert_eq!(with("kernel.msgmax", json!({})), "", "the operator allows it");
        assert_eq!(with("kernel.shmmax", json!({})), "SysctlForbidden: forbidden sysctl: \"kernel.shmmax\" not allowlisted");
        assert_eq!(with("vm.swappiness", json!({})), "SysctlForbidden: forbidden sysctl: \"vm.swappiness\" not allowlisted");
        assert!(with("net.ipv4.tcp_syncookies", json!({"hostNetwork": true})).contains("not allowed with host net enabled"));
    }

    #[test]
    fn pressure_and_taints_keep_pods_away_that_do_not_bear_them() {
        let mut node = Node { pressure: Pressure { memory: true, ..Default::default() }, ..Default::default() };
        assert_eq!(node.verdict(asking(json!({})), &[]), "Evicted: The node had condition: [MemoryPressure]. ");
        assert_eq!(node.verdict(asking(json!({"cpu": "1"})), &[]), "");
        node.pressure.disk = true;
        assert!(node.verdict(asking(json!({"cpu": "1"})), &[]).starts_with("Evicted"));
        assert_eq!(node.verdict(json!({"containers": [{"name": "a"}], "priority": 2_000_001_000}), &[]), "");
        let node = Node { taints: vec![Taint { key: "k".into(), effect: "NoExecute".into(), ..Default::default() }], ..Default::default() };
        assert!(node.verdict(asking(json!({})), &[]).starts_with("TaintToleration"));
        assert_eq!(node.verdict(json!({"containers": [{"name": "a"}], "tolerations": [{"key": "k", "operator": "Exists"}]}), &[]), "");
    }
}
