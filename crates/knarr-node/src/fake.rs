//! A runtime without containers: state in memory, programs that do what a test says. It also carries simulated nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use knarr_core::clock::Env;
use knarr_runtime::cri::{
    Auth, ContainerConfig, ContainerState, ContainerStats, ContainerStatus, Error, ExecOutput, Image, Resources, Result, Runtime, RuntimeEvent, SandboxConfig,
    SandboxState, SandboxStatus, Streams,
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;

/// Events that a slow listener may be behind before it has to list again.
const EVENTS_BEHIND_MAX: usize = 4096;

/// What a container's program does. The default is to run until it is told to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Program {
    #[default]
    Runs,
    Exits {
        after: Duration,
        code: i32,
    },
    /// Hears no stop signal: only the end of the grace period ends it.
    IgnoresStop,
    /// Cannot be started, with this text.
    CannotRun(String),
}

type ExecScript = dyn Fn(&str, &[String]) -> Result<ExecOutput> + Send + Sync;

#[derive(Default)]
struct State {
    serial: u64,
    sandboxes: BTreeMap<String, SandboxStatus>,
    containers: BTreeMap<String, ContainerStatus>,
    images: BTreeMap<String, Image>,
    refused_pulls: BTreeMap<String, String>,
    programs: BTreeMap<String, Program>,
    calls: Vec<String>,
    configs: BTreeMap<String, ContainerConfig>,
}

pub struct FakeRuntime {
    env: Env,
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
    exec: Mutex<Arc<ExecScript>>,
    pull_time: Mutex<Duration>,
}

impl FakeRuntime {
    pub fn new(env: Env) -> Arc<Self> {
        Arc::new(Self {
            env,
            state: Mutex::default(),
            events: broadcast::channel(EVENTS_BEHIND_MAX).0,
            exec: Mutex::new(Arc::new(|_, _| Ok(ExecOutput { stdout: Vec::new(), stderr: Vec::new(), exit_code: 0 }))),
            pull_time: Mutex::default(),
        })
    }

    /// What the next runs of a container of this name do.
    pub fn program(&self, container: &str, program: Program) {
        self.state.lock().programs.insert(container.into(), program);
    }

    pub fn add_image(&self, reference: &str) -> String {
        let id = format!("sha256:{reference}");
        let digest = format!("{}@sha256:0", reference.split(':').next().unwrap_or(reference));
        let image = Image {
            id: id.clone(),
            repo_tags: vec![reference.into()],
            repo_digests: vec![digest],
            size: 1000,
            uid: None,
            username: String::new(),
            pinned: false,
        };
        self.state.lock().images.insert(reference.into(), image);
        id
    }

    /// Lets pulls of this image fail.
    pub fn refuse_pull(&self, reference: &str, message: &str) {
        self.state.lock().refused_pulls.insert(reference.into(), message.into());
    }

    pub fn allow_pull(&self, reference: &str) {
        self.state.lock().refused_pulls.remove(reference);
    }

    pub fn pulls_take(&self, time: Duration) {
        *self.pull_time.lock() = time;
    }

    /// What `exec_sync` answers: container name and command in, output out.
    pub fn on_exec(&self, script: impl Fn(&str, &[String]) -> Result<ExecOutput> + Send + Sync + 'static) {
        *self.exec.lock() = Arc::new(script);
    }

    /// Everything that changed something, in order: `create a`, `start a`, `stop a 30s`, …
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// The config of the newest run of a container.
    pub fn config(&self, container: &str) -> Option<ContainerConfig> {
        self.state.lock().configs.get(container).cloned()
    }

    /// Ends the running container of that name.
    pub fn exit(&self, container: &str, code: i32) {
        let id = self.state.lock().containers.values().find(|c| c.name == container && c.state == ContainerState::Running).map(|c| c.id.clone());
        if let Some(id) = id {
            self.end(&id, code);
        }
    }

    /// Loses a sandbox and everything in it, as a reboot does.
    pub fn lose_sandboxes(&self) {
        let running: Vec<String> = {
            let mut state = self.state.lock();
            state.sandboxes.values_mut().for_each(|s| s.state = SandboxState::NotReady);
            state.containers.values().filter(|c| c.state == ContainerState::Running).map(|c| c.id.clone()).collect()
        };
        running.iter().for_each(|id| self.end(id, 137));
        let gone: Vec<String> = self.state.lock().sandboxes.keys().cloned().collect();
        gone.into_iter().for_each(|sandbox_id| drop(self.events.send(RuntimeEvent::SandboxGone { sandbox_id })));
    }

