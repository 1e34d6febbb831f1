//! Network namespaces: making them, keeping them by a file, entering them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// A handle to a network namespace, which lives at least as long as the handle.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// One kept by a file: `/proc/PID/ns/net`, or a path made by [`Self::create_at`] or `ip netns`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    /// A new one that nothing but this handle keeps. Its `lo` is down.
    pub fn anonymous() -> io::Result<Self> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })
    }

    /// A new one kept by a bind mount on `path` (an empty file is made there). An existing one at `path` is an error.
    pub fn create_at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create_new(path)?;
        let made = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Self::current()
        });
        if made.is_err() {
            fs::remove_file(path)?;
        }
        made
    }

    /// Takes away what [`Self::create_at`] made. The namespace itself goes when its last process and handle do. Nothing at
    /// `path` is no error.
    pub fn delete_at(path: &Path) -> io::Result<()> {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => (),
            Err(e) => return Err(e.into()),
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Runs `work` on a thread of its own inside this namespace. Sockets that it opens stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Moves the calling thread into this namespace for good. Threads made by it afterwards start there too: a process that
    /// calls this first thing in `main` lives there as a whole.
    pub fn enter(&self) -> io::Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    /// Lets the program that `command` starts live in this namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn run_there(&self, command: &mut std::process::Command) -> io::Result<()> {
        use std::os::unix::process::CommandExt;
        let there = self.try_clone()?;
        // SAFETY: setns is a plain system call on a descriptor that the closure owns, and the child has one thread.
        unsafe { command.pre_exec(move || there.enter()) };
        Ok(())
    }

    /// A number that tells namespaces apart while they live.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?.ino())
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread that changes its namespaces must not be used again for anything else.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        let (outside, inside) = (NetNs::current().unwrap().id().unwrap(), NetNs::anonymous().unwrap());
        let seen = inside.run(|| NetNs::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(seen, inside.id().unwrap());
        assert_ne!(seen, outside);
        assert_eq!(NetNs::current().unwrap().id().unwrap(), outside);
    }

    #[test]
    fn a_program_can_be_started_in_another_one() {
        let there = NetNs::anonymous().unwrap();
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "readlink /proc/self/ns/net"]);
        there.run_there(&mut command).unwrap();
        let seen = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(seen.trim(), format!("net:[{}]", there.id().unwrap()));
    }

    #[test]
    fn a_namespace_kept_by_a_path_is_found_again_and_goes_without_a_trace() {
        let folder = std::env::temp_dir().join(format!("knarr-netns-{}", std::process::id()));
        let path = folder.join("one");
        let made = NetNs::create_at(&path).unwrap().id().unwrap();
        assert_eq!(NetNs::open(&path).unwrap().id().unwrap(), made);
        assert!(NetNs::create_at(&path).is_err());
        NetNs::delete_at(&path).unwrap();
        NetNs::delete_at(&path).unwrap();
        assert!(!path.exists());
        fs::remove_dir(&folder).unwrap();
    }
}
