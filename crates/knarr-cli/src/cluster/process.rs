//! Processes of a cluster: a pid file with the start time beside the pid, so that a reused pid is never taken for ours; a pidfd
//! to learn of a death without asking again and again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_sys::netlink::NetNs;
use knarr_sys::process::{in_own_session, open_pidfd, send_signal, start_time};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::config::{Cluster, write_whole};
use super::failure::{Exit, Failure, Result};

/// How long a process that was killed may still seem to have its role.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(2);

/// A process that was seen alive.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// The process that a pid file names, if it still lives.
    pub fn from_pid_file(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        let found = Self::open(pid).ok()?;
        (start_time(pid)? == started.parse::<u64>().ok()? && !found.wait(Duration::ZERO)).then_some(found)
    }

    fn open(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, pidfd: open_pidfd(pid)? })
    }

    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(self.pidfd.as_fd(), signal)
    }

    /// Waits at most this long for its end; says whether it has ended.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout.as_millis()).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    /// Waits for its end without holding a thread.
    ///
    /// # Errors
    /// No descriptor is left to watch it with.
    pub async fn ended(&self) -> io::Result<()> {
        knarr_sys::process::ended(self.pidfd.try_clone()?).await
    }
}

/// The network namespace that the cluster's processes start in. One that has moved into a node's keeps the machine's here.
#[derive(Clone, Debug, Default)]
pub struct Home(Option<Arc<NetNs>>);

impl Home {
    /// `None`: where this process is.
    pub fn at(machine: Option<Arc<NetNs>>) -> Self {
        Self(machine)
    }
}

/// What makes a process the one that has a role, for as long as it lives.
#[must_use = "the role is free again when this is dropped"]
pub struct Tenure(#[expect(dead_code, reason = "held for its lock")] fs::File);

/// Takes a role, and writes the pid file of it. Whoever starts processes may be killed before it knows of the one that it has started, and
/// another may start a second: that one is refused here, and the pid file goes on to name the first.
///
/// # Errors
/// Another process has the role, or a file cannot be written.
pub fn take_role(cluster: &Cluster, role: &str) -> Result<Tenure> {
    let path = cluster.run.join(format!("{role}.tenure"));
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| Failure::file(&path, &e))?;
    let until = Instant::now() + PREDECESSOR_WAIT;
    while let Err(error) = file.try_lock() {
        match error {
            fs::TryLockError::Error(e) => return Err(Failure::file(&path, &e)),
            fs::TryLockError::WouldBlock if Process::from_pid_file(&cluster.pid_file(role)).is_some() || Instant::now() > until => {
                return Err(Failure::new("ROLE_TAKEN", Exit::Resource, format!("another process is the {role} of this cluster"), "see `knarr status`"));
            }
            // Its last holder was killed a moment ago, or has not written its pid yet.
            fs::TryLockError::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    let pid = i32::try_from(std::process::id()).map_err(Failure::program)?;
    let started = start_time(pid).unwrap_or(0);
    write_whole(&cluster.pid_file(role), format!("{pid} {started}\n").as_bytes())?;
    Ok(Tenure(file))
}

/// Starts this very program in the background, at home, in a session of its own, with its output in the log folder.
///
/// # Errors
/// The log file cannot be written or the program not be run.
pub fn spawn(cluster: &Cluster, role: &str, args: &[String], home: &Home) -> Result<u32> {
    let path = cluster.logs().join(format!("{role}.log"));
    let log = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Failure::file(&path, &e))?;
    let errors = log.try_clone().map_err(|e| Failure::file(&path, &e))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("knarr").args(args).current_dir("/").stdin(Stdio::null()).stdout(log).stderr(errors);
    in_own_session(&mut command);
    if let Some(machine) = &home.0 {
        machine.run_there(&mut command).map_err(|e| Failure::program(format!("the machine's network: {e}")))?;
    }
    let child = command.spawn().map_err(|e| Failure::program(format!("cannot start {role}: {e}")))?;
    let pid = child.id();
    // Whoever lives on as its parent must not leave a zombie behind.
    std::thread::spawn(move || {
        let mut child = child;
        if let Err(e) = child.wait() {
            tracing::warn!(error = %e, "waiting for a child failed");
        }
    });
    Ok(pid)
}

/// Asks a process to end and insists after `grace`. Says whether there was one.
pub fn end(process: &Process, grace: Duration) -> bool {
    if process.signal(libc::SIGTERM).is_err() {
        return false;
    }
    if !process.wait(grace) {
        if let Err(e) = process.signal(libc::SIGKILL) {
            tracing::warn!(pid = process.pid, error = %e, "cannot kill");
        }
        process.wait(Duration::from_secs(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::config::tests::sample;

    #[test]
    fn a_pid_file_of_another_start_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.pid");
        let pid = i32::try_from(std::process::id()).unwrap();
        fs::write(&file, format!("{pid} {}\n", start_time(pid).unwrap())).unwrap();
        assert_eq!(Process::from_pid_file(&file).map(|p| p.pid), Some(pid));
        fs::write(&file, format!("{pid} 1\n")).unwrap();
        assert!(Process::from_pid_file(&file).is_none());
    }

    #[test]
    fn a_role_has_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = sample(folder.path());
        fs::create_dir_all(&cluster.run).unwrap();
        let first = take_role(&cluster, "server").unwrap();
        let before = fs::read_to_string(cluster.pid_file("server")).unwrap();
        assert_eq!(take_role(&cluster, "server").err().map(|e| e.code), Some("ROLE_TAKEN"));
        assert_eq!(fs::read_to_string(cluster.pid_file("server")).unwrap(), before);
        drop(take_role(&cluster, "guard").unwrap());
        drop(first);
        // A program that another test starts at this moment may have the lock for as long as it takes to become that program. The role is
        // waited for where its last holder lives no more, and here that is this very process.
        fs::remove_file(cluster.pid_file("server")).unwrap();
        drop(take_role(&cluster, "server").unwrap());
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.wait(Duration::ZERO));
        assert!(end(&process, Duration::from_secs(5)));
        assert!(process.wait(Duration::ZERO));
        child.wait().unwrap();
    }
}
