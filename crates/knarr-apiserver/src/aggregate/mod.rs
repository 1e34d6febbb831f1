//! Group versions that another server serves: an `APIService` names it, we hand requests on and vouch for their user
//! (upstream: `k8s.io/kube-aggregator`). Those that we serve ourselves are registered as `Local`.

mod check;
mod discovery;
mod follow;
mod local;
mod proxy;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine;
use knarr_core::{Result, Status, Value, ValueExt};
use rustls::{ClientConfig, RootCertStore};

use crate::{pki::Shown, request::RequestInfo, streaming::trust};
use proxy::Pool;

pub use follow::start;
pub use proxy::forward;

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
pub(crate) const PLURAL: &str = "apiservices";

/// One group version of another server.
pub struct Remote {
    /// Of the APIService: `v1beta1.metrics.k8s.io`.
    pub name: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub service: String,
    pub port: i64,
    group_priority: i64,
    version_priority: i64,
    tls: Arc<ClientConfig>,
    available: AtomicBool,
    /// Its `APIResourceList`, as it was when it was checked last.
    resources: ArcSwapOption<Value>,
    pool: Pool,
    checking: AtomicBool,
}

type ByGroupVersion = BTreeMap<(String, String), Arc<Remote>>;

/// What a server knows of other servers.
#[derive(Default)]
pub struct Aggregation {
    remotes: ArcSwap<ByGroupVersion>,
    identity: Option<Arc<Shown>>,
    /// Grows with whatever discovery tells of other servers.
    generation: AtomicU64,
    /// Told when the catalog has changed, so that local group versions are registered.
    pub(crate) catalog_changed: Arc<tokio::sync::Notify>,
}

impl Aggregation {
    /// `identity` is what other servers know us by: a client certificate of the front proxy's CA.
    pub fn new(identity: Option<Arc<Shown>>) -> Self {
        Self { identity, ..Self::default() }
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// A number that differs when [`Self::merge`] would add something else; absent when it adds nothing.
    pub fn generation(&self) -> Option<u64> {
        let generation = self.generation.load(Relaxed);
        (!self.remotes.load().is_empty()).then_some(generation)
    }

    /// Adds what other servers serve to a discovery document of ours (`/apis`, `/apis/GROUP`; `version` of the aggregated
    /// form). `tree` is absent when we have nothing at that path ourselves.
    pub fn merge(&self, path: &str, tree: Option<Value>, aggregated: bool) -> Option<Value> {
        discovery::merge(&self.remotes.load(), path, tree, aggregated)
    }

    /// The other server that a path belongs to.
    pub fn find(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        let mut parts = info.path.trim_matches('/').split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("apis"), Some(group), Some(version)) => remotes.get(&(group.to_owned(), version.to_owned())).cloned(),
            _ => None,
        }
    }
}

impl Remote {
    /// Reads an APIService; `None` for a local one.
    ///
    /// # Errors
    /// When its CA or our identity cannot be used.
    fn new(object: &Value, identity: Option<&Arc<Shown>>) -> Result<Option<Self>> {
        let Some(service) = object.at(&["spec", "service"]) else { return Ok(None) };
        let text = |path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
        let number = |path: &[&str]| object.i64_at(path).unwrap_or(0);
        let insecure = object.bool_at(&["spec", "insecureSkipTLSVerify"]) == Some(true);
        Ok(Some(Self {
            name: text(&["metadata", "name"]),
            group: text(&["spec", "group"]),
            version: text(&["spec", "version"]),
            namespace: service.str_at(&["namespace"]).unwrap_or_default().to_owned(),
            service: service.str_at(&["name"]).unwrap_or_default().to_owned(),
            port: service.i64_at(&["port"]).unwrap_or(443),
            group_priority: number(&["spec", "groupPriorityMinimum"]),
            version_priority: number(&["spec", "versionPriority"]),
            tls: Arc::new(tls(object.str_at(&["spec", "caBundle"]).unwrap_or_default(), insecure, identity)?),
            available: AtomicBool::new(is_available(object)),
            resources: ArcSwapOption::empty(),
            pool: Pool::default(),
            checking: AtomicBool::new(false),
        }))
    }

    pub fn is_available(&self) -> bool {
        self.available.load(Relaxed)
    }

    /// Its `APIResourceList`, once it has been reached.
    pub fn resources(&self) -> Option<Arc<Value>> {
        self.resources.load_full()
    }

    /// The name that its certificate must have.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

fn is_available(object: &Value) -> bool {
    object.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == Some("Available") && c.str_at(&["status"]) == Some("True"))
}

/// What we ask of the other server's certificate, and the one that we show.
fn tls(ca_bundle: &str, insecure: bool, identity: Option<&Arc<Shown>>) -> Result<ClientConfig> {
    let failed = |e: &dyn std::fmt::Display| Status::internal(format!("the TLS configuration of an APIService: {e}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| failed(&e))?;
    let builder = if insecure {
        builder.dangerous().with_custom_certificate_verifier(trust::nobody_is_asked())
    } else {
        let pem = base64::engine::general_purpose::STANDARD.decode(ca_bundle).map_err(|e| failed(&e))?;
        if pem.iter().all(u8::is_ascii_whitespace) {
            builder.with_root_certificates(RootCertStore::empty())
        } else {
            builder.dangerous().with_custom_certificate_verifier(trust::bundle(&pem).map_err(|e| failed(&e))?)
        }
    };
    Ok(match identity {
        Some(shown) => builder.with_client_cert_resolver(shown.clone()),
        None => builder.with_no_client_auth(),
    })
}
