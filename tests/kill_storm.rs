//! Processes of ours are killed at random, several at a time, while clients write, watch, ask the app and ask for names. Nothing
//! that was acknowledged may be lost, no container be restarted, no request to the app be repeated more than once, no question
//! for a name be refused or repeated more than once, and every process must come back by itself. One process that looks after others is
//! always left alive, since when all die in the same moment nobody is there to help; and of the two that answer a node's names one.
//!
//! A short storm by default; `KNARR_STORM_SECONDS` makes it longer, `KNARR_STORM_SEED` repeats one.

#[path = "cluster/mod.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cluster::processes::Processes;
use cluster::{Cluster, containers, get, ready_pods, wait_for};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use knarr_client::kubeconfig::Overrides;
use knarr_client::{Api, Client, Deletion, Kubeconfig, TlsTransport};
use knarr_core::api::{EventType, Options};
use knarr_sys::netlink::NetNs;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const NODE_PORT: u16 = 30080;
const SECONDS_DEFAULT: u64 = 20;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(1200);
/// A question that an agent had taken when it was killed is lost: it is asked once more after this time.
const DNS_TIMEOUT: Duration = Duration::from_secs(1);
/// Nobody waits longer than this for the API.
const API_PATIENCE: Duration = Duration::from_secs(20);
const CLIENT_PAUSE: Duration = Duration::from_millis(10);
const WRITERS: usize = 2;
/// Each writer deletes what it has made this many rounds ago.
const LIVES: u64 = 5;
/// How often the processor time of the cluster is measured before the storm, for so long each time.
const IDLE_SAMPLES: usize = 5;
const IDLE_SAMPLE: Duration = Duration::from_secs(2);
/// What all processes may take of a processor beyond the most that they took before the storm: one that spins takes all of it.
const IDLE_SHARE_ADDED_MAX: f64 = 0.05;

