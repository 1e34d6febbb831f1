//! A pod's namespaces, which the shim lives in itself so that its containers are born into them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use knarr_sys::mount::{Attr, Filesystem};
use knarr_sys::process::{self, Birth, SingleThreaded};
use knarr_sys::{mount, namespace};
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use super::protocol::Failure;
use super::spec::{Layout, SandboxSpec};
use crate::cri::NamespaceMode;
use crate::image::store::{read_json, write_json};

/// What a later shim must know to go on. Lies in `shim.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShimState {
    pub pid: i32,
    /// The process that holds a shared pid namespace.
    pub init: Option<i32>,
}

/// Namespaces of a pod as descriptors.
pub struct Namespaces {
    /// The shim's own, for containers that get a new one.
    own_pid: OwnedFd,
    /// Shared by the pod's containers.
    pod_pid: Option<OwnedFd>,
    pub init: Option<(i32, OwnedFd)>,
}

/// Makes the namespaces of a new pod.
pub fn make(folder: &Path, spec: &SandboxSpec, proof: SingleThreaded) -> Result<Namespaces, Failure> {
    let mut flags = CloneFlags::CLONE_NEWUTS;
    flags.set(CloneFlags::CLONE_NEWNET, spec.network != NamespaceMode::Node);
    flags.set(CloneFlags::CLONE_NEWIPC, spec.ipc != NamespaceMode::Node);
    if spec.network == NamespaceMode::Node {
        // The host's network comes with the host's name.
        flags.remove(CloneFlags::CLONE_NEWUTS);
    }
    namespace::separate(flags).map_err(Failure::other("making namespaces"))?;
    if flags.contains(CloneFlags::CLONE_NEWUTS) {
        nix::unistd::sethostname(&spec.hostname).map_err(io::Error::from).map_err(Failure::other("setting the hostname"))?;
    }
    if spec.network != NamespaceMode::Node {
        namespace::loopback_up().map_err(Failure::other("setting lo up"))?;
        if let Some(path) = &spec.netns {
            namespace::pin("net", path).map_err(Failure::other("pinning the network namespace"))?;
        }
    }
    for (name, value) in &spec.sysctls {
        namespace::set_sysctl(name, value).map_err(Failure::other(&format!("sysctl {name}={value}")))?;
    }
    if let Some(path) = &spec.shm {
        mount_shm(path, spec.shm_size).map_err(Failure::other("mounting /dev/shm"))?;
    }
    let own_pid = namespace::open_own("pid").map_err(Failure::other("pid namespace"))?;
    let mut namespaces = Namespaces { own_pid, pod_pid: None, init: None };
    if spec.pid == NamespaceMode::Pod {
        let (pid, pidfd) = spawn_init(proof).map_err(Failure::other("making the pid namespace"))?;
        namespaces.pod_pid = Some(namespace::open(pid, "pid").map_err(Failure::other("pid namespace"))?);
        namespaces.init = Some((pid, pidfd));
    }
    let state = ShimState { pid: std::process::id() as i32, init: namespaces.init.as_ref().map(|(pid, _)| *pid) };
    write_json(&Layout(folder).shim_state(), &state).map_err(Failure::other("shim.json"))?;
    Ok(namespaces)
}

/// Enters the namespaces of a pod whose shim has died. `member` is a process that still lives in them.
pub fn rejoin(folder: &Path, spec: &SandboxSpec, member: Option<i32>) -> Result<Namespaces, Failure> {
    let old: ShimState = read_json(&Layout(folder).shim_state()).unwrap_or_default();
    let init = old.init.and_then(|pid| Some((pid, process::open_pidfd(pid).ok()?)));
    let own_pid = namespace::open_own("pid").map_err(Failure::other("pid namespace"))?;
    let pod_pid = init.as_ref().and_then(|(pid, _)| namespace::open(*pid, "pid").ok());
    if let Some(path) = spec.netns.as_deref().filter(|_| spec.network != NamespaceMode::Node) {
        let netns: OwnedFd = std::fs::File::open(path).map_err(Failure::other("network namespace"))?.into();
        namespace::enter(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Failure::other("entering the network namespace"))?;
    }
    for (kind, flag) in [("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)] {
        let Some(member) = member.or(init.as_ref().map(|(pid, _)| *pid)) else { break };
        let other = namespace::open(member, kind).map_err(Failure::other("namespace"))?;
        namespace::enter(other.as_fd(), flag).map_err(Failure::other("entering a namespace"))?;
    }
    let state = ShimState { pid: std::process::id() as i32, init: init.as_ref().map(|(pid, _)| *pid) };
    write_json(&Layout(folder).shim_state(), &state).map_err(Failure::other("shim.json"))?;
    Ok(Namespaces { own_pid, pod_pid, init })
}

fn mount_shm(path: &Path, bytes: u64) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let filesystem = Filesystem::open("tmpfs")?;
    filesystem.set("mode", "1777")?.set("size", bytes.to_string())?;
    mount::attach_at(filesystem.mount(Attr::NOSUID | Attr::NODEV | Attr::NOEXEC)?.as_fd(), path)
}

/// Process 1 of a shared pid namespace: does nothing but let the kernel reap orphans.
fn spawn_init(proof: SingleThreaded) -> io::Result<(i32, OwnedFd)> {
    let birth = Birth { new_pid_namespace: true, cgroup: None };
    process::spawn(proof, &birth, || {
        let alone = || -> io::Result<()> {
            process::ignore_children()?;
            nix::unistd::setsid()?;
            process::close_from(0)
        };
        if alone().is_err() {
            return 1;
        }
        loop {
            nix::unistd::pause();
        }
    })
}

impl Namespaces {
    /// Runs `spawn` so that its child is born into a pid namespace.
    pub fn in_pid_namespace<T>(&self, of: Target<'_>, spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let target = match of {
            Target::Own => None,
            Target::Pod => self.pod_pid.as_ref().map(AsFd::as_fd),
            Target::Of(fd) => Some(fd),
        };
        let Some(target) = target else { return spawn() };
        namespace::enter(target, CloneFlags::CLONE_NEWPID)?;
        let result = spawn();
        namespace::enter(self.own_pid.as_fd(), CloneFlags::CLONE_NEWPID)?;
        result
    }

    pub fn has_pod_pid(&self) -> bool {
        self.pod_pid.is_some()
    }
}

/// Whose pid namespace a child is born into.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// The shim's, which is the host's; or a new one, when the birth says so.
    Own,
    Pod,
    /// A pidfd or a namespace.
    Of(std::os::fd::BorrowedFd<'a>),
}
