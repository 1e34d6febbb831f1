//! OpenAPI documents, made from the registry and the type table.
//!
//! A document is made in three steps: [`paths`] lists the operations of each resource without regard to a dialect,
//! [`schema`] gives the definition of a type, [`document`] puts both into OpenAPI 2 or 3. Making one takes milliseconds and
//! megabytes: a server keeps the bytes, not the tree, and makes them when a client asks.

mod custom;
mod descriptions;
mod document;
mod gnostic;
mod paths;
mod schema;

use knarr_core::Value;

use crate::registry::Registry;

/// The two OpenAPI dialects that Kubernetes publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// `/openapi/v2`.
pub fn v2(registry: &Registry) -> Value {
    document::v2(registry)
}

/// `/openapi/v2` as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`, which client-go asks for
/// (`openapi.v2.Document` of gnostic).
pub fn v2_protobuf(registry: &Registry) -> Vec<u8> {
    gnostic::document(&document::v2(registry))
}

/// The paths of `/openapi/v3`: `api/v1`, `apis/apps/v1`, ….
pub fn v3_paths(registry: &Registry) -> Vec<String> {
    document::v3_paths(registry)
}

/// One document of `/openapi/v3`; absent when the path is none of [`v3_paths`].
pub fn v3(registry: &Registry, path: &str) -> Option<Value> {
    document::v3(registry, path)
}

#[cfg(test)]
mod tests;