#[test]
fn whatever_is_killed_nothing_is_lost_and_everything_comes_back() {
    let seconds = number("KNARR_STORM_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let seed = number("KNARR_STORM_SEED").unwrap_or_else(rand::random);
    println!("a storm of {seconds} s; KNARR_STORM_SEED={seed} repeats it");
    let cluster = Cluster::start("storm", 2);
    cluster.load_example();
    cluster.kubectl(&["apply", "-f", "examples/hello.yaml"]);
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let address = SocketAddr::from((cluster.address(), NODE_PORT));
    wait_for("the app to answer", || get(address).is_ok());
    let before = containers(&cluster);
    assert_eq!(before.len(), 3);

    let processes = Processes::of(&cluster);
    let idle = (0..IDLE_SAMPLES).map(|_| share_of_processor(&processes)).fold(0.0, f64::max);
    let clients = Clients::start(&cluster, address);
    let names = Names::of(&cluster);
    let kills = storm(&processes, &names, Duration::from_secs(seconds), &mut StdRng::seed_from_u64(seed));
    processes.wait_for_all();
    wait_for("all nodes to be Ready", || cluster.try_kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=20s"]).status.success());
    let report = clients.stop();

    println!("{kills:?}\n{report:?}");
    assert_eq!(containers(&cluster), before, "the same containers, none restarted");
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert_eq!(report.refused_names, 0, "of {} questions", report.names);
    assert!(report.written > 0 && report.watched > 0 && report.answers > 0 && report.names > 0, "everybody was busy: {report:?}");
    logs_go_on(&cluster, address);
    is_as_quiet_as_before(&processes, idle);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Kills for so long; gives how often each kind of process was hit.
fn storm(processes: &Processes, names: &Names, length: Duration, random: &mut StdRng) -> BTreeMap<String, usize> {
    let (until, mut kills) = (Instant::now() + length, BTreeMap::new());
    while Instant::now() < until {
        std::thread::sleep(random.random_range(PAUSE_MIN..PAUSE_MAX));
        let mut living = processes.living();
        let guardians = living.iter().filter(|p| p.is_guardian()).count();
        let answered_twice = names.are_answered_twice();
        living.retain(|p| (!p.is_guardian() || guardians > 1) && (answered_twice || !matches!(p.kind.as_str(), "guard" | "agent")));
        // Kinds are hit alike, however many there are of each.
        let kinds: std::collections::BTreeSet<_> = living.iter().map(|p| p.kind.clone()).collect();
        let Some(kind) = kinds.iter().nth(random.random_range(0..kinds.len().max(1))) else { continue };
        living.retain(|p| p.kind == *kind);
        living[random.random_range(0..living.len())].kill();
        *kills.entry(kind.clone()).or_default() += 1;
    }
    kills
}

/// Who answers names: a guard for all nodes, and each node's agent.
struct Names {
    nodes: Vec<NetNs>,
    /// The server's address and port as the kernel writes them.
    address: String,
    /// Sockets at each node when both are there.
    sockets: usize,
}

impl Names {
    fn of(cluster: &Cluster) -> Self {
        let nodes = (1..=2).map(|node| NetNs::open(&cluster.node_netns(node)).expect("the node's network")).collect();
        let mut names = Self { nodes, address: format!("{:08X}:0035", u32::from_ne_bytes(dns_address(cluster).octets())), sockets: 0 };
        // The agents' own, one for each processor, and the guard's.
        let agents = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        names.sockets = agents + 1;
        wait_for("names to be answered by two processes", || names.are_answered_twice());
        names
    }

    fn are_answered_twice(&self) -> bool {
        let sockets = || std::fs::read_to_string("/proc/thread-self/net/udp").expect("the sockets").lines().filter(|l| l.contains(&self.address)).count();
        self.nodes.iter().all(|node| node.run(sockets).expect("the node's network") == self.sockets)
    }
}

fn dns_address(cluster: &Cluster) -> Ipv4Addr {
    cluster.kubectl(&["-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"]).parse().expect("an address")
}

/// What the clients saw.
#[derive(Debug, Default)]
struct Report {
    written: usize,
    watched: usize,
    answers: usize,
    names: usize,
    refused_names: usize,
    repeated: usize,
    longest_write: Duration,
    failures: Vec<String>,
}

/// What all clients share.
#[derive(Clone, Default)]
struct Shared {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, what: impl Into<String>) {
        self.report.lock().failures.push(what.into());
    }
}

/// Everybody who uses the cluster meanwhile.
struct Clients {
    shared: Shared,
    runtime: &'static tokio::runtime::Runtime,
    client: Client,
    writers: Vec<std::thread::JoinHandle<Writer>>,
    watcher: tokio::task::JoinHandle<Watcher>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(cluster: &Cluster, address: SocketAddr) -> Self {
        // It outlives a test that fails: the clients' threads are in it.
        let (shared, runtime) = (Shared::default(), Box::leak(Box::new(tokio::runtime::Runtime::new().expect("a runtime"))));
        let config = Kubeconfig::read(&cluster.kubeconfig()).expect("a kubeconfig").client_config(&Overrides::default()).expect("a way to the server");
        let guard = runtime.enter();
        let client = TlsTransport::new(config).expect("a client").client();
        drop(guard);
        let writers = (0..WRITERS).map(|n| (runtime.handle().clone(), Writer::new(n, &client, &shared)));
        let writers = writers.map(|(handle, writer)| std::thread::spawn(move || handle.block_on(writer.run()))).collect();
        let watcher = runtime.spawn(Watcher::new(&client, &shared).run());
        let mut threads: Vec<_> = (0..2).map(|_| ask_the_app(&shared, address)).collect();
        for node in 1..=2 {
            threads.push(ask_for_names(&shared, cluster, node));
        }
        Self { shared, runtime, client, writers, watcher, threads }
    }

    /// Ends them, and compares what they were told with what there is.
    fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let writers: Vec<Writer> = self.writers.into_iter().map(|w| w.join().expect("a writer")).collect();
        self.runtime.block_on(async {
            // The last word: whoever has seen it has seen all that came before.
            let last = config_map("last-word", 0);
            self.client.within::<ConfigMap>("default").create(&last).await.expect("the last word");
            let watcher = tokio::time::timeout(API_PATIENCE, self.watcher).await.expect("the watch to catch up").expect("a watcher");
            let (there, _) = self.client.within::<ConfigMap>("default").list(&Options::default()).await.expect("a list");
            for writer in &writers {
                writer.compare(&there, &watcher.seen);
            }
        });
        Arc::try_unwrap(self.shared.report).map_or_else(|shared| std::mem::take(&mut *shared.lock()), Mutex::into_inner)
    }
}

fn config_map(name: &str, count: u64) -> ConfigMap {
    let mut map = ConfigMap { data: Some([("count".to_owned(), count.to_string())].into()), ..ConfigMap::default() };
    map.metadata.name = Some(name.to_owned());
    map
}

fn count(map: &ConfigMap) -> u64 {
    map.data.as_ref().and_then(|d| d.get("count")).and_then(|c| c.parse().ok()).unwrap_or_default()
}

fn version(map: &ConfigMap) -> u64 {
    map.metadata.resource_version.as_ref().and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// Counts up in an object that is its alone, and makes and deletes others.
struct Writer {
    name: String,
    maps: Api<ConfigMap>,
    shared: Shared,
    /// What the server has acknowledged: the count, and the resource version of it.
    acknowledged: (u64, u64),
    made: Vec<String>,
    deleted: Vec<String>,
}

impl Writer {
    fn new(number: usize, client: &Client, shared: &Shared) -> Self {
        Self {
            name: format!("writer-{number}"),
            maps: client.within("default"),
            shared: shared.clone(),
            acknowledged: (0, 0),
            made: Vec::new(),
            deleted: Vec::new(),
        }
    }

    async fn run(mut self) -> Self {
        self.make(&self.name.clone()).await;
        let mut round = 0;
        while !self.shared.is_over() {
            round += 1;
            self.count_up().await;
            self.make(&format!("{}-{round}", self.name)).await;
            if round > LIVES {
                self.delete(&format!("{}-{}", self.name, round - LIVES)).await;
            }
            tokio::time::sleep(CLIENT_PAUSE).await;
        }
        self
    }

    /// Tries until the server has answered, which it must within a bounded time.
    async fn insist<T>(&self, what: &str, mut attempt: impl AsyncFnMut(bool) -> knarr_core::Result<T>) -> Option<T> {
        let begun = Instant::now();
        let mut again = false;
        loop {
            let error = match attempt(again).await {
                Ok(done) => {
                    let mut report = self.shared.report.lock();
                    report.written += 1;
                    report.longest_write = report.longest_write.max(begun.elapsed());
                    return Some(done);
                }
                Err(error) => error,
            };
            // A request that did not reach the server, or whose answer was lost, is no answer.
            if error.code != 0 && error.code < 500 && error.code != 429 {
                self.shared.fail(format!("{what} was refused: {error}"));
                return None;
            }
            if begun.elapsed() > API_PATIENCE {
                self.shared.fail(format!("{what} in vain for {API_PATIENCE:?}: {error}"));
                return None;
            }
            again = true;
            tokio::time::sleep(CLIENT_PAUSE).await;
        }
    }

    async fn count_up(&mut self) {
        let (maps, name, next) = (self.maps.clone(), self.name.clone(), self.acknowledged.0 + 1);
        let written = self
            .insist(&format!("counting {name} up to {next}"), async |_| {
                let mut map = maps.get(&name).await?;
                let found = count(&map);
                if found == next {
                    // The answer to an earlier attempt was lost.
                    return Ok(map);
                }
                if found + 1 != next {
                    return Err(knarr_core::Status::bad_request(format!("{} was acknowledged, {found} is there", next - 1)));
                }
                map.data = config_map(&name, next).data;
                maps.update(&map).await
            })
            .await;
        let Some(map) = written else { return };
        if version(&map) <= self.acknowledged.1 {
            self.shared.fail(format!("{name} went from version {} back to {}", self.acknowledged.1, version(&map)));
        }
        self.acknowledged = (next, version(&map));
    }

    async fn make(&mut self, name: &str) {
        let (maps, name) = (self.maps.clone(), name.to_owned());
        let made = self
            .insist(&format!("making {name}"), async |again| match maps.create(&config_map(&name, 0)).await {
                Err(error) if again && error.is_already_exists() => Ok(()),
                other => other.map(drop),
            })
            .await;
        self.made.extend(made.map(|()| name));
    }

    async fn delete(&mut self, name: &str) {
        let (maps, name) = (self.maps.clone(), name.to_owned());
        let deleted = self
            .insist(&format!("deleting {name}"), async |again| match maps.delete(&name, &Deletion::default()).await {
                Err(error) if again && error.is_not_found() => Ok(()),
                other => other.map(drop),
            })
            .await;
        if deleted.is_some() {
            self.made.retain(|made| *made != name);
            self.deleted.push(name);
        }
    }

    /// What was acknowledged is there, what was deleted is not, and the watch has told of both.
    fn compare(&self, there: &[ConfigMap], seen: &BTreeMap<String, Option<u64>>) {
        let there: BTreeMap<&str, u64> = there.iter().map(|m| (m.metadata.name.as_deref().unwrap_or_default(), count(m))).collect();
        for name in &self.made {
            let wanted = if *name == self.name { self.acknowledged.0 } else { 0 };
            if there.get(name.as_str()) != Some(&wanted) {
                self.shared.fail(format!("{name} was acknowledged with {wanted}; there is {:?}", there.get(name.as_str())));
            }
            if seen.get(name) != Some(&Some(wanted)) {
                self.shared.fail(format!("{name} was acknowledged with {wanted}; the watch told {:?}", seen.get(name)));
            }
        }
        for name in &self.deleted {
            if there.contains_key(name.as_str()) || seen.get(name) != Some(&None) {
                self.shared.fail(format!("{name} was deleted; there is {:?}, the watch told {:?}", there.get(name.as_str()), seen.get(name)));
            }
        }
    }
}

/// Watches all that the writers do, and goes on from where it was when the server is back.
struct Watcher {
    maps: Api<ConfigMap>,
    shared: Shared,
    /// Of each object the last count; none when it was deleted.
    seen: BTreeMap<String, Option<u64>>,
    version: u64,
}

impl Watcher {
    fn new(client: &Client, shared: &Shared) -> Self {
        Self { maps: client.within("default"), shared: shared.clone(), seen: BTreeMap::new(), version: 0 }
    }

    async fn run(mut self) -> Self {
        while self.version == 0 {
            match self.maps.list(&Options::default()).await {
                Ok((maps, version)) => {
                    self.seen.extend(maps.iter().map(|m| (m.metadata.name.clone().unwrap_or_default(), Some(count(m)))));
                    self.version = version;
                }
                Err(_) => tokio::time::sleep(CLIENT_PAUSE).await,
            }
        }
        while !self.seen.contains_key("last-word") {
            let options = Options { resource_version: Some(self.version.to_string()), ..Options::default() };
            if let Ok(mut events) = self.maps.watch(&options).await {
                while let Some(Ok(event)) = events.next().await {
                    self.take(event.event_type, &knarr_client::read::typed(&event.object).expect("a ConfigMap"));
                    if self.seen.contains_key("last-word") {
                        break;
                    }
                }
            }
            tokio::time::sleep(CLIENT_PAUSE).await;
        }
        self
    }

    fn take(&mut self, event: EventType, map: &ConfigMap) {
        let name = map.metadata.name.clone().unwrap_or_default();
        if version(map) <= self.version {
            self.shared.fail(format!("the watch told of {name} at {} after version {}", version(map), self.version));
        }
        self.version = version(map);
        let fits = match (event, self.seen.get(&name)) {
            (EventType::Added, None | Some(None)) => true,
            // Nobody skips a number, and nobody tells one twice.
            (EventType::Modified, Some(Some(before))) => count(map) == before + 1,
            (EventType::Deleted, Some(Some(_))) => true,
            _ => false,
        };
        if !fits {
            self.shared.fail(format!("the watch told {event:?} of {name} with {} after {:?}", count(map), self.seen.get(&name)));
        }
        self.seen.insert(name, (event != EventType::Deleted).then(|| count(map)));
        self.shared.report.lock().watched += 1;
    }
}

/// One retry is what a client does by itself. More is a failure.
fn twice(shared: &Shared, what: &str, mut attempt: impl FnMut() -> std::io::Result<()>) {
    let Err(first) = attempt() else { return };
    shared.report.lock().repeated += 1;
    if let Err(second) = attempt() {
        shared.fail(format!("{what} failed twice: {first}, {second}"));
    }
}

fn ask_the_app(shared: &Shared, address: SocketAddr) -> std::thread::JoinHandle<()> {
    let shared = shared.clone();
    std::thread::spawn(move || {
        while !shared.is_over() {
            twice(&shared, "a request to the app", || get(address).map(drop));
            shared.report.lock().answers += 1;
            std::thread::sleep(CLIENT_PAUSE);
        }
    })
}

/// From where the node's pods would ask.
fn ask_for_names(shared: &Shared, cluster: &Cluster, node: usize) -> std::thread::JoinHandle<()> {
    let (shared, netns) = (shared.clone(), NetNs::open(&cluster.node_netns(node)).expect("the node's network"));
    let dns = dns_address(cluster);
    std::thread::spawn(move || {
        let asked = AtomicUsize::new(0);
        netns.enter().expect("the node's network");
        while !shared.is_over() {
            let id = asked.fetch_add(1, Ordering::Relaxed) as u16;
            twice(&shared, "a question for a name", || {
                let answer = resolve(dns, id);
                let refused = answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
                shared.report.lock().refused_names += usize::from(refused);
                answer
            });
            shared.report.lock().names += 1;
            std::thread::sleep(CLIENT_PAUSE);
        }
    })
}

/// Asks for the app's address as the C library does: a connected socket, so that a refusal is seen at once.
fn resolve(dns: Ipv4Addr, id: u16) -> std::io::Result<()> {
    let mut query = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in ["hello", "default", "svc", "cluster", "local", ""] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((dns, 53))?;
    socket.set_read_timeout(Some(DNS_TIMEOUT))?;
    socket.send(&query)?;
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer)?;
    let (code, answers) = (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]]));
    if answer[..2] != id.to_be_bytes() || code != 0 || answers != 1 {
        return Err(std::io::Error::other(format!("code {code}, {answers} answers in {len} bytes")));
    }
    Ok(())
}

