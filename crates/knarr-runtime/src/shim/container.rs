//! A container as its shim sees it: from being set up to its exit code.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use knarr_sys::cgroup::{Cgroup, Hierarchies};
use knarr_sys::process::{self, Birth, Exit, SingleThreaded};
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::child::{Child, ChildStdio};
use super::devices;
use super::log::{Log, now};
use super::protocol::{ContainerState, Failure, Handles};
use super::sandbox::{Namespaces, Target};
use super::spec::{ContainerSpec, Layout, PidNamespace, container_limits};
use super::stdio::Stream;
use crate::image::store::{read_json, write_json};

/// Exit code of a container that never ran, as containerd has it.
pub const START_ERROR: i32 = 128;

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    SettingUp,
    Created,
    Starting,
    Running,
    Exited,
}

/// Who is waiting for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub connection: u64,
    pub number: u64,
}

/// One container.
pub struct Container {
    pub phase: Phase,
    pub state: ContainerState,
    pub cgroup: Cgroup,
    pub pidfd: OwnedFd,
    pub pidfd_token: u64,
    /// Whether it is our child: after an adoption it is not.
    is_child: bool,
    pub log: Log,
    /// stdout (with a terminal: everything) and stderr.
    pub streams: [Option<Stream>; 2],
    pub stdin: Option<OwnedFd>,
    pub sync: Option<(OwnedFd, u64)>,
    pub asker: Option<Asker>,
    pub warnings: Vec<String>,
}

/// What making a container takes.
pub struct Workshop<'a> {
    pub folder: &'a Path,
    pub hierarchies: &'a Hierarchies,
    pub namespaces: &'a Namespaces,
    pub template: &'a OwnedFd,
    pub proof: SingleThreaded,
}

