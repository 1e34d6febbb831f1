//! Unpacks a layer's tar stream into a folder in overlayfs' own form.
//!
//! Every name is resolved by the kernel inside the folder (`openat2`, `RESOLVE_IN_ROOT`), and every object is then reached by descriptor: `..`,
//! absolute names and links cannot lead out. `.wh.NAME` becomes a 0:0 character device, `.wh..wh..opq` an attribute.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use knarr_sys::mount::{make_dir_in_root, open_in_root};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::unistd::UnlinkatFlags;
use tar::{Entry, EntryType};

/// What one layer may hold. Past it the layer is refused.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub entries: u64,
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 1 << 40 }
    }
}

/// What a layer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
}

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
const COPY_BUFFER: usize = 128 << 10;
/// Longest chain of directories that a removal walks down.
const REMOVE_DEPTH_MAX: usize = 1024;

/// Unpacks `layer` into `folder`, which exists and is empty.
pub fn unpack(layer: impl Read, folder: &Path, bounds: Bounds) -> io::Result<Unpacked> {
    let root: OwnedFd = std::fs::File::open(folder)?.into();
    let mut unpacker = Unpacker { root, parent: None, folder_times: HashMap::new(), unpacked: Unpacked::default(), bounds, buffer: vec![0; COPY_BUFFER] };
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path_bytes().into_owned();
        unpacker.entry(&mut entry).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(&name))))?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: OwnedFd,
    /// The folder of the last entry: the next one mostly lies there too.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Filling a folder changes its time, so times of folders are set at the end.
    folder_times: HashMap<PathBuf, i64>,
    unpacked: Unpacked,
    bounds: Bounds,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        self.unpacked.entries += 1;
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(entry.size());
        if self.unpacked.entries > self.bounds.entries || self.unpacked.bytes > self.bounds.bytes {
            return Err(io::Error::other("layer is too large"));
        }
        let path = clean(Path::new(OsStr::from_bytes(&entry.path_bytes())));
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_folder(entry);
        };
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
            return self.whiteout(&name, OsStr::from_bytes(hidden));
        }
        self.object(entry, &path, &name)
    }

    /// Owner and mode of the root folder itself.
    fn root_folder<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        if entry.header().entry_type() != EntryType::Directory {
            return Ok(());
        }
        self.folder_times.insert(PathBuf::new(), mtime(entry));
        let own = self.root.try_clone()?;
        decorate(own.as_fd(), entry)
    }

    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == folder) {
            return Ok(());
        }
        let opened = make_dir_in_root(self.root.as_fd(), folder, Mode::from_bits_truncate(0o755))?;
        self.parent = Some((folder.to_owned(), opened));
        Ok(())
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    fn whiteout(&self, name: &OsStr, hidden: &OsStr) -> io::Result<()> {
        if name == OPAQUE {
            return set_opaque(self.parent());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid whiteout"));
        }
        if hidden.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            // Bookkeeping of aufs.
            return Ok(());
        }
        match mknodat(self.parent(), hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
            // A whiteout hides what lower layers hold, never what this one does.
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn object<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path, name: &OsStr) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let replaced = self.make_room(name, kind == EntryType::Directory)?;
        let mode = Mode::from_bits_truncate(entry.header().mode()? & 0o7777);
        match kind {
            EntryType::Directory => return self.folder(entry, path, name, replaced),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => return self.file(entry, name),
            EntryType::Link => return self.hard_link(entry, name),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                nix::unistd::symlinkat(OsStr::from_bytes(&target), self.parent(), name)?;
            }
            EntryType::Fifo => mknodat(self.parent(), name, SFlag::S_IFIFO, mode, 0)?,
            EntryType::Char | EntryType::Block => {
                let flag = if kind == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                let number = |n: Option<u32>| u64::from(n.unwrap_or(0));
                let device = makedev(number(entry.header().device_major()?), number(entry.header().device_minor()?));
                mknodat(self.parent(), name, flag, mode, device)?;
            }
            // Headers of a kind that nobody knows are passed over, as tar(1) does.
            _ => return Ok(()),
        }
        let made = open_in_root(self.parent(), Path::new(name), OFlag::O_PATH | OFlag::O_NOFOLLOW, ResolveFlag::empty())?;
        own(made.as_fd(), entry)?;
        if kind != EntryType::Symlink {
            nix::sys::stat::fchmodat(self.parent(), name, mode, nix::sys::stat::FchmodatFlags::NoFollowSymlink)
                .or_else(|e| if e == Errno::EOPNOTSUPP { Ok(()) } else { Err(e) })?;
        }
        set_time(self.parent(), name, mtime(entry))
    }

    /// Removes what stands where an entry wants to be; a folder stays for a folder. Tells whether a whiteout stood there.
    fn make_room(&mut self, name: &OsStr, for_folder: bool) -> io::Result<bool> {
        let stat = match nix::sys::stat::fstatat(self.parent(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
        if kind == SFlag::S_IFDIR {
            if !for_folder {
                remove_all(self.parent(), name, 0)?;
            }
            return Ok(false);
        }
        nix::unistd::unlinkat(self.parent(), name, UnlinkatFlags::NoRemoveDir)?;
        Ok(kind == SFlag::S_IFCHR && stat.st_rdev == 0)
    }

    fn folder<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path, name: &OsStr, replaced_whiteout: bool) -> io::Result<()> {
        match nix::sys::stat::mkdirat(self.parent(), name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let made = open_in_root(self.parent(), Path::new(name), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, ResolveFlag::empty())?;
        if replaced_whiteout {
            set_opaque(made.as_fd())?;
        }
        self.folder_times.insert(path.to_owned(), mtime(entry));
        decorate(made.as_fd(), entry)
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &OsStr) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(self.parent(), name, flags, Mode::from_bits_truncate(0o600))?;
        loop {
            let n = entry.read(&mut self.buffer)?;
            if n == 0 {
                break;
            }
            let mut rest = &self.buffer[..n];
            while !rest.is_empty() {
                let written = nix::unistd::write(&file, rest)?;
                rest = &rest[written..];
            }
        }
        decorate(file.as_fd(), entry)?;
        let time = nix::sys::time::TimeSpec::new(mtime(entry), 0);
        Ok(nix::sys::stat::futimens(&file, &time, &time)?)
    }

    fn hard_link<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &OsStr) -> io::Result<()> {
        let target = entry.link_name_bytes().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "hard link without a target"))?;
        let target = clean(Path::new(OsStr::from_bytes(&target)));
        let (folder, file) = (target.parent().unwrap_or(Path::new("")), target.file_name());
        let file = file.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "hard link to the root"))?;
        let folder = open_in_root(self.root.as_fd(), folder, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::empty())?;
        nix::unistd::linkat(folder.as_fd(), file, self.parent(), name, AtFlags::empty())
            .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("hard link to {}: {e}", target.display())))
    }

    fn finish(mut self) -> io::Result<Unpacked> {
        self.parent = None;
        for (path, time) in std::mem::take(&mut self.folder_times) {
            let opened = open_in_root(self.root.as_fd(), &path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, ResolveFlag::empty());
            // A later entry may have replaced it.
            if let Ok(folder) = opened {
                let time = nix::sys::time::TimeSpec::new(time, 0);
                nix::sys::stat::futimens(&folder, &time, &time)?;
            }
        }
        Ok(self.unpacked)
    }
}

