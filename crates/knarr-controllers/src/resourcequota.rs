//! Resource quotas: `status.hard` follows the spec, and `status.used` is counted anew when the spec changes and when something
//! that is counted goes. What comes is charged by admission. Upstream: `pkg/controller/resourcequota`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use knarr_client::{Change, Client, Informer, Key, Outcome, Project, Query, SharedInformers, WorkQueue, read};
use knarr_core::clock::Env;
use knarr_core::quantity::Quantity;
use knarr_core::{GroupResource, Object, Result, Value, ValueExt};
use knarr_kinds::quota::{self, Amounts};
use parking_lot::Mutex;

use crate::context::ControllerContext;
use crate::resources::{ResourceInfo, Resources};

/// Everything is counted anew after this time (upstream: `--resource-quota-sync-period`): a charge may have been for nothing.
const SYNC_PERIOD: Duration = Duration::from_secs(300);

/// What is limited.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    /// `spec.hard`.
    hard: Value,
    /// Whether `status.hard` says the same.
    told: bool,
}

impl Project for Limits {
    fn project(object: &Object) -> Result<Self> {
        let quota = read::value(object)?;
        let hard = |part: &str| quota.at(&[part, "hard"]);
        Ok(Self { told: quota::amounts(hard("spec")) == quota::amounts(hard("status")), hard: hard("spec").cloned().unwrap_or_default() })
    }
}

impl Limits {
    fn is_about(&self, resource: &GroupResource) -> bool {
        self.hard.as_object().is_some_and(|map| map.keys().any(|name| quota::is_about(name, resource)))
    }
}

/// Keys are those of quotas.
pub fn start(context: &ControllerContext, resources: &Resources) {
    let counter = Arc::new(Counter {
        client: context.client("resourcequota-controller"),
        env: context.env.clone(),
        informers: context.informers.clone(),
        resources: resources.clone(),
        quotas: context.informer::<core::ResourceQuota, Limits>(),
        queue: context.queue("resource_quota_controller_resource_changes"),
        followed: Mutex::default(),
        counted: Mutex::default(),
    });
    let queue = counter.queue.clone();
    counter.quotas.on_change(move |change| {
        let is_same = |new: &Limits| change.old.as_ref().is_some_and(|old| old.view.hard == new.hard);
        if change.new.as_ref().is_none_or(|new| !new.view.told || !is_same(&new.view)) {
            queue.add(change.key().clone());
        }
    });
    let me = counter.clone();
    resources.on_change(move || me.quotas.store().list().iter().for_each(|q| me.queue.add(q.key.clone())));
    context.run("resourcequota", counter.queue.clone(), move |key: Key| {
        let counter = counter.clone();
        async move { counter.sync(&key).await }
    });
}

struct Counter {
    client: Client,
    env: Env,
    informers: SharedInformers,
    resources: Resources,
    quotas: Informer<Limits>,
    queue: WorkQueue<Key>,
    followed: Mutex<BTreeMap<GroupResource, Informer<()>>>,
    /// At which version each quota was counted last. What is older and comes to our notice later was not counted.
    counted: Mutex<BTreeMap<Key, u64>>,
}

impl Counter {
    async fn sync(self: &Arc<Self>, key: &Key) -> Result<Outcome> {
        let Some(item) = self.quotas.store().get(key) else {
            self.counted.lock().remove(key);
            return Ok(Outcome::Done);
        };
        self.counted.lock().insert(key.clone(), u64::MAX);
        let mut quota = read::value(&item.object)?;
        let hard = quota::amounts(quota.at(&["spec", "hard"]));
        let before = quota::amounts(quota.at(&["status", "used"]));
        let mut used = before.clone();
        for info in self.resources.all().into_iter().filter(|r| r.namespaced && item.view.is_about(&r.gvr.group_resource())) {
            let informer = self.follow(&info);
            informer.wait_synced().await;
            used.extend(self.count(&quota, &hard, &info.gvr.group_resource(), &informer, key.namespace())?);
        }
        used.retain(|name, _| hard.contains_key(name));
        let is_current = |field: &str, wanted: &Amounts| quota.at(&["status", field]).is_some_and(|map| quota::amounts(Some(map)) == *wanted);
        let mut version = item.object.resource_version;
        if !is_current("hard", &hard) || !is_current("used", &used) {
            quota.set(&["status"], Value::Object(knarr_core::Map::new()));
            quota.set(&["status", "hard"], quota::to_value(&hard));
            quota.set(&["status", "used"], quota::to_value(&used));
            match self.client.within::<core::ResourceQuota>(key.namespace()).dynamic().update_status(quota).await {
                Err(e) if e.is_not_found() => return Ok(Outcome::Done),
                other => version = other?.resource_version,
            }
        }
        self.counted.lock().insert(key.clone(), version);
        Ok(Outcome::After(SYNC_PERIOD))
    }

