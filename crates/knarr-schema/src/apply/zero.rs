//! The object that a new one is compared with: Go's zero value of its type, in which structs are there though empty.

use std::collections::HashMap;
use std::sync::{LazyLock, RwLock};

use knarr_core::{Value, json};

use crate::codec;
use crate::registry::Resource;
use crate::types::TypeId;

/// The zero object of a resource.
pub fn object(resource: &Resource) -> ZeroObject {
    let make = || json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {}});
    let Some(id) = resource.type_id else {
        let mut bare = make();
        if let Some(map) = bare.as_object_mut() {
            map.remove("metadata");
        }
        return ZeroObject::Bare(bare);
    };
    static KNOWN: LazyLock<RwLock<HashMap<TypeId, &'static Value>>> = LazyLock::new(RwLock::default);
    if let Some(known) = KNOWN.read().ok().and_then(|known| known.get(&id).copied()) {
        return ZeroObject::Known(known);
    }
    let zero: Value = serde_json::from_slice(&codec::encode_json(&make())).unwrap_or_default();
    match KNOWN.write() {
        // One for each type of the table, for as long as the process lives.
        Ok(mut known) => ZeroObject::Known(known.entry(id).or_insert_with(|| Box::leak(Box::new(zero)))),
        Err(_) => ZeroObject::Bare(zero),
    }
}

pub enum ZeroObject {
    Known(&'static Value),
    Bare(Value),
}

impl std::ops::Deref for ZeroObject {
    type Target = Value;

    fn deref(&self) -> &Value {
        match self {
            Self::Known(value) => value,
            Self::Bare(value) => value,
        }
    }
}
