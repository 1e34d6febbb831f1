//! Links in `/var/log/containers`, where collectors of logs look: `POD_NS_CONTAINER-ID.log` (upstream: `kuberuntime/legacy.go`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::config::AgentConfig;
use crate::pod::spec::PodExt;

fn link_path(config: &AgentConfig, pod: &Pod, container: &str, id: &str) -> PathBuf {
    config.container_log_dir.join(format!("{}_{}_{container}-{id}.log", pod.name(), pod.namespace()))
}

/// Links to a container's log file, if it is there. A failure is told in the log only: nothing depends on it.
pub fn link(config: &AgentConfig, pod: &Pod, container: &str, id: &str, log: &Path) {
    if !log.exists() {
        return;
    }
    let made = fs::create_dir_all(&config.container_log_dir).and_then(|()| std::os::unix::fs::symlink(log, link_path(config, pod, container, id)));
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        tracing::warn!(pod = pod.described(), container, %error, "cannot link to a log file");
    }
}

/// Takes a link away.
pub fn unlink(config: &AgentConfig, pod: &Pod, container: &str, id: &str) {
    match fs::remove_file(link_path(config, pod, container, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(pod = pod.described(), container, %error, "cannot remove the link to a log file")
        }
        _ => {}
    }
}
