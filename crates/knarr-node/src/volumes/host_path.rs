//! `hostPath`: a path of the node, checked or made as its type says (upstream: `pkg/volume/hostpath`).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

fn kind_of(path: &Path) -> io::Result<&'static str> {
    let kind = fs::metadata(path)?.file_type();
    Ok(match () {
        () if kind.is_dir() => "Directory",
        () if kind.is_file() => "File",
        () if kind.is_socket() => "Socket",
        () if kind.is_char_device() => "CharDevice",
        () if kind.is_block_device() => "BlockDevice",
        () => "",
    })
}

/// # Errors
/// The path is not of the type that the volume wants, in upstream's words.
pub fn check(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let (wanted, words) = match source.type_.as_deref().unwrap_or_default() {
        "" => return Ok(()),
        "DirectoryOrCreate" => {
            make_if_missing(path, |p| fs::create_dir_all(p), 0o755)?;
            ("Directory", "directory")
        }
        "FileOrCreate" => {
            make_if_missing(path, |p| fs::OpenOptions::new().create(true).append(true).open(p).map(drop), 0o644)?;
            ("File", "file")
        }
        "Directory" => ("Directory", "directory"),
        "File" => ("File", "file"),
        "Socket" => ("Socket", "socket file"),
        "CharDevice" => ("CharDevice", "character device"),
        "BlockDevice" => ("BlockDevice", "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    match kind_of(path) {
        Ok(kind) if kind == wanted => Ok(()),
        Ok(kind) => Err(format!("hostPath type check failed: {} is not a {words}, it's a {kind}", source.path)),
        Err(e) => Err(format!("hostPath type check failed, {} is not a {words}, unable to determine its type: {e}", source.path)),
    }
}

fn make_if_missing(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>, mode: u32) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    make(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode))).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_checked_and_made_only_where_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, kind: &str| check(&HostPathVolumeSource { path: dir.path().join(name).display().to_string(), type_: Some(kind.into()) });
        assert!(of("gone", "").is_ok());
        assert!(of("gone", "Directory").is_err());
        assert!(of("made", "DirectoryOrCreate").is_ok());
        assert!(of("made", "Directory").is_ok());
        assert!(of("made", "File").unwrap_err().ends_with("is not a file, it's a Directory"));
        assert!(of("file", "FileOrCreate").is_ok());
        assert!(of("file", "Socket").is_err());
    }
}
