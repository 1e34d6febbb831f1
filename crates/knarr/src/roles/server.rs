//! The control plane: store, API server, controllers, scheduler, in one process and with one way in for all of them. Of several
//! servers on one etcd each serves the API, and one of them runs the controllers, one the scheduler: whoever holds the lease.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use knarr_apiserver::authn::{self, Authenticator, BootstrapTokens, FrontProxy, ServiceAccountAuthenticator, ServiceAccountKey, User};
use knarr_apiserver::authz::node::NodeAuthorizer;
use knarr_apiserver::authz::rbac::Rbac;
use knarr_apiserver::authz::{self, Authorizer};
use knarr_apiserver::http::{Limits, serve};
use knarr_apiserver::pki::{self, Identity, Leaf, Pki, Shown};
use knarr_apiserver::stored::Stored;
use knarr_apiserver::streaming::backend::Backend;
use knarr_apiserver::{Server, ServerBuilder, admission, bootstrap};
use knarr_cli::cluster::config::{Cluster, Datastore};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_cli::cluster::{preflight, token};
use knarr_client::leader::{Election, Settings};
use knarr_client::{Client, SharedInformers};
use knarr_controllers::ControllerContext;
use knarr_core::api::Transport;
use knarr_core::clock::Env;
use knarr_store::log::LogEngine;
use knarr_store::{Engine, EtcdEngine, Sealer, SecretSealer, Storage};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::access::{self, Access, Own};
use super::audit;
use super::encryption::Encryption;
use super::flags::{Flags, Known};
use super::gates::Gates;
use super::keys::Keys;
use super::listening::{self, Listening};
use super::renewal::keep_fresh;
use super::service_accounts::{self, ServiceAccounts};
use super::{serving, telemetry, tls, verdicts};

/// Issuer and default audience of service account tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Common name by which other API servers know this one.
const FRONT_PROXY: &str = "front-proxy-client";

