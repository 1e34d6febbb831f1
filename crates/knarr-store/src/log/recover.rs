//! Start: reads the newest usable snapshot and the log after it, and makes sure that what was read is on the disk.

use std::sync::Arc;
use std::time::Duration;

use super::files::{Files, LOG_MAGIC, log_name};
use super::frame::{End, FILE_HEADER, FileHeader, FrameHeader, FrameReader};
use super::record::{self, Record, Records, UNREADABLE};
use super::state;
use crate::cache::{Cache, Loader, Resource};
use crate::disk::{Disk, DiskFile};
use crate::history::{Change, ChangeKind, WINDOW};
use crate::key::ResourceKey;
use crate::sequence::deletion;

/// What was found.
pub struct Recovered {
    pub revision: u64,
    pub files: Files,
    /// Where writes go on; absent when there is no log file for them yet.
    pub tail: Option<Tail>,
    /// The size of the newest snapshot.
    pub state_bytes: u64,
}

/// Fills the cache.
///
/// # Errors
/// A sentence that names the file and what is wrong with it. Nothing is repaired silently but the torn end of the last log
/// file, which was never acknowledged.
pub fn recover(disk: &dyn Disk, cache: &Cache, records: &Records, now_ms: u64) -> Result<Recovered, String> {
    let mut files = Files::find(disk).map_err(|e| e.to_string())?;
    let mut loader = cache.load();
    let (base, state_bytes) = load_state(disk, &files, records, now_ms, &mut loader)?;
    let mut replay = Replay { loader, records, now_ms, base, revision: base, resources: Vec::new() };
    let ends = files.logs.iter().skip(1).map(|next| Some(*next)).chain([None]);
    let needed: Vec<_> = files.logs.iter().copied().zip(ends).filter(|(_, next)| next.is_none_or(|n| n > base + 1)).collect();
    let mut tail: Option<Tail> = None;
    for (first, next) in needed {
        match replay.file(disk, first)? {
            Some(found) => {
                if tail.is_some_and(|before| before.end.is_torn) {
                    return Err(format!("{}: a torn write before it, though writes went on", log_name(first)));
                }
                tail = Some(found);
            }
            None if next.is_none() => {
                // Its name was synced after everything before it, and nothing was ever written to it.
                disk.remove(&log_name(first)).and_then(|()| disk.sync_folder()).map_err(|e| e.to_string())?;
                files.logs.pop();
            }
            None => return Err(format!("{}: damaged file header", log_name(first))),
        }
    }
    let Replay { loader, revision, .. } = replay;
    let tail = tail.filter(|tail| tail.last == revision);
    if let Some(tail) = &tail {
        let name = log_name(tail.first);
        disk.open(&name).and_then(|file| secure_end(file.as_ref(), tail)).map_err(|e| format!("{name}: {e}"))?;
    }
    // The names, too, may be known to this system only.
    disk.sync_folder().map_err(|e| e.to_string())?;
    loader.finish(revision);
    Ok(Recovered { revision, files, tail, state_bytes })
}

/// The end of a log file.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// The revision in the file's name.
    pub first: u64,
    /// The last revision in it.
    last: u64,
    pub seed: u64,
    last_frame: u64,
    pub end: End,
}

/// Loads the snapshot to start from: the newest, unless it is so young that watches may resume from before it. Gives its
/// revision, 0 without any.
fn load_state(disk: &dyn Disk, files: &Files, records: &Records, now_ms: u64, loader: &mut Loader<'_>) -> Result<(u64, u64), String> {
    let Some(&newest) = files.states.last() else { return Ok((0, 0)) };
    let mut opened = state::open(disk, newest)?;
    if is_young(opened.header.time_ms, now_ms)
        && let [.., before, _] = files.states[..]
        && files.logs.iter().any(|first| *first <= before + 1)
    {
        opened = state::open(disk, before)?;
    }
    let revision = opened.header.revision;
    Ok((revision, opened.load(records, loader)?))
}

/// Whether somebody may want to resume from before this time.
pub fn is_young(time_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(time_ms) < WINDOW.as_millis() as u64
}

struct Replay<'a> {
    loader: Loader<'a>,
    records: &'a Records,
    now_ms: u64,
    base: u64,
    revision: u64,
    /// The resources met so far; a few dozen.
    resources: Vec<Arc<Resource>>,
}

