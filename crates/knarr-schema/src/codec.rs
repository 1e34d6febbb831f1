//! JSON, protobuf and CBOR, either way, guided by the type table; and what can be read out of bytes without decoding them.
//!
//! Rules of both encodings, each met and proved: `schema-tools/README.md`.

mod body;
mod canonical;
mod cbor;
mod decode;
mod defaults;
mod envelope;
mod from_tree;
mod read;
mod scalar;
pub(crate) mod skim;
mod slots;
mod splice;
mod text;
mod to_json;
mod tree_json;
mod typed;
mod view;
pub(crate) mod wire;

use std::sync::LazyLock;

use bytes::Bytes;
use knarr_core::deep::DEPTH_MAX;
use knarr_core::{Encoding, GroupVersionKind, Map, Object, Result, Status, Value, ValueExt as _, go};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::cbor::{cbor_length, decode_cbor, encode_cbor, encode_cbor_event};
use self::envelope::Envelope;
use self::wire::Back;
use crate::registry::Resource;
use crate::types::{self, Type, TypeId};

/// How deep trees at rest may be nested: the path of a field in `managedFields` is as long as the object is deep, and stands a few
/// levels below its root. What was taken is also read again.
const DEPTH_MAX_AT_REST: usize = DEPTH_MAX + 16;

/// The one type that is part of itself.
fn schema_props() -> &'static Type {
    static PROPS: LazyLock<&Type> = LazyLock::new(|| {
        let id = types::by_name("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        types::get(id.expect("the table has JSON schemas"))
    });
    &PROPS
}

