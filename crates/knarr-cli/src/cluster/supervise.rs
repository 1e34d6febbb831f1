//! Who keeps the cluster's processes alive: the server, the agents and a small guard look after each other. A death is seen by
//! pidfd at once, and mended by whoever is left, as long as `cluster.json` says that the cluster shall run. The guard has no
//! other work: it is there so that a server and an agent may die in the same moment.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::config::{Cluster, Desired};
use super::failure::Result;
use super::process::{self, Process};

/// A process that dies sooner than this after its start is started again more slowly.
const HEALTHY_AFTER: Duration = Duration::from_secs(2);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The server's role.
pub const SERVER: &str = "server";
/// The guard's role.
pub const GUARD: &str = "guard";
/// How long a process that was started may take to write its pid file.
const PID_FILE_WAIT: Duration = Duration::from_secs(5);

/// Arguments of the server's process.
pub fn server_args(cluster: &Cluster) -> Vec<String> {
    vec![SERVER.into(), "--data".into(), cluster.data.display().to_string()]
}

/// Arguments of the guard.
pub fn guard_args(cluster: &Cluster) -> Vec<String> {
    vec![GUARD.into(), "--data".into(), cluster.data.display().to_string()]
}

/// Every role of a cluster with its arguments.
pub fn roles(cluster: &Cluster) -> Vec<(String, Vec<String>)> {
    let fixed = [(SERVER.to_owned(), server_args(cluster)), (GUARD.to_owned(), guard_args(cluster))];
    let agents = cluster.nodes.iter().filter(|n| !n.leaving).map(|n| (Cluster::agent_role(n), agent_args(cluster, &n.name)));
    fixed.into_iter().chain(agents).collect()
}

/// Arguments of a node's agent.
pub fn agent_args(cluster: &Cluster, node: &str) -> Vec<String> {
    vec!["agent".into(), "--data".into(), cluster.data.display().to_string(), "--node".into(), node.into()]
}

/// Starts a role if it does not run. Two that try at once are told apart by a lock on the role.
pub fn ensure(cluster: &Cluster, role: &str, args: &[String]) -> Result<()> {
    let lock = RoleLock::take(cluster, role)?;
    if Process::from_pid_file(&cluster.pid_file(role)).is_none() {
        let pid = process::spawn(cluster, role, args)?;
        tracing::info!(role, pid, "started");
        wait_for_pid_file(cluster, role);
    }
    drop(lock);
    Ok(())
}

fn wait_for_pid_file(cluster: &Cluster, role: &str) {
    let until = std::time::Instant::now() + PID_FILE_WAIT;
    while Process::from_pid_file(&cluster.pid_file(role)).is_none() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct RoleLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl RoleLock {
    fn take(cluster: &Cluster, role: &str) -> Result<Self> {
        let path = cluster.run.join(format!("{role}.lock"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|f| f.lock().map(|()| f))
            .map_err(|e| super::failure::Failure::file(&path, &e))?;
        Ok(Self(file))
    }
}

/// Keeps one role alive until the cluster shall stop. Never returns by itself.
pub async fn keep_alive(data: &Path, role: String, args: Vec<String>) {
    let mut backoff = Duration::ZERO;
    loop {
        let Ok(cluster) = Cluster::load(data) else { return };
        if cluster.desired == Desired::Stopped || !is_wanted(&cluster, &role) {
            return;
        }
        match Process::from_pid_file(&cluster.pid_file(&role)) {
            Some(process) => {
                let seen = Instant::now();
                process.ended().await;
                backoff = if seen.elapsed() > HEALTHY_AFTER { Duration::ZERO } else { (backoff * 2).clamp(Duration::from_millis(50), BACKOFF_MAX) };
                tracing::warn!(role, pid = process.pid, "ended");
            }
            None => {
                sleep(backoff).await;
                // The verb `stop` may have been called meanwhile.
                if Cluster::load(data).is_ok_and(|c| c.desired == Desired::Running && is_wanted(&c, &role))
                    && let Err(e) = start_blocking(cluster, role.clone(), args.clone()).await
                {
                    tracing::error!(role, error = %e, "cannot start");
                    backoff = (backoff * 2).clamp(Duration::from_millis(200), BACKOFF_MAX);
                }
            }
        }
    }
}

async fn start_blocking(cluster: Cluster, role: String, args: Vec<String>) -> std::result::Result<(), String> {
    match tokio::task::spawn_blocking(move || ensure(&cluster, &role, &args)).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

fn is_wanted(cluster: &Cluster, role: &str) -> bool {
    role == SERVER || role == GUARD || cluster.nodes.iter().any(|n| !n.leaving && Cluster::agent_role(n) == role)
}