    /// What all objects of a resource in a namespace take of a quota.
    fn count(&self, quota: &Value, hard: &Amounts, resource: &GroupResource, informer: &Informer<()>, namespace: &str) -> Result<Amounts> {
        let mut sum: Amounts = hard.keys().filter(|name| quota::is_about(name, resource)).map(|name| (name.clone(), Quantity::ZERO)).collect();
        for item in informer.store().within(namespace) {
            let object = read::value(&item.object)?;
            if !quota::is_in_scope(quota, resource, &object) {
                continue;
            }
            for (name, amount) in quota::usage(resource, &object, self.env.now()) {
                if let Some(total) = sum.get_mut(&name) {
                    *total += amount;
                }
            }
        }
        Ok(sum)
    }

    fn follow(self: &Arc<Self>, info: &ResourceInfo) -> Informer<()> {
        let resource = info.gvr.group_resource();
        if let Some(informer) = self.followed.lock().get(&resource) {
            return informer.clone();
        }
        let informer = self.informers.get::<()>(Query::of(info.gvr.clone()));
        if self.followed.lock().insert(resource.clone(), informer.clone()).is_none() {
            let me = self.clone();
            informer.on_change(move |change| me.replenish(&resource, change));
        }
        informer
    }

    /// Something that takes less than before, or is gone, makes room. Something new was charged by admission, unless it is
    /// older than the quota.
    fn replenish(&self, resource: &GroupResource, change: &Change<()>) {
        let quotas = self.quotas.store().within(change.key().namespace());
        let about: Vec<&Key> = quotas.iter().filter(|q| q.view.is_about(resource)).map(|q| &q.key).collect();
        if about.is_empty() {
            return;
        }
        let Some(old) = &change.old else {
            let counted = self.counted.lock();
            let missed = |key: &&Key| counted.get(*key).is_some_and(|version| change.item().object.resource_version <= *version);
            return about.into_iter().filter(missed).for_each(|key| self.queue.add(key.clone()));
        };
        let measure = |object: &Object| {
            let tree = read::value(object).unwrap_or_default();
            (quota::usage(resource, &tree, self.env.now()), quota::has_deadline(&tree))
        };
        if change.new.as_ref().is_none_or(|new| measure(&old.object) != measure(&new.object)) {
            about.into_iter().for_each(|key| self.queue.add(key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::testing::Harness;
    use knarr_core::json;

    #[tokio::test(start_paused = true)]
    async fn usage_is_counted_and_falls_when_things_go() {
        let harness = Harness::new();
        let quota =
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": {"secrets": "5", "pods": "2"}}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "a"}});
        harness.api.seed(&serde_json::from_value::<core::Secret>(secret).unwrap());
        harness.api.seed(&serde_json::from_value::<core::ResourceQuota>(quota).unwrap());
        start(&harness.context, &Resources::new(&harness.context));
        let used = |api: &knarr_client::fake::FakeApi, name: &str| {
            api.read::<core::ResourceQuota>("a", "q").and_then(|q| q.status?.used?.get(name).map(|n| n.0.clone()))
        };
        harness.api.until(|api| used(api, "secrets").as_deref() == Some("1") && used(api, "pods").as_deref() == Some("0")).await;
        harness.api.client().within::<core::Secret>("a").delete("s", &Default::default()).await.unwrap();
        harness.api.until(|api| used(api, "secrets").as_deref() == Some("0")).await;
    }
}
