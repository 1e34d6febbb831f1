//! Who keeps the cluster's processes alive. Under systemd the unit does; everywhere, and beside it, the server looks after the
//! agents and each agent after the server: a death is seen by pidfd at once, and mended as long as `cluster.json` says
//! that the cluster shall run.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::config::{Cluster, Desired};
use super::failure::Result;
use super::process::{self, Process};

/// A process that dies sooner than this after its start is started again more slowly.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a process that was started may take to write its pid file.
const PID_FILE_WAIT: Duration = Duration::from_secs(5);

/// Arguments of the server's process.
pub fn server_args(cluster: &Cluster) -> Vec<String> {
    vec!["server".into(), "--data".into(), cluster.data.display().to_string()]
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
    role == "server" || cluster.nodes.iter().any(|n| !n.leaving && Cluster::agent_role(n) == role)
}