/// A name as it is below the root: no leading slash, no `.`; `..` takes a part away as far as there is one.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, part| {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
        clean
    })
}

fn mtime<R: Read>(entry: &Entry<'_, R>) -> i64 {
    entry.header().mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0)
}

/// Owner, mode and extended attributes of an open file or folder. The owner first: changing it drops setuid bits.
fn decorate<R: Read>(fd: BorrowedFd<'_>, entry: &mut Entry<'_, R>) -> io::Result<()> {
    own(fd, entry)?;
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(entry.header().mode()? & 0o7777))?;
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.")
            && is_wanted_attribute(name)
        {
            set_attribute(fd, name, extension.value_bytes())?;
        }
    }
    Ok(())
}

/// Attributes that overlayfs, or the host's security modules, would take for their own are left out.
fn is_wanted_attribute(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

fn own<R: Read>(fd: BorrowedFd<'_>, entry: &Entry<'_, R>) -> io::Result<()> {
    let (header, raw) = (entry.header(), entry.header().as_old());
    knarr_sys::mount::change_owner(fd, owner(header.uid(), &raw.uid)?, owner(header.gid(), &raw.gid)?)
}

/// A field that was left empty is 0, as Go's tar has it.
fn owner(parsed: io::Result<u64>, field: &[u8]) -> io::Result<u32> {
    let number = match parsed {
        Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => 0,
        parsed => parsed?,
    };
    u32::try_from(number).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "owner out of range"))
}

