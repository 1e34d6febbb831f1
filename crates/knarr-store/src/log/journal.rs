//! The file that writes go to. One [`Journal::append`] is one write and one sync.

use std::io;
use std::sync::Arc;

use super::files::{LOG_MAGIC, log_name};
use super::frame::{FILE_HEADER, FileHeader, begin, seal};
use super::record::Records;
use super::recover::Tail;
use crate::cache::Resource;
use crate::disk::{Disk, DiskFile};
use crate::history::Change;

/// Space on the disk that is taken before it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// The file is filled with zeros ahead of the writes, in steps of this many bytes, so that a sync has no new block to
    /// note: 0.10 ms instead of 0.16.
    pub step: u64,
    /// So many of the zeros are kept for deletions, for when the disk is full.
    pub reserve: u64,
    /// The size of a file that is given up when the disk is full, to make room for a snapshot by which more is given back.
    pub ballast: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self { step: 1 << 20, reserve: 256 << 10, ballast: 4 << 20 }
    }
}

/// Why nothing was appended.
#[derive(Debug)]
pub enum AppendError {
    /// The disk is full. The journal is as it was.
    NoSpace,
    /// What the file holds is unknown now: it must not be used any more.
    Failed(io::Error),
}

/// See the module.
pub struct Journal {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    seed: u64,
    /// The end of the last frame.
    end: u64,
    /// The end of the zeros.
    zeroed: u64,
    frame: Vec<u8>,
    space: Space,
    records: Records,
}

impl Journal {
    /// Makes the file for the writes from revision `first` on.
    pub fn create(disk: Arc<dyn Disk>, first: u64, time_ms: u64, space: Space, records: Records) -> Result<Self, AppendError> {
        let created = create_file(disk.as_ref(), first, time_ms).map_err(of_write);
        if let Err(AppendError::NoSpace) = created {
            // An empty file must not stay: what is found last at start may be torn, what comes before may not.
            disk.remove(&log_name(first)).map_err(AppendError::Failed)?;
        }
        let (file, seed) = created?;
        Ok(Self { disk, file, seed, end: FILE_HEADER, zeroed: FILE_HEADER, frame: Vec::new(), space, records })
    }

    /// Goes on in the file where an earlier process ended.
    pub fn resume(disk: Arc<dyn Disk>, tail: &Tail, space: Space, records: Records) -> io::Result<Self> {
        let file = disk.open(&log_name(tail.first))?;
        let zeroed = file.size()?.max(tail.end.offset);
        Ok(Self { disk, file, seed: tail.seed, end: tail.end.offset, zeroed, frame: Vec::new(), space, records })
    }

    /// Goes on in a new file.
    pub fn roll(&mut self, first: u64, time_ms: u64) -> Result<(), AppendError> {
        let mut next = Self::create(self.disk.clone(), first, time_ms, self.space, self.records.clone())?;
        if let Err(error) = next.make_room(FILE_HEADER, false) {
            // Deletions must have their reserve: they keep the one of the old file.
            self.disk.remove(&log_name(first)).map_err(AppendError::Failed)?;
            return Err(error);
        }
        // Zeros that were not needed.
        self.file.set_len(self.end).map_err(AppendError::Failed)?;
        *self = Self { frame: std::mem::take(&mut self.frame), ..next };
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.end == FILE_HEADER
    }

    /// How long the file is.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Makes writes durable. `only_deletions` may use the reserve.
    pub fn append(&mut self, changes: &[(Arc<Resource>, Arc<Change>)], time_ms: u64, only_deletions: bool) -> Result<(), AppendError> {
        let Some((_, first)) = changes.first() else { return Ok(()) };
        let mut frame = std::mem::take(&mut self.frame);
        begin(&mut frame);
        let written = changes.iter().try_for_each(|(resource, change)| self.records.write_change(&mut frame, &resource.key, change));
        written.map_err(AppendError::Failed)?;
        seal(&mut frame, self.seed, self.end, first.revision(), changes.len() as u32, time_ms);
        let result = self.write(&frame, only_deletions);
        if frame.capacity() <= 4 << 20 {
            self.frame = frame;
        }
        result
    }

    fn write(&mut self, frame: &[u8], only_deletions: bool) -> Result<(), AppendError> {
        let end = self.end + frame.len() as u64;
        self.make_room(end, only_deletions)?;
        if let Err(error) = self.file.write_at(frame, self.end) {
            return Err(self.undo(frame.len(), error));
        }
        self.file.sync().map_err(AppendError::Failed)?;
        self.end = end;
        self.zeroed = self.zeroed.max(end);
        Ok(())
    }

    /// Fills zeros in up to `end` and the reserve.
    fn make_room(&mut self, end: u64, only_deletions: bool) -> Result<(), AppendError> {
        if end + self.space.reserve <= self.zeroed {
            return Ok(());
        }
        let wanted = (end + self.space.reserve).next_multiple_of(self.space.step);
        let zeros = vec![0; usize::try_from(wanted - self.zeroed).unwrap_or(usize::MAX)];
        match self.file.write_at(&zeros, self.zeroed).map_err(of_write) {
            Ok(()) => self.zeroed = wanted,
            Err(AppendError::NoSpace) if only_deletions && end <= self.zeroed => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes back what a failed write may have left of a frame.
    fn undo(&mut self, len: usize, error: io::Error) -> AppendError {
        let zeros = vec![0; len];
        match of_write(error) {
            AppendError::NoSpace => match self.file.write_at(&zeros, self.end) {
                Ok(()) => AppendError::NoSpace,
                Err(error) => AppendError::Failed(error),
            },
            failed @ AppendError::Failed(_) => failed,
        }
    }
}

fn create_file(disk: &dyn Disk, first: u64, time_ms: u64) -> io::Result<(Box<dyn DiskFile>, u64)> {
    let file = disk.create(&log_name(first))?;
    let seed = seed(first, time_ms);
    file.write_at(&FileHeader { magic: LOG_MAGIC, revision: first, time_ms, seed }.encode(), 0)?;
    file.sync()?;
    disk.sync_folder()?;
    Ok((file, seed))
}

/// Differs from file to file.
pub fn seed(revision: u64, time_ms: u64) -> u64 {
    (revision ^ time_ms.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub fn of_write(error: io::Error) -> AppendError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::NoSpace,
        _ => AppendError::Failed(error),
    }
}
