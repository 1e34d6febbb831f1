//! The server: what it is made of, and how it is put together.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use ipnet::IpNet;
use knarr_core::clock::Env;
use knarr_schema::registry::Registry;
use knarr_store::Storage;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Plugin,
    aggregate::Aggregation,
    alloc::Allocators,
    audit::{self, Auditor},
    authn::{self, Authenticator, User},
    authz::{self, Authorizer},
    catalog::Catalog,
    encode::pieces::Pieces,
    flowcontrol::FlowControl,
    health::Health,
    http::{Codecs, Cors},
    metrics::Metrics,
    pki::Shown,
    spans::Tracer,
    streaming::Streaming,
    tokens::TokenIssuer,
    transport::InProcess,
};

/// What can be set from outside. The defaults are kube-apiserver's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where ClusterIPs come from; the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
    /// Deadline of everything that is not long-running (`--request-timeout`).
    pub request_timeout: Duration,
    /// Shortest time a watch lasts that names no timeout; up to twice as long, at random (`--min-request-timeout`).
    pub watch_timeout_min: Duration,
    /// With the next one: the seats that priority levels share (`--max-requests-inflight`).
    pub read_inflight_max: usize,
    /// See the one before (`--max-mutating-requests-inflight`).
    pub write_inflight_max: usize,
    /// What is written to the audit log (`--audit-…`); [`Auditor::open`] makes an auditor of it.
    pub audit: audit::Settings,
    /// How long events are kept (`--event-ttl`).
    pub event_ttl: Duration,
    /// Headers by which a front proxy names users, beside the usual ones: nobody behind authentication sees them. A prefix ends
    /// with a dash.
    pub front_proxy_headers: Vec<String>,
    /// `host:port` that discovery tells clients; empty: what the client asked for.
    pub advertise_address: String,
    /// Components that run in this process, as ComponentStatuses name them.
    pub components: &'static [&'static str],
    /// Encodings beside those that every server has (`--feature-gates`).
    pub codecs: Codecs,
    /// Pages of other origins that may call it from a browser (`--cors-allowed-origins`).
    pub cors: Cors,
    /// What browsers are told of TLS (`--strict-transport-security-directives`).
    pub transport_security: Option<HeaderValue>,
    /// Share of the requests of HTTP/2 after which the client is to come anew, perhaps to another server; from 0 to 1 (`--goaway-chance`).
    pub goaway_chance: f64,
    /// How long `/livez` takes what is done at the start for done (`--livez-grace-period`).
    pub livez_grace: Duration,
    /// How long it serves on after it has said that it is not ready any more (`--shutdown-delay-duration`).
    pub shutdown_delay: Duration,
    /// After that time, new requests are refused until those under way are done, instead of no connection being taken
    /// (`--shutdown-send-retry-after`).
    pub shutdown_refuses: bool,
    /// Whether finalizers keep an object until a collector has looked after its dependents (`--enable-garbage-collector`).
    pub collects_garbage: bool,
    /// Metrics that are not told (`--disabled-metrics`).
    pub disabled_metrics: BTreeSet<String>,
    /// Whether there is anything below `/debug/pprof` and `/debug/flags` (`--profiling`).
    pub profiling: bool,
    /// The flags that it was started with, as `/flagz` tells them.
    pub flags: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_cidrs: vec![IpNet::new([10, 96, 0, 0].into(), 16).expect("16 is a prefix length")],
            node_ports: 30000..=32767,
            request_timeout: Duration::from_secs(60),
            watch_timeout_min: Duration::from_secs(1800),
            read_inflight_max: 400,
            write_inflight_max: 200,
            audit: audit::Settings::default(),
            event_ttl: Duration::from_secs(3600),
            front_proxy_headers: Vec::new(),
            advertise_address: String::new(),
            components: &[],
            codecs: Codecs::default(),
            cors: Cors::default(),
            transport_security: None,
            goaway_chance: 0.0,
            livez_grace: Duration::ZERO,
            shutdown_delay: Duration::ZERO,
            shutdown_refuses: false,
            collects_garbage: true,
            disabled_metrics: BTreeSet::new(),
            profiling: true,
            flags: BTreeMap::new(),
        }
    }
}

