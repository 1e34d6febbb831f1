//! The envelope of an object in protobuf: `k8s\0`, then `runtime.Unknown` with the kind, the object, and two empty texts.

use super::wire::{Back, Malformed, Reader, Wire, last_bytes};

pub(super) const MAGIC: &[u8] = b"k8s\0";

/// An object with its kind, as it stands in an envelope.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub message: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes.strip_prefix(MAGIC).ok_or(Malformed::Envelope)?);
        let mut envelope = Self { api_version: "", kind: "", message: &[] };
        while let Some((number, value)) = reader.next()? {
            match (number, value) {
                (1, Wire::Bytes(type_meta)) => {
                    envelope.api_version = text(last_bytes(type_meta, 1)?)?;
                    envelope.kind = text(last_bytes(type_meta, 2)?)?;
                }
                (2, Wire::Bytes(message)) => envelope.message = message,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// Group and version out of `apiVersion`.
    pub fn group_version(&self) -> (&'a str, &'a str) {
        group_version(self.api_version)
    }
}

/// Writes what surrounds a message that has been written to `back` since its length was `before`.
pub(super) fn close(back: &mut Back, before: usize, api_version: &str, kind: &str) {
    back.close(2, before);
    let before = back.len();
    back.bytes(2, kind.as_bytes());
    back.bytes(1, api_version.as_bytes());
    back.close(1, before);
    back.raw(MAGIC);
}

/// What follows the object: contentEncoding and contentType, written though empty.
pub(super) const TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

pub(super) fn group_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Envelope)
}
