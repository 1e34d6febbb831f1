//! `knarr start`: from nothing, or from a stopped cluster, to one whose nodes are Ready. Every phase is named and timed; a phase
//! that fails says why and what to do, and nothing is waited for in vain.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node as ApiNode;

use super::config::{self, Cluster, DEFAULT_PORT, DEFAULT_PROFILE, Datastore, Desired, LOCAL_NODES_MAX, Node, SERVERS_MAX};
use super::failure::{Exit, Failure, Result};
use super::process::{self, Home, Process};
use super::slots::{self, Ranges, Registry};
use super::turn::Turn;
use super::verbs::Which;
use super::{doctor, kubeconfig, preflight, status, supervise, systemd};

/// How long the server may take until it answers.
const SERVER_READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to end when it must start anew.
const SERVER_END_TIMEOUT: Duration = Duration::from_secs(20);
/// DNS has this address among the Services', as with kubeadm.
const DNS_HOST: u32 = 10;
/// How long the nodes may take until they are Ready.
const NODES_READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Flags of `knarr start`.
#[derive(Clone, Debug, clap::Args)]
pub struct StartArgs {
    /// Name of the cluster; several may live on one machine
    #[arg(short, long, default_value = DEFAULT_PROFILE)]
    pub profile: String,
    /// How many nodes, all on this machine. The default is what the cluster has, or 1 for a new one
    #[arg(short, long)]
    pub nodes: Option<usize>,
    /// Port of the API server
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Folder of the cluster's data (default: /var/lib/knarr/PROFILE)
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where the objects lie: `etcd=https://HOST:2379`, several members separated by commas (default: a folder of the cluster)
    #[arg(long, value_parser = datastore)]
    pub datastore: Option<Datastore>,
    /// Who signed etcd's certificate (PEM)
    #[arg(long, requires = "datastore")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate by which etcd knows this cluster (PEM)
    #[arg(long, requires = "datastore", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, requires = "datastore", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Prefix of all keys in etcd (default: /registry)
    #[arg(long, requires = "datastore")]
    pub etcd_prefix: Option<String>,
    /// How many API servers, all on this machine and at one port; more than one need --datastore. The default is what the cluster has, or 1 for a new one
    #[arg(long)]
    pub servers: Option<usize>,
    /// Address by which the API server is reached (default: that of the way out)
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Flag of kube-apiserver, such as `oidc-issuer-url=https://…`; may be repeated. The cluster keeps them until other ones are
    /// given; an empty one takes them all away
    #[arg(long = "apiserver-arg", alias = "kube-apiserver-arg", value_name = "NAME=VALUE")]
    pub apiserver_args: Vec<String>,
    /// Stay until interrupted, then stop the cluster
    #[arg(long)]
    pub foreground: bool,
    /// With --foreground: let the containers run on when the cluster is stopped
    #[arg(long, requires = "foreground")]
    pub keep_pods: bool,
    /// Let systemd start the cluster at boot
    #[arg(long)]
    pub systemd: bool,
    /// Leave the kubeconfig alone
    #[arg(long)]
    pub no_kubeconfig: bool,
    /// File to merge the cluster into (default: $KUBECONFIG or ~/.kube/config)
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

impl StartArgs {
    /// The start of a cluster that exists, with this many nodes.
    pub fn again(cluster: &Cluster, nodes: usize) -> Self {
        Self {
            profile: cluster.profile.clone(),
            nodes: Some(nodes),
            port: cluster.port,
            data: Some(cluster.data.clone()),
            datastore: None,
            etcd_cafile: None,
            etcd_certfile: None,
            etcd_keyfile: None,
            etcd_prefix: None,
            servers: None,
            advertise_address: None,
            apiserver_args: Vec::new(),
            foreground: false,
            keep_pods: false,
            systemd: false,
            no_kubeconfig: true,
            kubeconfig: None,
        }
    }

