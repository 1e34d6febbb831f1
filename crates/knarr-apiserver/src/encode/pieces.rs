//! Lists are put together of pieces: runs of objects that are encoded, and compressed, once for as long as lists of them are wanted and
//! they stay as they are. A list in which one object has changed since the last one costs the encoding of the objects around it.
//!
//! Lists that are asked for at once share the work: what one of them encodes, the others leave to it, and take the next piece meanwhile.
//!
//! Where a piece ends is decided by the objects in it, not by their place in the list, so that one which comes or goes leaves the other pieces as
//! they were. Compressed pieces refer to nothing before them: any row of them makes one stream of deflate, and so one member of gzip.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, FlushCompress};
use knarr_core::{Object, Result, Status};
use knarr_store::Item;
use parking_lot::Mutex;

use super::{Format, list_ends, list_meta_message, proto, put_json_items, put_protobuf_items};
use crate::{
    catalog::Served,
    http::{GZIP_BYTES_MIN, Media},
    read::Page,
};

/// Lists of fewer bytes at rest are encoded as a whole.
const LIST_BYTES_MIN: usize = 8 * 1024;
/// For clients that take compressed answers it has to be known beforehand which lists are compressed: not those of fewer bytes at rest than the first,
/// and those of more than the second. What is between is encoded as a whole.
const PLAIN_BYTES_MAX: usize = GZIP_BYTES_MIN / 2;
const COMPRESSED_BYTES_MIN: usize = 2 * GZIP_BYTES_MIN;
/// A piece has at least this many objects, and ends with one of [`ENDS_ONE_OF`] then; or where one of the other two is reached.
const PIECE_ITEMS_MIN: usize = 16;
const ENDS_ONE_OF: usize = 32;
const PIECE_ITEMS_MAX: usize = 128;
const PIECE_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of all pieces that are kept.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// A piece that nobody wanted for this long, or up to twice as long, is forgotten.
const IDLE: Duration = Duration::from_secs(30);
/// As upstream compresses (`gzip.BestSpeed`).
const LEVEL: u32 = 1;

/// See the module.
#[derive(Default)]
pub struct Pieces {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pieces: HashMap<Key, Entry>,
    /// Who is asked first whether it may go.
    order: VecDeque<Key>,
    bytes: usize,
    /// Whether somebody looks after those that nobody wants any more.
    tended: bool,
}

/// A piece is known by its form and by where its first object lies.
type Key = (u64, usize);

struct Entry {
    piece: Arc<Piece>,
    /// How much of the bytes of all it is; nothing before it is encoded.
    weight: usize,
}

struct Piece {
    /// Never the same memory for another object as long as these are held.
    items: Box<[Weak<Item>]>,
    /// Whether a list has taken it upon itself to encode it.
    taken: AtomicBool,
    encoded: OnceLock<Result<Encoded>>,
    wanted: AtomicBool,
}

struct Encoded {
    /// Length before compression, and the check sum of that if it is compressed.
    length: usize,
    sum: Crc,
    bytes: Bytes,
}

/// A list as it goes out.
pub struct Assembled {
    pub parts: VecDeque<Bytes>,
    pub gzip: bool,
}

/// What the bytes of a piece depend on beside its objects.
#[derive(Clone, Copy)]
struct Form {
    served: u32,
    protobuf: bool,
    gzip: bool,
}

impl Form {
    /// The first piece of a list in JSON begins without a comma.
    fn number(self, is_first: bool) -> u64 {
        let first = is_first && !self.protobuf;
        u64::from(self.served) << 3 | u64::from(self.protobuf) << 2 | u64::from(self.gzip) << 1 | u64::from(first)
    }
}

