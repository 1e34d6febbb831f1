//! Who owns what: controller references, and the rules by which a controller adopts orphans and releases what no longer
//! matches its selector. Upstream: `pkg/controller/controller_ref_manager.go`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as MetaSelector, ObjectMeta, OwnerReference};
use knarr_client::read::{self, Owner};
use knarr_client::{Api, Informer, Item, Patch, Project, client};
use knarr_core::selector::LabelSelector;
use knarr_core::{Object, Reason, Result, Status, json};
use serde::Deserialize;

/// The index of items by the uid of their controller; those without one stand under [`ORPHANS`].
pub const BY_CONTROLLER: &str = "controller";
/// Prefix of the index value under which the orphans of a namespace stand.
pub const ORPHANS: &str = "orphans of ";

/// The owner that manages an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerRef {
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

impl ControllerRef {
    pub fn of(owners: &[Owner]) -> Option<Box<Self>> {
        owners
            .iter()
            .find(|o| o.controller)
            .map(|o| Box::new(Self { api_version: (&*o.api_version).into(), kind: (&*o.kind).into(), name: (&*o.name).into(), uid: (&*o.uid).into() }))
    }
}

/// Something that may have a controller.
pub trait Ownable: Project {
    fn uid(&self) -> &str;
    fn controller(&self) -> Option<&ControllerRef>;
    fn is_deleting(&self) -> bool;
}

/// What informers of most kinds keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub uid: Box<str>,
    pub generation: i64,
    pub deleting: bool,
    pub controller: Option<Box<ControllerRef>>,
}

impl Project for Owned {
    fn project(object: &Object) -> Result<Self> {
        let meta = read::meta(object)?;
        Ok(Self {
            uid: meta.uid.into(),
            generation: meta.generation,
            deleting: meta.deletion_timestamp.is_some(),
            controller: ControllerRef::of(&meta.owner_references),
        })
    }
}

impl Ownable for Owned {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn controller(&self) -> Option<&ControllerRef> {
        self.controller.as_deref()
    }

    fn is_deleting(&self) -> bool {
        self.deleting
    }
}

/// Adds the index that [`controllees`] reads.
pub fn index_by_controller<P: Ownable>(informer: &Informer<P>) {
    informer.store().add_index(BY_CONTROLLER, |item| {
        vec![match item.view.controller() {
            Some(controller) => controller.uid.to_string(),
            None => format!("{ORPHANS}{}", item.key.namespace()),
        }]
    });
}

/// Everything the controller with this uid owns.
pub fn controllees<P: Ownable>(informer: &Informer<P>, uid: &str) -> Vec<std::sync::Arc<Item<P>>> {
    informer.store().by_index(BY_CONTROLLER, uid)
}

/// Everything in a namespace that nobody controls.
pub fn orphans<P: Ownable>(informer: &Informer<P>, namespace: &str) -> Vec<std::sync::Arc<Item<P>>> {
    informer.store().by_index(BY_CONTROLLER, &format!("{ORPHANS}{namespace}"))
}

/// A selector of a spec. One that cannot be read selects nothing.
pub fn selector(selector: &MetaSelector) -> LabelSelector {
    let value = client::tree(selector).ok();
    LabelSelector::from_value(value.as_ref()).unwrap_or_else(|_| LabelSelector::nothing())
}

/// A selector by exact matches (Services, ReplicationControllers). None and empty select nothing.
pub fn map_selector(map: Option<&BTreeMap<String, String>>) -> LabelSelector {
    match map.filter(|m| !m.is_empty()) {
        Some(map) => LabelSelector::from_map(client::tree(map).ok().as_ref()),
        None => LabelSelector::nothing(),
    }
}

/// The value of one label of an object at rest.
pub fn label<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    knarr_schema::codec::meta(object).labels.into_iter().find(|(k, _)| *k == key).map(|(_, v)| v)
}

/// Whether the labels of an object at rest match.
pub fn labels_match(object: &Object, selector: &LabelSelector) -> bool {
    let meta = knarr_schema::codec::meta(object);
    selector.matches_by(|key| meta.labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
}

/// The reference by which a typed object controls others.
pub fn controller_reference<T: k8s_openapi::Metadata<Ty = ObjectMeta>>(owner: &T) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: T::API_VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What is to be done with candidates: those already owned and matching, orphans to adopt, owned ones to release.
pub struct Claims<C> {
    pub owned: Vec<C>,
    pub adopt: Vec<C>,
    pub release: Vec<C>,
}

/// Sorts candidates, which are the controller's own objects and the orphans of its namespace.
pub fn claim<P: Ownable>(
    owner_uid: &str,
    owner_deleting: bool,
    candidates: impl IntoIterator<Item = std::sync::Arc<Item<P>>>,
    matches: impl Fn(&Item<P>) -> bool,
) -> Claims<std::sync::Arc<Item<P>>> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for candidate in candidates {
        match candidate.view.controller() {
            Some(controller) if *controller.uid != *owner_uid => {}
            Some(_) if matches(&candidate) => claims.owned.push(candidate),
            Some(_) if !owner_deleting => claims.release.push(candidate),
            None if !owner_deleting && !candidate.view.is_deleting() && matches(&candidate) => claims.adopt.push(candidate),
            _ => {}
        }
    }
    claims
}

/// The patch that adopts the object with this uid.
pub fn adoption(owner: &OwnerReference, uid: &str) -> Patch {
    Patch::strategic(json!({"metadata": {"uid": uid, "ownerReferences": [owner]}}))
}

/// The patch that releases the object with this uid.
pub fn release(owner_uid: &str, uid: &str) -> Patch {
    Patch::strategic(json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}}))
}

#[derive(Deserialize)]
struct Fresh {
    metadata: read::Meta,
}

knarr_client::partial!(Fresh);

/// Asks the API itself whether the owner is still alive: a cache may not have heard of its deletion
/// (upstream: `RecheckDeletionTimestamp`).
///
/// # Errors
/// `Conflict` when it is being deleted or another has taken its name; or as the API's.
pub async fn may_adopt<T: client::Resource>(api: &Api<T>, name: &str, uid: &str) -> Result<()> {
    let fresh: Fresh = read::typed(&api.dynamic().get(name).await?)?;
    if fresh.metadata.uid != uid {
        return Err(Status::new(409, Reason::Conflict, format!("original {} {name} is gone: got uid {}, wanted {uid}", T::KIND, fresh.metadata.uid)));
    }
    match fresh.metadata.deletion_timestamp {
        Some(at) => Err(Status::new(409, Reason::Conflict, format!("{}/{name} has just been deleted at {at}", fresh.metadata.namespace))),
        None => Ok(()),
    }
}
