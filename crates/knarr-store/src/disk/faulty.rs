//! A disk in memory that fails as disks do: the power goes at any operation, and of what was not synced any sectors are
//! lost; a sync fails; the space runs out; bits flip.
//!
//! One step of the fault plan is one operation that changes something. After the cut every operation fails until
//! [`FaultyDisk::reboot`] gives the disk as the next start will find it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, SECTOR};

/// What goes wrong, and when. Steps count from 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The power goes just before this operation, or in the middle of it if it is a write.
    pub cut_at: Option<u64>,
    /// This sync of a file, counted from 0, fails: the writes that it should have made durable are lost in a power cut, though
    /// they can be read until then.
    pub fail_sync: Option<u64>,
    /// Bytes that all files may have together.
    pub capacity: Option<u64>,
}

/// See the module.
#[derive(Clone)]
pub struct FaultyDisk(Arc<Mutex<State>>);

struct State {
    files: BTreeMap<u64, Contents>,
    /// Names as a running system sees them, and as the disk has them.
    names: Names,
    durable_names: Names,
    /// What was done to names since they were synced.
    renamings: Vec<Renaming>,
    next_file: u64,
    steps: u64,
    syncs: u64,
    faults: Faults,
    is_cut: bool,
}

type Names = BTreeMap<String, u64>;

#[derive(Clone)]
enum Renaming {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl Renaming {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Create(name, id) => drop(names.insert(name.clone(), *id)),
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            Self::Remove(name) => drop(names.remove(name)),
        }
    }
}

#[derive(Clone, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that were written since the last sync.
    dirty: BTreeSet<u64>,
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset as usize + bytes.len();
        self.dirty_from_to(offset.min(self.now.len() as u64), end as u64);
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset as usize..end].copy_from_slice(bytes);
    }

    fn dirty_from_to(&mut self, from: u64, to: u64) {
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
    }

    /// Makes durable what is dirty, and nothing that an earlier failed sync has dropped.
    fn sync(&mut self) {
        let len = self.now.len();
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            let start = (sector * SECTOR) as usize;
            let end = len.min(start + SECTOR as usize);
            if start < end {
                self.durable[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
    }
    /// Keeps of what is not durable the sectors that `keeps` picks.
    fn survive(&mut self, mut keeps: impl FnMut() -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            if !keeps() {
                continue;
            }
            let start = (sector * SECTOR) as usize;
            let end = self.now.len().min(start + SECTOR as usize);
            if start < end {
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                self.durable[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        self.now.clone_from(&self.durable);
    }
}

impl FaultyDisk {
    pub fn new(faults: Faults) -> Self {
        let state = State {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamings: Vec::new(),
            next_file: 0,
            steps: 0,
            syncs: 0,
            faults,
            is_cut: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// How many operations changed something so far.
    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Whether the power has gone.
    pub fn is_cut(&self) -> bool {
        self.0.lock().is_cut
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// All bytes of all files.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// The disk after a power cut: `random` decides sector by sector and name by name what of the unsynced is there.
    pub fn reboot(&self, faults: Faults, mut random: impl FnMut() -> u64) -> Self {
        // Between nothing and all of it, so that both ends are met as well.
        let share = random() % 5;
        self.reboot_with(faults, || random() % 4 < share)
    }

    /// How many sectors and names a power cut now could lose.
    pub fn unsynced(&self) -> usize {
        let state = self.0.lock();
        state.files.values().map(|f| f.dirty.len()).sum::<usize>() + state.renamings.len()
    }

    /// The disk after a power cut: `keeps` is asked for each sector and then for each name that was not synced.
    pub fn reboot_with(&self, faults: Faults, mut keeps: impl FnMut() -> bool) -> Self {
        let state = self.0.lock();
        let mut files = state.files.clone();
        files.values_mut().for_each(|f| f.survive(&mut keeps));
        let mut names = state.durable_names.clone();
        state.renamings.iter().filter(|_| keeps()).for_each(|r| r.apply(&mut names));
        let state =
            State { files, durable_names: names.clone(), renamings: Vec::new(), names, next_file: state.next_file, steps: 0, syncs: 0, faults, is_cut: false };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The disk after the process was killed: everything written is there.
    pub fn restart(&self, faults: Faults) -> Self {
        let state = self.0.lock();
        let state = State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            renamings: state.renamings.clone(),
            next_file: state.next_file,
            steps: 0,
            syncs: 0,
            faults,
            is_cut: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Changes the bytes of a file behind everybody's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let id = state.names[name];
        if let Some(file) = state.files.get_mut(&id) {
            change(&mut file.now);
            file.durable.clone_from(&file.now);
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|f| f.now.len() as u64).sum()
    }

    /// Counts an operation. True when the power goes during it.
    fn step(&mut self) -> io::Result<bool> {
        self.check()?;
        self.is_cut = self.faults.cut_at == Some(self.steps);
        self.steps += 1;
        Ok(self.is_cut)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        if self.step()? { Err(io::Error::other("the power went off")) } else { Ok(change(self)) }
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.apply(&mut self.names);
        self.renamings.push(renaming);
    }

    fn write(&mut self, id: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_cut = self.step()?;
        let grows = (offset + bytes.len() as u64).saturating_sub(self.files[&id].now.len() as u64);
        if self.faults.capacity.is_some_and(|c| grows > 0 && self.used() + grows > c) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        if let Some(file) = self.files.get_mut(&id) {
            file.write(bytes, offset);
        }
        if is_cut { Err(io::Error::other("the power went off")) } else { Ok(()) }
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        if self.step()? {
            return Err(io::Error::other("the power went off"));
        }
        let fails = self.faults.fail_sync == Some(self.syncs);
        self.syncs += 1;
        let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
        if fails {
            // The pages are clean now and will not be written again.
            file.dirty.clear();
            return Err(io::Error::other("input/output error"));
        }
        file.sync();
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.check()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let id = self.0.lock().change(|state| {
            let id = state.next_file;
            state.next_file += 1;
            state.files.insert(id, Contents::default());
            state.rename(Renaming::Create(name.to_owned(), id));
            id
        })?;
        Ok(Box::new(FaultyFile { disk: self.0.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock();
        state.check()?;
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FaultyFile { disk: self.0.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.lock().change(|state| state.rename(Renaming::Rename(from.to_owned(), to.to_owned())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().change(|state| state.rename(Renaming::Remove(name.to_owned())))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.0.lock().change(|state| {
            state.durable_names.clone_from(&state.names);
            state.renamings.clear();
        })
    }
}

struct FaultyFile {
    disk: Arc<Mutex<State>>,
    id: u64,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.lock();
        state.check()?;
        let bytes = &state.files[&self.id].now;
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + buffer.len());
        buffer[..end - start].copy_from_slice(&bytes[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.lock().write(self.id, bytes, offset)
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        state.check()?;
        Ok(state.files[&self.id].now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.lock().change(|state| {
            if let Some(file) = state.files.get_mut(&self.id) {
                let old = file.now.len() as u64;
                file.now.resize(len as usize, 0);
                file.dirty_from_to(old.min(len), len);
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().sync(self.id)
    }
}
