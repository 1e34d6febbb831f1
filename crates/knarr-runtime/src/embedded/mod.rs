//! The embedded runtime: [`Runtime`] with nothing but the kernel, a content store and shims.
//!
//! ```text
//! ROOT/images/                      content store (may be shared by several agents)
//! ROOT/containers/ID/{upper,work}   what a container has written
//! RUN/netns/SANDBOX                 pinned network namespace
//! RUN/sandboxes/SANDBOX/            sandbox.json, shm, hostname, the shim's socket and state
//!     containers/CONTAINER/         record.json, spec.json, state.json
//! ```
//! A new agent finds everything again from RUN: containers never notice that their agent was replaced.

mod adopt;
mod assemble;
mod connection;
mod containers;
mod held;
mod pipes;
mod records;
mod sandboxes;
mod spawner;
mod stats;
mod streams;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use knarr_sys::cgroup::Hierarchies;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc};

pub use spawner::ShimProgram;

use crate::cri::{self, Auth, ContainerConfig, Error, ExecOutput, Image, Resources, Result, Runtime, RuntimeEvent, SandboxConfig, Streams};
use crate::image::registry::{Direct, Endpoints};
use crate::image::{ImageError, Images};
use connection::Event;
use records::{Container, Sandbox};
use spawner::Spawner;

/// Events that wait for a listener who is slow; one who falls behind is told so and lists again.
const EVENTS_MAX: usize = 4096;

/// How long a new agent waits for the old one to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Where things lie and how they are started.
pub struct EmbeddedConfig {
    /// What outlives a reboot: images, and the containers' own layers. On a filesystem that overlayfs takes as an upper layer.
    pub root: PathBuf,
    /// What does not: best on a tmpfs.
    pub run: PathBuf,
    /// The content store, when it is not `root/images`: agents on one machine may share one.
    pub images: Option<PathBuf>,
    pub shim: ShimProgram,
    /// Where registries are found.
    pub endpoints: Box<dyn Endpoints>,
    /// The network namespace that registries are reached from; absent: that of the process.
    pub registry_network: Option<Arc<knarr_sys::netlink::NetNs>>,
}

impl EmbeddedConfig {
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), run: run.into(), images: None, shim: ShimProgram::default(), endpoints: Box::new(Direct), registry_network: None }
    }
}

/// The embedded runtime. Clones are the same runtime.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    root: PathBuf,
    run: PathBuf,
    images: Images,
    hierarchies: Hierarchies,
    spawner: Spawner,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: broadcast::Sender<RuntimeEvent>,
    /// What shims tell.
    told: mpsc::UnboundedSender<Event>,
    _lock: Flock<std::fs::File>,
}

impl Embedded {
    /// Opens the runtime and takes up what an earlier agent has left running. Only one can have a `run` folder open.
    pub async fn open(config: EmbeddedConfig) -> Result<Self> {
        let images = config.images.clone().unwrap_or_else(|| config.root.join("images"));
        make_private_folders(&[&config.root.join("containers"), &config.run.join("netns"), &config.run.join("sandboxes")])?;
        let lock = lock(&config.run).await?;
        let hierarchies = Hierarchies::detect().map_err(|e| Error::Failed(format!("cgroups: {e}")))?;
        let (told, hear) = mpsc::unbounded_channel();
        let runtime = Self(Arc::new(Inner {
            images: Images::open(&images, config.endpoints, config.registry_network).await?,
            hierarchies,
            spawner: Spawner::new(config.shim, config.run.join("shim.log")),
            root: config.root,
            run: config.run,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
            told,
            _lock: lock,
        }));
        runtime.adopt_all().await?;
        tokio::spawn(listen(Arc::downgrade(&runtime.0), hear));
        if let Err(error) = runtime.0.images.tidy().await {
            tracing::warn!(%error, "image layers that nobody uses are left");
        }
        Ok(runtime)
    }

    /// The images, for what the runtime's interface does not have.
    pub fn images(&self) -> &Images {
        &self.0.images
    }

    /// Loads images from a tarball (`docker save` or OCI layout); gives their names.
    pub async fn load_images(&self, archive: &Path) -> Result<Vec<String>> {
        Ok(self.0.images.load(archive).await?)
    }

    async fn hear(&self, event: Event) {
        match event {
            Event::Exited { sandbox, state } => self.note_exit(&sandbox, *state),
            Event::Gone { sandbox } => self.replace_shim(&sandbox).await,
        }
    }

