//! Stored objects that steer admission (webhook configurations, policies and bindings), parsed once for each of their versions.
//! They are read from the store's snapshot for each request: one that was acknowledged counts from then on.

use std::{collections::HashMap, sync::Arc};

use knarr_core::{Object, Value};
use parking_lot::Mutex;

use super::Objects;

/// The group of all of them.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// All that the objects of one resource say.
pub struct Configurations<T> {
    resource: &'static str,
    parse: fn(&Value) -> Vec<Arc<T>>,
    known: Mutex<Known<T>>,
}

struct Known<T> {
    /// By revision, which no two objects share.
    by_revision: HashMap<u64, Vec<Arc<T>>>,
    all: Arc<Vec<Arc<T>>>,
}

impl<T> Configurations<T> {
    pub fn new(resource: &'static str, parse: fn(&Value) -> Vec<Arc<T>>) -> Self {
        Self { resource, parse, known: Mutex::new(Known { by_revision: HashMap::new(), all: Arc::default() }) }
    }

    /// What is configured now, by name of the objects and in the order that each has.
    pub fn current(&self, objects: &dyn Objects) -> Arc<Vec<Arc<T>>> {
        let stored = objects.list(GROUP, self.resource, None);
        let mut known = self.known.lock();
        let is_known = stored.len() == known.by_revision.len() && stored.iter().all(|o| known.by_revision.contains_key(&o.resource_version));
        if !is_known {
            let mut old = std::mem::take(&mut known.by_revision);
            known.by_revision = stored.iter().map(|o| (o.resource_version, old.remove(&o.resource_version).unwrap_or_else(|| self.read(o)))).collect();
            // The snapshot is in the order of names.
            known.all = Arc::new(stored.iter().flat_map(|o| known.by_revision.get(&o.resource_version).cloned().unwrap_or_default()).collect());
        }
        known.all.clone()
    }

    fn read(&self, object: &Object) -> Vec<Arc<T>> {
        match knarr_schema::codec::to_value(object) {
            Ok(configuration) => (self.parse)(&configuration),
            Err(error) => {
                tracing::error!(%error, resource = self.resource, "a configuration of admission cannot be read");
                Vec::new()
            }
        }
    }
}
