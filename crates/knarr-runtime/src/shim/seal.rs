//! Runs the shim from a copy of its program that nobody can write to.
//!
//! A container can get hold of the program that started it, through `/proc/self/exe`, and wait for a moment to overwrite it (CVE-2019-5736).
//! So the program is executed from a read-only overlay of its folder: the same pages in memory, but a file that refuses to be written, also
//! to root.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use knarr_sys::mount::{Attr, Filesystem};
use nix::fcntl::{OFlag, ResolveFlag};

/// The argument that tells a sealed program from one that is not.
pub const SEALED: &str = "sealed";

/// Executes this program again from a sealed file, with [`SEALED`] as one more argument. Comes back only with an error.
pub fn execute_sealed() -> io::Error {
    match sealed_self().and_then(|program| execute(&program)) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn execute(program: &OwnedFd) -> io::Result<std::convert::Infallible> {
    let strings = |list: Vec<OsString>| list.into_iter().map(|s| CString::new(s.as_bytes())).collect::<Result<Vec<_>, _>>().map_err(io::Error::other);
    let arguments = strings(std::env::args_os().chain([OsString::from(SEALED)]).collect())?;
    let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd())).map_err(io::Error::other)?;
    Ok(nix::unistd::execve(&path, &arguments, &[] as &[CString])?)
}

fn sealed_self() -> io::Result<OwnedFd> {
    let own = std::fs::read_link("/proc/self/exe")?;
    let (folder, name) = (own.parent().unwrap_or(Path::new("/")), own.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?);
    let overlay = overlay_of(folder)?;
    let sealed = knarr_sys::mount::open_in_root(overlay.as_fd(), Path::new(name), OFlag::O_RDONLY, ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    // The file may have been replaced by an upgrade since we were started; then it is another program.
    let same = |path: PathBuf| std::fs::metadata(path).map(|m| (m.len(), m.modified().ok()));
    if same(PathBuf::from("/proc/self/exe"))? != same(PathBuf::from(format!("/proc/self/fd/{}", sealed.as_raw_fd())))? {
        return Err(io::Error::other("the program's file has been replaced"));
    }
    Ok(sealed)
}

/// A read-only overlay wants two layers: the second is empty.
fn overlay_of(folder: &Path) -> io::Result<OwnedFd> {
    let empty = Filesystem::open("tmpfs")?;
    empty.set("size", "4k")?;
    let empty = empty.mount(Attr::NONE)?;
    let overlay = Filesystem::open("overlay")?;
    overlay.set("lowerdir+", folder.as_os_str().as_bytes())?;
    overlay.set("lowerdir+", format!("/proc/self/fd/{}", empty.as_raw_fd()))?;
    overlay.mount(Attr::NOSUID | Attr::NODEV)
}
