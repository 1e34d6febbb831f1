//! `knarr join`: makes this machine a node of a cluster whose server is elsewhere.
//!
//! ```text
//! cluster-info, read from anybody ── its authority must have the key that the command names ── from here on TLS is checked
//! token ─▶ kubeadm-config, kubelet-config: the cluster's networks, domain and DNS
//! token ─▶ CertificateSigningRequest ─▶ the node's own certificate ─▶ cluster.json ─▶ guard and agent
//! ```
//!
//! Everything is kubeadm's: the names of the objects, the token, the form of the key's hash. So is the order, by which a wrong
//! token or hash leaves nothing on the machine. Nothing of a server's rights comes here: the machine gets a node's certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{ConfigMap, Node as ApiNode};
use knarr_client::tls::{Config as ClientConfig, Identity};
use knarr_client::{Client, Kubeconfig, TlsTransport};
use knarr_core::{Status, ValueExt, yaml};

use super::config::{self, Cluster, DEFAULT_PROFILE, Desired, Node};
use super::failure::{Exit, Failure, Result};
use super::process::Process;
use super::start::{Machine, Phases, StartArgs, bring_up};
use super::turn::Turn;
use super::{credentials, preflight, slots, status, supervise, token};

/// Where a node's own API is.
const KUBELET_PORT: u16 = 10250;
/// Where an API server is unless something else is said.
const SERVER_PORT: u16 = 6443;
/// A server that has not answered within this time is not waited for any longer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `knarr join`, named as kubeadm names them.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    /// The API server, as HOST:PORT
    pub address: String,
    /// A token of `knarr token create`
    #[arg(long)]
    pub token: String,
    /// Hash of the public key of the cluster's authority, as sha256:HEX; may be repeated
    #[arg(long, required = true, alias = "ca-cert-hash")]
    pub discovery_token_ca_cert_hash: Vec<String>,
    /// Name of the node (default: the machine's)
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address by which other nodes reach this one (default: that of the way to the server)
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Name of the cluster on this machine
    #[arg(short, long, default_value = DEFAULT_PROFILE)]
    pub profile: String,
    /// Folder of the node's data (default: /var/lib/knarr/PROFILE)
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// What the cluster is like, as far as a node must know.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    service_cidr: String,
    pod_cidr: String,
    cluster_dns: IpAddr,
    cluster_domain: String,
}

/// Runs the verb.
pub async fn join(args: &JoinArgs, machine: &dyn Machine) -> Result<()> {
    let phases = Phases::begin();
    println!("Joining the cluster at {}", args.address);
    let data = config::data_folder(&args.profile, args.data.as_deref());
    preflight::root()?;
    let _turn = Turn::take(&args.profile).await?;
    let name = phases.run("checks", || check(args, &data))?;
    let found = phases.wait("discovery", discover(args)).await?;
    let client = found.client(&args.token)?;
    let facts = phases.wait("settings", facts(&client, &found.server)).await?;
    not_taken(&client, &name).await?;
    let node = Node { name, index: 0, address: node_address(args, found.address)?, kubelet_port: KUBELET_PORT, leaving: false };
    let cluster = joined(args, data, &found, facts, node);
    check_addresses(&cluster)?;
    let was_there = cluster.data.exists();
    let registered = phases.wait("certificate", register(&cluster, &found, &client)).await;
    if registered.is_err() {
        undo(&cluster, was_there);
    }
    registered?;
    bring_up(&phases, cluster.clone(), &StartArgs::again(&cluster, 1), machine).await.map(drop)
}

/// What must be true before anything is asked. Gives the node's name.
fn check(args: &JoinArgs, data: &Path) -> Result<String> {
    preflight::kernel()?;
    if let Some(why) = occupied(args, data) {
        let advice = format!("knarr start --profile {0}, to bring it back; knarr delete --profile {0}, before it joins another", args.profile);
        return Err(Failure::new("CLUSTER_EXISTS", Exit::Cluster, why, advice));
    }
    if token::parts(&args.token).is_none() {
        return Err(token::bad_token(&args.token));
    }
    preflight::disk(data.ancestors().find(|f| f.exists()).unwrap_or(data))?;
    if let Err(e) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, KUBELET_PORT)) {
        return Err(Failure::new(
            "PORT_TAKEN",
            Exit::Resource,
            format!("port {KUBELET_PORT}, at which a node is reached, cannot be listened on: {e}"),
            format!("end the node that runs on this machine already (ss -ltnp 'sport = :{KUBELET_PORT}')"),
        ));
    }
    let name = args.node_name.clone().or_else(|| nix::unistd::gethostname().ok()?.into_string().ok()).unwrap_or_default().to_lowercase();
    if knarr_core::names::is_dns1123_subdomain(&name).is_empty() {
        return Ok(name);
    }
    Err(Failure::new("BAD_NODE_NAME", Exit::Usage, format!("{name:?} is no name for a node: a-z, 0-9, '-' and '.'"), "knarr join … --node-name NAME"))
}

