//! `/openapi/v2` and `/openapi/v3`, made by the schema crate when first asked for, and kept encoded.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use knarr_core::{KUBERNETES_VERSION, Value, json};
use knarr_schema::{
    openapi,
    registry::{Registry, Resource},
};
use parking_lot::Mutex;

use super::{Document, hash};

/// The OpenAPI documents of one catalog.
pub struct OpenApi {
    registry: Registry,
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Bytes>,
    v3: Mutex<HashMap<String, Arc<Document>>>,
}

impl OpenApi {
    pub fn new(registry: Registry) -> Self {
        Self { registry, v2: OnceLock::new(), v2_protobuf: OnceLock::new(), v3: Mutex::default() }
    }

    /// `/openapi/v2`.
    pub fn v2(&self) -> &Document {
        self.v2.get_or_init(|| made(|| plain(&openapi::v2(&self.registry))))
    }

    /// The tag of `/openapi/v2` in all its forms.
    pub fn v2_tag(&self) -> String {
        self.tag("v2", |_| true)
    }

    /// `/openapi/v3/PATH`.
    pub fn v3(&self, path: &str) -> Option<Arc<Document>> {
        if let Some(document) = self.v3.lock().get(path) {
            return Some(document.clone());
        }
        let mut document = made(|| Some(plain(&openapi::v3(&self.registry, path)?)))?;
        document.etag = self.v3_tag(path);
        let document = Arc::new(document);
        self.v3.lock().insert(path.to_owned(), document.clone());
        Some(document)
    }

    /// A tag that changes when the document does, without making the document: of this build, of what was chosen of it and of the
    /// definitions of the custom resources in it.
    fn tag(&self, of: &str, is_in: impl Fn(&Resource) -> bool) -> String {
        let mut facts = format!("{KUBERNETES_VERSION} {} {of}", env!("CARGO_PKG_VERSION"));
        let builtin = |registry: &Registry| -> Vec<String> {
            let own = registry.all().iter().filter(|r| r.custom.is_none() && is_in(r));
            own.map(|r| format!("{}/{}", r.api_version(), r.plural)).collect()
        };
        let chosen = builtin(&self.registry);
        if chosen != builtin(&Registry::builtin()) {
            facts += &format!(" {chosen:?}");
        }
        for resource in self.registry.all().iter().filter(|r| r.custom.is_some() && is_in(r)) {
            facts += &format!(" {resource:?}");
        }
        hash(facts.as_bytes())
    }

    fn v3_tag(&self, path: &str) -> String {
        self.tag(path, |r| path == format!("apis/{}/{}", r.group, r.version))
    }

    /// `/openapi/v2` in the binary form that client-go asks for.
    pub fn v2_protobuf(&self) -> &Bytes {
        self.v2_protobuf.get_or_init(|| made(|| openapi::v2_protobuf(&self.registry).into()))
    }

    pub fn v3_paths(&self) -> Vec<String> {
        openapi::v3_paths(&self.registry)
    }

    /// `/openapi/v3`: where each document is, under a URL that changes with its contents.
    pub fn v3_index(&self) -> Value {
        let entry = |path: String| {
            let url = format!("/openapi/v3/{path}?hash={}", self.v3_tag(&path));
            (path, json!({"serverRelativeURL": url}))
        };
        json!({"paths": openapi::v3_paths(&self.registry).into_iter().map(entry).collect::<serde_json::Map<_, _>>()})
    }
}

/// A document made: as a tree it took ten times the memory of its bytes.
fn made<T>(make: impl FnOnce() -> T) -> T {
    let made = make();
    knarr_sys::memory::free_heap();
    made
}

fn plain(tree: &Value) -> Document {
    Document::with_json(serde_json::to_vec(tree).unwrap_or_default(), None)
}
