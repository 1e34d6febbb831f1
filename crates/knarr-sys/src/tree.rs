//! Removing folders without ever going through a mount.
//!
//! Folders of pods hold mounts of the user's own folders (`hostPath`, claims, sub paths). A mount that was not taken back, for whatever
//! reason, must not carry a removal into what it shows: the standard library's `remove_dir_all` would empty it. Trees may also be as deep as
//! a container likes, so neither the stack nor the number of open files grows with their depth.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Levels that are walked down; what lies deeper is moved up first.
const DEPTH_MAX: usize = 32;

/// Removes a file or a folder with all it holds. Nothing there is fine.
///
/// # Errors
/// `ResourceBusy` if something is mounted at or below `path`: the mount and what it shows are left as they are, while siblings may be gone.
/// The file system's otherwise; it may be called again then.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no folder that can be removed", path.display())));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = match nix::fcntl::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        opened => opened?,
    };
    explained(path, remove_at(parent.as_fd(), &c_name(name)?, None))
}

/// Removes what a folder holds, not the folder, which may be a mount itself. Nothing there is fine.
///
/// # Errors
/// As [`remove`], for what is mounted below `path`.
pub fn empty(path: &Path) -> io::Result<()> {
    match nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty()) {
        Err(Errno::ENOENT) => Ok(()),
        opened => explained(path, empty_top(&opened?)),
    }
}

fn explained(path: &Path, result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EXDEV | Errno::EBUSY) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("something is mounted at or below {}: it is left as it is", path.display())))
        }
        other => other.map_err(io::Error::from),
    }
}

/// Where folders go that lie too deep: the top of the tree, and how many have gone there.
struct Top<'a> {
    folder: BorrowedFd<'a>,
    moved: usize,
    depth: usize,
}

/// Removes `name` in `parent`. Without a `top` it is one itself.
fn remove_at(parent: BorrowedFd, name: &CStr, top: Option<&mut Top>) -> nix::Result<()> {
    if !is_folder(parent, name)? {
        return unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
    }
    let folder = open_folder(parent, name)?;
    match top {
        Some(top) if top.depth == DEPTH_MAX => return move_up(parent, name, top),
        Some(top) => {
            top.depth += 1;
            let emptied = remove_entries(&folder, top);
            top.depth -= 1;
            emptied?;
        }
        None => empty_top(&folder)?,
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

/// Empties the top again and again for as long as deep folders are moved up to it.
fn empty_top(folder: &OwnedFd) -> nix::Result<()> {
    let mut top = Top { folder: folder.as_fd(), moved: 0, depth: 0 };
    loop {
        let before = top.moved;
        remove_entries(folder, &mut top)?;
        if top.moved == before {
            return Ok(());
        }
    }
}

fn remove_entries(folder: &OwnedFd, top: &mut Top) -> nix::Result<()> {
    for name in names(folder)? {
        match remove_at(folder.as_fd(), &name, Some(top)) {
            Err(Errno::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Names are read before the first is removed: what a listing shows while its folder changes is not defined.
fn names(folder: &OwnedFd) -> nix::Result<Vec<CString>> {
    let again = nix::fcntl::openat(folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    let listing = nix::dir::Dir::from_fd(again)?;
    listing.into_iter().map(|e| e.map(|e| e.file_name().to_owned())).filter(|n| !matches!(n, Ok(n) if matches!(n.to_bytes(), b"." | b".."))).collect()
}

fn is_folder(parent: BorrowedFd, name: &CStr) -> nix::Result<bool> {
    let found = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Opens a folder that is no mount and no link: `EXDEV` for a mount, bind mounts of the same file system included.
fn open_folder(parent: BorrowedFd, name: &CStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    nix::fcntl::openat2(parent, name, how)
}

fn move_up(parent: BorrowedFd, name: &CStr, top: &mut Top) -> nix::Result<()> {
    loop {
        top.moved += 1;
        let place = c_name(OsStr::new(&format!(".removing-{}", top.moved))).map_err(|_| Errno::EINVAL)?;
        match nix::fcntl::renameat2(parent, name, top.folder, place.as_c_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            other => return other,
        }
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("knarr-tree-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn files_folders_and_links_go_and_what_links_point_to_stays() {
        let folder = scratch("plain");
        fs::create_dir_all(folder.join("tree/a/b")).unwrap();
        fs::write(folder.join("tree/a/file"), "x").unwrap();
        fs::write(folder.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&folder, folder.join("tree/link")).unwrap();
        remove(&folder.join("tree")).unwrap();
        assert!(!folder.join("tree").exists() && folder.join("kept").exists());
        remove(&folder.join("tree")).unwrap();
        remove(&folder.join("no/such/place")).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_tree_as_deep_as_a_container_likes_goes() {
        let folder = scratch("deep");
        let mut inner = nix::fcntl::open(&folder, OFlag::O_PATH | OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
        for _ in 0..500 {
            nix::sys::stat::mkdirat(&inner, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            inner = nix::fcntl::openat(&inner, "d", OFlag::O_PATH | OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
        }
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_mounted_below_is_never_emptied() {
        let folder = scratch("mount");
        let (tree, kept) = (folder.join("tree"), folder.join("kept"));
        fs::create_dir_all(tree.join("mounted")).unwrap();
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("precious"), "x").unwrap();
        let shown = crate::mount::clone_tree(&kept, false).unwrap();
        crate::mount::attach_at(shown.as_fd(), &tree.join("mounted")).unwrap();
        let refused = remove(&tree).unwrap_err();
        let itself = remove(&tree.join("mounted")).unwrap_err();
        assert!(kept.join("precious").exists());
        empty(&tree.join("mounted")).unwrap();
        assert!(kept.exists() && !kept.join("precious").exists());
        crate::mount::unmount(&tree.join("mounted")).unwrap();
        assert_eq!((refused.kind(), itself.kind()), (io::ErrorKind::ResourceBusy, io::ErrorKind::ResourceBusy));
        assert!(refused.to_string().contains("mounted at or below"), "{refused}");
        remove(&folder).unwrap();
    }
}
