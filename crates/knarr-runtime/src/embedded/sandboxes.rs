//! Pods: made, stopped, removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knarr_sys::cgroup::Cgroup;
use knarr_sys::{mount, namespace};

use super::connection::{ShimConnection, Welcome};
use super::records::{Sandbox, SandboxRecord};
use super::{Embedded, failed, in_background, new_id};
use crate::cri::{Error, NamespaceMode, Resources, Result, RuntimeEvent, SandboxConfig, SandboxStatus};
use crate::image::store::write_json;
use crate::shim::protocol::Request;
use crate::shim::spec::{Layout, SandboxSpec, limits};

/// Docker's and Kubernetes' size of /dev/shm.
const SHM_BYTES: u64 = 64 << 20;
/// Processes that were killed leave their cgroup within moments; how often we look, and for how long.
const EMPTY_PAUSE: Duration = Duration::from_millis(2);
const EMPTY_ATTEMPTS_MAX: u32 = 500;

impl Embedded {
    pub(super) async fn make_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus> {
        let id = new_id()?;
        let folder = self.0.run.join("sandboxes").join(&id);
        let own_network = config.network != NamespaceMode::Node;
        let record = SandboxRecord {
            id: id.clone(),
            config: config.clone(),
            created_at: crate::shim::now(),
            netns: own_network.then(|| self.0.run.join("netns").join(&id)),
            ips: Vec::new(),
            stopped: false,
        };
        let sandbox = Arc::new(Sandbox::new(folder, record));
        let made = self.bring_up(&id, &sandbox).await;
        if let Err(error) = made {
            self.tear_down(&sandbox).await.unwrap_or_else(|error| tracing::warn!(sandbox = id, %error, "cleaning up after a failed sandbox"));
            return Err(Error::Failed(format!("failed to create pod sandbox: {error}")));
        }
        let (status, shim) = (sandbox.status(), sandbox.shim.lock().clone());
        self.0.sandboxes.write().insert(id.clone(), sandbox);
        if shim.is_some_and(|shim| shim.has_gone()) {
            // It died before anybody knew whose it was.
            self.replace_shim(&id).await;
        }
        Ok(status)
    }

    async fn bring_up(&self, id: &str, sandbox: &Arc<Sandbox>) -> Result<()> {
        let (cgroup, prepared) = (self.pod_cgroup(sandbox), sandbox.clone());
        in_background(move || {
            prepare_files(&prepared)?;
            cgroup.create().map_err(failed("pod cgroup"))?;
            cgroup.apply(&limits(&prepared.record.lock().config.pod_resources)).map_err(failed("pod limits"))
        })
        .await?;
        let (shim, _) = self.spawn_shim(id, sandbox, false).await?;
        *sandbox.shim.lock() = Some(shim);
        Ok(())
    }

    /// Starts a shim and waits until it serves.
    pub(super) async fn spawn_shim(&self, id: &str, sandbox: &Sandbox, adopt: bool) -> Result<(ShimConnection, Welcome)> {
        let socket = self.0.spawner.spawn(&sandbox.folder, adopt).await.map_err(failed("starting the shim"))?;
        ShimConnection::open(id, socket, self.0.told.clone()).await
    }

