//! Backups: a snapshot in a folder of its own, and a store made of one.
//!
//! A store that is restored has forgotten what was written after the backup, but clients have not. Its revisions therefore go
//! on far above any that the lost store can have given, and its histories begin there: who resumes a watch from before is
//! told to start anew, and no resource version ever names two states.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use knarr_core::clock::Clock;

use super::files::Files;
use super::record::Records;
use super::state::{self, Source};
use crate::cache::Cache;
use crate::disk::{Disk, FolderDisk};
use crate::history::Limits;
use crate::seal::Sealer;
use crate::{Error, Result};

/// How far revisions jump when a store is restored: more writes than any store takes between two backups.
pub const JUMP: u64 = 1_000_000_000;

/// Writes everything that is in the cache now into an empty folder. Gives its revision.
pub(crate) fn save(cache: &Cache, to: &dyn Disk, sealer: Option<Arc<dyn Sealer>>, clock: &dyn Clock) -> Result<u64> {
    let world = cache.world();
    let revision = world.revision();
    write(cache, world, to, &Records { sealer }, clock)?;
    Ok(revision)
}

fn write(cache: &Cache, world: Arc<crate::world::World>, to: &dyn Disk, records: &Records, clock: &dyn Clock) -> Result<()> {
    let found = Files::find(to).map_err(|e| Error::Engine(e.to_string()))?;
    if !found.states.is_empty() || !found.logs.is_empty() {
        return Err(Error::Engine("there is a store in this folder already".into()));
    }
    let resources = cache.resources().into_iter().map(|r| (r, world.revision())).collect();
    let time_ms = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
    let written = state::write(to, &Source { world, resources, time_ms }, records, &AtomicBool::new(false));
    written.map(drop).map_err(|e| Error::Engine(e.to_string()))
}

/// Makes a store of a backup. Gives the revision at which it begins. `sealer` is the one of the store that was backed up.
///
/// # Errors
/// When the backup cannot be read, or the folder has a store already.
pub fn restore(backup: &Path, store: &Path, sealer: Option<Arc<dyn Sealer>>, clock: &dyn Clock) -> Result<u64> {
    let open = |folder: &Path| FolderDisk::open(folder).map_err(|e| Error::Engine(format!("{}: {e}", folder.display())));
    restore_between(&open(backup)?, &open(store)?, &Records { sealer }, clock)
}

fn restore_between(from: &dyn Disk, to: &dyn Disk, records: &Records, clock: &dyn Clock) -> Result<u64> {
    let files = Files::find(from).map_err(|e| Error::Engine(e.to_string()))?;
    let newest = *files.states.last().ok_or_else(|| Error::Engine("there is no backup in this folder".into()))?;
    let cache = Cache::new(Limits::default());
    let mut loader = cache.load();
    state::open(from, newest).and_then(|opened| opened.load(records, &mut loader)).map_err(Error::Engine)?;
    let begins = newest + JUMP;
    loader.finish(begins);
    write(&cache, cache.world(), to, records, clock)?;
    Ok(begins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{bytes, create, env, key, paths, pods, storage};
    use crate::{LogEngine, Storage, WatchFilter, WatchFrom};
    use knarr_core::json;

    #[tokio::test]
    async fn a_restored_store_has_the_objects_and_never_an_old_revision() {
        let (backup, folder, env) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), env());
        let lost = storage();
        create(&lost, "default/a").await;
        assert_eq!(lost.backup(backup.path()).unwrap(), 1);
        assert!(lost.backup(backup.path()).is_err(), "a backup is never overwritten");
        create(&lost, "default/after").await;

        let begins = restore(backup.path(), folder.path(), None, env.clock.as_ref()).unwrap();
        assert!(restore(backup.path(), folder.path(), None, env.clock.as_ref()).is_err(), "a store is never overwritten");
        let restored = Storage::open(Arc::new(LogEngine::at(folder.path(), env.clock.clone()).unwrap()), env).unwrap();
        assert_eq!((paths(&restored.snapshot(&pods())).as_str(), restored.current_revision()), ("default/a", begins));
        assert!(matches!(restored.watch(&pods(), WatchFrom::After(2), WatchFilter::default()), Err(Error::TooOld { .. })));
        let new = restored.create(&pods(), &key("default/b"), bytes(json!({})), None).await.unwrap();
        assert_eq!(new.resource_version, begins + 1);
        restored.stop();
    }
}
