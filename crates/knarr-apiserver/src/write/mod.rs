//! Writes. The order of every one of them: decode → default → managed fields → mutating admission → what the server and the
//! kind set themselves → validation → validating admission → compare-and-swap. No watcher sees a state that was not allowed.
//!
//! Managed fields come before admission, as upstream has it: what admission adds belongs to nobody.

mod collection;
mod create;
pub mod decode;
mod delete;
pub mod meta;
pub mod patch;
mod update;

use std::{sync::Arc, time::Duration};

use knarr_core::{GroupVersionKind, Result, Status, Value, ValueExt, field::ErrorList, time};
use knarr_kinds::Context;
use knarr_schema::apply::{self, Manager};
use knarr_store::{Item, ObjectKey};

pub use collection::delete_collection;
pub use create::{create, insert};
pub use delete::{delete, remove};
pub use patch::patch;
pub use update::{Change, replace, update};

use crate::{
    admission::{Operation, Passes, Request, Review, chain},
    authz::Attributes,
    call::Exchange,
    catalog::Behaviour,
};

/// How often a write that lost the swap without its client's fault is tried again.
const ATTEMPTS_MAX: usize = 64;

/// The steps that all writes share, for one object of one request.
pub struct Writer<'a> {
    pub ex: &'a Exchange<'a>,
    pub behaviour: Behaviour,
    pub attributes: Attributes,
    extra: Option<Value>,
    now: String,
}

impl<'a> Writer<'a> {
    pub fn new(ex: &'a Exchange<'a>) -> Self {
        let user = &ex.call.user;
        let extra = (!user.extra.is_empty()).then(|| serde_json::to_value(&user.extra).unwrap_or_default());
        Self { behaviour: ex.served.behaviour(&ex.call.info.subresource), attributes: attributes(ex), extra, now: time::format(ex.server.env.now()), ex }
    }