fn object_meta() -> &'static Type {
    static META: LazyLock<&Type> = LazyLock::new(|| types::get(types::by_name("apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("the table has ObjectMeta")));
    &META
}

/// The type of a tree by its `apiVersion` and `kind`.
fn type_of(value: &Value) -> Option<&'static Type> {
    let (group, version) = envelope::group_version(value.str_at(&["apiVersion"]).unwrap_or_default());
    types::of_kind(group, version, value.str_at(&["kind"])?).map(types::get)
}

/// `fieldValidation` of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// A decoded body and the warnings about unknown or duplicate fields (in the words of upstream's strict decoder).
#[derive(Debug)]
pub struct Decoded {
    pub value: Value,
    pub warnings: Vec<String>,
}

/// Decodes a JSON body of a resource's kind: field names matched as Go does, types checked, unknown fields dropped (and told
/// under `Warn`, refused under `Strict`), values brought to their canonical form (quantities, times, int-or-string).
///
/// The tree is what Go would write again: without what it leaves out, with what it always writes, `kind` and `apiVersion`
/// set. Of a custom resource the body is taken as it is; only duplicate fields are told.
///
/// # Errors
/// `BadRequest` in upstream's words.
pub fn decode_json(resource: &Resource, body: &[u8], validation: FieldValidation) -> Result<Decoded> {
    body::decode(body::Wanted { kind: &resource.gvk(), custom: resource.custom.is_some() }, body, validation)
}

/// Decodes a JSON body of any built-in kind: what a subresource takes (`autoscaling/v1` Scale, `policy/v1` Eviction).
///
/// # Errors
/// As [`decode_json`].
pub fn decode_json_kind(kind: &GroupVersionKind, body: &[u8], validation: FieldValidation) -> Result<Decoded> {
    body::decode(body::Wanted { kind, custom: false }, body, validation)
}

/// Decodes options that come as a body. Every group has them by that name, and clients send those of the group that they write to.
/// Fields that are not known are passed over.
///
/// # Errors
/// `BadRequest`: unlike with objects, no word of what the options were to be.
pub fn decode_options(kind: &GroupVersionKind, body: &[u8]) -> Result<Value> {
    body::options(kind, body)
}

/// What is said of a body whose kind cannot be told; its beginning is shown.
pub fn unrecognized(kind: &str, why: &str, body: &[u8]) -> Status {
    body::unrecognized(kind, why, body)
}

/// What is said of an object that claims to be of a kind and version, and cannot be read as the kind that is wanted.
pub fn not_handled(kind: &str, version: &str, wanted: &str, why: &str) -> Status {
    body::not_handled(kind, version, wanted, why)
}

/// Brings a tree of a resource's kind into the form that [`decode_json`] gives, as upstream does with what a patch made.
///
/// # Errors
/// As [`decode_json`].
pub fn decode_value(resource: &Resource, value: &Value, validation: FieldValidation) -> Result<Decoded> {
    let mut json = Vec::with_capacity(1024);
    tree_json::plain(&mut json, value, false);
    decode_json(resource, &json, validation)
}

/// Reads one value of a known type that is part of something else (the `metadata` of a custom resource): the tree as
/// [`decode_json`] gives it, and what a strict decoder says of it, with paths from that value on.
///
/// # Errors
/// The text of upstream's decoder.
pub fn conform(type_id: TypeId, value: &Value) -> std::result::Result<Decoded, String> {
    let mut json = Vec::with_capacity(1024);
    tree_json::plain(&mut json, value, false);
    match decode::typed(&String::from_utf8_lossy(&json), types::get(type_id), true) {
        Ok(read) => Ok(Decoded { value: read.tree, warnings: read.strict_errors }),
        Err(decode::Stop::Syntax(why) | decode::Stop::Value(why)) => Err(why),
    }
}

/// Reads JSON as upstream reads it into a map: integers stay integers, other numbers are floats, syntax errors in Go's words.
///
/// # Errors
/// The text of Go's decoder.
pub fn parse_json(body: &[u8]) -> std::result::Result<Value, String> {
    parsed(body, false).map(|read| read.value)
}

/// The same, with what a strict decoder says of keys that come twice.
///
/// # Errors
/// As [`parse_json`].
pub fn parse_json_strict(body: &[u8]) -> std::result::Result<Decoded, String> {
    parsed(body, true)
}

fn parsed(body: &[u8], strict: bool) -> std::result::Result<Decoded, String> {
    match decode::untyped(&go::utf8(body), strict, DEPTH_MAX) {
        Ok(read) => Ok(Decoded { value: read.tree, warnings: read.strict_errors }),
        Err(decode::Stop::Syntax(why) | decode::Stop::Value(why)) => Err(why),
    }
}

/// Reads JSON that we have written, to rest or to be sent: with `managedFields` it may be a little deeper than what clients may send.
///
/// # Errors
/// As [`parse_json`].
pub fn parse_at_rest(json: &[u8]) -> std::result::Result<Value, String> {
    match decode::untyped(&go::utf8(json), false, DEPTH_MAX_AT_REST) {
        Ok(read) => Ok(read.tree),
        Err(decode::Stop::Syntax(why) | decode::Stop::Value(why)) => Err(why),
    }
}

/// Whether the whole text is JSON (Go's `json.Valid`).
pub fn is_json(body: &[u8]) -> bool {
    read::validate(&String::from_utf8_lossy(body)).is_ok()
}

/// Fills in the defaults that the table declares: those that are not zero, or zero on a pointer. Goes into structs that
/// are there, adds none.
pub fn apply_declared_defaults(type_id: TypeId, value: &mut Value) {
    defaults::apply(types::get(type_id), value);
}

/// Decodes a protobuf body of a built-in kind, which its envelope may leave out; fields that are not known are dropped.
/// What upstream reads as it decodes is brought into its canonical form: quantities.
///
/// # Errors
/// `BadRequest` for bytes that cannot be read and for another kind, in upstream's words.
pub fn decode_protobuf_kind(kind: &GroupVersionKind, body: &[u8]) -> Result<Value> {
    body::protobuf(kind, body)
}

/// [`decode_options`] of a protobuf body.
///
/// # Errors
/// As there.
pub fn decode_protobuf_options(kind: &GroupVersionKind, body: &[u8]) -> Result<Value> {
    body::protobuf_options(kind, body)
}

/// The same of whatever kind the envelope says it holds. Gives the kind and the tree.
///
/// # Errors
/// As [`decode_protobuf_kind`].
pub fn decode_protobuf(body: &[u8]) -> Result<(GroupVersionKind, Value)> {
    let kind = body::protobuf_kind(body);
    let value = body::protobuf(&kind, body)?;
    Ok((kind, value))
}

/// Encodes a tree of a built-in kind (`apiVersion` and `kind` in it say which) with envelope.
///
/// # Errors
/// `InternalError` when the kind is not known or a value does not fit its field: a tree that was decoded by this module
/// and changed by correct code always fits.
pub fn encode_protobuf(value: &Value) -> Result<Vec<u8>> {
    enclosed(value, value.str_at(&["apiVersion"]).unwrap_or_default())
}

/// The same with an envelope that names no version, as discovery of the core group is written
/// (upstream: `stripVersionEncoder`).
///
/// # Errors
/// As [`encode_protobuf`].
pub fn encode_protobuf_unversioned(value: &Value) -> Result<Vec<u8>> {
    enclosed(value, "")
}

fn enclosed(value: &Value, api_version: &str) -> Result<Vec<u8>> {
    let map = value.as_object().ok_or_else(|| Status::internal("cannot encode what is no object"))?;
    let kind = value.str_at(&["kind"]).unwrap_or_default();
    let t = type_of(value).ok_or_else(|| Status::internal(format!("cannot encode {api_version}, Kind={kind} as protobuf")))?;
    let mut back = Back::with_capacity(1024);
    back.raw(envelope::TAIL);
    let tail = back.len();
    from_tree::message(&mut back, t, map).map_err(Status::internal)?;
    envelope::close(&mut back, tail, api_version, kind);
    Ok(back.into_vec())
}

/// Writes a tree as Go writes it: table order for built-in kinds, values that Go always writes, `<>&` escaped.
pub fn encode_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    match (type_of(value), value) {
        (Some(t), Value::Object(map)) => tree_json::object(&mut out, t, map),
        _ => tree_json::plain(&mut out, value, true),
    }
    out
}

