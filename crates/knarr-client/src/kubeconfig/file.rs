//! Kubeconfig files on disk: which ones count, a lock that keeps writers apart, writing in one step.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Error, Kubeconfig};

/// The files that count: the one named by a flag, else those of `KUBECONFIG`, else `~/.kube/config`.
pub fn default_paths(flag: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(path) = flag {
        return vec![path.to_owned()];
    }
    let listed: Vec<PathBuf> = variable("KUBECONFIG").iter().flat_map(|list| list.split(':')).filter(|p| !p.is_empty()).map(PathBuf::from).collect();
    if !listed.is_empty() {
        return listed;
    }
    variable("HOME").map(|home| Path::new(&home).join(".kube/config")).into_iter().collect()
}

/// A kubeconfig file that nobody else writes meanwhile (`config.lock` beside it, as kubectl makes it).
pub struct Locked {
    path: PathBuf,
    lock: PathBuf,
}

impl Locked {
    /// Takes the lock, making the folder where there is none.
    ///
    /// # Errors
    /// Somebody else holds it, or the folder cannot be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        }
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        std::fs::OpenOptions::new().write(true).create_new(true).open(&lock).map_err(|source| Error::Write { path: lock.clone(), source })?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// What stands in the file; empty when there is none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self) -> Result<Kubeconfig, Error> {
        if self.path.exists() { Kubeconfig::read(&self.path) } else { Ok(Kubeconfig::default()) }
    }

    /// Replaces the file in one step, readable by its owner alone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, config: &Kubeconfig) -> Result<(), Error> {
        let mut fresh = self.path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(config.to_yaml().as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&fresh, &self.path));
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.lock) {
            tracing::warn!(lock = %self.lock.display(), %error, "the lock of a kubeconfig stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_variable_and_that_before_home() {
        let environment = |name: &str| match name {
            "KUBECONFIG" => Some("/a::/b".to_owned()),
            _ => Some("/home/me".to_owned()),
        };
        assert_eq!(default_paths(Some(Path::new("/f")), environment), [PathBuf::from("/f")]);
        assert_eq!(default_paths(None, environment), [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(default_paths(None, |n| (n == "HOME").then(|| "/home/me".into())), [PathBuf::from("/home/me/.kube/config")]);
    }

    #[test]
    fn two_writers_are_kept_apart_and_the_lock_goes_away() {
        let folder = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        let path = folder.join("config");
        let locked = Locked::open(&path).unwrap();
        assert!(Locked::open(&path).is_err());
        let mut config = locked.read().unwrap();
        config.current_context = "on".into();
        locked.write(&config).unwrap();
        drop(locked);
        assert_eq!(Locked::open(&path).unwrap().read().unwrap().current_context, "on");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
