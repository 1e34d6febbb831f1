//! `emptyDir`: a folder, or memory, or huge pages (upstream: `pkg/volume/emptydir`).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use knarr_core::quantity::Quantity;

use super::mounter::Mounter;
use crate::context::Context;
use crate::pod::resources::pod_limits;
use crate::pod::spec::{PodExt, ResourceList, amount, init_containers, requests};

const DEFAULT_MODE: u32 = 0o777;

/// Makes the volume at `path`; what is there already stays.
///
/// # Errors
/// The file system's, or a medium that cannot be had.
pub fn make(context: &Context, pod: &Pod, source: &EmptyDirVolumeSource, path: &Path) -> io::Result<()> {
    let mode = source.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE);
    let fresh = !path.exists();
    fs::create_dir_all(path)?;
    let medium = source.medium.as_deref().unwrap_or_default();
    if medium.is_empty() {
        // Somebody may have changed the mode since: only a new folder gets it.
        return if fresh { fs::set_permissions(path, fs::Permissions::from_mode(mode)) } else { Ok(()) };
    }
    if context.mounter.is_mounted(path) {
        return Ok(());
    }
    match medium {
        "Memory" => context.mounter.tmpfs(path, memory_size(pod, source, &context.allocatable()), mode),
        _ if medium.starts_with("HugePages") => context.mounter.hugetlbfs(path, &page_size(pod, medium).map_err(io::Error::other)?),
        other => Err(io::Error::other(format!("unknown storage medium \"{other}\""))),
    }
}

/// The least of the volume's own limit, the pod's memory limit and what the node can give (upstream: `calculateEmptyDirMemorySize`).
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: &ResourceList) -> Option<u64> {
    let own = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok());
    let spec = pod.spec();
    let limited =
        init_containers(spec).iter().chain(&spec.containers).all(|c| c.resources.as_ref().is_some_and(|r| r.limits.iter().any(|l| l.contains_key("memory"))));
    let of_pod = limited.then(|| amount(Some(&pod_limits(spec)), "memory"));
    let least = [own, of_pod, Some(amount(Some(allocatable), "memory"))].into_iter().flatten().filter(|q| !q.is_zero()).min()?;
    u64::try_from(least.value()).ok()
}

/// The page size as a mount option, from the medium or from what the containers ask for.
fn page_size(pod: &Pod, medium: &str) -> Result<String, String> {
    let spec = pod.spec();
    let lists = init_containers(spec).iter().chain(&spec.containers).filter_map(|c| requests(c.resources.as_ref())).chain(requests(spec.resources.as_ref()));
    let mut sizes: Vec<&str> = lists.flat_map(|l| l.keys()).filter_map(|name| name.strip_prefix("hugepages-")).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let found = match medium.strip_prefix("HugePages-") {
        Some(wanted) => sizes.into_iter().find(|s| *s == wanted),
        None if sizes.len() > 1 => return Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes")),
        None => sizes.first().copied(),
    };
    let size = found.ok_or_else(|| format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages"))?;
    Ok(size.trim_end_matches('i').to_owned())
}

/// Unmounts the memory of a pod's volumes.
pub fn unmount_all(mounter: &dyn Mounter, pod_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(pod_dir.join("volumes/kubernetes.io~empty-dir")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if mounter.is_mounted(&path) {
            mounter.unmount(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    #[test]
    fn memory_is_limited_by_the_least_of_all_limits() {
        let allocatable: ResourceList = serde_json::from_value(json!({"memory": "1Gi"})).unwrap();
        let size = |spec, limit: Option<&str>| {
            let source =
                EmptyDirVolumeSource { size_limit: limit.map(|l| k8s_openapi::apimachinery::pkg::api::resource::Quantity(l.into())), ..Default::default() };
            memory_size(&pod_of(spec), &source, &allocatable)
        };
        assert_eq!(size(json!({"containers": [{"name": "a"}]}), None), Some(1 << 30));
        assert_eq!(size(json!({"containers": [{"name": "a"}]}), Some("1Mi")), Some(1 << 20));
        assert_eq!(size(json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "2Mi"}}}]}), Some("5Mi")), Some(2 << 20));
    }
}
