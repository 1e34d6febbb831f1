//! The resources as the server serves them at one moment: each line of the registry with its place in the store, its
//! behaviour and its ways between versions. A CRD change swaps a new catalog in; requests under way keep theirs.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use knarr_core::{Encoding, GroupResource, GroupVersionKind, Object, Result, Status, Value, ValueExt};
use knarr_kinds::Strategy;
use knarr_schema::{
    codec,
    registry::{Registry, Resource},
    types,
};
use knarr_store::ResourceKey;

use crate::{
    crd::{Converter, CustomStrategy},
    discovery::Documents,
};

/// What a kind does of its own: compiled in, or read from a CRD.
#[derive(Clone)]
pub enum Behaviour {
    BuiltIn(&'static dyn Strategy),
    Custom(Arc<CustomStrategy>),
}

impl std::ops::Deref for Behaviour {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(strategy) => *strategy,
            Self::Custom(strategy) => &**strategy,
        }
    }
}

/// One resource in one version, ready to be served.
pub struct Served {
    pub resource: Arc<Resource>,
    pub key: ResourceKey,
    pub gvk: GroupVersionKind,
    pub group_resource: GroupResource,
    /// Kind in the version in which it is stored.
    stored: GroupVersionKind,
    /// Kind in the version in which strategies, validation and admission see it: the stored one, as a rule.
    pub hub: GroupVersionKind,
    /// Behaviour of the object itself.
    pub strategy: Behaviour,
    /// Behaviour of a custom resource in each of its served versions: objects at rest may be of any.
    at_rest: AtRest,
    /// Its way between versions.
    converter: Option<Arc<Converter>>,
    /// Tells this line of this catalog from all others, for caches of encoded events.
    pub id: u32,
    /// What a delete answers: the object it deleted, or a `Status` (upstream: `ReturnDeletedObject`).
    pub returns_deleted: bool,
    /// Whether dependents are collected (upstream: not `rest.Unsupported`; events have none).
    pub collects_garbage: bool,
}

/// Behaviours by version.
type AtRest = Arc<BTreeMap<String, Arc<CustomStrategy>>>;

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

impl Served {
    fn new(resource: Arc<Resource>, at_rest: AtRest, converter: Option<Arc<Converter>>) -> Self {
        let gvk = resource.gvk();
        let strategy = match at_rest.get(&resource.version).filter(|_| resource.custom.is_some()) {
            None => Behaviour::BuiltIn(knarr_kinds::strategy(&resource.group, &resource.plural, "")),
            Some(custom) => Behaviour::Custom(custom.clone()),
        };
        Self {
            key: ResourceKey { group: resource.storage.0.clone(), resource: resource.plural.clone() },
            group_resource: GroupResource::new(&resource.group, &resource.plural),
            hub: if is_own_hub(&resource) { gvk.clone() } else { stored_kind(&resource) },
            stored: stored_kind(&resource),
            id: NEXT_ID.fetch_add(1, Relaxed),
            returns_deleted: resource.returns_deleted(),
            collects_garbage: resource.plural != "events",
            at_rest,
            converter,
            strategy,
            gvk,
            resource,
        }
    }

    /// The behaviour of a subresource that is the object itself seen from another side (`status`, `ephemeralcontainers`, …).
    pub fn behaviour(&self, subresource: &str) -> Behaviour {
        match (&self.strategy, subresource) {
            (own, "") => own.clone(),
            (Behaviour::BuiltIn(_), sub) => Behaviour::BuiltIn(knarr_kinds::strategy(&self.resource.group, &self.resource.plural, sub)),
            (Behaviour::Custom(own), sub) => Behaviour::Custom(Arc::new(own.of_subresource(sub))),
        }
    }

    /// Whether the stored form is of another version than the served one.
    pub fn converts(&self) -> bool {
        self.gvk != self.stored
    }

    /// Whether another server converts the objects.
    pub fn asks_a_webhook(&self) -> bool {
        self.converter.as_ref().is_some_and(|c| c.asks_a_webhook())
    }

    /// A stored object as a tree of the hub version.
    ///
    /// # Errors
    /// When the bytes cannot be read or converted.
    pub fn load(&self, object: &Object) -> Result<Value> {
        self.convert(self.complete(object)?, &self.hub)
    }

    /// A stored object as a tree of the served version.
    ///
    /// # Errors
    /// When the bytes cannot be read or converted.
    pub fn read(&self, object: &Object) -> Result<Value> {
        self.to_served(self.complete(object)?)
    }

