//! A container's root filesystem, put together in its first process.
//!
//! First everything is collected as detached mounts while the host's mounts are in sight; then the process enters a copy of the empty mount
//! namespace, attaches it all, and makes it its root. Whatever a container's own files say, each target is resolved once, inside the root,
//! and held by descriptor.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use knarr_sys::cgroup::Cgroup;
use knarr_sys::mount::{self, Attr, Filesystem, Propagation};
use knarr_sys::namespace;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::symlinkat;

use super::devices::{self, HostDevice};
use super::protocol::Failure;
use super::spec::{ContainerSpec, ImageMount};
use super::volumes;
use crate::cri;

/// What programs write `/dev/null` and friends for: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] =
    [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")];

/// A mount that waits for its place.
struct Pending {
    mount: OwnedFd,
    target: PathBuf,
    is_folder: bool,
}

/// All that is needed, detached.
pub struct Rootfs {
    root: OwnedFd,
    pending: Vec<Pending>,
    devices: Vec<HostDevice>,
}

impl Rootfs {
    /// Collects, in the host's mount namespace and the container's others.
    pub fn collect(spec: &ContainerSpec, cgroup: &Cgroup) -> Result<Self, Failure> {
        let taken: BTreeSet<PathBuf> = spec.mounts.iter().map(|m| clean(&m.container_path)).chain(spec.images.iter().map(|i| clean(&i.target))).collect();
        // A pod's own mount takes the place of ours; its own /dev that of all below.
        let free = |target: &str| !taken.contains(Path::new(target)) && !(target.starts_with("/dev/") && taken.contains(Path::new("/dev")));
        let mut pending = Vec::new();
        for (target, make) in BASE {
            if free(target) {
                let mount = make(spec).map_err(Failure::other(&format!("mounting {target}")))?;
                pending.push(Pending { mount, target: PathBuf::from(target), is_folder: true });
            }
        }
        if free("/sys/fs/cgroup") {
            pending.extend(cgroups(spec, cgroup).map_err(Failure::other("mounting /sys/fs/cgroup"))?);
        }
        let base = pending.len();
        for mount in &spec.mounts {
            pending.push(volume(mount)?);
        }
        for image in &spec.images {
            pending.push(image_files(image).map_err(Failure::config(format!("failed to mount an image at {}", image.target.display())))?);
        }
        let devices = if free("/dev") { devices::wanted(spec)? } else { Vec::new() };
        // Last, since on old kernels it leaves the host's mounts.
        let root = overlay(spec).map_err(Failure::other("mounting the root filesystem"))?;
        for (path, host) in &spec.volumes {
            let what = format!("volume {} of the image", path.display());
            volumes::fill(root.as_fd(), path, host).map_err(Failure::other(&what))?;
            pending.push(Pending { mount: mount::clone_tree(host, false).map_err(Failure::other(&what))?, target: clean(path), is_folder: true });
        }
        // What lies deeper comes later, or it would be covered.
        pending[base..].sort_by_key(|p| p.target.components().count());
        Ok(Self { root, pending, devices })
    }

    /// Enters the new mount namespace and makes the collected mounts its tree.
    pub fn enter(self, spec: &ContainerSpec, template: &OwnedFd) -> Result<(), Failure> {
        namespace::enter_copy_of(template).map_err(Failure::other("entering the mount namespace"))?;
        self.attach_root().map_err(Failure::other("attaching the root filesystem"))?;
        let root = open_folder(".").map_err(Failure::other("opening the root filesystem"))?;
        for Pending { mount, target, is_folder } in self.pending {
            attach(root.as_fd(), &mount, &target, is_folder).map_err(Failure::config(format!("failed to mount {}", target.display())))?;
        }
        for device in &self.devices {
            device.make(root.as_fd()).map_err(Failure::config(format!("device {}", device.target.display())))?;
        }
        if !spec.privileged {
            protect(spec, root.as_fd())?;
        }
        if spec.read_only_rootfs {
            mount::set_attributes(root.as_fd(), Attr::RDONLY, None, false).map_err(Failure::other("making the root filesystem read-only"))?;
        }
        mount::pivot_root_here().map_err(Failure::other("changing the root"))
    }

    fn attach_root(&self) -> io::Result<()> {
        mount::attach_at(self.root.as_fd(), Path::new(namespace::EMPTY_MOUNT_POINT))?;
        Ok(nix::unistd::chdir(namespace::EMPTY_MOUNT_POINT)?)
    }
}

fn open_folder(path: &str) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Absolute, without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |mut clean, part| {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
        clean
    })
}

