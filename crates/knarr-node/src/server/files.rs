//! `/logs`: the files below `/var/log`, for `kubectl get --raw /api/v1/nodes/NODE/proxy/logs/…`. Links out of that folder are not followed.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use nix::fcntl::OFlag;

use super::query::unescape;
use super::{Body, full, plain};
use crate::volumes::beneath;

const ROOT: &str = "/var/log";
/// Bytes of a file that are served; the end of a longer one.
const FILE_BYTES_MAX: u64 = 16 << 20;

pub fn serve(parts: &[&str]) -> Response<Body> {
    let path: PathBuf = parts.iter().map(|p| unescape(p)).filter(|p| !p.is_empty()).collect();
    match read(Path::new(ROOT), &path) {
        Ok(response) => response,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
        Err(error) => plain(StatusCode::FORBIDDEN, error.to_string()),
    }
}

fn read(root: &Path, path: &Path) -> std::io::Result<Response<Body>> {
    let start = beneath::open_root(root)?;
    let opened = beneath::open(&start, path, OFlag::O_PATH)?;
    if beneath::is_dir(opened.as_fd())? {
        return listing(&root.join(path));
    }
    let mut file = File::from(beneath::open(&start, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?);
    let length = file.metadata()?.len();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(length.saturating_sub(FILE_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// As Go's file server lists a folder.
fn listing(dir: &Path) -> std::io::Result<Response<Body>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let escaped = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let lines: String = names.iter().map(|n| format!("<a href=\"{0}\">{0}</a>\n", escaped(n))).collect();
    let mut response = Response::new(full(format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_served_from_inside_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/a.log"), "text").unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        assert!(read(&root, Path::new("sub")).is_ok() && read(&root, Path::new("sub/a.log")).is_ok());
        assert!(read(&root, Path::new("out")).is_err() && read(&root, Path::new("../secret")).is_err());
    }
}
