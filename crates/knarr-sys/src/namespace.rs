//! Namespaces: making them, pinning them to a file, entering them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Opens a namespace of a process: `net`, `ipc`, `uts`, `pid`, `mnt`, `cgroup`.
pub fn open(pid: i32, kind: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/{kind}"))?.into())
}

/// Opens a namespace of the calling thread.
pub fn open_own(kind: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/thread-self/ns/{kind}"))?.into())
}

/// Enters a namespace of the kinds in `flags`; `fd` is a namespace file or a pidfd.
pub fn enter(fd: BorrowedFd<'_>, flags: CloneFlags) -> io::Result<()> {
    Ok(setns(fd, flags)?)
}

/// Gives the calling thread new namespaces.
pub fn separate(flags: CloneFlags) -> io::Result<()> {
    Ok(unshare(flags)?)
}

/// Keeps the calling thread's namespace of a kind alive at `path`, which is made.
pub fn pin(kind: &str, path: &Path) -> io::Result<()> {
    File::create(path)?;
    let source = PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
    Ok(mount(Some(&source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Lets a pinned namespace go. A pin that is gone already is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    crate::mount::unmount(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Sets `lo` of the calling thread's network namespace up, which gives it 127.0.0.1 and ::1.
pub fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a live ifreq with a NUL-terminated name.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Where a sysctl lies: dots become slashes, and a slash in the name stands for a dot, as in sysctl(8).
pub fn sysctl_path(name: &str) -> Option<PathBuf> {
    let slashes_first = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/');
    let swapped: String = if slashes_first {
        name.to_owned()
    } else {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect()
    };
    let sound = !swapped.is_empty() && swapped.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    sound.then(|| Path::new("/proc/sys").join(swapped))
}

/// Sets a sysctl of the calling thread's namespaces.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = sysctl_path(name).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("invalid sysctl {name:?}")))?;
    std::fs::write(path, value)
}

/// An empty mount namespace: nothing but a small read-only tmpfs with the folder [`EMPTY_MOUNT_POINT`] in it. A container's namespace is
/// copied from it, so that its cost does not grow with the mounts of the host. Replaces the caller's own mount namespace: call it in a
/// child made for it, and keep the descriptor. `scratch` is a folder to cover, looked for from the root of the namespace, which is not the
/// caller's in a chroot.
pub fn make_empty_mount_namespace(scratch: &Path) -> io::Result<OwnedFd> {
    separate(CloneFlags::CLONE_NEWNS)?;
    // Entering it once more leads to its own root. That of a chroot is no mount point, and only one of those can be replaced.
    enter(open_own("mnt")?.as_fd(), CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("none"), scratch, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, Some("size=4k,mode=0755"))?;
    nix::unistd::chdir(scratch)?;
    std::fs::create_dir(format!(".{EMPTY_MOUNT_POINT}"))?;
    let own = open_own("mnt")?;
    crate::mount::pivot_root_here()?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, None::<&str>)?;
    Ok(own)
}

/// Where a root filesystem is attached in the empty mount namespace.
pub const EMPTY_MOUNT_POINT: &str = "/root";

/// Enters an empty mount namespace and makes an own copy of it.
pub fn enter_copy_of(template: &OwnedFd) -> io::Result<()> {
    enter(template.as_fd(), CloneFlags::CLONE_NEWNS)?;
    separate(CloneFlags::CLONE_NEWNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths_that_stay_in_proc_sys() {
        let path = |name| sysctl_path(name).map(|p| p.display().to_string());
        assert_eq!(path("net.ipv4.ip_forward").as_deref(), Some("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(path("net.ipv4.conf.eth0/1.rp_filter").as_deref(), Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter"));
        assert_eq!(path("net/ipv4/conf/eth0.1/rp_filter").as_deref(), Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter"));
        assert_eq!(path("kernel/../../etc/passwd"), None);
        assert_eq!(path("a..b"), None);
        assert_eq!(path(""), None);
    }

    #[test]
    fn an_empty_mount_namespace_is_made_in_a_chroot_too() {
        let folder = std::env::temp_dir().join(format!("knarr-chroot-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("proc")).expect("a folder");
        let place = folder.clone();
        // A thread's own namespace and root: both end with it.
        let seen = std::thread::spawn(move || {
            separate(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("/proc"), &place.join("proc"), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            nix::unistd::chroot(&place)?;
            nix::unistd::chdir("/")?;
            make_empty_mount_namespace(Path::new("/dev"))?;
            std::fs::read_dir("/")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let seen = seen.join().expect("no panic").expect("a namespace (as root)");
        assert_eq!(seen, [EMPTY_MOUNT_POINT.trim_start_matches('/')], "nothing of the machine is left");
        for empty in [folder.join("proc"), folder] {
            std::fs::remove_dir(empty).expect("an empty folder");
        }
    }
}
