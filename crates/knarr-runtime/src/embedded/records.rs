//! What the agent knows about pods and containers: in memory, and in files so that the next agent knows it too.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::connection::ShimConnection;
use super::held::Held;
use crate::cri;
use crate::shim::protocol::ContainerState;
use crate::shim::spec::Layout;

/// A pod in `sandbox.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    pub config: cri::SandboxConfig,
    /// RFC 3339.
    pub created_at: String,
    pub netns: Option<PathBuf>,
    pub ips: Vec<String>,
    pub stopped: bool,
}

/// A pod.
pub struct Sandbox {
    pub folder: PathBuf,
    pub record: Mutex<SandboxRecord>,
    /// `None` when it is stopped, or its shim has gone.
    pub shim: Mutex<Option<ShimConnection>>,
    /// A new shim is on its way in place of one that died: the pod is what it was.
    pub between_shims: watch::Sender<bool>,
}

impl Sandbox {
    pub fn new(folder: PathBuf, record: SandboxRecord) -> Self {
        Self { folder, record: Mutex::new(record), shim: Mutex::new(None), between_shims: watch::Sender::new(false) }
    }

    pub fn status(&self) -> cri::SandboxStatus {
        let record = self.record.lock();
        let ready = !record.stopped && (*self.between_shims.borrow() || self.shim.lock().is_some());
        cri::SandboxStatus {
            id: record.id.clone(),
            uid: record.config.uid.clone(),
            name: record.config.name.clone(),
            namespace: record.config.namespace.clone(),
            attempt: record.config.attempt,
            state: if ready { cri::SandboxState::Ready } else { cri::SandboxState::NotReady },
            created_at: time(&record.created_at),
            netns: record.netns.clone(),
            ips: record.ips.clone(),
        }
    }

    /// Its shim; of one that died, its successor.
    ///
    /// # Errors
    /// It is stopped, or its shim has gone for good.
    pub async fn shim(&self) -> cri::Result<ShimConnection> {
        self.has_settled().await;
        self.shim.lock().clone().ok_or_else(|| cri::Error::Failed(format!("sandbox {} is not running", self.record.lock().id)))
    }

    /// Waits until it is known whether a shim that died has a successor.
    pub async fn has_settled(&self) {
        // The sender is ours: it is not closed.
        drop(self.between_shims.subscribe().wait_for(|between| !between).await);
    }

    pub fn save(&self) -> std::io::Result<()> {
        let record = self.record.lock().clone();
        crate::image::store::write_json(&sandbox_file(&self.folder), &record)
    }

    pub fn layout(&self) -> Layout<'_> {
        Layout(&self.folder)
    }
}

pub fn sandbox_file(folder: &Path) -> PathBuf {
    folder.join("sandbox.json")
}

/// A container in `containers/ID/record.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub config: cri::ContainerConfig,
    pub created_at: String,
    /// Full path.
    pub log: PathBuf,
    pub stop_signal: i32,
    pub cgroup: String,
}

/// A container.
pub struct Container {
    pub record: Mutex<ContainerRecord>,
    pub live: Mutex<Live>,
    /// Changes when the state does.
    pub phase: watch::Sender<cri::ContainerState>,
    /// The last look at the size of its writable layer.
    pub layer_use: Mutex<Option<(std::time::Instant, u64)>>,
}

/// What changes while it lives.
pub struct Live {
    pub state: ContainerState,
    pub held: Held,
}

impl Container {
    pub fn new(record: ContainerRecord, state: ContainerState, held: Held) -> Self {
        let phase = phase_of(&state);
        Self { record: Mutex::new(record), live: Mutex::new(Live { state, held }), phase: watch::Sender::new(phase), layer_use: Mutex::default() }
    }

    /// Takes over what the shim says. An end is final: an answer that the shim gave before it may be taken up after it.
    pub fn update(&self, state: ContainerState) {
        let mut live = self.live.lock();
        if live.state.finished_at.is_some() {
            return;
        }
        let phase = phase_of(&state);
        live.state = state;
        if phase == cri::ContainerState::Exited {
            live.held = Held::default();
        }
        // Under the lock: whoever waits sees the changes in their order.
        self.phase.send_replace(phase);
    }

