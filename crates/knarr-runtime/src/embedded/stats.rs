//! What a container uses.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Embedded, failed, in_background};
use crate::cri::{ContainerStats, Result};

/// How old the size of a writable layer may be: walking it is dear. containerd looks every ten seconds too.
const LAYER_USE_AGE_MAX: Duration = Duration::from_secs(10);

impl Embedded {
    pub(super) async fn stats(&self, id: &str) -> Result<ContainerStats> {
        let container = self.container(id)?;
        let cgroup = self.0.hierarchies.cgroup(&container.record.lock().cgroup);
        let (id, upper) = (id.to_owned(), self.0.root.join("containers").join(id).join("upper"));
        in_background(move || {
            let stats = cgroup.stats().map_err(failed("reading cgroup statistics"))?;
            let writable_layer_bytes = {
                let mut known = container.layer_use.lock();
                match *known {
                    Some((at, bytes)) if at.elapsed() < LAYER_USE_AGE_MAX => bytes,
                    _ => {
                        let bytes = disk_use(&upper);
                        *known = Some((Instant::now(), bytes));
                        bytes
                    }
                }
            };
            Ok(ContainerStats {
                id,
                at: jiff::Timestamp::now(),
                cpu_usage_nanos: stats.cpu_usage_nanos,
                memory_usage_bytes: stats.memory_usage_bytes,
                memory_working_set_bytes: stats.memory_working_set_bytes,
                memory_rss_bytes: stats.memory_rss_bytes,
                writable_layer_bytes,
                process_count: stats.processes,
            })
        })
        .await
    }
}

/// Bytes on disk of a folder and all in it. What vanishes meanwhile counts nothing.
fn disk_use(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}