    pub fn context(&self) -> Context<'_> {
        let user = &self.ex.call.user;
        Context {
            env: &self.ex.server.env,
            namespace: self.ex.namespace(),
            user: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: self.extra.as_ref(),
            labels_defaulted: self.ex.labels_defaulted(),
            warnings: Some(self.ex),
        }
    }

    pub fn manager(&self) -> Manager<'_> {
        Manager { name: self.ex.call.manager(), subresource: &self.ex.call.info.subresource, now: &self.now }
    }

    /// Brings `managedFields` up to date, in the version of the request. `old` and `new` are in that version.
    pub fn track(&self, old: Option<&Value>, new: &mut Value) {
        apply::track_update(&self.ex.served.resource, old, new, self.manager());
    }

    /// Lets the plugins change the object (in its stored version), and fills in defaults again.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn mutate(&self, operation: Operation, mut object: Value, old: Option<&Value>) -> Result<Value> {
        let (is_concerned, may_change) = self.concerned(operation);
        if is_concerned {
            object = self.mutate_other(operation, object, old).await?;
            if may_change {
                decode::conform_again(self.ex, &mut object)?;
                decode::defaults(self.ex, &mut object);
            }
            meta::dedup_owners(self.ex, &mut object, true);
        }
        Ok(object)
    }

    /// Whether any plugin looks at such a write, and whether one may change the object.
    fn concerned(&self, operation: Operation) -> (bool, bool) {
        let plugins = self.ex.server.plugins.load();
        let mut passes = plugins.iter().filter(|p| p.handles(operation, &self.attributes)).map(|p| p.passes()).peekable();
        (passes.peek().is_some(), passes.any(|p| p != Passes::Validating))
    }

    /// The same for an object that is not of the request's resource (a binding, an eviction): nobody fills in defaults. When a
    /// plugin wants it, all are asked a second time.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn mutate_other(&self, operation: Operation, object: Value, old: Option<&Value>) -> Result<Value> {
        let mut review = self.review(operation, Some(object), old);
        let result = chain::mutate(self.ex.server, &mut review).await;
        self.note(&review);
        result.map(|()| review.object.unwrap_or_default())
    }

    /// Lets the plugins refuse. Gives the object back.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn admit(&self, operation: Operation, object: Option<Value>, old: Option<&Value>) -> Result<Option<Value>> {
        let review = self.review(operation, object, old);
        let verdict = chain::validate(self.ex.server, &review).await;
        self.note(&review);
        verdict.map(|()| review.object)
    }

    /// Both passes for a write without an object: a delete.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn admit_delete(&self, old: &Value) -> Result<()> {
        let mut review = self.review(Operation::Delete, None, Some(old));
        let verdict = chain::mutate(self.ex.server, &mut review).await;
        self.note(&review);
        verdict?;
        self.admit(Operation::Delete, None, Some(old)).await.map(drop)
    }

    /// Tells the client and the audit event what plugins noted.
    fn note(&self, review: &Review<'_>) {
        self.ex.warn_all(review.notes.take_warnings());
        self.ex.annotate_all(review.notes.take_annotations());
    }

    fn review<'r>(&'r self, operation: Operation, object: Option<Value>, old: Option<&'r Value>) -> Review<'r> {
        let ex = self.ex;
        let request = Request::new(ex.server, &ex.catalog, &ex.served, &ex.call.info.subresource, Some(ex.call));
        Review { object, old, dry_run: ex.dry_run(), request: Some(request), ..Review::new(operation, &self.attributes, &ex.served.hub) }
    }

    /// Turns what validation found into a refusal.
    ///
    /// # Errors
    /// `Invalid`, when anything was found.
    pub fn refuse(&self, object: &Value, errors: &ErrorList) -> Result<()> {
        if errors.is_empty() {
            return Ok(());
        }
        let mut told = ErrorList::new();
        errors.iter().for_each(|e| {
            if self.behaviour.repeats_causes() || !told.contains(e) {
                told.push(e.clone());
            }
        });
        Err(Status::invalid(&self.refused_kind(object), object.str_at(&["metadata", "name"]).unwrap_or_default(), &told))
    }

    /// The kind that an invalid object is called by. Events of both groups are one internal kind, that of the core group; a custom
    /// resource says itself what it is.
    fn refused_kind(&self, object: &Value) -> GroupVersionKind {
        let GroupVersionKind { group, version, kind } = &self.ex.served.gvk;
        let core = self.ex.served.is("events.k8s.io", "events");
        let own = object.str_at(&["kind"]).filter(|_| self.ex.served.resource.custom.is_some());
        GroupVersionKind::new(if core { "" } else { group }, version, own.unwrap_or(kind))
    }

    pub fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(self.ex.namespace(), name)
    }

    /// The stored object as it is now.
    pub fn current(&self, name: &str) -> Option<Arc<Item>> {
        self.ex.server.storage.get_now(&self.ex.served.key, &self.key(name))
    }

    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.ex.served.group_resource, name)
    }

    /// How long the object lives: events alone end by themselves.
    pub fn ttl(&self) -> Option<Duration> {
        (self.ex.served.resource.plural == "events" && self.ex.served.key.group.is_empty()).then_some(self.ex.server.config.event_ttl)
    }

    /// A tree of the hub version for the store.
    ///
    /// # Errors
    /// When it cannot be encoded, or is larger than the store takes.
    pub fn encode(&self, object: &Value) -> Result<bytes::Bytes> {
        let bytes = self.ex.served.store_form(object)?;
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(Status::too_large("limit is 3145728"));
        }
        Ok(bytes)
    }
}

/// Largest stored object (etcd's default request limit).
const OBJECT_BYTES_MAX: usize = 1_572_864;

/// What authorization and admission are asked about.
pub fn attributes(ex: &Exchange<'_>) -> Attributes {
    let info = &ex.call.info;
    Attributes {
        user: (*ex.call.user).clone(),
        verb: info.verb.clone(),
        namespace: info.namespace.clone(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        is_resource_request: true,
        label_selector: None,
        field_selector: None,
    }
}