/// Says which cluster has this machine's folders already.
fn occupied(args: &JoinArgs, data: &Path) -> Option<String> {
    if let Ok(cluster) = Cluster::load(data) {
        let what = if cluster.joined { "has joined the cluster" } else { "has the cluster" };
        return Some(format!("this machine {what} at {} already, as profile {:?} in {}", cluster.server_url(), cluster.profile, data.display()));
    }
    let guard = config::run_folder(&args.profile).join(format!("{}.pid", supervise::GUARD));
    let runs = Process::from_pid_file(&guard).is_some();
    (runs || Cluster::exists(data)).then(|| format!("a cluster of the profile {:?} is on this machine already", args.profile))
}

/// The cluster as it was found.
struct Found {
    /// `https://ADDRESS:PORT`, as the cluster itself says.
    server: String,
    address: SocketAddr,
    /// PEM.
    authority: Vec<u8>,
}

impl Found {
    fn client(&self, token: &str) -> Result<Client> {
        let mut config = ClientConfig::new(&self.server);
        config.certificate_authority = Some(self.authority.clone());
        config.identity = Identity::Token(token.to_owned());
        Ok(TlsTransport::new(config).map_err(Failure::program)?.client())
    }
}

/// Reads `kube-public/cluster-info` from whoever answers; it is believed when its authority has a key that was named.
async fn discover(args: &JoinArgs) -> Result<Found> {
    let address = server_address(&args.address)?;
    let mut config = ClientConfig::new(format!("https://{address}"));
    config.insecure = true;
    let client = TlsTransport::new(config).map_err(Failure::program)?.client();
    let map = patiently(&address, client.within::<ConfigMap>("kube-public").get("cluster-info")).await?.map_err(|e| unreachable(&address, &e))?;
    let text = map.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    read_cluster_info(&text, &args.discovery_token_ca_cert_hash)
}

/// `HOST:PORT` of what was named.
fn server_address(named: &str) -> Result<String> {
    let rest = named.strip_prefix("https://").unwrap_or(named).trim_end_matches('/');
    let whole = if rest.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) {
        format!("[{rest}]:{SERVER_PORT}")
    } else if rest.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')) {
        rest.to_owned()
    } else {
        format!("{rest}:{SERVER_PORT}")
    };
    let authority: std::result::Result<http::uri::Authority, _> = whole.parse();
    match authority {
        Ok(a) if a.port_u16().is_some() && !a.host().is_empty() && !whole.contains('@') => Ok(whole),
        _ => Err(Failure::new("BAD_ADDRESS", Exit::Usage, format!("{named:?} is no address of a server: HOST:PORT"), "knarr join HOST:PORT …")),
    }
}

/// What is asked of a server, which may never answer.
async fn patiently<T>(address: &str, question: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(SERVER_TIMEOUT, question).await.map_err(|_| {
        Failure::new(
            "NO_SERVER",
            Exit::Timeout,
            format!("nobody answers at {address} within {} s", SERVER_TIMEOUT.as_secs()),
            format!("look whether the server runs (there: knarr status) and no firewall is in between (here: curl -k https://{address}/livez)"),
        )
    })
}

fn unreachable(address: &str, status: &Status) -> Failure {
    let advice = match status.code {
        401 | 403 => "let anonymous users read kube-public/cluster-info, where the server is: knarr start --apiserver-arg ''",
        _ => "where the server is: knarr status, and knarr token create --print-join-command",
    };
    Failure::new("NO_SERVER", Exit::Cluster, format!("{address} does not say what cluster it is: {}", status.message), advice)
}

fn read_cluster_info(text: &str, pins: &[String]) -> Result<Found> {
    let bad = |why: &str| {
        Failure::new(
            "BAD_CLUSTER_INFO",
            Exit::Cluster,
            format!("the cluster's description (kube-public/cluster-info): {why}"),
            "knarr token create, where the server is",
        )
    };
    let config = Kubeconfig::parse(text, None).map_err(|e| bad(&e))?;
    let cluster = config.clusters.values().next().ok_or_else(|| bad("names no cluster"))?;
    let data = cluster.value.certificate_authority_data.as_deref().ok_or_else(|| bad("has no authority"))?;
    let authority = STANDARD.decode(data).map_err(|e| bad(&e.to_string()))?;
    let hashes = token::key_hashes(&authority)?;
    // All of them: an authority of somebody else's beside the right one would be trusted just as well.
    if hashes.is_empty() || !hashes.iter().all(|hash| pins.contains(hash)) {
        return Err(Failure::new(
            "WRONG_AUTHORITY",
            Exit::Cluster,
            format!("the server is of another cluster than the one meant: its authority has the key {}", hashes.join(", ")),
            "where the right server is: knarr token create --print-join-command",
        ));
    }
    let server = cluster.value.server.clone();
    let address = server.strip_prefix("https://").and_then(|a| a.trim_end_matches('/').parse().ok()).ok_or_else(|| bad("names its server by no address"))?;
    Ok(Found { server, address, authority })
}

