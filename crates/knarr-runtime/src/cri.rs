//! The Container Runtime Interface (`runtime.v1`) as plain Rust types: what the node agent asks of a runtime. Names are CRI's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} not found")]
    NotFound(String),
    /// The image cannot be had: `ImagePullBackOff`'s text.
    #[error("{0}")]
    Image(String),
    /// The container cannot be made of this config: `CreateContainerConfigError`.
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Failed(String),
    #[error("deadline exceeded: {0}")]
    Timeout(String),
}

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    #[default]
    Pod,
    Container,
    Node,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub attempt: u32,
    pub hostname: String,
    /// `/var/log/pods/NS_NAME_UID`
    pub log_directory: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `kubepods/burstable/podUID` under every controller.
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// Bytes of /dev/shm; 64 MiB when absent.
    pub shm_size: Option<u64>,
    pub pod_resources: Resources,
}

/// A running sandbox: namespaces that containers join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Clone, Debug)]
pub struct SandboxStatus {
    pub id: String,
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub attempt: u32,
    pub state: SandboxState,
    pub created_at: jiff::Timestamp,
    /// Path of its network namespace; absent with the node's network.
    pub netns: Option<PathBuf>,
    /// What the network gave it; the node agent keeps it here so that it survives a restart of the agent.
    pub ips: Vec<String>,
}

/// Limits of a container or of a whole pod; unset fields are left alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    pub memory_limit: Option<i64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    /// Page size (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mount {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    /// Id of an image whose files are mounted instead of `host_path`; nothing of it can be written or executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Only this folder or file of the image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_sub_path: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile in Docker's JSON format.
    Localhost(PathBuf),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SecurityContext {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    /// `None`: the image's user.
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    /// `Strict` when true: groups of the image's /etc/group are left out.
    pub strict_supplemental_groups: bool,
    pub read_only_rootfs: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub pid: NamespaceMode,
    /// Id of the container whose pid namespace is joined (ephemeral containers).
    pub target_container: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    /// Image id as `pull_image` or `image_status` gave it.
    pub image: String,
    /// As the pod spells it.
    pub image_reference: String,
    /// Empty: the image's entrypoint.
    pub command: Vec<String>,
    /// Empty: the image's command, unless `command` is set.
    pub args: Vec<String>,
    pub working_dir: String,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the sandbox's log directory: `CONTAINER/0.log`.
    pub log_path: PathBuf,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: SecurityContext,
    /// Overrides the image's stop signal.
    pub stop_signal: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub state: ContainerState,
    pub pid: Option<i32>,
    pub created_at: jiff::Timestamp,
    pub started_at: Option<jiff::Timestamp>,
    pub finished_at: Option<jiff::Timestamp>,
    /// 128 + signal for a process that a signal ended.
    pub exit_code: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, …
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_reference: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub log_path: PathBuf,
    pub mounts: Vec<Mount>,
    /// What the process runs as: uid, gid, supplementary groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
    pub resources: Resources,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStats {
    pub id: String,
    pub at: jiff::Timestamp,
    pub cpu_usage_nanos: u64,
    pub memory_usage_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub writable_layer_bytes: u64,
    pub process_count: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Digest of the image's config.
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub size: u64,
    /// User of the image's config: uid, or a name.
    pub uid: Option<i64>,
    pub username: String,
    pub pinned: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Auth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// Something that happened by itself. Nobody polls: the node agent acts on these.
#[derive(Clone, Debug)]
pub enum RuntimeEvent {
    ContainerStarted { sandbox_id: String, container_id: String },
    ContainerExited { sandbox_id: String, container_id: String },
    SandboxGone { sandbox_id: String },
}

/// The ends of a process' stdio in an exec or attach. With a terminal there is no stderr.
pub struct Streams {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub tty: bool,
    /// Terminal sizes (columns, rows) as they come.
    pub resize: Option<tokio::sync::mpsc::Receiver<(u16, u16)>>,
}

#[derive(Clone, Debug)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// A container runtime. Calls may run side by side; those for one sandbox come one after the other from the node agent's
/// pod actor, except streams, stats and exec.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version: `knarr://0.1.0`.
    fn version(&self) -> String;

    /// Makes the namespaces. The network namespace exists afterwards and has no link but `lo` (up).
    async fn run_pod_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus>;
    /// Remembers the addresses that the network gave.
    async fn set_sandbox_ips(&self, id: &str, ips: Vec<String>) -> Result<()>;
    /// Ends every process in it. The network must have been detached before.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>>;

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String>;
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal, then after `grace` SIGKILL. Returns when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    async fn remove_container(&self, id: &str) -> Result<()>;
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    async fn update_container_resources(&self, id: &str, resources: &Resources) -> Result<()>;
    async fn update_sandbox_resources(&self, id: &str, resources: &Resources) -> Result<()>;
    async fn container_stats(&self, id: &str) -> Result<ContainerStats>;
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;
    /// Runs until the process ends; gives its exit code.
    async fn exec(&self, id: &str, command: &[String], streams: Streams) -> Result<i32>;
    /// Runs until the client leaves or the container ends.
    async fn attach(&self, id: &str, streams: Streams) -> Result<()>;
    /// A connection to a port on the sandbox's localhost.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream>;

    /// Pulls and gives the image id.
    async fn pull_image(&self, reference: &str, auth: Option<&Auth>) -> Result<String>;
    /// The image that this reference or id names, if it is here.
    async fn image_status(&self, reference: &str) -> Result<Option<Image>>;
    async fn list_images(&self) -> Result<Vec<Image>>;
    async fn remove_image(&self, reference: &str) -> Result<()>;
    /// Bytes and inodes that images take, and the mount point they lie on.
    async fn image_fs(&self) -> Result<(PathBuf, u64, u64)>;

    /// Everything that happens from now on.
    fn events(&self) -> tokio::sync::broadcast::Receiver<RuntimeEvent>;
}
