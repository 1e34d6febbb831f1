//! The few moves on protobuf bytes that need no type: open and close the envelope, lift one message out of another.
//!
//! An object is `k8s\0` and `runtime.Unknown {1: {1: apiVersion, 2: kind}, 2: raw, 3: "", 4: ""}`.

use bytes::{BufMut, BytesMut};

const MAGIC: &[u8] = b"k8s\0";
const LENGTH_DELIMITED: u8 = 2;

/// Appends a varint.
pub fn put_varint(out: &mut impl BufMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

/// How many bytes a varint takes.
pub fn varint_len(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a field of bytes, strings or messages. `number` must be below 16.
pub fn put_bytes(out: &mut impl BufMut, number: u8, bytes: &[u8]) {
    put_head(out, number, bytes.len());
    out.put_slice(bytes);
}

/// Appends tag and length of a field whose bytes follow.
pub fn put_head(out: &mut impl BufMut, number: u8, length: usize) {
    out.put_u8(number << 3 | LENGTH_DELIMITED);
    put_varint(out, length as u64);
}

/// What a field of this length takes.
pub fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// The first field of this number, which must be length-delimited.
pub fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        if tag >> 3 == number {
            return Some(value);
        }
        message = rest;
    }
    None
}

/// The message inside an envelope.
pub fn raw(object: &[u8]) -> &[u8] {
    object.strip_prefix(MAGIC).and_then(|unknown| field(unknown, 2)).unwrap_or_default()
}

/// An envelope whose message has `raw_len` bytes: what comes before them. [`ENVELOPE_TAIL`] comes after.
pub fn envelope_head(api_version: &str, kind: &str, raw_len: usize, out: &mut BytesMut) {
    out.put_slice(MAGIC);
    put_head(out, 1, field_len(api_version.len()) + field_len(kind.len()));
    put_bytes(out, 1, api_version.as_bytes());
    put_bytes(out, 2, kind.as_bytes());
    put_head(out, 2, raw_len);
}

/// Empty contentEncoding and contentType.
pub const ENVELOPE_TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// A whole object of a message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(raw.len() + api_version.len() + kind.len() + 32);
    envelope_head(api_version, kind, raw.len(), &mut out);
    out.put_slice(raw);
    out.put_slice(ENVELOPE_TAIL);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_gives_back_what_was_put_in() {
        let mut message = BytesMut::new();
        put_bytes(&mut message, 1, b"meta");
        put_bytes(&mut message, 2, &[7; 300]);
        let object = envelope("v1", "Pod", &message);
        assert_eq!(raw(&object), &message[..]);
        assert_eq!(field(raw(&object), 1), Some(&b"meta"[..]));
        assert_eq!(field(raw(&object), 2).map(<[u8]>::len), Some(300));
        assert_eq!(field(raw(&object), 3), None);
        assert_eq!(raw(b"junk"), b"");
        for n in [0, 1, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, n);
            assert_eq!(out.len(), varint_len(n), "{n}");
        }
    }
}
