//! `knarr backup` and `knarr restore`: all objects of a cluster with an embedded store, and the keys without which nobody can read or use them.
//!
//! A backup is made of a copy of the store's files, as a server that was killed at that moment would have found them: everything that was
//! acknowledged before is in it, and the server is not asked. A restored store goes on far above the backup's revisions
//! ([`knarr_store::log::backup`]).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use knarr_cli::cluster::config::Cluster;
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_cli::cluster::process::Process;
use knarr_cli::cluster::supervise;
use knarr_cli::cluster::verbs::Which;
use knarr_core::clock::Env;
use knarr_store::log::{LogEngine, backup};
use knarr_store::{Engine, Storage};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::roles;

/// Within a backup.
const STORE: &str = "store";
const PKI: &str = "pki";
const ABOUT: &str = "backup.json";
/// How often the store's files may change their number under the copy: that happens once in many megabytes of writes.
const TRIES: usize = 20;

#[derive(Args)]
pub struct Backup {
    #[command(flatten)]
    which: Which,
    /// Folder to make, or an empty one
    folder: PathBuf,
    /// Leave out the keys: the backup then fits this cluster alone, as long as it keeps its own, and may be stored where others can read it
    #[arg(long)]
    without_keys: bool,
}

#[derive(Args)]
pub struct Restore {
    #[command(flatten)]
    which: Which,
    /// Folder that `knarr backup` has made
    folder: PathBuf,
}

/// What a backup says of itself.
#[derive(Deserialize, Serialize)]
struct About {
    profile: String,
    version: String,
    /// RFC 3339.
    time: String,
    revision: u64,
    objects: usize,
}

/// Makes a backup; the cluster may run.
///
/// # Errors
/// No cluster, one on etcd, a folder that is not empty, or files that cannot be read or written.
pub async fn make(args: Backup) -> Result<()> {
    let cluster = args.which.load()?;
    embedded(&cluster, "etcdctl snapshot save")?;
    let folder = args.folder;
    make_empty(&folder)?;
    let env = Env::system();
    let copy = folder.join("copying");
    copy_store(&cluster.data.join("store"), &copy)?;
    let about = compact(&cluster, &copy, &folder.join(STORE), &env)?;
    fs::remove_dir_all(&copy).map_err(|e| Failure::file(&copy, &e))?;
    if !args.without_keys {
        copy_files(&cluster.pki(), &folder.join(PKI)).map_err(|e| Failure::file(&cluster.pki(), &e))?;
    }
    let text = serde_json::to_vec_pretty(&about).map_err(Failure::program)?;
    fs::write(folder.join(ABOUT), text).map_err(|e| Failure::file(&folder.join(ABOUT), &e))?;
    println!("Backed up {} objects at revision {} to {}", about.objects, about.revision, folder.display());
    if !args.without_keys {
        println!("The cluster's keys are in it: whoever can read it can do everything in the cluster");
    }
    Ok(())
}

/// Puts a backup in the place of what a stopped cluster has; that is kept beside.
///
/// # Errors
/// A cluster that runs, or that lies on etcd; a folder without a backup, or one whose keys are missing.
pub async fn restore(args: Restore) -> Result<()> {
    let (_turn, cluster) = args.which.take().await?;
    embedded(&cluster, "etcdctl snapshot restore")?;
    stopped(&cluster)?;
    let about = about(&args.folder)?;
    let env = Env::system();
    let (data, keys) = (&cluster.data, args.folder.join(PKI));
    let has_keys = keys.is_dir();
    let pki = if has_keys { keys.clone() } else { cluster.pki() };
    let made = data.join("store.restored");
    remove(&made)?;
    let sealer = roles::sealer(&cluster, &pki)?;
    let begins = backup::restore(&args.folder.join(STORE), &made, Some(sealer), env.clock.as_ref());
    let begins = begins.map_err(|e| Failure::new("BACKUP", Exit::Resource, format!("{}: {e}", args.folder.display()), advice(has_keys)))?;
    let kept = env.now().strftime("before-restore-%Y%m%dT%H%M%SZ").to_string();
    exchange(&made, &data.join("store"), &data.join(format!("store.{kept}")))?;
    if has_keys {
        let made = data.join("pki.restored");
        remove(&made)?;
        copy_files(&keys, &made).map_err(|e| Failure::file(&keys, &e))?;
        exchange(&made, &cluster.pki(), &data.join(format!("pki.{kept}")))?;
    }
    println!("Restored {} objects of {}; resource versions go on at {begins}", about.objects, about.time);
    println!("What was there before is kept in {}", data.join(format!("*.{kept}")).display());
    println!("knarr start brings the cluster back");
    Ok(())
}

fn advice(has_keys: bool) -> &'static str {
    if has_keys { "look into the folder" } else { "it was made without keys: it can only be restored where the cluster has the same ones" }
}