    fn end(&self, id: &str, code: i32) {
        let event = {
            let now = self.env.now();
            let mut state = self.state.lock();
            let Some(c) = state.containers.get_mut(id).filter(|c| c.state == ContainerState::Running) else { return };
            c.state = ContainerState::Exited;
            c.exit_code = Some(code);
            c.reason = if code == 0 { "Completed" } else { "Error" }.into();
            c.finished_at = Some(now);
            RuntimeEvent::ContainerExited { sandbox_id: c.sandbox_id.clone(), container_id: id.into() }
        };
        // Nobody listening is no failure: the next list tells it all.
        drop(self.events.send(event));
    }

    fn note(&self, call: String) {
        self.state.lock().calls.push(call);
    }

    fn name_of(&self, id: &str) -> Result<String> {
        self.state.lock().containers.get(id).map(|c| c.name.clone()).ok_or_else(|| Error::NotFound(format!("container {id}")))
    }

    fn is_running(&self, id: &str) -> bool {
        self.state.lock().containers.get(id).is_some_and(|c| c.state == ContainerState::Running)
    }

    async fn until_ended(&self, id: &str) {
        let mut events = self.events();
        while self.is_running(id) {
            if matches!(events.recv().await, Err(broadcast::error::RecvError::Closed)) {
                return;
            }
        }
    }
}

/// Each run of a fake program that exits by itself has a task that ends it.
fn play(runtime: &Arc<FakeRuntime>, id: String, after: Duration, code: i32) {
    let runtime = Arc::downgrade(runtime);
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        if let Some(runtime) = runtime.upgrade() {
            runtime.end(&id, code);
        }
    });
}

/// The runtime as the agent gets it: the trait needs `Arc<Self>` to start tasks.
pub struct Handle(pub Arc<FakeRuntime>);

#[async_trait]
impl Runtime for Handle {
    fn version(&self) -> String {
        "knarr://0.1.0".into()
    }

    async fn run_pod_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus> {
        let now = self.0.env.now();
        let mut state = self.0.state.lock();
        state.serial += 1;
        let id = format!("sandbox-{}", state.serial);
        let sandbox = SandboxStatus {
            id: id.clone(),
            uid: config.uid.clone(),
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            attempt: config.attempt,
            state: SandboxState::Ready,
            created_at: now,
            netns: (config.network == knarr_runtime::cri::NamespaceMode::Pod).then(|| PathBuf::from(format!("/run/netns/{id}"))),
            ips: Vec::new(),
        };
        state.sandboxes.insert(id, sandbox.clone());
        state.calls.push(format!("sandbox {}", config.name));
        Ok(sandbox)
    }

    async fn set_sandbox_ips(&self, id: &str, ips: Vec<String>) -> Result<()> {
        let mut state = self.0.state.lock();
        state.sandboxes.get_mut(id).ok_or_else(|| Error::NotFound(id.into()))?.ips = ips;
        Ok(())
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let inside: Vec<String> = {
            let mut state = self.0.state.lock();
            state.calls.push("stop sandbox".into());
            state.sandboxes.get_mut(id).ok_or_else(|| Error::NotFound(id.into()))?.state = SandboxState::NotReady;
            state.containers.values().filter(|c| c.sandbox_id == id).map(|c| c.id.clone()).collect()
        };
        inside.iter().for_each(|c| self.0.end(c, 137));
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.0.state.lock();
        state.calls.push("remove sandbox".into());
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.sandbox_id != id);
        Ok(())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.0.state.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let now = self.0.env.now();
        let mut state = self.0.state.lock();
        if !state.sandboxes.contains_key(sandbox_id) {
            return Err(Error::NotFound(format!("sandbox {sandbox_id}")));
        }
        state.serial += 1;
        let id = format!("container-{}", state.serial);
        let status = ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox_id.into(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            pid: None,
            created_at: now,
            started_at: None,
            finished_at: None,
            exit_code: None,
            reason: String::new(),
            message: String::new(),
            image: config.image.clone(),
            image_reference: config.image_reference.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: config.log_path.clone(),
            mounts: config.mounts.clone(),
            user: None,
            resources: config.resources.clone(),
        };
        state.containers.insert(id.clone(), status);
        state.calls.push(format!("create {}", config.name));
        state.configs.insert(config.name.clone(), config.clone());
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let name = self.0.name_of(id)?;
        let program = self.0.state.lock().programs.get(&name).cloned().unwrap_or_default();
        let sandbox_id = {
            let now = self.0.env.now();
            let mut state = self.0.state.lock();
            state.calls.push(format!("start {name}"));
            let Some(c) = state.containers.get_mut(id) else { return Err(Error::NotFound(id.into())) };
            if let Program::CannotRun(message) = &program {
                c.state = ContainerState::Exited;
                (c.exit_code, c.reason, c.message, c.finished_at) = (Some(128), "StartError".into(), message.clone(), Some(now));
                return Err(Error::Failed(message.clone()));
            }
            c.state = ContainerState::Running;
            c.pid = Some(1);
            c.started_at = Some(now);
            c.sandbox_id.clone()
        };
        drop(self.0.events.send(RuntimeEvent::ContainerStarted { sandbox_id, container_id: id.into() }));
        if let Program::Exits { after, code } = program {
            if after.is_zero() {
                self.0.end(id, code);
            } else {
                play(&self.0, id.into(), after, code);
            }
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let name = self.0.name_of(id)?;
        self.0.note(format!("stop {name} {}s", grace.as_secs()));
        let deaf = self.0.state.lock().programs.get(&name) == Some(&Program::IgnoresStop);
        if deaf {
            tokio::select! {
                () = tokio::time::sleep(grace) => {}
                () = self.0.until_ended(id) => {}
            }
        }
        self.0.end(id, if deaf { 137 } else { 143 });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut state = self.0.state.lock();
        if let Some(c) = state.containers.remove(id) {
            state.calls.push(format!("remove {}", c.name));
        }
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.0.state.lock().containers.values().cloned().collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.0.state.lock().containers.get(id).cloned().ok_or_else(|| Error::NotFound(format!("container {id}")))
    }