/// What the app writes still arrives, whoever holds its output now; and the Service still leads to each of its pods.
fn logs_go_on(cluster: &Cluster, address: SocketAddr) {
    let lines = |pod: &String| cluster.kubectl(&["logs", pod]).lines().count();
    let netns = NetNs::open(&cluster.node_netns(1)).expect("the node's network");
    for pod in ready_pods(cluster) {
        let direct = cluster.kubectl(&["get", "pod", &pod, "-o", "jsonpath={.status.podIP}:{.spec.containers[0].ports[0].containerPort}"]);
        let direct: SocketAddr = direct.parse().expect("an address");
        let before = lines(&pod);
        wait_for(&format!("the log of {pod} to grow beyond {before} lines"), || {
            netns.run(|| get(direct)).expect("the node's network").expect("the pod answers");
            lines(&pod) > before
        });
        wait_for(&format!("an answer of {pod} through the Service"), || get(address).expect("the app answers").contains(&pod));
    }
}

/// Which share of a processor all processes take together.
fn share_of_processor(processes: &Processes) -> f64 {
    let (before, since) = (processes.cpu_time(), Instant::now());
    std::thread::sleep(IDLE_SAMPLE);
    let share = processes.cpu_time().saturating_sub(before).as_secs_f64() / since.elapsed().as_secs_f64();
    println!("all processes together take {:.1} % of a processor", share * 100.0);
    share
}

/// Nobody is busy with anything once all is mended, but for what the same cluster did before: machines are not equally fast.
fn is_as_quiet_as_before(processes: &Processes, idle: f64) {
    wait_for("the processes to be as idle as before", || share_of_processor(processes) < idle + IDLE_SHARE_ADDED_MAX);
}
