//! The end of volumes that are folders of this node (provisioner `knarr.io/local`). When such a volume is deleted, and its reclaim
//! policy is `Delete`, its folder goes, too.
//!
//! Each folder is noted before it is made, in a file named after the volume, so that nothing is ever removed that this node has not
//! made: not what another cluster keeps beside it, not what an administrator put there. A note goes with its folder. Nothing is
//! watched on a node that has no such volume.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use knarr_client::read;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::context::Context;

const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "knarr.io/local";
/// Pause before a removal that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is known of a volume when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    path: PathBuf,
    uid: String,
    reclaim_policy: String,
}

impl Note {
    /// `None` for volumes of others.
    fn of(volume: &PersistentVolume) -> Option<Self> {
        let ours = volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY)? == PROVISIONER;
        let spec = volume.spec.as_ref().filter(|_| ours)?;
        Some(Self {
            path: spec.host_path.as_ref()?.path.clone().into(),
            uid: volume.metadata.uid.clone()?,
            reclaim_policy: spec.persistent_volume_reclaim_policy.clone().unwrap_or_default(),
        })
    }
}

/// The notes of one node.
pub struct LocalVolumes {
    folder: PathBuf,
    changed: Notify,
}

impl LocalVolumes {
    /// `folder` must outlive a stop of the node.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, changed: Notify::new() }
    }

    /// To be called before a volume's folder is made.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn keep(&self, volume: &PersistentVolume) -> io::Result<()> {
        let (Some(note), Some(name)) = (Note::of(volume), &volume.metadata.name) else { return Ok(()) };
        if self.write(name, &note)? {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// False when it stands there already.
    fn write(&self, name: &str, note: &Note) -> io::Result<bool> {
        let path = self.folder.join(name);
        let text = serde_json::to_vec(note)?;
        if fs::read(&path).is_ok_and(|known| known == text) {
            return Ok(false);
        }
        fs::create_dir_all(&self.folder)?;
        // No volume has a name with a blank.
        let beside = self.folder.join(format!("{name} new"));
        fs::write(&beside, text).and_then(|()| fs::rename(beside, path)).map(|()| true)
    }

    fn notes(&self) -> BTreeMap<String, Note> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|e| Some((e.file_name().into_string().ok()?, serde_json::from_slice(&fs::read(e.path()).ok()?).ok()?))).collect()
    }

    /// The volume is no more.
    fn end(&self, name: &str, note: &Note) -> io::Result<()> {
        if note.reclaim_policy == "Delete" {
            knarr_sys::tree::remove(&note.path)?;
            // The last one takes the folder of all along: it cannot be removed while there is another.
            if let Some(parent) = note.path.parent() {
                drop(fs::remove_dir(parent));
            }
            tracing::info!(volume = name, path = %note.path.display(), "the folder of a deleted volume is removed");
        }
        fs::remove_file(self.folder.join(name))
    }
}

/// Removes the folders of all volumes that a node has: its cluster is deleted, and they with it.
///
/// # Errors
/// A folder cannot be removed; the others are, all the same.
pub fn remove_all(folder: &Path) -> io::Result<()> {
    let volumes = LocalVolumes::new(folder.to_owned());
    let mut outcome = Ok(());
    for (name, note) in volumes.notes() {
        outcome = volumes.end(&name, &note).and(outcome);
    }
    outcome
}

/// Follows the volumes that were noted. Never ends.
pub async fn run(context: Arc<Context>) {
    let volumes = &context.local_volumes;
    loop {
        if volumes.notes().is_empty() {
            volumes.changed.notified().await;
            continue;
        }
        let followed = context.persistent_volumes.follow();
        let mut changes = followed.changes();
        while !volumes.notes().is_empty() {
            let retry = match followed.read(|state| state.objects.clone()).await {
                Some(there) => !settle(&context, &there).await,
                None => true,
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = volumes.changed.notified() => {}
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }
}

/// Brings notes and folders in line with the volumes that there are. False when something is left to be done.
async fn settle(context: &Context, there: &BTreeMap<knarr_client::Key, knarr_core::Object>) -> bool {
    let volumes = &context.local_volumes;
    let mut settled = true;
    for (name, note) in volumes.notes() {
        let done = match there.get(&knarr_client::Key::new("", &name)).map(read::typed::<PersistentVolume>) {
            // The policy may have changed.
            Some(Ok(volume)) if volume.metadata.uid.as_deref() == Some(&note.uid) => {
                Note::of(&volume).map_or(Ok(()), |now| volumes.write(&name, &now).map(drop))
            }
            Some(Err(error)) => Err(io::Error::other(error.message)),
            _ => end_if_gone(context, &name, &note).await,
        };
        if let Err(error) = done {
            tracing::warn!(volume = name, %error, "the folder of a volume cannot be taken care of");
            settled = false;
        }
    }
    settled
}

/// What is not known here may be too new: the API is asked before anything is removed.
async fn end_if_gone(context: &Context, name: &str, note: &Note) -> io::Result<()> {
    let now = context.client.all::<PersistentVolume>().find(name).await.map_err(|e| io::Error::other(e.message))?;
    if now.is_some_and(|volume| volume.metadata.uid.as_deref() == Some(&note.uid)) {
        return Ok(());
    }
    context.local_volumes.end(name, note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn volume(path: &Path, provisioner: &str, policy: &str) -> PersistentVolume {
        let value = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv", "uid": "u", "annotations": {PROVISIONED_BY: provisioner}},
            "spec": {"hostPath": {"path": path}, "persistentVolumeReclaimPolicy": policy}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_folders_that_were_made_here_and_may_be_deleted_go() {
        let dir = tempfile::tempdir().unwrap();
        for (provisioner, policy, stays) in [(PROVISIONER, "Delete", false), (PROVISIONER, "Retain", true), ("other", "Delete", true)] {
            let path = dir.path().join("volumes/data");
            fs::create_dir_all(path.join("deep")).unwrap();
            let volumes = LocalVolumes::new(dir.path().join("notes"));
            volumes.keep(&volume(&path, provisioner, policy)).unwrap();
            assert_eq!(volumes.notes().len(), usize::from(provisioner == PROVISIONER));
            remove_all(&dir.path().join("notes")).unwrap();
            assert_eq!((path.exists(), volumes.notes().len()), (stays, 0), "{provisioner} {policy}");
            assert_eq!(dir.path().join("volumes").exists(), stays, "{provisioner} {policy}");
        }
    }

    #[test]
    fn what_lies_beside_a_volume_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("volumes/ours"), dir.path().join("volumes/other"));
        [&ours, &other].into_iter().for_each(|path| fs::create_dir_all(path).unwrap());
        let volumes = LocalVolumes::new(dir.path().join("notes"));
        volumes.keep(&volume(&ours, PROVISIONER, "Delete")).unwrap();
        remove_all(&dir.path().join("notes")).unwrap();
        assert_eq!((ours.exists(), other.exists()), (false, true));
    }
}
