//! JSON and protobuf, either way, guided by the type table; and what can be read out of bytes without decoding them.
//!
//! Rules of both encodings, each met and proved: `schema-tools/README.md`.

use bytes::Bytes;
use knarr_core::{GroupVersionKind, Object, Result, Value};
use serde::de::DeserializeOwned;

use crate::registry::Resource;

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

/// Decodes a JSON body of a known kind: field names matched as Go does, types checked, unknown fields dropped (and told
/// under `Warn`, refused under `Strict`), values brought to their canonical form (quantities, times, int-or-string).
///
/// # Errors
/// `BadRequest` in upstream's words.
pub fn decode_json(_resource: &Resource, _body: &[u8], _validation: FieldValidation) -> Result<Decoded> {
    todo!()
}

/// Decodes a body in protobuf, envelope included. Gives its kind and the tree.
pub fn decode_protobuf(_body: &[u8]) -> Result<(GroupVersionKind, Value)> {
    todo!()
}

/// Encodes a tree of a built-in kind (`apiVersion` and `kind` in it say which) with envelope.
pub fn encode_protobuf(_value: &Value) -> Result<Vec<u8>> {
    todo!()
}

/// Writes a tree as Go writes it: table order for built-in kinds, values that Go always writes, `<>&` escaped.
pub fn encode_json(_value: &Value) -> Vec<u8> {
    todo!()
}

/// Appends the JSON of an object at rest. From protobuf this is one pass without a tree.
pub fn write_json(_object: &Object, _out: &mut Vec<u8>) {
    todo!()
}

/// The object at rest as a tree.
pub fn to_value(_object: &Object) -> Result<Value> {
    todo!()
}

/// The object at rest as a typed struct, straight from its bytes (a serde `Deserializer` over protobuf).
pub fn to_typed<T: DeserializeOwned>(_object: &Object) -> Result<T> {
    todo!()
}

/// Encodes a tree for storing: protobuf for built-in kinds (converted to the storage version by the caller), JSON for
/// custom resources; `metadata.resourceVersion` empty.
pub fn encode_stored(_resource: &Resource, _value: &Value) -> Result<Bytes> {
    todo!()
}

/// Makes an object at rest of stored bytes by writing the resource version into them.
pub fn with_resource_version(_stored: &[u8], _resource_version: u64) -> Object {
    todo!()
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
pub fn meta(_object: &Object) -> MetaView<'_> {
    todo!()
}

/// Reads one scalar along a path of field names (`["spec", "nodeName"]`) without decoding the rest. Empty when absent.
pub fn scalar(_object: &Object, _path: &[&str]) -> String {
    todo!()
}

/// `kind` and `apiVersion` of an object at rest.
pub fn kind_of(_object: &Object) -> GroupVersionKind {
    todo!()
}
