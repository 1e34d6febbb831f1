//! Files that change all at once: the data lies in a directory of its own, `..data` links to it, and the visible names
//! link through `..data`, so that one rename swaps every file (upstream: `pkg/volume/util/atomic_writer.go`).
//!
//! ```text
//! VOLUME/key        → ..data/key
//! VOLUME/..data     → ..2026_01_02_03_04_05.123456789
//! VOLUME/..2026_…/key
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4096;

/// One file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileData {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Owner, where it is not root.
    pub user: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, FileData>;

/// Why a path cannot be a file of a volume.
fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err(format!("invalid path: must not be empty: \"{path}\""));
    }
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("invalid path: must be less than or equal to {PATH_BYTES_MAX} characters"));
    }
    for item in path.split('/') {
        if item == ".." {
            return Err(format!("invalid path: must not contain '..': {path}"));
        }
        if item.len() > NAME_BYTES_MAX {
            return Err(format!("invalid path: filenames must be less than or equal to {NAME_BYTES_MAX} characters"));
        }
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

fn clean(path: &str) -> String {
    path.split('/').filter(|p| !p.is_empty() && *p != ".").collect::<Vec<_>>().join("/")
}

/// Makes the directory hold exactly this payload. `permit` sets owners and modes of the whole volume before the swap.
/// Gives whether anything was written.
///
/// # Errors
/// A path that cannot be, or the file system's failure.
pub fn write(dir: &Path, payload: &Payload, now: Timestamp, permit: impl FnOnce() -> io::Result<()>) -> Result<bool, String> {
    let mut cleaned = Payload::new();
    for (path, file) in payload {
        check_path(path)?;
        cleaned.insert(clean(path), file.clone());
    }
    write_clean(dir, &cleaned, now, permit).map_err(|e| format!("error writing payload to {}: {e}", dir.display()))
}

fn write_clean(dir: &Path, payload: &Payload, now: Timestamp, permit: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let old = match fs::read_link(dir.join(DATA)) {
        Ok(name) => Some(dir.join(name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let stale = old.as_deref().map_or_else(|| Ok(BTreeSet::new()), |old| stale_paths(old, payload))?;
    let current = old.as_deref().is_some_and(|old| stale.is_empty() && holds(old, payload));
    if !current {
        let fresh = new_dir(dir, now)?;
        write_files(&fresh, payload).and_then(|()| permit()).and_then(|()| swap(dir, &fresh)).inspect_err(|_| discard(&fresh))?;
    }
    link_visible(dir, payload)?;
    for path in stale.iter().filter(|p| !p.contains('/')) {
        fs::remove_file(dir.join(path))?;
    }
    if let Some(old) = old.filter(|_| !current) {
        fs::remove_dir_all(old)?;
    }
    Ok(!current)
}

/// Best effort: the failure that led here is the one to tell.
fn discard(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::debug!(path = %dir.display(), %error, "left a half-written directory behind");
    }
}

fn new_dir(dir: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let mut nanos = now.subsec_nanosecond();
    loop {
        let fresh = dir.join(format!("{stamp}.{nanos:09}"));
        match fs::create_dir(&fresh) {
            // Two writes in one instant of a simulated clock.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => nanos += 1,
            other => {
                other?;
                fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
                return Ok(fresh);
            }
        }
    }
}

fn write_files(dir: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent().filter(|p| *p != dir) {
            fs::create_dir_all(parent)?;
        }
        fs::write(&full, &file.data)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(file.mode))?;
        if let Some(user) = file.user {
            std::os::unix::fs::lchown(&full, Some(user), None)?;
        }
    }
    Ok(())
}

fn swap(dir: &Path, fresh: &Path) -> io::Result<()> {
    let link = dir.join(DATA_NEW);
    match fs::remove_file(&link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(fresh.file_name().unwrap_or_default(), &link)?;
    fs::rename(&link, dir.join(DATA))
}

fn link_visible(dir: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let name = path.split('/').next().unwrap_or_default();
        let visible = dir.join(name);
        match fs::read_link(&visible) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                symlink(Path::new(DATA).join(name), &visible)?;
                if let Some(user) = file.user {
                    std::os::unix::fs::lchown(&visible, Some(user), None)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Paths that the old data has and the new has not.
fn stale_paths(old: &Path, payload: &Payload) -> io::Result<BTreeSet<String>> {
    let mut wanted = BTreeSet::new();
    for path in payload.keys() {
        let mut part = path.as_str();
        loop {
            wanted.insert(part);
            let Some((parent, _)) = part.rsplit_once('/') else { break };
            part = parent;
        }
    }
    let mut all = BTreeSet::new();
    walk(old, "", &mut all)?;
    Ok(all.into_iter().filter(|p| !wanted.contains(p.as_str())).collect())
}

fn walk(dir: &Path, prefix: &str, all: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), all)?;
        }
        all.insert(name);
    }
    Ok(())
}

fn holds(old: &Path, payload: &Payload) -> bool {
    payload.iter().all(|(path, file)| fs::read(old.join(path)).is_ok_and(|data| data == file.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(p, d)| ((*p).to_owned(), FileData { data: d.as_bytes().to_vec(), mode: 0o644, user: None })).collect()
    }

    fn put(dir: &Path, files: &[(&str, &str)], second: i64) -> bool {
        write(dir, &payload(files), Timestamp::from_second(second).unwrap(), || Ok(())).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn files_are_seen_through_one_link_that_is_swapped() {
        let dir = tempfile::tempdir().unwrap();
        assert!(put(dir.path(), &[("a", "1"), ("sub/b", "2")], 0));
        assert_eq!(names(dir.path()), ["..1970_01_01_00_00_00.000000000", "..data", "a", "sub"]);
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        assert!(put(dir.path(), &[("a", "3")], 1));
        assert_eq!(names(dir.path()), ["..1970_01_01_00_00_01.000000000", "..data", "a"]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(put(dir.path(), &[("a", "1")], 0));
        assert!(!put(dir.path(), &[("a", "1")], 1));
        assert!(put(dir.path(), &[], 2));
        assert_eq!(names(dir.path()), ["..1970_01_01_00_00_02.000000000", "..data"]);
    }

    #[test]
    fn paths_cannot_leave_the_volume_or_shadow_its_links() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["/a", "../a", "a/../b", "..data", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "")]), Timestamp::UNIX_EPOCH, || Ok(())).is_err(), "{bad}");
        }
        assert!(names(dir.path()).is_empty());
    }
}