    /// The datastore that the flags describe.
    fn datastore(&self) -> Result<Option<Datastore>> {
        let Some(named) = &self.datastore else { return Ok(None) };
        // Later starts may happen in another folder.
        let absolute = |file: &Option<PathBuf>| file.as_ref().map(|f| std::path::absolute(f).map_err(|e| Failure::file(f, &e))).transpose();
        Ok(Some(Datastore {
            prefix: self.etcd_prefix.clone().unwrap_or_default(),
            ca_file: absolute(&self.etcd_cafile)?,
            cert_file: absolute(&self.etcd_certfile)?,
            key_file: absolute(&self.etcd_keyfile)?,
            ..named.clone()
        }))
    }
}

/// Reads `etcd=https://a:2379,https://b:2379`.
fn datastore(text: &str) -> std::result::Result<Datastore, String> {
    let members = text.strip_prefix("etcd=").ok_or("only etcd is known: etcd=https://HOST:2379")?;
    let endpoints: Vec<String> = members.split(',').map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()).collect();
    match endpoints.iter().find(|e| !e.starts_with("https://") && !e.starts_with("http://")) {
        Some(bad) => Err(format!("{bad:?} must begin with https:// or http://")),
        None if endpoints.is_empty() => Err("no address is named: etcd=https://HOST:2379".into()),
        None => Ok(Datastore { endpoints, ..Datastore::default() }),
    }
}

/// What the verbs need of the rest of the program.
#[async_trait::async_trait]
pub trait Machine: Send + Sync {
    /// Makes the namespaces of a node that does not live on the host's network.
    async fn make_node(&self, cluster: &Cluster, node: &Node) -> Result<()>;
    /// Takes away what a node left: rules, links, mounts, cgroups, namespaces.
    async fn clear_node(&self, cluster: &Cluster, node: &Node) -> Result<()>;
    /// Takes away what the nodes have together on this machine.
    async fn clear_machine(&self, cluster: &Cluster) -> Result<()>;
    /// Says what is wrong with flags of kube-apiserver.
    fn check_apiserver_args(&self, args: &[String]) -> Result<()>;
    /// Removes the folders of a node's local volumes.
    fn remove_volumes(&self, cluster: &Cluster, node: &Node) -> Result<()>;
    /// The address that a local node of this index will have.
    fn node_address(&self, cluster: &Cluster, index: usize) -> IpAddr;
}

/// Prints each phase with the time it took.
pub(super) struct Phases {
    begun: Instant,
}

impl Phases {
    /// The first begins now.
    pub fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    fn done(&self, name: &str, since: Instant) {
        println!("  {name:<28} {:>7.0} ms", since.elapsed().as_secs_f64() * 1000.0);
    }

    pub fn run<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let since = Instant::now();
        let result = work()?;
        self.done(name, since);
        Ok(result)
    }

    pub async fn wait<T>(&self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let since = Instant::now();
        let result = work.await?;
        self.done(name, since);
        Ok(result)
    }
}

/// Runs the verb.
pub async fn start(args: &StartArgs, machine: &dyn Machine) -> Result<()> {
    let phases = Phases::begin();
    preflight::root()?;
    let turn = Turn::take(&args.profile).await?;
    start_in_turn(&phases, args, machine, turn).await
}

/// Adds a node to a cluster, and starts it.
pub async fn start_another_node(which: &Which, machine: &dyn Machine) -> Result<()> {
    let phases = Phases::begin();
    let (turn, cluster) = which.take().await?;
    start_in_turn(&phases, &StartArgs::again(&cluster, cluster.nodes.len() + 1), machine, turn).await
}

async fn start_in_turn(phases: &Phases, args: &StartArgs, machine: &dyn Machine, turn: Turn) -> Result<()> {
    println!("Starting cluster {:?}", args.profile);
    let cluster = phases.run("checks", || prepare(args, machine))?;
    let begun = cluster.clone();
    let cluster = bring_up(phases, cluster, args, machine).await.inspect_err(|_| {
        if !Cluster::exists(&begun.data) {
            forget(&begun)
        }
    })?;
    drop(turn);
    if args.foreground { foreground(&cluster, machine, args.keep_pods).await } else { Ok(()) }
}

