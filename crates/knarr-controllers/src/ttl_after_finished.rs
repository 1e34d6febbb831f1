//! Jobs that ended are deleted after their `ttlSecondsAfterFinished`. Upstream: `pkg/controller/ttlafterfinished`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use knarr_client::{Client, Deletion, Informer, Key, Outcome, Project};
use knarr_core::Result;
use knarr_core::clock::Env;

use crate::context::ControllerContext;
use crate::job::{self, JobView};

pub fn start(context: &ControllerContext) {
    let (client, env) = (context.client("ttl-after-finished-controller"), context.env.clone());
    let (jobs, queue) = (job::informer(context), context.queue("ttl_jobs_to_delete"));
    let woken = queue.clone();
    jobs.on_change(move |change| {
        if let Some(job) = change.new.as_ref().filter(|j| j.view.ttl.is_some() && j.view.end.is_some() && !j.view.deleting) {
            woken.add(job.key.clone());
        }
    });
    context.run("ttl_jobs_to_delete", queue, move |key| {
        let (jobs, client, env) = (jobs.clone(), client.clone(), env.clone());
        async move { reconcile(&jobs, &client, &env, key).await }
    });
}

async fn reconcile(jobs: &Informer<JobView>, client: &Client, env: &Env, key: Key) -> Result<Outcome> {
    let Some(left) = jobs.store().get(&key).and_then(|j| time_left(&j.view, env.now())) else { return Ok(Outcome::Done) };
    if !left.is_zero() {
        return Ok(Outcome::After(left));
    }
    // The setting may have changed by now: the API itself is asked.
    let api = client.within::<Job>(key.namespace());
    let fresh = match api.dynamic().get(key.name()).await {
        Err(error) if error.is_not_found() => return Ok(Outcome::Done),
        other => JobView::project(&other?)?,
    };
    if time_left(&fresh, env.now()) != Some(Duration::ZERO) {
        return Ok(Outcome::Done);
    }
    let deletion = Deletion { propagation_policy: Some("Foreground"), ..Deletion::of_uid(&*fresh.uid) };
    match api.delete(key.name(), &deletion).await {
        Err(error) if error.is_not_found() => Ok(Outcome::Done),
        other => other.map(|_| Outcome::Done),
    }
}

/// How long a Job is to stay: none for one that stays.
fn time_left(job: &JobView, now: Timestamp) -> Option<Duration> {
    let (_, ended) = job.end.filter(|_| !job.deleting)?;
    let ttl = Duration::from_secs(job.ttl?.unsigned_abs().into());
    Some(Duration::try_from((ended? + ttl).duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn a_job_stays_for_as_long_as_it_asks_after_its_end() {
        let harness = Harness::new();
        start(&harness.context);
        let ended = harness.context.env.now().to_string();
        let job = |name: &str, ttl: Option<i32>, r#type: &str| -> Job {
            serde_json::from_value(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "a"},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": r#type, "status": "True", "lastTransitionTime": ended}]}}))
            .unwrap()
        };
        for job in [job("short", Some(30), "Failed"), job("long", Some(300), "Complete"), job("kept", None, "Complete"), job("runs", Some(0), "Suspended")] {
            harness.api.seed(&job);
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
        let left = || {
            harness.api.read_all::<Job>().into_iter().filter(|j| j.metadata.deletion_timestamp.is_none()).map(|j| j.metadata.name.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(left(), ["kept", "long", "runs"]);
        tokio::time::sleep(Duration::from_secs(201)).await;
        assert_eq!(left(), ["kept", "runs"]);
    }
}
