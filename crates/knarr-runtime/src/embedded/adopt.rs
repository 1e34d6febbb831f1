//! Taking up what runs already: after the agent was replaced, and after a shim has died.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knarr_sys::process;
use tokio::net::UnixStream;

use super::connection::{ShimConnection, Welcome};
use super::held::Held;
use super::records::{Container, ContainerRecord, Sandbox, SandboxRecord, sandbox_file};
use super::{Embedded, failed};
use crate::cri::{Result, RuntimeEvent};
use crate::image::store::{read_json, write_json};
use crate::shim::protocol::{Answer, ContainerState, Request};
use crate::shim::spec::Layout;

/// How often a pod that lost its shim is offered a new one, and the pause after the first failure, which doubles.
const NEW_SHIM_ATTEMPTS_MAX: u32 = 8;
const NEW_SHIM_PAUSE: Duration = Duration::from_millis(10);

impl Embedded {
    /// Finds every pod of an earlier agent.
    pub(super) async fn adopt_all(&self) -> Result<()> {
        for folder in subfolders(&self.0.run.join("sandboxes"))? {
            let Ok(record) = read_json::<SandboxRecord>(&sandbox_file(&folder)) else {
                tracing::warn!(folder = %folder.display(), "half a sandbox was left behind: removed");
                knarr_sys::mount::unmount(&folder.join("shm")).map_err(failed("unmounting /dev/shm"))?;
                knarr_sys::tree::remove(&folder).map_err(failed(folder.display()))?;
                continue;
            };
            let id = record.id.clone();
            if let Err(error) = self.adopt_sandbox(folder, record).await {
                tracing::warn!(sandbox = id, %error, "sandbox cannot be taken up");
            }
        }
        self.sweep()
    }

    /// Removes writable layers and pins that belong to nobody: after a reboot, or a kill at the wrong moment.
    fn sweep(&self) -> Result<()> {
        for folder in subfolders(&self.0.root.join("containers"))? {
            let known = folder.file_name().is_some_and(|name| self.0.containers.read().contains_key(&*name.to_string_lossy()));
            if !known {
                knarr_sys::tree::remove(&folder).map_err(failed(folder.display()))?;
            }
        }
        for entry in std::fs::read_dir(self.0.run.join("netns")).map_err(failed("netns"))?.flatten() {
            if !self.0.sandboxes.read().contains_key(&*entry.file_name().to_string_lossy()) {
                knarr_sys::namespace::unpin(&entry.path()).map_err(failed("network namespace"))?;
            }
        }
        Ok(())
    }

    async fn adopt_sandbox(&self, folder: PathBuf, record: SandboxRecord) -> Result<()> {
        let (id, stopped) = (record.id.clone(), record.stopped);
        let sandbox = Arc::new(Sandbox::new(folder, record));
        self.0.sandboxes.write().insert(id.clone(), sandbox.clone());
        self.read_containers(&sandbox)?;
        if stopped {
            return Ok(());
        }
        let taken = async {
            let (shim, welcome) = self.call_shim(&id, &sandbox).await?;
            self.take_over(&sandbox, &shim, welcome).await?;
            *sandbox.shim.lock() = Some(shim);
            Ok::<(), crate::cri::Error>(())
        };
        if let Err(error) = taken.await {
            // It may have died before it was called, or while it told what it has.
            tracing::warn!(sandbox = id, %error, "no shim answers");
            self.replace_shim(&id).await;
        }
        Ok(())
    }

    /// Containers as their files tell.
    fn read_containers(&self, sandbox: &Sandbox) -> Result<()> {
        for folder in subfolders(&sandbox.layout().containers())? {
            let Ok(record) = read_json::<ContainerRecord>(&folder.join("record.json")) else { continue };
            let state = read_json::<ContainerState>(&folder.join("state.json")).unwrap_or_else(|_| unknown_state(&record.id));
            let id = record.id.clone();
            self.0.containers.write().insert(id, Arc::new(Container::new(record, state, Held::default())));
        }
        Ok(())
    }

