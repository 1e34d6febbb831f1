//! Makes a pod's volumes and keeps their files as the API has them. One task a pod; it sleeps until an object that the
//! pod refers to changes, the pod's own metadata changes, or a token has to be renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::{mpsc, watch};

use super::payload::{Recipe, Signal};
use super::{Failure, Mounted, MountedVolumes, atomic, give_to_group, make, recipe_dir};
use crate::context::Context;
use crate::pod::spec::PodExt;

/// First pause after a failure, doubled each time (upstream: `exponentialbackoff`).
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);

/// What a round has brought. All volumes together: a pod starts with all of them or not at all.
pub type Outcome = Result<Arc<MountedVolumes>, Vec<Failure>>;

/// The task, and the way to tell it that the pod has changed. Dropping it ends the task; the volumes stay.
pub struct Keeper {
    pod: watch::Sender<Arc<Pod>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Starts making the volumes. The first outcome, each failure, and the success after failures go to `report`.
    pub fn start(context: Arc<Context>, pod: Arc<Pod>, report: mpsc::UnboundedSender<Outcome>) -> Self {
        let (sender, receiver) = watch::channel(pod.clone());
        let recipes = volumes(&pod).filter_map(|v| Recipe::of(&context, &pod, v)).collect();
        let work = Work { context, pod: receiver, recipes, mounted: BTreeMap::new(), renew_at: None };
        Self { pod: sender, task: tokio::spawn(work.run(report)) }
    }

    pub fn update(&self, pod: Arc<Pod>) {
        self.pod.send_replace(pod);
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec().volumes.iter().flatten()
}

struct Work {
    context: Arc<Context>,
    pod: watch::Receiver<Arc<Pod>>,
    recipes: Vec<Recipe>,
    mounted: MountedVolumes,
    renew_at: Option<Timestamp>,
}

impl Work {
    async fn run(mut self, report: mpsc::UnboundedSender<Outcome>) {
        let (mut good, mut retry) = (false, RETRY_BASE);
        loop {
            let mut signals: Vec<Signal> = self.recipes.iter().flat_map(Recipe::signals).collect();
            let failures = self.round().await;
            let pause = if failures.is_empty() {
                if !good && report.send(Ok(Arc::new(self.mounted.clone()))).is_err() {
                    return;
                }
                (good, retry) = (true, RETRY_BASE);
                self.renew_at.map(|at| Duration::try_from(at.duration_since(self.context.env.now())).unwrap_or_default())
            } else {
                // Volumes that were good once stay as they are; only the first success is waited for.
                if !good && report.send(Err(failures)).is_err() {
                    return;
                }
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                Some(pause)
            };
            self.wait(&mut signals, pause).await;
        }
    }

    /// Tries every volume once.
    async fn round(&mut self) -> Vec<Failure> {
        let pod = self.pod.borrow_and_update().clone();
        let context = self.context.clone();
        let from_api: BTreeSet<&str> = self.recipes.iter().map(|r| r.volume.as_str()).collect();
        let mut results: Vec<(String, Result<Mounted, String>)> = Vec::new();
        for volume in volumes(&pod).filter(|v| !from_api.contains(v.name.as_str()) && !self.mounted.contains_key(&v.name)) {
            results.push((volume.name.clone(), make(&context, &pod, volume).await));
        }
        self.renew_at = None;
        let made = futures::future::join_all(self.recipes.iter().map(|recipe| cook(&context, &pod, recipe))).await;
        for (recipe, result) in self.recipes.iter().zip(made) {
            results.push((
                recipe.volume.clone(),
                result.map(|(mounted, renew_at)| {
                    self.renew_at = [self.renew_at, renew_at].into_iter().flatten().min();
                    mounted
                }),
            ));
        }
        let mut failures = Vec::new();
        for (volume, result) in results {
            match result {
                Ok(mounted) => drop(self.mounted.insert(volume, mounted)),
                Err(message) => failures.push(Failure { volume, message }),
            }
        }
        failures
    }

    async fn wait(&mut self, signals: &mut [Signal], pause: Option<Duration>) {
        let changed = async {
            if signals.is_empty() {
                std::future::pending::<()>().await;
            } else {
                select_all(signals.iter_mut().map(Signal::changed)).await;
            }
        };
        let paused = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let pod = &mut self.pod;
        tokio::select! {
            () = changed => {}
            () = paused => {}
            () = pod_metadata_changed(pod) => {}
        }
    }
}

/// Waits until what a volume can tell of the pod has changed.
async fn pod_metadata_changed(pod: &mut watch::Receiver<Arc<Pod>>) {
    let told = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone(), p.metadata.generation);
    let before = told(&pod.borrow());
    if pod.wait_for(|p| told(p) != before).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Writes the files of one recipe.
async fn cook(context: &Context, pod: &Pod, recipe: &Recipe) -> Result<(Mounted, Option<Timestamp>), String> {
    let made = recipe.make(context, pod).await?;
    let path = recipe_dir(context, pod, recipe).map_err(|e| e.to_string())?;
    let permit = || give_to_group(pod, &path, true, false).map_err(std::io::Error::other);
    atomic::write(&path, &made.payload, context.env.now(), permit)?;
    Ok((Mounted { path, read_only: true, block: false }, made.renew_at))
}
