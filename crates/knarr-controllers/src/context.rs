//! What every controller gets: clients, informers, time and chance, settings, and the seams to what it cannot do itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use knarr_client::{Client, Key, Outcome, Project, Query, Recorder, SharedInformers, WorkQueue, controller};
use knarr_client::{
    Informer,
    queue::{self, QueueMetrics},
};
use knarr_core::Result;
use knarr_core::clock::Env;
use knarr_kinds::certificates::request::CertificateRequest;
use knarr_schema::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Keys that one controller works on at once (upstream: `--concurrent-*-syncs`, 5 for most).
pub const WORKERS: usize = 16;

/// Settings of all controllers, with upstream's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// PEM bundle that `kube-root-ca.crt` carries into every namespace.
    pub root_ca: String,
    /// The networks of all pods; empty: no pod CIDRs are given to nodes.
    pub cluster_cidrs: Vec<ipnet::IpNet>,
    /// The networks of all services.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Prefix length of one node's network, for each family.
    pub node_mask_v4: u8,
    pub node_mask_v6: u8,
    /// A node that did not report for this long is `Unknown` (upstream: `--node-monitor-grace-period`).
    pub node_grace_period: Duration,
    /// Terminated pods beyond this number are deleted, the oldest first (upstream: `--terminated-pod-gc-threshold`).
    pub terminated_pods_max: usize,
    /// Ports of the nodes' addresses that no Service may take: the API server's, the node agents'.
    pub reserved_ports: Vec<u16>,
    /// How long a certificate lives that asks for no shorter time (upstream: `--cluster-signing-duration`).
    pub signing_duration: Duration,
    /// A token of a Secret that nobody used for this long is abandoned (upstream: `--legacy-service-account-token-clean-up-period`).
    pub unused_token_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root_ca: String::new(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_mask_v4: 24,
            node_mask_v6: 64,
            node_grace_period: Duration::from_secs(50),
            terminated_pods_max: 12_500,
            reserved_ports: Vec::new(),
            signing_duration: Duration::from_hours(365 * 24),
            unused_token_period: Duration::from_hours(365 * 24),
        }
    }
}

/// What only the holder of the cluster's keys can do.
pub trait ClusterKeys: Send + Sync {
    /// Signs a certificate in PEM by the cluster's authority, good for these usages and so many seconds at most.
    ///
    /// # Errors
    /// Why it cannot be signed.
    fn sign(&self, request: &CertificateRequest, usages: &[&str], seconds: i64) -> Result<String>;

    /// Signs the token of a service account that lives as long as the Secret of this name.
    ///
    /// # Errors
    /// When it cannot be signed.
    fn secret_token(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String>;
}

/// A client for the user of that name.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;
/// Metrics of the queue of that name.
pub type MetricsFor = Arc<dyn Fn(&str) -> Arc<dyn QueueMetrics> + Send + Sync>;

/// What every controller gets. Cheap to clone.
#[derive(Clone)]
pub struct ControllerContext {
    /// `client_for("replicaset-controller")` acts as `system:serviceaccount:kube-system:replicaset-controller`.
    pub client_for: ClientFor,
    /// Acts as the controller manager itself, as upstream does for tokens of Secrets.
    pub manager: Client,
    /// Without keys nothing is signed: those controllers do not start.
    pub keys: Option<Arc<dyn ClusterKeys>>,
    pub metrics_for: Option<MetricsFor>,
    /// The built-in resources that are served.
    pub registry: Registry,
    pub informers: SharedInformers,
    pub env: Env,
    pub config: Arc<Config>,
    pub stop: CancellationToken,
}

impl ControllerContext {
    pub fn client(&self, name: &str) -> Client {
        (self.client_for)(name)
    }

    /// The shared informer of everything of a resource.
    pub fn informer<T: k8s_openapi::Resource, P: Project>(&self) -> Informer<P> {
        self.informers.get(Query::all::<T>())
    }

    /// A queue with the metrics of that name.
    pub fn queue<K: Ord + Clone>(&self, name: &str) -> WorkQueue<K> {
        self.queue_with(name, (queue::BACKOFF_BASE, queue::BACKOFF_MAX))
    }

    /// The same, with the first and the longest pause after failures.
    pub fn queue_with<K: Ord + Clone>(&self, name: &str, (first, longest): (Duration, Duration)) -> WorkQueue<K> {
        let metrics = self.metrics_for.as_ref().map_or_else(|| Arc::new(queue::NoMetrics) as Arc<dyn QueueMetrics>, |metrics| metrics(name));
        WorkQueue::with(metrics, first, longest)
    }