/// Tells how many bytes the store takes on disk.
pub type StorageSize = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The parts that handlers reach. One for each server, behind [`Server`].
pub struct Inner {
    pub config: Config,
    pub env: Env,
    pub storage: Arc<Storage>,
    pub catalog: ArcSwap<Catalog>,
    pub authenticator: ArcSwap<Arc<dyn Authenticator>>,
    pub authorizer: ArcSwap<Arc<dyn Authorizer>>,
    pub plugins: ArcSwap<Vec<Arc<dyn Plugin>>>,
    pub tokens: ArcSwap<Option<Arc<dyn TokenIssuer>>>,
    pub streaming: ArcSwap<Option<Arc<dyn Streaming>>>,
    pub allocators: Allocators,
    pub aggregation: Aggregation,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub storage_size: Option<StorageSize>,
    pub flow: Arc<FlowControl>,
    /// Absent where no audit policy is given.
    pub auditor: Option<Arc<Auditor>>,
    /// Absent where nothing is traced.
    pub tracer: Option<Arc<Tracer>>,
    /// What large lists are put together of.
    pub pieces: Arc<Pieces>,
    /// Cancelled when the server is not ready any more, since it is to stop.
    pub leaving: CancellationToken,
    /// Whether new requests are refused.
    pub refuses: AtomicBool,
    /// Requests under way that do not last, if somebody will wait for them.
    pub under_way: TaskTracker,
    /// Cancelled when the server stops: watches end.
    pub shutdown: CancellationToken,
}

/// An API server. Clones are handles to the same one.
#[derive(Clone)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
}

/// Puts a server together. Authenticators, authorizers and plugins that are clients of the server themselves can also be
/// given later, by the setters of [`Server`].
pub struct ServerBuilder {
    config: Config,
    env: Env,
    storage: Arc<Storage>,
    registry: Registry,
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
    plugins: Vec<Arc<dyn Plugin>>,
    tokens: Option<Arc<dyn TokenIssuer>>,
    streaming: Option<Arc<dyn Streaming>>,
    proxy_identity: Option<Arc<Shown>>,
    storage_size: Option<StorageSize>,
    auditor: Option<Arc<Auditor>>,
    tracer: Option<Arc<Tracer>>,
}

impl ServerBuilder {
    pub fn new(storage: Arc<Storage>) -> Self {
        Self {
            config: Config::default(),
            env: Env::system(),
            storage,
            registry: Registry::builtin(),
            authenticator: Arc::new(authn::Union::new(Vec::new(), false)),
            authorizer: Arc::new(authz::Union(Vec::new())),
            plugins: Vec::new(),
            tokens: None,
            streaming: None,
            proxy_identity: None,
            storage_size: None,
            auditor: None,
            tracer: None,
        }
    }

    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Without one, nobody is let in.
    #[must_use]
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = authenticator;
        self
    }

    /// Without one, only `system:masters` may do anything.
    #[must_use]
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = authorizer;
        self
    }

    /// Admission plugins, in the order in which they run.
    #[must_use]
    pub fn plugins(mut self, plugins: Vec<Arc<dyn Plugin>>) -> Self {
        self.plugins = plugins;
        self
    }

    #[must_use]
    pub fn tokens(mut self, tokens: Arc<dyn TokenIssuer>) -> Self {
        self.tokens = Some(tokens);
        self
    }

    #[must_use]
    pub fn streaming(mut self, streaming: Arc<dyn Streaming>) -> Self {
        self.streaming = Some(streaming);
        self
    }

    /// The client certificate (of the front proxy's CA) by which other API servers know this one. Without one, requests are
    /// handed on to them all the same, but they will take nobody's word for who asks.
    #[must_use]
    pub fn proxy_identity(mut self, identity: Arc<Shown>) -> Self {
        self.proxy_identity = Some(identity);
        self
    }

    /// Without one, `apiserver_storage_size_bytes` is not told: the store is not on disk.
    #[must_use]
    pub fn storage_size(mut self, size: StorageSize) -> Self {
        self.storage_size = Some(size);
        self
    }

    /// Writes requests down. Without one, a request pays nothing for it.
    #[must_use]
    pub fn auditor(mut self, auditor: Option<Arc<Auditor>>) -> Self {
        self.auditor = auditor;
        self
    }

    /// Tells a collector what requests did. Without one, nothing is traced.
    #[must_use]
    pub fn tracer(mut self, tracer: Option<Arc<Tracer>>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Needs a running tokio runtime: the server follows its own CRDs and allocations from here on.
    pub fn build(self) -> Server {
        crate::http::started();
        let inner = Arc::new(Inner {
            catalog: ArcSwap::from_pointee(Catalog::new(self.registry)),
            authenticator: ArcSwap::from_pointee(self.authenticator),
            authorizer: ArcSwap::from_pointee(self.authorizer),
            plugins: ArcSwap::from_pointee(self.plugins),
            tokens: ArcSwap::from_pointee(self.tokens),
            streaming: ArcSwap::from_pointee(self.streaming),
            allocators: Allocators::new(&self.config),
            aggregation: Aggregation::new(self.proxy_identity),
            metrics: Arc::default(),
            health: Health::new(self.config.livez_grace),
            flow: FlowControl::new(seats(&self.config)),
            auditor: self.auditor,
            tracer: self.tracer,
            storage_size: self.storage_size,
            pieces: Arc::default(),
            leaving: CancellationToken::new(),
            refuses: AtomicBool::new(false),
            under_way: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            config: self.config,
            env: self.env,
            storage: self.storage,
        });
        add_checks(&inner);
        let server = Server { inner };
        crate::crd::start(&server);
        crate::aggregate::start(&server);
        crate::flowcontrol::start(&server);
        server
    }
}

