//! Files below a directory that somebody else may be writing to. Every path is walked by the kernel with
//! `openat2(RESOLVE_BENEATH)`: a link that leads out is an error, however fast it is swapped in (CVE-2021-25741, CVE-2017-1002101).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

/// Bytes of a file that is read whole.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often the kernel may ask for another try because of a rename elsewhere.
const TRIES_MAX: usize = 128;

/// Opens a directory that is trusted as the start of walks.
///
/// # Errors
/// As `open(2)`.
pub fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Opens `path` below `root`. Links are followed while they stay below it.
///
/// # Errors
/// `EXDEV` for a path that leads out, or as `openat2(2)`.
pub fn open(root: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..TRIES_MAX {
        match openat2(root.as_fd(), path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other.map_err(io::Error::from),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// The text of a small file below `root`.
///
/// # Errors
/// As [`open`], or for a file that is not text or too large.
pub fn read_to_string(root: &Path, path: &Path) -> io::Result<String> {
    let file = File::from(open(open_root(root)?, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?);
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is too large"));
    }
    Ok(text)
}

/// Opens `path` below `root`, making the directories that are missing with the permissions of `root` itself (upstream: `SafeMakeDir`).
///
/// # Errors
/// As [`open`], or as `mkdirat(2)`.
pub fn open_or_make_dirs(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let start = open_root(root)?;
    match open(&start, path, OFlag::O_PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mode = Mode::from_bits_truncate(fstat(&start)?.st_mode);
    let mut dir = open(&start, Path::new("."), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let mut walked = std::path::PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { return Err(Errno::EXDEV.into()) };
        walked.push(name);
        match open(&start, &walked, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(next) => dir = next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mkdirat(&dir, name, mode)?;
                dir = open(&start, &walked, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
                // The mode of mkdir went through the umask.
                fchmod(&dir, mode)?;
            }
            Err(error) => return Err(error),
        }
    }
    open(&start, path, OFlag::O_PATH)
}

/// Whether an open path is a directory.
///
/// # Errors
/// As `fstat(2)`.
pub fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_may_lead_around_but_not_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::fs::write(root.join("in/file"), "yes").unwrap();
        std::os::unix::fs::symlink("in", root.join("around")).unwrap();
        std::os::unix::fs::symlink("..", root.join("out")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("absolute")).unwrap();
        assert_eq!(read_to_string(&root, Path::new("around/file")).unwrap(), "yes");
        for path in ["out/secret", "../secret", "absolute", "/etc/passwd"] {
            assert!(read_to_string(&root, Path::new(path)).is_err(), "{path}");
        }
        assert!(open_or_make_dirs(&root, Path::new("out/new")).is_err());
        assert!(open_or_make_dirs(&root, Path::new("a/../b")).is_err());
    }

    #[test]
    fn missing_directories_get_the_permissions_of_the_volume() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2770)).unwrap();
        open_or_make_dirs(dir.path(), Path::new("a/b")).unwrap();
        for path in ["a", "a/b"] {
            assert_eq!(std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777, 0o2770, "{path}");
        }
    }
}