impl Pieces {
    /// The list, if it is one that is put together of pieces. `gzip` says whether the client takes compressed answers.
    ///
    /// # Errors
    /// When an object cannot be read or converted.
    pub fn list(self: &Arc<Self>, served: &Served, page: &Page, format: &Format, gzip: bool) -> Result<Option<Assembled>> {
        let accepted = &format.accepted;
        let is_plain = accepted.convert.is_none() && matches!(accepted.media, Media::Json | Media::Protobuf) && !accepted.pretty;
        // What a webhook has converted is made anew for each list.
        if !is_plain || served.asks_a_webhook() {
            return Ok(None);
        }
        let size = page.items.iter().map(|i| i.size()).sum::<usize>();
        let is_between = gzip && (PLAIN_BYTES_MAX..COMPRESSED_BYTES_MIN).contains(&size);
        if size < LIST_BYTES_MIN || is_between {
            return Ok(None);
        }
        let compresses = gzip && size >= COMPRESSED_BYTES_MIN;
        let form = Form { served: served.id, protobuf: accepted.media == Media::Protobuf, gzip: compresses };
        let pieces = self.pieces(&page.items, form);
        let pieces = self.encoded(&pieces, Encoder { served, form, plain: Vec::new(), compress: None })?;
        let length: usize = pieces.iter().map(|p| p.length).sum();
        // Not as thought: objects that are much larger or smaller than at rest.
        if gzip && compresses != (length > GZIP_BYTES_MIN) {
            return Ok(None);
        }
        let (head, tail) = if form.protobuf { protobuf_ends(served, page, length) } else { json_ends(served, page) };
        let parts = if compresses { gzip_member(&head, &pieces, &tail) } else { plain(head, &pieces, tail) };
        Ok(Some(Assembled { parts, gzip: compresses }))
    }

    /// The pieces of a list, each with its objects; some may not be encoded yet.
    fn pieces<'a>(self: &Arc<Self>, items: &'a [Arc<Item>], form: Form) -> Vec<Part<'a>> {
        let mut kept = self.kept.lock();
        let part = |(i, run): (usize, &'a [Arc<Item>])| {
            let key = (form.number(i == 0), address(&run[0]));
            Part { key, run, is_first: i == 0, piece: kept.piece(key, run) }
        };
        let parts = runs(items).enumerate().map(part).collect();
        if !std::mem::replace(&mut kept.tended, true) {
            tokio::spawn(tend(Arc::downgrade(self)));
        }
        parts
    }

    /// First encodes what nobody has taken yet, then waits for what others have.
    fn encoded<'p>(&self, parts: &'p [Part<'_>], mut encoder: Encoder<'_>) -> Result<Vec<&'p Encoded>> {
        for part in parts.iter().filter(|p| !p.piece.taken.swap(true, Relaxed)) {
            self.encode(part, &mut encoder)?;
        }
        parts.iter().map(|part| self.encode(part, &mut encoder)).collect()
    }

    /// Encodes a piece, unless it is, or waits for who does it.
    fn encode<'p>(&self, part: &'p Part<'_>, encoder: &mut Encoder<'_>) -> Result<&'p Encoded> {
        let mut is_new = false;
        let encoded = part.piece.encoded.get_or_init(|| {
            is_new = true;
            encoder.encode(part.run, part.is_first)
        });
        if is_new {
            self.kept.lock().weigh(part);
        }
        encoded.as_ref().map_err(Clone::clone)
    }
}

/// A piece as one list has it.
struct Part<'a> {
    key: Key,
    run: &'a [Arc<Item>],
    is_first: bool,
    piece: Arc<Piece>,
}

/// Forgets pieces that nobody wants any more, until there are none.
async fn tend(pieces: Weak<Pieces>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pieces) = pieces.upgrade() else { return };
        let mut kept = pieces.kept.lock();
        for _ in 0..kept.order.len() {
            kept.pass_or_forget();
        }
        if kept.order.is_empty() {
            *kept = Kept::default();
            return;
        }
    }
}

impl Kept {
    /// The piece of these objects, which is wanted from now on.
    fn piece(&mut self, key: Key, run: &[Arc<Item>]) -> Arc<Piece> {
        if let Some(known) = self.pieces.get(&key).map(|e| &e.piece).filter(|p| p.is_of(run)) {
            known.wanted.store(true, Relaxed);
            return known.clone();
        }
        let piece = Arc::new(Piece::of(run));
        match self.pieces.insert(key, Entry { piece: piece.clone(), weight: 0 }) {
            Some(before) => self.bytes -= before.weight,
            None => self.order.push_back(key),
        }
        piece
    }

