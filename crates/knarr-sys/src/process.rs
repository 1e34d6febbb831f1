//! Processes: making them, and holding on to them by pidfd.
//!
//! A pidfd never names another process by mistake, tells by itself when its process has ended, and on Linux 6.15 and later tells the exit
//! status even to somebody who is not the parent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

/// Proof that this process has one thread only, so that a forked child may allocate and take locks.
#[derive(Clone, Copy, Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Looks; an error when there are more threads.
    pub fn prove() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            n => Err(io::Error::other(format!("{n} threads run in a process that must have one"))),
        }
    }
}

/// What the new process gets of its own at birth.
#[derive(Default)]
pub struct Birth<'a> {
    pub new_pid_namespace: bool,
    /// A cgroup v2 folder to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Forks. The child runs `child` and exits with what it gives; the parent gets the pid and a pidfd.
pub fn spawn(_: SingleThreaded, birth: &Birth<'_>, child: impl FnOnce() -> i32) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: i32 = -1;
    let mut flags = libc::CLONE_PIDFD as u64;
    if birth.new_pid_namespace {
        flags |= libc::CLONE_NEWPID as u64;
    }
    if birth.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: all-zero is a valid value of this struct of integers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = birth.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);
    // SAFETY: without CLONE_VM this is a fork. The caller has proved that no other thread exists, so no lock is held by anybody in the
    // child's copy of memory; the arguments outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(255);
            // SAFETY: ends the child at once, without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        // SAFETY: the kernel has written a descriptor that we own.
        pid => Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The code that shells and Kubernetes show: 128 + signal for a process that a signal ended.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// From the status word of wait(2).
    fn from_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) { Self::Signal(libc::WTERMSIG(status)) } else { Self::Code(libc::WEXITSTATUS(status)) }
    }
}

/// A handle to a running process.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal. A process that has ended is fine.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain integers and a null siginfo.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// Reaps a child that has ended; `None` while it runs.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    wait_with(pidfd, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
}

/// Waits until a child has ended, and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Exit> {
    loop {
        match wait_with(pidfd, WaitPidFlag::WEXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
    }
}

fn wait_with(pidfd: BorrowedFd<'_>, flags: WaitPidFlag) -> io::Result<Option<Exit>> {
    Ok(match waitid(Id::PIDFd(pidfd), flags)? {
        WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal as i32)),
        _ => None,
    })
}

/// Whether the process has ended (it may not have been reaped yet).
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut set = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(poll(&mut set, PollTimeout::ZERO), Ok(n) if n > 0)
}

/// How a process that is not our child ended: from the pidfd once it has been reaped (Linux 6.15), from /proc while it is a zombie.
/// `None` when nobody can tell any more.
pub fn exit_of_stranger(pidfd: BorrowedFd<'_>, pid: i32) -> Option<Exit> {
    exit_from_pidfd(pidfd).or_else(|| exit_from_proc(pid)).or_else(|| exit_from_pidfd(pidfd))
}

fn exit_from_pidfd(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    // SAFETY: all-zero is a valid value of this struct of integers.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the ioctl writes a pidfd_info of the size that its number carries.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then(|| Exit::from_status(info.exit_code))
}

/// `exit_code`, the 52nd field of a zombie's stat line.
fn exit_from_proc(pid: i32) -> Option<Exit> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let status = fields.nth(48)?.parse().ok()?;
    zombie.then(|| Exit::from_status(status))
}

/// Start time of a process in clock ticks since boot: with the pid it names a process for good.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Opens anew what a process has open under this number: of a pipe, either end.
///
/// # Errors
/// There is no such process or descriptor.
pub fn reopen(pid: i32, fd: i32, how: nix::fcntl::OFlag) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(format!("/proc/{pid}/fd/{fd}").as_str(), how | nix::fcntl::OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?)
}

/// Orphans among our descendants become our children.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Children are reaped by the kernel; nobody asks for their codes.
pub fn ignore_children() -> io::Result<()> {
    signal_action(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn)
}

/// Writing to a pipe that nobody reads gives an error instead of death.
pub fn ignore_broken_pipes() -> io::Result<()> {
    signal_action(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigIgn)
}

/// All signals as a fresh program expects them: default actions, none blocked.
pub fn reset_signals() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, SigSet};
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        signal_action(signal, SigHandler::SigDfl)?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

fn signal_action(signal: Signal, handler: nix::sys::signal::SigHandler) -> io::Result<()> {
    // SAFETY: only the default and the ignoring disposition are set: no handler of ours runs.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

/// Marks every descriptor from `first` on to be closed by the next exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: plain integers; no descriptor is closed now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes a forked child's copy of a descriptor that its parent owns. Only for a child that ends by `_exit` or exec, so that the owner's
/// copy is never dropped in it.
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: see above; the number is not used again in this process.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Closes every descriptor from `first` on. Only for a process that does nothing more with any of them.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller is a process that never touches a descriptor again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts `fd` where programs expect stdin (0), stdout (1) or stderr (2).
pub fn set_stdio(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: 0, 1 and 2 are never owned by a Rust object in this process.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the terminal on `fd` the controlling one of this session.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes an integer.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the size of a terminal.
pub fn set_window_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads a live winsize.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a new terminal pair of the devpts that is mounted here: master, then slave.
pub fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::OFlag;
    use std::os::fd::IntoRawFd;
    let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    nix::pty::unlockpt(&master)?;
    // SAFETY: PtyMaster gives its descriptor up.
    let master = unsafe { OwnedFd::from_raw_fd(master.into_raw_fd()) };
    // SAFETY: TIOCGPTPEER takes open flags and gives a new descriptor: no path is walked, so /dev/pts cannot be spoofed.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave) }))
}

/// Columns and rows of a terminal; none when it is no terminal.
pub fn window_size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize, which lives through the call.
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}

/// Waits for the end of a process without holding a thread.
///
/// # Errors
/// The runtime cannot watch the descriptor.
pub async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned by the registration and stays open for as long as that lives.
    let fd = unsafe { tokio::io::unix::AsyncFd::register(pidfd) }.map_err(io::Error::from)?;
    fd.readable().await.map(drop)
}

/// Lets the command run in a session of its own: the end of its parent's terminal does not reach it.
pub fn in_own_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn exit_status_is_known_to_the_parent_and_to_a_stranger() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let pidfd = open_pidfd(pid).unwrap();
        assert!(!has_ended(pidfd.as_fd()));
        assert_eq!(try_wait(pidfd.as_fd()).unwrap(), None);
        drop(child.stdin.take());
        while !has_ended(pidfd.as_fd()) {
            std::thread::yield_now();
        }
        assert_eq!(exit_of_stranger(pidfd.as_fd(), pid), Some(Exit::Code(7)), "as a zombie");
        child.wait().unwrap();
        if exit_from_pidfd(pidfd.as_fd()).is_some() {
            assert_eq!(exit_of_stranger(pidfd.as_fd(), pid), Some(Exit::Code(7)), "after it was reaped");
        }
        assert_eq!(send_signal(pidfd.as_fd(), libc::SIGTERM).map_err(|e| e.to_string()), Ok(()));
    }
}
