//! Devices of the host in a container: their nodes, and the permission to open them.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use knarr_sys::cgroup::DeviceRule;
use knarr_sys::mount;
use nix::sys::stat::{Mode, SFlag, major, minor, mknodat};

use super::protocol::Failure;
use super::spec::{ContainerSpec, default_device_rules};

/// What of the host's /dev is not copied into a privileged container: it has its own.
const SKIPPED: [&str; 12] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty"];
/// Device nodes that one container gets.
const NODES_MAX: usize = 8192;

/// A device of the host that a container gets.
pub struct HostDevice {
    pub target: PathBuf,
    kind: SFlag,
    mode: Mode,
    number: u64,
    owner: (u32, u32),
    permissions: String,
}

impl HostDevice {
    /// Looks at a node; `None` for what is no device.
    fn look(host: &Path, target: PathBuf, permissions: &str) -> io::Result<Option<Self>> {
        let found = host.metadata()?;
        let kind = SFlag::from_bits_truncate(found.mode() & libc::S_IFMT);
        if kind != SFlag::S_IFCHR && kind != SFlag::S_IFBLK {
            return Ok(None);
        }
        let (mode, owner) = (Mode::from_bits_truncate(found.mode() & 0o7777), (found.uid(), found.gid()));
        Ok(Some(Self { target, kind, mode, number: found.rdev(), owner, permissions: permissions.to_owned() }))
    }

    fn rule(&self) -> DeviceRule {
        let kind = if self.kind == SFlag::S_IFBLK { 'b' } else { 'c' };
        DeviceRule::new(kind, major(self.number) as u32, minor(self.number) as u32, &self.permissions)
    }

    /// Makes its node below `root`. One that is there stays.
    pub fn make(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        let parent = mount::make_dir_in_root(root, self.target.parent().unwrap_or(Path::new("/")), Mode::from_bits_truncate(0o755))?;
        let name = self.target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match mknodat(&parent, name, self.kind, self.mode, self.number) {
            Ok(()) => {}
            Err(nix::errno::Errno::EEXIST) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let (uid, gid) = self.owner;
        Ok(nix::unistd::fchownat(&parent, name, Some(uid.into()), Some(gid.into()), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }
}

/// The devices that a container asks for; all of the host's for a privileged one.
pub fn wanted(spec: &ContainerSpec) -> Result<Vec<HostDevice>, Failure> {
    let mut found = Vec::new();
    for device in &spec.devices {
        collect(&device.host, &device.container, &device.permissions, &mut found).map_err(Failure::config(format!("device {}", device.host.display())))?;
    }
    if spec.privileged {
        let entries = std::fs::read_dir("/dev").map_err(Failure::other("/dev"))?.flatten();
        for entry in entries.filter(|e| !SKIPPED.iter().any(|s| e.file_name() == *s)) {
            // What vanishes while we look was not meant to stay.
            collect(&entry.path(), &entry.path(), "rwm", &mut found).unwrap_or_default();
        }
    }
    Ok(found)
}

/// A device, or all devices below a folder.
fn collect(host: &Path, target: &Path, permissions: &str, found: &mut Vec<HostDevice>) -> io::Result<()> {
    if found.len() >= NODES_MAX {
        return Err(io::Error::other("too many devices"));
    }
    if !host.symlink_metadata()?.is_dir() {
        found.extend(HostDevice::look(host, target.to_owned(), permissions)?);
        return Ok(());
    }
    for entry in std::fs::read_dir(host)?.flatten() {
        if !entry.file_type()?.is_symlink() {
            collect(&entry.path(), &target.join(entry.file_name()), permissions, found)?;
        }
    }
    Ok(())
}

/// What the container's cgroup allows.
pub fn rules(spec: &ContainerSpec) -> Result<Vec<DeviceRule>, Failure> {
    if spec.privileged {
        return Ok(vec![DeviceRule::new('a', None, None, "rwm")]);
    }
    let mut rules = default_device_rules();
    rules.extend(wanted(spec)?.iter().map(HostDevice::rule));
    Ok(rules)
}
