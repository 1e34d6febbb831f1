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

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use knarr_client::tls::{Config as ClientConfig, Identity};
use knarr_client::{Client, Kubeconfig, TlsTransport};
use knarr_core::{Status, ValueExt, yaml};

use super::config::{self, Cluster, DEFAULT_PROFILE, Desired, Node};
use super::failure::{Exit, Failure, Result};
use super::start::{Machine, Phases, StartArgs, bring_up};
use super::{credentials, preflight, token};

/// Flags of `knarr join`, named as kubeadm names them.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    /// The API server, as HOST:PORT
    pub address: String,
    /// A token of `knarr token create`
    #[arg(long)]
    pub token: String,
    /// Hash of the public key of the cluster's authority, as sha256:HEX; may be repeated
    #[arg(long, required = true)]
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
    let name = phases.run("checks", || check(args, &data))?;
    let found = phases.wait("discovery", discover(args)).await?;
    let facts = phases.wait("settings", facts(&found.client(&args.token)?)).await?;
    let node = Node { name, index: 0, address: node_address(args, found.address)?, kubelet_port: 10250, leaving: false };
    let pair = phases.wait("certificate", credentials::request(&found.client(&args.token)?, &node, credentials::Purpose::Client)).await?;
    let cluster = joined(args, data, &found, facts, node);
    write(&cluster, &found, &pair)?;
    bring_up(&phases, cluster.clone(), &StartArgs::again(&cluster, 1), machine).await
}

/// What must be true before anything is asked. Gives the node's name.
fn check(args: &JoinArgs, data: &std::path::Path) -> Result<String> {
    preflight::root()?;
    preflight::kernel()?;
    if Cluster::exists(data) {
        return Err(Failure::new(
            "CLUSTER_EXISTS",
            Exit::Cluster,
            format!("{} belongs to a cluster already", data.display()),
            format!("knarr start --profile {0}, or knarr delete --profile {0}", args.profile),
        ));
    }
    let name = args.node_name.clone().or_else(|| nix::unistd::gethostname().ok()?.into_string().ok()).unwrap_or_default().to_lowercase();
    if knarr_core::names::is_dns1123_subdomain(&name).is_empty() {
        return Ok(name);
    }
    Err(Failure::new("BAD_NODE_NAME", Exit::Usage, format!("{name:?} is no name for a node: a-z, 0-9, '-' and '.'"), "knarr join … --node-name NAME"))
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
    let address = args.address.strip_prefix("https://").unwrap_or(&args.address);
    let mut config = ClientConfig::new(format!("https://{address}"));
    config.insecure = true;
    let client = TlsTransport::new(config).map_err(Failure::program)?.client();
    let map = client.within::<ConfigMap>("kube-public").get("cluster-info").await.map_err(|e| unreachable(&args.address, &e))?;
    let text = map.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    read_cluster_info(&text, &args.discovery_token_ca_cert_hash)
}

fn unreachable(address: &str, status: &Status) -> Failure {
    Failure::new(
        "NO_SERVER",
        Exit::Cluster,
        format!("{address} does not say what cluster it is: {}", status.message),
        "where the server is: knarr token create --print-join-command",
    )
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
async fn facts(client: &Client) -> Result<Facts> {
    let maps = client.within::<ConfigMap>("kube-system");
    let read = async |name: &str, key: &str| {
        let map = maps.get(name).await.map_err(refused)?;
        map.data.unwrap_or_default().remove(key).ok_or_else(|| Failure::program(format!("ConfigMap {name} has no {key}")))
    };
    read_facts(&read("kubeadm-config", "ClusterConfiguration").await?, &read("kubelet-config", "kubelet").await?)
}

fn refused(status: Status) -> Failure {
    let advice = if status.code == 401 {
        "make a new token where the server is: knarr token create --print-join-command"
    } else {
        "look whether the server is well: knarr status"
    };
    Failure::new(
        if status.code == 401 { "BAD_TOKEN" } else { "API" },
        Exit::Cluster,
        format!("the server does not let this machine in: {}", status.message),
        advice,
    )
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
        slot: 0,
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

/// The folder of the node, with its file last: without it there is no cluster.
fn write(cluster: &Cluster, found: &Found, pair: &str) -> Result<()> {
    for folder in [cluster.data.clone(), cluster.pki(), cluster.run.clone(), cluster.logs()] {
        config::private_folder(&folder)?;
    }
    preflight::disk(&cluster.data)?;
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
    fn what_token_create_publishes_is_what_a_node_reads() {
        let cluster = config::tests::sample(std::path::Path::new("/x"));
        let [(_, _, kubeadm), (_, _, kubelet)] = token::settings(&cluster);
        let facts = read_facts(&kubeadm, &kubelet).unwrap();
        let wanted =
            Facts { service_cidr: cluster.service_cidr, pod_cidr: cluster.pod_cidr, cluster_dns: cluster.cluster_dns, cluster_domain: cluster.cluster_domain };
        assert_eq!(facts, wanted);
    }
}
