//! How files of the log are cut into frames that can be trusted or told apart from damage.
//!
//! ```text
//! │ file header │ frame header │ body ······ │ pad │ frame header │ body │ pad │ 0 0 0 0 …
//! └─ 64 bytes ──┴─ 48 bytes ───┘             └ to the next multiple of 64
//! ```
//!
//! One frame is one write and one sync. The space after the last frame is zero, made so and synced before it is written to.
//! Three things follow from that:
//! - A frame behind a damaged one proves that the damaged one had been synced: that is corruption, never a torn write.
//! - A torn frame has a sector that is still zero; a whole one that fails its checksum was corrupted later.
//! - A header lies within one sector, so it is whole, or zero, or corrupted.

use std::io;

use twox_hash::XxHash64;

use crate::disk::{DiskFile, SECTOR};

pub const FILE_HEADER: u64 = 64;
const FRAME_HEADER: usize = 48;
const ALIGN: u64 = 64;
const FRAME_MAGIC: u32 = 0x6b6e_6672;
/// The layout of files and records that this code reads and writes.
pub const FORMAT: u32 = 1;
/// A longer body than any that is ever written.
const BODY_MAX: u32 = 1 << 30;

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub magic: [u8; 8],
    /// Of a log file the first revision in it, of a snapshot the revision of the state.
    pub revision: u64,
    /// Wall clock when it was made, in milliseconds since 1970.
    pub time_ms: u64,
    /// Mixed into all checksums of the file, so that nothing of another file is ever taken for its own.
    pub seed: u64,
}

impl FileHeader {
    pub fn encode(&self) -> [u8; FILE_HEADER as usize] {
        let mut out = [0; FILE_HEADER as usize];
        out[..8].copy_from_slice(&self.magic);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        for (at, number) in [(16, self.revision), (24, self.time_ms), (32, self.seed)] {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = XxHash64::oneshot(0, &out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// `None` for a header that is all zero: the file was made, but nothing in it was ever synced.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8], magic: [u8; 8]) -> Result<Option<Self>, String> {
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if bytes.len() < FILE_HEADER as usize || XxHash64::oneshot(0, &bytes[..56]) != number(&bytes[56..]) {
            return Err("damaged file header".into());
        }
        if bytes[..8] != magic {
            return Err("not a file of this kind".into());
        }
        match u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) {
            FORMAT => Ok(Some(Self { magic, revision: number(&bytes[16..]), time_ms: number(&bytes[24..]), seed: number(&bytes[32..]) })),
            other => Err(format!("written in format {other}, this version of knarr reads format {FORMAT}")),
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes[..8].try_into().map_or(0, u64::from_le_bytes)
}

/// What a frame says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The revision of the first record.
    pub revision: u64,
    pub time_ms: u64,
    /// The number of records.
    pub count: u32,
    pub body_len: u32,
    body_sum: u64,
}

impl FrameHeader {
    pub fn next_offset(&self, offset: u64) -> u64 {
        (offset + FRAME_HEADER as u64 + u64::from(self.body_len)).next_multiple_of(ALIGN)
    }
}

/// Makes a frame of a body: `out` holds room for the header ([`begin`]), then the body.
pub fn seal(out: &mut Vec<u8>, seed: u64, offset: u64, revision: u64, count: u32, time_ms: u64) {
    let seed = seed ^ offset;
    let body = &out[FRAME_HEADER..];
    let (len, sum) = (body.len() as u32, XxHash64::oneshot(seed, body));
    out[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&len.to_le_bytes());
    out[8..12].copy_from_slice(&count.to_le_bytes());
    for (at, number) in [(16, revision), (24, time_ms), (32, sum)] {
        out[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let sum = XxHash64::oneshot(seed, &out[..40]);
    out[40..48].copy_from_slice(&sum.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
}

/// Leaves room for a header.
pub fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_HEADER, 0);
}

fn decode_header(bytes: &[u8], seed: u64, offset: u64) -> Option<FrameHeader> {
    let ok = bytes.len() >= FRAME_HEADER && bytes[0..4] == FRAME_MAGIC.to_le_bytes() && XxHash64::oneshot(seed ^ offset, &bytes[..40]) == number(&bytes[40..]);
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let header = ok.then(|| FrameHeader {
        revision: number(&bytes[16..]),
        time_ms: number(&bytes[24..]),
        count: word(8),
        body_len: word(4),
        body_sum: number(&bytes[32..]),
    });
    header.filter(|h| h.body_len < BODY_MAX)
}

/// Reads the frames of a file in order.
pub struct FrameReader {
    window: Window,
    seed: u64,
    offset: u64,
}

/// Where the frames of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub offset: u64,
    /// A frame that never became durable lies there.
    pub is_torn: bool,
}

/// Why frames could not be read.
#[derive(Debug)]
pub enum Trouble {
    Io(io::Error),
    /// Something that was durable is damaged, at this offset.
    Corrupt(u64, &'static str),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Corrupt(offset, what) => write!(f, "corrupted at byte {offset}: {what}"),
        }
    }
}

/// What stands at an offset.
enum Found {
    Frame(FrameHeader),
    Nothing,
    Torn,
    Damaged(&'static str),
}

impl FrameReader {
    pub fn new(file: Box<dyn DiskFile>, seed: u64) -> Self {
        Self { window: Window { file, bytes: Vec::new(), start: 0 }, seed, offset: FILE_HEADER }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame's header and body, or where the frames end.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn next(&mut self) -> Result<Result<(FrameHeader, &[u8]), End>, Trouble> {
        let offset = self.offset;
        match self.look(offset)? {
            Found::Frame(header) => {
                self.offset = header.next_offset(offset);
                let body = self.window.read(offset + FRAME_HEADER as u64, header.body_len as usize)?;
                Ok(Ok((header, body)))
            }
            Found::Damaged(what) => Err(Trouble::Corrupt(offset, what)),
            found @ (Found::Nothing | Found::Torn) => {
                self.expect_no_frame_after(offset)?;
                Ok(Err(End { offset, is_torn: matches!(found, Found::Torn) }))
            }
        }
    }