    /// Stored objects as trees of the served version. A webhook is asked once for all of them.
    ///
    /// # Errors
    /// When the bytes cannot be read or converted.
    pub async fn read_all(&self, objects: &[Object]) -> Result<Vec<Value>> {
        let trees = objects.iter().map(|o| self.complete(o)).collect::<Result<Vec<_>>>()?;
        match &self.converter {
            Some(converter) => converter.convert(trees, &self.gvk).await,
            None => trees.into_iter().map(|t| self.to_served(t)).collect(),
        }
    }

    /// The definition may have learned a default after the object was stored.
    fn complete(&self, object: &Object) -> Result<Value> {
        let mut value = codec::to_value(object)?;
        if self.resource.custom.is_some()
            && let Some(custom) = self.strategy_at_rest(value.str_at(&["apiVersion"]).unwrap_or_default()).filter(|s| s.has_defaults())
        {
            custom.complete(&mut value);
        }
        Ok(value)
    }

    fn strategy_at_rest(&self, api_version: &str) -> Option<&CustomStrategy> {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        self.at_rest.get(version).map(|s| &**s)
    }

    /// Whether the bytes are what is served. Custom resources tell their version themselves: the storage version may have
    /// been another one when they were written.
    fn is_as_served(&self, object: &Object) -> bool {
        if self.resource.custom.is_none() {
            return !self.converts();
        }
        codec::kind_of(object).version == self.gvk.version && !self.at_rest.get(&self.gvk.version).is_some_and(|s| s.has_defaults())
    }

    /// A tree of the hub version as bytes for the store.
    ///
    /// # Errors
    /// When it cannot be converted or encoded.
    pub fn store_form(&self, value: &Value) -> Result<Bytes> {
        if self.stored == self.hub {
            return codec::encode_stored(&self.resource, value);
        }
        codec::encode_stored(&self.resource, &self.convert(value.clone(), &self.stored)?)
    }

    /// A tree of the served version in the hub version.
    ///
    /// # Errors
    /// When the versions cannot be converted.
    pub fn to_hub(&self, value: Value) -> Result<Value> {
        self.convert(value, &self.hub)
    }

    /// A tree of any version in the served version.
    ///
    /// # Errors
    /// When the versions cannot be converted.
    pub fn to_served(&self, value: Value) -> Result<Value> {
        self.convert(value, &self.gvk)
    }

    /// A tree in the version of `to`; as it is, when it is that already.
    ///
    /// # Errors
    /// When the versions cannot be converted.
    pub fn convert(&self, value: Value, to: &GroupVersionKind) -> Result<Value> {
        if value.str_at(&["apiVersion"]).is_none_or(|v| v == to.api_version()) {
            return Ok(value);
        }
        match &self.converter {
            Some(converter) => converter.convert_one(value, to),
            None => knarr_kinds::convert(value, &to.group, &to.version),
        }
    }

    /// The object in the served version: itself, unless it is stored in another one or may lack defaults.
    ///
    /// # Errors
    /// When the stored bytes cannot be read or converted.
    pub fn present<'a>(&self, object: &'a Object) -> Result<Cow<'a, Object>> {
        if self.is_as_served(object) {
            return Ok(Cow::Borrowed(object));
        }
        let value = self.read(object)?;
        let bytes = match object.encoding {
            Encoding::Protobuf => codec::encode_protobuf(&value)?,
            Encoding::Json => codec::encode_json(&value),
        };
        Ok(Cow::Owned(Object { encoding: object.encoding, resource_version: object.resource_version, bytes: bytes.into() }))
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }
}

/// What custom resources do in each of their served versions, by group and name.
fn strategies_at_rest(registry: &Registry) -> HashMap<(&str, &str), AtRest> {
    let mut all: HashMap<(&str, &str), BTreeMap<String, Arc<CustomStrategy>>> = HashMap::new();
    for r in registry.all().iter().filter(|r| r.custom.is_some()) {
        all.entry((&r.group, &r.plural)).or_default().insert(r.version.clone(), Arc::new(CustomStrategy::new(r.clone())));
    }
    all.into_iter().map(|(of, versions)| (of, Arc::new(versions))).collect()
}

/// Custom resources are validated and admitted in the version of the request, as are definitions.
fn is_own_hub(resource: &Resource) -> bool {
    resource.custom.is_some() || resource.plural == "customresourcedefinitions"
}

