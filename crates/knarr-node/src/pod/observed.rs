//! What the runtime holds of one pod, as the deciding functions see it (upstream: `kubecontainer.PodStatus`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use knarr_runtime::cri::{ContainerState, ContainerStatus, Resources, SandboxState, SandboxStatus};

/// Labels and annotations by which a container is known again after a restart of the agent (upstream: `kuberuntime/labels.go`).
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
    pub const PORTS: &str = "io.kubernetes.container.ports";
    pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
    pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// The image's tag or digest as the runtime names it: `status.containerStatuses[].image`.
    pub const IMAGE_NAME: &str = "io.knarr.image.name";
    /// The image's repository digest: `status.containerStatuses[].imageID`.
    pub const IMAGE_REF: &str = "io.knarr.image.ref";
}

/// Every container id in the API carries the runtime's name.
pub const ID_PREFIX: &str = "knarr://";

/// One run of a container.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub state: ContainerState,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    /// The runtime's message, and the termination message that the process left.
    pub message: String,
    pub image: String,
    pub image_ref: String,
    pub hash: u64,
    pub restart_count: i32,
    pub user: Option<(i64, i64, Vec<i64>)>,
    pub resources: Resources,
    pub log_path: std::path::PathBuf,
}

impl Seen {
    /// Reads a container of the runtime. `termination` is what the process left behind, if it has ended.
    pub fn new(status: ContainerStatus, termination: &str) -> Self {
        let note = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
        let mut message = status.message.clone();
        if !termination.is_empty() {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(termination);
        }
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        Self {
            image: or(note(labels::IMAGE_NAME), &status.image_reference),
            image_ref: or(note(labels::IMAGE_REF), &status.image),
            hash: u64::from_str_radix(&note(labels::HASH), 16).unwrap_or_default(),
            restart_count: note(labels::RESTART_COUNT).parse().unwrap_or_default(),
            name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(status.name),
            id: status.id,
            sandbox_id: status.sandbox_id,
            state: status.state,
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code.unwrap_or_default(),
            reason: status.reason,
            message,
            user: status.user,
            resources: status.resources,
            log_path: status.log_path,
        }
    }

    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    pub fn has_exited(&self) -> bool {
        self.state == ContainerState::Exited
    }

    /// As the API writes it.
    pub fn api_id(&self) -> String {
        format!("{ID_PREFIX}{}", self.id)
    }
}

/// The sandboxes and containers of one pod, the newest of each first.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sandboxes: Vec<SandboxStatus>,
    pub containers: Vec<Seen>,
    /// The pod's addresses. They are kept after the sandbox is gone, since the last status still names them.
    pub ips: Vec<String>,
}

impl Observed {
    /// Puts everything in order, the newest first.
    pub fn new(mut sandboxes: Vec<SandboxStatus>, mut containers: Vec<Seen>) -> Self {
        sandboxes.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        containers.sort_by(|a, b| (b.created_at, b.restart_count, &b.id).cmp(&(a.created_at, a.restart_count, &a.id)));
        let ips = sandboxes.first().filter(|s| s.state == SandboxState::Ready).map(|s| s.ips.clone()).unwrap_or_default();
        Self { sandboxes, containers, ips }
    }

    /// The newest run of a container.
    pub fn find(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The sandbox that new containers join.
    pub fn active_sandbox(&self) -> Option<&SandboxStatus> {
        self.sandboxes.first().filter(|s| s.state == SandboxState::Ready)
    }

    /// The newest run of a container in the active sandbox.
    pub fn find_active(&self, name: &str) -> Option<&Seen> {
        let sandbox = self.active_sandbox()?;
        self.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox.id)
    }

    /// Whether one of these containers was made in the active sandbox (upstream: `HasAnyActiveRegularContainerStarted`).
    pub fn any_active<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        names.any(|name| self.find_active(name).is_some())
    }

    pub fn running(&self) -> impl Iterator<Item = &Seen> {
        self.containers.iter().filter(|c| c.is_running())
    }

    /// Replaces or adds one container.
    pub fn put(&mut self, seen: Seen) {
        match self.containers.iter_mut().find(|c| c.id == seen.id) {
            Some(slot) => *slot = seen,
            None => {
                let at = self.containers.iter().position(|c| (c.created_at, c.restart_count) <= (seen.created_at, seen.restart_count));
                self.containers.insert(at.unwrap_or(self.containers.len()), seen);
            }
        }
    }

    pub fn remove(&mut self, container_id: &str) {
        self.containers.retain(|c| c.id != container_id);
    }
}

/// Runs that have ended and are not the last of their container that did.
pub fn superseded(observed: &Observed) -> Vec<Seen> {
    let mut kept = std::collections::BTreeSet::new();
    observed.containers.iter().filter(|c| c.has_exited() && !kept.insert(c.name.as_str())).cloned().collect()
}

/// Whether a probe's last word on a container is good or bad. No entry: it has not spoken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unknown,
    Success,
    Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As events and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What the probes say, by kind and container id.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(BTreeMap<(ProbeKind, String), Verdict>);

impl Verdicts {
    pub fn get(&self, kind: ProbeKind, container_id: &str) -> Option<Verdict> {
        self.0.get(&(kind, container_id.to_owned())).copied()
    }

    /// Gives whether this is news.
    pub fn set(&mut self, kind: ProbeKind, container_id: &str, verdict: Verdict) -> bool {
        self.0.insert((kind, container_id.to_owned()), verdict) != Some(verdict)
    }

    /// Forgets a container's verdicts.
    pub fn forget(&mut self, container_id: &str) {
        self.0.retain(|(_, id), _| id != container_id);
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::testing::{containers, pod_of, sandbox};

    #[test]
    fn of_the_runs_that_have_ended_the_last_is_kept() {
        let pod = pod_of(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let of = |text: &str| {
            let observed = Observed::new(vec![sandbox(0, true)], containers(&pod, text));
            superseded(&observed).into_iter().map(|s| s.id).collect::<Vec<_>>()
        };
        assert_eq!(of("a:exited(1) a:running b:exited(0)"), [""; 0]);
        assert_eq!(of("a:exited(1) b:exited(1) a:exited(1) b:exited(1) a:exited(1)"), ["a-1", "b-0", "a-0"]);
    }
}