impl Replay<'_> {
    /// Does again what a log file says. `None` when nothing in it was ever synced, so that the file is as good as absent.
    fn file(&mut self, disk: &dyn Disk, first: u64) -> Result<Option<Tail>, String> {
        let name = log_name(first);
        let of = |what: String| format!("{name}: {what}");
        let file = disk.open(&name).map_err(|e| of(e.to_string()))?;
        let mut bytes = [0; FILE_HEADER as usize];
        let len = file.read_at(&mut bytes, 0).map_err(|e| of(e.to_string()))?;
        let Some(header) = FileHeader::decode(&bytes[..len], LOG_MAGIC).map_err(of)? else {
            // The header was synced before anything else was written.
            return if is_zero(file.as_ref()).map_err(|e| of(e.to_string()))? { Ok(None) } else { Err(of("damaged file header".into())) };
        };
        if header.revision != first || first > self.revision + 1 {
            return Err(of(format!("begins at revision {}, but the file before ends at {}", header.revision, self.revision)));
        }
        let mut reader = FrameReader::new(file, header.seed);
        let (mut last, mut last_frame) = (first - 1, FILE_HEADER);
        loop {
            let offset = reader.offset();
            match reader.next().map_err(|trouble| of(trouble.to_string()))? {
                Ok((frame, body)) => {
                    last = self.frame(&frame, body).map_err(of)?;
                    last_frame = offset;
                }
                Err(end) => return Ok(Some(Tail { first, last, seed: header.seed, last_frame, end })),
            }
        }
    }

    /// Gives the last revision in the frame.
    fn frame(&mut self, frame: &FrameHeader, mut body: &[u8]) -> Result<u64, String> {
        let last = frame.revision + u64::from(frame.count) - 1;
        if last <= self.base {
            return Ok(last);
        }
        if frame.revision != self.revision + 1 {
            return Err(format!("revision {} follows {}", frame.revision, self.revision));
        }
        let age = Duration::from_millis(self.now_ms.saturating_sub(frame.time_ms));
        for revision in frame.revision..=last {
            record::read(&mut body).and_then(|record| self.record(record, revision, age)).ok_or(UNREADABLE)?;
        }
        self.revision = last;
        Ok(last)
    }

    fn record(&mut self, record: Record<'_>, revision: u64, age: Duration) -> Option<()> {
        let (resource, change) = match record {
            Record::Put { resource, path, expires_ms, bytes, is_sealed, .. } => {
                let resource = self.resource(resource);
                let object = self.records.object(&resource.key, path, bytes, is_sealed, revision)?;
                let previous = self.loader.get(&resource, path);
                let kind = if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                let item = resource.make_item(path, object, expires_ms, previous.as_deref());
                (resource, Change::new(kind, item, previous))
            }
            Record::Delete { resource, path } => {
                let resource = self.resource(resource);
                let previous = self.loader.get(&resource, path)?;
                let change = deletion(&resource, previous, revision);
                (resource, change)
            }
            Record::Resource { .. } => return None,
        };
        self.loader.replay(&resource, change, age);
        Some(())
    }

    fn resource(&mut self, (group, name): (&str, &str)) -> Arc<Resource> {
        if let Some(known) = self.resources.iter().find(|r| r.key.group == group && r.key.resource == name) {
            return known.clone();
        }
        let resource = self.loader.resource(&ResourceKey::new(group, name));
        self.resources.push(resource.clone());
        resource
    }
}

fn is_zero(file: &dyn DiskFile) -> std::io::Result<bool> {
    let mut bytes = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut bytes, offset)?;
        if read == 0 || bytes[..read].iter().any(|b| *b != 0) {
            return Ok(read == 0);
        }
        offset += read as u64;
    }
}

/// Wipes out what was never acknowledged, and writes the last frame again: if its sync had failed, it can be read but is not
/// on the disk, and no sync would ever bring it there, because its pages count as clean.
fn secure_end(file: &dyn DiskFile, tail: &Tail) -> std::io::Result<()> {
    let mut bytes = vec![0; usize::try_from(tail.end.offset - tail.last_frame).unwrap_or(0)];
    let read = file.read_at(&mut bytes, tail.last_frame)?;
    file.write_at(&bytes[..read], tail.last_frame)?;
    // What lies behind the end stays as zeros: it is the space that deletions need on a full disk.
    let rest = file.size()?.saturating_sub(tail.end.offset);
    file.write_at(&vec![0; usize::try_from(rest).unwrap_or(0)], tail.end.offset)?;
    file.sync()
}
