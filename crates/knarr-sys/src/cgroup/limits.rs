//! Writing limits in the words of both versions.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::{Cgroup, with_path};

/// Limits; unset fields are left alone. A negative number means no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Relative share of processor time, 2 to 262144; 1024 is one processor's worth.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
    /// Page size (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// The kernel kills all processes of the cgroup together when it runs out of memory (v2).
    pub oom_group: bool,
}

/// cgroup v2's weight for v1's shares, as runc 1.3.2 and later convert them: the default stays the default.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

pub(super) fn apply(cgroup: &Cgroup, limits: &Limits) -> io::Result<()> {
    cpu(cgroup, limits)?;
    if let Some(bytes) = limits.memory_bytes {
        memory(cgroup, bytes, limits.oom_group)?;
    }
    if let (Some(pids), Some(folder)) = (limits.pids, cgroup.folder("pids")) {
        write(&folder, "pids.max", &or_max(pids))?;
    }
    hugepages(cgroup, limits)
}

fn is_unified(cgroup: &Cgroup, controller: &str) -> bool {
    cgroup.folder(controller) == cgroup.unified_folder()
}

fn cpu(cgroup: &Cgroup, limits: &Limits) -> io::Result<()> {
    let Some(folder) = cgroup.folder("cpu") else { return Ok(()) };
    if is_unified(cgroup, "cpu") {
        if let Some(shares) = limits.cpu_shares {
            write(&folder, "cpu.weight", &weight_of_shares(shares).to_string())?;
        }
        if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
            let quota = limits.cpu_quota_us.map_or_else(|| "max".to_owned(), or_max);
            write(&folder, "cpu.max", &format!("{quota} {}", limits.cpu_period_us.unwrap_or(100_000)))?;
        }
        return Ok(());
    }
    if let Some(shares) = limits.cpu_shares {
        write(&folder, "cpu.shares", &shares.max(2).to_string())?;
    }
    let period = || limits.cpu_period_us.map_or(Ok(()), |period| write(&folder, "cpu.cfs_period_us", &period.to_string()));
    let quota = || limits.cpu_quota_us.map_or(Ok(()), |quota| write(&folder, "cpu.cfs_quota_us", &quota.max(-1).to_string()));
    // A child may not exceed its parent at any moment, so one of the two orders fails when both change.
    either_order(period, quota)
}

fn memory(cgroup: &Cgroup, bytes: i64, oom_group: bool) -> io::Result<()> {
    let Some(folder) = cgroup.folder("memory") else { return Ok(()) };
    if is_unified(cgroup, "memory") {
        write(&folder, "memory.max", &or_max(bytes))?;
        if oom_group {
            write(&folder, "memory.oom.group", "1")?;
        }
        return match folder.join("memory.swap.max").exists() {
            true => write(&folder, "memory.swap.max", if bytes < 0 { "max" } else { "0" }),
            false => Ok(()),
        };
    }
    let value = bytes.max(-1).to_string();
    if !folder.join("memory.memsw.limit_in_bytes").exists() {
        return write(&folder, "memory.limit_in_bytes", &value);
    }
    // The sum of memory and swap must never be below memory: which to move first depends on the direction.
    either_order(|| write(&folder, "memory.limit_in_bytes", &value), || write(&folder, "memory.memsw.limit_in_bytes", &value))
}

fn hugepages(cgroup: &Cgroup, limits: &Limits) -> io::Result<()> {
    let Some(folder) = cgroup.folder("hugetlb") else { return Ok(()) };
    let suffix = if is_unified(cgroup, "hugetlb") { "max" } else { "limit_in_bytes" };
    for (size, bytes) in &limits.hugepages {
        let file = format!("hugetlb.{size}.{suffix}");
        if folder.join(&file).exists() {
            write(&folder, &file, &bytes.to_string())?;
        }
    }
    Ok(())
}

fn either_order(first: impl Fn() -> io::Result<()>, second: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match first() {
        Ok(()) => second(),
        Err(_) => second().and_then(|()| first()),
    }
}

fn or_max(number: i64) -> String {
    if number < 0 { "max".to_owned() } else { number.to_string() }
}

fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| with_path(io::Error::new(error.kind(), format!("writing {value:?}: {error}")), &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_that_keep_minimum_default_and_maximum() {
        assert_eq!([2, 1024, 262_144, 102, 512].map(weight_of_shares), [1, 100, 10_000, 17, 59]);
    }
}