    /// Counts a piece that is encoded now. One that could not be is forgotten.
    fn weigh(&mut self, part: &Part<'_>) {
        let Some(entry) = self.pieces.get_mut(&part.key).filter(|e| Arc::ptr_eq(&e.piece, &part.piece)) else { return };
        let Some(Ok(encoded)) = part.piece.encoded.get() else {
            self.pieces.remove(&part.key);
            self.order.retain(|key| *key != part.key);
            return;
        };
        entry.weight = encoded.bytes.len() + size_of_val(&*part.piece.items) + size_of::<Piece>() + 64;
        self.bytes += entry.weight;
        while self.bytes > KEPT_BYTES_MAX {
            self.forget_one();
        }
    }

    /// The next piece goes, or stays for another round if it was wanted since the last one.
    fn pass_or_forget(&mut self) {
        let Some(key) = self.order.pop_front() else { return };
        if self.pieces.get(&key).is_some_and(|e| e.piece.wanted.swap(false, Relaxed)) {
            self.order.push_back(key);
        } else if let Some(entry) = self.pieces.remove(&key) {
            self.bytes -= entry.weight;
        }
    }

    fn forget_one(&mut self) {
        let pieces = self.pieces.len();
        while self.pieces.len() == pieces && pieces > 0 {
            self.pass_or_forget();
        }
    }
}

impl Piece {
    fn of(items: &[Arc<Item>]) -> Self {
        let items = items.iter().map(Arc::downgrade).collect();
        Self { items, taken: AtomicBool::new(false), encoded: OnceLock::new(), wanted: AtomicBool::new(false) }
    }

    fn is_of(&self, items: &[Arc<Item>]) -> bool {
        self.items.len() == items.len() && self.items.iter().zip(items).all(|(a, b)| std::ptr::eq(a.as_ptr(), Arc::as_ptr(b)))
    }
}

fn address(item: &Arc<Item>) -> usize {
    Arc::as_ptr(item).addr()
}

/// Cuts a list into runs. Equal rows of objects are cut alike, wherever they stand, but for the first run that they are in.
fn runs(items: &[Arc<Item>]) -> impl Iterator<Item = &[Arc<Item>]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let mut ends = |(i, item): (usize, &Arc<Item>)| {
            bytes += item.size();
            i + 1 >= PIECE_ITEMS_MAX || bytes >= PIECE_BYTES_MAX || i + 1 >= PIECE_ITEMS_MIN && is_end(item)
        };
        let length = rest.iter().enumerate().position(&mut ends).map_or(rest.len(), |last| last + 1);
        let (run, after) = rest.split_at(length);
        rest = after;
        Some(run)
    })
}

/// Says this of one in [`ENDS_ONE_OF`] objects, always of the same.
fn is_end(item: &Arc<Item>) -> bool {
    // The high bits of a product depend on all bits of the factor (Knuth's multiplicative hashing).
    (address(item) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (ENDS_ONE_OF as u64 - 1) == 0
}

/// Encodes pieces one after the other, in memory that is used again.
struct Encoder<'a> {
    served: &'a Served,
    form: Form,
    plain: Vec<u8>,
    compress: Option<Compress>,
}

impl Encoder<'_> {
    fn encode(&mut self, items: &[Arc<Item>], is_first: bool) -> Result<Encoded> {
        self.plain.clear();
        let objects: Vec<Object> = items.iter().map(|i| i.object()).collect();
        let objects = objects.iter();
        if self.form.protobuf {
            put_protobuf_items(self.served, objects, &mut self.plain)?;
        } else {
            put_json_items(self.served, objects, is_first, &mut self.plain)?;
        }
        let mut sum = Crc::new();
        let bytes = if self.form.gzip {
            sum.update(&self.plain);
            self.compressed()?
        } else {
            Bytes::copy_from_slice(&self.plain)
        };
        Ok(Encoded { length: self.plain.len(), sum, bytes })
    }

    /// Blocks of deflate that end on a whole byte, are not the last ones, and refer to nothing before them.
    fn compressed(&mut self) -> Result<Bytes> {
        let compress = self.compress.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), false));
        compress.reset();
        let mut out = Vec::with_capacity(self.plain.len() / 4 + 64);
        loop {
            let taken = compress.total_in() as usize;
            compress.compress_vec(&self.plain[taken..], &mut out, FlushCompress::Sync).map_err(Status::internal)?;
            // What is left in the compressor has been flushed when there was room for more.
            if compress.total_in() as usize == self.plain.len() && out.len() < out.capacity() {
                break;
            }
            out.reserve(self.plain.len() / 4 + 64);
        }
        out.shrink_to_fit();
        Ok(out.into())
    }
}