/// Runs until told to stop. `ready` is called once, when clients may come.
pub async fn run(cluster: &Cluster, ready: impl FnOnce()) -> Result<()> {
    let env = Env::system();
    let pki = Arc::new(Pki::load_or_create(&cluster.pki(), env.now()).map_err(Failure::program)?);
    let flags = flags_of(&cluster.apiserver_args)?;
    let accounts = ServiceAccounts::read(&flags, ISSUER)?;
    let tokens = accounts.key(|| Ok(pki.service_account_key.clone()), "")?;
    let (encryption, sealer) = encryption_of(&flags, &cluster.pki())?;
    let storage = open_store(cluster, sealer, &env).await?;
    let (uses, used) = authn::Uses::channel();
    let (server, access) = build(cluster, &flags, &pki, (&accounts, tokens.clone()), uses, &storage, &env).await?;
    let listener = listen(cluster).await?;
    let shown = serving(cluster, &pki, &env)?;
    admin(&pki, &env)?;
    let listening = Listening::new(tls::Spoken::of(&flags)?, shown, access.trusted.all())?;
    let bootstrap_config = bootstrap::Config { front_proxy: access.trusted.front_proxy.clone(), ..bootstrap_config(cluster, &flags, &pki)? };
    let own: Arc<dyn Transport> = Arc::new(server.transport(User { groups: vec![authn::MASTERS.into()], ..User::component("system:apiserver") }));
    listening.follow();
    access.follow(&server, listening::renewal(&listening, &server, &own));
    encryption.follow();
    let bootstrapped = Arc::new(AtomicBool::new(false));
    let probe = bootstrapped.clone();
    server.health().add_start("poststarthook/rbac/bootstrap-roles", move || if probe.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".into()) });
    let serving = tokio::spawn(serve(server.clone(), listener, Some(listening.tls()), serving::limits(&flags, Limits::default())?));
    bootstrap::run(&own, &server.registry(), &bootstrap_config).await.map_err(Failure::program)?;
    let published = token::published(cluster, pki.ca.certificate.as_bytes());
    bootstrap::publish(&own, &server.registry(), published.kept, published.made).await.map_err(Failure::program)?;
    authn::say_since(&own, env.now()).await.map_err(Failure::program)?;
    tokio::spawn(authn::write_down(used, own));
    bootstrapped.store(true, Ordering::Release);
    server.keep_flow_control();
    tracing::info!(address = %cluster.server_url(), "the API server is ready");
    ready();
    let stop = CancellationToken::new();
    let keys = Arc::new(Keys { pki, tokens, env: env.clone() });
    start_components(cluster, &server, keys, &env, &stop)?;
    tokio::select! {
        told = super::until_told_to_stop() => told?,
        why = storage.failed() => return Err(Failure::new("STORE", Exit::Resource, why, "mend the disk; the server starts again by itself")),
    }
    stop.cancel();
    server.stop();
    serving.await.map_err(Failure::program)?.map_err(Failure::program)?;
    server.flush().await;
    storage.stop();
    Ok(())
}

/// What seals the cluster's objects, for those who read its store without the server. `pki` has its keys.
///
/// # Errors
/// Flags or keys that cannot be read.
pub fn sealer(cluster: &Cluster, pki: &Path) -> Result<Arc<dyn Sealer>> {
    encryption_of(&flags_of(&cluster.apiserver_args)?, pki).map(|(_, sealer)| sealer)
}

fn encryption_of(flags: &Flags, pki: &Path) -> Result<(Encryption, Arc<dyn Sealer>)> {
    let own: Arc<dyn Sealer> = Arc::new(SecretSealer::at(&pki.join("secrets.key")).map_err(Failure::program)?);
    let encryption = Encryption::of(flags, Some(own.clone()))?;
    let sealer = encryption.sealer.clone().unwrap_or(own);
    Ok((encryption, sealer))
}

async fn open_store(cluster: &Cluster, sealer: Arc<dyn Sealer>, env: &Env) -> Result<Arc<Storage>> {
    if let Some(datastore) = &cluster.datastore {
        let failed = |e: knarr_store::Error| Failure::new("DATASTORE", Exit::Resource, e.to_string(), "look whether etcd runs and takes our certificate");
        let engine = EtcdEngine::open(&options(datastore)).await.map_err(failed)?.with_sealer(sealer);
        return Storage::open(Arc::new(engine), env.clone()).map_err(failed);
    }
    let folder = cluster.data.join("store");
    let failed =
        |e: knarr_store::Error| Failure::new("STORE", Exit::Resource, format!("{}: {e}", folder.display()), "look into the folder, or restore a backup");
    let engine: Arc<dyn Engine> = Arc::new(LogEngine::at(&folder, env.clock.clone()).map_err(failed)?.with_sealer(sealer));
    Storage::open(engine, env.clone()).map_err(failed)
}

fn options(datastore: &Datastore) -> knarr_store::etcd::Options {
    knarr_store::etcd::Options {
        endpoints: datastore.endpoints.clone(),
        prefix: datastore.prefix.clone(),
        ca: datastore.ca_file.clone(),
        certificate: datastore.cert_file.clone(),
        key: datastore.key_file.clone(),
    }
}

async fn build(
    cluster: &Cluster,
    flags: &Flags,
    pki: &Arc<Pki>,
    (accounts, key): (&ServiceAccounts, Arc<ServiceAccountKey>),
    uses: authn::Uses,
    storage: &Arc<Storage>,
    env: &Env,
) -> Result<(Server, Access)> {
    let stored = Arc::new(Stored(storage.clone()));
    let objects: Arc<dyn admission::Objects> = stored.clone();
    let audiences = accounts.audiences.clone();
    let tokens: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(ServiceAccountAuthenticator {
            key: key.clone(),
            objects: stored,
            audiences: audiences.clone(),
            env: env.clone(),
            uses,
            lookup: accounts.lookup,
        }),
        Arc::new(BootstrapTokens { objects: objects.clone(), audiences: audiences.clone(), env: env.clone() }),
    ];
    let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::new(&bootstrap::system_node_role())));
    authz::feed::start(storage, &rbac, &node).await;
    let own = Own {
        env: env.clone(),
        client_ca: pki.ca.certificate.clone(),
        client_ca_file: None,
        front_proxy: Some(FrontProxy::standard(pki.front_proxy_ca.certificate.clone(), vec![FRONT_PROXY.to_owned()])),
        tokens,
        audiences,
        issuers: accounts.issuers.clone(),
        authorizers: [("RBAC", rbac as Arc<dyn Authorizer>), ("Node", node)].into(),
        modes: &["Node", "RBAC"],
    };
    let access = Access::new(flags, own)?;
    let config = knarr_apiserver::Config {
        service_cidrs: vec![cluster.service_cidr.parse().map_err(Failure::program)?],
        front_proxy_headers: access.front_proxy_headers.clone(),
        advertise_address: serving::external_address(flags, SocketAddr::new(cluster.advertise, cluster.port)),
        components: &["scheduler", "controller-manager"],
        flags: flags.names().map(|name| (name.to_owned(), flags.list(name).join(","))).collect(),
        audit: audit::settings(flags)?,
        codecs: Gates::of(flags)?.0.codecs,
        ..serving::config(flags, knarr_apiserver::Config::default())?
    };
    let auditor = audit::auditor(&config.audit, env)?;
    let server = ServerBuilder::new(storage.clone())
        .config(config)
        .registry(access::registry(flags)?)
        .auditor(auditor)
        .tracer(telemetry::tracer(flags, env)?)
        .env(env.clone())
        .authenticator(access.authenticator.clone())
        .authorizer(access.authorizer.clone())
        .plugins(access::plugins(flags, &objects)?)
        .tokens(key)
        .storage_size(Arc::new(storage_size(cluster.data.join("store"))))
        .proxy_identity(front_proxy(pki, env)?)
        .streaming(Arc::new(Backend::new(objects, tls::client(&pki.ca.certificate, kubelet_client(pki, env)?)?)))
        .build();
    Ok((server, access))
}

