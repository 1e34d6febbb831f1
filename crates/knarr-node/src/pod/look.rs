//! Looking at the runtime: what it holds of a pod, and what ended processes left behind as their last words (upstream:
//! `kuberuntime_container.go:convertToKubeContainerStatus`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use knarr_runtime::cri::{ContainerState, ContainerStatus, Error, Runtime, SandboxStatus};

use super::observed::{Observed, Seen, labels};
use crate::context::Context;
use crate::logs::cri::last_text;

const MESSAGE_BYTES_MAX: u64 = 4096;
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: u64 = 80;

/// Everything that the runtime holds, by pod uid. Asked once when the agent starts, and when events were lost.
///
/// # Errors
/// The runtime's.
pub async fn everything(runtime: &dyn Runtime) -> Result<(Vec<SandboxStatus>, Vec<ContainerStatus>), Error> {
    Ok((runtime.list_pod_sandboxes().await?, runtime.list_containers().await?))
}

/// What the runtime holds of one pod.
///
/// # Errors
/// The runtime's.
pub async fn pod(context: &Context, uid: &str) -> Result<Observed, Error> {
    let (sandboxes, containers) = everything(&*context.runtime).await?;
    Ok(of_pod(context, uid, &sandboxes, &containers))
}

/// Picks one pod out of everything.
pub fn of_pod(context: &Context, uid: &str, sandboxes: &[SandboxStatus], containers: &[ContainerStatus]) -> Observed {
    let sandboxes: Vec<_> = sandboxes.iter().filter(|s| s.uid == uid).cloned().collect();
    let own = |c: &&ContainerStatus| c.labels.get(labels::POD_UID).is_some_and(|u| u == uid);
    let seen = containers.iter().filter(own).map(|c| seen(context, &sandboxes, c.clone())).collect();
    Observed::new(sandboxes, seen)
}

/// One container as it is now; `None` when the runtime does not know it any more.
///
/// # Errors
/// The runtime's.
pub async fn container(context: &Context, sandboxes: &[SandboxStatus], id: &str) -> Result<Option<Seen>, Error> {
    match context.runtime.container_status(id).await {
        Ok(status) => Ok(Some(seen(context, sandboxes, status))),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn seen(context: &Context, sandboxes: &[SandboxStatus], status: ContainerStatus) -> Seen {
    let words = if status.state == ContainerState::Exited { last_words(context, sandboxes, &status) } else { String::new() };
    Seen::new(status, &words)
}

fn last_words(context: &Context, sandboxes: &[SandboxStatus], status: &ContainerStatus) -> String {
    let note = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let fallback = note(labels::TERMINATION_MESSAGE_POLICY) == "FallbackToLogsOnError" && status.exit_code != Some(0) && status.reason != "ContainerCannotRun";
    let path = note(labels::TERMINATION_MESSAGE_PATH);
    let mount = status.mounts.iter().find(|m| !path.is_empty() && m.container_path == Path::new("/").join(path));
    let text = match mount.map(|m| (&m.host_path, read_end(&m.host_path))) {
        None => String::new(),
        Some((_, Ok(text))) => text,
        Some((_, Err(e))) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Some((path, Err(e))) => return format!("Error on reading termination log {}: {e}", path.display()),
    };
    if !text.is_empty() || !fallback {
        return text;
    }
    let Some(log) = log_file(context, sandboxes, status) else { return text };
    last_text(&log, LOG_MESSAGE_LINES_MAX, LOG_MESSAGE_BYTES_MAX).unwrap_or_else(|e| format!("Error on reading termination message from logs: {e}"))
}

fn log_file(context: &Context, sandboxes: &[SandboxStatus], status: &ContainerStatus) -> Option<std::path::PathBuf> {
    let sandbox = sandboxes.iter().find(|s| s.id == status.sandbox_id)?;
    Some(context.config.pod_log_dir.join(format!("{}_{}_{}", sandbox.namespace, sandbox.name, sandbox.uid)).join(&status.log_path))
}

/// The end of a small file that a container wrote. A link in its place is not followed.
fn read_end(path: &Path) -> io::Result<String> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MESSAGE_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
