//! What an agent has of its own when the cluster's server is on another machine: certificates that the cluster signed and that are
//! exchanged while it runs, and an eye on its Node object, whose deletion ends the node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as ApiNode;
use knarr_cli::cluster::config::{Cluster, Node, write_whole};
use knarr_cli::cluster::credentials::{self, Purpose};
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_cli::cluster::process::{self, Home};
use knarr_client::tls::Config as ClientConfig;
use knarr_client::{Client, Meta, Query, SharedInformers, TlsTransport};
use knarr_core::clock::Env;
use knarr_node::ServingConfig;
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::tls;

/// First and longest pause after a certificate could not be had.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(120);
/// Name of the log of the process that ends the node.
const LEAVE: &str = "leave";

/// The certificate that the node API shows. Until there is one, nobody gets through.
#[derive(Debug, Default)]
struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

/// The node's certificates.
pub struct Certificates {
    cluster: Cluster,
    node: Node,
    serving: Arc<Serving>,
    /// PEM.
    authority: String,
}

impl Certificates {
    /// Reads what is there.
    pub fn open(cluster: &Cluster, node: &Node) -> Result<Self> {
        let path = cluster.pki().join("ca.crt");
        let authority = std::fs::read_to_string(&path).map_err(|e| Failure::file(&path, &e))?;
        let certificates = Self { cluster: cluster.clone(), node: node.clone(), serving: Arc::default(), authority };
        if let Ok(pair) = certificates.read(credentials::SERVING) {
            certificates.show(&pair)?;
        }
        Ok(certificates)
    }

    /// How the API server is asked.
    pub fn client(&self, agent: &str) -> Result<ClientConfig> {
        let pair = self.read(credentials::CLIENT)?;
        let mut config = ClientConfig::new(self.cluster.server_url());
        config.certificate_authority = Some(self.authority.clone().into_bytes());
        config.client_certificate = Some((pair.clone(), pair));
        config.user_agent = format!("{agent}/{}", knarr_core::KUBERNETES_VERSION);
        Ok(config)
    }

    /// How the node API is served.
    pub fn serving(&self) -> Result<ServingConfig> {
        Ok(ServingConfig { tls: tls::server(self.serving.clone(), Some(&self.authority), &["h2", "http/1.1"])? })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = credentials::file(&self.cluster, name);
        std::fs::read(&path).map_err(|e| Failure::file(&path, &e))
    }

    fn show(&self, pair: &[u8]) -> Result<()> {
        let pair = std::str::from_utf8(pair).map_err(Failure::program)?;
        *self.serving.0.write() = Some(Arc::new(tls::certified_key(pair)?));
        Ok(())
    }

    /// Renews both whenever it is time.
    pub fn keep(self, client: Client, transports: Vec<Arc<TlsTransport>>, env: Env, stop: CancellationToken) {
        tokio::spawn(async move {
            let known = |pair: &[u8]| transports.iter().try_for_each(|t| t.set_identity(pair, pair)).map_err(Failure::program);
            tokio::select! {
                () = self.renew(Purpose::Client, credentials::CLIENT, &client, &env, known) => {}
                () = self.renew(Purpose::Serving, credentials::SERVING, &client, &env, |pair: &[u8]| self.show(pair)) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Asks for a certificate when there is none or its time has come, and gives it to `take`. Never ends.
    async fn renew(&self, purpose: Purpose, name: &str, client: &Client, env: &Env, take: impl Fn(&[u8]) -> Result<()>) {
        let mut pause = RETRY_BASE;
        loop {
            if let Some(due) = self.read(name).ok().and_then(|pair| credentials::renew_at(&pair).ok()) {
                tokio::time::sleep(Duration::try_from(due.duration_since(env.now())).unwrap_or_default()).await;
            }
            let renewed = async {
                let pair = credentials::request(client, &self.node, purpose).await?;
                write_whole(&credentials::file(&self.cluster, name), pair.as_bytes())?;
                take(pair.as_bytes())
            };
            match renewed.await {
                Ok(()) => pause = RETRY_BASE,
                Err(error) => {
                    tracing::warn!(%error, ?purpose, "the node's certificate could not be renewed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

/// Ends the node when its Node object is deleted: it was taken out of the cluster. A process of its own does it, which ends this one
/// first and then takes the pods away.
pub fn leave_when_removed(cluster: &Cluster, node: &Node, informers: &SharedInformers) {
    let own = informers.get::<Meta>(Query::all::<ApiNode>().fields(&format!("metadata.name={}", node.name)));
    let cluster = cluster.clone();
    own.on_change(move |change| {
        if change.new.is_some() {
            return;
        }
        tracing::warn!("the cluster has removed this node: it is stopped");
        let args = ["stop", "--profile", &cluster.profile, "--data", &cluster.data.display().to_string()].map(str::to_owned);
        if let Err(error) = process::spawn(&cluster, LEAVE, &args, &Home::default()) {
            tracing::error!(%error, "the node cannot be stopped");
        }
    });
}