    /// A recorder of events for the component of that name.
    pub fn recorder(&self, client: &Client, component: &str) -> Recorder {
        Recorder::start(client.clone(), component, "", self.env.clone(), self.stop.clone())
    }

    /// Works through a queue as soon as all informers asked for so far have their first state.
    pub fn run<K, F, R>(&self, name: &'static str, queue: WorkQueue<K>, reconcile: F)
    where
        K: Ord + Clone + Send + Sync + std::fmt::Debug + 'static,
        F: Fn(K) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Outcome>> + Send + 'static,
    {
        self.run_after(name, WORKERS, std::future::ready(()), queue, reconcile);
    }

    /// The same with another number of workers, and after `ready`.
    pub fn run_after<K, F, R>(&self, name: &'static str, workers: usize, ready: impl Future<Output = ()> + Send + 'static, queue: WorkQueue<K>, reconcile: F)
    where
        K: Ord + Clone + Send + Sync + std::fmt::Debug + 'static,
        F: Fn(K) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let (informers, stop) = (self.informers.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                ((), ()) = async { (informers.wait_synced().await, ready.await) } => controller::run(name, queue, workers, stop, reconcile).await,
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Puts the key of everything that changes into a queue.
pub fn enqueue_all<P: Project>(informer: &Informer<P>, queue: &WorkQueue<Key>) {
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(change.key().clone()));
}

/// A cluster in memory for the tests of controllers.
#[cfg(test)]
pub mod testing {
    use k8s_openapi::api::core::v1::{Pod, PodCondition};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use knarr_client::fake::FakeApi;

    use super::*;

    fn ready(pod: &mut Pod, now: jiff::Timestamp) {
        let status = pod.status.get_or_insert_default();
        status.phase = Some("Running".into());
        status.conditions =
            Some(vec![PodCondition { type_: "Ready".into(), status: "True".into(), last_transition_time: Some(Time(now)), ..Default::default() }]);
    }

    /// Signs with a name, so that tests see what was signed.
    struct TestKeys;

    impl ClusterKeys for TestKeys {
        fn sign(&self, request: &CertificateRequest, usages: &[&str], seconds: i64) -> Result<String> {
            Ok(format!("{} for {} {seconds}", request.subject.common_name, usages.join("+")))
        }

        fn secret_token(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String> {
            Ok(format!("{namespace}/{account}/{account_uid}/{secret}"))
        }
    }

    pub struct Harness {
        pub api: Arc<FakeApi>,
        pub context: ControllerContext,
    }

    impl Default for Harness {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Harness {
        pub fn new() -> Self {
            Self::with(Config::default())
        }

        pub fn with(config: Config) -> Self {
            let env = Env::simulated(1, "2026-01-01T00:00:00Z".parse().unwrap());
            let api = FakeApi::new(env.clone());
            let client = api.client();
            let stop = CancellationToken::new();
            let context = ControllerContext {
                client_for: Arc::new({
                    let client = client.clone();
                    move |_| client.clone()
                }),
                manager: client.clone(),
                keys: Some(Arc::new(TestKeys)),
                metrics_for: None,
                registry: Registry::builtin(),
                informers: SharedInformers::new(client, env.clone(), stop.clone()),
                env,
                config: Arc::new(config),
                stop,
            };
            Self { api, context }
        }

        /// What the node agent would report of a pod that runs well.
        pub fn make_ready(&self, pod: &Pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            self.api.change::<Pod>(namespace, pod.metadata.name.as_deref().unwrap_or_default(), |p| ready(p, self.context.env.now()));
        }

        /// Makes every pod ready a moment after it appears.
        pub fn run_pods(&self) {
            let api = self.api.clone();
            let now = self.context.env.clone();
            crate::pods::informer(&self.context).on_change(move |change| {
                let (api, key, now) = (api.clone(), change.key().clone(), now.clone());
                if change.new.as_ref().is_some_and(|p| !p.view.is_ready() && p.view.is_active()) {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        if api.read::<Pod>(key.namespace(), key.name()).is_some() {
                            api.change::<Pod>(key.namespace(), key.name(), |p| ready(p, now.now()));
                        }
                    });
                }
            });
        }

        /// Waits until nobody has anything left to do at this moment (virtual time moves only when all are idle).
        pub async fn settle(&self) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
