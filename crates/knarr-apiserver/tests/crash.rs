//! Server processes are killed with SIGKILL at any moment, also while they start, and clients note what they were told. No
//! acknowledged write may be lost, no resource version name two states, and what all clients saw together must be linearizable:
//! on the store in a folder, and for several servers on one etcd, which is killed as well.
//!
//! A few kills by default; `cargo xtask crash` makes them many by `KNARR_CRASH_KILLS`, and `KNARR_CRASH_SEED` repeats a run
//! (what clients and the kernel make of it is not repeated).

#[path = "crash/linear.rs"]
mod linear;
mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use knarr_apiserver::{Config, ServerBuilder, http::Limits, http::serve};
use knarr_core::clock::Env;
use knarr_core::{Value, ValueExt, json};
use knarr_store::disk::FolderDisk;
use knarr_store::etcd::testing::Etcd;
use knarr_store::log::{Options, Space};
use knarr_store::{Engine, EtcdEngine, LogEngine, Storage};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;

use linear::{Ask, NEVER, Operation, Seen, State, Told, check};
use support::Everybody;

const FOLDER: &str = "KNARR_CRASH_FOLDER";
const ETCD: &str = "KNARR_CRASH_ETCD";
const READY: &str = "serving on ";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const KEYS: usize = 4;
const CLIENTS: usize = 5;
/// Small, so that snapshots are written and files removed all the time.
const SMALL: Options = Options { log_bytes_max: 24_000, space: Space { step: 16 << 10, reserve: 4 << 10, ballast: 16 << 10 }, threads: true };

/// The process that is killed: the API server on the store that the environment names. Does nothing when run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn served_process() {
    let env = Env::system();
    let engine: Arc<dyn Engine> = if let Ok(folder) = std::env::var(FOLDER) {
        Arc::new(LogEngine::new(Arc::new(FolderDisk::open(folder).unwrap()), env.clock.clone(), SMALL))
    } else if let Ok(url) = std::env::var(ETCD) {
        let options = knarr_store::etcd::Options { endpoints: vec![url], ..knarr_store::etcd::Options::default() };
        Arc::new(EtcdEngine::open(&options).await.unwrap())
    } else {
        return;
    };
    let storage = Storage::open(engine, env.clone()).unwrap();
    let server =
        ServerBuilder::new(storage.clone()).env(env).config(Config::default()).authenticator(Arc::new(Everybody)).storage_size(Arc::new(|| 4096)).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\n{READY}{}", listener.local_addr().unwrap());
    // Whoever has started it holds the other end.
    let alone = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        _ = alone => {}
        why = storage.failed() => eprintln!("the store has failed: {why}"),
        _ = serve(server, listener, None, Limits::default()) => {}
    }
    std::process::exit(1);
}

/// A server process.
struct Server {
    child: Child,
    address: Option<SocketAddr>,
}

impl Server {
    fn spawn(variable: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "served_process", "--nocapture", "--quiet"]).env_remove(FOLDER).env_remove(ETCD).env(variable, value);
        Self { child: command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap(), address: None }
    }

    /// Waits until it serves.
    async fn ready(&mut self) -> SocketAddr {
        let lines = BufReader::new(self.child.stdout.take().expect("asked once")).lines().map_while(std::io::Result::ok);
        let (sender, ready) = tokio::sync::oneshot::channel();
        // Read to its end, so that nothing which is written there fails.
        std::thread::spawn(move || {
            let mut sender = Some(sender);
            for address in lines.filter_map(|line| line.strip_prefix(READY)?.parse().ok()) {
                sender.take().map(|s| s.send(address));
            }
        });
        let address = ready.await.expect("the server starts on what a kill has left");
        self.address = Some(address);
        address
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.address = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What clients share: one clock for all of them, numbers for values, and their notes.
#[derive(Default)]
struct Shared {
    clock: AtomicU64,
    values: AtomicU64,
    notes: Mutex<Vec<Operation>>,
}

impl Shared {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }
}

type Http = Client<HttpConnector, Full<Bytes>>;

fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Someone who asks one thing after the other.
struct Asker {
    http: Http,
    shared: Arc<Shared>,
    random: StdRng,
    seen: BTreeMap<usize, Seen>,
}

/// How an attempt ended.
enum Outcome {
    Told(Told),
    /// It never reached the server, or was refused before anything was done.
    NotSent,
}

impl Asker {
    fn new(shared: &Arc<Shared>, seed: u64) -> Self {
        Self { http: http(), shared: shared.clone(), random: StdRng::seed_from_u64(seed), seen: BTreeMap::new() }
    }