    pub(super) fn pod_cgroup(&self, sandbox: &Sandbox) -> Cgroup {
        self.0.hierarchies.cgroup(&sandbox.record.lock().config.cgroup_parent)
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        sandbox.record.lock().stopped = true;
        sandbox.has_settled().await;
        let shim = sandbox.shim.lock().clone();
        if let Some(shim) = shim {
            match shim.ask(Request::Stop, Vec::new()).await {
                Ok(_) => {}
                // A shim that has gone has stopped; its containers are dealt with below.
                Err(error) => tracing::warn!(sandbox = id, %error, "stopping the shim"),
            }
            for container in self.containers_of(id) {
                if container.status().pid.is_some() {
                    container.ended().await;
                }
            }
            *sandbox.shim.lock() = None;
            // The shim ends when the last connection to it does.
            shim.close();
        }
        let cgroup = self.pod_cgroup(&sandbox);
        in_background(move || {
            cgroup.kill().map_err(failed("killing the pod's processes"))?;
            release_mounts(&sandbox)?;
            sandbox.save().map_err(failed("sandbox.json"))
        })
        .await
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            let id = container.record.lock().id.clone();
            self.remove(&id).await?;
        }
        self.tear_down(&sandbox).await?;
        self.0.sandboxes.write().remove(id);
        self.announce(RuntimeEvent::SandboxGone { sandbox_id: id.to_owned() });
        Ok(())
    }

    /// Removes all that a sandbox has on this machine.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        remove_cgroup(self.pod_cgroup(sandbox)).await?;
        let sandbox = sandbox.clone();
        in_background(move || {
            release_mounts(&sandbox)?;
            knarr_sys::tree::remove(&sandbox.folder).map_err(failed(sandbox.folder.display()))
        })
        .await
    }

    pub(super) async fn update_sandbox(&self, id: &str, resources: &Resources) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        let (cgroup, resources) = (self.pod_cgroup(&sandbox), resources.clone());
        in_background(move || {
            cgroup.apply(&limits(&resources)).map_err(failed("pod limits"))?;
            merge(&mut sandbox.record.lock().config.pod_resources, &resources);
            sandbox.save().map_err(failed("sandbox.json"))
        })
        .await
    }
}

/// Takes over what is set.
pub(super) fn merge(into: &mut Resources, from: &Resources) {
    let from = from.clone();
    into.cpu_shares = from.cpu_shares.or(into.cpu_shares);
    into.cpu_quota = from.cpu_quota.or(into.cpu_quota);
    into.cpu_period = from.cpu_period.or(into.cpu_period);
    into.memory_limit = from.memory_limit.or(into.memory_limit);
    into.pids_limit = from.pids_limit.or(into.pids_limit);
    into.oom_score_adj = from.oom_score_adj.or(into.oom_score_adj);
    into.hugepages.extend(from.hugepages);
}

/// Kills what is left in a cgroup, and removes it when it is empty.
pub(super) async fn remove_cgroup(cgroup: Cgroup) -> Result<()> {
    for attempt in 1.. {
        let cgroup = cgroup.clone();
        let removed = in_background(move || cgroup.kill().and_then(|()| cgroup.remove()).map_err(failed("removing the cgroup"))).await;
        // cgroup v1 tells nobody when the last process has left.
        match removed {
            Err(_) if attempt < EMPTY_ATTEMPTS_MAX => tokio::time::sleep(EMPTY_PAUSE).await,
            other => return other,
        }
    }
    Ok(())
}

/// The files that the shim and the next agent read.
fn prepare_files(sandbox: &Sandbox) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let record = sandbox.record.lock().clone();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(sandbox.layout().containers()).map_err(failed(sandbox.folder.display()))?;
    std::fs::create_dir_all(&record.config.log_directory).map_err(failed(record.config.log_directory.display()))?;
    std::fs::write(hostname_file(sandbox), format!("{}\n", record.config.hostname)).map_err(failed("hostname"))?;
    let spec = SandboxSpec {
        id: record.id,
        hostname: record.config.hostname,
        sysctls: record.config.sysctls,
        network: record.config.network,
        pid: record.config.pid,
        ipc: record.config.ipc,
        netns: record.netns,
        shm: (record.config.ipc != NamespaceMode::Node).then(|| shm_folder(sandbox)),
        shm_size: record.config.shm_size.unwrap_or(SHM_BYTES),
    };
    write_json(&Layout(&sandbox.folder).spec(), &spec).map_err(failed("shim-spec.json"))?;
    sandbox.save().map_err(failed("sandbox.json"))
}

pub(super) fn hostname_file(sandbox: &Sandbox) -> PathBuf {
    sandbox.folder.join("hostname")
}

pub(super) fn shm_folder(sandbox: &Sandbox) -> PathBuf {
    sandbox.folder.join("shm")
}

fn release_mounts(sandbox: &Sandbox) -> Result<()> {
    mount::unmount(&shm_folder(sandbox)).map_err(failed("unmounting /dev/shm"))?;
    match &sandbox.record.lock().netns {
        Some(path) => namespace::unpin(path).map_err(failed("network namespace")),
        None => Ok(()),
    }
}
