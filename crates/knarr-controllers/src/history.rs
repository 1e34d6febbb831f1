//! ControllerRevisions: what a StatefulSet's or DaemonSet's template was, so that pods of an older one can be told apart and
//! rolled back to. Upstream: `pkg/controller/history`.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use knarr_client::client::{self, Resource};
use knarr_client::{Client, Deletion, Informer, Key, Typed};
use knarr_core::selector::LabelSelector;
use knarr_core::{Result, Value, json};

use crate::context::ControllerContext;
use crate::ledger::Ledger;
use crate::ownership::{self, Owned, controller_reference};

/// The name of revisions in a [`Ledger`].
pub const REVISIONS: &str = "controllerrevisions";
/// Longest part of the owner's name in a revision's name.
const PREFIX_MAX: usize = 223;

/// The patch that a revision holds: it replaces the template.
///
/// # Errors
/// A template that JSON cannot say.
pub fn data(template: &PodTemplateSpec) -> Result<Value> {
    let mut template = client::tree(template)?;
    template["$patch"] = "replace".into();
    Ok(json!({"spec": {"template": template}}))
}

/// The template that a revision holds.
///
/// # Errors
/// Data of another form.
pub fn template(revision: &ControllerRevision) -> Result<PodTemplateSpec> {
    let template = revision.data.0.get("spec").and_then(|s| s.get("template")).cloned().unwrap_or_default();
    PodTemplateSpec::from_tree(template)
}

/// Whether a revision holds this very template. What is empty and what is absent are the same.
pub fn holds(revision: &ControllerRevision, wanted: &PodTemplateSpec) -> bool {
    template(revision).is_ok_and(|t| crate::templates::same(Some(&t), Some(wanted)))
}

pub fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or_default()
}

/// Oldest first; names decide among equals.
pub fn sort(revisions: &mut [ControllerRevision]) {
    let created = |r: &ControllerRevision| r.metadata.creation_timestamp.as_ref().map(|t| t.0);
    revisions.sort_by(|a, b| number(a).cmp(&number(b)).then_with(|| created(a).cmp(&created(b))).then_with(|| name(a).cmp(name(b))));
}

/// The name of a revision: the owner's, cut where it is too long, and the hash.
pub fn revision_name(owner: &str, hash: &str) -> String {
    format!("{}-{hash}", &owner[..owner.floor_char_boundary(PREFIX_MAX)])
}

/// Revisions of one kind of owner.
pub struct History {
    pub client: Client,
    pub revisions: Informer<Owned>,
}

impl History {
    pub fn new(context: &ControllerContext, client: &Client) -> Self {
        let revisions = context.informer::<ControllerRevision, Owned>();
        ownership::index_by_controller(&revisions);
        Self { client: client.clone(), revisions }
    }

    /// The owner's revisions, oldest first, after adopting matching orphans.
    ///
    /// # Errors
    /// As the API's.
    pub async fn claim<T>(&self, key: &Key, owner: &T, selector: &LabelSelector, ledger: &Ledger) -> Result<Vec<ControllerRevision>>
    where
        T: Resource + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        let meta = owner.metadata();
        let uid = meta.uid.clone().unwrap_or_default();
        let candidates = ownership::controllees(&self.revisions, &uid).into_iter().chain(ownership::orphans(&self.revisions, key.namespace()));
        let claims = ownership::claim(&uid, meta.deletion_timestamp.is_some(), candidates, |r| ownership::labels_match(&r.object, selector));
        let mut all: Vec<ControllerRevision> = claims.owned.iter().map(|r| r.typed()).collect::<Result<_>>()?;
        if !claims.adopt.is_empty() {
            ownership::may_adopt(&self.client.within::<T>(key.namespace()), key.name(), &uid).await?;
        }
        let me = controller_reference(owner);
        let api = self.client.within::<ControllerRevision>(key.namespace());
        for orphan in claims.adopt {
            match api.dynamic().patch(orphan.key.name(), ownership::adoption(&me, &orphan.view.uid)).await {
                Ok(object) => {
                    ledger.wrote(key, REVISIONS, object.resource_version);
                    all.push(knarr_client::read::typed(&object)?);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        sort(&mut all);
        Ok(all)
    }

    /// Creates a revision. `name_of` gives its name and hash label for a number of collisions; the number of collisions
    /// that were met is given back beside the revision.
    ///
    /// # Errors
    /// As the API's, except `AlreadyExists`.
    pub async fn create(
        &self,
        key: &Key,
        ledger: &Ledger,
        mut collisions: i32,
        make: impl Fn(i32) -> Result<ControllerRevision>,
    ) -> Result<(ControllerRevision, i32)> {
        let api = self.client.within::<ControllerRevision>(key.namespace());
        loop {
            let wanted = make(collisions)?;
            match api.dynamic().create(client::tree(&wanted)?).await {
                Ok(object) => {
                    ledger.wrote(key, REVISIONS, object.resource_version);
                    return Ok((knarr_client::read::typed(&object)?, collisions));
                }
                Err(error) if error.is_already_exists() => {
                    let known = api.get(name(&wanted)).await?;
                    if known.data == wanted.data {
                        return Ok((known, collisions));
                    }
                    collisions += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a revision the newest.
    ///
    /// # Errors
    /// As the API's.
    pub async fn renumber(&self, key: &Key, ledger: &Ledger, mut revision: ControllerRevision, number: i64) -> Result<ControllerRevision> {
        revision.revision = Some(number);
        let object = self.client.within::<ControllerRevision>(key.namespace()).dynamic().update(client::tree(&revision)?).await?;
        ledger.wrote(key, REVISIONS, object.resource_version);
        knarr_client::read::typed(&object)
    }

    /// # Errors
    /// As the API's, except `NotFound`.
    pub async fn delete(&self, key: &Key, revision: &ControllerRevision) -> Result<()> {
        match self.client.within::<ControllerRevision>(key.namespace()).delete(name(revision), &Deletion::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// A revision that holds a template.
///
/// # Errors
/// A template that JSON cannot say.
pub fn new_revision<T>(owner: &T, name: String, labels: (&str, &str), template: &PodTemplateSpec, number: i64) -> Result<ControllerRevision>
where
    T: k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let meta = owner.metadata();
    let mut all = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    all.insert(labels.0.to_owned(), labels.1.to_owned());
    Ok(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: meta.namespace.clone(),
            labels: Some(all),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data(template)?),
        revision: Some(number),
    })
}