    async fn call_shim(&self, id: &str, sandbox: &Sandbox) -> Result<(ShimConnection, Welcome)> {
        // Through a descriptor: the path may be longer than a socket address.
        let folder: OwnedFd = std::fs::File::open(&sandbox.folder).map_err(failed(sandbox.folder.display()))?.into();
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder))).join("shim.sock");
        let stream = UnixStream::connect(path).await.and_then(UnixStream::into_std).map_err(failed("shim.sock"))?;
        ShimConnection::open(id, stream.into(), self.0.told.clone()).await
    }

    /// Believes the shim about its containers, and takes copies of their descriptors.
    async fn take_over(&self, sandbox: &Sandbox, shim: &ShimConnection, welcome: Welcome) -> Result<()> {
        for state in welcome.containers {
            let Ok(container) = self.container(&state.id) else {
                // Its record was never finished: nobody knows of it.
                shim.ask(Request::Remove { id: state.id }, Vec::new()).await?;
                continue;
            };
            if let (Answer::Container { state, handles, .. }, fds) = shim.ask(Request::Inspect { id: state.id }, Vec::new()).await? {
                container.hold(Held::from_message(handles, fds));
                container.update(*state);
            }
        }
        tracing::info!(sandbox = sandbox.record.lock().id, pid = welcome.pid, "pod taken up");
        Ok(())
    }

    /// A shim has died. What still runs gets a new one; what has ended meanwhile is noted.
    pub(super) async fn replace_shim(&self, id: &str) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        if sandbox.shim.lock().as_ref().is_some_and(|shim| !shim.has_gone()) {
            // It was one that died while it was taking over, and another has done so since.
            return;
        }
        if sandbox.record.lock().stopped {
            *sandbox.shim.lock() = None;
            return self.stop_without_shim(id).await;
        }
        // In this order: who looks meanwhile sees a pod that is as before.
        sandbox.between_shims.send_replace(true);
        *sandbox.shim.lock() = None;
        let outcome = self.insist_on_new_shim(id, &sandbox).await;
        sandbox.between_shims.send_replace(false);
        match outcome {
            Ok(()) => tracing::warn!(sandbox = id, "its shim died; a new one has taken over, no container was restarted"),
            Err(error) => {
                tracing::warn!(sandbox = id, %error, "its shim died: the pod is not ready any more");
                self.announce(RuntimeEvent::SandboxGone { sandbox_id: id.to_owned() });
            }
        }
    }

    /// The shim has died while it ended its pod: what is left of that is done here, for those who wait for the end.
    async fn stop_without_shim(&self, id: &str) {
        for container in self.containers_of(id) {
            if container.status().pid.is_none() {
                continue;
            }
            if let Err(error) = self.stop_alone(&container).await {
                tracing::warn!(sandbox = id, %error, "its shim died while the pod was being stopped");
            }
        }
    }

    /// The new shim may be killed as well, and so may the spawner that is asked for it: as long as the pod lives, it is tried again.
    async fn insist_on_new_shim(&self, id: &str, sandbox: &Arc<Sandbox>) -> Result<()> {
        let mut pause = NEW_SHIM_PAUSE;
        let mut attempt = 1;
        loop {
            for container in self.containers_of(id) {
                self.note_silent_exit(sandbox, &container);
            }
            if !self.pod_lives(sandbox) {
                return Err(crate::cri::Error::Failed("nothing of it runs any more".to_owned()));
            }
            match self.bring_new_shim(id, sandbox).await {
                Err(error) if attempt < NEW_SHIM_ATTEMPTS_MAX => {
                    tracing::warn!(sandbox = id, %error, attempt, "no new shim yet");
                    tokio::time::sleep(pause).await;
                    (pause, attempt) = (pause * 2, attempt + 1);
                }
                done => return done,
            }
        }
    }

    async fn bring_new_shim(&self, id: &str, sandbox: &Arc<Sandbox>) -> Result<()> {
        let (shim, welcome) = self.spawn_shim(id, sandbox, true).await?;
        for container in self.containers_of(id) {
            let container_id = container.record.lock().id.clone();
            let taken = welcome.containers.iter().any(|s| s.id == container_id);
            if container.live.lock().state.finished_at.is_some() {
                continue;
            }
            if !taken {
                self.note_silent_exit(sandbox, &container);
                continue;
            }
            let (has, fds) = container.live.lock().held.to_message().map_err(failed("descriptors"))?;
            shim.ask(Request::Adopt { id: container_id.clone(), has }, fds).await?;
            // What we did not have, because an agent died as well, the shim has found.
            if let (Answer::Container { handles, .. }, fds) = shim.ask(Request::Inspect { id: container_id }, Vec::new()).await? {
                container.hold(Held::from_message(handles, fds));
            }
        }
        *sandbox.shim.lock() = Some(shim);
        Ok(())
    }

    /// Whether a process of the pod is alive, so that its namespaces are worth keeping.
    fn pod_lives(&self, sandbox: &Sandbox) -> bool {
        let id = sandbox.record.lock().id.clone();
        let container_lives = self.containers_of(&id).iter().any(|c| {
            let live = c.live.lock();
            live.state.finished_at.is_none() && process::start_time(live.state.pid) == Some(live.state.pid_start_time)
        });
        container_lives
            || read_json::<crate::shim::ShimState>(&Layout(&sandbox.folder).shim_state())
                .is_ok_and(|s| s.init.is_some_and(|pid| process::start_time(pid).is_some()))
    }

    /// A container that ended while no shim was there to see it.
    pub(super) fn note_silent_exit(&self, sandbox: &Sandbox, container: &Container) {
        // Before the other lock: that is the order of the two everywhere.
        let cgroup = self.0.hierarchies.cgroup(&container.record.lock().cgroup);
        let state = {
            let live = container.live.lock();
            let state = &live.state;
            let alive = process::start_time(state.pid) == Some(state.pid_start_time);
            let ended = live.held.pidfd.as_ref().map_or(!alive, |fd| process::has_ended(fd.as_fd()));
            if state.finished_at.is_some() || !ended {
                return;
            }
            let exit = live.held.pidfd.as_ref().and_then(|fd| process::exit_of_stranger(fd.as_fd(), state.pid));
            // Nobody can tell any more how it ended: 137 and `Error` make the pod restart it.
            let exit_code = exit.map_or(128 + libc::SIGKILL, process::Exit::code);
            ContainerState { finished_at: Some(crate::shim::now()), exit_code: Some(exit_code), oom_killed: cgroup.oom_kills() > 0, ..state.clone() }
        };
        if let Err(error) = write_json(&Layout(&sandbox.folder).container_state(&state.id), &state) {
            tracing::warn!(container = state.id, %error, "state of a container");
        }
        let id = sandbox.record.lock().id.clone();
        self.note_exit(&id, state);
    }
}

/// A container that was being made when its agent died.
fn unknown_state(id: &str) -> ContainerState {
    ContainerState {
        id: id.to_owned(),
        pid: 0,
        pid_start_time: 0,
        identity: Default::default(),
        started_at: None,
        finished_at: None,
        exit_code: None,
        oom_killed: false,
        start_error: None,
        outputs: None,
    }
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed(folder.display()))?,
    };
    Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
}
