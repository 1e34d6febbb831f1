//! The Services of the cluster, as far as containers' environments speak of them. One informer with a small projection.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use knarr_client::{Informer, Project, Query, read};
use knarr_core::clock::Env;
use knarr_core::{Object, Result};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::container::env::ServiceLink;

/// How long the first containers wait for the first list.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Narrow {
    metadata: Name,
    spec: Spec,
}

knarr_client::partial!(Narrow);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<Port>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: String,
    port: i32,
    protocol: String,
}

/// What is kept of a Service: nothing of one without an address.
pub struct Link(Option<ServiceLink>);

impl Project for Link {
    fn project(object: &Object) -> Result<Self> {
        let narrow: Narrow = read::typed(object)?;
        let ip = narrow.spec.cluster_ip;
        if ip.is_empty() || ip == "None" {
            return Ok(Self(None));
        }
        let protocol = |p: String| if p.is_empty() { "TCP".to_owned() } else { p };
        let ports = narrow.spec.ports.into_iter().map(|p| (p.name, p.port, protocol(p.protocol))).collect();
        Ok(Self(Some(ServiceLink { name: narrow.metadata.name, cluster_ip: ip, ports })))
    }
}

pub struct Services(Informer<Link>);

/// The Service of the API server, which every pod sees.
const MASTER: (&str, &str) = ("default", "kubernetes");

impl Services {
    pub fn start(client: knarr_client::Client, env: Env, stop: CancellationToken) -> Self {
        Self(Informer::start(client, Query::all::<Service>(), env, stop))
    }

    /// Waits until the Services are known.
    ///
    /// # Errors
    /// They are not known in time.
    pub async fn ready(&self) -> std::result::Result<(), String> {
        let waited = tokio::time::timeout(FIRST_LIST_TIMEOUT, self.0.wait_synced()).await;
        waited.map_err(|_| "services have not yet been read at least once, cannot construct envvars".to_owned())
    }

    /// The Services that a pod in `namespace` sees: the API server's, and with `links` those of its namespace.
    pub fn visible(&self, namespace: &str, links: bool) -> Vec<ServiceLink> {
        let mut all: BTreeMap<String, ServiceLink> = BTreeMap::new();
        if links {
            let here = self.0.store().within(namespace).into_iter().filter_map(|item| item.view.0.clone());
            all.extend(here.map(|link| (link.name.clone(), link)));
        }
        let (ns, name) = MASTER;
        if let Some(link) = self.0.store().find(ns, name).and_then(|item| item.view.0.clone())
            && !all.contains_key(name)
        {
            all.insert(name.into(), link);
        }
        all.into_values().collect()
    }
}