/// Starts what a cluster's file says, and waits for it. Gives the cluster as it runs.
pub(super) async fn bring_up(phases: &Phases, mut cluster: Cluster, args: &StartArgs, machine: &dyn Machine) -> Result<Cluster> {
    cluster.desired = Desired::Running;
    let other_args = set_apiserver_args(&mut cluster, &args.apiserver_args, machine)?;
    cluster.save()?;
    for index in (1..=cluster.servers).filter(|_| other_args) {
        if let Some(server) = Process::from_pid_file(&cluster.pid_file(&supervise::server_role(index))) {
            // It reads its flags when it starts; whoever notices its end first starts it again.
            phases.run("new flags of the API server", || Ok(process::end(&server, SERVER_END_TIMEOUT)))?;
        }
    }
    // Before the server, which looks after the agents from its first moment.
    for node in &cluster.nodes {
        machine.make_node(&cluster, node).await?;
    }
    let ensure = |role: &str, args: &[String]| supervise::ensure(&cluster.data, role, args, &Home::default());
    if !cluster.joined {
        phases
            .wait("API server", async {
                // The first makes the certificates; others come when it is ready.
                ensure(supervise::SERVER, &supervise::server_args(&cluster, 1))?;
                wait_for_server(&cluster).await
            })
            .await?;
    }
    for (role, args) in supervise::roles(&cluster) {
        ensure(&role, &args)?;
    }
    let nodes = phases.wait(&format!("nodes Ready ({})", cluster.nodes.len()), wait_for_nodes(&cluster)).await?;
    // Who joined has no administrator's certificate.
    if !args.no_kubeconfig && !cluster.joined {
        let file = phases.run("kubeconfig", || kubeconfig::merge(&cluster, args.kubeconfig.as_deref()))?;
        println!("  context {:?} in {}", kubeconfig::context_name(&cluster), file.display());
    }
    if args.systemd {
        let unit = phases.run("systemd unit", || systemd::install(&cluster))?;
        println!("  {}", unit.display());
    }
    println!("Ready after {:.0} ms: {}", phases.begun.elapsed().as_secs_f64() * 1000.0, cluster.server_url());
    for finding in nodes.iter().flat_map(doctor::pressures) {
        println!("{finding}");
    }
    Ok(cluster)
}

async fn foreground(cluster: &Cluster, machine: &dyn Machine, keep_pods: bool) -> Result<()> {
    println!("Press Ctrl-C to stop the cluster");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(Failure::program)?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    super::stop::stop_cluster(cluster, machine, keep_pods).await
}

/// Everything before the first process: checks, and the cluster's file. A new cluster that is refused leaves nothing.
fn prepare(args: &StartArgs, machine: &dyn Machine) -> Result<Cluster> {
    preflight::kernel()?;
    let data = config::data_folder(&args.profile, args.data.as_deref());
    if Cluster::exists(&data) {
        let mut cluster = Cluster::load(&data)?;
        keeps_its_port(&cluster, args.port)?;
        make_ready(&mut cluster, args, machine)?;
        return Ok(cluster);
    }
    let registry = Registry::of_machine();
    registry.check_profile(&args.profile, &data)?;
    config::private_folder(&data)?;
    let slot = registry.claim(&data, usize::from(args.profile != DEFAULT_PROFILE), &slots::ways_of_machine())?;
    let mut cluster = described(args, &data, slot);
    make_ready(&mut cluster, args, machine).inspect_err(|_| forget(&cluster))?;
    Ok(cluster)
}

fn make_ready(cluster: &mut Cluster, args: &StartArgs, machine: &dyn Machine) -> Result<()> {
    preflight::disk(&cluster.data)?;
    Registry::of_machine().keep(cluster)?;
    for folder in [cluster.run.clone(), cluster.logs()] {
        config::private_folder(&folder)?;
    }
    if !cluster.joined && (1..=cluster.servers).all(|i| Process::from_pid_file(&cluster.pid_file(&supervise::server_role(i))).is_none()) {
        preflight::port_free(cluster.port)?;
    }
    let wanted = args.nodes.unwrap_or_else(|| cluster.nodes.len().max(1));
    set_nodes(cluster, wanted, machine)?;
    if cluster.joined { Ok(()) } else { set_servers(cluster, args) }
}

/// Takes back what was made for a cluster that is not to be: folders that are empty, and its slot. The refusal is what counts.
fn forget(cluster: &Cluster) {
    for folder in [&cluster.logs(), &cluster.data, &cluster.run] {
        let _ = std::fs::remove_dir(folder);
    }
    let _ = cluster.run.parent().map(std::fs::remove_dir);
    let _ = Registry::of_machine().release(cluster);
}

