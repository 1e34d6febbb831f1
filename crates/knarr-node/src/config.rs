//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use knarr_core::quantity::Quantity;

/// Upstream's signals. Its parts of the disk (10 and 15 of a hundred) are many gigabytes on a developer's machine, whose disk
/// others fill too, so these are smaller.
const EVICTION_HARD: [(&str, &str); 5] =
    [("memory.available", "100Mi"), ("nodefs.available", "1%"), ("nodefs.inodesFree", "5%"), ("imagefs.available", "1%"), ("imagefs.inodesFree", "5%")];

/// TLS of the node API.
#[derive(Clone)]
pub struct ServingConfig {
    /// Serving certificate and client authentication, ready made: certificates can be exchanged inside it while it serves.
    pub tls: Arc<rustls::ServerConfig>,
}

/// How one node is to be run. [`AgentConfig::new`] gives upstream's defaults.
#[derive(Clone)]
pub struct AgentConfig {
    pub node_name: String,
    /// `kubernetes.io/hostname` and the `Hostname` address.
    pub hostname: String,
    /// The node's addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// `pods/UID/volumes/…` lies below it.
    pub root_dir: PathBuf,
    /// Where it is noted which local volumes have folders here; must outlive a stop. Absent: below `root_dir`.
    pub local_volumes_dir: Option<PathBuf>,
    /// `NS_NAME_UID/CONTAINER/N.log` lies below it.
    pub pod_log_dir: PathBuf,
    /// Links to log files for collectors that look there.
    pub container_log_dir: PathBuf,
    /// Folder of seccomp profiles of type `Localhost`.
    pub seccomp_dir: PathBuf,
    /// Pods without a profile run under the runtime's default one.
    pub seccomp_default: bool,
    /// The node's own resolver; absent: none.
    pub resolv_conf: Option<PathBuf>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// Port of the node API; zero: any free one.
    pub port: u16,
    /// Absent: the node API is not served.
    pub serving: Option<ServingConfig>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Set when the Node object is made.
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    pub max_pods: u32,
    /// Kernel parameters that pods may set besides the safe ones; a trailing `*` is a prefix.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Processes per pod; absent: no limit.
    pub pod_pids_limit: Option<i64>,
    /// What pods cannot use, by resource name.
    pub reserved: BTreeMap<String, Quantity>,
    /// Overrides what is read from the machine (simulated nodes), by resource name.
    pub capacity: BTreeMap<String, Quantity>,
    /// The least that has to be left of memory, disk and process ids, by signal: an amount or a percentage (`evictionHard`).
    pub eviction_hard: BTreeMap<String, String>,
    pub image_gc_high_percent: u8,
    pub image_gc_low_percent: u8,
    /// Images younger than this are kept.
    pub image_gc_min_age: Duration,
    /// Size at which a log file is rotated, in bytes.
    pub container_log_bytes_max: u64,
    /// Log files kept of one container.
    pub container_log_files_max: usize,
    /// Registry credentials of the node itself, in the format of `~/.docker/config.json`.
    pub docker_config: Option<PathBuf>,
}

impl AgentConfig {
    pub fn new(node_name: impl Into<String>) -> Self {
        let node_name = node_name.into();
        Self {
            hostname: node_name.clone(),
            node_name,
            addresses: Vec::new(),
            root_dir: "/var/lib/kubelet".into(),
            local_volumes_dir: None,
            pod_log_dir: "/var/log/pods".into(),
            container_log_dir: "/var/log/containers".into(),
            seccomp_dir: "/var/lib/kubelet/seccomp".into(),
            seccomp_default: true,
            resolv_conf: Some("/etc/resolv.conf".into()),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            port: 10250,
            serving: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            provider_id: None,
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            pod_pids_limit: None,
            reserved: BTreeMap::new(),
            capacity: BTreeMap::new(),
            eviction_hard: EVICTION_HARD.map(|(signal, least)| (signal.to_owned(), least.to_owned())).into(),
            // Upstream's 85 and 80 would take images from whoever has a well filled disk, at every look.
            image_gc_high_percent: 95,
            image_gc_low_percent: 90,
            image_gc_min_age: Duration::from_secs(120),
            container_log_bytes_max: 10 << 20,
            container_log_files_max: 5,
            docker_config: None,
        }
    }

    /// Addresses as text, the primary one first.
    pub fn host_ips(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }
}