/// The image's layers with the container's own on top. Nothing of a container's own layer outlives a power cut, so nothing of it needs to be
/// flushed: `volatile`.
fn overlay(spec: &ContainerSpec) -> io::Result<OwnedFd> {
    let filesystem = Filesystem::open("overlay")?;
    for (at, layer) in spec.layers.iter().enumerate() {
        match filesystem.set("lowerdir+", layer.as_os_str().as_bytes()) {
            // Before Linux 6.5 the option is unknown.
            Err(error) if at == 0 && error.raw_os_error() == Some(libc::EINVAL) => return old_overlay(spec),
            other => other?,
        };
    }
    filesystem.set("upperdir", spec.upper.as_os_str().as_bytes())?;
    filesystem.set("workdir", spec.work.as_os_str().as_bytes())?;
    filesystem.flag("volatile")?;
    filesystem.mount(Attr::NONE)
}

/// mount(2) takes a page of options: layers are named by descriptors, so that a hundred and more fit. It also wants a place to mount on, which
/// is made in a mount namespace that is left right after.
fn old_overlay(spec: &ContainerSpec) -> io::Result<OwnedFd> {
    use nix::mount::{MsFlags, mount};
    namespace::separate(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    // Opened here: overlayfs takes no layer from another mount namespace.
    let folder = |path: &Path| nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let layers = spec.layers.iter().map(|path| folder(path)).collect::<Result<Vec<_>, _>>()?;
    let named: Vec<String> = layers.iter().map(|fd| format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd))).collect();
    let options = format!("lowerdir={},upperdir={},workdir={},volatile", named.join(":"), spec.upper.display(), spec.work.display());
    let place = spec.work.with_file_name("merged");
    std::fs::create_dir_all(&place)?;
    mount(Some("overlay"), &place, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    mount::clone_tree(&place, false)
}

type Make = fn(&ContainerSpec) -> io::Result<OwnedFd>;

/// What every container has, in the order in which it is attached.
const BASE: [(&str, Make); 6] = [("/proc", proc), ("/dev", dev), ("/dev/pts", pts), ("/dev/mqueue", mqueue), ("/dev/shm", shm), ("/sys", sys)];

const NO_SPECIALS: fn() -> Attr = || Attr::NOSUID | Attr::NODEV | Attr::NOEXEC;

fn proc(_: &ContainerSpec) -> io::Result<OwnedFd> {
    Filesystem::open("proc")?.mount(NO_SPECIALS())
}

fn sys(spec: &ContainerSpec) -> io::Result<OwnedFd> {
    Filesystem::open("sysfs")?.mount(if spec.privileged { NO_SPECIALS() } else { NO_SPECIALS() | Attr::RDONLY })
}

fn pts(_: &ContainerSpec) -> io::Result<OwnedFd> {
    let filesystem = Filesystem::open("devpts")?;
    filesystem.set("ptmxmode", "0666")?.set("mode", "0620")?.set("gid", "5")?;
    filesystem.mount(Attr::NOSUID | Attr::NOEXEC)
}

fn mqueue(_: &ContainerSpec) -> io::Result<OwnedFd> {
    Filesystem::open("mqueue")?.mount(NO_SPECIALS())
}

fn shm(spec: &ContainerSpec) -> io::Result<OwnedFd> {
    mount::clone_tree(&spec.shm, false)
}

fn dev(_: &ContainerSpec) -> io::Result<OwnedFd> {
    let filesystem = Filesystem::open("tmpfs")?;
    filesystem.set("mode", "0755")?.set("size", "65536k")?;
    let dev = filesystem.mount(Attr::NOSUID)?;
    for folder in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, folder, Mode::from_bits_truncate(0o755))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    for (name, major, minor) in DEVICES {
        mknodat(&dev, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
    }
    Ok(dev)
}

