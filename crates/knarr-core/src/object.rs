//! An object at rest: encoded bytes and the version they belong to. Stored, cached and sent as they are; whoever needs
//! something of an object reads it out (`knarr_schema::codec`) and keeps no decoded copy.

use bytes::Bytes;

/// How an object's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Kubernetes' protobuf with its envelope (`k8s\0` and `runtime.Unknown`): built-in kinds.
    Protobuf,
    /// Compact JSON: custom resources.
    Json,
}

/// The bytes of one object at one resource version. The bytes carry that version in `metadata.resourceVersion`.
#[derive(Clone, Debug)]
pub struct Object {
    pub encoding: Encoding,
    pub resource_version: u64,
    pub bytes: Bytes,
}
