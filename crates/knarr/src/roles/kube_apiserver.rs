//! What the binary does when it is called `kube-apiserver`: the API server alone, with upstream's flags, for harnesses that start
//! upstream's program (controller-runtime's envtest). No controllers, no scheduler, no nodes: exactly what that program does.
//!
//! Flags that change nothing here are taken and named in the log; [`verdicts`] tells which those are, and which are refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use knarr_apiserver::authn::{self, Authenticator, BootstrapTokens, ServiceAccountAuthenticator, User};
use knarr_apiserver::authz::node::NodeAuthorizer;
use knarr_apiserver::authz::rbac::Rbac;
use knarr_apiserver::authz::{self, Authorizer};
use knarr_apiserver::http::{Limits, serve};
use knarr_apiserver::pki::{Identity, Pki, Shown};
use knarr_apiserver::stored::Stored;
use knarr_apiserver::{Server, ServerBuilder, admission, bootstrap};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::api::Transport;
use knarr_core::clock::Env;
use knarr_store::{Engine, EtcdEngine, MemoryEngine, Sealer, Storage};
use tokio::net::TcpListener;

use super::access::{self, Access, Own};
use super::audit;
use super::encryption::Encryption;
use super::flags::{Flags, Known};
use super::gates::Gates;
use super::listening::{self, Listening};
use super::service_accounts::{self, ServiceAccounts};
use super::verdicts::{self, Verdict};
use super::{etcd, server, serving, telemetry, tls};

pub(super) const FLAGS: &str = include_str!("../../data/kube-apiserver-flags.txt");
const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc";
/// Flags that are acted on here alone: a cluster has its own say in these things.
pub(super) const HONOURED: &[&str] = &[
    "advertise-address",
    "bind-address",
    "cert-dir",
    "client-ca-file",
    "enable-bootstrap-token-auth",
    "enable-garbage-collector",
    "endpoint-reconciler-type",
    "etcd-cafile",
    "etcd-certfile",
    "etcd-keyfile",
    "etcd-prefix",
    "etcd-servers",
    "help",
    "permit-port-sharing",
    "proxy-client-cert-file",
    "proxy-client-key-file",
    "secure-port",
    "service-cluster-ip-range",
    "shutdown-delay-duration",
    "shutdown-send-retry-after",
    "tls-cert-file",
    "tls-private-key-file",
    "version",
];

/// Runs until told to stop.
pub fn run(args: &[String]) -> Result<()> {
    let known = Known::new(FLAGS);
    if args.iter().any(|a| a == "--help" || a == "-h") {
        print!("{}", known.help("kube-apiserver", "The Kubernetes API server of knarr, alone"));
        return Ok(());
    }
    if args.iter().any(|a| a.starts_with("--version")) {
        println!("Kubernetes {}", knarr_core::KUBERNETES_VERSION);
        return Ok(());
    }
    let flags = known.parse(args)?;
    super::log_to_stderr();
    verdicts::check(&flags)?;
    for name in flags.names().filter(|n| verdicts::of(n) == Verdict::Nothing) {
        tracing::info!(flag = name, "this flag changes nothing here");
    }
    for gate in Gates::of(&flags)?.1 {
        tracing::info!(gate, "this gate changes nothing here");
    }
    super::until_it_ends(super::runtime(2)?, || serve_until_stopped(&flags))
}

