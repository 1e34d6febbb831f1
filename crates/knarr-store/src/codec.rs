//! The three things that the store must know of an object's bytes.

#[cfg(not(test))]
pub use knarr_schema::codec::{meta, scalar, with_resource_version};

#[cfg(test)]
pub use double::{meta, scalar, with_resource_version};

/// Stands in for the codec in this crate's tests: objects are JSON, read the slow way.
#[cfg(test)]
mod double {
    use knarr_core::{Encoding, Object, Value, ValueExt, json};

    #[derive(Default)]
    pub struct MetaView {
        pub labels: Vec<(String, String)>,
    }

    pub fn with_resource_version(stored: &[u8], resource_version: u64) -> Object {
        let bytes = match serde_json::from_slice::<Value>(stored) {
            Ok(mut v) => {
                v.set(&["metadata", "resourceVersion"], json!(resource_version.to_string()));
                v.to_string().into_bytes()
            }
            Err(_) => stored.to_vec(),
        };
        Object { encoding: Encoding::Json, resource_version, bytes: bytes.into() }
    }

    pub fn meta(object: &Object) -> MetaView {
        let v: Value = serde_json::from_slice(&object.bytes).unwrap_or_default();
        let labels = v.at(&["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default();
        MetaView { labels: labels.into_iter().map(|(k, v)| (k, v.as_str().unwrap_or_default().to_owned())).collect() }
    }

    pub fn scalar(object: &Object, path: &[&str]) -> String {
        let v: Value = serde_json::from_slice(&object.bytes).unwrap_or_default();
        v.str_at(path).unwrap_or_default().to_owned()
    }
}
