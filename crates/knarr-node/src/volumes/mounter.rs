//! The few mounts that the agent makes itself: memory for volumes, and directories pinned for `subPath`. Behind a trait, so that
//! tests and simulated nodes need no privilege.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use knarr_sys::mount::{self, Attr, Filesystem};
use parking_lot::Mutex;

pub trait Mounter: Send + Sync + 'static {
    /// Mounts memory on a directory; no size means half of the machine's.
    fn tmpfs(&self, on: &Path, size: Option<u64>, mode: u32) -> io::Result<()>;
    /// Mounts huge pages of this size (`2M`) on a directory.
    fn hugetlbfs(&self, on: &Path, page_size: &str) -> io::Result<()>;
    /// Mounts what is open, with everything below it, on a path.
    fn bind(&self, what: BorrowedFd<'_>, on: &Path) -> io::Result<()>;
    /// Unmounts a path; nothing mounted there is fine.
    fn unmount(&self, path: &Path) -> io::Result<()>;
    /// Whether a file system of its own begins at this path.
    fn is_mounted(&self, path: &Path) -> bool;
}

/// The kernel.
pub struct Kernel;

impl Mounter for Kernel {
    fn tmpfs(&self, on: &Path, size: Option<u64>, mode: u32) -> io::Result<()> {
        let fs = Filesystem::open("tmpfs")?;
        if let Some(size) = size {
            fs.set("size", size.to_string())?;
        }
        fs.set("mode", format!("{mode:o}"))?;
        mount::attach_at(fs.mount(Attr::NONE)?.as_fd(), on)
    }

    fn hugetlbfs(&self, on: &Path, page_size: &str) -> io::Result<()> {
        let fs = Filesystem::open("hugetlbfs")?;
        fs.set("pagesize", page_size)?;
        mount::attach_at(fs.mount(Attr::NODEV)?.as_fd(), on)
    }

    fn bind(&self, what: BorrowedFd<'_>, on: &Path) -> io::Result<()> {
        mount::attach_at(mount::clone_tree_at(what, true)?.as_fd(), on)
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        mount::unmount(path)
    }

    fn is_mounted(&self, path: &Path) -> bool {
        let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev());
        match (device(path), path.parent().map(device)) {
            (Ok(own), Some(Ok(above))) => own != above,
            _ => false,
        }
    }
}

/// Mounts nothing and remembers what was asked for.
#[derive(Default)]
pub struct Recording {
    mounted: Mutex<Vec<(String, PathBuf)>>,
}

impl Recording {
    /// What is mounted now: kind and path.
    pub fn mounted(&self) -> Vec<(String, PathBuf)> {
        self.mounted.lock().clone()
    }

    fn add(&self, kind: String, on: &Path) -> io::Result<()> {
        self.mounted.lock().push((kind, on.into()));
        Ok(())
    }
}

impl Mounter for Recording {
    fn tmpfs(&self, on: &Path, size: Option<u64>, _mode: u32) -> io::Result<()> {
        self.add(size.map_or_else(|| "tmpfs".into(), |s| format!("tmpfs {s}")), on)
    }

    fn hugetlbfs(&self, on: &Path, page_size: &str) -> io::Result<()> {
        self.add(format!("hugetlbfs {page_size}"), on)
    }

    fn bind(&self, _what: BorrowedFd<'_>, on: &Path) -> io::Result<()> {
        self.add("bind".into(), on)
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        self.mounted.lock().retain(|(_, p)| p != path);
        Ok(())
    }

    fn is_mounted(&self, path: &Path) -> bool {
        self.mounted.lock().iter().any(|(_, p)| p == path)
    }
}
