//! Namespace deletion: everything in a namespace goes, pods first, then the namespace itself. Conditions tell what is in the
//! way. Upstream: `pkg/controller/namespace`.

mod conditions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::{Api, Client, Deletion, Key, Meta, Outcome, read};
use knarr_core::api::Options;
use knarr_core::clock::Env;
use knarr_core::{Reason, Result, Status};
use serde::Deserialize;

use crate::context::{ControllerContext, enqueue_all};
use crate::garbagecollector::census::Census;
use crate::resources::{ResourceInfo, Resources};
use conditions::Findings;

/// The finalizer that this controller works off.
const FINALIZER: &str = "kubernetes";
/// How long finalizers of others may take, when nobody knows.
const FINALIZER_ESTIMATE: i64 = 15;
/// Resources that are emptied at once.
const PARALLEL: usize = 8;

/// Keys are names of namespaces.
pub fn start(context: &ControllerContext, census: &Arc<Census>) {
    let namespaces = context.informer::<Namespace, Meta>();
    let queue = context.queue("namespace");
    enqueue_all(&namespaces, &queue);
    let (woken, known) = (queue.clone(), namespaces.clone());
    census.on_empty(move |namespace| {
        let key = Key::new("", namespace);
        if known.store().get(&key).is_some_and(|n| n.view.is_deleting()) {
            woken.add(key);
        }
    });
    let deleter = Arc::new(Deleter { client: context.client("namespace-controller"), resources: census.resources.clone(), env: context.env.clone() });
    context.run("namespace", queue, move |key: Key| {
        let (deleter, deleting) = (deleter.clone(), namespaces.store().get(&key).is_some_and(|n| n.view.is_deleting()));
        async move { if deleting { deleter.delete(key.name()).await } else { Ok(Outcome::Done) } }
    });
}

struct Deleter {
    client: Client,
    resources: Resources,
    env: Env,
}

/// What is left of a resource after deleting it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remaining {
    count: usize,
    finalizers: BTreeMap<String, usize>,
    /// Seconds until it may be gone.
    estimate: i64,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct PodGrace {
    spec: GraceSpec,
    status: GraceStatus,
}

knarr_client::partial!(PodGrace);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GraceSpec {
    termination_grace_period_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GraceStatus {
    phase: String,
}

impl Deleter {
    /// Upstream: `namespacedResourcesDeleter.Delete`.
    async fn delete(&self, name: &str) -> Result<Outcome> {
        let namespaces: Api<Namespace> = self.client.all();
        let Some(mut namespace) = namespaces.find(name).await? else { return Ok(Outcome::Done) };
        let Some(Time(since)) = namespace.metadata.deletion_timestamp.clone() else { return Ok(Outcome::Done) };
        if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".into());
            namespace = namespaces.update_status(&namespace).await?;
        }
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if finalizers.is_empty() {
            return Ok(Outcome::Done);
        }
        let (findings, estimate) = self.delete_content(name, since).await;
        let complete = findings.is_clean();
        if findings.apply(&mut namespace, self.env.now()) {
            namespace = namespaces.update_status(&namespace).await?;
        }
        if let Some(error) = findings.first_error() {
            return Err(error);
        }
        if !complete || estimate > 0 {
            let seconds = u64::try_from(estimate / 2 + 1).unwrap_or(1);
            return Ok(Outcome::After(Duration::from_secs(seconds)));
        }
        namespace.spec.get_or_insert_default().finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
        match self.client.finalize_namespace(&namespace).await {
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            other => other.map(|_| Outcome::Done),
        }
    }

    /// Pods go first: as long as there are any, what protects and serves them stays (network policies above all).
    async fn delete_content(&self, namespace: &str, since: Timestamp) -> (Findings, i64) {
        let (mut findings, mut estimate) = (Findings::default(), 0);
        let all = self.resources.all().into_iter().filter(|r| r.namespaced && r.supports(&["delete"]));
        let (pods, others): (Vec<_>, Vec<_>) = all.partition(|r| r.gvr.group.is_empty() && r.gvr.resource == "pods");
        for group in [pods, others] {
            let work = futures::stream::iter(group).map(|r| async move {
                let result = self.empty(&r, namespace, since).await;
                (r, result)
            });
            let mut results: Vec<_> = work.buffer_unordered(PARALLEL).collect().await;
            results.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (resource, result) in results {
                match result {
                    Ok(remaining) => {
                        estimate = estimate.max(remaining.estimate);
                        findings.remains(&resource, &remaining);
                    }
                    Err((error, remaining)) => {
                        findings.remains(&resource, &remaining);
                        findings.failed(error);
                    }
                }
            }
            if findings.has_remains() {
                break;
            }
        }
        (findings, estimate)
    }

    /// Deletes all objects of a resource and tells what is left.
    async fn empty(&self, resource: &ResourceInfo, namespace: &str, since: Timestamp) -> Result<Remaining, (Status, Remaining)> {
        let quietly = |error: Status| (error, Remaining::default());
        let api = self.client.dynamic(resource.gvr.clone(), Some(namespace));
        if !resource.supports(&["list"]) {
            return Ok(Remaining::default());
        }
        let before = match api.list(&Options::default()).await {
            Ok(list) if list.items.is_empty() => return Ok(Remaining::default()),
            Ok(list) => list.items,
            Err(error) if is_not_served(&error) => return Ok(Remaining::default()),
            Err(error) => return Err(quietly(error)),
        };
        let is_pods = resource.gvr.group.is_empty() && resource.gvr.resource == "pods";
        let estimate = if is_pods { self.grace(&before, since) } else { 0 };
        let deletion = Deletion { propagation_policy: Some("Background"), ..Deletion::default() };
        if resource.supports(&["deletecollection"]) {
            api.delete_collection(&deletion, &Options::default()).await.map_err(quietly)?;
        } else {
            for object in &before {
                match api.delete(read::key(object).name(), &deletion).await {
                    Err(error) if !error.is_not_found() => return Err(quietly(error)),
                    _ => {}
                }
            }
        }
        let after = api.list(&Options::default()).await.map_err(quietly)?.items;
        let mut remaining = Remaining { count: after.len(), estimate, ..Remaining::default() };
        for object in &after {
            for finalizer in knarr_schema::codec::meta(object).finalizers {
                *remaining.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
        if remaining.count == 0 {
            return Ok(Remaining::default());
        }
        if remaining.estimate == 0 && remaining.finalizers.is_empty() {
            let gvr = &resource.gvr;
            let text = format!("unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}", gvr.group, gvr.version, gvr.resource);
            return Err((Status::new(500, Reason::InternalError, text), remaining));
        }
        if remaining.estimate == 0 {
            remaining.estimate = FINALIZER_ESTIMATE;
        }
        Ok(remaining)
    }

    /// The longest grace period of these pods, unless it must be over by now.
    fn grace(&self, pods: &[knarr_core::Object], since: Timestamp) -> i64 {
        let alive = pods.iter().filter_map(|p| read::typed::<PodGrace>(p).ok()).filter(|p| !matches!(p.status.phase.as_str(), "Succeeded" | "Failed"));
        let grace = alive.filter_map(|p| p.spec.termination_grace_period_seconds).max().unwrap_or(0);
        if self.env.now().duration_since(since).as_secs() >= grace { 0 } else { grace }
    }
}

/// A resource that discovery knows and the server does not serve after all.
fn is_not_served(error: &Status) -> bool {
    error.is_not_found() || error.reason == Reason::MethodNotAllowed
}

#[cfg(test)]
mod tests;