/// Reads the flags of kube-apiserver that the cluster was started with.
///
/// # Errors
/// A flag that kube-apiserver does not have, or one that this cluster does not act on.
fn flags_of(args: &[String]) -> Result<Flags> {
    let dashed: Vec<String> = args.iter().map(|a| format!("--{}", a.trim_start_matches('-'))).collect();
    let one_word = |a: &&String| !a.contains('=');
    let known = Known::new(super::kube_apiserver::FLAGS);
    if let Some(alone) = dashed.iter().find(one_word).filter(|a| !known.is_switch(a.trim_start_matches('-'))) {
        return Err(Failure::new("USAGE", Exit::Usage, format!("{alone}: NAME=VALUE is needed"), "see kube-apiserver --help"));
    }
    let flags = known.parse(&dashed)?;
    verdicts::check(&flags)?;
    if let Some(name) = flags.names().find(|name| !verdicts::is_of_cluster(name)) {
        let what = format!("--{name} is a flag of kube-apiserver that this cluster does not act on");
        return Err(Failure::new("USAGE", Exit::Usage, what, "leave it out"));
    }
    if let [gate, ..] = &Gates::of(&flags)?.1[..] {
        let what = format!("--feature-gates: {gate} is no gate that this cluster acts on");
        return Err(Failure::new("USAGE", Exit::Usage, what, "leave it out: gates are as they are by default"));
    }
    access::registry(&flags)?;
    Ok(flags)
}

/// Says what is wrong with such flags before a cluster starts with them.
///
/// # Errors
/// As [`flags_of`], a key that signs no tokens, or one that seals nothing.
pub fn check_apiserver_args(args: &[String]) -> Result<()> {
    let flags = flags_of(args)?;
    access::admission_settings(&flags)?;
    tls::Spoken::of(&flags)?;
    let config = serving::config(&flags, knarr_apiserver::Config::default())?;
    serving::kubernetes_node_port(&flags, &config.node_ports)?;
    serving::limits(&flags, Limits::default())?;
    Encryption::of(&flags, None)?;
    ServiceAccounts::read(&flags, ISSUER)?.key(service_accounts::passing_key, "").map(drop)
}

/// What the files of the store take on disk, as the file system has it.
fn storage_size(folder: PathBuf) -> impl Fn() -> u64 {
    move || {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        files.filter_map(|f| f.metadata().ok()).map(|m| m.blocks() * 512).sum()
    }
}

async fn listen(cluster: &Cluster) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, cluster.port));
    let bound = if cluster.servers > 1 { shared_listener(address) } else { TcpListener::bind(address).await };
    bound.map_err(|_| match preflight::port_free(cluster.port) {
        Err(failure) => failure,
        Ok(()) => Failure::program(format!("cannot listen on {address}")),
    })
}

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// All servers listen at one port, and the kernel gives each connection to one of those that live.
pub(super) fn shared_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn server_names(cluster: &Cluster) -> Vec<String> {
    let domain = &cluster.cluster_domain;
    let mut names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).into();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.extend(nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).filter(|h| !h.is_empty() && !names.contains(h)));
    names
}

