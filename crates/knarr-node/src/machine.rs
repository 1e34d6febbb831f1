//! What the machine has: processors, memory, disk, identity. Read from `/proc` and `/sys` (upstream: cAdvisor's `machine`).

use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use knarr_core::quantity::Quantity;

use crate::config::AgentConfig;
use crate::pod::spec::ResourceList;

/// Facts that do not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub cpus: usize,
    /// Bytes.
    pub memory: u64,
    /// Bytes of memory on disk.
    pub swap: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// Bytes of the file system that holds the agent's folders.
    pub disk: u64,
    /// Page size (`2Mi`) and pages.
    pub hugepages: Vec<(String, u64)>,
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

impl Machine {
    /// Reads the machine that this process runs on. What cannot be read stays empty.
    pub fn read(root_dir: &Path) -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: meminfo("MemTotal").unwrap_or_default(),
            swap: meminfo("SwapTotal").unwrap_or_default(),
            machine_id: text("/etc/machine-id"),
            system_uuid: [text("/sys/class/dmi/id/product_uuid"), text("/etc/machine-id")].into_iter().find(|t| !t.is_empty()).unwrap_or_default(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel_version: text("/proc/sys/kernel/osrelease"),
            os_image: pretty.trim_matches('"').to_owned(),
            disk: disk_usage(root_dir).map_or(0, |d| d.capacity),
            hugepages: hugepages(),
        }
    }

    /// What the node has, or what the configuration says it has.
    pub fn capacity(&self, config: &AgentConfig) -> ResourceList {
        let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut all = ResourceList::from([
            ("cpu".to_owned(), quantity(Quantity::from_i64(int(self.cpus as u64)))),
            ("memory".to_owned(), ApiQuantity(format!("{}Ki", self.memory / 1024))),
            ("ephemeral-storage".to_owned(), ApiQuantity(format!("{}Ki", self.disk / 1024))),
            ("pods".to_owned(), quantity(Quantity::from_i64(i64::from(config.max_pods)))),
        ]);
        for (size, pages) in &self.hugepages {
            let bytes = size.parse::<Quantity>().map_or(0, |q| q.value()) * int(*pages);
            all.insert(format!("hugepages-{size}"), quantity(Quantity::from_bytes(bytes)));
        }
        all.extend(config.capacity.iter().map(|(name, q)| (name.clone(), quantity(*q))));
        all
    }

    /// What pods can use: capacity without what is reserved, and a tenth of the disk less (the eviction threshold).
    pub fn allocatable(&self, config: &AgentConfig) -> ResourceList {
        let mut all = self.capacity(config);
        for (name, held) in &mut all {
            let reserved = config.reserved.get(name).copied().unwrap_or(Quantity::ZERO);
            let have = held.0.parse::<Quantity>().unwrap_or(Quantity::ZERO);
            if name == "ephemeral-storage" && !config.capacity.contains_key(name) {
                *held = ApiQuantity((have.value() / 10 * 9 - reserved.value()).max(0).to_string());
            } else if !reserved.is_zero() {
                *held = quantity(have - reserved);
            }
        }
        all
    }
}

fn quantity(q: Quantity) -> ApiQuantity {
    ApiQuantity(q.to_string())
}

/// A line of `/proc/meminfo`, in bytes.
pub fn meminfo(name: &str) -> Option<u64> {
    let all = fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn hugepages() -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let sizes = entries.flatten().filter_map(|e| {
        let kilobytes: i64 = e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = fs::read_to_string(e.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((Quantity::from_bytes(kilobytes * 1024).to_string(), pages))
    });
    let mut all: Vec<_> = sizes.collect();
    all.sort();
    all
}

/// Bytes and inodes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub capacity: u64,
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The file system that holds `path`, or the nearest folder above it that exists.
pub fn disk_usage(path: &Path) -> Option<DiskUsage> {
    let there = path.ancestors().find(|p| p.exists())?;
    let s = nix::sys::statvfs::statvfs(there).ok()?;
    let block = s.fragment_size() as u64;
    Some(DiskUsage {
        capacity: s.blocks() as u64 * block,
        available: s.blocks_available() as u64 * block,
        used: (s.blocks() as u64 - s.blocks_free() as u64) * block,
        inodes: s.files() as u64,
        inodes_free: s.files_free() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_is_not_reserved() {
        let machine = Machine { cpus: 4, memory: 8 << 30, disk: 100 << 20, ..Default::default() };
        let mut config = AgentConfig::new("n");
        config.reserved.insert("memory".into(), Quantity::from_bytes(1 << 30));
        config.capacity.insert("cpu".into(), Quantity::from_i64(32));
        let all = machine.allocatable(&config);
        assert_eq!((all["cpu"].0.as_str(), all["memory"].0.as_str(), all["pods"].0.as_str()), ("32", "7Gi", "110"));
        assert_eq!(machine.capacity(&config)["memory"].0, "8388608Ki");
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.disk > 0 && !machine.kernel_version.is_empty());
    }
}
