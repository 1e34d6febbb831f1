//! The seam to the disk: one folder of flat files. [`FolderDisk`] is the real one; [`faulty::FaultyDisk`] loses, tears and
//! refuses on demand.
//!
//! What a caller may rely on, and no more: after [`DiskFile::sync`] the contents of the file survive a power cut; after
//! [`Disk::sync_folder`] its name does. What was written and not synced may survive in any part and any order, whole
//! sectors of [`SECTOR`] bytes at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub mod faulty;

/// What a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

/// A folder of files.
pub trait Disk: Send + Sync + 'static {
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file, also where there is one.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Renames within the folder, over what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_folder(&self) -> io::Result<()>;
}

/// A file that is read and written at offsets.
pub trait DiskFile: Send + Sync {
    /// Reads up to the length of `buffer`; less only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn size(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the contents durable. After a failure nothing is known of what was written since the last success.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the operating system, held by one process at a time. Folders are made with mode 0700, files with 0600.
pub struct FolderDisk {
    path: PathBuf,
    /// Locked while this lives.
    _lock: File,
}

impl FolderDisk {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// # Errors
    /// `locked by another process`, or what the system says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let lock = options().create(true).truncate(false).open(path.join("LOCK"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is locked by another process", path.display())),
            TryLockError::Error(error) => error,
        })?;
        Ok(Self { path, _lock: lock })
    }
}

/// The standard library opens every file with O_CLOEXEC.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Disk for FolderDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.filter(|name: &io::Result<String>| !matches!(name, Ok(n) if n == "LOCK")).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(options().create(true).truncate(true).open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(options().open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderDisk::open(folder.path()).unwrap();
        let error = FolderDisk::open(folder.path()).err().expect("opened twice");
        assert!(error.to_string().ends_with("is locked by another process"), "{error}");
        drop(first);
        FolderDisk::open(folder.path()).unwrap();
    }
}