/// The port stands in kubeconfigs and certificates of others: a cluster keeps the one of its first start.
fn keeps_its_port(cluster: &Cluster, wanted: u16) -> Result<()> {
    if wanted == DEFAULT_PORT || wanted == cluster.port || cluster.joined {
        return Ok(());
    }
    let advice = format!("leave --port out; for another port, knarr delete --profile {} and start it anew", cluster.profile);
    Err(Failure::new("OTHER_PORT", Exit::Usage, format!("the cluster's port is {}", cluster.port), advice))
}

fn described(args: &StartArgs, data: &Path, slot: usize) -> Cluster {
    let ranges = Ranges::of(slot);
    Cluster {
        profile: args.profile.clone(),
        slot,
        desired: Desired::Running,
        data: data.to_owned(),
        run: config::run_folder(&args.profile),
        advertise: args.advertise_address.unwrap_or_else(preflight::advertise_address),
        port: args.port,
        service_cidr: ranges.services.to_string(),
        pod_cidr: ranges.pods.to_string(),
        cluster_dns: IpAddr::V4(Ipv4Addr::from_bits(ranges.services.network().to_bits() + DNS_HOST)),
        cluster_domain: "cluster.local".into(),
        nodes: Vec::new(),
        apiserver_args: Vec::new(),
        datastore: None,
        servers: 1,
        joined: false,
    }
}

/// Takes over flags of kube-apiserver that were given, and says whether they are other ones than before.
fn set_apiserver_args(cluster: &mut Cluster, given: &[String], machine: &dyn Machine) -> Result<bool> {
    if given.is_empty() {
        return Ok(false);
    }
    let wanted: Vec<String> = given.iter().filter(|a| !a.is_empty()).map(|a| from_root(a)).collect();
    machine.check_apiserver_args(&wanted)?;
    let changed = cluster.apiserver_args != wanted;
    cluster.apiserver_args = wanted;
    Ok(changed)
}

/// A file is named as seen from where the command is given; the server stands elsewhere.
fn from_root(arg: &str) -> String {
    const FILES: [&str; 3] = ["authentication-config", "authorization-config", "encryption-provider-config"];
    match arg.split_once('=') {
        Some((name, file)) if !file.is_empty() && (name.ends_with("-file") || FILES.contains(&name.trim_start_matches('-'))) => {
            std::path::absolute(file).map_or_else(|_| arg.to_owned(), |path| format!("{name}={}", path.display()))
        }
        _ => arg.to_owned(),
    }
}

/// How many servers share which store. A cluster stays with the store in which its objects are.
fn set_servers(cluster: &mut Cluster, args: &StartArgs) -> Result<()> {
    if let Some(wanted) = args.datastore()?
        && cluster.datastore.as_ref() != Some(&wanted)
    {
        if cluster.datastore.is_none() && cluster.data.join("store").exists() {
            let why = "the cluster's objects lie in its folder, and another datastore would be empty";
            return Err(Failure::new("OTHER_DATASTORE", Exit::Usage, why, "leave --datastore out, or start a cluster with another --profile"));
        }
        cluster.datastore = Some(wanted);
    }
    let servers = args.servers.unwrap_or(cluster.servers);
    if servers == 0 || servers > SERVERS_MAX {
        return Err(Failure::new(
            "BAD_SERVERS",
            Exit::Usage,
            format!("a cluster has 1 to {SERVERS_MAX} servers on one machine, not {servers}"),
            "knarr start --servers N",
        ));
    }
    if servers > 1 && cluster.datastore.is_none() {
        let why = "several servers need a datastore that they share";
        return Err(Failure::new("NO_DATASTORE", Exit::Usage, why, "knarr start --servers N --datastore etcd=https://HOST:2379"));
    }
    cluster.servers = servers;
    Ok(())
}

/// Adds nodes until there are `wanted`. Fewer than there are is no business of `start`.
fn set_nodes(cluster: &mut Cluster, wanted: usize, machine: &dyn Machine) -> Result<()> {
    if wanted == 0 || wanted > LOCAL_NODES_MAX {
        return Err(Failure::new(
            "BAD_NODES",
            Exit::Usage,
            format!("a cluster on one machine has 1 to {LOCAL_NODES_MAX} nodes, not {wanted}"),
            "knarr start --nodes N",
        ));
    }
    if cluster.joined && wanted > cluster.nodes.len() {
        return Err(Failure::new("JOINED", Exit::Usage, "this machine has joined a cluster as one node", "knarr node add, where the cluster's server is"));
    }
    if wanted < cluster.nodes.len() {
        return Err(Failure::new("TOO_FEW_NODES", Exit::Usage, format!("the cluster has {} nodes already", cluster.nodes.len()), "knarr node remove NAME"));
    }
    while cluster.nodes.len() < wanted {
        add_node(cluster, machine);
    }
    Ok(())
}

