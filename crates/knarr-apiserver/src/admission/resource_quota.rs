//! Keeps namespaces within their ResourceQuotas: every write is charged to `status.used` before it is made, and refused when
//! it does not fit. Follows `k8s.io/apiserver/pkg/admission/plugin/resourcequota`.
//!
//! A charge whose write then fails stays until the quota controller counts anew; that is upstream's way too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use jiff::Timestamp;
use knarr_core::{GroupResource, Result, Status, ValueExt};
use knarr_kinds::quota::{self, Charge};
use knarr_schema::codec;
use parking_lot::Mutex;

use super::{Objects, Operation, Passes, Plugin, Review};
use crate::authz::Attributes;

/// How often a charge is tried that somebody else's change of the quota made void.
const ATTEMPTS_MAX: usize = 16;

type Turn = tokio::sync::Mutex<()>;

pub struct ResourceQuota {
    objects: Arc<dyn Objects>,
    /// In each namespace one write is charged at a time.
    turns: Mutex<BTreeMap<String, Weak<Turn>>>,
}

impl ResourceQuota {
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, turns: Mutex::default() }
    }

    fn turn(&self, namespace: &str) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(namespace).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::<Turn>::default();
        turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Charges the quotas in `only` (all, if none), and gives those that changed meanwhile.
    async fn charge(&self, review: &Review<'_>, charge: &Charge<'_>, only: Option<&BTreeSet<String>>) -> Result<BTreeSet<String>> {
        let mut planned = Vec::new();
        for object in self.objects.list("", "resourcequotas", Some(&review.attributes.namespace)) {
            let quota = codec::to_value(&object)?;
            let name = quota.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
            if only.is_none_or(|names| names.contains(&name))
                && let Some(used) = charge.on(&quota).map_err(|why| review.forbidden(why))?
            {
                planned.push((name, quota, used, object.resource_version));
            }
        }
        let mut lost = BTreeSet::new();
        for (name, mut quota, used, version) in planned.into_iter().filter(|_| !review.dry_run) {
            quota.set(&["status", "used"], quota::to_value(&used));
            match self.objects.replace("", "resourcequotas", &quota, version).await {
                Err(status) if status.is_conflict() || status.is_not_found() => {
                    lost.insert(name);
                }
                other => other?,
            }
        }
        Ok(lost)
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        let changes_usage = |plurals: &[&str]| a.group.is_empty() && plurals.contains(&a.resource.as_str());
        !a.namespace.is_empty()
            && match (operation, a.subresource.as_str()) {
                (Operation::Create, "") => true,
                (Operation::Update, "") => changes_usage(&["pods", "services", "persistentvolumeclaims"]),
                (Operation::Update, "resize") => changes_usage(&["pods"]),
                (Operation::Update, "status") => changes_usage(&["persistentvolumeclaims"]),
                _ => false,
            }
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let (a, Some(object)) = (review.attributes, review.object.as_ref()) else { return Ok(()) };
        let keeps_scope = |old| quota::has_deadline(old) == quota::has_deadline(object);
        if a.resource == "pods" && a.subresource.is_empty() && review.old.is_some_and(keeps_scope) {
            return Ok(());
        }
        if self.objects.list("", "resourcequotas", Some(&a.namespace)).is_empty() {
            return Ok(());
        }
        let turn = self.turn(&a.namespace);
        let _mine = turn.lock().await;
        let resource = GroupResource::new(&a.group, &a.resource);
        // Nothing that is being written has outlived its grace, so the time does not matter.
        let charge = Charge { resource: &resource, object, old: review.old, is_status: a.subresource == "status", now: Timestamp::UNIX_EPOCH };
        let mut left = self.charge(review, &charge, None).await?;
        for _ in 0..ATTEMPTS_MAX {
            if left.is_empty() {
                return Ok(());
            }
            left = self.charge(review, &charge, Some(&left)).await?;
        }
        Err(Status::internal("resource quota evaluation timed out"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixed, create};
    use super::*;
    use knarr_core::json;

    #[tokio::test]
    async fn what_does_not_fit_is_refused() {
        let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": {"secrets": "1"}}, "status": {"hard": {"secrets": "1"}, "used": {"secrets": "1"}}});
        let plugin = ResourceQuota::new(Arc::new(Fixed(vec![("resourcequotas", quota)])));
        let object = |namespace: &str| json!({"metadata": {"name": "s", "namespace": namespace}});
        let wanted = "secrets \"s\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1";
        assert_eq!(create(&plugin, "", "secrets", object("n")).await.unwrap_err(), wanted);
        assert!(create(&plugin, "", "configmaps", object("n")).await.is_ok());
        assert!(create(&plugin, "", "secrets", object("m")).await.is_ok());
    }
}
