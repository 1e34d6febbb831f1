//! Starting containers: image, configuration, creation, start, postStart hook; one after the other in the order of the plan,
//! while the images of those to come are looked up and pulled meanwhile (upstream: `kuberuntime_container.go:startContainer`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use super::decide::KillReason;
use super::kill::{Killing, grace_period};
use super::spec::{PodExt, Role, ephemeral_containers, find_container};
use crate::container::config::{Making, container_config, pod_log_dir};
use crate::context::Context;
use crate::events::{Level, container_reference};
use crate::images::{self, Ready};
use crate::lifecycle;
use crate::logs::links;
use crate::volumes::MountedVolumes;

/// Why a container did not start: reason and message of its waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// When to try again, where that is known.
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), retry_at: None }
    }
}

/// What a pass tells while it goes on.
#[derive(Debug)]
pub enum Progress {
    /// The runtime has a new state of this container.
    Changed(String),
    /// This container has been started, hook included, or not.
    Settled(String, Result<(), Failure>),
    Over,
}

/// One container to start.
pub struct Item {
    pub role: Role,
    pub name: String,
    /// Number of this run.
    pub attempt: u32,
    /// The running container whose processes an ephemeral container wants to see, by name to id.
    pub target: Option<String>,
}

/// All that one round of starting needs.
pub struct Pass {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub sandbox_id: String,
    pub ips: Vec<String>,
    pub volumes: Arc<MountedVolumes>,
    pub items: Vec<Item>,
}

type Image = tokio::task::JoinHandle<Result<Ready, images::Missing>>;

/// Ends the lookup of an image with the pass that wanted it.
struct Lookup(Image);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pass {
    /// Starts all items. A failed init container ends the pass: what comes after it has to wait.
    pub async fn run(self, tell: mpsc::UnboundedSender<Progress>) {
        let mut lookups: Vec<(Container, &Item, Lookup)> = Vec::new();
        for item in &self.items {
            let Some((container, _)) = find_container(self.pod.spec(), &item.name) else { continue };
            let (context, pod, wanted) = (self.context.clone(), self.pod.clone(), container.clone());
            let lookup = tokio::spawn(async move { images::ensure(&context, &pod, &wanted).await });
            lookups.push((container, item, Lookup(lookup)));
        }
        for (container, item, lookup) in lookups {
            let result = self.start(&container, item, lookup, &tell).await;
            let failed = result.is_err();
            if tell.send(Progress::Settled(item.name.clone(), result)).is_err() || (failed && item.role == Role::Init) {
                break;
            }
        }
        // Nobody listens any more when the pod is gone.
        drop(tell.send(Progress::Over));
    }

    fn event(&self, container: &Container, level: Level, reason: &str, message: &str) {
        self.context.events.record(container_reference(&self.pod, &container.name), level, reason, message);
    }

    async fn start(&self, container: &Container, item: &Item, mut lookup: Lookup, tell: &mpsc::UnboundedSender<Progress>) -> Result<(), Failure> {
        let failed = |reason: &str, message: String| {
            self.event(container, Level::Warning, "Failed", &format!("Error: {message}"));
            Failure::new(reason, message)
        };
        let image = match (&mut lookup.0).await {
            Ok(Ok(image)) => image,
            Ok(Err(missing)) => {
                self.event(container, Level::Warning, "Failed", &format!("Error: {}", missing.reason));
                return Err(Failure { reason: missing.reason.into(), message: missing.message, retry_at: missing.retry_at });
            }
            Err(broken) => return Err(failed("ErrImagePull", broken.to_string())),
        };
        let image_volumes = self.image_volumes(container).await?;
        let target = self.target(item).map_err(|message| failed("CreateContainerConfigError", message))?;
        let making = Making {
            context: &self.context,
            pod: &self.pod,
            container,
            image: &image,
            attempt: item.attempt,
            ips: &self.ips,
            volumes: &self.volumes,
            image_volumes: &image_volumes,
            target,
        };
        let config = container_config(&making).await.map_err(|message| failed("CreateContainerConfigError", message))?;
        let created = self.context.runtime.create_container(&self.sandbox_id, &config).await;
        let id = created.map_err(|e| match e {
            knarr_runtime::cri::Error::Config(message) => failed("CreateContainerConfigError", message),
            other => failed("CreateContainerError", other.to_string()),
        })?;
        self.event(container, Level::Normal, "Created", "Container created");
        let started = self.context.runtime.start_container(&id).await;
        drop(tell.send(Progress::Changed(id.clone())));
        started.map_err(|e| failed("RunContainerError", e.to_string().replace(&id, &container.name)))?;
        self.event(container, Level::Normal, "Started", "Container started");
        links::link(&self.context.config, &self.pod, &container.name, &id, &pod_log_dir(&self.context, &self.pod).join(&config.log_path));
        self.post_start(container, &id).await
    }

    /// The images of the image volumes that a container mounts, pulled as each volume's policy says (upstream: `getImageVolumes`).
    async fn image_volumes(&self, container: &Container) -> Result<BTreeMap<String, Ready>, Failure> {
        let mut ready = BTreeMap::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = self.pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name);
            let Some(source) = volume.and_then(|v| v.image.as_ref()).filter(|_| !ready.contains_key(&mount.name)) else { continue };
            let wanted = Container {
                name: container.name.clone(),
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Default::default()
            };
            match images::ensure(&self.context, &self.pod, &wanted).await {
                Ok(image) => drop(ready.insert(mount.name.clone(), image)),
                Err(missing) => {
                    self.event(container, Level::Warning, "Failed", &format!("Error: {}", missing.reason));
                    return Err(Failure { reason: missing.reason.into(), message: missing.message, retry_at: missing.retry_at });
                }
            }
        }
        Ok(ready)
    }

    /// The id of the container that an ephemeral one wants to look at.
    fn target(&self, item: &Item) -> Result<Option<String>, String> {
        let wanted = ephemeral_containers(self.pod.spec()).iter().find(|e| e.name == item.name).and_then(|e| e.target_container_name.clone());
        match (wanted.filter(|w| !w.is_empty()), &item.target) {
            (None, _) => Ok(None),
            (Some(_), Some(id)) => Ok(Some(id.clone())),
            (Some(name), None) => Err(format!("unable to find target container {name}")),
        }
    }

    async fn post_start(&self, container: &Container, id: &str) -> Result<(), Failure> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let pod_ip = self.ips.first().cloned().unwrap_or_default();
        let Err(message) = lifecycle::run(&self.context, &self.pod, container, id, &pod_ip, hook).await else { return Ok(()) };
        // The message may hold secrets: the event does not tell it.
        self.event(container, Level::Warning, "FailedPostStartHook", "PostStartHook failed");
        let deadline = watch::channel(Instant::now() + grace_period(&self.pod, container, KillReason::Other)).1;
        let killing = Killing {
            context: self.context.clone(),
            pod: self.pod.clone(),
            container: container.clone(),
            id: id.into(),
            pod_ip,
            message: "FailedPostStartHook".into(),
        };
        if let Err(error) = killing.run(deadline, std::future::ready(())).await {
            tracing::warn!(pod = self.pod.described(), container = container.name, %error, "cannot end a container whose postStart hook failed");
        }
        Err(Failure::new("PostStartHookError", message))
    }
}