async fn serve_until_stopped(flags: &Flags) -> Result<()> {
    let env = Env::system();
    let address = SocketAddr::new(flags.parsed("bind-address")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), secure_port(flags)?);
    let spoken = tls::Spoken::of(flags)?;
    let limits = serving::limits(flags, Limits { drain: DRAIN, ..Limits::default() })?;
    let client_ca = flags.get("client-ca-file").map(read).transpose()?;
    let bootstrap_config = bootstrap_config(flags, address.port(), client_ca.clone().unwrap_or_default())?;
    // Bound before anything takes time: who comes early waits instead of being refused.
    let listener = listen(address, flags.is_on("permit-port-sharing", false)).await?;
    let encryption = Encryption::of(flags, None)?;
    let storage = Storage::open(engine(flags, encryption.sealer.clone(), &env).await?, env.clone()).map_err(Failure::program)?;
    let (server, access) = build(flags, &storage, &env, client_ca.unwrap_or_default()).await?;
    let ready = Arc::new(AtomicBool::new(false));
    let probe = ready.clone();
    server.health().add_start("poststarthook/rbac/bootstrap-roles", move || if probe.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".into()) });
    let identity = identity(flags, address.ip(), &env)?;
    let shown = Shown::new(&identity).map_err(Failure::program)?;
    let listening = Listening::new(spoken, shown.clone(), access.trusted.all())?;
    let bootstrap_config = bootstrap::Config { front_proxy: access.trusted.front_proxy.clone(), ..bootstrap_config };
    let (_, certificate, key) = identity_files(flags);
    if certificate.exists() {
        tls::follow(&shown, &certificate, &key, identity);
    }
    let own: Arc<dyn Transport> = Arc::new(server.transport(User { groups: vec![authn::MASTERS.into()], ..User::component("system:apiserver") }));
    listening.follow();
    access.follow(&server, listening::renewal(&listening, &server, &own));
    encryption.follow();
    let serving = tokio::spawn(serve(server.clone(), listener, Some(listening.tls()), limits));
    bootstrap::run(&own, &server.registry(), &bootstrap_config).await.map_err(Failure::program)?;
    authn::say_since(&own, env.now()).await.map_err(Failure::program)?;
    ready.store(true, Ordering::Release);
    server.keep_flow_control();
    tracing::info!(%address, "the API server is ready");
    until_it_has_left(&server, &storage).await?;
    server.stop();
    serving.await.map_err(Failure::program)?.map_err(Failure::program)?;
    server.flush().await;
    storage.stop();
    Ok(())
}

/// How long connections may go on after the signal to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Waits for the signal to stop, and then until the server may. A second signal does not wait.
async fn until_it_has_left(server: &Server, storage: &Storage) -> Result<()> {
    tokio::select! {
        told = super::until_told_to_stop() => told?,
        why = storage.failed() => return Err(Failure::new("STORE", Exit::Resource, why, "start it anew")),
    }
    tokio::select! {
        () = server.leave() => Ok(()),
        told = super::until_told_to_stop() => told,
    }
}

/// The port of the flag (upstream: `SecureServingOptions.Validate`).
fn secure_port(flags: &Flags) -> Result<u16> {
    let Some(given) = flags.parsed::<i64>("secure-port")? else { return Ok(6443) };
    let port = u16::try_from(given).ok().filter(|port| *port > 0);
    let what = || format!("--secure-port {given} must be between 1 and 65535, inclusive. It cannot be turned off with 0");
    port.ok_or_else(|| Failure::new("USAGE", Exit::Usage, what(), "choose another port"))
}

async fn listen(address: SocketAddr, shared: bool) -> Result<TcpListener> {
    let bound = if shared { server::shared_listener(address) } else { TcpListener::bind(address).await };
    bound.map_err(|e| Failure::new("PORT_TAKEN", Exit::Resource, format!("{address}: {e}"), "choose another --secure-port"))
}

/// Where the objects lie: in this process if the etcd is the binary's own, else in the etcd.
async fn engine(flags: &Flags, sealer: Option<Arc<dyn Sealer>>, env: &Env) -> Result<Arc<dyn Engine>> {
    let servers = flags.list("etcd-servers");
    let Some(first) = servers.first() else {
        return Err(Failure::new("USAGE", Exit::Usage, "--etcd-servers must be specified", ""));
    };
    if etcd::is_ours(first).await {
        return Ok(Arc::new(MemoryEngine::new(env.clock.clone())));
    }
    let file = |name: &str| flags.get(name).map(PathBuf::from);
    let options = knarr_store::etcd::Options {
        endpoints: servers.iter().map(|s| (*s).to_owned()).collect(),
        prefix: flags.get("etcd-prefix").unwrap_or_default().to_owned(),
        ca: file("etcd-cafile"),
        certificate: file("etcd-certfile"),
        key: file("etcd-keyfile"),
    };
    let engine = EtcdEngine::open(&options).await;
    let engine = engine.map_err(|e| Failure::new("STORE", Exit::Resource, e.to_string(), "look whether etcd runs, and at the --etcd-* flags"))?;
    Ok(Arc::new(match sealer {
        Some(sealer) => engine.with_sealer(sealer),
        None => engine,
    }))
}

