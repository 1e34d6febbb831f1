//! A pod's volumes: made before its containers, kept up to date while it lives, taken away after them (upstream:
//! `pkg/kubelet/volumemanager`, `pkg/volume`).
//!
//! Layout below the agent's root, as upstream's: `pods/UID/volumes/PLUGIN/NAME`. Files of secrets and tokens lie in one
//! file system in memory (`memory/UID/…`), to which that layout links: a mount for each of them would cost every pod a
//! few hundred microseconds twice, and every process that reads the mount table more.

pub mod atomic;
pub mod beneath;
mod empty_dir;
pub mod followed;
mod host_path;
mod keeper;
pub mod local;
pub mod mounter;
mod ownership;
pub mod payload;
mod persistent;
pub mod pod_certificates;
pub mod subpath;
pub mod trust_bundles;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use knarr_client::ToTree;
use knarr_sys::tree;

pub use keeper::{Keeper, Outcome};

use crate::context::Context;
use crate::pod::spec::PodExt;
use payload::Recipe;

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// Whether the volume as such can only be read.
    pub read_only: bool,
    /// A device, not a directory.
    pub block: bool,
}

impl Mounted {
    fn dir(path: PathBuf) -> Self {
        Self { path, read_only: false, block: false }
    }
}

/// By name in the pod.
pub type MountedVolumes = BTreeMap<String, Mounted>;

/// What went wrong with one volume, for a `FailedMount` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub volume: String,
    pub message: String,
}

impl Failure {
    /// Text of the event.
    pub fn event(&self) -> String {
        format!("MountVolume.SetUp failed for volume \"{}\" : {}", self.volume, self.message)
    }
}

/// Folders below the agent's root.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

pub fn memory_dir(root: &Path) -> PathBuf {
    root.join("memory")
}

/// Makes a volume that is not made of API objects.
async fn make(context: &Context, pod: &Pod, volume: &Volume) -> Result<Mounted, String> {
    let dir = |plugin: &str| pod_dir(&context.config.root_dir, pod.uid()).join("volumes").join(plugin).join(&volume.name);
    if let Some(source) = &volume.empty_dir {
        let path = dir("kubernetes.io~empty-dir");
        empty_dir::make(context, pod, source, &path).map_err(|e| e.to_string())?;
        give_to_group(pod, &path, false, false)?;
        return Ok(Mounted::dir(path));
    }
    if let Some(source) = &volume.host_path {
        host_path::check(source)?;
        return Ok(Mounted::dir(source.path.clone().into()));
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let mounted = make_claimed(context, pod, &claim.claim_name, false).await?;
        return Ok(Mounted { read_only: claim.read_only == Some(true), ..mounted });
    }
    if volume.ephemeral.is_some() {
        return make_claimed(context, pod, &format!("{}-{}", pod.name(), volume.name), true).await;
    }
    if volume.image.is_some() {
        // The runtime mounts it for each container; the image is pulled when one starts.
        return Ok(Mounted::dir(PathBuf::new()));
    }
    Err(unsupported(volume))
}

async fn make_claimed(context: &Context, pod: &Pod, claim: &str, ephemeral: bool) -> Result<Mounted, String> {
    let found = persistent::resolve(&context.client, &context.local_volumes, pod, claim, ephemeral).await?;
    if found.managed {
        if !Path::new(&found.path).exists() {
            return Err(format!("local volume path \"{}\" does not exist", found.path));
        }
    } else {
        host_path::check(&HostPathVolumeSource { path: found.path.clone(), type_: found.host_path_type.clone() })?;
    }
    let path = PathBuf::from(found.path);
    if found.managed && !found.block {
        let mismatch = pod.spec().security_context.as_ref().and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        give_to_group(pod, &path, false, mismatch)?;
    }
    Ok(Mounted { path, read_only: false, block: found.block })
}

fn unsupported(volume: &Volume) -> String {
    let kind = volume.to_tree().ok().and_then(|v| v.as_object()?.keys().find(|k| *k != "name").cloned()).unwrap_or_default();
    format!("no volume plugin matched: volumes of kind {kind} are not supported by this node")
}

/// Gives a volume to the pod's `fsGroup`, if it has one.
fn give_to_group(pod: &Pod, path: &Path, read_only: bool, only_on_mismatch: bool) -> Result<(), String> {
    let group = pod.spec().security_context.as_ref().and_then(|s| s.fs_group);
    let Some(group) = group.and_then(|g| u32::try_from(g).ok()) else { return Ok(()) };
    ownership::set_group(path, group, read_only, only_on_mismatch).map_err(|e| format!("setting volume ownership for {}: {e}", path.display()))
}

/// Where the files of a recipe lie. Makes the folder, and the link to it where it lies in memory.
fn recipe_dir(context: &Context, pod: &Pod, recipe: &Recipe) -> io::Result<PathBuf> {
    let visible = pod_dir(&context.config.root_dir, pod.uid()).join("volumes").join(recipe.plugin).join(&recipe.volume);
    if !recipe.is_secret() {
        fs::create_dir_all(&visible)?;
        return Ok(visible);
    }
    let hidden = memory_dir(&context.config.root_dir).join(pod.uid()).join(recipe.plugin).join(&recipe.volume);
    fs::create_dir_all(&hidden)?;
    if let Some(parent) = visible.parent() {
        fs::create_dir_all(parent)?;
    }
    match std::os::unix::fs::symlink(&hidden, &visible) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(hidden),
    }
}

/// Takes everything of a pod's volumes away. What lies behind claims and `hostPath` stays.
///
/// # Errors
/// The file system's; it is to be called again then.
pub fn tear_down(context: &Context, uid: &str) -> io::Result<()> {
    let root = &context.config.root_dir;
    let pod = pod_dir(root, uid);
    subpath::clean(&*context.mounter, &pod)?;
    empty_dir::unmount_all(&*context.mounter, &pod)?;
    tree::remove(&pod.join("volumes"))?;
    tree::remove(&memory_dir(root).join(uid))
}

/// Removes the pod's folder after its volumes.
///
/// # Errors
/// The file system's.
pub fn remove_pod_dir(context: &Context, uid: &str) -> io::Result<()> {
    tree::remove(&pod_dir(&context.config.root_dir, uid))
}

/// Mounts the memory for secrets, once, when the agent starts. Without the privilege a plain folder has to do.
pub fn prepare_memory(context: &Context) -> io::Result<()> {
    let dir = memory_dir(&context.config.root_dir);
    fs::create_dir_all(&dir)?;
    if context.mounter.is_mounted(&dir) {
        return Ok(());
    }
    if let Err(error) = context.mounter.tmpfs(&dir, None, 0o750) {
        tracing::warn!(path = %dir.display(), %error, "cannot mount memory for secrets: they will lie on disk");
    }
    Ok(())
}