    fn invent(&mut self) -> Ask {
        let key = self.random.random_range(0..KEYS);
        let expected = self.seen.get(&key).copied().filter(|_| self.random.random_ratio(3, 4));
        let value = self.shared.values.fetch_add(1, SeqCst);
        match self.random.random_range(0..10) {
            0..3 => Ask::Create { key, value },
            3..6 => Ask::Write { key, value, expected },
            6 => Ask::Delete { key, expected },
            7..9 => Ask::Get { key },
            _ => Ask::List,
        }
    }

    /// Asks and notes it. False when no answer came.
    async fn ask(&mut self, address: SocketAddr, ask: Ask) -> bool {
        let called = self.shared.tick();
        let outcome = send(&self.http, address, &ask).await;
        let returned = self.shared.tick();
        let Outcome::Told(told) = outcome else { return false };
        match (&ask, &told) {
            (Ask::Create { key, value } | Ask::Write { key, value, .. }, Told::Written(version)) => {
                self.seen.insert(*key, Seen { value: *value, version: *version });
            }
            (Ask::Get { key }, Told::Found(seen)) => drop(self.seen.insert(*key, *seen)),
            (_, Told::Listed { objects, .. }) => self.seen.clone_from(objects),
            _ => {}
        }
        let has_answer = told != Told::Nothing;
        if !has_answer && matches!(ask, Ask::Get { .. } | Ask::List) {
            return false;
        }
        self.shared.notes.lock().push(Operation { called, returned: if has_answer { returned } else { NEVER }, ask, told });
        has_answer
    }

    async fn list(&mut self, address: SocketAddr) -> State {
        let begun = Instant::now();
        while !self.ask(address, Ask::List).await {
            assert!(begun.elapsed() < PATIENCE, "the server does not answer");
        }
        match self.shared.notes.lock().last().map(|o| o.told.clone()) {
            Some(Told::Listed { version, objects }) => State::listed(version, &objects),
            other => panic!("{other:?} is no list"),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn name(key: usize) -> String {
    format!("m{key}")
}

fn map(key: usize, value: u64, expected: Option<Seen>) -> Value {
    let mut map = support::config_map(&name(key), json!({"value": value.to_string(), "filling": "x".repeat((value % 7 * 150) as usize)}));
    if let Some(seen) = expected {
        map["metadata"]["resourceVersion"] = seen.version.to_string().into();
    }
    map
}

fn request(address: SocketAddr, ask: &Ask) -> Request<Full<Bytes>> {
    let one = |key: usize| format!("{MAPS}/{}", name(key));
    let (method, path, media_type, body) = match ask {
        Ask::Create { key, value } => (Method::POST, MAPS.to_owned(), "application/json", map(*key, *value, None)),
        Ask::Write { key, value, expected: None } => (Method::PATCH, one(*key), "application/merge-patch+json", json!({"data": {"value": value.to_string()}})),
        Ask::Write { key, value, expected } => (Method::PUT, one(*key), "application/json", map(*key, *value, *expected)),
        Ask::Delete { key, expected } => {
            let preconditions = expected.map(|seen| json!({"resourceVersion": seen.version.to_string()})).unwrap_or_default();
            (Method::DELETE, one(*key), "application/json", json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}))
        }
        Ask::Get { key } => (Method::GET, one(*key), "", Value::Null),
        Ask::List => (Method::GET, MAPS.to_owned(), "", Value::Null),
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Request::builder().method(method).uri(format!("http://{address}{path}")).header("content-type", media_type).body(Full::new(body.into())).unwrap()
}

fn seen(object: &Value) -> Seen {
    let number = |path: &[&str]| object.str_at(path).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{object}"));
    Seen { value: number(&["data", "value"]), version: number(&["metadata", "resourceVersion"]) }
}

async fn send(http: &Http, address: SocketAddr, ask: &Ask) -> Outcome {
    let asked = async {
        let response = http.request(request(address, ask)).await.map_err(|e| e.is_connect())?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|_| false)?.to_bytes();
        Ok::<_, bool>((code, body))
    };
    let (code, body) = match tokio::time::timeout(Duration::from_secs(20), asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(true)) => return Outcome::NotSent,
        Ok(Err(false)) | Err(_) => return Outcome::Told(Told::Nothing),
    };
    // Refused before it was looked at, or failed in a way that promises nothing.
    match code {
        429 => return Outcome::NotSent,
        500.. => return Outcome::Told(Told::Nothing),
        _ => {}
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body)));
    let is_write = matches!(ask, Ask::Create { .. } | Ask::Write { .. });
    Outcome::Told(match (code, answer.str_at(&["reason"]).unwrap_or_default()) {
        (200 | 201, _) if is_write => Told::Written(seen(&answer).version),
        (200, _) if matches!(ask, Ask::Delete { .. }) => Told::Deleted,
        (200, _) if *ask == Ask::List => Told::Listed {
            version: answer.str_at(&["metadata", "resourceVersion"]).and_then(|v| v.parse().ok()).unwrap(),
            objects: answer.list_at(&["items"]).iter().filter_map(|o| Some((o.str_at(&["metadata", "name"])?[1..].parse().ok()?, seen(o)))).collect(),
        },
        (200, _) => Told::Found(seen(&answer)),
        (404, "NotFound") => Told::NotFound,
        (409, "AlreadyExists") => Told::Exists,
        (409, "Conflict") => Told::Conflict,
        (code, reason) => panic!("{code} {reason} for {ask:?}: {answer}"),
    })
}