async fn build(flags: &Flags, storage: &Arc<Storage>, env: &Env, client_ca: String) -> Result<(Server, Access)> {
    let stored = Arc::new(Stored(storage.clone()));
    let objects: Arc<dyn admission::Objects> = stored.clone();
    let jwks_uri = format!("https://{}/openid/v1/jwks", serving::external_address(flags, advertised(flags)?));
    let accounts = ServiceAccounts::read(flags, DEFAULT_ISSUER)?;
    let key = accounts.key(service_accounts::passing_key, &jwks_uri)?;
    let ServiceAccounts { audiences, issuers, lookup, .. } = accounts;
    let bootstrap_tokens = BootstrapTokens { objects: objects.clone(), audiences: audiences.clone(), env: env.clone() };
    let uses = authn::Uses::default();
    let accounts = ServiceAccountAuthenticator { key: key.clone(), objects: stored, audiences: audiences.clone(), env: env.clone(), uses, lookup };
    let mut tokens: Vec<Arc<dyn Authenticator>> = vec![Arc::new(accounts)];
    if flags.is_on("enable-bootstrap-token-auth", false) {
        tokens.push(Arc::new(bootstrap_tokens));
    }
    let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::new(&bootstrap::system_node_role())));
    authz::feed::start(storage, &rbac, &node).await;
    let own = Own {
        env: env.clone(),
        client_ca,
        client_ca_file: flags.get("client-ca-file").map(PathBuf::from),
        front_proxy: None,
        tokens,
        audiences,
        issuers,
        authorizers: [("RBAC", rbac as Arc<dyn Authorizer>), ("Node", node)].into(),
        modes: &["AlwaysAllow"],
    };
    let access = Access::new(flags, own)?;
    let plugins = access::plugins(flags, &objects)?;
    let config = knarr_apiserver::Config { front_proxy_headers: access.front_proxy_headers.clone(), ..config(flags)? };
    let auditor = audit::auditor(&config.audit, env)?;
    let builder = match proxy_identity(flags)? {
        Some(identity) => ServerBuilder::new(storage.clone()).proxy_identity(Shown::new(&identity).map_err(Failure::program)?),
        None => ServerBuilder::new(storage.clone()),
    };
    let server = builder
        .config(config)
        .registry(access::registry(flags)?)
        .auditor(auditor)
        .tracer(telemetry::tracer(flags, env)?)
        .env(env.clone())
        .authenticator(access.authenticator.clone())
        .authorizer(access.authorizer.clone())
        .plugins(plugins)
        .tokens(key)
        .build();
    Ok((server, access))
}

fn config(flags: &Flags) -> Result<knarr_apiserver::Config> {
    let codecs = Gates::of(flags)?.0.codecs;
    let mut config = knarr_apiserver::Config { audit: audit::settings(flags)?, codecs, ..knarr_apiserver::Config::default() };
    let cidrs = flags.list("service-cluster-ip-range");
    if !cidrs.is_empty() {
        config.service_cidrs = cidrs
            .iter()
            .map(|c| c.parse().map_err(|e| Failure::new("USAGE", Exit::Usage, format!("--service-cluster-ip-range: {e}"), "")))
            .collect::<Result<_>>()?;
    }
    config.advertise_address = serving::external_address(flags, advertised(flags)?);
    config.shutdown_delay = serving::duration(flags, "shutdown-delay-duration")?.unwrap_or_default();
    config.shutdown_refuses = flags.is_on("shutdown-send-retry-after", false);
    config.collects_garbage = flags.is_on("enable-garbage-collector", true);
    config.flags = flags.names().map(|name| (name.to_owned(), flags.list(name).join(","))).collect();
    serving::config(flags, config)
}

/// By what aggregated servers know this one. Without it, they take its word for nobody.
fn proxy_identity(flags: &Flags) -> Result<Option<Identity>> {
    match (flags.get("proxy-client-cert-file"), flags.get("proxy-client-key-file")) {
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate: read(certificate)?, key: read(key)? })),
        (None, None) => Ok(None),
        _ => Err(Failure::new("USAGE", Exit::Usage, "--proxy-client-cert-file and --proxy-client-key-file belong together", "give both, or none")),
    }
}

/// Whether the server writes down where it is reached (`--endpoint-reconciler-type`).
fn writes_endpoints(flags: &Flags) -> Result<bool> {
    match flags.get("endpoint-reconciler-type") {
        None | Some("lease") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => {
            let what = format!("--endpoint-reconciler-type={other} is not supported: there are lease and none");
            Err(Failure::new("USAGE", Exit::Usage, what, "leave it out"))
        }
    }
}

