//! What callers need of an object at rest: a typed struct, a tree, its key. Nothing decoded is kept.

use std::fmt;
use std::sync::Arc;

use knarr_core::{Encoding, Object, Result, Value};
use knarr_schema::codec;
use serde::Deserialize;

use crate::typed::Typed;

/// The object as a typed struct. A struct that declares only some fields reads only those.
///
/// # Errors
/// `InternalError` when the bytes are not of that type.
pub fn typed<T: Typed>(object: &Object) -> Result<T> {
    T::from_object(object)
}

/// The object as a tree.
///
/// # Errors
/// `InternalError` when the bytes are damaged.
pub fn value(object: &Object) -> Result<Value> {
    codec::to_value(object)
}

/// Where an object lives: `namespace/name`, or `name` for cluster-scoped ones. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of `name` in `namespace` (empty: cluster-scoped).
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}").into() })
    }

    /// Reads `namespace/name` or `name`.
    pub fn parse(text: &str) -> Self {
        Self(text.into())
    }

    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The object's key.
pub fn key(object: &Object) -> Key {
    match object.encoding {
        Encoding::Json => {
            let m = json_meta(object);
            Key::new(&m.namespace, &m.name)
        }
        Encoding::Protobuf => {
            let m = codec::meta(object);
            Key::new(m.namespace, m.name)
        }
    }
}

/// The object's `metadata.uid`.
pub fn uid(object: &Object) -> String {
    match object.encoding {
        Encoding::Json => json_meta(object).uid,
        Encoding::Protobuf => codec::meta(object).uid.to_owned(),
    }
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

/// The parts of `metadata` that controllers ask for, owned: a small projection that any informer can keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub deletion_timestamp: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub finalizers: Vec<String>,
    pub owner_references: Vec<Owner>,
}

impl Meta {
    /// The owner that manages this object, if there is one.
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|o| o.controller)
    }

    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

#[derive(Deserialize)]
struct OnlyMeta {
    #[serde(default)]
    metadata: Meta,
}

crate::partial!(OnlyMeta);

/// Reads [`Meta`] and skips the rest.
///
/// # Errors
/// As [`typed`].
pub fn meta(object: &Object) -> Result<Meta> {
    typed::<OnlyMeta>(object).map(|o| o.metadata)
}

fn json_meta(object: &Object) -> Meta {
    meta(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_namespace_and_name_apart() {
        let key = Key::new("kube-system", "dns");
        assert_eq!((key.namespace(), key.name(), key.as_str()), ("kube-system", "dns", "kube-system/dns"));
        let key = Key::new("", "node-1");
        assert_eq!((key.namespace(), key.name()), ("", "node-1"));
    }
}