    /// Keeps copies of its descriptors until it has ended.
    pub fn hold(&self, held: Held) {
        let mut live = self.live.lock();
        if live.state.finished_at.is_none() {
            live.held = held;
        }
    }

    /// Returns when it has ended.
    pub async fn ended(&self) {
        // The sender lives in self: waiting cannot fail.
        drop(self.phase.subscribe().wait_for(|phase| *phase == cri::ContainerState::Exited).await);
    }

    pub fn status(&self) -> cri::ContainerStatus {
        let (record, live) = (self.record.lock(), self.live.lock());
        let state = &live.state;
        let (reason, message) = reason(state);
        let config = &record.config;
        cri::ContainerStatus {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: phase_of(state),
            pid: (state.started_at.is_some() && state.finished_at.is_none()).then_some(state.pid),
            created_at: time(&record.created_at),
            started_at: state.started_at.as_deref().map(time),
            finished_at: state.finished_at.as_deref().map(time),
            exit_code: state.exit_code,
            reason,
            message,
            image: config.image.clone(),
            image_reference: config.image_reference.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: record.log.clone(),
            mounts: config.mounts.clone(),
            user: Some((i64::from(state.identity.uid), i64::from(state.identity.gid), state.identity.groups.iter().map(|&g| i64::from(g)).collect())),
            resources: config.resources.clone(),
        }
    }
}

/// CRI's state for what the shim knows.
pub fn phase_of(state: &ContainerState) -> cri::ContainerState {
    match (&state.started_at, &state.finished_at) {
        (_, Some(_)) => cri::ContainerState::Exited,
        (Some(_), None) => cri::ContainerState::Running,
        (None, None) => cri::ContainerState::Created,
    }
}

/// Reason and message of an exit, as containerd names them.
fn reason(state: &ContainerState) -> (String, String) {
    let (reason, message) = match (state.exit_code, &state.start_error) {
        (None, _) => ("", ""),
        (_, Some(error)) => ("StartError", error.as_str()),
        _ if state.oom_killed => ("OOMKilled", ""),
        (Some(0), _) => ("Completed", ""),
        _ => ("Error", ""),
    };
    let message = if message.is_empty() {
        String::new()
    } else {
        format!("failed to create task: OCI runtime create failed: unable to start container process: {message}")
    };
    (reason.to_owned(), message)
}

/// A time that we have written ourselves.
fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(started: bool, finished: bool) -> ContainerState {
        let now = |wanted: bool| wanted.then(crate::shim::now);
        ContainerState {
            id: "c".into(),
            pid: 1,
            pid_start_time: 1,
            identity: Default::default(),
            started_at: now(started),
            finished_at: now(finished),
            exit_code: finished.then_some(7),
            oom_killed: false,
            start_error: None,
            outputs: None,
        }
    }

    fn container() -> Container {
        let record = ContainerRecord {
            id: "c".into(),
            sandbox_id: "s".into(),
            config: cri::ContainerConfig::default(),
            created_at: crate::shim::now(),
            log: PathBuf::new(),
            stop_signal: 15,
            cgroup: String::new(),
        };
        Container::new(record, state(false, false), Held::default())
    }

    #[test]
    fn an_end_is_final_also_when_the_answer_to_the_start_is_taken_up_after_it() {
        let container = container();
        container.update(state(true, false));
        container.update(state(true, true));
        container.update(state(true, false));
        let status = container.status();
        assert_eq!((status.state, status.exit_code, *container.phase.borrow()), (cri::ContainerState::Exited, Some(7), cri::ContainerState::Exited));
    }

    #[test]
    fn descriptors_of_one_that_has_ended_are_not_kept() {
        let container = container();
        let held = || Held { pidfd: Some(std::fs::File::open("/dev/null").unwrap().into()), ..Held::default() };
        container.hold(held());
        assert!(container.live.lock().held.pidfd.is_some());
        container.update(state(true, true));
        container.hold(held());
        assert!(container.live.lock().held.pidfd.is_none());
    }
}
