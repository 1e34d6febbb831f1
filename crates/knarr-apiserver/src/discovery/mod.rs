//! Discovery: which groups, versions and resources there are, in both forms that clients ask for, and the OpenAPI documents.
//! All of it follows from the registry; each document is made once a catalog and kept encoded.

mod aggregated;
mod classic;
mod openapi;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use knarr_core::{Value, ValueExt};
use knarr_schema::{codec, registry::Registry};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::{
    aggregate::Aggregation,
    encode::json,
    http::{Accepted, Convert, Media},
};

pub use openapi::OpenApi;

/// One document in the encodings that were asked for.
pub struct Document {
    json: Bytes,
    /// What the protobuf is made of; absent when there is none.
    tree: Option<Value>,
    protobuf: OnceLock<Bytes>,
    /// It does not say of which version it is, in any encoding.
    unversioned: bool,
    pub etag: String,
}

impl Document {
    fn new(tree: Value) -> Self {
        Self::with_json(codec::encode_json(&tree), Some(tree))
    }

    fn with_json(json: Vec<u8>, tree: Option<Value>) -> Self {
        let etag = hash(&json);
        Self { json: json.into(), tree, protobuf: OnceLock::new(), unversioned: false, etag }
    }

    /// A document of version `v1` that does not say so.
    fn unversioned(tree: Value) -> Self {
        let text = String::from_utf8_lossy(&codec::encode_json(&tree)).replacen("\"apiVersion\":\"v1\",", "", 1);
        Self { unversioned: true, ..Self::with_json(text.into_bytes(), Some(tree)) }
    }

    /// The document as the client wants it.
    pub fn bytes(&self, accepted: &Accepted) -> Bytes {
        match (accepted.media, &self.tree) {
            (Media::Protobuf, Some(tree)) => {
                let encode = if self.unversioned { codec::encode_protobuf_unversioned } else { codec::encode_protobuf };
                self.protobuf.get_or_init(|| encode(tree).unwrap_or_default().into()).clone()
            }
            (Media::Cbor, _) => crate::encode::text(self.json.to_vec(), accepted),
            (Media::Yaml, Some(tree)) if self.unversioned => {
                let mut tree = tree.clone();
                drop(tree.remove(&["apiVersion"]));
                knarr_core::yaml::to_string(&tree).into()
            }
            (Media::Yaml, Some(tree)) => knarr_core::yaml::to_string(tree).into(),
            _ if accepted.pretty => json::pretty(&self.json).into(),
            _ => self.json.clone(),
        }
    }
}

/// An ETag without its quotes: upper-case hex, as upstream's.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

/// All documents of one catalog.
pub struct Documents {
    registry: Registry,
    made: Mutex<HashMap<String, Option<Arc<Document>>>>,
    /// Documents that also tell of other servers, with the generation of those.
    merged: Mutex<(u64, HashMap<String, Arc<Document>>)>,
    pub openapi: OpenApi,
}

impl Documents {
    pub fn new(registry: Registry) -> Self {
        Self { openapi: OpenApi::new(registry.clone()), registry, made: Mutex::default(), merged: Mutex::default() }
    }

    /// The document at a path (`/api`, `/apis/apps/v1`), or its aggregated form; absent when nothing is there.
    pub fn find(&self, path: &str, accepted: &Accepted, server_address: &str) -> Option<Arc<Document>> {
        let aggregated = accepted.convert == Some(Convert::Discovery);
        let key = if aggregated { format!("aggregated {path}") } else { format!("{server_address} {path}") };
        if let Some(document) = self.made.lock().get(&key) {
            return document.clone();
        }
        let document = if aggregated { aggregated::document(&self.registry, path) } else { classic::document(&self.registry, path, server_address) };
        let document = document.map(Arc::new);
        if document.is_some() {
            self.made.lock().insert(key, document.clone());
        }
        document
    }

    /// As [`Self::find`], with what other servers serve.
    pub fn find_all(&self, others: &Aggregation, path: &str, accepted: &Accepted, server_address: &str) -> Option<Arc<Document>> {
        let ours = self.find(path, accepted, server_address);
        let Some(generation) = others.generation().filter(|_| path.starts_with("/apis") && path.matches('/').count() <= 2) else { return ours };
        let aggregated = accepted.convert == Some(Convert::Discovery);
        let key = format!("{aggregated} {path}");
        let mut merged = self.merged.lock();
        if merged.0 != generation {
            *merged = (generation, HashMap::new());
        }
        if let Some(document) = merged.1.get(&key) {
            return Some(document.clone());
        }
        let document = Arc::new(Document::new(others.merge(path, ours.and_then(|d| d.tree.clone()), aggregated)?));
        merged.1.insert(key, document.clone());
        Some(document)
    }

    /// The paths below `/apis` and `/api`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
        for (group, versions) in self.registry.groups().into_iter().filter(|(g, _)| !g.is_empty()) {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
        }
        paths
    }
}
