//! Who keeps the cluster's processes alive: the server, the agents and a small guard look after each other. A death is seen by
//! pidfd at once, and mended by whoever is left, as long as `cluster.json` says that the cluster shall run. The guard has no
//! other work: it is there so that a server and an agent may die in the same moment.
//!
//! Most agents live in the network namespace of their node, but whom they start must not: every process begins on the machine's
//! network ([`Home`]) and goes on from there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_sys::inotify::{DELETE_SELF, Inotify, MOVED_TO};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::config::{Cluster, Desired};
use super::failure::{Failure, Result};
use super::process::{self, Home, Process};

/// A process that dies sooner than this after its start is started again more slowly.
const HEALTHY_AFTER: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// What the machine refuses (descriptors, a file that cannot be read) is asked for again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The server's role.
pub const SERVER: &str = "server";
/// The guard's role.
pub const GUARD: &str = "guard";
/// How long a process that was started may take to write its pid file.
const PID_FILE_WAIT: Duration = Duration::from_secs(5);

/// Name of a server among those of the cluster, which count from 1.
pub fn server_role(index: usize) -> String {
    if index == 1 { SERVER.into() } else { format!("{SERVER}-{index}") }
}

/// Arguments of a server's process.
pub fn server_args(cluster: &Cluster, index: usize) -> Vec<String> {
    let mut args = vec![SERVER.into(), "--data".into(), cluster.data.display().to_string()];
    if index > 1 {
        args.extend(["--index".into(), index.to_string()]);
    }
    args
}

/// Arguments of the guard.
pub fn guard_args(cluster: &Cluster) -> Vec<String> {
    vec![GUARD.into(), "--data".into(), cluster.data.display().to_string()]
}

/// Every role of a cluster with its arguments.
pub fn roles(cluster: &Cluster) -> Vec<(String, Vec<String>)> {
    let servers = (1..=cluster.servers).map(|index| (server_role(index), server_args(cluster, index)));
    let fixed = servers.chain([(GUARD.to_owned(), guard_args(cluster))]);
    let agents = cluster.nodes.iter().filter(|n| !n.leaving).map(|n| (Cluster::agent_role(n), agent_args(cluster, &n.name)));
    fixed.chain(agents).collect()
}

/// Arguments of a node's agent.
pub fn agent_args(cluster: &Cluster, node: &str) -> Vec<String> {
    vec!["agent".into(), "--data".into(), cluster.data.display().to_string(), "--node".into(), node.into()]
}

/// Starts a role if it shall run and does not. Two that try at once are told apart by a lock on the role, and whoever got it
/// looks once more whether the cluster was stopped meanwhile.
pub fn ensure(data: &Path, role: &str, args: &[String], home: &Home) -> Result<()> {
    let cluster = Cluster::load(data)?;
    let _lock = RoleLock::take(&cluster, role)?;
    let cluster = Cluster::load(data)?;
    if is_wanted(&cluster, role) && Process::from_pid_file(&cluster.pid_file(role)).is_none() {
        let pid = process::spawn(&cluster, role, args, home)?;
        tracing::info!(role, pid, "started");
        wait_for_pid_file(&cluster, role, pid);
    }
    Ok(())
}

