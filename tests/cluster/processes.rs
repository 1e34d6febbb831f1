//! The processes of a test's cluster, as a killer sees them: server, guard, agents, spawners of shims, and shims.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_sys::process::{open_pidfd, send_signal};

use super::{Cluster, wait_or_tell};

/// Clock ticks of `/proc` in a second: the same on every Linux.
const TICKS: u64 = 100;
/// Start times are told less exactly than those of files.
const ROUNDING: Duration = Duration::from_millis(50);

/// One that was seen alive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub kind: String,
    pid: u32,
}

impl Process {
    /// Whether it looks after others.
    pub fn is_guardian(&self) -> bool {
        matches!(self.kind.as_str(), "server" | "guard" | "agent")
    }

    pub fn kill(&self) {
        kill_hard(self.pid);
    }
}

/// Ends a process at once. It may have ended by itself: then there is nothing to do.
pub fn kill_hard(pid: u32) {
    let pid = i32::try_from(pid).expect("a pid");
    if let Ok(process) = open_pidfd(pid) {
        send_signal(process.as_fd(), libc::SIGKILL).expect("a signal (as root)");
    }
}

/// Where they are found.
pub struct Processes {
    run: PathBuf,
    /// Roles with a pid file, and sandboxes with a shim: those that must be there in the end.
    wanted: BTreeSet<String>,
}

impl Processes {
    /// Those that run now are those that shall run.
    pub fn of(cluster: &Cluster) -> Self {
        let mut found = Self { run: cluster.run(), wanted: BTreeSet::new() };
        found.wanted = found.living_by_name().into_iter().map(|(name, _)| name).collect();
        found
    }

    /// Waits until each is there again.
    pub fn wait_for_all(&self) {
        for name in &self.wanted {
            let is_there = || self.living_by_name().iter().any(|(living, _)| living == name);
            wait_or_tell(&format!("{name} to be there again"), is_there, || self.remains_of(name));
        }
    }

    /// What is known of a role that does not come back: its pid file, and the threads of whoever that names. A process is there, and holds what
    /// it had locked, until the last of them has ended.
    fn remains_of(&self, role: &str) -> String {
        let file = std::fs::read_to_string(self.run.join(format!("{role}.pid"))).unwrap_or_else(|e| format!("no pid file: {e}\n"));
        let threads = PathBuf::from(format!("/proc/{}/task", file.split(' ').next().unwrap_or_default()));
        let threads = std::fs::read_dir(&threads).into_iter().flatten().flatten().map(|thread| {
            let told = ["stat", "wchan", "stack"].map(|what| std::fs::read_to_string(thread.path().join(what)).unwrap_or_else(|e| e.to_string()));
            told.join("\n")
        });
        format!("{role}.pid: {file}{}", threads.collect::<Vec<_>>().join("\n"))
    }

    pub fn living(&self) -> Vec<Process> {
        let named = self.living_by_name();
        let agents: Vec<u32> = named.iter().filter(|(name, _)| name.starts_with("agent-")).map(|(_, pid)| *pid).collect();
        let kind = |name: &str| name.split(['-', '/']).next().unwrap_or_default().to_owned();
        let mut living: Vec<Process> = named.iter().map(|(name, pid)| Process { kind: kind(name), pid: *pid }).collect();
        let spawners = all().into_iter().filter(|(_, s)| s.name == "knarr-shim" && agents.contains(&s.parent));
        living.extend(spawners.map(|(pid, _)| Process { kind: "spawner".to_owned(), pid }));
        living
    }

    /// What all of them have used together.
    pub fn cpu_time(&self) -> Duration {
        let ticks: u64 = self.living().iter().filter_map(|p| stat(p.pid)).map(|s| s.ticks).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// `server`, `guard`, `agent-NODE`, `shim/SANDBOX` with the pids that their files name, as long as those are really theirs.
    fn living_by_name(&self) -> Vec<(String, u32)> {
        let files = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let name = |path: &Path| Some(path.file_stem()?.to_string_lossy().into_owned());
        let roles = files(self.run.clone()).filter(|p| p.extension().is_some_and(|e| e == "pid")).filter_map(|p| {
            let text = std::fs::read_to_string(&p).ok()?;
            let (pid, started) = text.trim().split_once(' ')?;
            let pid = pid.parse().ok()?;
            (stat(pid)?.started == started.parse::<u64>().ok()?).then_some((name(&p)?, pid))
        });
        let sandboxes = files(self.run.join("nodes")).flat_map(|node| files(node.join("runtime/sandboxes")));
        let shims = sandboxes.filter_map(|p| {
            let file = p.join("shim.json");
            let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            let pid = u32::try_from(state["pid"].as_u64()?).ok()?;
            let stat = stat(pid)?;
            // It wrote the file itself: who started later has only its number.
            (stat.name == "knarr-shim" && stat.age()? + ROUNDING >= file.metadata().ok()?.modified().ok()?.elapsed().ok()?)
                .then_some((format!("shim/{}", name(&p)?), pid))
        });
        roles.chain(shims).collect()
    }
}

struct Stat {
    name: String,
    parent: u32,
    ticks: u64,
    /// In clock ticks since boot.
    started: u64,
}

impl Stat {
    fn age(&self) -> Option<Duration> {
        let uptime: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
        Some(Duration::from_secs_f64(uptime).saturating_sub(Duration::from_millis(self.started * 1000 / TICKS)))
    }
}

/// `None` when it has ended.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
    (!matches!(fields[0], "Z" | "X")).then_some(())?;
    Some(Stat { name: name.to_owned(), parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)?, started: number(19)? })
}

fn all() -> Vec<(u32, Stat)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(|pid| Some((pid, stat(pid)?))).collect()
}
