//! A container's first process, from its birth to the moment it becomes the container's program.
//!
//! It sets itself up, tells the shim over `sync` that it is ready (or why not), waits for a byte, and runs the program. When the shim dies
//! before that, the process ends too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use knarr_sys::cgroup::{Cgroup, Entrance};
use knarr_sys::{mount, namespace, privilege, process};
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::launch::{self, Program};
use super::protocol::Failure;
use super::rootfs::Rootfs;
use super::spec::{ContainerSpec, Identity};

/// The exit code of a program that could not be run after all.
const EXEC_FAILED: i32 = 255;
/// Longest report over the sync socket.
pub const REPORT_BYTES_MAX: usize = 128 << 10;

/// What the child tells the shim; a terminal's master comes along.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub result: Result<Identity, Failure>,
    pub warnings: Vec<String>,
}

/// What the shim hands over to the child.
pub struct Child<'a> {
    pub spec: &'a ContainerSpec,
    pub cgroup: Cgroup,
    pub entrance: Entrance,
    pub template: &'a OwnedFd,
    pub stdio: ChildStdio,
    pub sync: OwnedFd,
}

/// The container's ends; none of them with a terminal.
#[derive(Default)]
pub struct ChildStdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Child<'_> {
    /// Never comes back but with an exit code.
    pub fn run(self) -> i32 {
        let mut warnings = Vec::new();
        match self.prepare(&mut warnings) {
            Ok((identity, program, master)) => {
                let told = report(self.sync.as_fd(), Ok(identity), warnings, master.as_ref());
                drop(master);
                if told.is_err() || !wait_for_go(self.sync.as_fd()) {
                    return EXEC_FAILED;
                }
                eprintln!("{}", launch::finish(self.spec, &program));
                EXEC_FAILED
            }
            Err(failure) => {
                // When nobody listens any more there is nobody to tell that either.
                report(self.sync.as_fd(), Err(failure), warnings, None).unwrap_or_default();
                EXEC_FAILED
            }
        }
    }

    fn prepare(&self, warnings: &mut Vec<String>) -> Result<(Identity, Program, Option<OwnedFd>), Failure> {
        let spec = self.spec;
        nix::sys::stat::umask(Mode::empty());
        process::reset_signals().map_err(Failure::other("resetting signals"))?;
        nix::unistd::setsid().map_err(io::Error::from).map_err(Failure::other("setsid"))?;
        self.entrance.enter().map_err(Failure::other("entering the cgroup"))?;
        if !spec.privileged {
            namespace::separate(CloneFlags::CLONE_NEWCGROUP).map_err(Failure::other("making the cgroup namespace"))?;
        }
        warnings.extend(adjust_oom_score(spec.resources.oom_score_adj));
        let rootfs = Rootfs::collect(spec, &self.cgroup)?;
        rootfs.enter(spec, self.template)?;
        let identity = launch::identify(spec)?;
        let master = self.connect_stdio(&identity)?;
        launch::enter_folder(&spec.cwd, true)?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        process::close_on_exec_from(3).map_err(Failure::other("closing descriptors"))?;
        launch::become_user(spec, &identity)?;
        let program = Program::find(&spec.args, &launch::environment(spec, &identity.home, spec.tty))?;
        Ok((identity, program, master))
    }

    /// Puts pipes or a terminal where the program expects its stdio.
    fn connect_stdio(&self, identity: &Identity) -> Result<Option<OwnedFd>, Failure> {
        if self.spec.tty {
            let (master, slave) = process::open_terminal().map_err(Failure::other("opening a terminal"))?;
            let steps = || {
                mount::change_owner(slave.as_fd(), identity.uid, 5)?;
                process::set_controlling_terminal(slave.as_fd())?;
                place_console(slave.as_fd())?;
                (0..=2).try_for_each(|number| process::set_stdio(slave.as_fd(), number))
            };
            steps().map_err(Failure::other("connecting the terminal"))?;
            return Ok(Some(master));
        }
        let null = open_null().map_err(Failure::other("/dev/null"))?;
        let stdio = [&self.stdio.stdin, &self.stdio.stdout, &self.stdio.stderr];
        for (number, fd) in stdio.into_iter().enumerate() {
            let fd = fd.as_ref().unwrap_or(&null);
            process::set_stdio(fd.as_fd(), number as i32).map_err(Failure::other("connecting stdio"))?;
            // So that /dev/stdout can be opened by the user.
            nix::unistd::fchown(fd, Some(identity.uid.into()), None).unwrap_or_default();
        }
        Ok(None)
    }
}

/// The container's own null device, checked: its image has had no hand in /dev.
pub fn open_null() -> io::Result<OwnedFd> {
    let null: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/null")?.into();
    match mount::file_type(null.as_fd())? {
        (nix::sys::stat::SFlag::S_IFCHR, number) if number == nix::sys::stat::makedev(1, 3) => Ok(null),
        _ => Err(io::Error::other("is not the null device")),
    }
}

/// Makes the terminal known as /dev/console.
fn place_console(slave: BorrowedFd<'_>) -> io::Result<()> {
    let root: OwnedFd = std::fs::File::open("/")?.into();
    let console = match mount::open_in_root(root.as_fd(), Path::new("/dev/console"), OFlag::O_PATH | OFlag::O_NOFOLLOW, ResolveFlag::RESOLVE_NO_SYMLINKS) {
        Ok(console) => console,
        Err(error) if error.kind() == io::ErrorKind::NotFound => mount::make_file_in_root(root.as_fd(), Path::new("/dev/console"))?,
        Err(error) => return Err(error),
    };
    mount::attach(mount::clone_tree_at(slave, false)?.as_fd(), console.as_fd())
}

/// Lowering it takes CAP_SYS_RESOURCE, which not every machine grants: the container runs all the same.
pub fn adjust_oom_score(score: Option<i32>) -> Option<String> {
    let score = score?;
    let error = std::fs::write("/proc/self/oom_score_adj", score.to_string()).err()?;
    Some(format!("oom_score_adj {score} cannot be set: {error}"))
}

pub fn report(sync: BorrowedFd<'_>, result: Result<Identity, Failure>, warnings: Vec<String>, master: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Report { result, warnings })?;
    let fds: Vec<BorrowedFd<'_>> = master.iter().map(|m| m.as_fd()).collect();
    knarr_sys::fdpass::send(sync, &bytes, &fds).map(drop)
}

/// True for a byte, false when the shim has gone.
fn wait_for_go(sync: BorrowedFd<'_>) -> bool {
    let mut byte = [0u8; 1];
    loop {
        match nix::unistd::read(sync, &mut byte) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => return result == Ok(1),
        }
    }
}

/// Nobody of the same user looks into a half-made container. Called once, in the shim; children inherit it until they run a program.
pub fn hide() -> io::Result<()> {
    privilege::set_dumpable(false)
}
