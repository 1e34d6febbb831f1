//! What a shim is told about its pod and its containers: plain data in files, complete before the shim looks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use knarr_sys::cgroup::{DeviceRule, Limits};
use knarr_sys::privilege::Instruction;
use serde::{Deserialize, Serialize};

use crate::cri::{Mount, NamespaceMode, Resources};

/// A pod, from the shim's side. Lies in `shim-spec.json` of the sandbox's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub id: String,
    pub hostname: String,
    pub sysctls: BTreeMap<String, String>,
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// Where the network namespace is pinned.
    pub netns: Option<PathBuf>,
    /// A tmpfs for /dev/shm, made by the shim.
    pub shm: Option<PathBuf>,
    pub shm_size: u64,
}

/// A container, from the shim's side. Lies in `containers/ID/spec.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub id: String,
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub user: UserSpec,
    pub capabilities: u64,
    pub no_new_privileges: bool,
    /// A classic BPF program.
    pub seccomp: Option<Vec<PackedInstruction>>,
    /// Folders for overlayfs, topmost first.
    pub layers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub mounts: Vec<Mount>,
    /// Files of other images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageMount>,
    /// Folders of the image that it declares as volumes, and where on the host each lies.
    pub volumes: Vec<(PathBuf, PathBuf)>,
    pub devices: Vec<DeviceNode>,
    pub privileged: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub read_only_rootfs: bool,
    pub tty: bool,
    pub stdin: bool,
    pub cgroup: String,
    pub resources: Resources,
    pub pid: PidNamespace,
    /// The pod's tmpfs for /dev/shm; the host's with the host's ipc namespace.
    pub shm: PathBuf,
    pub log: PathBuf,
}

/// The files of another image, or a part of them, in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// Topmost first.
    pub layers: Vec<PathBuf>,
    pub sub_path: PathBuf,
    pub target: PathBuf,
}

/// Whose processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    #[default]
    Own,
    Pod,
    Node,
    /// That of the process with this pid.
    Of(i32),
}

/// Who a container runs as, before the image's /etc/passwd is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The image's own: `USER[:GROUP]`, names or numbers.
    pub image: String,
    pub groups: Vec<u32>,
    /// The image's /etc/group is left aside.
    pub strict: bool,
}

/// Who it runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, with the primary one among them.
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    pub host: PathBuf,
    pub container: PathBuf,
    pub permissions: String,
}

/// An instruction as one number: compact in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedInstruction(u64);

impl From<Instruction> for PackedInstruction {
    fn from(i: Instruction) -> Self {
        Self(u64::from(i.code) << 48 | u64::from(i.jump_true) << 40 | u64::from(i.jump_false) << 32 | u64::from(i.value))
    }
}

impl From<PackedInstruction> for Instruction {
    fn from(p: PackedInstruction) -> Self {
        Self { code: (p.0 >> 48) as u16, jump_true: (p.0 >> 40) as u8, jump_false: (p.0 >> 32) as u8, value: p.0 as u32 }
    }
}

/// Limits of a container: when it runs out of memory, all of it ends, as kubelet has it.
pub fn container_limits(resources: &Resources) -> Limits {
    Limits { oom_group: true, ..limits(resources) }
}

/// What the kernel is asked to enforce for CRI's resources. A quota of 0 is CRI's way to say that there is none.
pub fn limits(resources: &Resources) -> Limits {
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_us: resources.cpu_quota.map(|quota| if quota == 0 { -1 } else { quota }),
        cpu_period_us: resources.cpu_period,
        memory_bytes: resources.memory_limit,
        pids: resources.pids_limit,
        hugepages: resources.hugepages.clone(),
        oom_group: false,
    }
}

/// Devices that every container may use: nodes of the standard kinds may be made, but only these be opened.
pub fn default_device_rules() -> Vec<DeviceRule> {
    let open = |major, minor| DeviceRule::new('c', major, minor, "rwm");
    vec![
        DeviceRule::new('c', None, None, "m"),
        DeviceRule::new('b', None, None, "m"),
        open(1, 3),
        open(1, 5),
        open(1, 7),
        open(1, 8),
        open(1, 9),
        open(5, 0),
        open(5, 1),
        open(5, 2),
        DeviceRule::new('c', 136, None, "rwm"),
    ]
}

/// Names of files in a sandbox's folder.
pub struct Layout<'a>(pub &'a Path);

impl Layout<'_> {
    pub fn spec(&self) -> PathBuf {
        self.0.join("shim-spec.json")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("shim.sock")
    }

    /// Held by the one shim that the sandbox has.
    pub fn lock(&self) -> PathBuf {
        self.0.join("shim.lock")
    }

    pub fn shim_state(&self) -> PathBuf {
        self.0.join("shim.json")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub fn container_spec(&self, id: &str) -> PathBuf {
        self.container(id).join("spec.json")
    }

    pub fn container_state(&self, id: &str) -> PathBuf {
        self.container(id).join("state.json")
    }
}
