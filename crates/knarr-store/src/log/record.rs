//! What one write or one stored object looks like inside a frame.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use knarr_core::{Encoding, Object};

use crate::history::{Change, ChangeKind};
use crate::item::Item;
use crate::key::ResourceKey;
use crate::seal::Sealer;

/// One record. In log files the n-th record of a frame has the frame's revision plus n; in snapshots each tells its own.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    Put {
        resource: (&'a str, &'a str),
        path: &'a str,
        revision: u64,
        expires_ms: u64,
        bytes: &'a [u8],
        is_sealed: bool,
    },
    Delete {
        resource: (&'a str, &'a str),
        path: &'a str,
    },
    /// Of a snapshot: the objects of this resource follow, and it did not change after `revision`.
    Resource {
        resource: (&'a str, &'a str),
        revision: u64,
    },
}

/// Said of a record that passed its checksum.
pub const UNREADABLE: &str = "an object cannot be read: if it is sealed, this is not the key";

const PUT: u8 = 1;
const DELETE: u8 = 2;
const RESOURCE: u8 = 3;
const PUT_SEALED: u8 = 4;

/// Writes and reads objects, those of some resources sealed.
#[derive(Clone, Default)]
pub struct Records {
    pub sealer: Option<Arc<dyn Sealer>>,
}

impl Records {
    /// Appends the record of a write.
    ///
    /// # Errors
    /// When there is no randomness to seal with.
    pub fn write_change(&self, out: &mut Vec<u8>, resource: &ResourceKey, change: &Change) -> io::Result<()> {
        if change.kind == ChangeKind::Deleted {
            out.push(DELETE);
            write_resource_key(out, resource);
            write_bytes(out, change.item.path().as_bytes());
            return Ok(());
        }
        self.write_item(out, resource, &change.item)
    }

    /// Appends the record of an object.
    ///
    /// # Errors
    /// As [`Self::write_change`].
    pub fn write_item(&self, out: &mut Vec<u8>, resource: &ResourceKey, item: &Item) -> io::Result<()> {
        let object = item.object();
        let sealed = match self.sealer.as_ref().filter(|s| s.seals(resource)) {
            Some(sealer) => Some(sealer.seal(resource, item.path(), &object.bytes).ok_or_else(|| io::Error::other("an object cannot be sealed"))?),
            None => None,
        };
        out.push(if sealed.is_some() { PUT_SEALED } else { PUT });
        write_resource_key(out, resource);
        write_bytes(out, item.path().as_bytes());
        write_number(out, item.revision());
        write_number(out, item.expires_ms().unwrap_or(0));
        write_bytes(out, sealed.as_deref().unwrap_or(&object.bytes));
        Ok(())
    }

    /// The object of a record. `None` when it is sealed and cannot be opened.
    pub fn object(&self, resource: &ResourceKey, path: &str, bytes: &[u8], is_sealed: bool, revision: u64) -> Option<Object> {
        let bytes = if is_sealed { self.sealer.as_ref()?.open(resource, path, bytes)?.into() } else { Bytes::copy_from_slice(bytes) };
        // Protobuf is known by its envelope.
        let encoding = if bytes.starts_with(b"k8s\0") { Encoding::Protobuf } else { Encoding::Json };
        Some(Object { encoding, resource_version: revision, bytes })
    }
}

pub fn write_resource(out: &mut Vec<u8>, resource: &ResourceKey, revision: u64) {
    out.push(RESOURCE);
    write_resource_key(out, resource);
    write_number(out, revision);
}

fn write_resource_key(out: &mut Vec<u8>, resource: &ResourceKey) {
    write_bytes(out, resource.group.as_bytes());
    write_bytes(out, resource.resource.as_bytes());
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes the next record off the front of a body. `None` for one that cannot be read.
pub fn read<'a>(body: &mut &'a [u8]) -> Option<Record<'a>> {
    let kind = body.split_off_first()?;
    let resource = (read_text(body)?, read_text(body)?);
    Some(match *kind {
        PUT | PUT_SEALED => Record::Put {
            resource,
            path: read_text(body)?,
            revision: read_number(body)?,
            expires_ms: read_number(body)?,
            bytes: read_bytes(body)?,
            is_sealed: *kind == PUT_SEALED,
        },
        DELETE => Record::Delete { resource, path: read_text(body)? },
        RESOURCE => Record::Resource { resource, revision: read_number(body)? },
        _ => return None,
    })
}

fn read_text<'a>(body: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(read_bytes(body)?).ok()
}

fn read_bytes<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(read_number(body)?).ok()?;
    body.split_off(..len)
}

fn read_number(body: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *body.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let (key, records) = (ResourceKey::new("apps", "deployments"), Records::default());
        let object = records.object(&ResourceKey::new("", "pods"), "default/web", b"k8s\0x", false, 300).unwrap();
        let item = Arc::new(Item::new("default/web", object, None, 77));
        let mut out = Vec::new();
        write_resource(&mut out, &key, 299);
        records.write_change(&mut out, &key, &Change::new(ChangeKind::Modified, item.clone(), None)).unwrap();
        records.write_change(&mut out, &key, &Change::new(ChangeKind::Deleted, item, None)).unwrap();
        let (mut body, resource) = (out.as_slice(), ("apps", "deployments"));
        assert_eq!(read(&mut body), Some(Record::Resource { resource, revision: 299 }));
        let put = Record::Put { resource, path: "default/web", revision: 300, expires_ms: 77, bytes: b"k8s\0x", is_sealed: false };
        assert_eq!(read(&mut body), Some(put));
        assert_eq!(read(&mut body), Some(Record::Delete { resource, path: "default/web" }));
        assert_eq!(read(&mut body), None);
    }
}
