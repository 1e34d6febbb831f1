//! A volume's group: with `fsGroup`, files belong to it and directories pass it on (upstream: `pkg/volume/volume_linux.go`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const SEARCH: u32 = 0o110;
const SET_GROUP: u32 = 0o2000;

/// Gives everything in `dir` to `group`. With `only_on_mismatch` nothing is done when the directory itself is right already.
///
/// # Errors
/// The file system's.
pub fn set_group(dir: &Path, group: u32, read_only: bool, only_on_mismatch: bool) -> io::Result<()> {
    if only_on_mismatch && is_right(dir, group, read_only)? {
        return Ok(());
    }
    descend(dir, group, read_only)
}

fn is_right(dir: &Path, group: u32, read_only: bool) -> io::Result<bool> {
    let meta = fs::metadata(dir)?;
    let wanted = if read_only { READ_ONLY } else { READ_WRITE } | SEARCH | SET_GROUP;
    Ok(meta.is_dir() && meta.gid() == group && meta.mode() & wanted == wanted)
}

/// Children first, so that a directory that is right tells that all below it is.
fn descend(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            descend(&entry?.path(), group, read_only)?;
        }
    }
    lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mode = meta.mode() & 0o7777 | if read_only { READ_ONLY } else { READ_WRITE };
    if meta.is_dir() {
        mode |= SET_GROUP | SEARCH;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_may_write_and_directories_pass_it_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let own = fs::metadata(dir.path()).unwrap().gid();
        set_group(dir.path(), own, false, false).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o660);
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o2770, 0o2770);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        set_group(dir.path(), own, false, true).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600, "the root is right, so nothing is touched");
    }
}
