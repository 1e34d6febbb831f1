//! A whole cluster for one test: real processes, real containers, stock kubectl. Its nodes live in network namespaces of their own,
//! so that it disturbs nothing on the machine; it is deleted when the test ends, also when it fails.
#![allow(dead_code, reason = "each test uses its own part of it")]

pub mod processes;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// A condition that does not come true within this time fails the test.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Cluster {
    profile: String,
    folder: tempfile::TempDir,
    port: u16,
    /// Somebody else's cluster, by its kubeconfig: it is neither started nor deleted.
    given: Option<PathBuf>,
}

impl Cluster {
    /// Starts a cluster of this many nodes.
    pub fn start(name: &str, nodes: usize) -> Self {
        Self::start_with(name, nodes, &[])
    }

    /// Starts a cluster with more flags.
    pub fn start_with(name: &str, nodes: usize, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let cluster = Self { profile: format!("{name}-{}", std::process::id()), folder, port, given: None };
        cluster.start_flagged(nodes, flags);
        cluster
    }

    /// A cluster that is there, of whatever make. It has the images of the tests already.
    pub fn given(kubeconfig: PathBuf) -> Self {
        Self { profile: String::new(), folder: tempfile::tempdir().expect("a folder"), port: 0, given: Some(kubeconfig) }
    }

    pub fn start_again(&self, nodes: usize) {
        self.start_flagged(nodes, &[]);
    }

    fn start_flagged(&self, nodes: usize, flags: &[&str]) {
        let data = self.data();
        let args = ["start", "--nodes", &nodes.to_string(), "--port", &self.port.to_string(), "--kubeconfig", &self.kubeconfig().display().to_string()];
        print!("{}", self.knarr_with(&[&args[..], flags].concat(), &data));
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loses the cluster's keys.
    pub fn forget_keys(&self) {
        std::fs::remove_dir_all(self.data().join("pki")).expect("the keys were there");
    }

    /// What a role has written.
    pub fn log(&self, role: &str) -> String {
        std::fs::read_to_string(self.data().join("logs").join(format!("{role}.log"))).unwrap_or_default()
    }

    /// Where the processes' files lie.
    pub fn run(&self) -> PathBuf {
        Path::new("/run/knarr").join(&self.profile)
    }

    /// The network of the node of this number, from 1.
    pub fn node_netns(&self, number: usize) -> PathBuf {
        self.run().join("netns").join(format!("node-{number}"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.given.clone().unwrap_or_else(|| self.folder.path().join("kubeconfig"))
    }

    /// A cluster verb for this cluster; it must succeed. Gives its output.
    pub fn knarr(&self, args: &[&str]) -> String {
        self.knarr_with(args, &self.data())
    }

    /// A verb of knarr's that may fail.
    pub fn try_knarr(&self, args: &[&str]) -> Output {
        self.knarr_command(args, &self.data()).output().expect("knarr runs")
    }

    fn knarr_with(&self, args: &[&str], data: &Path) -> String {
        done(&mut self.knarr_command(args, data))
    }

    fn knarr_command(&self, args: &[&str], data: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.args(args).args(["--profile", &self.profile, "--data"]).arg(data);
        command
    }

    /// A verb of knarr's for users of the cluster; it must succeed. Gives its output.
    pub fn knarr_for_users(&self, args: &[&str]) -> String {
        done(Command::new(env!("CARGO_BIN_EXE_knarr")).args(args).env("KUBECONFIG", self.kubeconfig()).env("NO_PROXY", "*"))
    }

    /// Writes a file beside the cluster's; gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// Stock kubectl; it must succeed. Gives its output.
    pub fn kubectl(&self, args: &[&str]) -> String {
        done(&mut self.kubectl_command(args))
    }

    /// Stock kubectl, whatever comes of it.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_command(args).output().expect("kubectl runs")
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("KNARR_KUBECTL").expect("KNARR_KUBECTL names a stock kubectl: `cargo xtask test` builds it and sets it");
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", self.kubeconfig()).env("NO_PROXY", "*").current_dir(root());
        command
    }

    /// Takes the example app's image in.
    pub fn load_example(&self) {
        self.load("KNARR_HELLO_IMAGE");
    }

    /// Takes in the image with the programs that tests run in containers.
    pub fn load_tools(&self) {
        self.load("KNARR_TOOLS_IMAGE");
    }

    fn load(&self, variable: &str) {
        let archive = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names an image's archive: `cargo xtask test` packs it and sets it"));
        self.knarr(&["image", "load", &archive]);
    }

    /// The address of the first node.
    pub fn address(&self) -> Ipv4Addr {
        let text = self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}"]);
        text.parse().expect("an address")
    }

    /// Kills the process of a role as hard as can be, and waits until somebody has started it again.
    pub fn kill(&self, role: &str) {
        let file = self.run().join(format!("{role}.pid"));
        let pid = || std::fs::read_to_string(&file).ok().and_then(|t| t.split(' ').next()?.parse().ok());
        let before: u32 = pid().expect("a pid");
        processes::kill_hard(before);
        wait_for(&format!("{role} to come back"), || pid().is_some_and(|p| p != before));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.given.is_some() {
            return;
        }
        if std::thread::panicking() {
            // Watches that end with a server that was killed say the same again and again.
            let logs = format!("{}==> guard <==\n{}", self.knarr(&["logs", "--tail", "2000"]), self.log("guard"));
            logs.lines().filter(|line| !line.contains("list or watch failed")).for_each(|line| eprintln!("{line}"));
        }
        self.knarr(&["delete"]);
    }
}

/// A program that ends with the test, also when it fails.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a program that must succeed. Gives its output.
pub fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of the example app's pods that are Ready.
pub fn ready_pods(cluster: &Cluster) -> Vec<String> {
    let ready = "jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let text = cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", ready]);
    text.lines().filter(|l| l.ends_with("  True")).filter_map(|l| l.split(' ').next()).map(str::to_owned).collect()
}

/// The example app's containers, each with how often it was restarted.
pub fn containers(cluster: &Cluster) -> BTreeSet<String> {
    let one = "jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let text = cluster.kubectl(&["get", "pods", "-l", "app=hello", "--field-selector=status.phase=Running", "-o", one]);
    text.lines().map(str::to_owned).collect()
}

/// Asks again until the condition holds.
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_or_tell(what, holds, String::new);
}

/// Waits, and tells more when it was in vain.
pub fn wait_or_tell(what: &str, mut holds: impl FnMut() -> bool, tell: impl Fn() -> String) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain for {what}\n{}", tell());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One HTTP request over a connection of its own; the body of a 200.
pub fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        _ => Err(std::io::Error::other(format!("no answer: {answer:?}"))),
    }
}
