//! OpenAPI documents, made from the registry and the type table.

use knarr_core::Value;

use crate::registry::Registry;

/// `/openapi/v2`.
pub fn v2(_registry: &Registry) -> Value {
    todo!()
}

/// The paths of `/openapi/v3`: `api/v1`, `apis/apps/v1`, ….
pub fn v3_paths(_registry: &Registry) -> Vec<String> {
    todo!()
}

/// One document of `/openapi/v3`; absent when the path is none of [`v3_paths`].
pub fn v3(_registry: &Registry, _path: &str) -> Option<Value> {
    todo!()
}