/// Enters one more node into the cluster's file. The default profile's first lives on the host's network.
pub fn add_node(cluster: &mut Cluster, machine: &dyn Machine) -> Node {
    let on_host = cluster.profile == DEFAULT_PROFILE && cluster.nodes.iter().all(|n| n.index > 0);
    let index = if on_host { 0 } else { (1..).find(|i| cluster.nodes.iter().all(|n| n.index != *i)).unwrap_or(1) };
    let name = match (on_host || (cluster.profile != DEFAULT_PROFILE && index == 1), index) {
        (true, _) => cluster.profile.clone(),
        (false, i) if cluster.profile == DEFAULT_PROFILE => format!("{}-m{:02}", cluster.profile, i + 1),
        (false, i) => format!("{}-m{i:02}", cluster.profile),
    };
    let address = if on_host { cluster.advertise } else { machine.node_address(cluster, index) };
    let node = Node { name, index, address, kubelet_port: 10250, leaving: false };
    cluster.nodes.push(node.clone());
    node
}

async fn wait_for_server(cluster: &Cluster) -> Result<()> {
    wait_until(SERVER_READY_TIMEOUT, async || {
        if Process::from_pid_file(&cluster.pid_file("server")).is_none() {
            return Err(Failure::new(
                "SERVER_ENDED",
                Exit::Program,
                last_words(cluster, "server"),
                format!("look into {}", cluster.logs().join("server.log").display()),
            ));
        }
        Ok(status::server_ready(cluster).await.then_some(()))
    })
    .await?
    .ok_or_else(|| Failure::new("SERVER_NOT_READY", Exit::Timeout, "the API server does not answer", "knarr logs server"))
}

async fn wait_for_nodes(cluster: &Cluster) -> Result<Vec<ApiNode>> {
    wait_until(NODES_READY_TIMEOUT, async || {
        for node in &cluster.nodes {
            if Process::from_pid_file(&cluster.pid_file(&Cluster::agent_role(node))).is_none() {
                let role = Cluster::agent_role(node);
                return Err(Failure::new(
                    "AGENT_ENDED",
                    Exit::Program,
                    last_words(cluster, &role),
                    format!("look into {}", cluster.logs().join(format!("{role}.log")).display()),
                ));
            }
        }
        let nodes = status::nodes(cluster).await.unwrap_or_default();
        Ok((nodes.len() == cluster.nodes.len() && nodes.iter().all(status::is_ready)).then_some(nodes))
    })
    .await?
    .ok_or_else(|| Failure::new("NODES_NOT_READY", Exit::Timeout, "not every node became Ready", "knarr kubectl describe nodes"))
}

/// The last line that a role wrote before it ended.
fn last_words(cluster: &Cluster, role: &str) -> String {
    let log = std::fs::read_to_string(cluster.logs().join(format!("{role}.log"))).unwrap_or_default();
    let mut lines = log.lines().rev().filter(|l| !l.trim().is_empty());
    let last = lines.clone().find(|l| l.starts_with("error: ")).or_else(|| lines.next());
    format!("{role} ended: {}", last.map_or("it said nothing", |l| l.trim_start_matches("error: ")))
}