/// The container's own cgroup in every hierarchy that carries controllers, as runc shows them; for a privileged one all of the host's.
fn cgroups(spec: &ContainerSpec, cgroup: &Cgroup) -> io::Result<Vec<Pending>> {
    let target = PathBuf::from("/sys/fs/cgroup");
    if spec.privileged {
        return Ok(vec![Pending { mount: mount::clone_tree(&target, true)?, target, is_folder: true }]);
    }
    let attributes = NO_SPECIALS() | Attr::RDONLY;
    let bind = |folder: &Path| -> io::Result<OwnedFd> {
        let mount = mount::clone_tree(folder, false)?;
        mount::set_attributes(mount.as_fd(), attributes, Some(Propagation::Private), false)?;
        Ok(mount)
    };
    let folders: Vec<(PathBuf, PathBuf)> = cgroup.shown_folders().map(|(mount_point, folder)| (mount_point.to_owned(), folder)).collect();
    if let [(_, folder)] = &folders[..] {
        return Ok(vec![Pending { mount: bind(folder)?, target, is_folder: true }]);
    }
    let filesystem = Filesystem::open("tmpfs")?;
    filesystem.set("mode", "0755")?.set("size", "64k")?;
    let parent = filesystem.mount(NO_SPECIALS())?;
    let mut pending = Vec::new();
    for (mount_point, folder) in folders {
        let name = mount_point.file_name().unwrap_or_default();
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
        for alias in name.to_string_lossy().split(',').filter(|alias| *alias != name) {
            symlinkat(name, &parent, alias)?;
        }
        pending.push(Pending { mount: bind(&folder)?, target: target.join(name), is_folder: true });
    }
    mount::set_attributes(parent.as_fd(), attributes, None, false)?;
    pending.insert(0, Pending { mount: parent, target, is_folder: true });
    Ok(pending)
}

/// The files of another image. What is asked for within it is opened where no link leads out.
fn image_files(image: &ImageMount) -> io::Result<Pending> {
    let whole = match &image.layers[..] {
        // overlayfs wants two layers where nothing can be written.
        [only] => nix::fcntl::open(only, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?,
        layers => {
            let filesystem = Filesystem::open("overlay")?;
            for layer in layers {
                filesystem.set("lowerdir+", layer.as_os_str().as_bytes())?;
            }
            filesystem.mount(Attr::RDONLY)?
        }
    };
    let wanted = mount::open_in_root(whole.as_fd(), &image.sub_path, OFlag::O_PATH, ResolveFlag::empty())?;
    let (kind, _) = mount::file_type(wanted.as_fd())?;
    let mount = if image.sub_path.as_os_str().is_empty() && image.layers.len() > 1 { whole } else { mount::clone_tree_at(wanted.as_fd(), false)? };
    mount::set_attributes(mount.as_fd(), NO_SPECIALS() | Attr::RDONLY, Some(Propagation::Private), false)?;
    Ok(Pending { mount, target: clean(&image.target), is_folder: kind == SFlag::S_IFDIR })
}

/// A pod's volume.
fn volume(volume: &cri::Mount) -> Result<Pending, Failure> {
    let failed = || Failure::config(format!("failed to mount {} at {}", volume.host_path.display(), volume.container_path.display()));
    if volume.propagation == cri::Propagation::Bidirectional && !is_shared(&volume.host_path).map_err(failed())? {
        let path = volume.host_path.display();
        return Err(Failure::Config(format!("path {path:?} is mounted on a mount that is not a shared mount")));
    }
    let mount = mount::clone_tree(&volume.host_path, true).map_err(failed())?;
    let propagation = match volume.propagation {
        cri::Propagation::Private => Some(Propagation::Private),
        cri::Propagation::HostToContainer => Some(Propagation::Slave),
        // The copy is a peer of the original already.
        cri::Propagation::Bidirectional => None,
    };
    mount::set_attributes(mount.as_fd(), Attr::NONE, propagation, true).map_err(failed())?;
    if volume.read_only {
        mount::set_attributes(mount.as_fd(), Attr::RDONLY, None, volume.recursive_read_only).map_err(failed())?;
    }
    let (kind, _) = mount::file_type(mount.as_fd()).map_err(failed())?;
    Ok(Pending { mount, target: clean(&volume.container_path), is_folder: kind == SFlag::S_IFDIR })
}

/// Whether the mount that a path lies on has peers.
fn is_shared(path: &Path) -> io::Result<bool> {
    let path = std::fs::canonicalize(path)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let lines = mounts.lines().filter_map(|line| Some((line.split(' ').nth(4)?, line)));
    // The last of those with the longest mount point is on top.
    let best = lines.filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.len());
    Ok(best.is_some_and(|(_, line)| line.split(" - ").next().is_some_and(|fields| fields.contains(" shared:"))))
}

