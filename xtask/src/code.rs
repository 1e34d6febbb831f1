//! The code of the program in one number: the build profile is kept beside the number of the code that it was taken of, so that a release that is
//! built of other code can say so.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use knarr_core::hex;
use sha2::{Digest, Sha256};

use crate::tools;

/// What the program is built of. Tests of a whole crate are not part of it, nor is what only tests call.
const PARTS: &[&str] = &["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "crates"];
const NO_PART: &[&str] = &["tests", "examples", "benches", "testing.rs", "knarr-fuzz"];
/// Modules of tests that lie in a file of their own: `tests.rs`, `decode_tests.rs`.
const NO_PART_ENDS: &str = "tests.rs";

/// Where the number lies for the code that this build profile was taken of.
fn kept(profile: &Path) -> PathBuf {
    let name = profile.file_name().unwrap_or_default().to_string_lossy().into_owned();
    profile.with_file_name(format!("{}.code", name.trim_end_matches(".profdata.zst")))
}

/// To be called when a build profile was taken.
pub fn keep(profile: &Path) -> Result<()> {
    let path = kept(profile);
    std::fs::write(&path, digest(&tools::root())? + "\n").with_context(|| path.display().to_string())
}

/// Says so when the profile was taken of other code.
pub fn warn_of_another(profile: &Path) -> Result<()> {
    let then = std::fs::read_to_string(kept(profile)).unwrap_or_default();
    if then.trim() != digest(&tools::root())? {
        eprintln!(
            "the build profile was taken of other code than this: what has moved since is built without, and may take a fifth more CPU (`cargo xtask profile` takes it anew)"
        );
    }
    Ok(())
}

fn digest(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for part in PARTS {
        collect(&root.join(part), &mut files)?;
    }
    files.sort_unstable();
    let mut all = Sha256::new();
    for file in files {
        let contents = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root)?.to_string_lossy().into_owned();
        for part in [name.as_bytes(), &contents] {
            all.update((part.len() as u64).to_le_bytes());
            all.update(part);
        }
    }
    Ok(hex::encode(all.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.extend(path.is_file().then(|| path.to_owned()));
        return Ok(());
    }
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        if !NO_PART.iter().any(|no| name == *no) && !name.to_string_lossy().ends_with(NO_PART_ENDS) {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_code_has_another_number_and_other_tests_have_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let put = |name: &str, text: &str| {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), text).unwrap();
            digest(root).unwrap()
        };
        let mut seen = vec![put("Cargo.lock", "a"), put("crates/x/src/lib.rs", "ab"), put("crates/x/src/lib.rs", "a"), put("crates/x/src/lib.rsb", "")];
        assert_eq!(put("crates/x/tests/it.rs", "of no weight"), *seen.last().unwrap());
        assert_eq!(put("crates/x/src/testing.rs", "of no weight"), *seen.last().unwrap());
        assert_eq!(put("crates/knarr-fuzz/src/lib.rs", "of no weight"), *seen.last().unwrap());
        assert_eq!(put("crates/x/src/codec/decode_tests.rs", "of no weight"), *seen.last().unwrap());
        assert_eq!(put("README.md", "of no weight"), *seen.last().unwrap());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn the_number_lies_beside_the_profile_of_its_compiler() {
        assert_eq!(kept(Path::new("profile/rustc-1.95.0.profdata.zst")), Path::new("profile/rustc-1.95.0.code"));
    }
}
