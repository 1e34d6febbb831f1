//! What one write or one stored object looks like inside a frame.

use bytes::Bytes;
use knarr_core::{Encoding, Object};

use crate::history::{Change, ChangeKind};
use crate::item::Item;
use crate::key::ResourceKey;

/// One record. In log files the n-th record of a frame has the frame's revision plus n; in snapshots each tells its own.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    Put {
        resource: (&'a str, &'a str),
        path: &'a str,
        revision: u64,
        expires_ms: u64,
        bytes: &'a [u8],
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

const PUT: u8 = 1;
const DELETE: u8 = 2;
const RESOURCE: u8 = 3;

pub fn write_change(out: &mut Vec<u8>, resource: &ResourceKey, change: &Change) {
    match change.kind {
        ChangeKind::Added | ChangeKind::Modified => write_item(out, resource, &change.item),
        ChangeKind::Deleted => {
            out.push(DELETE);
            write_resource_key(out, resource);
            write_bytes(out, change.item.path().as_bytes());
        }
    }
}

pub fn write_item(out: &mut Vec<u8>, resource: &ResourceKey, item: &Item) {
    out.push(PUT);
    write_resource_key(out, resource);
    write_bytes(out, item.path().as_bytes());
    write_number(out, item.revision());
    write_number(out, item.expires_ms().unwrap_or(0));
    write_bytes(out, &item.object.bytes);
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
        PUT => Record::Put { resource, path: read_text(body)?, revision: read_number(body)?, expires_ms: read_number(body)?, bytes: read_bytes(body)? },
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

/// An object as it was written. Protobuf is known by its envelope.
pub fn object(bytes: &[u8], revision: u64) -> Object {
    let encoding = if bytes.starts_with(b"k8s\0") { Encoding::Protobuf } else { Encoding::Json };
    Object { encoding, resource_version: revision, bytes: Bytes::copy_from_slice(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn records_are_read_as_they_were_written() {
        let key = ResourceKey::new("apps", "deployments");
        let item = Arc::new(Item::new("default/web", object(b"k8s\0x", 300), None, 77));
        let mut out = Vec::new();
        write_resource(&mut out, &key, 299);
        write_change(&mut out, &key, &Change::new(ChangeKind::Modified, item.clone(), None));
        write_change(&mut out, &key, &Change::new(ChangeKind::Deleted, item, None));
        let (mut body, resource) = (out.as_slice(), ("apps", "deployments"));
        assert_eq!(read(&mut body), Some(Record::Resource { resource, revision: 299 }));
        assert_eq!(read(&mut body), Some(Record::Put { resource, path: "default/web", revision: 300, expires_ms: 77, bytes: b"k8s\0x" }));
        assert_eq!(read(&mut body), Some(Record::Delete { resource, path: "default/web" }));
        assert_eq!(read(&mut body), None);
    }
}