fn attach(root: BorrowedFd<'_>, source: &OwnedFd, target: &Path, is_folder: bool) -> io::Result<()> {
    let place = match target.to_str() {
        // An image whose /proc is a link would have us mount elsewhere and look for it here.
        Some("/proc" | "/sys" | "/dev") => make_plain_folder(root, target)?,
        _ if is_folder => mount::make_dir_in_root(root, target, Mode::from_bits_truncate(0o755))?,
        _ => mount::make_file_in_root(root, target)?,
    };
    mount::attach(source.as_fd(), place.as_fd())
}

fn make_plain_folder(root: BorrowedFd<'_>, target: &Path) -> io::Result<OwnedFd> {
    let name = target.file_name().unwrap_or_default();
    match mkdirat(root, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    mount::open_in_root(root, Path::new(name), OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_NO_SYMLINKS)
}

/// Hides masked paths and fixes read-only ones.
fn protect(spec: &ContainerSpec, root: BorrowedFd<'_>) -> Result<(), Failure> {
    for path in &spec.masked_paths {
        mask(root, Path::new(path)).map_err(Failure::other(&format!("masking {path}")))?;
    }
    for path in &spec.readonly_paths {
        fix(root, Path::new(path)).map_err(Failure::other(&format!("making {path} read-only")))?;
    }
    Ok(())
}

fn open_existing(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match mount::open_in_root(root, path, OFlag::O_PATH, ResolveFlag::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn mask(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(target) = open_existing(root, path)? else { return Ok(()) };
    if mount::file_type(target.as_fd())?.0 == SFlag::S_IFDIR {
        let filesystem = Filesystem::open("tmpfs")?;
        filesystem.set("size", "0")?.set("nr_inodes", "1")?;
        return mount::attach(filesystem.mount(NO_SPECIALS() | Attr::RDONLY)?.as_fd(), target.as_fd());
    }
    let null = mount::open_in_root(root, Path::new("/dev/null"), OFlag::O_PATH, ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    if mount::file_type(null.as_fd())? != (SFlag::S_IFCHR, makedev(1, 3)) {
        return Err(io::Error::other("/dev/null is not the null device"));
    }
    mount::attach(mount::clone_tree_at(null.as_fd(), false)?.as_fd(), target.as_fd())
}

fn fix(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(target) = open_existing(root, path)? else { return Ok(()) };
    let copy = mount::clone_tree_at(target.as_fd(), true)?;
    mount::set_attributes(copy.as_fd(), Attr::RDONLY, None, true)?;
    mount::attach(copy.as_fd(), target.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_get_the_same_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let layers: Vec<PathBuf> = (0..100).map(|n| path(&format!("layer{n}"))).collect();
        std::fs::write(layers[0].join("file"), "top").unwrap();
        std::fs::write(layers[99].join("file"), "bottom").unwrap();
        std::fs::write(layers[99].join("only"), "bottom").unwrap();
        let spec = ContainerSpec { layers, upper: path("own/upper"), work: path("own/work"), ..ContainerSpec::default() };
        // A thread of its own may have a mount namespace of its own.
        let read = std::thread::spawn(move || {
            let root = old_overlay(&spec).unwrap();
            ["file", "only"].map(|name| {
                let file = mount::open_in_root(root.as_fd(), Path::new(name), OFlag::O_RDONLY, ResolveFlag::empty()).unwrap();
                std::io::read_to_string(std::fs::File::from(file)).unwrap()
            })
        });
        assert_eq!(read.join().unwrap(), ["top", "bottom"]);
    }
}