/// Until it is there, or whoever should write it has ended.
fn wait_for_pid_file(cluster: &Cluster, role: &str, pid: u32) {
    let until = std::time::Instant::now() + PID_FILE_WAIT;
    let lives = || i32::try_from(pid).is_ok_and(|pid| knarr_sys::process::start_time(pid).is_some());
    while Process::from_pid_file(&cluster.pid_file(role)).is_none() && lives() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whoever holds it is alone in starting or ending the role.
pub struct RoleLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl RoleLock {
    /// Waits for it.
    ///
    /// # Errors
    /// The lock's file cannot be made.
    pub fn take(cluster: &Cluster, role: &str) -> Result<Self> {
        super::config::private_folder(&cluster.run)?;
        let path = cluster.run.join(format!("{role}.lock"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|f| f.lock().map(|()| f))
            .map_err(|e| Failure::file(&path, &e))?;
        Ok(Self(file))
    }
}

/// Keeps every role but `own` alive, those of nodes that come later too, until the cluster is gone.
pub async fn look_after_others(data: PathBuf, own: String, home: Home) {
    let mut keepers: HashMap<String, JoinHandle<()>> = HashMap::new();
    let changes = watch_folder(&data);
    while Cluster::exists(&data) {
        match Cluster::load(&data) {
            Ok(cluster) => keep_all(&cluster, &own, &home, &mut keepers),
            Err(error) => tracing::error!(%error, "cannot tell which processes shall run"),
        }
        match &changes {
            Some(changes) if changes.changed().await.is_ok() => {}
            _ => sleep(BACKOFF_MAX).await,
        }
    }
}

/// Tells of a new `cluster.json`. Without it the file is looked at now and then.
fn watch_folder(data: &Path) -> Option<Inotify> {
    let watch = Inotify::new().and_then(|i| i.watch(data, MOVED_TO | DELETE_SELF).map(|()| i));
    watch.inspect_err(|error| tracing::warn!(%error, "changes of the cluster are noticed late")).ok()
}

fn keep_all(cluster: &Cluster, own: &str, home: &Home, keepers: &mut HashMap<String, JoinHandle<()>>) {
    keepers.retain(|_, keeper| !keeper.is_finished());
    for (role, args) in roles(cluster).into_iter().filter(|(role, _)| role != own && is_wanted(cluster, role)) {
        let (data, home) = (cluster.data.clone(), home.clone());
        keepers.entry(role.clone()).or_insert_with(|| tokio::spawn(keep_alive(data, role, args, home)));
    }
}

/// Keeps one role alive as long as it is wanted.
async fn keep_alive(data: PathBuf, role: String, args: Vec<String>, home: Home) {
    let mut backoff = Duration::ZERO;
    loop {
        let cluster = match Cluster::load(&data) {
            Ok(cluster) if is_wanted(&cluster, &role) => cluster,
            Err(_) if Cluster::exists(&data) => {
                sleep(RETRY_AFTER).await;
                continue;
            }
            _ => return,
        };
        match Process::from_pid_file(&cluster.pid_file(&role)) {
            Some(process) => {
                let seen = Instant::now();
                if let Err(error) = process.ended().await {
                    tracing::warn!(role, pid = process.pid, %error, "cannot watch a process");
                    sleep(RETRY_AFTER).await;
                    continue;
                }
                backoff = if seen.elapsed() > HEALTHY_AFTER { Duration::ZERO } else { slower(backoff) };
                tracing::warn!(role, pid = process.pid, "ended");
            }
            None => {
                sleep(backoff).await;
                if let Err(error) = start_blocking(data.clone(), role.clone(), args.clone(), home.clone()).await {
                    tracing::error!(role, %error, "cannot start");
                    backoff = slower(backoff);
                }
            }
        }
    }
}

fn slower(backoff: Duration) -> Duration {
    (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX)
}

async fn start_blocking(data: PathBuf, role: String, args: Vec<String>, home: Home) -> std::result::Result<(), String> {
    match tokio::task::spawn_blocking(move || ensure(&data, &role, &args, &home)).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Whether the cluster shall run, and this role with it.
fn is_wanted(cluster: &Cluster, role: &str) -> bool {
    let exists = (1..=cluster.servers).any(|index| server_role(index) == role)
        || role == GUARD
        || cluster.nodes.iter().any(|n| !n.leaving && Cluster::agent_role(n) == role);
    cluster.desired == Desired::Running && exists
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::config::tests::sample;

    #[test]
    fn what_was_stopped_or_is_leaving_is_not_started_again() {
        let mut cluster = sample(Path::new("/x"));
        assert!(is_wanted(&cluster, "server") && is_wanted(&cluster, "guard") && is_wanted(&cluster, "agent-knarr"));
        assert!(!is_wanted(&cluster, "agent-other") && !is_wanted(&cluster, "server-2"));
        cluster.servers = 2;
        assert!(
            is_wanted(&cluster, "server-2") && roles(&cluster).iter().any(|(role, args)| role == "server-2" && args.ends_with(&["--index".into(), "2".into()]))
        );
        cluster.nodes[0].leaving = true;
        assert!(!is_wanted(&cluster, "agent-knarr"));
        (cluster.joined, cluster.servers) = (true, 0);
        assert!(!is_wanted(&cluster, "server") && is_wanted(&cluster, "guard"), "the server is elsewhere");
        assert_eq!(roles(&cluster).iter().map(|(role, _)| role.as_str()).collect::<Vec<_>>(), ["guard"]);
        (cluster.joined, cluster.servers) = (false, 1);
        cluster.desired = Desired::Stopped;
        assert!(!is_wanted(&cluster, "server"));
    }

    #[tokio::test]
    async fn a_node_that_comes_later_gets_a_keeper() {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = sample(folder.path());
        let mut keepers = HashMap::new();
        keep_all(&cluster, "server", &Home::default(), &mut keepers);
        cluster.nodes.push(crate::cluster::config::Node { name: "late".into(), index: 1, ..cluster.nodes[0].clone() });
        keep_all(&cluster, "server", &Home::default(), &mut keepers);
        let mut names: Vec<_> = keepers.keys().cloned().collect();
        names.sort();
        assert_eq!(names, ["agent-knarr", "agent-late", "guard"]);
    }

    #[test]
    fn a_role_that_fails_again_and_again_is_started_more_and_more_slowly() {
        let waits: Vec<_> = std::iter::successors(Some(slower(Duration::ZERO)), |b| Some(slower(*b))).take(9).map(|d| d.as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