    async fn update_container_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let mut state = self.0.state.lock();
        let Some(c) = state.containers.get_mut(id) else { return Err(Error::NotFound(id.into())) };
        c.resources = resources.clone();
        let call = format!("update {}", c.name);
        state.calls.push(call);
        Ok(())
    }

    async fn update_sandbox_resources(&self, _id: &str, _resources: &Resources) -> Result<()> {
        self.0.note("update sandbox".into());
        Ok(())
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        self.0.name_of(id)?;
        Ok(ContainerStats {
            id: id.into(),
            at: self.0.env.now(),
            cpu_usage_nanos: 1_000_000,
            memory_usage_bytes: 1 << 20,
            memory_working_set_bytes: 1 << 20,
            memory_rss_bytes: 1 << 19,
            writable_layer_bytes: 4096,
            process_count: 1,
        })
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let name = self.0.name_of(id)?;
        self.0.note(format!("reopen log {name}"));
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: &[String], _timeout: Duration) -> Result<ExecOutput> {
        let name = self.0.name_of(id)?;
        let script = self.0.exec.lock().clone();
        script(&name, command)
    }

    /// Echoes what it reads, then exits with 0; `exit N` as the command exits with N.
    async fn exec(&self, id: &str, command: &[String], mut streams: Streams) -> Result<i32> {
        self.0.name_of(id)?;
        let failed = |e: std::io::Error| Error::Failed(e.to_string());
        if let (Some(stdin), Some(stdout)) = (streams.stdin.as_mut(), streams.stdout.as_mut()) {
            tokio::io::copy(stdin, stdout).await.map_err(failed)?;
        } else if let Some(stdout) = streams.stdout.as_mut() {
            stdout.write_all(format!("{}\n", command.join(" ")).as_bytes()).await.map_err(failed)?;
        }
        if let Some(stdout) = streams.stdout.as_mut() {
            stdout.shutdown().await.map_err(failed)?;
        }
        Ok(match command {
            [word, code] if word == "exit" => code.parse().unwrap_or(1),
            _ => 0,
        })
    }

    async fn attach(&self, id: &str, mut streams: Streams) -> Result<()> {
        self.0.name_of(id)?;
        let mut input = Vec::new();
        if let Some(stdin) = streams.stdin.as_mut() {
            stdin.read_to_end(&mut input).await.map_err(|e| Error::Failed(e.to_string()))?;
        }
        if let Some(stdout) = streams.stdout.as_mut() {
            stdout.write_all(&input).await.map_err(|e| Error::Failed(e.to_string()))?;
        }
        Ok(())
    }

    async fn port_forward(&self, _sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream> {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| Error::Failed(e.to_string()))
    }

    async fn pull_image(&self, reference: &str, _auth: Option<&Auth>) -> Result<String> {
        let time = *self.0.pull_time.lock();
        tokio::time::sleep(time).await;
        self.0.note(format!("pull {reference}"));
        let refused = self.0.state.lock().refused_pulls.get(reference).cloned();
        match refused {
            Some(message) => Err(Error::Image(message)),
            None => Ok(self.0.add_image(reference)),
        }
    }

    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        let state = self.0.state.lock();
        Ok(state.images.get(reference).or_else(|| state.images.values().find(|i| i.id == reference)).cloned())
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.0.state.lock().images.values().cloned().collect())
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        self.0.note(format!("remove image {reference}"));
        self.0.state.lock().images.retain(|name, i| name != reference && i.id != reference);
        Ok(())
    }

    async fn image_fs(&self) -> Result<(PathBuf, u64, u64)> {
        Ok((PathBuf::from("/"), 1000, 10))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.0.events()
    }
}

impl FakeRuntime {
    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}
