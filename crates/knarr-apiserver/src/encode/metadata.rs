//! `PartialObjectMetadata`: the metadata of an object lifted out of its bytes.

use bytes::{Bytes, BytesMut};
use knarr_core::{Encoding, Object, Value, ValueExt, json};
use knarr_schema::codec;

use super::proto;

const KIND: &str = "PartialObjectMetadata";

/// The message `PartialObjectMetadata {1: metadata}` of an object.
pub fn raw(object: &Object) -> BytesMut {
    let mut out = BytesMut::new();
    match object.encoding {
        Encoding::Protobuf => proto::put_bytes(&mut out, 1, codec::metadata_message(object)),
        Encoding::Json => out.extend_from_slice(proto::raw(&codec::encode_protobuf(&tree(object)).unwrap_or_default())),
    }
    out
}

/// A custom resource's metadata under the version of the kind that the codec knows.
fn tree(object: &Object) -> Value {
    let metadata = codec::to_value(object).ok().and_then(|mut v| v.remove(&["metadata"])).unwrap_or_else(|| json!({}));
    json!({"kind": KIND, "apiVersion": "meta.k8s.io/v1beta1", "metadata": metadata})
}

/// The object `PartialObjectMetadata` in protobuf.
pub fn protobuf(object: &Object, version: &str) -> Bytes {
    proto::envelope(&format!("meta.k8s.io/{version}"), KIND, &raw(object)).freeze()
}

/// Appends `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{…}}`.
pub fn put_json(out: &mut Vec<u8>, object: &Object, version: &str) {
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/"#);
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(br#"","metadata":"#);
    codec::write_metadata_json(object, out);
    out.push(b'}');
}
