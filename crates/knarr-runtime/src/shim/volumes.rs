//! Volumes that an image declares: folders of the host that begin as copies of what the image has there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use knarr_sys::mount;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat};
use nix::sys::time::TimeSpec;

/// Objects copied into one volume: an image that wants more is better off with a volume of the pod.
const OBJECTS_MAX: usize = 1_000_000;
/// Levels of folders.
const DEPTH_MAX: usize = 128;

/// Copies the image's folder `path` into `host`, which is empty. A path that the image does not have stays empty.
pub fn fill(root: BorrowedFd<'_>, path: &Path, host: &Path) -> io::Result<()> {
    let from = match mount::open_in_root(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, ResolveFlag::empty()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    let to: OwnedFd = std::fs::File::open(host)?.into();
    let mut left = OBJECTS_MAX;
    copy_folder(from.as_fd(), to.as_fd(), DEPTH_MAX, &mut left)?;
    decorate_folder(from.as_fd(), to.as_fd())
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize, left: &mut usize) -> io::Result<()> {
    let too_much = || io::Error::other("the image has too much in a volume");
    let deeper = depth.checked_sub(1).ok_or_else(too_much)?;
    let mut listing = nix::dir::Dir::openat(from, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        let name = OsStr::from_bytes(name.as_bytes());
        if name == "." || name == ".." {
            continue;
        }
        *left = left.checked_sub(1).ok_or_else(too_much)?;
        copy_object(from, to, name, deeper, left)?;
    }
    Ok(())
}

fn copy_object(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, depth: usize, left: &mut usize) -> io::Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (kind, mode) = (SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT), Mode::from_bits_truncate(stat.st_mode & 0o7777));
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
            let (inner_from, inner_to) = (open_folder(from, name)?, open_folder(to, name)?);
            copy_folder(inner_from.as_fd(), inner_to.as_fd(), depth, left)?;
            return decorate_folder(inner_from.as_fd(), inner_to.as_fd());
        }
        SFlag::S_IFREG => copy_file(from, to, name)?,
        SFlag::S_IFLNK => nix::unistd::symlinkat(nix::fcntl::readlinkat(from, name)?.as_os_str(), to, name)?,
        kind => mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    nix::unistd::fchownat(to, name, Some(stat.st_uid.into()), Some(stat.st_gid.into()), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != SFlag::S_IFLNK {
        nix::sys::stat::fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    Ok(nix::sys::stat::utimensat(to, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::openat(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let source = nix::fcntl::openat(from, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let target = nix::fcntl::openat(to, name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o600))?;
    io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target)).map(drop)
}

fn decorate_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = nix::sys::stat::fstat(from)?;
    nix::unistd::fchown(to, Some(stat.st_uid.into()), Some(stat.st_gid.into()))?;
    nix::sys::stat::fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    Ok(nix::sys::stat::futimens(to, &time, &time)?)
}
