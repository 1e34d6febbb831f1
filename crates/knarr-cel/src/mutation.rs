//! The types that mutations make: `JSONPatch`, and `Object` with a type for each path in it
//! (upstream: `apiserver/pkg/cel/mutation`).

use crate::types::{self, Type};

const PATCH: &str = "JSONPatch";
const ROOT: &str = "Object";

pub fn has_type(name: &str) -> bool {
    name == PATCH || name == ROOT || name.strip_prefix(ROOT).is_some_and(|rest| rest.starts_with('.'))
}

/// The type of a field. In `Object` any field is there, and may be of any type.
pub fn field(type_name: &str, field: &str) -> Option<Type> {
    if type_name != PATCH {
        return Some(Type::Dyn);
    }
    match field {
        "op" | "path" | "from" => Some(Type::String),
        "value" => Some(Type::Dyn),
        _ => None,
    }
}

/// The type of the result of an `applyConfiguration`.
pub fn object() -> Type {
    types::object(ROOT)
}

/// The type of the result of a `jsonPatch`.
pub fn patches() -> Type {
    types::list(types::object(PATCH))
}
