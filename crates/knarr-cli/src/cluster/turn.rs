//! Verbs that change one cluster take turns: of two people who delete it at once the second is told that there is none, and is not told
//! that some folder was not there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config;
use super::failure::{Failure, Result};

/// Whoever has it is alone in changing the cluster. A process that ends, however, gives it back.
#[must_use = "the turn is over when this is dropped"]
pub struct Turn {
    path: PathBuf,
    #[expect(dead_code, reason = "held for its lock")]
    file: File,
}

impl Turn {
    /// Waits until no other verb changes the cluster.
    ///
    /// # Errors
    /// No cluster can have that name, or the file in the folder of all running clusters cannot be made.
    pub async fn take(profile: &str) -> Result<Self> {
        config::check_profile(profile)?;
        let (folder, profile) = (PathBuf::from(config::RUN), profile.to_owned());
        tokio::task::spawn_blocking(move || Self::take_in(&folder, &profile)).await.map_err(Failure::program)?
    }

    /// The name of the file begins with a dot, which that of a cluster cannot.
    fn take_in(folder: &Path, profile: &str) -> Result<Self> {
        let path = folder.join(format!(".{profile}.turn"));
        loop {
            match locked(folder, &path, profile) {
                Ok(Some(file)) => return Ok(Self { path, file }),
                Ok(None) => {}
                // The last cluster of the machine has taken the folder along.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Failure::file(&path, &e)),
            }
        }
    }
}

/// The file under its lock; `None` when whoever had the lock before has taken the file away meanwhile.
fn locked(folder: &Path, path: &Path, profile: &str) -> io::Result<Option<File>> {
    config::make_private(folder)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("Waiting for another command that changes cluster {profile:?}");
            file.lock()?;
        }
        Err(TryLockError::Error(e)) => return Err(e),
    }
    let (own, named) = (file.metadata()?, fs::metadata(path));
    Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())).then_some(file))
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Still under the lock. Whoever waits for it sees that the file has gone, and makes another.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot be removed");
        }
        // The last verb of the last cluster takes the folder along; as long as there is anything in it, this fails.
        self.path.parent().into_iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_stays() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        let (inside, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (folder, inside, turns) = (folder.clone(), inside.clone(), turns.clone());
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        let turn = Turn::take_in(&folder, "a").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        turns.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(turns.load(Ordering::SeqCst), 400);
        assert!(!folder.exists());
    }

    #[test]
    fn clusters_do_not_wait_for_each_other() {
        let parent = tempfile::tempdir().unwrap();
        let first = Turn::take_in(parent.path(), "a").unwrap();
        let second = Turn::take_in(parent.path(), "b").unwrap();
        drop((first, second));
    }
}
