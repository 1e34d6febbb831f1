//! Mounts by file descriptor.
//!
//! A container's root is put together from detached mounts (`fsopen`, `open_tree`) that are attached to directories opened with
//! `openat2(RESOLVE_IN_ROOT)`. No path is looked up a second time, so a process that swaps a path for a link while we work gains nothing.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::MntFlags;
use nix::sys::stat::{Mode, mkdirat};

/// Levels of a path below a root: nobody has a use for more, and each level costs a descriptor walk.
const DEPTH_MAX: usize = 256;

/// Attributes of a mount, joined with `|`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr(u64);

impl Attr {
    pub const NONE: Self = Self(0);
    pub const RDONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    pub const NOSUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    pub const NODEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    pub const NOEXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);

    fn bits(self) -> u64 {
        self.0
    }
}

impl std::ops::BitOr for Attr {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How mounts and unmounts travel between this mount and its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
        }
    }
}

fn c_string(text: &[u8]) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path contains a NUL byte"))
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A filesystem being configured: `fsopen(2)`.
pub struct Filesystem(OwnedFd);

impl Filesystem {
    pub fn open(kind: &str) -> io::Result<Self> {
        let kind = c_string(kind.as_bytes())?;
        // SAFETY: `kind` is a NUL-terminated string that outlives the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets an option. The kernel takes at most 255 bytes of value.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> io::Result<&Self> {
        let (key, value) = (c_string(key.as_bytes())?, c_string(value.as_ref())?);
        self.config(libc::FSCONFIG_SET_STRING, Some(&key), Some(&value))?;
        Ok(self)
    }

    pub fn flag(&self, key: &str) -> io::Result<&Self> {
        self.config(libc::FSCONFIG_SET_FLAG, Some(&c_string(key.as_bytes())?), None)?;
        Ok(self)
    }

    /// Makes the superblock and a detached mount of it.
    pub fn mount(self, attributes: Attr) -> io::Result<OwnedFd> {
        self.config(libc::FSCONFIG_CMD_CREATE, None, None).map_err(|error| self.explain(error))?;
        // SAFETY: plain integers and a descriptor that we own.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes.bits() as libc::c_uint) })
    }

    fn config(&self, command: libc::fsconfig_command, key: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both strings, where given, are NUL-terminated and outlive the call.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(key), pointer(value), 0) })
    }

    /// The kernel's own words for a failure lie in the descriptor's message queue.
    fn explain(&self, error: io::Error) -> io::Error {
        let mut text = [0u8; 512];
        match nix::unistd::read(&self.0, &mut text) {
            Ok(n) if n > 0 => io::Error::new(error.kind(), format!("{error}: {}", String::from_utf8_lossy(&text[..n]).trim())),
            _ => error,
        }
    }
}

/// A detached copy of the mount at `path`, with everything mounted below it when `recursive`.
pub fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, &c_string(path.as_os_str().as_bytes())?, recursive, 0)
}

/// A detached copy of what `fd` stands on.
pub fn clone_tree_at(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    open_tree(fd.as_raw_fd(), c"", recursive, libc::AT_EMPTY_PATH)
}

fn open_tree(dir: i32, path: &CStr, recursive: bool, extra: libc::c_int) -> io::Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE as libc::c_uint } else { 0 };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursive | extra as libc::c_uint;
    // SAFETY: `path` is NUL-terminated and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Changes attributes and propagation of the mount that `fd` stands on, and of all below it when `recursive`.
pub fn set_attributes(fd: BorrowedFd<'_>, set: Attr, propagation: Option<Propagation>, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set.bits(), attr_clr: 0, propagation: propagation.map_or(0, Propagation::flag), userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: `attributes` is a live struct of the size that is passed.
    done(unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &attributes, size) })
}

/// Attaches a detached mount on what `target` stands on.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are NUL-terminated constants, both descriptors are alive.
    done(unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a detached mount at a path of our own making (never one that a container can write).
pub fn attach_at(mount: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_string(path.as_os_str().as_bytes())?;
    // SAFETY: as above; the path is NUL-terminated.
    done(unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH) })
}

/// Unmounts lazily; a path on which nothing is mounted, or that is gone, is fine.
pub fn unmount(path: &Path) -> io::Result<()> {
    match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens `path` as a process whose root is `root` would: `..` and absolute links stay inside.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    open_in_root_mode(root, path, flags, Mode::empty(), resolve)
}

pub fn open_in_root_mode(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | resolve);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // The kernel asks to try again when a rename elsewhere raced with the walk.
    for _ in 0..128 {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => continue,
            other => return other.map_err(io::Error::from),
        }
    }
    Err(io::Error::from(Errno::EAGAIN))
}

/// Opens the directory `path` inside `root`, making what is missing with `mode`. Links are followed inside the root; a dangling one is
/// followed to where it points and the directory made there, as Docker does.
pub fn make_dir_in_root(root: BorrowedFd<'_>, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let wanted = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_in_root(root, path, wanted, ResolveFlag::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut present = PathBuf::new();
    let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).collect();
    if parts.len() > DEPTH_MAX {
        return Err(io::Error::from(Errno::ENAMETOOLONG));
    }
    let mut dir = open_in_root(root, Path::new("/"), wanted, ResolveFlag::empty())?;
    for part in parts {
        present.push(part);
        dir = match open_in_root(root, &present, wanted, ResolveFlag::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_one(root, dir.as_fd(), &present, mode)?;
                open_in_root(root, &present, wanted, ResolveFlag::empty())?
            }
            other => other?,
        };
    }
    Ok(dir)
}

/// Makes the last part of `path` under `parent`, or what it points to when it is a dangling link.
fn make_one(root: BorrowedFd<'_>, parent: BorrowedFd<'_>, path: &Path, mode: Mode) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    match mkdirat(parent, name, mode) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => {
            let target = nix::fcntl::readlinkat(parent, name)?;
            let target = path.parent().unwrap_or(Path::new("/")).join(target);
            if target == path { Err(io::Error::from(Errno::ELOOP)) } else { make_dir_in_root(root, &target, mode).map(drop) }
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the file `path` inside `root` for mounting on it, making an empty one where it is missing.
pub fn make_file_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH, ResolveFlag::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    make_dir_in_root(root, path.parent().unwrap_or(Path::new("/")), Mode::from_bits_truncate(0o755))?;
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    open_in_root_mode(root, path, flags, Mode::from_bits_truncate(0o644), ResolveFlag::empty())?;
    open_in_root(root, path, OFlag::O_PATH, ResolveFlag::empty())
}

/// Makes the mount namespace's root what the working directory stands on, and lets the old root go.
pub fn pivot_root_here() -> io::Result<()> {
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir("/")?)
}

/// Type of the file that `fd` stands on, and the device it is when it is one.
pub fn file_type(fd: BorrowedFd<'_>) -> io::Result<(nix::sys::stat::SFlag, u64)> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok((nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT), stat.st_rdev))
}

/// Gives the object that `fd` stands on (also an `O_PATH` one) to an owner.
pub fn change_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(nix::unistd::fchownat(fd, "", Some(uid.into()), Some(gid.into()), AtFlags::AT_EMPTY_PATH)?)
}