/// Asks again every few milliseconds: a starting process has nobody yet who could wake us. `None` when time is up.
async fn wait_until<T>(timeout: Duration, mut ready: impl AsyncFnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let until = Instant::now() + timeout;
    while Instant::now() < until {
        if let Some(what) = ready().await? {
            return Ok(Some(what));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_from_the_root() {
        let here = std::env::current_dir().unwrap().display().to_string();
        for (given, wanted) in [
            ("encryption-provider-config=a/b.yaml", format!("encryption-provider-config={here}/a/b.yaml")),
            ("--audit-policy-file=b", format!("--audit-policy-file={here}/b")),
            ("token-auth-file=/b", "token-auth-file=/b".to_owned()),
            ("token-auth-file=", "token-auth-file=".to_owned()),
            ("runtime-config=api/beta=true", "runtime-config=api/beta=true".to_owned()),
            ("anonymous-auth", "anonymous-auth".to_owned()),
        ] {
            assert_eq!(from_root(given), wanted);
        }
    }

    struct NoMachine;

    #[async_trait::async_trait]
    impl Machine for NoMachine {
        async fn make_node(&self, _: &Cluster, _: &Node) -> Result<()> {
            Ok(())
        }
        async fn clear_node(&self, _: &Cluster, _: &Node) -> Result<()> {
            Ok(())
        }
        async fn clear_machine(&self, _: &Cluster) -> Result<()> {
            Ok(())
        }
        fn check_apiserver_args(&self, _: &[String]) -> Result<()> {
            Ok(())
        }
        fn remove_volumes(&self, _: &Cluster, _: &Node) -> Result<()> {
            Ok(())
        }
        fn node_address(&self, _: &Cluster, index: usize) -> IpAddr {
            IpAddr::from([10, 89, 0, u8::try_from(index).unwrap()])
        }
    }

    fn args(profile: &str) -> StartArgs {
        StartArgs {
            profile: profile.into(),
            nodes: None,
            port: 6443,
            data: None,
            datastore: None,
            etcd_cafile: None,
            etcd_certfile: None,
            etcd_keyfile: None,
            etcd_prefix: None,
            servers: None,
            advertise_address: None,
            apiserver_args: Vec::new(),
            foreground: false,
            keep_pods: false,
            systemd: false,
            no_kubeconfig: true,
            kubeconfig: None,
        }
    }

    fn names(profile: &str, count: usize) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = described(&args(profile), &folder.path().join(profile), 1);
        set_nodes(&mut cluster, count, &NoMachine).unwrap();
        cluster.nodes.iter().map(|n| format!("{}@{}", n.name, n.index)).collect()
    }

    #[test]
    fn nodes_are_named_as_minikube_names_them() {
        assert_eq!(names("knarr", 3), ["knarr@0", "knarr-m02@1", "knarr-m03@2"]);
        assert_eq!(names("other", 2), ["other@1", "other-m02@2"]);
    }

    #[test]
    fn several_servers_need_a_store_that_they_share() {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = described(&args("knarr"), folder.path(), 0);
        let mut wanted = StartArgs { servers: Some(2), ..args("knarr") };
        assert_eq!(set_servers(&mut cluster, &wanted).unwrap_err().code, "NO_DATASTORE");
        wanted.datastore = Some(datastore("etcd=https://a:2379, http://b").unwrap());
        set_servers(&mut cluster, &wanted).unwrap();
        assert_eq!((cluster.servers, cluster.datastore.clone().unwrap().endpoints), (2, vec!["https://a:2379".into(), "http://b".into()]));
        set_servers(&mut cluster, &args("knarr")).unwrap();
        assert_eq!(cluster.servers, 2, "a later start keeps what is not named");
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let mut embedded = described(&args("knarr"), folder.path(), 0);
        assert_eq!(set_servers(&mut embedded, &wanted).unwrap_err().code, "OTHER_DATASTORE");
        assert!(datastore("redb=/x").is_err() && datastore("etcd=").is_err() && datastore("etcd=a:1").is_err());
    }

    #[test]
    fn a_bad_profile_or_number_of_nodes_is_refused() {
        assert_eq!(config::check_profile("Big One").unwrap_err().code, "BAD_PROFILE");
        let mut cluster = described(&args("knarr"), Path::new("/x"), 0);
        cluster.port = 7000;
        assert_eq!(keeps_its_port(&cluster, 7001).unwrap_err().code, "OTHER_PORT");
        assert!(keeps_its_port(&cluster, 7000).is_ok() && keeps_its_port(&cluster, DEFAULT_PORT).is_ok());
        assert_eq!(set_nodes(&mut cluster, 0, &NoMachine).unwrap_err().code, "BAD_NODES");
        set_nodes(&mut cluster, 2, &NoMachine).unwrap();
        assert_eq!(set_nodes(&mut cluster, 1, &NoMachine).unwrap_err().code, "TOO_FEW_NODES");
    }
}
