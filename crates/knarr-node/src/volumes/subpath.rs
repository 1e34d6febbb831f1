//! `subPath`: a path inside a volume that a container's user may be rewriting meanwhile. It is walked by the kernel, opened,
//! and what was opened is mounted under the pod's own folder, so that the runtime mounts exactly that (upstream:
//! `pkg/volume/util/subpath/subpath_linux.go`).

use std::fs;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use super::beneath;
use super::mounter::Mounter;

/// Upstream's words for a path that cannot be a sub-path.
///
/// # Errors
/// It is absolute or leads upwards.
pub fn check(sub_path: &str) -> Result<(), String> {
    let path = Path::new(sub_path);
    if path.is_absolute() {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{sub_path}`: must not contain '..'"));
    }
    Ok(())
}

/// Where a container's mount of a volume's sub-path is pinned.
fn pin(pod_dir: &Path, volume: &str, container: &str, index: usize) -> PathBuf {
    pod_dir.join("volume-subpaths").join(volume).join(container).join(index.to_string())
}

/// Opens the sub-path, making missing directories, and pins it. Gives the path to mount from.
///
/// # Errors
/// The file system's; the caller tells the user less, since the text could name paths of the node.
pub fn prepare(
    mounter: &dyn Mounter,
    volume_dir: &Path,
    sub_path: &str,
    pod_dir: &Path,
    volume: &str,
    container: &str,
    index: usize,
) -> std::io::Result<PathBuf> {
    let opened = beneath::open_or_make_dirs(volume_dir, Path::new(sub_path))?;
    let target = pin(pod_dir, volume, container, index);
    mounter.unmount(&target)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let is_dir = beneath::is_dir(&opened)?;
    match fs::symlink_metadata(&target) {
        Ok(meta) if meta.is_dir() != is_dir => {
            if meta.is_dir() {
                fs::remove_dir(&target)?
            } else {
                fs::remove_file(&target)?
            }
        }
        _ => {}
    }
    if is_dir {
        fs::create_dir_all(&target)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(&target)?;
    }
    mounter.bind(opened.as_fd(), &target)?;
    Ok(target)
}

/// Takes all pins of a pod back.
///
/// # Errors
/// The file system's.
pub fn clean(mounter: &dyn Mounter, pod_dir: &Path) -> std::io::Result<()> {
    let root = pod_dir.join("volume-subpaths");
    if !root.exists() {
        return Ok(());
    }
    for volume in fs::read_dir(&root)? {
        for container in fs::read_dir(volume?.path())? {
            for pinned in fs::read_dir(container?.path())? {
                mounter.unmount(&pinned?.path())?;
            }
        }
    }
    knarr_sys::tree::remove(&root)
}

#[cfg(test)]
mod tests {
    use super::super::mounter::Recording;
    use super::*;

    #[test]
    fn a_sub_path_is_made_pinned_and_cleaned() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, pod) = (dir.path().join("v"), dir.path().join("p"));
        fs::create_dir_all(&volume).unwrap();
        let mounter = Recording::default();
        let path = prepare(&mounter, &volume, "a/b", &pod, "v", "c", 0).unwrap();
        assert_eq!(path, pod.join("volume-subpaths/v/c/0"));
        assert!(volume.join("a/b").is_dir());
        assert_eq!(mounter.mounted(), [("bind".to_owned(), path)]);
        clean(&mounter, &pod).unwrap();
        assert!(mounter.mounted().is_empty() && !pod.join("volume-subpaths").exists());
    }

    #[test]
    fn a_file_can_be_a_sub_path_too() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("f"), "x").unwrap();
        assert!(prepare(&Recording::default(), &volume, "f", &dir.path().join("p"), "v", "c", 1).unwrap().is_file());
        assert!(check("/x").is_err() && check("a/../b").is_err() && check("a/b").is_ok());
    }
}