    fn announce(&self, event: RuntimeEvent) {
        // Nobody listening is fine: whoever comes later lists.
        drop(self.0.events.send(event));
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.0.sandboxes.read().get(id).cloned().ok_or_else(|| Error::NotFound(format!("sandbox {id:?}")))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.0.containers.read().get(id).cloned().ok_or_else(|| Error::NotFound(format!("container {id:?}")))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.0.containers.read().values().filter(|c| c.record.lock().sandbox_id == sandbox).cloned().collect()
    }

    /// A container, and the shim that holds it.
    async fn container_and_shim(&self, id: &str) -> Result<(Arc<Container>, connection::ShimConnection)> {
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.record.lock().sandbox_id)?;
        let shim = sandbox.shim().await?;
        Ok((container, shim))
    }
}

/// Two agents would take each other's containers for left-overs. One that is about to end is waited for.
async fn lock(run: &Path) -> Result<Flock<std::fs::File>> {
    let path = run.join("agent.lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(path.display()))?;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Not on tokio's threads: a program that gives up must be able to end.
    let wait = move || drop(sender.send(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)));
    std::thread::Builder::new().name("agent lock".to_owned()).spawn(wait).map_err(failed("thread"))?;
    match tokio::time::timeout(LOCK_PATIENCE, receiver).await {
        Ok(Ok(Ok(lock))) => Ok(lock),
        _ => Err(Error::Failed(format!("another agent runs on {}", run.display()))),
    }
}

/// Hears what shims tell, as long as the runtime is there.
async fn listen(runtime: std::sync::Weak<Inner>, mut hear: mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = hear.recv().await {
        match runtime.upgrade() {
            Some(inner) => Embedded(inner).hear(event).await,
            None => return,
        }
    }
}

/// Nobody but root looks into these: sockets of shims lie in them.
fn make_private_folders(folders: &[&PathBuf]) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    for folder in folders {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| Error::Failed(format!("{}: {e}", folder.display())))?;
    }
    Ok(())
}

/// Runs file work where it may take its time.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
}

/// For `map_err`: says what was being done.
fn failed(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::Failed(format!("{what}: {error}"))
}

/// An id as containerd makes them: 64 random hexadecimal digits.
fn new_id() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).map_err(failed("/dev/urandom"))?;
    Ok(knarr_core::hex::encode(bytes))
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Self::Image(error.to_string())
    }
}

#[async_trait]
impl Runtime for Embedded {
    fn version(&self) -> String {
        concat!("knarr://", env!("CARGO_PKG_VERSION")).to_owned()
    }

    async fn run_pod_sandbox(&self, config: &SandboxConfig) -> Result<cri::SandboxStatus> {
        self.make_sandbox(config).await
    }

    async fn set_sandbox_ips(&self, id: &str, ips: Vec<String>) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        sandbox.record.lock().ips = ips;
        in_background(move || sandbox.save().map_err(failed("sandbox.json"))).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.remove_sandbox(id).await
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<cri::SandboxStatus>> {
        Ok(self.0.sandboxes.read().values().map(|s| s.status()).collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        self.make_container(sandbox_id, config).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.start(id).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.stop(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.remove(id).await
    }

    async fn list_containers(&self) -> Result<Vec<cri::ContainerStatus>> {
        Ok(self.0.containers.read().values().map(|c| c.status()).collect())
    }

    async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        Ok(self.container(id)?.status())
    }

    async fn update_container_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        self.update_container(id, resources).await
    }

    async fn update_sandbox_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        self.update_sandbox(id, resources).await
    }

    async fn container_stats(&self, id: &str) -> Result<cri::ContainerStats> {
        self.stats(id).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.reopen_log(id).await
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        self.run_exec_sync(id, command, timeout).await
    }

    async fn exec(&self, id: &str, command: &[String], streams: Streams) -> Result<i32> {
        self.run_exec(id, command, streams).await
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<()> {
        self.run_attach(id, streams).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream> {
        self.connect_inside(sandbox_id, port).await
    }

    async fn pull_image(&self, reference: &str, auth: Option<&Auth>) -> Result<String> {
        Ok(self.0.images.pull(reference, auth).await?)
    }

    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.0.images.status(reference).await?)
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.0.images.list().await?)
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        Ok(self.0.images.remove(reference).await?)
    }

    async fn image_fs(&self) -> Result<(PathBuf, u64, u64)> {
        Ok(self.0.images.usage().await?)
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.0.events.subscribe()
    }
}
