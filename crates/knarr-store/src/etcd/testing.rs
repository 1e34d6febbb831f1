//! An etcd for tests, of this crate and of those above it: a process of its own on a free port, gone with its files when it is
//! dropped. `KNARR_ETCD` names the program (`cargo xtask test` builds and names it).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use knarr_core::clock::Env;
use tokio::net::TcpSocket;

use super::{EtcdEngine, Options};
use crate::{Engine, MemoryEngine, Storage};

/// The store that in-process tests of the crates above run on: in memory, or, where `KNARR_TEST_STORE` says `etcd`, an etcd of the
/// test's own, which must live as long.
///
/// # Panics
/// Another word, or an etcd that does not start.
pub async fn open(env: &Env) -> (Arc<Storage>, Option<Etcd>) {
    let named = std::env::var("KNARR_TEST_STORE").unwrap_or_default();
    let (engine, etcd): (Arc<dyn Engine>, _) = match named.as_str() {
        "" | "memory" => (Arc::new(MemoryEngine::new(env.clock.clone())), None),
        "etcd" => {
            let etcd = Etcd::start();
            (Arc::new(etcd.engine().await), Some(etcd))
        }
        other => panic!("KNARR_TEST_STORE={other}: memory or etcd"),
    };
    (Storage::open(engine, env.clone()).expect("an empty store"), etcd)
}

/// How long etcd may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running etcd.
pub struct Etcd {
    process: Option<Child>,
    folder: PathBuf,
    args: Vec<String>,
    pub url: String,
}

/// The program.
///
/// # Panics
/// `KNARR_ETCD` does not say where it is: tests that need it do not pass without it.
pub fn program() -> PathBuf {
    std::env::var_os("KNARR_ETCD").expect("KNARR_ETCD names an etcd: `cargo xtask test` builds it and sets it").into()
}

impl Etcd {
    /// Starts one without TLS, which does not sync its disk.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start() -> Self {
        Self::start_with("http", &["--unsafe-no-fsync"])
    }

    /// Starts one with these flags beside those for its folder and addresses.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(scheme: &str, flags: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!("knarr-etcd-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed)));
        std::fs::create_dir_all(&folder).expect("a folder for etcd");
        let [client, peer] = free_ports();
        let (url, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut args: Vec<String> = ["--name=test", "--log-level=warn"].map(str::to_owned).into();
        args.extend([format!("--data-dir={}", folder.join("data").display()), format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]);
        args.extend([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}"), format!("--initial-cluster=test={peer}")]);
        args.extend(flags.iter().map(|f| (*f).to_owned()));
        let mut started = Self { process: None, folder, args, url };
        started.run();
        started
    }

    /// Runs it, on the data that are there.
    ///
    /// # Panics
    /// It cannot be run, or does not answer.
    pub fn run(&mut self) {
        let log = std::fs::File::create(self.folder.join("log")).expect("etcd's log");
        let mut command = Command::new(program());
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("etcd can be started"));
        let address = self.url.split_once("://").map_or("", |(_, address)| address);
        let until = Instant::now() + START_TIMEOUT;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "etcd does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it had to say.
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }

    pub fn options(&self) -> Options {
        Options { endpoints: vec![self.url.clone()], ..Options::default() }
    }

    /// An engine on it.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn engine(&self) -> EtcdEngine {
        EtcdEngine::open(&self.options()).await.unwrap_or_else(|error| panic!("{error}; etcd says: {}", self.log()))
    }
}

/// Ports that are free, below those that the kernel gives to connections: one of these could take the port before etcd
/// listens, or, asking whether it does, meet itself.
fn free_ports() -> [u16; 2] {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin apart.
    let next = || FIRST + (std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT) as u16;
    [(); 2].map(|()| (0..COUNT).map(|_| next()).find(|port| is_free(*port)).expect("a free port"))
}

/// Takes the port for a moment, and does not listen on it: a program that another test starts just then holds all that is open
/// until it runs, and a port on which it listened so long would be taken for that of an etcd that answers.
fn is_free(port: u16) -> bool {
    let take = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    take().is_ok()
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_port_that_was_asked_for_answers_nobody() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        Command::new("true").status().expect("a program can be started");
                    }
                });
            }
            let answers = (0..2_000).flat_map(|_| free_ports()).filter(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok()).count();
            stop.store(true, Relaxed);
            assert_eq!(answers, 0);
        });
    }

    #[test]
    fn a_port_that_is_taken_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }
}
