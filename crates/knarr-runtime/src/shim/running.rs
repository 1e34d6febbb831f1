//! Exec'd processes that are under way.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use knarr_sys::process::{self, Birth, SingleThreaded};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::child::ChildStdio;
use super::container::{Asker, Container, Phase};
use super::exec::ExecChild;
use super::protocol::{ExecSpec, Failure};
use super::sandbox::{Namespaces, Target};
use super::spec::{ContainerSpec, Layout};
use crate::image::store::read_json;

/// One exec'd process.
pub struct Exec {
    pub asker: Asker,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub pidfd_token: u64,
    pub sync: OwnedFd,
    /// 0 once its report has been heard.
    pub sync_token: u64,
    pub running: bool,
}

impl Exec {
    /// Starts it; it sets itself up and reports.
    pub fn make(
        namespaces: &Namespaces,
        proof: SingleThreaded,
        folder: &Path,
        container: &Container,
        exec: &ExecSpec,
        fds: Vec<OwnedFd>,
        asker: Asker,
    ) -> Result<Self, Failure> {
        if container.phase != Phase::Running {
            return Err(Failure::Other("container not running".to_owned()));
        }
        let spec: ContainerSpec = read_json(&Layout(folder).container_spec(&container.state.id)).map_err(Failure::other("spec.json"))?;
        let mut fds = fds.into_iter();
        let mut next = |wanted: bool| if wanted { fds.next() } else { None };
        let stdio = ChildStdio { stdin: next(exec.stdin && !exec.tty), stdout: next(exec.stdout && !exec.tty), stderr: next(exec.stderr && !exec.tty) };
        let (sync, child_sync) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(Failure::other("socketpair"))?;
        let entrance = container.cgroup.entrance().map_err(Failure::other("opening the cgroup"))?;
        let unified = entrance.unified.as_ref().map(OwnedFd::try_clone).transpose().map_err(Failure::other("cgroup"))?;
        let target = container.pidfd.try_clone().map_err(Failure::other("pidfd"))?;
        let birth = Birth { new_pid_namespace: false, cgroup: unified.as_ref().map(AsFd::as_fd) };
        let child = ExecChild { spec: &spec, exec, identity: &container.state.identity, entrance, container: target, stdio, sync: child_sync };
        let spawned = namespaces.in_pid_namespace(Target::Of(container.pidfd.as_fd()), || process::spawn(proof, &birth, || child.run()));
        let (pid, pidfd) = spawned.map_err(Failure::other("making the process"))?;
        Ok(Self { asker, pid, pidfd, pidfd_token: 0, sync, sync_token: 0, running: false })
    }

    /// Its children go with the container.
    pub fn kill(&self) {
        if let Err(error) = process::send_signal(self.pidfd.as_fd(), libc::SIGKILL) {
            eprintln!("knarr shim: {error}");
        }
    }
}

/// All of them, by number.
#[derive(Default)]
pub struct Execs(HashMap<u64, Exec>);

impl Execs {
    pub fn insert(&mut self, number: u64, exec: Exec) {
        self.0.insert(number, exec);
    }

    pub fn get(&self, number: u64) -> Option<&Exec> {
        self.0.get(&number)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Exec> {
        self.0.get_mut(&number)
    }

    pub fn remove(&mut self, number: u64) -> Option<Exec> {
        self.0.remove(&number)
    }

    pub fn of_connection(&self, connection: u64) -> impl Iterator<Item = &Exec> {
        self.0.values().filter(move |e| e.asker.connection == connection)
    }
}