/// The version in which a resource is stored; its own, where the type table does not know the other one.
fn stored_kind(resource: &Resource) -> GroupVersionKind {
    let (group, version) = &resource.storage;
    let known = resource.custom.is_some() || types::of_kind(group, version, &resource.kind).is_some();
    if known { GroupVersionKind::new(group, version, &resource.kind) } else { resource.gvk() }
}

type ByResource = HashMap<String, Arc<Served>>;

/// Everything that follows from one registry.
pub struct Catalog {
    pub registry: Registry,
    /// Tells the custom resources in it from those of other catalogs.
    pub tag: String,
    /// Definitions that are going: nothing new is made of them.
    terminating: BTreeSet<String>,
    served: HashMap<String, HashMap<String, ByResource>>,
    documents: OnceLock<Documents>,
}

impl Catalog {
    pub fn new(registry: Registry) -> Self {
        Self::with_custom(registry, BTreeSet::new(), &HashMap::new(), String::new(), None)
    }

    /// A catalog whose registry has custom resources. `converters` are named by the definitions. Resources that `before` had, too, are served as
    /// they were, with all that has been read and compiled for them.
    pub fn with_custom(
        registry: Registry,
        terminating: BTreeSet<String>,
        converters: &HashMap<String, Arc<Converter>>,
        tag: String,
        before: Option<&Self>,
    ) -> Self {
        let at_rest = strategies_at_rest(&registry);
        let mut served: HashMap<String, HashMap<String, ByResource>> = HashMap::new();
        for resource in registry.all() {
            let version = served.entry(resource.group.clone()).or_default().entry(resource.version.clone()).or_default();
            let known = before.and_then(|b| b.find(&resource.group, &resource.version, &resource.plural)).filter(|s| Arc::ptr_eq(&s.resource, resource));
            let made = || {
                let converter = resource.custom.as_ref().and_then(|c| converters.get(&c.definition)).cloned();
                let at_rest = at_rest.get(&(&*resource.group, &*resource.plural)).cloned().unwrap_or_default();
                Arc::new(Served::new(resource.clone(), at_rest, converter))
            };
            version.insert(resource.plural.clone(), known.cloned().unwrap_or_else(made));
        }
        drop(at_rest);
        Self { registry, tag, terminating, served, documents: OnceLock::new() }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.served.get(group)?.get(version)?.get(plural)
    }

    /// The same resource in the version that discovery prefers.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Served>> {
        let resource = self.registry.all().iter().find(|r| r.group == group && r.plural == plural)?;
        self.find(group, &resource.version, plural)
    }

    /// # Errors
    /// `NotFound` in the words of a server without that resource.
    pub fn need(&self, group: &str, plural: &str) -> Result<&Arc<Served>> {
        self.preferred(group, plural).ok_or_else(not_served)
    }

    /// Whether the definition of a custom resource is going.
    pub fn is_terminating(&self, resource: &Resource) -> bool {
        resource.custom.as_ref().is_some_and(|c| self.terminating.contains(&c.definition))
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.served.contains_key(group)
    }

    /// Whether a group is compiled in. The core group is the empty one.
    pub fn has_builtin_group(&self, group: &str) -> bool {
        self.registry.all().iter().any(|r| r.group == group && r.custom.is_none())
    }

    /// Whether all of a version of a group is defined by custom resources.
    pub fn is_custom(&self, group: &str, version: &str) -> bool {
        let of_version = |r: &&Arc<Resource>| r.group == group && r.version == version;
        self.registry.all().iter().filter(of_version).all(|r| r.custom.is_some()) && self.has_group_version(group, version)
    }

    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.served.get(group).is_some_and(|versions| versions.contains_key(version))
    }

    /// Discovery and OpenAPI documents of this catalog, made when first asked for.
    pub fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::new(self.registry.clone()))
    }
}

const NOT_SERVED: &str = "the server could not find the requested resource";

const NO_PAGE: &str = "404 page not found";

/// What clients see of a path below a group that is served, when there is nothing there.
pub fn not_served() -> Status {
    Status::new(404, knarr_core::Reason::NotFound, NOT_SERVED).with_details(knarr_core::status::Details::default())
}

/// What clients see of a path that nobody serves: no router has come by that knows what a `Status` is.
pub fn no_page() -> Status {
    Status::new(404, knarr_core::Reason::NotFound, NO_PAGE)
}

/// Whether it is that: on the wire it is plain text.
pub fn is_no_page(status: &Status) -> bool {
    status.code == 404 && status.message == NO_PAGE
}