impl Workshop<'_> {
    /// Starts the first process, which then sets itself up. Tokens are still 0: nothing is watched yet.
    pub fn make(&self, id: &str) -> Result<Container, Failure> {
        let layout = Layout(self.folder);
        let spec: ContainerSpec = read_json(&layout.container_spec(id)).map_err(Failure::other("spec.json"))?;
        let cgroup = self.hierarchies.cgroup(&spec.cgroup);
        let made = self.make_in(&spec, &cgroup);
        if made.is_err() {
            cgroup.remove().unwrap_or_else(|error| eprintln!("knarr shim: {error}"));
        }
        made
    }

    fn make_in(&self, spec: &ContainerSpec, cgroup: &Cgroup) -> Result<Container, Failure> {
        cgroup.create().map_err(Failure::other("making the cgroup"))?;
        cgroup.apply(&container_limits(&spec.resources)).map_err(Failure::other("setting limits"))?;
        cgroup.allow_devices(&devices::rules(spec)?).map_err(Failure::other("allowing devices"))?;
        let log = Log::open(spec.log.clone()).map_err(Failure::other("opening the log"))?;
        let (ours, theirs) = if spec.tty { Default::default() } else { pipes(spec.stdin).map_err(Failure::other("making pipes"))? };
        let (sync, child_sync) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(Failure::other("socketpair"))?;
        let (pid, pidfd) = self.spawn(spec, cgroup, theirs, child_sync, &sync)?;
        let [stdin, stdout, stderr] = ours;
        let outputs = stdout.as_ref().zip(stderr.as_ref()).and_then(|(out, err)| Some([inode(out)?, inode(err)?]));
        let stream = |pipe: Option<OwnedFd>, name| pipe.map(|pipe| Stream::new(pipe, name)).transpose().map_err(Failure::other("stdio"));
        let state = ContainerState {
            id: spec.id.clone(),
            pid,
            pid_start_time: process::start_time(pid).unwrap_or(0),
            identity: Default::default(),
            started_at: None,
            finished_at: None,
            exit_code: None,
            oom_killed: false,
            start_error: None,
            outputs,
        };
        Ok(Container {
            phase: Phase::SettingUp,
            state,
            cgroup: cgroup.clone(),
            pidfd,
            pidfd_token: 0,
            is_child: true,
            log,
            streams: [stream(stdout, "stdout")?, stream(stderr, "stderr")?],
            stdin,
            sync: Some((sync, 0)),
            asker: None,
            warnings: Vec::new(),
        })
    }

    fn spawn(&self, spec: &ContainerSpec, cgroup: &Cgroup, stdio: ChildStdio, sync: OwnedFd, ours: &OwnedFd) -> Result<(i32, OwnedFd), Failure> {
        let entrance = cgroup.entrance().map_err(Failure::other("opening the cgroup"))?;
        let unified = entrance.unified.as_ref().map(OwnedFd::try_clone).transpose().map_err(Failure::other("cgroup"))?;
        let other = match spec.pid {
            PidNamespace::Of(pid) => Some(process::open_pidfd(pid).map_err(Failure::config("target container"))?),
            _ => None,
        };
        let target = match (&spec.pid, &other) {
            (PidNamespace::Pod, _) if self.namespaces.has_pod_pid() => Target::Pod,
            (_, Some(other)) => Target::Of(other.as_fd()),
            _ => Target::Own,
        };
        let birth = Birth { new_pid_namespace: spec.pid == PidNamespace::Own, cgroup: unified.as_ref().map(AsFd::as_fd) };
        let child = Child { spec, cgroup: cgroup.clone(), entrance, template: self.template, stdio, sync };
        let spawned = self.namespaces.in_pid_namespace(target, || {
            process::spawn(self.proof, &birth, || {
                // With a copy of the shim's end it would not notice the shim's death.
                process::close_inherited(ours.as_fd());
                child.run()
            })
        });
        spawned.map_err(Failure::other("making the container's process"))
    }

    /// Takes up a container whose shim has died. What it does not find of its stdio may come later.
    pub fn adopt(&self, id: &str) -> io::Result<Container> {
        let layout = Layout(self.folder);
        let spec: ContainerSpec = read_json(&layout.container_spec(id))?;
        let state: ContainerState = read_json(&layout.container_state(id))?;
        let phase = if state.finished_at.is_some() { Phase::Exited } else { Phase::Running };
        let pidfd = match phase {
            Phase::Running => process::open_pidfd(state.pid)?,
            _ => std::fs::File::open("/dev/null")?.into(),
        };
        if phase == Phase::Running && process::start_time(state.pid) != Some(state.pid_start_time) {
            return Err(io::Error::other("its process has gone"));
        }
        let streams = if phase == Phase::Running { found_outputs(&state)? } else { [None, None] };
        Ok(Container {
            phase,
            state,
            cgroup: self.hierarchies.cgroup(&spec.cgroup),
            pidfd,
            pidfd_token: 0,
            is_child: false,
            log: Log::open(spec.log)?,
            streams,
            stdin: None,
            sync: None,
            asker: None,
            warnings: Vec::new(),
        })
    }
}

/// The pipes that take a container's output, as long as its first process has them: agent and shim may both have died.
fn found_outputs(state: &ContainerState) -> io::Result<[Option<Stream>; 2]> {
    let Some(wanted) = state.outputs else { return Ok([None, None]) };
    let open = |index: usize, name| match process::reopen(state.pid, index as i32 + 1, OFlag::O_RDONLY) {
        Ok(pipe) if inode(&pipe) == Some(wanted[index]) => Stream::new(pipe, name).map(Some),
        // It has put something else in its place.
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    Ok([open(0, "stdout")?, open(1, "stderr")?])
}

fn inode(fd: &OwnedFd) -> Option<u64> {
    nix::sys::stat::fstat(fd).ok().map(|s| s.st_ino)
}

/// A pipe for output. The container's end is readable too, although nobody reads there: so a container that writes while neither
/// shim nor agent lives is not ended by SIGPIPE, but waits.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let both = process::reopen(std::process::id() as i32, std::os::fd::AsRawFd::as_raw_fd(&write), OFlag::O_RDWR)?;
    Ok((read, both))
}

