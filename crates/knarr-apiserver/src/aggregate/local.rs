//! The APIServices of what we serve ourselves (upstream: `controllers/autoregister`).

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use knarr_core::{
    GroupVersionResource, Value, ValueExt,
    api::{Request, Transport, Verb},
    json,
};

use super::{GROUP, PLURAL};
use crate::{
    authn::{MASTERS, User},
    server::Server,
};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Of group versions that are not in the table: custom resources.
const CUSTOM: (i64, i64) = (1000, 100);
/// How many are written at once.
const CONCURRENT_MAX: usize = 16;

/// Group and version, priority of the group, priority of the version.
const PRIORITIES: [(&str, &str, i64, i64); 30] = [
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("certificates.k8s.io", "v1beta1", 17300, 9),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("admissionregistration.k8s.io", "v1beta1", 16700, 12),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("coordination.k8s.io", "v1beta1", 16500, 13),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("resource.k8s.io", "v1beta2", 16200, 15),
    ("resource.k8s.io", "v1beta1", 16200, 9),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
    ("internal.apiserver.k8s.io", "v1alpha1", 16000, 9),
    ("storagemigration.k8s.io", "v1", 15800, 15),
    ("storagemigration.k8s.io", "v1beta1", 15800, 9),
    ("lifecycle.k8s.io", "v1alpha1", 15700, 1),
];

fn resource() -> GroupVersionResource {
    GroupVersionResource::new(GROUP, "v1", PLURAL)
}

/// Registers what is served and not registered, and removes what was registered for custom resources that are gone.
pub async fn register(server: &Server) {
    let transport = server.transport(User { name: "system:apiserver".into(), groups: vec![MASTERS.into()], ..User::default() }).with_agent("kube-apiserver");
    let registry = server.registry();
    let storage = &server.inner.storage;
    let stored = storage.snapshot(&knarr_store::ResourceKey::new(GROUP, PLURAL));
    let mut served = BTreeSet::new();
    let mut missing = Vec::new();
    for (group, versions) in registry.groups().into_iter().filter(|(g, _)| g != GROUP) {
        for version in versions {
            let name = format!("{version}.{group}");
            if stored.get(&name).is_none() {
                missing.push(object(&name, &group, &version));
            }
            served.insert(name);
        }
    }
    let create = |object: Value| {
        let mut request = Request::new(Verb::Create, resource());
        request.body = Some(object);
        transport.call(request)
    };
    let gone = stored.iter(None, None).filter(|item| !served.contains(item.name()) && item.field(&["metadata", "labels", MANAGED]) == "true");
    let delete = |name: String| {
        let mut request = Request::new(Verb::Delete, resource());
        request.name = Some(name);
        transport.call(request)
    };
    let writes: Vec<_> = missing.into_iter().map(create).chain(gone.map(|i| i.name().to_owned()).map(delete)).collect();
    let mut results = stream::iter(writes).buffer_unordered(CONCURRENT_MAX);
    while let Some(result) = results.next().await {
        if let Err(error) = result
            && !error.is_already_exists()
            && !error.is_not_found()
        {
            tracing::warn!(%error, "an APIService could not be kept in step");
        }
    }
}

fn object(name: &str, group: &str, version: &str) -> Value {
    let known = PRIORITIES.iter().find(|(g, v, ..)| *g == group && *v == version);
    let (group_priority, version_priority) = known.map_or(CUSTOM, |(.., g, v)| (*g, *v));
    let mut object = json!({
        "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
        "metadata": {"name": name, "labels": {MANAGED: if known.is_some() { "onstart" } else { "true" }}},
        "spec": {"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority},
    });
    if !group.is_empty() {
        object.set(&["spec", "group"], group);
    }
    object
}
