//! What a node leaves in the file system and in the cgroups, taken away when its cluster stops.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use knarr_cli::cluster::config::{Cluster, Node};
use knarr_cli::cluster::failure::{Failure, Result};

use super::agent::folders;

/// Unmounts what is mounted below the node's folders and removes pods' folders, logs and cgroups.
pub fn remove(cluster: &Cluster, node: &Node) -> Result<()> {
    let (kubelet, pod_logs, container_logs) = folders(cluster, node);
    let roots = [kubelet.clone(), cluster.node_data(node), cluster.node_run(node)];
    for mount in mounts_below(&roots)? {
        if let Err(e) = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH) {
            tracing::warn!(path = %mount.display(), error = %e, "cannot unmount");
        }
    }
    for folder in [kubelet.join("pods"), pod_logs, container_logs] {
        remove_folder(&folder)?;
    }
    remove_folder(&kubelet)
}

/// A folder that somebody mounted for us is emptied, but stays.
fn remove_folder(folder: &Path) -> Result<()> {
    match knarr_sys::tree::remove(folder) {
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => knarr_sys::tree::empty(folder),
        other => other,
    }
    .map_err(|e| Failure::file(folder, &e))
}

/// Mount points below these folders, the deepest first. A folder that is one itself was mounted by somebody else and stays so.
fn mounts_below(roots: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|e| Failure::file(path, &e))?;
    let mut found: Vec<PathBuf> =
        text.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape).filter(|m| roots.iter().any(|r| m.starts_with(r) && m != r)).collect();
    found.sort();
    found.reverse();
    Ok(found)
}

/// The kernel writes blanks and the like as octal escapes.
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(escape, plain);
    }
    PathBuf::from(out)
}
