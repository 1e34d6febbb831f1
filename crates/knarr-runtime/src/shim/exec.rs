//! A further process in a running container: kubectl exec, and probes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use knarr_sys::cgroup::Entrance;
use knarr_sys::{namespace, process};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use super::child::{self, ChildStdio};
use super::launch::{self, Program};
use super::protocol::{ExecSpec, Failure};
use super::spec::{ContainerSpec, Identity};

/// What the shim hands over.
pub struct ExecChild<'a> {
    pub spec: &'a ContainerSpec,
    pub exec: &'a ExecSpec,
    pub identity: &'a Identity,
    pub entrance: Entrance,
    /// The container's first process.
    pub container: OwnedFd,
    pub stdio: ChildStdio,
    pub sync: OwnedFd,
}

impl ExecChild<'_> {
    /// Never comes back but with an exit code. The sync socket closes by itself when the program runs; before, a failure is told.
    pub fn run(self) -> i32 {
        let mut warnings = Vec::new();
        let failure = match self.prepare(&mut warnings) {
            Ok((program, master)) => {
                if child::report(self.sync.as_fd(), Ok(self.identity.clone()), warnings, master.as_ref()).is_err() {
                    return 255;
                }
                drop(master);
                eprintln!("{}", launch::finish(self.spec, &program));
                return 255;
            }
            Err(failure) => failure,
        };
        child::report(self.sync.as_fd(), Err(failure), warnings, None).unwrap_or_default();
        255
    }

    fn prepare(&self, warnings: &mut Vec<String>) -> Result<(Program, Option<OwnedFd>), Failure> {
        process::reset_signals().map_err(Failure::other("resetting signals"))?;
        nix::unistd::setsid().map_err(io::Error::from).map_err(Failure::other("setsid"))?;
        self.entrance.enter().map_err(Failure::other("entering the cgroup"))?;
        warnings.extend(child::adjust_oom_score(self.spec.resources.oom_score_adj));
        let kinds = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
        namespace::enter(self.container.as_fd(), kinds).map_err(Failure::other("entering the container"))?;
        let master = self.connect_stdio()?;
        launch::enter_folder(&self.spec.cwd, false)?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        process::close_on_exec_from(3).map_err(Failure::other("closing descriptors"))?;
        launch::become_user(self.spec, self.identity)?;
        let program = Program::find(&self.exec.args, &launch::environment(self.spec, &self.identity.home, self.exec.tty))?;
        Ok((program, master))
    }

    fn connect_stdio(&self) -> Result<Option<OwnedFd>, Failure> {
        if self.exec.tty {
            let (master, slave) = process::open_terminal().map_err(Failure::other("opening a terminal"))?;
            let steps = || {
                knarr_sys::mount::change_owner(slave.as_fd(), self.identity.uid, 5)?;
                process::set_controlling_terminal(slave.as_fd())?;
                if let Some((columns, rows)) = self.exec.size {
                    process::set_window_size(slave.as_fd(), columns, rows)?;
                }
                (0..=2).try_for_each(|number| process::set_stdio(slave.as_fd(), number))
            };
            steps().map_err(Failure::other("connecting the terminal"))?;
            return Ok(Some(master));
        }
        let null = child::open_null().map_err(Failure::other("/dev/null"))?;
        let stdio = [&self.stdio.stdin, &self.stdio.stdout, &self.stdio.stderr];
        for (number, fd) in stdio.into_iter().enumerate() {
            let fd = fd.as_ref().unwrap_or(&null);
            process::set_stdio(fd.as_fd(), number as i32).map_err(Failure::other("connecting stdio"))?;
            nix::unistd::fchown(fd, Some(self.identity.uid.into()), None).unwrap_or_default();
        }
        Ok(None)
    }
}