fn server_addresses(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let services: ipnet::IpNet = cluster.service_cidr.parse().map_err(Failure::program)?;
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), cluster.advertise];
    addresses.extend(services.hosts().next());
    addresses.dedup();
    Ok(addresses)
}

/// What clients of the API server see.
fn serving(cluster: &Cluster, pki: &Arc<Pki>, env: &Env) -> Result<Arc<Shown>> {
    let (names, addresses, own) = (server_names(cluster), server_addresses(cluster)?, pki.clone());
    shown("apiserver", env, move |now| own.serving(&names, &addresses, now))
}

/// By what nodes know the API server.
fn kubelet_client(pki: &Arc<Pki>, env: &Env) -> Result<Arc<Shown>> {
    let own = pki.clone();
    let leaf = Leaf {
        common_name: "kube-apiserver-kubelet-client",
        organization: Some("kubeadm:cluster-admins"),
        dns_names: &[],
        addresses: &[],
        client: true,
        server: false,
    };
    shown("apiserver-kubelet-client", env, move |now| own.leaf("apiserver-kubelet-client", &leaf, now))
}

/// By what other servers that serve a part of the API know this one.
fn front_proxy(pki: &Arc<Pki>, env: &Env) -> Result<Arc<Shown>> {
    let own = pki.clone();
    let leaf = Leaf { common_name: FRONT_PROXY, organization: None, dns_names: &[], addresses: &[], client: true, server: false };
    shown("front-proxy-client", env, move |now| own.front_proxy_ca.issue(&leaf, now))
}

/// A certificate that is kept fresh.
fn shown(name: &str, env: &Env, make: impl Fn(Timestamp) -> pki::Result<Identity> + Send + 'static) -> Result<Arc<Shown>> {
    let first = make(env.now()).map_err(Failure::program)?;
    let shown = Shown::new(&first).map_err(Failure::program)?;
    let current = shown.clone();
    keep_fresh(name, env, &first, make, move |made| current.set(made));
    Ok(shown)
}

/// The administrator's certificate, for kubeconfigs.
fn admin(pki: &Pki, env: &Env) -> Result<()> {
    let leaf =
        Leaf { common_name: "kubernetes-admin", organization: Some("kubeadm:cluster-admins"), dns_names: &[], addresses: &[], client: true, server: false };
    pki.leaf("admin", &leaf, env.now()).map(drop).map_err(Failure::program)
}

fn bootstrap_config(cluster: &Cluster, flags: &Flags, pki: &Pki) -> Result<bootstrap::Config> {
    let node_ports = serving::config(flags, knarr_apiserver::Config::default())?.node_ports;
    Ok(bootstrap::Config {
        advertise: cluster.advertise,
        port: cluster.port,
        service_cidr: cluster.service_cidr.parse().map_err(Failure::program)?,
        alone: false,
        cluster_dns: Some(cluster.cluster_dns),
        client_ca: pki.ca.certificate.clone(),
        front_proxy: None,
        node_port: serving::kubernetes_node_port(flags, &node_ports)?,
        endpoints: true,
    })
}

/// Controllers and scheduler, each as the user that upstream gives it. Alone with its store the server runs them from the start,
/// on the same informers; otherwise whichever server holds the lease does (upstream: `leaderelection.RunOrDie`).
fn start_components(cluster: &Cluster, server: &Server, keys: Arc<Keys>, env: &Env, stop: &CancellationToken) -> Result<()> {
    let parts = Components { server: server.clone(), env: env.clone(), config: Arc::new(controllers_config(cluster, &keys.pki)?), keys };
    if cluster.datastore.is_none() {
        let informers = parts.informers(stop);
        parts.controllers(informers.clone(), stop);
        parts.scheduler(informers, stop);
        return Ok(());
    }
    let (manager, scheduler) = (parts.clone(), parts.clone());
    let work = move |lead: &CancellationToken| manager.controllers(manager.informers(lead), lead);
    tokio::spawn(while_leading(parts.manager(), "kube-controller-manager", env.clone(), stop.clone(), work));
    let work = move |lead: &CancellationToken| scheduler.scheduler(scheduler.informers(lead), lead);
    tokio::spawn(while_leading(parts.scheduler_client(), "kube-scheduler", env.clone(), stop.clone(), work));
    Ok(())
}

