//! Writes a resource version into the bytes of an object without decoding it.

use super::envelope::MAGIC;
use super::skim;
use super::wire::{Malformed, Reader, varint};

/// Number of `resourceVersion` in `ObjectMeta`.
const RESOURCE_VERSION: u32 = 6;

/// An object in protobuf with another resource version.
pub(super) fn protobuf(bytes: &[u8], version: &str) -> Result<Vec<u8>, Malformed> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Malformed::Envelope)?;
    let (object_tag, object) = locate(body, 2)?;
    let (meta_tag, meta) = locate(&body[object.0..object.1], 1)?;
    let meta = (object.0 + meta.0, object.0 + meta.1);
    let meta_tag = object.0 + meta_tag;
    let (old_start, old_end) = version_span(&body[meta.0..meta.1])?;

    let (length, length_size) = varint(version.len() as u64);
    let field_size = 1 + length_size + version.len();
    let (meta_length, meta_length_size) = varint((meta.1 - meta.0 - (old_end - old_start) + field_size) as u64);
    let meta_size = 1 + meta_length_size + (meta.1 - meta.0 - (old_end - old_start)) + field_size;
    let (object_length, object_length_size) = varint((object.1 - object.0 - (meta.1 - meta_tag) + meta_size) as u64);

    let mut out = Vec::with_capacity(bytes.len() + field_size + 8);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&body[..object_tag]);
    out.push(2 << 3 | 2);
    out.extend_from_slice(&object_length[..object_length_size]);
    out.extend_from_slice(&body[object.0..meta_tag]);
    out.push(1 << 3 | 2);
    out.extend_from_slice(&meta_length[..meta_length_size]);
    out.extend_from_slice(&body[meta.0..meta.0 + old_start]);
    out.push((RESOURCE_VERSION << 3 | 2) as u8);
    out.extend_from_slice(&length[..length_size]);
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(&body[meta.0 + old_end..]);
    Ok(out)
}

/// Where the tag of the first field with this number is, and where its bytes start and end.
fn locate(message: &[u8], wanted: u32) -> Result<(usize, (usize, usize)), Malformed> {
    let mut reader = Reader::new(message);
    loop {
        let tag = reader.at;
        let (number, wire) = reader.next()?.ok_or(Malformed::Truncated)?;
        if number == wanted {
            return Ok((tag, (reader.at - wire.bytes()?.len(), reader.at)));
        }
    }
}

/// The span of the resource version in `ObjectMeta`, or the empty span where it belongs.
fn version_span(meta: &[u8]) -> Result<(usize, usize), Malformed> {
    let mut reader = Reader::new(meta);
    loop {
        let start = reader.at;
        match reader.next()? {
            Some((RESOURCE_VERSION, _)) => return Ok((start, reader.at)),
            Some((number, _)) if number < RESOURCE_VERSION => {}
            _ => return Ok((start, start)),
        }
    }
}

/// An object in JSON with another resource version; without one when it is empty. Keys of `metadata` stay sorted.
pub(super) fn json(bytes: &[u8], version: &str) -> Vec<u8> {
    let Some(metadata) = skim::member(bytes, 0, "metadata").filter(|m| bytes[m.value_start] == b'{') else { return bytes.to_vec() };
    let (mut start, mut end, mut first) = (metadata.value_end - 1, metadata.value_end - 1, true);
    for m in skim::members(bytes, metadata.value_start) {
        if m.key >= &b"resourceVersion"[..] {
            start = m.start;
            end = if m.key == b"resourceVersion" { m.value_end } else { m.start };
            break;
        }
        first = false;
    }
    let mut out = Vec::with_capacity(bytes.len() + version.len() + 24);
    out.extend_from_slice(&bytes[..start]);
    if version.is_empty() {
        remove(&mut out, bytes, end, start != end);
        return out;
    }
    let after_comma = out.last() == Some(&b',') || first;
    if !after_comma {
        out.push(b',');
    }
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(version.as_bytes());
    out.push(b'"');
    if bytes[end] == b'"' {
        out.push(b',');
    }
    out.extend_from_slice(&bytes[end..]);
    out
}

/// Takes the comma on one side of what was removed away too.
fn remove(out: &mut Vec<u8>, bytes: &[u8], end: usize, removed: bool) {
    let mut end = end;
    if removed && bytes[end] == b',' {
        end += 1;
    } else if removed && out.last() == Some(&b',') {
        out.pop();
    }
    out.extend_from_slice(&bytes[end..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gets_its_version_at_the_sorted_place() {
        for (given, wanted) in [
            (r#"{"kind":"A","metadata":{"name":"n","uid":"u"}}"#, r#"{"kind":"A","metadata":{"name":"n","resourceVersion":"7","uid":"u"}}"#),
            (r#"{"metadata":{"name":"n"},"x":1}"#, r#"{"metadata":{"name":"n","resourceVersion":"7"},"x":1}"#),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (r#"{"metadata":{"uid":"u"}}"#, r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#),
        ] {
            let spliced = json(given.as_bytes(), "7");
            assert_eq!(String::from_utf8_lossy(&spliced), wanted);
            assert_eq!(String::from_utf8_lossy(&json(&spliced, "7")), wanted);
            assert_eq!(String::from_utf8_lossy(&json(&spliced, "")), given);
            assert_eq!(String::from_utf8_lossy(&json(given.as_bytes(), "")), given);
        }
    }
}