/// The shim's ends (stdin, stdout, stderr) and the container's.
fn pipes(stdin: bool) -> io::Result<([Option<OwnedFd>; 3], ChildStdio)> {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
    let (out_read, out_write) = output_pipe()?;
    let (err_read, err_write) = output_pipe()?;
    let (in_read, in_write) = if stdin { pipe().map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
    Ok(([in_write, Some(out_read), Some(err_read)], ChildStdio { stdin: in_read, stdout: Some(out_write), stderr: Some(err_write) }))
}

impl Container {
    /// Copies of its descriptors for the agent, and which they are.
    pub fn handles(&self) -> io::Result<(Handles, Vec<OwnedFd>)> {
        let copy = |fd: &OwnedFd| fd.try_clone();
        let mut fds = Vec::new();
        let pidfd = self.phase != Phase::Exited;
        if pidfd {
            fds.push(copy(&self.pidfd)?);
        }
        for stream in self.streams.iter().flatten() {
            fds.push(copy(&stream.pipe)?);
        }
        if let Some(stdin) = &self.stdin {
            fds.push(copy(stdin)?);
        }
        let [stdout, stderr] = [&self.streams[0], &self.streams[1]].map(Option::is_some);
        Ok((Handles { pidfd, stdout, stderr, stdin: self.stdin.is_some() }, fds))
    }

    /// Lets the program run: the child waits for one byte.
    pub fn go(&mut self) -> io::Result<()> {
        if let Some((sync, _)) = &self.sync {
            nix::unistd::write(sync, b"g")?;
        }
        self.phase = Phase::Starting;
        Ok(())
    }

    pub fn mark_started(&mut self) {
        self.phase = Phase::Running;
        self.state.started_at = Some(now());
    }

    /// How its process has ended; `None` while it runs.
    pub fn poll_exit(&self) -> Option<Exit> {
        if self.is_child {
            return process::try_wait(self.pidfd.as_fd()).unwrap_or(None);
        }
        // Somebody whom nobody can ask any more counts as killed.
        process::has_ended(self.pidfd.as_fd()).then(|| process::exit_of_stranger(self.pidfd.as_fd(), self.state.pid).unwrap_or(Exit::Signal(libc::SIGKILL)))
    }

    /// Kills what runs of it, and buries its first process: our own child and SIGKILL, so this is short. A namespace of processes does not end before
    /// the last of them is buried, and this one may be in that of another container.
    pub fn end(&self) {
        if let Err(error) = self.cgroup.kill().and_then(|()| process::send_signal(self.pidfd.as_fd(), libc::SIGKILL)) {
            eprintln!("knarr shim: {error}");
        }
        // It may be buried already.
        process::wait(self.pidfd.as_fd()).map(drop).unwrap_or_default();
    }

    /// Whether nothing more comes of it. One that was made and has ended before anybody started it stays as it is for whoever may start it yet.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Exited || self.phase == Phase::Created && process::has_ended(self.pidfd.as_fd())
    }

    /// Notes the exit, and ends what the container's first process has left behind.
    pub fn mark_exited(&mut self, exit: Exit) {
        let never_ran = self.phase != Phase::Running;
        self.phase = Phase::Exited;
        self.state.finished_at = Some(now());
        self.state.exit_code = Some(if never_ran { START_ERROR } else { exit.code() });
        self.state.oom_killed = self.cgroup.oom_kills() > 0;
        if let Err(error) = self.cgroup.kill() {
            eprintln!("knarr shim: {error}");
        }
    }

    pub fn save(&self, folder: &Path) {
        if let Err(error) = write_json(&Layout(folder).container_state(&self.state.id), &self.state) {
            eprintln!("knarr shim: state of container {}: {error}", self.state.id);
        }
    }
}
