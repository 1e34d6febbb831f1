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
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc};

pub use spawner::ShimProgram;

use crate::cri::{self, Auth, ContainerConfig, Error, ExecOutput, Image, Resources, Result, Runtime, RuntimeEvent, SandboxConfig, Streams};
use crate::image::pull::blocking;
use crate::image::registry::{Direct, Endpoints};
use crate::image::{ImageError, ImageRecord, ImageStore, Puller};
use connection::Event;
use records::{Container, Sandbox};
use spawner::Spawner;

/// Events that wait for a listener who is slow; one who falls behind is told so and lists again.
const EVENTS_MAX: usize = 4096;

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
    store: Arc<ImageStore>,
    puller: Puller,
    hierarchies: Hierarchies,
    spawner: Spawner,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: broadcast::Sender<RuntimeEvent>,
    /// What shims tell.
    told: mpsc::UnboundedSender<Event>,
}

impl Embedded {
    /// Opens the runtime and takes up what an earlier agent has left running.
    pub async fn open(config: EmbeddedConfig) -> Result<Self> {
        let images = config.images.clone().unwrap_or_else(|| config.root.join("images"));
        make_private_folders(&[&config.root.join("containers"), &config.run.join("netns"), &config.run.join("sandboxes")])?;
        let store = Arc::new(blocking(move || ImageStore::open(&images)).await?);
        let hierarchies = Hierarchies::detect().map_err(|e| Error::Failed(format!("cgroups: {e}")))?;
        let (told, mut hear) = mpsc::unbounded_channel();
        let puller = Puller::with_endpoints(store.clone(), config.endpoints);
        let runtime = Self(Arc::new(Inner {
            puller: match config.registry_network {
                Some(network) => puller.within(network),
                None => puller,
            },
            store,
            hierarchies,
            spawner: Spawner::new(config.shim, config.run.join("shim.log")),
            root: config.root,
            run: config.run,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
            told,
        }));
        runtime.adopt_all().await?;
        let listener = runtime.clone();
        tokio::spawn(async move {
            while let Some(event) = hear.recv().await {
                listener.hear(event).await;
            }
        });
        Ok(runtime)
    }

    /// The content store, for loading archives and the like.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.0.store
    }

    /// Loads images from a tarball (`docker save` or OCI layout); gives their names.
    pub async fn load_images(&self, archive: &Path) -> Result<Vec<String>> {
        let (store, archive) = (self.0.store.clone(), archive.to_owned());
        Ok(blocking(move || crate::image::archive::load(&store, &archive)).await?)
    }

    /// Lets everything go without a word, as an agent does that is killed. What runs goes on.
    pub fn abandon(self) {
        for sandbox in self.0.sandboxes.write().drain().map(|(_, s)| s) {
            if let Some(shim) = sandbox.shim.lock().take() {
                shim.close();
            }
        }
        self.0.containers.write().clear();
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
    fn container_and_shim(&self, id: &str) -> Result<(Arc<Container>, connection::ShimConnection)> {
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.record.lock().sandbox_id)?;
        Ok((container, sandbox.shim()?))
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
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Self::Image(error.to_string())
    }
}

fn image(store: &ImageStore, record: &ImageRecord) -> Result<Image> {
    let user = store.config(record)?.user;
    let name = user.split(':').next().unwrap_or_default();
    let uid = name.parse().ok();
    Ok(Image {
        id: record.id.to_string(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        uid: uid.or(name.is_empty().then_some(0)),
        username: if uid.is_some() { String::new() } else { name.to_owned() },
        pinned: record.pinned,
    })
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
        Ok(self.0.puller.pull(reference, auth).await?.to_string())
    }

    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        let (store, reference) = (self.0.store.clone(), reference.to_owned());
        in_background(move || store.find(&reference)?.map(|record| image(&store, &record)).transpose()).await
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let store = self.0.store.clone();
        in_background(move || store.images()?.values().map(|record| image(&store, record)).collect()).await
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let (store, reference) = (self.0.store.clone(), reference.to_owned());
        Ok(blocking(move || store.remove_image(&reference).and_then(|()| store.collect())).await?)
    }

    async fn image_fs(&self) -> Result<(PathBuf, u64, u64)> {
        let store = self.0.store.clone();
        Ok(blocking(move || store.usage().map(|(bytes, inodes)| (store.root().to_owned(), bytes, inodes))).await?)
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.0.events.subscribe()
    }
}
