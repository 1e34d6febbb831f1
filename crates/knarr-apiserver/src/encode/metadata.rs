//! `PartialObjectMetadata`: the metadata of an object lifted out of its bytes.

use bytes::{Bytes, BytesMut};
use knarr_core::{Encoding, Object, Value, ValueExt, json};
use knarr_schema::codec;

use super::{json, proto};

/// The kind under which the codec knows the message; its protobuf and JSON are those of `v1`.
const KNOWN_AS: (&str, &str) = ("meta.k8s.io/v1beta1", "PartialObjectMetadata");
const KNOWN_HEAD: &[u8] = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1beta1","#;

/// The message `PartialObjectMetadata {1: metadata}` of an object.
pub fn raw(object: &Object) -> BytesMut {
    let mut out = BytesMut::new();
    match object.encoding {
        Encoding::Protobuf => proto::put_bytes(&mut out, 1, proto::field(proto::raw(&object.bytes), 1).unwrap_or_default()),
        Encoding::Json => {
            let encoded = codec::encode_protobuf(&tree(object)).unwrap_or_default();
            out.extend_from_slice(proto::raw(&encoded));
        }
    }
    out
}

fn tree(object: &Object) -> Value {
    let metadata = codec::to_value(object).ok().and_then(|mut v| v.remove(&["metadata"])).unwrap_or_else(|| json!({}));
    json!({"kind": KNOWN_AS.1, "apiVersion": KNOWN_AS.0, "metadata": metadata})
}

/// The object `PartialObjectMetadata` in protobuf.
pub fn protobuf(object: &Object, version: &str) -> Bytes {
    proto::envelope(&format!("meta.k8s.io/{version}"), KNOWN_AS.1, &raw(object)).freeze()
}

/// Appends `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{…}}`.
pub fn put_json(out: &mut Vec<u8>, object: &Object, version: &str) {
    let known = Object {
        encoding: Encoding::Protobuf,
        resource_version: object.resource_version,
        bytes: proto::envelope(KNOWN_AS.0, KNOWN_AS.1, &raw(object)).freeze(),
    };
    let mut written = Vec::with_capacity(known.bytes.len() * 2);
    codec::write_json(&known, &mut written);
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"#);
    json::put_string(out, &format!("meta.k8s.io/{version}"));
    out.push(b',');
    out.extend_from_slice(written.strip_prefix(KNOWN_HEAD).unwrap_or(b"}"));
}