/// The cluster's settings, from where kubeadm's nodes read them.
async fn facts(client: &Client, server: &str) -> Result<Facts> {
    let maps = client.within::<ConfigMap>("kube-system");
    let read = async |name: &str, key: &str| {
        let map = patiently(server.trim_start_matches("https://"), maps.get(name)).await?.map_err(|e| refused(server, &e))?;
        map.data.unwrap_or_default().remove(key).ok_or_else(|| Failure::program(format!("ConfigMap {name} has no {key}")))
    };
    read_facts(&read("kubeadm-config", "ClusterConfiguration").await?, &read("kubelet-config", "kubelet").await?)
}

fn refused(server: &str, status: &Status) -> Failure {
    let (code, why, advice) = match status.code {
        401 => ("BAD_TOKEN", "it does not know the token, or its time is over", "where the server is: knarr token create --print-join-command"),
        403 => ("BAD_TOKEN", &*status.message, "where the server is: knarr token create --print-join-command"),
        _ => (
            "NO_SERVER",
            &*status.message,
            "the cluster names this address itself; let it name one that this machine reaches: knarr start --advertise-address ADDRESS, where the server is",
        ),
    };
    Failure::new(code, Exit::Cluster, format!("{server} does not let this machine in: {why}"), advice)
}

/// A name that a living node has is not given twice (kubeadm: `preflight`, then `phases/join/kubelet.go`).
async fn not_taken(client: &Client, name: &str) -> Result<()> {
    // Who may not look cannot tell; the cluster then takes the node as it is.
    let found = client.all::<ApiNode>().find(name).await.unwrap_or_default();
    if !found.as_ref().is_some_and(status::is_ready) {
        return Ok(());
    }
    Err(Failure::new(
        "NODE_EXISTS",
        Exit::Cluster,
        format!("the cluster has a node {name:?} already, and it is Ready"),
        format!("knarr join … --node-name OTHER; or, where the server is: knarr node remove {name}"),
    ))
}

/// The cluster's addresses must not be somebody else's on this machine.
fn check_addresses(cluster: &Cluster) -> Result<()> {
    let ways = slots::ways_of_machine();
    for (what, text) in [("pods", &cluster.pod_cidr), ("Services", &cluster.service_cidr)] {
        let own: Ipv4Net = text.parse().map_err(Failure::program)?;
        if let Some(way) = ways.iter().find(|way| own.contains(&way.network()) || way.contains(&own.network())) {
            return Err(Failure::new(
                "ADDRESSES_TAKEN",
                Exit::Resource,
                format!("the cluster's {what} have addresses of {own}, and this machine knows another way to {way}"),
                "knarr delete, if a cluster of this machine's own has them; ip route, to see whose they are",
            ));
        }
    }
    Ok(())
}

fn read_facts(cluster: &str, kubelet: &str) -> Result<Facts> {
    let (cluster, kubelet) = (yaml::parse(cluster).map_err(Failure::program)?, yaml::parse(kubelet).map_err(Failure::program)?);
    let missing = |what: &str| Failure::program(format!("the cluster does not tell its {what}"));
    let network = |key: &str| cluster.str_at(&["networking", key]).map(str::to_owned).ok_or_else(|| missing(key));
    let dns = kubelet["clusterDNS"][0].as_str().and_then(|a| a.parse().ok()).ok_or_else(|| missing("clusterDNS"))?;
    Ok(Facts { service_cidr: network("serviceSubnet")?, pod_cidr: network("podSubnet")?, cluster_dns: dns, cluster_domain: network("dnsDomain")? })
}

fn node_address(args: &JoinArgs, server: SocketAddr) -> Result<IpAddr> {
    args.node_ip
        .or_else(|| preflight::address_towards(server))
        .ok_or_else(|| Failure::new("NO_ADDRESS", Exit::Host, format!("this machine has no way to {}", server.ip()), "knarr join … --node-ip ADDRESS"))
}

fn joined(args: &JoinArgs, data: PathBuf, found: &Found, facts: Facts, node: Node) -> Cluster {
    Cluster {
        profile: args.profile.clone(),
        slot: slots::of_pods(&facts.pod_cidr),
        desired: Desired::Running,
        data,
        run: config::run_folder(&args.profile),
        advertise: found.address.ip(),
        port: found.address.port(),
        service_cidr: facts.service_cidr,
        pod_cidr: facts.pod_cidr,
        cluster_dns: facts.cluster_dns,
        cluster_domain: facts.cluster_domain,
        nodes: vec![node],
        apiserver_args: Vec::new(),
        datastore: None,
        servers: 0,
        joined: true,
    }
}

