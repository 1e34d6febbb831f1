//! Pods whose Job is gone or over must not keep the finalizer that only the Job would remove.
//! Upstream: `syncOrphanPod` in `job_controller.go`.

use k8s_openapi::api::core::v1::Pod;
use knarr_client::{Client, Informer, Key, Outcome, WorkQueue};
use knarr_core::Result;

use super::pod::TRACKING;
use super::{JobView, release};
use crate::context::ControllerContext;
use crate::ownership;
use crate::pods::{PodItem, PodView};

pub fn start(context: &ControllerContext, client: Client, jobs: &Informer<JobView>, pods: &Informer<PodView>) {
    let queue: WorkQueue<Key> = context.queue("job_orphan_pod");
    let (woken, known) = (queue.clone(), jobs.clone());
    pods.on_change(move |change| {
        if let Some(pod) = change.new.as_ref().filter(|p| is_tracked(p) && is_forsaken(&known, p)) {
            woken.add(pod.key.clone());
        }
    });
    let (woken, all) = (queue.clone(), pods.clone());
    jobs.on_change(move |change| {
        if let Some(over) = change.new.as_ref().filter(|j| j.view.end.is_some()).or(change.old.as_ref().filter(|_| change.new.is_none())) {
            ownership::controllees(&all, &over.view.uid).iter().filter(|p| is_tracked(p)).for_each(|p| woken.add(p.key.clone()));
        }
    });
    let (jobs, pods) = (jobs.clone(), pods.clone());
    context.run("job_orphan_pod", queue, move |key| {
        let pod = pods.store().get(&key).filter(|p| is_tracked(p) && is_forsaken(&jobs, p));
        let client = client.clone();
        async move {
            if let Some(pod) = pod {
                free(&client, &pod).await?;
            }
            Ok(Outcome::Done)
        }
    });
}

async fn free(client: &Client, pod: &PodItem) -> Result<()> {
    match client.within::<Pod>(pod.key.namespace()).dynamic().patch(pod.key.name(), release()).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn is_tracked(pod: &PodItem) -> bool {
    knarr_schema::codec::meta(&pod.object).finalizers.contains(&TRACKING)
}

/// Whether no Job will ever remove the finalizer.
fn is_forsaken(jobs: &Informer<JobView>, pod: &PodItem) -> bool {
    let Some(owner) = pod.view.controller.as_deref() else { return true };
    if &*owner.kind != "Job" || &*owner.api_version != "batch/v1" {
        return false;
    }
    let job = jobs.store().get(&Key::new(pod.key.namespace(), &owner.name)).filter(|j| j.view.uid == owner.uid);
    job.is_none_or(|j| j.view.end.is_some() && !j.view.managed_elsewhere)
}