fn bootstrap_config(flags: &Flags, port: u16, client_ca: String) -> Result<bootstrap::Config> {
    let advertise = advertised(flags)?.ip();
    let config = config(flags)?;
    let cidr = config.service_cidrs.first().copied().ok_or_else(|| Failure::program("no service CIDR"))?;
    Ok(bootstrap::Config {
        advertise,
        port,
        service_cidr: cidr,
        alone: true,
        cluster_dns: None,
        client_ca,
        front_proxy: None,
        node_port: serving::kubernetes_node_port(flags, &config.node_ports)?,
        endpoints: writes_endpoints(flags)?,
    })
}

/// Where clients are told to find the server.
fn advertised(flags: &Flags) -> Result<SocketAddr> {
    let bound: Option<IpAddr> = flags.parsed("bind-address")?;
    let bound = bound.filter(|a| !a.is_unspecified() && !a.is_loopback());
    let ip = flags.parsed("advertise-address")?.or(bound).or_else(outgoing_address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(SocketAddr::new(ip, secure_port(flags)?))
}

/// The machine's address towards the world, if it has one. Nothing is sent.
fn outgoing_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|a| !a.is_unspecified() && !a.is_loopback())
}

/// What is shown to clients: the files of the flags, those in the certificates' folder, or a certificate made for this address.
fn identity(flags: &Flags, bound: IpAddr, env: &Env) -> Result<Identity> {
    let (folder, certificate, key) = identity_files(flags);
    if certificate.exists() {
        return Ok(Identity { certificate: read(&certificate)?, key: read(&key)? });
    }
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"].map(str::to_owned);
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    addresses.extend(Some(bound).filter(|a| !a.is_unspecified() && !a.is_loopback()));
    addresses.extend(config(flags)?.service_cidrs.first().and_then(|c| c.hosts().next()));
    Pki::load_or_create(&folder, env.now()).and_then(|pki| pki.serving(&names, &addresses, env.now())).map_err(Failure::program)
}

/// The certificates' folder, and where in it, or elsewhere, the server's own certificate and key are.
fn identity_files(flags: &Flags) -> (PathBuf, PathBuf, PathBuf) {
    let folder = flags.get("cert-dir").map_or_else(|| PathBuf::from("/var/run/kubernetes"), PathBuf::from);
    let file = |flag: &str, name: &str| flags.get(flag).map_or_else(|| folder.join(name), PathBuf::from);
    let (certificate, key) = (file("tls-cert-file", "apiserver.crt"), file("tls-private-key-file", "apiserver.key"));
    (folder, certificate, key)
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    std::fs::read_to_string(path.as_ref()).map_err(|e| Failure::file(path.as_ref(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> Flags {
        Known::new(FLAGS).parse(&args.iter().map(|a| format!("--{a}")).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_only_a_server_alone_is_told_reaches_it() {
        let config = config(&flags(&["shutdown-delay-duration=7s", "shutdown-send-retry-after", "enable-garbage-collector=false"])).unwrap();
        assert_eq!((config.shutdown_delay, config.shutdown_refuses, config.collects_garbage), (Duration::from_secs(7), true, false));
        let told = flags(&["external-hostname=api.example", "kubernetes-service-node-port=30443", "endpoint-reconciler-type=none"]);
        assert_eq!(super::config(&told).unwrap().advertise_address, "api.example:6443");
        let bootstrap = bootstrap_config(&told, 6443, String::new()).unwrap();
        assert_eq!((bootstrap.node_port, bootstrap.endpoints), (Some(30443), false));
    }

    #[test]
    fn a_port_is_one_that_clients_can_come_to() {
        assert_eq!((secure_port(&flags(&[])).unwrap(), secure_port(&flags(&["secure-port=443"])).unwrap()), (6443, 443));
        for port in ["0", "-1", "65536"] {
            let why = secure_port(&flags(&[&format!("secure-port={port}")])).unwrap_err().cause;
            assert_eq!(why, format!("--secure-port {port} must be between 1 and 65535, inclusive. It cannot be turned off with 0"));
        }
    }

    #[test]
    fn halves_and_other_reconcilers_are_refused() {
        assert!(proxy_identity(&flags(&["proxy-client-cert-file=/a"])).unwrap_err().cause.contains("belong together"));
        assert!(writes_endpoints(&flags(&["endpoint-reconciler-type=master-count"])).unwrap_err().cause.contains("there are lease and none"));
    }

    #[tokio::test]
    async fn several_servers_listen_at_one_port_if_they_all_permit_it() {
        let first = listen("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
        let address = first.local_addr().unwrap();
        listen(address, true).await.unwrap();
        assert!(listen(address, false).await.is_err());
    }
}
