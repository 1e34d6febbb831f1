//! The schema of a custom resource at rest. A cluster may have hundreds of definitions with megabytes of text, and objects of a few of them: what is
//! kept of each is its text, compressed, and a tree only where objects are written.

use std::fmt;
use std::io::{Read, Write};
use std::sync::OnceLock;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::codec;

/// `spec.versions[].schema.openAPIV3Schema`.
pub struct CustomSchema {
    /// JSON, deflated; absent where the definition has no schema.
    packed: Option<Box<[u8]>>,
    digest: [u8; 32],
    merging: OnceLock<Value>,
}

impl CustomSchema {
    /// The schema as a tree with all its texts. Made anew each time: not for the way of a request.
    pub fn whole(&self) -> Value {
        let Some(packed) = &self.packed else { return Value::Null };
        let mut text = Vec::with_capacity(packed.len() * 8);
        // What was packed here is unpacked and read.
        match DeflateDecoder::new(&**packed).read_to_end(&mut text) {
            Ok(_) => codec::parse_json(&text).unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Whether the definition has one.
    pub fn is_given(&self) -> bool {
        self.packed.is_some()
    }

    /// The schema without what is there for people only. Kept once it was asked for.
    pub fn merging(&self) -> &Value {
        self.merging.get_or_init(|| {
            let mut schema = self.whole();
            drop_texts(&mut schema);
            schema
        })
    }

    /// Tells this schema from any other.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl From<&Value> for CustomSchema {
    fn from(schema: &Value) -> Self {
        let text = if schema.is_object() { serde_json::to_vec(schema).unwrap_or_default() } else { Vec::new() };
        let pack = || {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
            encoder.write_all(&text)?;
            encoder.finish()
        };
        // Writing to memory does not fail.
        let packed = if text.is_empty() { None } else { pack().ok().map(Vec::into_boxed_slice) };
        Self { packed, digest: Sha256::digest(&text).into(), merging: OnceLock::new() }
    }
}

impl fmt::Debug for CustomSchema {
    /// Equal for equal schemas, and short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Takes descriptions out of a schema, but for properties of that name and what stands in defaults and enumerations.
fn drop_texts(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for text in ["description", "title", "example", "externalDocs"] {
        map.remove(text);
    }
    below(map).for_each(drop_texts);
}

/// The schemas directly inside a schema.
fn below(map: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    map.iter_mut().flat_map(|(key, value)| -> Box<dyn Iterator<Item = &mut Value>> {
        match (key.as_str(), value) {
            ("properties", Value::Object(map)) => Box::new(map.values_mut()),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => Box::new(all.iter_mut()),
            ("items" | "additionalProperties" | "not", value) => Box::new(std::iter::once(value)),
            _ => Box::new(std::iter::empty()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_kept_whole_and_read_without_its_texts() {
        let source = json!({"type": "object", "description": "a text", "properties": {
            "description": {"type": "string", "description": "another", "default": {"description": "stays"}},
            "list": {"type": "array", "items": {"title": "x", "anyOf": [{"description": "y", "minimum": 1}]}, "x-kubernetes-list-type": "set"},
        }});
        let schema = CustomSchema::from(&source);
        assert_eq!(schema.whole(), source);
        let wanted = json!({"type": "object", "properties": {
            "description": {"type": "string", "default": {"description": "stays"}},
            "list": {"type": "array", "items": {"anyOf": [{"minimum": 1}]}, "x-kubernetes-list-type": "set"},
        }});
        assert_eq!(schema.merging(), &wanted);
        assert_eq!(format!("{schema:?}"), format!("{:?}", CustomSchema::from(&source)));
        assert_ne!(schema.digest(), CustomSchema::from(&wanted).digest());
        let none = CustomSchema::from(&Value::Null);
        assert_eq!((none.is_given(), none.whole(), none.merging()), (false, Value::Null, &Value::Null));
    }

    #[test]
    fn text_rests_in_a_fraction_of_its_size() {
        let property = json!({"type": "string", "description": "Each property of a large definition says at length what it is for, and most say the same."});
        let properties: Map<String, Value> = (0..500).map(|i| (format!("property{i}"), property.clone())).collect();
        let source = json!({"type": "object", "properties": properties});
        let schema = CustomSchema::from(&source);
        assert!(schema.packed.as_ref().unwrap().len() * 10 < source.to_string().len());
        assert_eq!(schema.whole(), source);
    }
}