/// What comes before the items of a list in JSON, and after them.
fn json_ends(served: &Served, page: &Page) -> (Bytes, Bytes) {
    let (head, mut tail) = list_ends(served, &page.meta);
    tail.push(b'\n');
    (head.into(), tail.into())
}

fn protobuf_ends(served: &Served, page: &Page, length: usize) -> (Bytes, Bytes) {
    let meta = list_meta_message(&page.meta);
    let mut head = BytesMut::new();
    proto::envelope_head(&served.resource.api_version(), &served.resource.list_kind, proto::field_len(meta.len()) + length, &mut head);
    proto::put_bytes(&mut head, 1, &meta);
    (head.freeze(), Bytes::from_static(proto::ENVELOPE_TAIL))
}

fn plain(head: Bytes, pieces: &[&Encoded], tail: Bytes) -> VecDeque<Bytes> {
    let pieces = pieces.iter().map(|p| p.bytes.clone());
    std::iter::once(head).chain(pieces).chain([tail]).collect()
}

/// Magic, deflate, no flags, no time, fastest, unknown system: as Go's writer has it at this level.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

fn gzip_member(head: &[u8], pieces: &[&Encoded], tail: &[u8]) -> VecDeque<Bytes> {
    let mut sum = Crc::new();
    let mut first = BytesMut::from(&GZIP_HEAD[..]);
    sum.update(head);
    put_stored(&mut first, head, false);
    let mut parts = VecDeque::with_capacity(pieces.len() + 2);
    parts.push_back(first.freeze());
    for piece in pieces {
        sum.combine(&piece.sum);
        parts.push_back(piece.bytes.clone());
    }
    let mut last = BytesMut::new();
    sum.update(tail);
    put_stored(&mut last, tail, true);
    last.put_u32_le(sum.sum());
    last.put_u32_le(sum.amount());
    parts.push_back(last.freeze());
    parts
}

/// Blocks of deflate that are not compressed.
fn put_stored(out: &mut BytesMut, bytes: &[u8], is_end: bool) {
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        out.put_u8(u8::from(is_end && blocks.peek().is_none()));
        out.put_u16_le(block.len() as u16);
        out.put_u16_le(!(block.len() as u16));
        out.put_slice(block);
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::Encoding;

    use super::*;

    fn items(names: std::ops::Range<usize>) -> Vec<Arc<Item>> {
        let object = |n: usize| Object { encoding: Encoding::Json, resource_version: 1, bytes: format!("{{\"n\":{n}}}").into() };
        names.map(|n| Arc::new(Item::unstored(&n.to_string(), object(n)))).collect()
    }

    #[tokio::test]
    async fn lists_that_are_asked_for_at_once_share_their_pieces() {
        let pieces = Arc::new(Pieces::default());
        let mut objects = items(0..1000);
        let form = Form { served: 1, protobuf: false, gzip: false };
        let one = pieces.pieces(&objects, form);
        let other = pieces.pieces(&objects, form);
        assert!(one.len() > 5);
        assert!(one.iter().zip(&other).all(|(a, b)| Arc::ptr_eq(&a.piece, &b.piece)));
        // Whoever comes first encodes a piece, and the other is left with it.
        let take = |part: &Part<'_>| !part.piece.taken.swap(true, Relaxed);
        assert_eq!((one.iter().filter(|p| take(p)).count(), other.iter().filter(|p| take(p)).count()), (one.len(), 0));
        let compressed = pieces.pieces(&objects, Form { gzip: true, ..form });
        assert!(one.iter().zip(&compressed).all(|(a, b)| !Arc::ptr_eq(&a.piece, &b.piece)));
        let before: Vec<_> = one.into_iter().map(|p| p.piece).collect();
        drop((other, compressed));
        objects[500] = items(500..501).remove(0);
        let after = pieces.pieces(&objects, form);
        let new = after.iter().filter(|a| !before.iter().any(|b| Arc::ptr_eq(&a.piece, b))).count();
        assert!(new > 0 && new * 2 < after.len(), "{new} of {}", after.len());
    }
}