    fn look(&mut self, offset: u64) -> Result<Found, Trouble> {
        let bytes = self.window.read(offset, FRAME_HEADER)?;
        if bytes.iter().all(|b| *b == 0) {
            return Ok(Found::Nothing);
        }
        let Some(header) = decode_header(bytes, self.seed, offset) else {
            let is_cut = bytes.len() < FRAME_HEADER;
            return Ok(if is_cut { Found::Torn } else { Found::Damaged("damaged frame header") });
        };
        let seed = self.seed ^ offset;
        let start = offset + FRAME_HEADER as u64;
        let body = self.window.read(start, header.body_len as usize)?;
        if body.len() == header.body_len as usize && XxHash64::oneshot(seed, body) == header.body_sum {
            return Ok(Found::Frame(header));
        }
        let is_torn = body.len() < header.body_len as usize || has_zero_sector(body, start);
        Ok(if is_torn { Found::Torn } else { Found::Damaged("a frame fails its checksum") })
    }

    /// Frames are written one after the other, each after the sync of the one before.
    fn expect_no_frame_after(&mut self, offset: u64) -> Result<(), Trouble> {
        let len = self.window.file.size()?;
        let mut at = offset + ALIGN;
        while at < len {
            let bytes = self.window.read(at, FRAME_HEADER)?;
            if decode_header(bytes, self.seed, at).is_some() {
                return Err(Trouble::Corrupt(offset, "a frame is missing before others"));
            }
            at += ALIGN;
        }
        Ok(())
    }
}

/// Whether a body that begins at this offset of its file has a sector of nothing but zeros.
fn has_zero_sector(body: &[u8], offset: u64) -> bool {
    let first = (SECTOR - offset % SECTOR) as usize;
    let (head, rest) = body.split_at(first.min(body.len()));
    std::iter::once(head).filter(|h| !h.is_empty()).chain(rest.chunks(SECTOR as usize)).any(|sector| sector.iter().all(|b| *b == 0))
}

/// A part of a file in memory.
struct Window {
    file: Box<dyn DiskFile>,
    bytes: Vec<u8>,
    start: u64,
}

/// How much is read at once.
const WINDOW_BYTES: usize = 4 << 20;

impl Window {
    /// Up to `len` bytes at an offset, less only at the end of the file.
    fn read(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let holds = offset >= self.start && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !holds {
            self.bytes.resize(len.max(WINDOW_BYTES), 0);
            let read = self.file.read_at(&mut self.bytes, offset)?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..self.bytes.len().min(from + len)])
    }
}
