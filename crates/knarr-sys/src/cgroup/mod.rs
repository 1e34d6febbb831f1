//! Cgroups of version 1, version 2 and hybrids of both, under one path.
//!
//! A [`Cgroup`] is one path (`kubepods/burstable/podUID/CONTAINER`) under every hierarchy that the machine has. Processes enter by being born
//! in it (v2) or by writing themselves into `tasks` (v1), which, unlike writing to `cgroup.procs`, takes no lock of the whole machine.

mod devices;
mod limits;
mod stats;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use devices::DeviceRule;
pub use limits::{Limits, weight_of_shares};
pub use stats::Stats;

/// Controllers that a leaf needs; each is enabled in its parents where the kernel has it.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"];
/// Rounds of killing before a cgroup that goes on forking counts as unkillable.
const KILL_ROUNDS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// v1: controllers (`cpu`, `cpuacct`) or `name=systemd`. v2: those in `cgroup.controllers`.
    controllers: Vec<String>,
    unified: bool,
}

/// The cgroup hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Hierarchies(Arc<Vec<Hierarchy>>);

impl Hierarchies {
    /// Reads the mounts of this process.
    pub fn detect() -> io::Result<Self> {
        let mut found = parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?);
        for hierarchy in found.iter_mut().filter(|h| h.unified) {
            let names = fs::read_to_string(hierarchy.mount_point.join("cgroup.controllers")).unwrap_or_default();
            hierarchy.controllers = names.split_whitespace().map(str::to_owned).collect();
        }
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup filesystem is mounted"));
        }
        Ok(Self(Arc::new(found)))
    }

    /// Whether every controller is in the one v2 hierarchy.
    pub fn is_unified(&self) -> bool {
        self.0.iter().all(|h| h.unified)
    }

    /// Whether a controller (`memory`, `cpu`, `pids`, …) can be used.
    pub fn has(&self, controller: &str) -> bool {
        self.0.iter().any(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// The cgroup at a path relative to the root of every hierarchy. Nothing is made.
    pub fn cgroup(&self, path: &str) -> Cgroup {
        Cgroup { hierarchies: self.clone(), path: path.trim_matches('/').to_owned() }
    }
}

/// Finds cgroup mounts: the first of each set of controllers.
fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(mount_point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let controllers: Vec<String> = match kind {
            "cgroup" => options.split(',').filter(|o| !NOT_CONTROLLERS.contains(o)).map(str::to_owned).collect(),
            "cgroup2" => Vec::new(),
            _ => continue,
        };
        let hierarchy = Hierarchy { mount_point: PathBuf::from(mount_point), controllers, unified: kind == "cgroup2" };
        if !found.iter().any(|h| h.unified == hierarchy.unified && h.controllers == hierarchy.controllers) {
            found.push(hierarchy);
        }
    }
    found
}

/// Options of a v1 mount that name no controller.
const NOT_CONTROLLERS: [&str; 8] = ["rw", "ro", "xattr", "clone_children", "noprefix", "favordynmods", "nofavordynmods", "cpuset_v2_mode"];

/// One path under every hierarchy.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: String,
}

/// What a process needs to enter a cgroup.
pub struct Entrance {
    /// Folder to be born in.
    pub unified: Option<OwnedFd>,
    tasks: Vec<fs::File>,
}

impl Entrance {
    /// Moves the calling process, which must have one thread, into the v1 hierarchies.
    pub fn enter(&self) -> io::Result<()> {
        use std::io::Write;
        self.tasks.iter().try_for_each(|mut tasks| tasks.write_all(b"0"))
    }
}

impl Cgroup {
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The cgroup one level down.
    pub fn child(&self, name: &str) -> Self {
        self.hierarchies.cgroup(&format!("{}/{name}", self.path))
    }

    /// Its folder in the hierarchy of a controller.
    pub fn folder(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self.hierarchies.0.iter().find(|h| h.controllers.iter().any(|c| c == controller))?;
        Some(hierarchy.mount_point.join(&self.path))
    }

    fn unified_folder(&self) -> Option<PathBuf> {
        let hierarchy = self.hierarchies.0.iter().find(|h| h.unified)?;
        Some(hierarchy.mount_point.join(&self.path))
    }

    /// Its folders: mount point of the hierarchy, and the folder below.
    pub fn folders(&self) -> impl Iterator<Item = (&Path, PathBuf)> {
        self.hierarchies.0.iter().map(|h| (h.mount_point.as_path(), h.mount_point.join(&self.path)))
    }

    /// As [`Self::folders`], without the unified hierarchy where it stands beside older ones: programs that find it mounted
    /// take it for the only one.
    pub fn shown_folders(&self) -> impl Iterator<Item = (&Path, PathBuf)> {
        let hidden = if self.hierarchies.is_unified() { None } else { self.unified_folder() };
        self.folders().filter(move |(_, folder)| Some(folder) != hidden.as_ref())
    }

    /// Whether it exists everywhere.
    pub fn exists(&self) -> bool {
        self.folders().all(|(_, folder)| folder.is_dir())
    }

    /// Makes it and what is missing above it.
    pub fn create(&self) -> io::Result<()> {
        self.hierarchies.0.iter().try_for_each(|h| create_in(h, &self.path))
    }

    pub fn entrance(&self) -> io::Result<Entrance> {
        let unified = self.unified_folder().map(fs::File::open).transpose()?.map(OwnedFd::from);
        let v1 = self.hierarchies.0.iter().filter(|h| !h.unified);
        let tasks = v1.map(|h| fs::OpenOptions::new().write(true).open(h.mount_point.join(&self.path).join("tasks"))).collect::<io::Result<_>>()?;
        Ok(Entrance { unified, tasks })
    }

