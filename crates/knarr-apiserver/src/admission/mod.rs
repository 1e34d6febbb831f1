//! What stands between a decoded write and the store: plugins that change it, then plugins that refuse it. One file a plugin;
//! [`default_plugins`] is the list, in upstream's order.

mod certificates;
pub mod chain;
mod choice;
mod claim_resize;
mod configurations;
mod default_class;
mod default_toleration_seconds;
mod deny_external_ips;
mod escalation;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod policy;
mod priority;
mod request;
mod resource_quota;
mod runtime_class;
mod service_account;
mod settings;
mod storage_protection;
mod taint_nodes;
mod topology_labels;
mod webhook;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use knarr_core::{Object, Result, Value, ValueExt};
use parking_lot::Mutex;

use crate::authz::Attributes;
pub use choice::chosen;
pub use default_toleration_seconds::DefaultTolerationSeconds;
pub use request::{Request, connect_options};
pub use settings::Settings;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules and reviews name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What plugins say beside their verdict.
#[derive(Debug, Default)]
pub struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Vec<(String, String)>>,
}

impl Notes {
    /// Adds a `Warning` header.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().push(text.into());
    }

    /// Adds an annotation to the audit event.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.lock().push((key.into(), value.into()));
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    pub fn take_annotations(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.annotations.lock())
    }
}

/// What is remembered between the two rounds of mutating plugins (upstream: `admission.ReinvocationContext`).
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// Whether this is the second round.
    pub again: bool,
    /// Set by a plugin that has changed the object: all plugins that mutate are asked once more.
    pub wanted: bool,
    plugins: HashMap<&'static str, PluginReinvocation>,
}

impl Reinvocation {
    /// What a plugin remembers.
    pub fn of(&mut self, plugin: &'static str) -> &mut PluginReinvocation {
        self.plugins.entry(plugin).or_default()
    }
}

/// The part of one plugin that asks several others (webhooks, policies).
#[derive(Debug, Default)]
pub struct PluginReinvocation {
    last_output: Option<Value>,
    invoked: BTreeSet<String>,
    to_invoke: BTreeSet<String>,
}

impl PluginReinvocation {
    /// Whether the object has changed since the plugin last left it.
    pub fn has_changed(&self, object: Option<&Value>) -> bool {
        self.last_output.as_ref() != object
    }

    pub fn set_output(&mut self, object: Option<&Value>) {
        self.last_output = object.cloned();
    }

    /// Those that may be asked again are to be asked again.
    pub fn require(&mut self) {
        self.to_invoke.append(&mut self.invoked);
    }

    /// One that may be asked again has been asked.
    pub fn add_invoked(&mut self, id: &str) {
        self.invoked.insert(id.to_owned());
    }

    pub fn is_required(&self, id: &str) -> bool {
        self.to_invoke.contains(id)
    }
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
    /// Filled in by plugins.
    pub notes: Notes,
    /// The request that this is about; absent where only the object counts.
    pub request: Option<Request<'a>>,
    pub reinvocation: Reinvocation,
}

impl<'a> Review<'a> {
    pub fn new(operation: Operation, attributes: &'a Attributes, kind: &'a knarr_core::GroupVersionKind) -> Self {
        Self {
            operation,
            attributes,
            kind,
            object: None,
            old: None,
            dry_run: false,
            notes: Notes::default(),
            request: None,
            reinvocation: Reinvocation::default(),
        }
    }

    /// Name of the object under review; on create it stands in the object alone.
    pub fn name(&self) -> &str {
        use knarr_core::ValueExt;
        if !self.attributes.name.is_empty() {
            return &self.attributes.name;
        }
        self.object.as_ref().or(self.old).and_then(|o| o.str_at(&["metadata", "name"])).unwrap_or_default()
    }

    /// `Forbidden` about the object under review, in the words that all plugins use.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> knarr_core::Status {
        let a = self.attributes;
        knarr_core::Status::forbidden(&knarr_core::GroupResource::new(&a.group, &a.resource), self.shown_name(), why)
    }

    /// The name of the object as refusals tell it (upstream: `admission.extractResourceName`): a new one may have none yet.
    fn shown_name(&self) -> &str {
        let of = |key: &str| self.object.as_ref().and_then(|o| o.str_at(&["metadata", key])).filter(|n| !n.is_empty());
        if self.attributes.name.is_empty() { of("name").or_else(|| of("generateName")).unwrap_or("Unknown") } else { &self.attributes.name }
    }
}

/// In which passes a plugin takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    Mutating,
    Validating,
    Both,
}

/// One admission plugin. Both passes may be left empty.
#[async_trait]
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    fn passes(&self) -> Passes {
        Passes::Both
    }

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
    plugins_by(objects, &Settings::default())
}

fn plugins_by(objects: &Arc<dyn Objects>, settings: &Settings) -> Vec<Arc<dyn Plugin>> {
    let with = || Arc::clone(objects);
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle(with())),
        Arc::new(escalation::Escalation(with())),
        Arc::new(certificates::PodCertificateSigning),
        Arc::new(limit_ranger::LimitRanger(with())),
        Arc::new(service_account::ServiceAccount(with())),
        Arc::new(node_restriction::NodeRestriction(with())),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity(with(), settings.pod_security.clone())),
        Arc::new(priority::Priority(with())),
        Arc::new(settings.default_tolerations),
        Arc::new(storage_protection::StorageObjectInUseProtection),
        Arc::new(default_class::DefaultClass::storage(with())),
        Arc::new(claim_resize::PersistentVolumeClaimResize(with())),
        Arc::new(runtime_class::RuntimeClass(with())),
        Arc::new(certificates::CertificateApproval),
        Arc::new(certificates::CertificateSigning),
        Arc::new(certificates::ClusterTrustBundleAttest),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_class::DefaultClass::ingress(with())),
        Arc::new(topology_labels::PodTopologyLabels(with())),
        Arc::new(policy::mutating::Mutating::new(with())),
        Arc::new(webhook::Webhooks::mutating(with())),
        Arc::new(policy::validating::Validating::new(with())),
        Arc::new(webhook::Webhooks::validating(with())),
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
        let mut review = Review { object: Some(object), ..Review::new(Operation::Create, &attributes, &kind) };
        if plugin.handles(Operation::Create, &attributes) {
            plugin.mutate(&mut review).await.map_err(|s| s.message)?;
            plugin.validate(&review).await.map_err(|s| s.message)?;
        }
        review.object.ok_or_else(|| "no object".to_owned())
    }
}
