//! `kubectl cp`: files to and from containers, as a stream of `tar` in the container.

use std::path::{Component, Path, PathBuf};

use knarr_core::ValueExt;

use super::pods::default_container;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result, go_io};
use crate::kubectl::flags::{Flag, int, switch, text};
use crate::kubectl::resources::known;
use crate::kubectl::stream::Streams;

const FLAGS: &[Flag] = &[
    text("container", "", "Container name").short('c'),
    switch("no-preserve", "The copied file/directory's ownership and permissions will not be preserved in the container"),
    int("retries", "0", "Accepted; a copy that breaks off is told of"),
];

pub static VERB: Verb = Verb {
    name: "cp",
    usage: "<file-spec-src> <file-spec-dest> [flags]",
    about: "Copy files and directories to and from containers",
    flags: &[FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// `[[namespace/]pod:]path`
#[derive(Debug, PartialEq)]
struct Place {
    namespace: String,
    pod: String,
    path: String,
}

fn place(text: &str) -> Result<Place> {
    let local = |path: &str| Place { namespace: String::new(), pod: String::new(), path: path.to_owned() };
    let Some((pod, path)) = text.split_once(':') else { return Ok(local(text)) };
    let bad = || Failure::from("filespec must match the canonical format: [[namespace/]pod:]file/path");
    let parts: Vec<&str> = pod.split('/').collect();
    match parts.as_slice() {
        [pod] if !pod.is_empty() => Ok(Place { namespace: String::new(), pod: (*pod).to_owned(), path: path.to_owned() }),
        [namespace, pod] if !namespace.is_empty() && !pod.is_empty() => {
            Ok(Place { namespace: (*namespace).to_owned(), pod: (*pod).to_owned(), path: path.to_owned() })
        }
        _ => Err(bad()),
    }
}

async fn run(cx: &Context) -> Result<()> {
    let [from, to] = cx.words() else { return Err("source and destination are required".into()) };
    let (from, to) = (place(from)?, place(to)?);
    if !from.pod.is_empty() && !to.pod.is_empty() {
        return Err("one of src or dest must be a local file specification".into());
    }
    if from.path.is_empty() || to.path.is_empty() {
        return Err("filepath can not be empty".into());
    }
    if !from.pod.is_empty() {
        return download(cx, &from, Path::new(&to.path)).await;
    }
    if !to.pod.is_empty() {
        return upload(cx, Path::new(&from.path), &to).await;
    }
    Err("one of src or dest must be a remote file specification".into())
}

async fn streams(cx: &Context, place: &Place, command: &[&str], stdin: bool) -> Result<Streams> {
    let session = cx.session()?;
    let namespace = if place.namespace.is_empty() { session.namespace.clone() } else { place.namespace.clone() };
    let pod = session.get(&known("pods").path(Some(&namespace), Some(&place.pod))).await?;
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return Err(format!("cannot exec into a container in a completed pod; current phase is {phase}").into());
    }
    let container = cx.flags.some("container").map(str::to_owned).or_else(|| default_container(&pod));
    let command = command.iter().map(|c| (*c).to_owned()).collect();
    Ok(Streams { namespace, pod: place.pod.clone(), container, command: Some(command), stdin, tty: false, quiet: true, detach: Vec::new() })
}

async fn upload(cx: &Context, from: &Path, to: &Place) -> Result<()> {
    if !from.exists() {
        return Err(format!("{} doesn't exist in local filesystem", from.display()).into());
    }
    let session = cx.session()?;
    // A folder as destination takes the file in under its own name.
    let is_folder =
        streams(cx, to, &["test", "-d", &to.path], false).await?.exchange(session, &mut tokio::io::empty(), &mut std::io::sink(), &mut std::io::sink()).await;
    let mut target = PathBuf::from(&to.path);
    if is_folder.is_ok() {
        target.push(from.file_name().unwrap_or_default());
    }
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = target.parent().map(|p| p.display().to_string()).filter(|p| !p.is_empty()).unwrap_or_else(|| ".".into());
    let archive = pack(from, &name)?;
    let mut command = vec!["tar"];
    if cx.flags.on("no-preserve") {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-", "-C", &folder]);
    let streams = streams(cx, to, &command, true).await?;
    streams.exchange(session, &mut archive.as_slice(), &mut std::io::stdout(), &mut std::io::stderr()).await
}

/// A file or folder as an archive in which it has this name.
fn pack(from: &Path, name: &str) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    if from.is_dir() {
        builder.append_dir_all(name, from)?
    } else {
        builder.append_path_with_name(from, name)?
    }
    Ok(builder.into_inner()?)
}

async fn download(cx: &Context, from: &Place, to: &Path) -> Result<()> {
    let session = cx.session()?;
    let mut archive = Vec::new();
    let streams = streams(cx, from, &["tar", "cf", "-", &from.path], false).await?;
    streams.exchange(session, &mut tokio::io::empty(), &mut archive, &mut std::io::stderr()).await?;
    let base = Path::new(&from.path).file_name().map(PathBuf::from).unwrap_or_default();
    let target = if to.is_dir() { to.join(&base) } else { to.to_owned() };
    unpack(&archive, from.path.trim_start_matches('/'), &target)
}

/// Takes regular files and folders out of an archive; nothing leaves the target, and links are left out.
fn unpack(archive: &[u8], prefix: &str, target: &Path) -> Result<()> {
    let prefix = clean(Path::new(prefix)).unwrap_or_default();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let inside = clean(&name).and_then(|n| n.strip_prefix(&prefix).map(Path::to_owned).ok());
        let Some(inside) = inside else { return Err("tar contents corrupted".into()) };
        let path = if inside.as_os_str().is_empty() { target.to_owned() } else { target.join(inside) };
        match entry.header().entry_type() {
            tar::EntryType::Directory => std::fs::create_dir_all(&path)?,
            kind if kind.is_file() => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
                    std::fs::remove_file(&path)?;
                }
                let mut file = std::fs::File::create(&path).map_err(|e| format!("open {}: {}", path.display(), go_io(&e)))?;
                std::io::copy(&mut entry, &mut file)?;
            }
            tar::EntryType::Symlink => {
                eprintln!("warning: skipping symlink: \"{}\" -> \"{}\"", path.display(), entry.link_name()?.unwrap_or_default().display())
            }
            _ => {}
        }
    }
    Ok(())
}

/// A path without `..`, roots and dots; none when it would leave its folder.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return None,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let of = |text: &str| place(text).map(|p| format!("{}|{}|{}", p.namespace, p.pod, p.path)).map_err(|e| e.to_string());
        assert_eq!(of("a/b"), Ok("||a/b".into()));
        assert_eq!(of("pod:/x"), Ok("|pod|/x".into()));
        assert_eq!(of("ns/pod:x"), Ok("ns|pod|x".into()));
        assert!(of("a/b/c:x").is_err());
    }

    #[test]
    fn what_is_packed_comes_out_and_nothing_leaves_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::write(from.join("sub/file"), "text").unwrap();
        let archive = pack(&from, "name").unwrap();
        let target = folder.path().join("to");
        unpack(&archive, "name", &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("sub/file")).unwrap(), "text");
        assert!(unpack(&archive, "other", &target).is_err());
        assert_eq!(clean(Path::new("a/../../b")), None);
    }
}
