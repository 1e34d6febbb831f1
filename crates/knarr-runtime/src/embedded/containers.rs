//! Containers: made, started, stopped, removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::assemble::{self, Ingredients, Places};
use super::held::Held;
use super::records::{Container, ContainerRecord, Sandbox};
use super::sandboxes::{hostname_file, merge, remove_cgroup, shm_folder};
use super::{Embedded, failed, in_background, new_id};
use crate::container::seccomp;
use crate::cri::{ContainerConfig, ContainerState, Error, NamespaceMode, Resources, Result, RuntimeEvent, Seccomp};
use crate::image::digest::Digest;
use crate::image::manifest::Process;
use crate::image::store::write_json;
use crate::image::{ImageRecord, ImageStore};
use crate::shim::protocol::{self, Answer, Failure, Request};
use crate::shim::spec::{ContainerSpec, ImageMount, container_limits};

/// Nobody tells about the end of a container without a shim: how often we look, and for how long.
const ALONE_PAUSE: Duration = Duration::from_millis(5);
const ALONE_ATTEMPTS_MAX: u32 = 2000;

impl Embedded {
    pub(super) async fn make_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        let shim = sandbox.shim().await?;
        let id = new_id()?;
        let target = self.target_pid(config)?;
        let made = {
            let (runtime, sandbox, config, id) = (self.clone(), sandbox.clone(), config.clone(), id.clone());
            in_background(move || runtime.prepare(&sandbox, &config, &id, target)).await
        };
        let answer = match made {
            Ok(record) => shim.ask(Request::Create { id: id.clone() }, Vec::new()).await.map(|answer| (record, answer)),
            Err(error) => Err(error),
        };
        match answer {
            Ok((record, (Answer::Container { state, handles, warnings }, fds))) => {
                warnings.iter().for_each(|warning| tracing::warn!(container = id, "{warning}"));
                let container = Container::new(record, *state, Held::from_message(handles, fds));
                self.0.containers.write().insert(id.clone(), Arc::new(container));
                Ok(id)
            }
            Ok((_, (other, _))) => Err(Error::Failed(format!("unexpected answer of the shim: {other:?}"))),
            Err(error) => {
                self.clean_up(&sandbox, &id).await.unwrap_or_else(|error| tracing::warn!(container = id, %error, "cleaning up after a failed container"));
                Err(error)
            }
        }
    }

    /// The process whose pid namespace an ephemeral container joins.
    fn target_pid(&self, config: &ContainerConfig) -> Result<Option<i32>> {
        let Some(target) = &config.security.target_container else { return Ok(None) };
        let pid = self.container(target)?.status().pid;
        pid.map(Some).ok_or_else(|| Error::Failed(format!("container {target:?} is not running - cannot target its pid namespace")))
    }

    /// Folders and files of a new container.
    fn prepare(&self, sandbox: &Sandbox, config: &ContainerConfig, id: &str, target_pid: Option<i32>) -> Result<ContainerRecord> {
        let store = self.0.images.store();
        let _lock = store.lock_shared()?;
        let image = store.find(&config.image)?.ok_or_else(|| Error::NotFound(format!("image {:?}", config.image)))?;
        let process = store.config(&image)?;
        let folder = sandbox.layout().container(id);
        std::fs::create_dir_all(&folder).map_err(failed(folder.display()))?;
        let own = self.own_folder(id);
        let (images, other_layers) = image_mounts(store, config, &own)?;
        let layers: Vec<_> = image.layers.iter().chain(&other_layers).cloned().collect();
        store.lease(id, &layers, &folder)?;
        let sandbox_config = sandbox.record.lock().config.clone();
        let places = Places {
            layers: layer_folders(store, &image, &own)?,
            shm: if sandbox_config.ipc == NamespaceMode::Node { PathBuf::from("/dev/shm") } else { shm_folder(sandbox) },
            hostname: Some(hostname_file(sandbox)),
            own,
        };
        let seccomp = self.seccomp(config)?;
        let volumes = image_volumes(&process, config, &places.own)?;
        let spec =
            assemble::container_spec(Ingredients { id, config, sandbox: &sandbox_config, image: &process, places, images, volumes, seccomp, target_pid })?;
        make_own_layer(&spec)?;
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox_id: sandbox.record.lock().id.clone(),
            config: config.clone(),
            created_at: crate::shim::now(),
            log: spec.log.clone(),
            stop_signal: assemble::stop_signal(config, &process)?,
            cgroup: spec.cgroup.clone(),
        };
        write_json(&sandbox.layout().container_spec(id), &spec).map_err(failed("spec.json"))?;
        write_json(&folder.join("record.json"), &record).map_err(failed("record.json"))?;
        Ok(record)
    }

    /// A privileged container is unconfined, whatever else it says.
    fn seccomp(&self, config: &ContainerConfig) -> Result<Option<Vec<crate::shim::spec::PackedInstruction>>> {
        let security = &config.security;
        if security.privileged {
            return Ok(None);
        }
        if matches!(&security.seccomp, Seccomp::Localhost(path) if path.as_os_str().is_empty()) {
            return Err(Error::Failed("localhost seccomp profile has no name".to_owned()));
        }
        let capabilities = crate::container::capabilities::granted(false, &security.add_capabilities, &security.drop_capabilities)?;
        let program = seccomp::program(&security.seccomp, capabilities)?;
        Ok(program.map(|p| p.iter().map(|&i| i.into()).collect()))
    }

    fn own_folder(&self, id: &str) -> PathBuf {
        self.0.root.join("containers").join(id)
    }

    pub(super) async fn start(&self, id: &str) -> Result<()> {
        let (container, shim) = self.container_and_shim(id).await?;
        match shim.try_ask(Request::Start { id: id.to_owned() }, Vec::new()).await? {
            Ok((Answer::Container { state, .. }, _)) => {
                container.update(*state);
                let sandbox_id = container.record.lock().sandbox_id.clone();
                self.announce(RuntimeEvent::ContainerStarted { sandbox_id, container_id: id.to_owned() });
                Ok(())
            }
            Ok((other, _)) => Err(Error::Failed(format!("unexpected answer of the shim: {other:?}"))),
            Err(failure) => {
                if matches!(failure, Failure::Program(_)) {
                    // The shim has told of its end already; whoever looks now is to see it.
                    container.ended().await;
                }
                Err(failure.into())
            }
        }
    }

    /// What a shim says about an exit.
    pub(super) fn note_exit(&self, sandbox: &str, state: protocol::ContainerState) {
        let Ok(container) = self.container(&state.id) else { return };
        let container_id = state.id.clone();
        container.update(state);
        self.announce(RuntimeEvent::ContainerExited { sandbox_id: sandbox.to_owned(), container_id });
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let container = self.container(id)?;
        if container.status().state != ContainerState::Running {
            return Ok(());
        }
        let Ok((_, shim)) = self.container_and_shim(id).await else { return self.stop_alone(&container).await };
        if !grace.is_zero() {
            let signal = container.record.lock().stop_signal;
            shim.ask(Request::Signal { id: id.to_owned(), signal, all: false }, Vec::new()).await?;
            if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        shim.ask(Request::Signal { id: id.to_owned(), signal: libc::SIGKILL, all: true }, Vec::new()).await?;
        container.ended().await;
        Ok(())
    }

    /// Ends a container that has lost its shim and got no new one.
    pub(super) async fn stop_alone(&self, container: &Arc<Container>) -> Result<()> {
        let cgroup = self.0.hierarchies.cgroup(&container.record.lock().cgroup);
        in_background(move || cgroup.kill().map_err(failed("killing"))).await?;
        let sandbox = self.sandbox(&container.record.lock().sandbox_id)?;
        for _ in 0..ALONE_ATTEMPTS_MAX {
            self.note_silent_exit(&sandbox, container);
            if container.status().state == ContainerState::Exited {
                return Ok(());
            }
            tokio::time::sleep(ALONE_PAUSE).await;
        }
        Err(Error::Timeout(format!("container {} does not end", container.record.lock().id)))
    }

    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let sandbox = self.sandbox(&container.record.lock().sandbox_id)?;
        let shim = sandbox.shim.lock().clone();
        if let Some(shim) = shim {
            match shim.ask(Request::Remove { id: id.to_owned() }, Vec::new()).await {
                // One that a new shim could not take up is gone already.
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let cgroup = self.0.hierarchies.cgroup(&container.record.lock().cgroup);
        remove_cgroup(cgroup).await?;
        self.clean_up(&sandbox, id).await?;
        self.0.containers.write().remove(id);
        Ok(())
    }

    /// Removes a container's files.
    async fn clean_up(&self, sandbox: &Arc<Sandbox>, id: &str) -> Result<()> {
        let (folder, own, store, id) = (sandbox.layout().container(id), self.own_folder(id), self.0.images.store().clone(), id.to_owned());
        in_background(move || {
            remove_folder(&own)?;
            remove_folder(&folder)?;
            Ok(store.release(&id)?)
        })
        .await
    }

    pub(super) async fn update_container(&self, id: &str, resources: &Resources) -> Result<()> {
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.record.lock().sandbox_id)?;
        let (cgroup, resources) = (self.0.hierarchies.cgroup(&container.record.lock().cgroup), resources.clone());
        let folder = sandbox.layout().container(id);
        in_background(move || {
            cgroup.apply(&container_limits(&resources)).map_err(failed("updating limits"))?;
            let mut record = container.record.lock();
            merge(&mut record.config.resources, &resources);
            write_json(&folder.join("record.json"), &*record).map_err(failed("record.json"))
        })
        .await
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<()> {
        let (_, shim) = self.container_and_shim(id).await?;
        shim.ask(Request::ReopenLog { id: id.to_owned() }, Vec::new()).await.map(drop)
    }
}

/// Topmost first. overlayfs wants at least one: an image without layers gets an empty one.
fn layer_folders(store: &ImageStore, image: &ImageRecord, own: &Path) -> Result<Vec<PathBuf>> {
    if image.layers.is_empty() {
        let empty = own.join("empty");
        std::fs::create_dir_all(&empty).map_err(failed(empty.display()))?;
        return Ok(vec![empty]);
    }
    Ok(image.layers.iter().rev().map(|id| store.layer_path(id)).collect())
}

/// What the pod mounts of other images, and the layers that this takes.
fn image_mounts(store: &ImageStore, config: &ContainerConfig, own: &Path) -> Result<(Vec<ImageMount>, Vec<Digest>)> {
    let (mut mounts, mut used) = (Vec::new(), Vec::new());
    for mount in &config.mounts {
        let Some(id) = &mount.image else { continue };
        let image = store.find(id)?.ok_or_else(|| Error::NotFound(format!("image {id:?}")))?;
        let layers = layer_folders(store, &image, own)?;
        mounts.push(ImageMount { layers, sub_path: PathBuf::from(&mount.image_sub_path), target: mount.container_path.clone() });
        used.extend(image.layers);
    }
    Ok((mounts, used))
}

/// A folder of the host for each volume that the image declares and the pod does not mount something on.
fn image_volumes(image: &Process, config: &ContainerConfig, own: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let wanted = image.volumes.keys().map(|path| Path::new("/").join(path)).filter(|path| !config.mounts.iter().any(|m| m.container_path == *path));
    wanted
        .enumerate()
        .map(|(at, path)| {
            let folder = own.join("volumes").join(at.to_string());
            std::fs::create_dir_all(&folder).map_err(failed(folder.display()))?;
            Ok((path, folder))
        })
        .collect()
}

/// The upper folder becomes the container's root: it has the mode and the owner that the image gives its root.
fn make_own_layer(spec: &ContainerSpec) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    for folder in [&spec.upper, &spec.work] {
        std::fs::create_dir_all(folder).map_err(failed(folder.display()))?;
    }
    let model = spec.layers[0].metadata().map_err(failed(spec.layers[0].display()))?;
    std::fs::set_permissions(&spec.upper, std::fs::Permissions::from_mode(model.mode() & 0o7777)).map_err(failed("upper"))?;
    std::os::unix::fs::chown(&spec.upper, Some(model.uid()), Some(model.gid())).map_err(failed("upper"))
}

fn remove_folder(folder: &Path) -> Result<()> {
    knarr_sys::tree::remove(folder).map_err(failed(folder.display()))
}
