//! Snapshots: the whole state at one revision in one file, so that the log before it can go.
//!
//! A snapshot is written by a thread of its own from an immutable [`World`], while writers go on in a new log file. It gets
//! its name only when it is whole and synced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::files::{STATE_MAGIC, UNFINISHED, state_name};
use super::frame::{FILE_HEADER, FileHeader, FrameReader, Trouble, begin, seal};
use super::journal::seed;
use super::record::{self, Record, Records, UNREADABLE};
use crate::cache::{Loader, Resource};
use crate::disk::{Disk, DiskFile};
use crate::key::ResourceKey;
use crate::world::World;

/// Records are gathered into frames of about this size.
const FRAME_BYTES: usize = 1 << 20;
/// The file is synced each time this much was written, so that the journal's syncs never wait for much.
const SYNC_BYTES: u64 = 4 << 20;

/// What a snapshot is made of.
pub struct Source {
    pub world: Arc<World>,
    /// Each resource with the revision of its last change.
    pub resources: Vec<(Arc<Resource>, u64)>,
    pub time_ms: u64,
}

/// Writes a snapshot; gives its size. `Ok(None)` when it was told to stop.
pub fn write(disk: &dyn Disk, source: &Source, records: &Records, stop: &AtomicBool) -> io::Result<Option<u64>> {
    let revision = source.world.revision();
    let seed = seed(revision, source.time_ms);
    let file = disk.create(UNFINISHED)?;
    file.write_at(&FileHeader { magic: STATE_MAGIC, revision, time_ms: source.time_ms, seed }.encode(), 0)?;
    let mut writer = Writer { file, seed, revision, time_ms: source.time_ms, offset: FILE_HEADER, synced: 0, frame: Vec::new(), count: 0 };
    begin(&mut writer.frame);
    for (resource, last) in &source.resources {
        record::write_resource(&mut writer.frame, &resource.key, *last);
        writer.add()?;
        let Some(set) = source.world.sets.get(resource.id) else { continue };
        for entry in set {
            records.write_item(&mut writer.frame, &resource.key, &entry.item)?;
            writer.add()?;
            if stop.load(Relaxed) {
                return Ok(None);
            }
        }
    }
    writer.flush()?;
    // A frame without records ends the file: without it the snapshot is not whole.
    writer.flush()?;
    writer.file.sync()?;
    disk.rename(UNFINISHED, &state_name(revision))?;
    disk.sync_folder()?;
    Ok(Some(writer.offset))
}

struct Writer {
    file: Box<dyn DiskFile>,
    seed: u64,
    revision: u64,
    time_ms: u64,
    offset: u64,
    synced: u64,
    frame: Vec<u8>,
    count: u32,
}

impl Writer {
    fn add(&mut self) -> io::Result<()> {
        self.count += 1;
        if self.frame.len() >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        seal(&mut self.frame, self.seed, self.offset, self.revision, self.count, self.time_ms);
        self.file.write_at(&self.frame, self.offset)?;
        self.offset += self.frame.len() as u64;
        self.count = 0;
        begin(&mut self.frame);
        if self.offset - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.offset;
        }
        Ok(())
    }
}

/// What is known of a snapshot before its objects are read.
pub struct Opened {
    pub header: FileHeader,
    reader: FrameReader,
}

/// Opens the snapshot at this revision.
pub fn open(disk: &dyn Disk, revision: u64) -> Result<Opened, String> {
    let name = state_name(revision);
    let of = |what: String| format!("{name}: {what}");
    let file = disk.open(&name).map_err(|e| of(e.to_string()))?;
    let mut bytes = [0; FILE_HEADER as usize];
    let len = file.read_at(&mut bytes, 0).map_err(|e| of(e.to_string()))?;
    match FileHeader::decode(&bytes[..len], STATE_MAGIC).map_err(of)? {
        Some(header) if header.revision == revision => Ok(Opened { reader: FrameReader::new(file, header.seed), header }),
        _ => Err(of("damaged file header".into())),
    }
}

impl Opened {
    /// Puts all objects into the cache. Gives the size of the file.
    pub fn load(mut self, records: &Records, loader: &mut Loader<'_>) -> Result<u64, String> {
        let name = state_name(self.header.revision);
        let mut resource = None;
        loop {
            match self.reader.next() {
                Ok(Ok((frame, _))) if frame.count == 0 => return Ok(self.reader.offset()),
                Ok(Ok((frame, body))) => load_frame(frame.count, body, records, &mut resource, loader).ok_or(format!("{name}: {UNREADABLE}"))?,
                Ok(Err(end)) => return Err(format!("{name}: {}", Trouble::Corrupt(end.offset, "the file ends too early"))),
                Err(trouble) => return Err(format!("{name}: {trouble}")),
            }
        }
    }
}

fn load_frame(count: u32, mut body: &[u8], records: &Records, current: &mut Option<Arc<Resource>>, loader: &mut Loader<'_>) -> Option<()> {
    for _ in 0..count {
        match record::read(&mut body)? {
            Record::Resource { resource: (group, name), revision } => {
                let resource = loader.resource(&ResourceKey::new(group, name));
                loader.history_begins(&resource, revision);
                *current = Some(resource);
            }
            Record::Put { path, revision, expires_ms, bytes, is_sealed, .. } => {
                let resource = current.as_ref()?;
                loader.put(resource, path, records.object(&resource.key, path, bytes, is_sealed, revision)?, expires_ms);
            }
            Record::Delete { .. } => return None,
        }
    }
    Some(())
}