async fn make_namespace(address: SocketAddr) {
    let body = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "default"}}).to_string();
    let post = Request::post(format!("http://{address}/api/v1/namespaces")).header("content-type", "application/json");
    assert_eq!(http().request(post.body(Full::new(body.into())).unwrap()).await.unwrap().status(), 201);
}

/// What every version that anybody was told of names.
#[derive(Default)]
struct Versions(HashMap<u64, (usize, u64)>);

impl Versions {
    fn note(&mut self, operations: &[Operation]) {
        for operation in operations {
            let told: Vec<(usize, Seen)> = match (&operation.ask, &operation.told) {
                (Ask::Create { key, value } | Ask::Write { key, value, .. }, Told::Written(version)) => vec![(*key, Seen { value: *value, version: *version })],
                (Ask::Get { key }, Told::Found(seen)) => vec![(*key, *seen)],
                (_, Told::Listed { objects, .. }) => objects.iter().map(|(k, s)| (*k, *s)).collect(),
                _ => continue,
            };
            for (key, seen) in told {
                let before = *self.0.entry(seen.version).or_insert((key, seen.value));
                assert_eq!(before, (key, seen.value), "version {} names two states", seen.version);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Report {
    kills: usize,
    while_starting: usize,
    operations: usize,
    acknowledged: usize,
    unanswered: usize,
    starts: Vec<Duration>,
}

impl Report {
    fn note(&mut self, operations: &[Operation]) {
        self.operations += operations.len();
        self.acknowledged += operations.iter().filter(|o| matches!(o.told, Told::Written(_) | Told::Deleted)).count();
        self.unanswered += operations.iter().filter(|o| o.told == Told::Nothing).count();
    }

    fn print(mut self, what: &str, took: Duration) {
        self.starts.sort_unstable();
        let of = |share: usize| self.starts.get((self.starts.len() * share / 100).min(self.starts.len().saturating_sub(1))).copied().unwrap_or_default();
        println!(
            "{what}: {} kills ({} while starting) in {:.0} s; {} requests, {} writes acknowledged, {} requests unanswered; starts {:?} in the middle, {:?} at 99%, {:?} at most",
            self.kills,
            self.while_starting,
            took.as_secs_f64(),
            self.operations,
            self.acknowledged,
            self.unanswered,
            of(50),
            of(99),
            of(100)
        );
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// One life of a server: from its start until it is killed. `begin` is how the life before ended.
struct Folder<'a> {
    folder: &'a Path,
    shared: Arc<Shared>,
    random: StdRng,
    begin: State,
    versions: Versions,
    report: Report,
}

impl Folder<'_> {
    async fn live(&mut self) {
        let begun = Instant::now();
        let mut server = Server::spawn(FOLDER, self.folder);
        if self.random.random_ratio(1, 6) {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..60_000))).await;
            server.kill();
            self.report.while_starting += 1;
            return;
        }
        let address = server.ready().await;
        let mut first = Asker::new(&self.shared, self.random.random());
        if self.report.operations == 0 {
            make_namespace(address).await;
        }
        let state = first.list(address).await;
        self.report.starts.push(begun.elapsed());
        self.judge(state);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut client = Asker::new(&self.shared, self.random.random());
                client.seen.clone_from(&first.seen);
                tokio::spawn(async move {
                    loop {
                        let ask = client.invent();
                        if !client.ask(address, ask).await {
                            return;
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(self.random.random_range(0..60_000))).await;
        server.kill();
        for client in clients {
            client.await.unwrap();
        }
        // What a dead process has not done it will not do.
        let dead = self.shared.tick();
        self.shared.notes.lock().iter_mut().filter(|o| o.returned == NEVER).for_each(|o| o.returned = dead);
    }

    /// Checks everything up to the list that the last note is.
    fn judge(&mut self, state: State) {
        let operations = std::mem::take(&mut *self.shared.notes.lock());
        self.versions.note(&operations);
        self.report.note(&operations);
        check(&self.begin, &operations).unwrap_or_else(|why| panic!("after {} kills this cannot have happened: {why}", self.report.kills));
        self.begin = state;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_store_in_a_folder_is_linearizable() {
    let (kills, seed) = (number("KNARR_CRASH_KILLS", 15), number("KNARR_CRASH_SEED", rand::random()));
    println!("KNARR_CRASH_SEED={seed}");
    let (folder, begun) = (tempfile::tempdir().unwrap(), Instant::now());
    let mut lives = Folder {
        folder: folder.path(),
        shared: Arc::default(),
        random: StdRng::seed_from_u64(seed),
        begin: State::default(),
        versions: Versions::default(),
        report: Report::default(),
    };
    for kill in 1..=kills {
        lives.live().await;
        lives.report.kills += 1;
        if kill % 500 == 0 {
            println!("{kill} kills, {} requests, {:.0} s", lives.report.operations, begun.elapsed().as_secs_f64());
        }
    }
    let mut server = Server::spawn(FOLDER, folder.path());
    let address = server.ready().await;
    let state = Asker::new(&lives.shared, 0).list(address).await;
    lives.judge(state);
    assert!(lives.report.acknowledged as u64 > kills, "{:?}", lives.report);
    lives.report.print("one server, its store in a folder", begun.elapsed());
}

/// Several servers on one etcd, and who is killed now and then.
struct Several {
    etcd: Etcd,
    servers: Vec<Server>,
    random: StdRng,
    report: Report,
}

impl Several {
    async fn start(count: usize, seed: u64) -> Self {
        let etcd = Etcd::start_with("http", &[]);
        let mut several = Self { etcd, servers: Vec::new(), random: StdRng::seed_from_u64(seed), report: Report::default() };
        for _ in 0..count {
            several.servers.push(Server::spawn(ETCD, &several.etcd.url));
        }
        for server in &mut several.servers {
            server.ready().await;
        }
        several
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().filter_map(|s| s.address).collect()
    }

    /// Kills one server, or etcd, and starts it again.
    async fn kill_one(&mut self) {
        self.report.kills += 1;
        if self.random.random_ratio(1, 10) {
            self.etcd.kill();
            self.etcd.run();
            return;
        }
        let index = self.random.random_range(0..self.servers.len());
        self.servers[index].kill();
        let begun = Instant::now();
        self.servers[index] = Server::spawn(ETCD, &self.etcd.url);
        self.servers[index].ready().await;
        self.report.starts.push(begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_one_after_the_other_servers_on_one_etcd_are_linearizable() {
    let (kills, seed) = (number("KNARR_CRASH_ETCD_KILLS", 8), number("KNARR_CRASH_SEED", rand::random()));
    println!("KNARR_CRASH_SEED={seed}");
    let begun = Instant::now();
    let mut several = Several::start(3, seed).await;
    make_namespace(several.addresses()[0]).await;
    let (shared, mut versions, mut begin, mut unanswered) = (Arc::new(Shared::default()), Versions::default(), State::default(), Vec::new());
    let addresses = Arc::new(Mutex::new(several.addresses()));
    for _ in 0..kills {
        let stop = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (mut client, addresses, stop) = (Asker::new(&shared, several.random.random()), addresses.clone(), stop.clone());
                tokio::spawn(async move {
                    // Each request at a server of its own choice.
                    while stop.load(SeqCst) == 0 {
                        let address = {
                            let known = addresses.lock();
                            known[client.random.random_range(0..known.len())]
                        };
                        let ask = client.invent();
                        if !client.ask(address, ask).await {
                            // Each write without an answer doubles what may have happened.
                            tokio::time::sleep(Duration::from_millis(client.random.random_range(50..150))).await;
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(several.random.random_range(5_000..60_000))).await;
        several.kill_one().await;
        *addresses.lock() = several.addresses();
        tokio::time::sleep(Duration::from_micros(several.random.random_range(5_000..60_000))).await;
        stop.store(1, SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        let state = Asker::new(&shared, 0).list(several.addresses()[0]).await;
        let operations = std::mem::take(&mut *shared.notes.lock());
        versions.note(&operations);
        several.report.note(&operations);
        if several.report.kills.is_multiple_of(500) {
            println!("{} kills, {} requests, {:.0} s", several.report.kills, several.report.operations, begun.elapsed().as_secs_f64());
        }
        // etcd may still do what a server asked of it before it died: such requests stay possible in the next part, too.
        let all: Vec<Operation> = unanswered.drain(..).chain(operations.iter().cloned()).collect();
        check(&begin, &all).unwrap_or_else(|why| panic!("after {} kills this cannot have happened: {why}", several.report.kills));
        unanswered.extend(operations.into_iter().filter(|o| o.returned == NEVER));
        begin = state;
    }
    assert!(several.report.acknowledged as u64 > kills, "{:?}", several.report);
    several.report.print("three servers on one etcd", begun.elapsed());
}
