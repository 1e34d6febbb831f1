//! The guard: looks after the other processes, answers names beside the agents ([`super::names`]), and keeps the ways to other machines
//! where no node of the cluster lives on this machine's own network ([`super::ways`]). It sees the cluster as a service proxy does.

use std::time::Duration;

use knarr_apiserver::pki::{Leaf, Pki};
use knarr_cli::cluster::config::Cluster;
use knarr_cli::cluster::credentials;
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_client::tls::Config as ClientConfig;
use knarr_client::{SharedInformers, TlsTransport};
use knarr_core::clock::Env;
use tokio_util::sync::CancellationToken;

use super::joined::Certificates;
use super::{names, ways};

/// The agent renews a node's certificate; this much later it is there.
const RENEWED_AFTER: Duration = Duration::from_secs(300);

/// Does the guard's own work until the cluster is gone. What fails is said, and the rest goes on.
pub async fn work(cluster: &Cluster, env: &Env) {
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let informers = match informers(cluster, env, &stop) {
        Ok(informers) => informers,
        Err(error) => {
            tracing::error!(%error, "the guard cannot ask the API server: names are answered by the agents alone");
            return;
        }
    };
    let (answering, keeping) = (names::answer(cluster, &informers, env, &stop), ways::keep(cluster, &informers, &stop));
    let (answered, kept) = tokio::join!(answering, keeping);
    if let Err(error) = answered {
        tracing::error!(%error, "names are answered by the agents alone");
    }
    if let Err(error) = kept {
        tracing::error!(%error, "other machines are not reached from the nodes inside this one");
    }
}

fn informers(cluster: &Cluster, env: &Env, stop: &CancellationToken) -> Result<SharedInformers> {
    let transport = TlsTransport::new(identity(cluster, env)?).map_err(Failure::program)?;
    if cluster.joined {
        tokio::spawn(follow_certificate(cluster.clone(), transport.clone(), env.clone()));
    }
    Ok(SharedInformers::new(transport.client(), env.clone(), stop.clone()))
}

/// How the API server is asked: as the service proxies and DNS servers of the nodes are.
fn identity(cluster: &Cluster, env: &Env) -> Result<ClientConfig> {
    if cluster.joined {
        let node = cluster.nodes.first().ok_or_else(|| Failure::program("a machine that joined is a node"))?;
        return Certificates::open(cluster, node)?.client("knarr-guard");
    }
    let pki = Pki::load_or_create(&cluster.pki(), env.now()).map_err(Failure::program)?;
    let leaf = Leaf { common_name: "system:kube-proxy", organization: Some("system:coredns"), dns_names: &[], addresses: &[], client: true, server: false };
    let pair = pki.leaf("guard", &leaf, env.now()).map_err(Failure::program)?;
    let mut config = ClientConfig::new(cluster.server_url());
    config.certificate_authority = Some(pki.ca.certificate.clone().into_bytes());
    config.client_certificate = Some((pair.certificate.into_bytes(), pair.key.into_bytes()));
    config.user_agent = format!("knarr-guard/{}", knarr_core::KUBERNETES_VERSION);
    Ok(config)
}

/// Takes the node's certificate over whenever the agent has renewed it. Never ends.
async fn follow_certificate(cluster: Cluster, transport: TlsTransport, env: Env) {
    loop {
        let path = credentials::file(&cluster, credentials::CLIENT);
        let due = std::fs::read(&path).ok().and_then(|pair| credentials::renew_at(&pair).ok()).unwrap_or_else(|| env.now());
        tokio::time::sleep(Duration::try_from(due.duration_since(env.now())).unwrap_or_default() + RENEWED_AFTER).await;
        let taken = std::fs::read(&path).map_err(|e| e.to_string()).and_then(|pair| transport.set_identity(&pair, &pair).map_err(|e| e.to_string()));
        if let Err(error) = taken {
            tracing::warn!(error, "the node's new certificate cannot be used");
        }
    }
}