/// Both limits together, as upstream has it since there are priority levels.
fn seats(config: &Config) -> u32 {
    u32::try_from(config.read_inflight_max + config.write_inflight_max).unwrap_or(u32::MAX)
}

/// The checks that every server has (upstream: `healthz.PingHealthz`, `EtcdOptions.addEtcdHealthEndpoint`, `NewShutdownHealthz`).
fn add_checks(inner: &Inner) {
    let stored = |storage: &Arc<Storage>| {
        let storage = storage.clone();
        move || storage.failure().map_or(Ok(()), Err)
    };
    inner.health.add("ping", || Ok(()));
    inner.health.add("etcd", stored(&inner.storage));
    inner.health.add_ready("etcd-readiness", stored(&inner.storage));
    let leaving = inner.leaving.clone();
    inner.health.add_ready("shutdown", move || if leaving.is_cancelled() { Err("process is shutting down".into()) } else { Ok(()) });
}

impl Server {
    /// A way in for a component of this process, as this user. Everything but encoding happens as over the wire.
    pub fn transport(&self, user: User) -> InProcess {
        InProcess::new(self.clone(), user)
    }

    pub fn set_authenticator(&self, authenticator: Arc<dyn Authenticator>) {
        self.inner.authenticator.store(Arc::new(authenticator));
    }

    pub fn set_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.inner.authorizer.store(Arc::new(authorizer));
    }

    pub fn set_plugins(&self, plugins: Vec<Arc<dyn Plugin>>) {
        self.inner.plugins.store(Arc::new(plugins));
    }

    pub fn set_tokens(&self, tokens: Arc<dyn TokenIssuer>) {
        self.inner.tokens.store(Arc::new(Some(tokens)));
    }

    pub fn set_streaming(&self, streaming: Arc<dyn Streaming>) {
        self.inner.streaming.store(Arc::new(Some(streaming)));
    }

    /// The checks behind `/readyz` and its like: register here what must be done before the server is ready.
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    pub fn registry(&self) -> Registry {
        self.inner.catalog.load().registry.clone()
    }

    /// Looks after the default FlowSchemas and PriorityLevelConfigurations from here on: once the server has been bootstrapped.
    pub fn keep_flow_control(&self) {
        self.inner.flow.keep_defaults();
    }

    /// Sends what is still to be written to the audit log, and what is still to be told of traces: when nothing is served any more.
    pub async fn flush(&self) {
        if let Some(auditor) = &self.inner.auditor {
            auditor.shut_down().await;
        }
        if let Some(tracer) = &self.inner.tracer {
            tracer.flush().await;
        }
    }

    /// What comes before [`Self::stop`]: the server is not ready any more, and serves on for as long as its configuration says, so that
    /// whoever sends it clients sees that in time (upstream: `RunWithContext`).
    pub async fn leave(&self) {
        let inner = &self.inner;
        inner.leaving.cancel();
        tokio::time::sleep(inner.config.shutdown_delay).await;
        if inner.config.shutdown_refuses {
            inner.refuses.store(true, Ordering::Release);
            inner.under_way.close();
            inner.under_way.wait().await;
        }
    }

    /// Ends watches and accepts nothing new; requests under way go on.
    pub fn stop(&self) {
        self.inner.leaving.cancel();
        self.inner.shutdown.cancel();
    }
}