    /// Limits what is set, leaves the rest alone.
    pub fn apply(&self, limits: &Limits) -> io::Result<()> {
        limits::apply(self, limits)
    }

    /// Forbids all devices except these.
    pub fn allow_devices(&self, rules: &[DeviceRule]) -> io::Result<()> {
        devices::allow(self, rules)
    }

    pub fn stats(&self) -> io::Result<Stats> {
        stats::read(self)
    }

    /// How often the kernel has killed a process of this cgroup for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        stats::oom_kills(self)
    }

    /// Processes in it and below.
    pub fn processes(&self) -> io::Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for hierarchy in [self.unified_folder(), self.folder("pids"), self.folder("memory")].into_iter().flatten() {
            collect_processes(&hierarchy, &mut pids)?;
        }
        Ok(pids)
    }

    /// Sends SIGKILL to every process in it and below, also to those that are being forked meanwhile.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(folder) = self.unified_folder()
            && fs::write(folder.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        for _ in 0..KILL_ROUNDS_MAX {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                if let Ok(pidfd) = crate::process::open_pidfd(pid) {
                    use std::os::fd::AsFd;
                    crate::process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
                }
            }
        }
        Ok(())
    }

    /// Removes it and everything below. Processes in it make this fail with `EBUSY`.
    pub fn remove(&self) -> io::Result<()> {
        self.folders().map(|(_, folder)| remove_tree(&folder)).fold(Ok(()), |all, one| all.and(one))
    }
}

fn create_in(hierarchy: &Hierarchy, path: &str) -> io::Result<()> {
    let mut folder = hierarchy.mount_point.clone();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        if hierarchy.unified {
            enable_controllers(hierarchy, &folder);
        }
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(with_path(error, &folder)),
            Ok(()) => {}
        }
        if !hierarchy.unified && hierarchy.controllers.iter().any(|c| c == "cpuset") {
            inherit_cpuset(&folder)?;
        }
    }
    Ok(())
}

/// Hands controllers on to children. One that cannot be (a threaded or busy parent) is missing there, and its limits will say so.
fn enable_controllers(hierarchy: &Hierarchy, folder: &Path) {
    let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    for name in CONTROLLERS.iter().filter(|name| hierarchy.controllers.iter().any(|c| c == *name)) {
        if enabled.split_whitespace().any(|e| e == *name) {
            continue;
        }
        if let Err(error) = fs::write(folder.join("cgroup.subtree_control"), format!("+{name}")) {
            tracing::warn!(controller = name, folder = %folder.display(), %error, "cgroup controller cannot be enabled");
        }
    }
}

/// A new v1 cpuset is empty, and no process may enter it before it has processors and memory nodes.
fn inherit_cpuset(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(folder.join(file)).is_ok_and(|value| value.trim().is_empty()) {
            fs::write(folder.join(file), fs::read(parent.join(file))?).map_err(|e| with_path(e, &folder.join(file)))?;
        }
    }
    Ok(())
}

fn collect_processes(folder: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|&pid| pid > 0)),
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(with_path(error, folder)),
    }
    subfolders(folder)?.iter().try_for_each(|sub| collect_processes(sub, pids))
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(error) if gone(&error) => return Ok(()),
        Err(_) => {}
    }
    subfolders(folder)?.iter().try_for_each(|sub| remove_tree(sub))?;
    match fs::remove_dir(folder) {
        Err(error) if !gone(&error) => Err(with_path(error, folder)),
        _ => Ok(()),
    }
}

fn subfolders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(with_path(error, folder)),
    };
    Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
}

/// A cgroup that was removed while we looked answers ENOENT or ENODEV.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn with_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 30 0:27 / /other/memory rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn every_hierarchy_of_a_hybrid_machine_is_found_once() {
        let found = parse_mounts(HYBRID);
        let text: Vec<String> = found.iter().map(|h| format!("{} {:?} {}", h.mount_point.display(), h.controllers, h.unified)).collect();
        assert_eq!(
            text,
            [
                r#"/sys/fs/cgroup/cpu,cpuacct ["cpu", "cpuacct"] false"#,
                r#"/sys/fs/cgroup/memory ["memory"] false"#,
                r#"/sys/fs/cgroup/systemd ["name=systemd"] false"#,
                r#"/sys/fs/cgroup/unified [] true"#,
            ]
        );
    }

    #[test]
    fn a_process_is_limited_seen_killed_and_its_cgroup_removed() {
        let hierarchies = Hierarchies::detect().unwrap();
        let pod = hierarchies.cgroup(&format!("knarr-sys-test-{}", std::process::id()));
        let leaf = pod.child("leaf");
        leaf.create().unwrap();
        leaf.apply(&Limits { memory_bytes: Some(64 << 20), pids: Some(10), cpu_shares: Some(512), ..Limits::default() }).unwrap();
        let entrance = leaf.entrance().unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        // Enter from outside, as only this test does: the slow way, but without forking a threaded process by hand.
        for (_, folder) in leaf.folders() {
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        drop(entrance);
        assert_eq!(leaf.processes().unwrap(), BTreeSet::from([child.id() as i32]));
        assert_eq!(pod.processes().unwrap().len(), 1);
        let stats = leaf.stats().unwrap();
        assert_eq!(stats.processes, 1);
        assert_eq!(stats.memory_limit, Some(64 << 20));
        pod.kill().unwrap();
        child.wait().unwrap();
        pod.remove().unwrap();
        assert!(!pod.exists());
    }
}
