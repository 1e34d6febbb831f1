//! Probes: one task for each probe of a running container, which tells the pod's actor when its verdict changes (upstream:
//! `pkg/kubelet/prober`).

pub mod counts;
mod grpc;
pub mod http;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use knarr_runtime::cri::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::container::expansion::expand;
use crate::context::Context;
use crate::events::{Level, container_reference};
use crate::pod::observed::{ProbeKind, Verdict};
use counts::Outcome;

/// How often an attempt that says nothing (an error of the machinery) is repeated at once.
const ATTEMPTS_MAX: usize = 3;
/// Bytes of an exec probe's output that an event tells.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// What one attempt has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    Success,
    Warning(String),
    Failure(String),
    /// The machinery failed: nothing is known of the container.
    Errored(String),
}

/// A probe of one run of a container.
pub struct Prober {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub kind: ProbeKind,
    pub container_id: String,
    pub started_at: Timestamp,
    pub pod_ip: String,
}

/// What a prober says: its kind, the container, the verdict.
pub type Said = (ProbeKind, String, Verdict);

impl Prober {
    fn spec(&self) -> Option<&Probe> {
        match self.kind {
            ProbeKind::Startup => self.container.startup_probe.as_ref(),
            ProbeKind::Readiness => self.container.readiness_probe.as_ref(),
            ProbeKind::Liveness => self.container.liveness_probe.as_ref(),
        }
    }

    /// Probes until a verdict ends it: success or failure of a startup probe, failure of a liveness probe.
    pub async fn run(self, tell: mpsc::UnboundedSender<Said>) {
        let Some(probe) = self.spec().cloned() else { return };
        let period = Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1));
        self.initial_delay(&probe).await;
        let mut next = Instant::now();
        let (mut last, mut run) = (None, 0);
        loop {
            let attempt = self.attempt_some(&probe).await;
            let outcome = match attempt {
                Attempt::Success | Attempt::Warning(_) => Outcome::Successful,
                Attempt::Failure(_) => Outcome::Failed,
                Attempt::Errored(_) => Outcome::Unknown,
            };
            self.context.probes.add(&self.pod, &self.container.name, self.kind, outcome);
            if let Some(good) = self.settle(&attempt) {
                run = if last == Some(good) { run + 1 } else { 1 };
                last = Some(good);
                let needed = if good { probe.success_threshold } else { probe.failure_threshold };
                if run >= needed.unwrap_or(if good { 1 } else { 3 }) {
                    let verdict = if good { Verdict::Success } else { Verdict::Failure };
                    let told = tell.send((self.kind, self.container_id.clone(), verdict));
                    let done = self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !good);
                    if done || told.is_err() {
                        return;
                    }
                }
            }
            next = (next + period).max(Instant::now());
            tokio::time::sleep_until(next).await;
        }
    }

    async fn initial_delay(&self, probe: &Probe) {
        let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let age = Duration::try_from(self.context.env.now().duration_since(self.started_at)).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
    }

    async fn attempt_some(&self, probe: &Probe) -> Attempt {
        let mut attempt = self.attempt(probe).await;
        for _ in 1..ATTEMPTS_MAX {
            if !matches!(attempt, Attempt::Errored(_)) {
                break;
            }
            attempt = self.attempt(probe).await;
        }
        attempt
    }

    /// Records the event of an attempt. Gives whether it counts as good, or nothing when it does not count.
    fn settle(&self, attempt: &Attempt) -> Option<bool> {
        let (reason, message, good) = match attempt {
            Attempt::Success => return Some(true),
            Attempt::Warning(output) => ("ProbeWarning", format!("{} probe warning: {output}", self.kind.as_str()), Some(true)),
            Attempt::Failure(output) => ("Unhealthy", format!("{} probe failed: {output}", self.kind.as_str()), Some(false)),
            Attempt::Errored(error) => ("Unhealthy", format!("{} probe errored and resulted in unknown state: {error}", self.kind.as_str()), None),
        };
        self.context.events.record(container_reference(&self.pod, &self.container.name), Level::Warning, reason, &message);
        good
    }

    async fn attempt(&self, probe: &Probe) -> Attempt {
        let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        if let Some(exec) = &probe.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default(), timeout).await;
        }
        if let Some(get) = &probe.http_get {
            return match http::Target::new(get, &self.container, &self.pod_ip, "kube-probe/1.37") {
                Ok(target) => http_get(&target, timeout).await,
                Err(error) => Attempt::Errored(error),
            };
        }
        if let Some(socket) = &probe.tcp_socket {
            let host = socket.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&self.pod_ip);
            return match http::resolve_port(&socket.port, &self.container) {
                Ok(port) => tcp(host, port, timeout).await,
                Err(error) => Attempt::Errored(error),
            };
        }
        if let Some(grpc) = &probe.grpc {
            let port = u16::try_from(grpc.port).unwrap_or_default();
            return match grpc::check(&self.pod_ip, port, grpc.service.as_deref().unwrap_or_default(), timeout).await {
                Ok(()) => Attempt::Success,
                Err(why) => Attempt::Failure(why),
            };
        }
        Attempt::Errored("missing probe handler".into())
    }

    async fn exec(&self, command: &[String], timeout: Duration) -> Attempt {
        let own = |name: &str| self.container.env.iter().flatten().rfind(|e| e.name == name).map(|e| e.value.clone().unwrap_or_default());
        let command: Vec<String> = command.iter().map(|word| expand(word, own)).collect();
        match self.context.runtime.exec_sync(&self.container_id, &command, timeout).await {
            Ok(output) => {
                let mut all = output.stdout;
                all.extend(output.stderr);
                all.truncate(OUTPUT_BYTES_MAX);
                let text = String::from_utf8_lossy(&all).into_owned();
                if output.exit_code == 0 { Attempt::Success } else { Attempt::Failure(text) }
            }
            Err(Error::Timeout(_)) => Attempt::Failure(format!("command timed out: {:?} timed out after {}s", command.join(" "), timeout.as_secs())),
            Err(error) => Attempt::Errored(error.to_string()),
        }
    }
}

async fn http_get(target: &http::Target, timeout: Duration) -> Attempt {
    match tokio::time::timeout(timeout, http::get(target)).await {
        Err(_) => Attempt::Failure(format!("Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", target.url())),
        Ok(Err(error)) => Attempt::Failure(error),
        Ok(Ok(answer)) if answer.redirected_away => Attempt::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        Ok(Ok(answer)) if (200..400).contains(&answer.code) => Attempt::Success,
        Ok(Ok(answer)) => Attempt::Failure(format!("HTTP probe failed with statuscode: {}", answer.code)),
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Attempt {
    match tokio::time::timeout(timeout, http::dial(host, port)).await {
        Ok(Ok(_)) => Attempt::Success,
        Ok(Err(error)) => Attempt::Failure(error),
        Err(_) => Attempt::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}