/// Stands for election again and again, and works while it leads.
async fn while_leading(client: Client, name: &'static str, env: Env, stop: CancellationToken, work: impl Fn(&CancellationToken) + Send + 'static) {
    let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let settings = Settings::new("kube-system", name, &format!("{host}_{}", env.uuid()));
    while let Some(lead) = Election::new(&client, settings.clone(), env.clone()).lead(stop.clone()).await {
        tracing::info!(lease = name, identity = settings.identity, "this server leads");
        work(&lead);
        lead.cancelled().await;
        tracing::warn!(lease = name, "this server leads no longer");
    }
}

/// What runs in one server of a cluster.
#[derive(Clone)]
struct Components {
    server: Server,
    env: Env,
    config: Arc<knarr_controllers::Config>,
    keys: Arc<Keys>,
}

impl Components {
    fn client(&self, user: User) -> Client {
        Client::new(Arc::new(self.server.transport(user)))
    }

    fn manager(&self) -> Client {
        self.client(User { groups: vec![authn::MASTERS.into()], ..User::component("system:kube-controller-manager") })
    }

    fn scheduler_client(&self) -> Client {
        self.client(User::component("system:kube-scheduler"))
    }

    fn informers(&self, stop: &CancellationToken) -> SharedInformers {
        SharedInformers::new(self.manager(), self.env.clone(), stop.clone())
    }

    fn scheduler(&self, informers: SharedInformers, stop: &CancellationToken) {
        tokio::spawn(knarr_scheduler::start(self.scheduler_client(), informers, self.env.clone(), stop.clone()));
    }

    fn controllers(&self, informers: SharedInformers, stop: &CancellationToken) {
        let transports = self.server.clone();
        let context = ControllerContext {
            client_for: Arc::new(move |name| Client::new(Arc::new(transports.transport(User::service_account("kube-system", name))))),
            manager: self.manager(),
            keys: Some(self.keys.clone()),
            metrics_for: None,
            registry: self.server.registry().with_custom(Vec::new()),
            informers,
            env: self.env.clone(),
            config: self.config.clone(),
            stop: stop.clone(),
        };
        knarr_controllers::start_all(&context);
    }
}

fn controllers_config(cluster: &Cluster, pki: &Pki) -> Result<knarr_controllers::Config> {
    let config = knarr_controllers::Config {
        root_ca: pki.ca.certificate.clone(),
        cluster_cidrs: vec![cluster.pod_cidr.parse().map_err(Failure::program)?],
        service_cidrs: vec![cluster.service_cidr.parse().map_err(Failure::program)?],
        reserved_ports: std::iter::once(cluster.port).chain(cluster.nodes.iter().map(|n| n.kubelet_port)).collect(),
        ..knarr_controllers::Config::default()
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_looked_at_before_a_cluster_starts() {
        let cause = |arg: &str| check_apiserver_args(&[arg.to_owned()]).err().map(|e| e.cause).unwrap_or_default();
        assert!(cause("request-timeout=5").contains("missing unit in duration"));
        assert!(cause("goaway-chance=1").contains("--goaway-chance can not be less than 0 or greater than 0.02"));
        assert!(cause("tls-min-version=VersionTLS10").contains("not spoken here"));
        assert_eq!(cause("request-timeout=5s"), "");
    }

    #[test]
    fn flags_of_the_api_server_are_checked_before_it_starts() {
        let cause = |args: &[&str]| flags_of(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()).err().map(|e| e.cause);
        assert_eq!(cause(&["anonymous-auth=false", "--authorization-mode=Node,RBAC", "anonymous-auth"]), None);
        assert_eq!(cause(&["oidc-issuer=x"]).unwrap(), "unknown flag: --oidc-issuer");
        assert_eq!(cause(&["secure-port=1"]).unwrap(), "--secure-port is a flag of kube-apiserver that this cluster does not act on");
        assert_eq!(cause(&["oidc-client-id"]).unwrap(), "--oidc-client-id: NAME=VALUE is needed");
        let wanted = "--egress-selector-config-file=/a is not supported: connections go out directly";
        assert_eq!(cause(&["egress-selector-config-file=/a"]).unwrap(), wanted);
    }
}