/// Writes a tree with sorted keys, whatever it is.
pub(crate) fn encode_untyped(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    tree_json::plain(&mut out, value, true);
    out
}

/// Appends a value of this type as Go writes it.
pub fn write_json_of_type(out: &mut Vec<u8>, type_id: TypeId, value: &Value) {
    match value {
        Value::Object(map) => tree_json::object(out, crate::types::get(type_id), map),
        other => tree_json::plain(out, other, true),
    }
}

/// Appends the JSON of an object at rest. From protobuf this is one pass without a tree.
pub fn write_json(object: &Object, out: &mut Vec<u8>) {
    write(object, out, true);
}

/// Appends the JSON of an object at rest as an item of a list: built-in kinds show no `kind` and `apiVersion` there.
pub fn write_json_item(object: &Object, out: &mut Vec<u8>) {
    write(object, out, false);
}

fn write(object: &Object, out: &mut Vec<u8>, type_meta: bool) {
    let start = out.len();
    let written = match object.encoding {
        Encoding::Protobuf => to_json::Writer::new(out).object(&object.bytes, type_meta),
        Encoding::Json => {
            out.extend_from_slice(&object.bytes);
            Ok(())
        }
    };
    if let Err(error) = written {
        // Objects at rest were encoded by us; what cannot be read back has been damaged.
        tracing::error!(%error, resource_version = object.resource_version, "an object at rest cannot be decoded");
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// The protobuf message of an object at rest without its envelope: an item of a list in protobuf. Empty for JSON.
pub fn protobuf_message(object: &Object) -> &[u8] {
    match object.encoding {
        Encoding::Protobuf => Envelope::open(&object.bytes).map_or(&[], |e| e.message),
        Encoding::Json => &[],
    }
}

/// The protobuf message of an object's `metadata`, which is also all there is in a `PartialObjectMetadata` (its field 1).
/// Empty for JSON.
pub fn metadata_message(object: &Object) -> &[u8] {
    wire::last_bytes(protobuf_message(object), view::METADATA).unwrap_or_default()
}

/// Appends the JSON of an object's `metadata` alone, in Go's order for both encodings.
pub fn write_metadata_json(object: &Object, out: &mut Vec<u8>) {
    let meta = object_meta();
    let start = out.len();
    let written = match object.encoding {
        Encoding::Protobuf => to_json::Writer::new(out).message(meta, metadata_message(object), None).is_ok(),
        Encoding::Json => match to_value(object) {
            Ok(tree) => {
                tree_json::object(out, meta, tree.at(&["metadata"]).and_then(Value::as_object).unwrap_or(&Map::new()));
                true
            }
            Err(_) => false,
        },
    };
    if !written {
        tracing::error!(resource_version = object.resource_version, "the metadata of an object at rest cannot be decoded");
        out.truncate(start);
        out.extend_from_slice(b"{}");
    }
}

/// The object at rest as a tree.
///
/// # Errors
/// `InternalError` for bytes that cannot be read.
pub fn to_value(object: &Object) -> Result<Value> {
    match object.encoding {
        Encoding::Json => parse_at_rest(&object.bytes).map_err(unreadable),
        Encoding::Protobuf => read(object, typed::Node::object),
    }
}

fn unreadable(why: impl std::fmt::Display) -> Status {
    Status::internal(format!("cannot read an object at rest: {why}"))
}

/// The object at rest as a typed struct, straight from its bytes (a serde `Deserializer` over protobuf). A time beyond those of the struct
/// is the nearest of them.
///
/// # Errors
/// `InternalError` for bytes that cannot be read or do not fit the struct.
pub fn to_typed<T: DeserializeOwned>(object: &Object) -> Result<T> {
    match object.encoding {
        Encoding::Json => T::deserialize(parse_at_rest(&object.bytes).map(typed::Node::tree).map_err(unreadable)?).map_err(unreadable),
        Encoding::Protobuf => read(object, typed::Node::for_struct),
    }
}

/// Reads protobuf at rest as one of the two shows it.
fn read<'a, T: Deserialize<'a>>(object: &'a Object, show: fn(&Envelope<'a>) -> std::result::Result<typed::Node<'a>, wire::Malformed>) -> Result<T> {
    T::deserialize(Envelope::open(&object.bytes).and_then(|envelope| show(&envelope)).map_err(unreadable)?).map_err(unreadable)
}

/// A tree as a typed struct.
///
/// # Errors
/// `InternalError` for a tree that does not fit the struct.
pub fn tree_to_typed<T: DeserializeOwned>(tree: Value) -> Result<T> {
    T::deserialize(typed::Node::tree(tree)).map_err(Status::internal)
}

/// Encodes a tree for storing: protobuf for built-in kinds (converted to the storage version by the caller), JSON for
/// custom resources; `metadata.resourceVersion` empty.
///
/// # Errors
/// As [`encode_protobuf`].
pub fn encode_stored(resource: &Resource, value: &Value) -> Result<Bytes> {
    let versioned = value.str_at(&["metadata", "resourceVersion"]).is_some_and(|v| !v.is_empty());
    if resource.custom.is_some() {
        let mut json = Vec::with_capacity(1024);
        tree_json::plain(&mut json, value, true);
        return Ok(if versioned { splice::json(&json, "") } else { json }.into());
    }
    let encoded = encode_protobuf(value)?;
    Ok(if versioned { splice::protobuf(&encoded, "").map_err(Status::internal)? } else { encoded }.into())
}

/// Makes an object at rest of stored bytes by writing the resource version into them.
pub fn with_resource_version(stored: &[u8], resource_version: u64) -> Object {
    Object { resource_version, ..with_version_text(stored, &resource_version.to_string()) }
}

/// The same with whatever a client wrote there (a dry run keeps it); not a version of the store.
pub fn with_version_text(stored: &[u8], version: &str) -> Object {
    if stored.starts_with(envelope::MAGIC) {
        // An object without metadata has no version to carry.
        let bytes = splice::protobuf(stored, version).unwrap_or_else(|_| stored.to_vec());
        return Object { encoding: Encoding::Protobuf, resource_version: 0, bytes: bytes.into() };
    }
    Object { encoding: Encoding::Json, resource_version: 0, bytes: splice::json(stored, version).into() }
}

/// The parts of `metadata` that selectors, watches and controllers ask for again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaView<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub uid: &'a str,
    pub generation: i64,
    pub deleting: bool,
    pub labels: Vec<(&'a str, &'a str)>,
    pub finalizers: Vec<&'a str>,
    /// `(uid, controller)` of each owner.
    pub owners: Vec<(&'a str, bool)>,
}

/// Reads `metadata` in one pass without allocating strings (protobuf), or by a partial parse (JSON: escapes in labels do
/// not occur, since label syntax forbids them).
pub fn meta(object: &Object) -> MetaView<'_> {
    view::meta(object)
}

/// Reads one scalar along a path of field names (`["spec", "nodeName"]`) without decoding the rest. Empty when absent.
pub fn scalar(object: &Object, path: &[&str]) -> String {
    view::scalar(object, path)
}

/// `kind` and `apiVersion` of an object at rest.
pub fn kind_of(object: &Object) -> GroupVersionKind {
    view::kind_of(object)
}

#[cfg(test)]
mod decode_tests;
#[cfg(test)]
mod tests;