fn set_time(parent: BorrowedFd<'_>, name: &OsStr, time: i64) -> io::Result<()> {
    let time = nix::sys::time::TimeSpec::new(time, 0);
    Ok(nix::sys::stat::utimensat(parent, name, &time, &time, nix::sys::stat::UtimensatFlags::NoFollowSymlink)?)
}

fn set_opaque(folder: BorrowedFd<'_>) -> io::Result<()> {
    set_attribute(folder, b"trusted.overlay.opaque", b"y")
}

/// Works on `O_PATH` descriptors too.
fn set_attribute(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match knarr_sys::xattr::set(&path, OsStr::from_bytes(name), value) {
        // A filesystem without ACLs still holds the file.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) && name.starts_with(b"system.") => Ok(()),
        other => other,
    }
}

/// Removes a folder and all in it, never leaving it by a link.
fn remove_all(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth > REMOVE_DEPTH_MAX {
        return Err(io::Error::from(Errno::ENAMETOOLONG));
    }
    match nix::unistd::unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut folder = nix::dir::Dir::openat(parent, name, flags, Mode::empty())?;
    let names: Vec<_> = folder.iter().filter_map(|e| Some(e.ok()?.file_name().to_owned())).filter(|n| n.as_c_str() != c"." && n.as_c_str() != c"..").collect();
    let fd = nix::fcntl::openat(parent, name, flags, Mode::empty())?;
    for child in names {
        remove_all(fd.as_fd(), OsStr::from_bytes(child.as_bytes()), depth + 1)?;
    }
    Ok(nix::unistd::unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    type Item<'a> = (EntryType, &'a str, &'a str, u32);

    fn layer(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, content, mode) in items {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_mtime(1000);
            header.set_uid(7);
            header.set_gid(8);
            // Written by hand, since the crate refuses evil names.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            let data = if matches!(kind, EntryType::Link | EntryType::Symlink) {
                header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
                ""
            } else {
                content
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(items: &[Item<'_>]) -> (tempfile::TempDir, io::Result<Unpacked>) {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("fs");
        std::fs::create_dir(&inside).unwrap();
        let result = unpack(layer(items).as_slice(), &inside, Bounds::default());
        (folder, result)
    }

    const FILE: EntryType = EntryType::Regular;
    const DIR: EntryType = EntryType::Directory;
    const SYM: EntryType = EntryType::Symlink;
    const HARD: EntryType = EntryType::Link;

    #[test]
    fn files_keep_owner_mode_time_and_links() {
        let (folder, result) = unpacked(&[
            (DIR, "d", "", 0o711),
            (FILE, "d/f", "hello", 0o4755),
            (HARD, "g", "d/f", 0),
            (SYM, "s", "../../d/f", 0o777),
            (EntryType::Fifo, "p", "", 0o600),
        ]);
        assert_eq!(result.unwrap(), Unpacked { entries: 5, bytes: 5 });
        let root = folder.path().join("fs");
        let file = root.join("d/f").metadata().unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.mtime(), file.nlink()), (0o4755, 7, 8, 1000, 2));
        let dir = root.join("d").metadata().unwrap();
        assert_eq!((dir.permissions().mode() & 0o7777, dir.mtime()), (0o711, 1000));
        assert_eq!(std::fs::read_link(root.join("s")).unwrap(), Path::new("../../d/f"));
        assert!(root.join("p").metadata().unwrap().file_type().is_fifo());
    }

    #[test]
    fn whiteouts_become_overlayfs_own() {
        let (folder, result) = unpacked(&[
            (FILE, "a/.wh.gone", "", 0),
            (FILE, "b/.wh..wh..opq", "", 0),
            (FILE, "here", "x", 0o644),
            (FILE, ".wh.here", "", 0),
            (FILE, ".wh.dir", "", 0),
            (DIR, "dir", "", 0o755),
        ]);
        result.unwrap();
        let root = folder.path().join("fs");
        let gone = root.join("a/gone").symlink_metadata().unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert!(root.join("here").is_file(), "a whiteout spares its own layer");
        let opaque = |name: &str| knarr_sys::xattr::get(&root.join(name), OsStr::new("trusted.overlay.opaque")).unwrap();
        assert_eq!((opaque("b"), opaque("dir"), opaque("a")), (Some(b"y".to_vec()), Some(b"y".to_vec()), None));
    }

    #[test]
    fn nothing_leads_out_of_the_layer() {
        let attempts: &[&[Item<'_>]] = &[
            &[(FILE, "../evil", "x", 0o644)],
            &[(FILE, "/../../evil", "x", 0o644)],
            &[(SYM, "l", "..", 0o777), (FILE, "l/evil", "x", 0o644)],
            &[(SYM, "l", "/../..", 0o777), (FILE, "l/evil", "x", 0o644)],
            &[(SYM, "l", "../evil", 0o777), (FILE, "l", "x", 0o644)],
            &[(SYM, "l", "../evil", 0o777), (DIR, "l", "", 0o755), (FILE, "l/x", "x", 0o644)],
            &[(HARD, "l", "../outside", 0o777), (FILE, "l", "changed", 0o644)],
            &[(SYM, "d", "..", 0o777), (HARD, "l", "d/outside", 0o777)],
            &[(SYM, "d", "..", 0o777), (FILE, "d/.wh.outside", "", 0)],
            &[(SYM, "d", "..", 0o777), (FILE, "d/.wh..wh..opq", "", 0)],
            &[(DIR, "..", "", 0o777)],
            &[(FILE, ".wh...", "", 0o777)],
        ];
        for items in attempts {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("fs")).unwrap();
            std::fs::write(folder.path().join("outside"), "untouched").unwrap();
            let before = folder.path().metadata().unwrap().mode();
            // Refusing and keeping it inside are both fine.
            drop(unpack(layer(items).as_slice(), &folder.path().join("fs"), Bounds::default()));
            let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["fs", "outside"], "{items:?}");
            assert_eq!(std::fs::read_to_string(folder.path().join("outside")).unwrap(), "untouched");
            assert_eq!(folder.path().metadata().unwrap().mode(), before);
            assert_eq!(folder.path().join("outside").metadata().unwrap().nlink(), 1);
        }
    }

    #[test]
    fn a_layer_past_its_bounds_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let tar = layer(&[(FILE, "a", "12345", 0o644), (FILE, "b", "12345", 0o644)]);
        assert!(unpack(tar.as_slice(), folder.path(), Bounds { entries: 1, bytes: 100 }).is_err());
        assert!(unpack(tar.as_slice(), folder.path(), Bounds { entries: 9, bytes: 9 }).is_err());
    }
}
