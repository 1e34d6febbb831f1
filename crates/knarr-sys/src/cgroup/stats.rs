//! Reading use out of cgroup files.

use std::fs;
use std::io;
use std::path::Path;

use super::{Cgroup, gone, with_path};

/// What the processes of a cgroup use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    pub cpu_usage_nanos: u64,
    pub memory_usage_bytes: u64,
    /// Usage without file pages that the kernel can drop at once: kubelet's working set.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    /// `None`: no limit.
    pub memory_limit: Option<u64>,
    pub processes: u64,
    /// Periods, throttled periods, nanoseconds throttled.
    pub cpu_throttling: (u64, u64, u64),
}

/// v1 shows "no limit" as the largest page-aligned number.
const V1_UNLIMITED: u64 = 1 << 62;

pub(super) fn read(cgroup: &Cgroup) -> io::Result<Stats> {
    let mut stats = Stats::default();
    cpu(cgroup, &mut stats)?;
    memory(cgroup, &mut stats)?;
    if let Some(folder) = cgroup.folder("pids") {
        stats.processes = number(&folder, "pids.current")?.unwrap_or(0);
    }
    Ok(stats)
}

fn cpu(cgroup: &Cgroup, stats: &mut Stats) -> io::Result<()> {
    let Some(folder) = cgroup.folder("cpu") else { return Ok(()) };
    let lines = text(&folder, "cpu.stat")?;
    let field = |name| field(&lines, name);
    if Some(&folder) == cgroup.unified_folder().as_ref() {
        stats.cpu_usage_nanos = field("usage_usec") * 1000;
        stats.cpu_throttling = (field("nr_periods"), field("nr_throttled"), field("throttled_usec") * 1000);
        return Ok(());
    }
    stats.cpu_throttling = (field("nr_periods"), field("nr_throttled"), field("throttled_time"));
    if let Some(folder) = cgroup.folder("cpuacct") {
        stats.cpu_usage_nanos = number(&folder, "cpuacct.usage")?.unwrap_or(0);
    }
    Ok(())
}

fn memory(cgroup: &Cgroup, stats: &mut Stats) -> io::Result<()> {
    let Some(folder) = cgroup.folder("memory") else { return Ok(()) };
    let lines = text(&folder, "memory.stat")?;
    let inactive = if Some(&folder) == cgroup.unified_folder().as_ref() {
        stats.memory_usage_bytes = number(&folder, "memory.current")?.unwrap_or(0);
        stats.memory_limit = number(&folder, "memory.max")?;
        stats.memory_rss_bytes = field(&lines, "anon");
        field(&lines, "inactive_file")
    } else {
        stats.memory_usage_bytes = number(&folder, "memory.usage_in_bytes")?.unwrap_or(0);
        stats.memory_limit = number(&folder, "memory.limit_in_bytes")?.filter(|&limit| limit < V1_UNLIMITED);
        stats.memory_rss_bytes = field(&lines, "total_rss");
        field(&lines, "total_inactive_file")
    };
    stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(inactive);
    Ok(())
}

pub(super) fn oom_kills(cgroup: &Cgroup) -> u64 {
    let Some(folder) = cgroup.folder("memory") else { return 0 };
    let file = if Some(&folder) == cgroup.unified_folder().as_ref() { "memory.events" } else { "memory.oom_control" };
    text(&folder, file).map_or(0, |lines| field(&lines, "oom_kill"))
}

fn text(folder: &Path, file: &str) -> io::Result<String> {
    match fs::read_to_string(folder.join(file)) {
        Err(error) if gone(&error) => Ok(String::new()),
        other => other.map_err(|error| with_path(error, &folder.join(file))),
    }
}

/// `None` for `max` and for a file that is not there.
fn number(folder: &Path, file: &str) -> io::Result<Option<u64>> {
    Ok(text(folder, file)?.trim().parse().ok())
}

fn field(lines: &str, name: &str) -> u64 {
    lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}