fn embedded(cluster: &Cluster, instead: &str) -> Result<()> {
    if cluster.joined {
        return Err(Failure::new("JOINED", Exit::Cluster, "the cluster's objects lie where its server is", "run it there"));
    }
    match cluster.datastore {
        None => Ok(()),
        Some(_) => Err(Failure::new("DATASTORE", Exit::Cluster, "the cluster's objects lie in an etcd", instead)),
    }
}

fn stopped(cluster: &Cluster) -> Result<()> {
    match supervise::roles(cluster).into_iter().find(|(role, _)| Process::from_pid_file(&cluster.pid_file(role)).is_some()) {
        None => Ok(()),
        Some((role, _)) => Err(Failure::new("RUNNING", Exit::Cluster, format!("the cluster runs ({role})"), "knarr stop")),
    }
}

fn about(folder: &Path) -> Result<About> {
    let path = folder.join(ABOUT);
    let text = fs::read(&path).map_err(|e| Failure::file(&path, &e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Failure::new("BACKUP", Exit::Resource, format!("{}: {e}", path.display()), "name a folder that knarr backup has made"))
}

fn make_empty(folder: &Path) -> Result<()> {
    let failed = |e: io::Error| Failure::file(folder, &e);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    match fs::read_dir(folder).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(Failure::new("BACKUP", Exit::Usage, format!("{} is not empty", folder.display()), "name a new folder")),
    }
}

/// Copies the store's files as they are at one moment: when none has come or gone meanwhile, only the last one has grown.
fn copy_store(store: &Path, to: &Path) -> Result<()> {
    for _ in 0..TRIES {
        remove(to)?;
        let before = names(store).map_err(|e| Failure::file(store, &e))?;
        let copied = copy_files(store, to);
        let unchanged = names(store).is_ok_and(|after| after == before);
        match copied {
            Ok(()) if unchanged => return Ok(()),
            // A file that has gone meanwhile.
            Err(e) if unchanged || e.kind() != io::ErrorKind::NotFound => return Err(Failure::file(store, &e)),
            _ => {}
        }
    }
    Err(Failure::new("BACKUP", Exit::Resource, "the store's files change faster than they can be copied", "try again when less is written"))
}

fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Copies the files of a folder, which only their owner may read.
fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    for name in names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        if !source.is_file() {
            continue;
        }
        fs::copy(&source, &target)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600))?;
        fs::File::open(&target)?.sync_all()?;
    }
    fs::File::open(to)?.sync_all()
}

/// Makes one snapshot of a copy, without history and tails.
fn compact(cluster: &Cluster, copy: &Path, to: &Path, env: &Env) -> Result<About> {
    let failed = |e: knarr_store::Error| Failure::new("STORE", Exit::Resource, e.to_string(), "knarr doctor");
    let sealer = roles::sealer(cluster, &cluster.pki())?;
    let engine: Arc<dyn Engine> = Arc::new(LogEngine::at(copy, env.clock.clone()).map_err(failed)?.with_sealer(sealer));
    let storage = Storage::open(engine, env.clone()).map_err(failed)?;
    let written = storage.backup(to);
    let objects = storage.object_count();
    storage.stop();
    Ok(About {
        profile: cluster.profile.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: env.now().to_string(),
        revision: written.map_err(failed)?,
        objects,
    })
}

/// Puts `new` in the place of `old` at one stroke, and keeps `old` as `kept`.
fn exchange(new: &Path, old: &Path, kept: &Path) -> Result<()> {
    let failed = |e: nix::Error| Failure::file(old, &e.into());
    if old.exists() {
        renameat2(AT_FDCWD, new, AT_FDCWD, old, RenameFlags::RENAME_EXCHANGE).map_err(failed)?;
        fs::rename(new, kept).map_err(|e| Failure::file(kept, &e))
    } else {
        fs::rename(new, old).map_err(|e| Failure::file(old, &e))
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::file(folder, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_copied_for_their_owner_alone_and_only_into_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("inner")).unwrap();
        fs::write(from.join("log-1"), "x").unwrap();
        copy_store(&from, &to).unwrap();
        assert_eq!(names(&to).unwrap(), ["log-1"]);
        assert_eq!(fs::metadata(to.join("log-1")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make_empty(&to).is_err());
        make_empty(&folder.path().join("new/one")).unwrap();
        assert!(copy_store(&folder.path().join("none"), &to).is_err());
    }

    #[test]
    fn what_was_there_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["new", "old"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("which"), name).unwrap();
        }
        exchange(&path("new"), &path("old"), &path("kept")).unwrap();
        let which = |name: &str| fs::read_to_string(path(name).join("which")).unwrap();
        assert_eq!((which("old").as_str(), which("kept").as_str(), path("new").exists()), ("new", "old", false));
        fs::rename(path("old"), path("new")).unwrap();
        exchange(&path("new"), &path("old"), &path("kept-too")).unwrap();
        assert!(path("old").exists() && !path("kept-too").exists());
    }
}