/// Gets the node's certificate and writes down what the node is.
async fn register(cluster: &Cluster, found: &Found, client: &Client) -> Result<()> {
    slots::Registry::of_machine().keep(cluster)?;
    let pair = credentials::request(client, &cluster.nodes[0], credentials::Purpose::Client).await?;
    write(cluster, found, &pair)
}

/// A machine that could not join is as it was.
fn undo(cluster: &Cluster, was_there: bool) {
    let folder = |path: &Path| knarr_sys::tree::remove(path).map_err(|e| Failure::file(path, &e));
    let data = if was_there { Ok(()) } else { folder(&cluster.data) };
    for done in [data, folder(&cluster.run), slots::Registry::of_machine().release(cluster)] {
        if let Err(failure) = done {
            tracing::warn!(%failure, "something of a join that failed stays");
        }
    }
}

/// The folder of the node, with its file last: without it there is no cluster.
fn write(cluster: &Cluster, found: &Found, pair: &str) -> Result<()> {
    for folder in [cluster.data.clone(), cluster.pki(), cluster.run.clone(), cluster.logs()] {
        config::private_folder(&folder)?;
    }
    config::write_whole(&cluster.pki().join("ca.crt"), &found.authority)?;
    config::write_whole(&credentials::file(cluster, credentials::CLIENT), pair.as_bytes())?;
    cluster.save()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(vec!["kubernetes".into()]).unwrap().self_signed(&key).unwrap().pem();
        let hash = token::key_hashes(pem.as_bytes()).unwrap().remove(0);
        (pem, hash)
    }

    #[test]
    fn a_cluster_is_believed_when_all_of_its_authorities_were_named() {
        let ((ours, ours_hash), (other, other_hash)) = (authority(), authority());
        let info = |authority: &str| token::cluster_info(authority.as_bytes(), "https://192.0.2.1:6443");
        let found = read_cluster_info(&info(&ours), std::slice::from_ref(&ours_hash)).unwrap();
        assert_eq!((found.address, found.authority), ("192.0.2.1:6443".parse().unwrap(), ours.clone().into_bytes()));
        let code = |text: &str, pins: &[String]| read_cluster_info(text, pins).err().map(|f| f.code);
        assert_eq!(code(&info(&other), std::slice::from_ref(&ours_hash)), Some("WRONG_AUTHORITY"));
        let both = format!("{ours}{other}");
        assert_eq!(code(&info(&both), std::slice::from_ref(&ours_hash)), Some("WRONG_AUTHORITY"), "one of two is not enough");
        assert_eq!(code(&info(&both), &[ours_hash, other_hash]), None);
        assert_eq!(code("kind: Config", &[]), Some("BAD_CLUSTER_INFO"));
    }

    #[test]
    fn a_server_is_named_in_many_ways_and_never_wrongly() {
        for (named, wanted) in [
            ("192.0.2.1:7000", "192.0.2.1:7000"),
            ("https://a.example:1/", "a.example:1"),
            ("192.0.2.1", "192.0.2.1:6443"),
            ("2001:db8::1", "[2001:db8::1]:6443"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("[2001:db8::1]", "[2001:db8::1]:6443"),
        ] {
            assert_eq!(server_address(named).unwrap(), wanted, "{named}");
        }
        for bad in ["", ":6443", "a:b", "a:70000", "a b:1", "user@a:1", "a/b:1"] {
            assert_eq!(server_address(bad).unwrap_err().code, "BAD_ADDRESS", "{bad}");
        }
    }

    #[test]
    fn who_is_not_let_in_is_told_why() {
        let code = |code: u16| refused("https://192.0.2.1:6443", &Status::new(code, knarr_core::Reason::Unauthorized, "x")).code;
        assert_eq!((code(401), code(403), code(500)), ("BAD_TOKEN", "BAD_TOKEN", "NO_SERVER"));
    }

    #[test]
    fn what_a_server_publishes_is_what_a_node_reads() {
        let cluster = config::tests::sample(std::path::Path::new("/x"));
        let [(_, _, kubeadm), (_, _, kubelet)] = token::settings(&cluster);
        let facts = read_facts(&kubeadm, &kubelet).unwrap();
        let wanted =
            Facts { service_cidr: cluster.service_cidr, pod_cidr: cluster.pod_cidr, cluster_dns: cluster.cluster_dns, cluster_domain: cluster.cluster_domain };
        assert_eq!(facts, wanted);
    }
}
