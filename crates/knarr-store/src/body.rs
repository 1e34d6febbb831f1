//! The bytes of an object in the cache: whole as long as it is current, and packed against the version that followed when it
//! is history. Of a changed status there is little that the next version does not have, too. Events are packed while they are
//! current, against one like them: they are many, alike, and hardly ever read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use bytes::Bytes;
use lz4_flex::block::{compress_with_dict, decompress_with_dict};
use parking_lot::RwLock;

use crate::item::Item;

/// So many versions may have to be unpacked to read one: of an object that changes all the time, one in so many stays whole.
const CHAIN_MAX: u8 = 8;

/// How far back LZ4 finds what was there before: the next version of a larger object is out of its sight.
const REACH: usize = 64 << 10;

/// What became of the bytes.
enum Form {
    Whole(Bytes),
    Packed(Box<Packed>),
}

struct Packed {
    /// The version that followed, or an object like this one.
    model: Arc<Item>,
    /// Length of the whole.
    len: usize,
    /// What `model` does not have (an LZ4 block, whose dictionary are the bytes of `model`).
    rest: Box<[u8]>,
}

/// See the module.
pub(crate) struct Body {
    form: RwLock<Form>,
    /// The longest chain of versions that need these bytes to be read.
    needed_by: AtomicU8,
}

impl Body {
    pub fn new(bytes: Bytes) -> Self {
        Self { form: RwLock::new(Form::Whole(bytes)), needed_by: AtomicU8::new(0) }
    }

    /// The whole bytes.
    pub fn bytes(&self) -> Bytes {
        match &*self.form.read() {
            Form::Whole(bytes) => bytes.clone(),
            Form::Packed(packed) => packed.whole(),
        }
    }

    /// Length of the whole bytes.
    pub fn len(&self) -> usize {
        match &*self.form.read() {
            Form::Whole(bytes) => bytes.len(),
            Form::Packed(packed) => packed.len,
        }
    }

    /// What is kept in memory.
    pub fn kept(&self) -> usize {
        match &*self.form.read() {
            Form::Whole(bytes) => bytes.len(),
            Form::Packed(packed) => packed.rest.len() + size_of::<Packed>(),
        }
    }

    /// Keeps what `model` does not have, if that is less, and tells whether it is. One thread at a time packs, and each body once. A model is whole
    /// when it becomes one, so that none needs what needs it.
    pub fn pack(&self, model: &Arc<Item>) -> bool {
        let chain = self.needed_by.load(Relaxed) + 1;
        let (Some(bytes), Some(known)) = (self.whole(), model.body().whole()) else { return false };
        if chain > CHAIN_MAX || bytes.len() > REACH {
            return false;
        }
        let rest = compress_with_dict(&bytes, &known);
        let is_less = rest.len() + size_of::<Packed>() < bytes.len();
        if is_less {
            model.body().needed_by.fetch_max(chain, Relaxed);
            *self.form.write() = Form::Packed(Box::new(Packed { model: model.clone(), len: bytes.len(), rest: rest.into() }));
        }
        is_less
    }

    /// The bytes, if they are not packed.
    fn whole(&self) -> Option<Bytes> {
        match &*self.form.read() {
            Form::Whole(bytes) => Some(bytes.clone()),
            Form::Packed(_) => None,
        }
    }
}

impl Packed {
    /// # Panics
    /// Never: nothing else was packed, and both parts are immutable.
    fn whole(&self) -> Bytes {
        decompress_with_dict(&self.rest, self.len, &self.model.body().bytes()).expect("packed by this process").into()
    }
}

#[cfg(test)]
mod tests {
    use knarr_schema::codec;

    use super::*;

    /// A version of an object with a long part that all versions have.
    fn version(revision: u64, state: &str) -> Arc<Item> {
        let spec: String = (0..200).map(|i| format!("line {i}, ")).collect();
        let json = format!(r#"{{"metadata":{{"name":"a"}},"spec":"{spec}","status":"{state}"}}"#);
        Arc::new(Item::new("d/a", codec::with_resource_version(json.as_bytes(), revision), None, 0))
    }

    #[test]
    fn a_version_is_read_through_those_that_followed() {
        let versions: Vec<Arc<Item>> = (1..40).map(|r| version(r, &format!("state {r}"))).collect();
        let whole: Vec<Bytes> = versions.iter().map(|v| v.object().bytes).collect();
        for pair in versions.windows(2) {
            pair[0].pack(&pair[1]);
        }
        for (version, bytes) in versions.iter().zip(&whole) {
            assert_eq!((&version.object().bytes, version.body().len()), (bytes, bytes.len()));
        }
        let kept: usize = versions.iter().map(|v| v.body().kept()).sum();
        let all: usize = whole.iter().map(Bytes::len).sum();
        assert!(kept < all / 4, "{kept} of {all}");
        let stayed = versions.iter().filter(|v| v.body().kept() == v.body().len()).count();
        assert_eq!(stayed, 1 + 38 / (usize::from(CHAIN_MAX) + 1));
    }

    #[test]
    fn what_has_nothing_in_common_stays_whole() {
        let (small, large) = (Arc::new(Item::new("d/a", codec::with_resource_version(b"{}", 1), None, 0)), version(2, "x"));
        small.pack(&large);
        assert_eq!(small.body().kept(), small.body().len());
    }

    #[test]
    fn readers_and_packers_may_meet() {
        let versions: Vec<Arc<Item>> = (1..200).map(|r| version(r, &format!("state {r}"))).collect();
        let whole: Vec<Bytes> = versions.iter().map(|v| v.object().bytes).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| versions.windows(2).for_each(|pair| pair[0].pack(&pair[1])));
            for _ in 0..2 {
                scope.spawn(|| versions.iter().zip(&whole).for_each(|(version, bytes)| assert_eq!(version.object().bytes, bytes)));
            }
        });
    }
}
