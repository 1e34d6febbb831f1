//! What stands between a decoded write and the store: plugins that change it, then plugins that refuse it. One file a plugin;
//! [`default_plugins`] is the list, in upstream's order.

mod default_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;

use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Object, Result, Value};

use crate::authz::Attributes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write on its way in.
pub struct Review<'a> {
    pub operation: Operation,
    pub attributes: &'a Attributes,
    pub kind: &'a knarr_core::GroupVersionKind,
    /// The object as it would be stored; absent on delete.
    pub object: Option<Value>,
    /// The stored object; absent on create.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// Filled in by plugins: `Warning` headers.
    pub warnings: Vec<String>,
}

impl Review<'_> {
    /// `Forbidden` about the object under review, in the words that all plugins use.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> knarr_core::Status {
        let a = self.attributes;
        knarr_core::Status::forbidden(&knarr_core::GroupResource::new(&a.group, &a.resource), &a.name, why)
    }
}

/// One admission plugin. Both passes may be left empty.
#[async_trait]
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see this write at all.
    fn handles(&self, operation: Operation, attributes: &Attributes) -> bool;

    async fn mutate(&self, _review: &mut Review<'_>) -> Result<()> {
        Ok(())
    }

    async fn validate(&self, _review: &Review<'_>) -> Result<()> {
        Ok(())
    }
}

/// What plugins may look at: the stored objects, from the watch cache.
#[async_trait]
pub trait Objects: Send + Sync {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Object>;
    /// All objects, or those of one namespace.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Object>;

    /// The object as a tree.
    fn value(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.get(group, resource, namespace, name).and_then(|o| knarr_schema::codec::to_value(&o).ok())
    }

    fn values(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        self.list(group, resource, namespace).iter().filter_map(|o| knarr_schema::codec::to_value(o).ok()).collect()
    }

    /// Writes an object of version `v1` that is still at revision `expected`.
    ///
    /// # Errors
    /// `Conflict` or `NotFound` when it changed meanwhile; whatever keeps the store from writing.
    async fn replace(&self, _group: &str, _resource: &str, _object: &Value, _expected: u64) -> Result<()> {
        Err(knarr_core::Status::internal("these objects can only be read"))
    }
}

/// The plugins that are on by default, in the order in which they run.
pub fn default_plugins(objects: &Arc<dyn Objects>) -> Vec<Arc<dyn Plugin>> {
    let with = || Arc::clone(objects);
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle(with())),
        Arc::new(limit_ranger::LimitRanger(with())),
        Arc::new(service_account::ServiceAccount(with())),
        Arc::new(node_restriction::NodeRestriction(with())),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(priority::Priority(with())),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(storage_protection::StorageObjectInUseProtection),
        Arc::new(default_class::DefaultClass::storage(with())),
        Arc::new(default_class::DefaultClass::ingress(with())),
        Arc::new(runtime_class::RuntimeClass(with())),
        Arc::new(resource_quota::ResourceQuota::new(with())),
    ]
}

/// A create of pods themselves, not of a subresource.
fn creates_pod(operation: Operation, a: &Attributes) -> bool {
    operation == Operation::Create && is_resource(a, "", "pods")
}

fn is_resource(a: &Attributes, group: &str, resource: &str) -> bool {
    a.group == group && a.resource == resource && a.subresource.is_empty()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Objects out of a list of trees.
    pub struct Fixed(pub Vec<(&'static str, Value)>);

    fn object(value: &Value) -> Object {
        let bytes = serde_json::to_vec(value).unwrap().into();
        Object { encoding: knarr_core::Encoding::Json, resource_version: 1, bytes }
    }

    fn named(value: &Value, namespace: &str, name: &str) -> bool {
        value["metadata"]["name"] == name && value["metadata"].get("namespace").and_then(Value::as_str).unwrap_or_default() == namespace
    }

    impl Objects for Fixed {
        fn get(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Object> {
            self.0.iter().find(|(r, o)| *r == resource && named(o, namespace, name)).map(|(_, o)| object(o))
        }
        fn list(&self, _: &str, resource: &str, namespace: Option<&str>) -> Vec<Object> {
            let within = |o: &Value| namespace.is_none_or(|n| o["metadata"]["namespace"] == n);
            self.0.iter().filter(|(r, o)| *r == resource && within(o)).map(|(_, o)| object(o)).collect()
        }
        fn value(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
            self.0.iter().find(|(r, o)| *r == resource && named(o, namespace, name)).map(|(_, o)| o.clone())
        }
        fn values(&self, _: &str, resource: &str, namespace: Option<&str>) -> Vec<Value> {
            let within = |o: &Value| namespace.is_none_or(|n| o["metadata"]["namespace"] == n);
            self.0.iter().filter(|(r, o)| *r == resource && within(o)).map(|(_, o)| o.clone()).collect()
        }
    }

    /// Runs a create of `object` through a plugin; gives what came out, or the refusal's message.
    pub async fn create(plugin: &dyn Plugin, group: &str, resource: &str, object: Value) -> std::result::Result<Value, String> {
        let text = |path: &str| object["metadata"].get(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let attributes = Attributes {
            verb: "create".into(),
            group: group.into(),
            resource: resource.into(),
            namespace: text("namespace"),
            name: text("name"),
            is_resource_request: true,
            ..Attributes::default()
        };
        let kind = knarr_core::GroupVersionKind::new(group, "v1", object.get("kind").and_then(Value::as_str).unwrap_or_default());
        let mut review =
            Review { operation: Operation::Create, attributes: &attributes, kind: &kind, object: Some(object), old: None, dry_run: false, warnings: vec![] };
        if plugin.handles(Operation::Create, &attributes) {
            plugin.mutate(&mut review).await.map_err(|s| s.message)?;
            plugin.validate(&review).await.map_err(|s| s.message)?;
        }
        review.object.ok_or_else(|| "no object".to_owned())
    }
}
