//! CronJobs: start a Job whenever the schedule is due, and keep some of those that ended. [`plan`] decides, this module
//! observes and executes. Upstream: `pkg/controller/cronjob`.

mod plan;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_client::events::reference;
use knarr_client::{Api, Client, Deletion, EventKind, Informer, Item, Key, Meta, Outcome, Recorder};
use knarr_core::clock::Env;
use knarr_core::{Result, Status};

use crate::batch::is_namespace_terminating;
use crate::context::{ControllerContext, enqueue_all};
use crate::job::{self, JobView};
use crate::ledger::Ledger;
use crate::ownership;
use plan::{Timetable, Timing};

const JOBS: &str = "jobs";
const OWN: &str = "cronjobs";
/// Tells for which time a Job was started, in the CronJob's time zone.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

type JobItem = Arc<Item<JobView>>;

pub fn start(context: &ControllerContext) {
    let client = context.client("cronjob-controller");
    let this = Arc::new(Controller {
        cron_jobs: context.informer::<CronJob, Meta>(),
        jobs: job::informer(context),
        recorder: context.recorder(&client, "cronjob-controller"),
        client,
        env: context.env.clone(),
        ledger: Ledger::default(),
    });
    let queue = context.queue("cronjob");
    enqueue_all(&this.cron_jobs, &queue);
    let woken = queue.clone();
    this.jobs.on_change(move |change| {
        let owner = |job: &JobItem| {
            let controller = job.view.controller.as_deref().filter(|c| &*c.kind == "CronJob")?;
            Some(Key::new(job.key.namespace(), &controller.name))
        };
        [&change.old, &change.new].into_iter().flatten().filter_map(owner).for_each(|key| woken.add(key));
    });
    context.run("cronjob", queue, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    });
}

struct Controller {
    cron_jobs: Informer<Meta>,
    jobs: Informer<JobView>,
    client: Client,
    recorder: Recorder,
    env: Env,
    ledger: Ledger,
}

/// One CronJob at work.
struct Round {
    key: Key,
    cron_job: CronJob,
    spec: CronJobSpec,
    status: CronJobStatus,
    about: ObjectReference,
    uid: String,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Outcome> {
        if !self.ledger.caught_up(&key, OWN, &self.cron_jobs).await || !self.ledger.caught_up(&key, JOBS, &self.jobs).await {
            return Ok(Outcome::Retry);
        }
        let Some(item) = self.cron_jobs.store().get(&key) else {
            self.ledger.forget(&key);
            return Ok(Outcome::Done);
        };
        let cron_job: CronJob = item.typed()?;
        let spec = cron_job.spec.clone();
        let status = cron_job.status.clone().unwrap_or_default();
        let uid = cron_job.metadata.uid.clone().unwrap_or_default();
        let mut round = Round { about: reference(&cron_job), key, cron_job, spec, status, uid };
        let jobs = ownership::controllees(&self.jobs, &round.uid);
        self.take_note(&mut round, &jobs);
        let scheduled = self.follow_schedule(&mut round, &jobs).await;
        self.clean_up(&round, &jobs).await?;
        self.write(&mut round).await?;
        scheduled
    }

    /// Brings the list of active Jobs up to date with what has ended or gone.
    fn take_note(&self, round: &mut Round, jobs: &[JobItem]) {
        for job in jobs {
            let name = job.key.name();
            let is_listed = active(&round.status).any(|r| r.uid.as_deref() == Some(&*job.view.uid));
            match job.view.end {
                None if !is_listed => {
                    let text = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.recorder.event(&round.about, EventKind::Warning, "UnexpectedJob", text);
                }
                Some((end, _)) if is_listed => {
                    forget(&mut round.status, &job.view.uid);
                    let text = format!("Saw completed job: {name}, condition: {end:?}");
                    self.recorder.event(&round.about, EventKind::Normal, "SawCompletedJob", text);
                }
                _ => {}
            }
            let succeeded = job.view.completed.filter(|_| matches!(job.view.end, Some((job::End::Complete, _))));
            if succeeded > round.status.last_successful_time.as_ref().map(|t| t.0) {
                round.status.last_successful_time = succeeded.map(Time);
            }
        }
        let gone: Vec<ObjectReference> = active(&round.status).filter(|r| !jobs.iter().any(|j| Some(&*j.view.uid) == r.uid.as_deref())).cloned().collect();
        for job in gone {
            let text = format!("Active job went missing: {}", job.name.unwrap_or_default());
            self.recorder.event(&round.about, EventKind::Normal, "MissingJob", text);
            forget(&mut round.status, &job.uid.unwrap_or_default());
        }
    }

    /// Starts the Job that is due, if one is and may be.
    async fn follow_schedule(&self, round: &mut Round, jobs: &[JobItem]) -> Result<Outcome> {
        if round.cron_job.metadata.deletion_timestamp.is_some() || round.spec.suspend == Some(true) {
            return Ok(Outcome::Done);
        }
        let table = match Timetable::of(&round.spec) {
            Ok(table) => table,
            Err(refused) => {
                self.recorder.event(&round.about, EventKind::Warning, refused.reason, refused.message);
                return Ok(Outcome::Done);
            }
        };
        let now = self.env.now();
        let created = round.cron_job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let last = round.status.last_schedule_time.as_ref().map(|t| t.0);
        let timing = plan::timing(&table, last, created, round.spec.starting_deadline_seconds, now);
        self.warn_of_missed(round, &timing);
        let later = plan::wait(timing.next, now).map_or(Outcome::Done, Outcome::After);
        let Some(due) = timing.due else { return Ok(later) };
        if plan::is_too_late(due, round.spec.starting_deadline_seconds, now) {
            let text = format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S +0000"));
            self.recorder.event(&round.about, EventKind::Warning, "MissSchedule", text);
            return Ok(later);
        }
        let name = plan::job_name(round.key.name(), due);
        if last == Some(due) || active(&round.status).any(|r| r.name.as_deref() == Some(&name)) {
            return Ok(later);
        }
        if self.may_start(round, jobs).await? {
            self.begin(round, &table, due, name).await?;
        }
        Ok(later)
    }

    fn warn_of_missed(&self, round: &Round, timing: &Timing) {
        if timing.too_many_missed {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.recorder.event(&round.about, EventKind::Warning, "TooManyMissedTimes", text);
        }
    }

    /// Whether the concurrency policy allows another Job; under `Replace` those that run are deleted.
    async fn may_start(&self, round: &mut Round, jobs: &[JobItem]) -> Result<bool> {
        match round.spec.concurrency_policy.as_deref() {
            Some("Forbid") if active(&round.status).next().is_some() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.event(&round.about, EventKind::Normal, "JobAlreadyActive", text);
                Ok(false)
            }
            Some("Replace") => {
                for job in jobs.iter().filter(|j| active(&round.status).any(|r| r.uid.as_deref() == Some(&*j.view.uid))) {
                    self.delete(round, job).await?;
                }
                round.status.active = None;
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    async fn begin(&self, round: &mut Round, table: &Timetable, due: Timestamp, name: String) -> Result<()> {
        let api: Api<Job> = self.client.within(round.key.namespace());
        let written = api.dynamic().create(knarr_client::client::tree(&job_for(round, table, due, name.clone()))?).await;
        let job: Job = match written {
            Ok(object) => {
                self.ledger.wrote(&round.key, JOBS, object.resource_version);
                self.recorder.event(&round.about, EventKind::Normal, "SuccessfulCreate", format!("Created job {name}"));
                knarr_client::read::typed(&object)?
            }
            Err(e) if e.is_already_exists() => self.own(&api, round, &name).await?,
            Err(e) if is_namespace_terminating(&e) => return Ok(()),
            Err(e) => {
                self.recorder.event(&round.about, EventKind::Warning, "FailedCreate", format!("Error creating job: {}", e.message));
                return Err(e);
            }
        };
        if job_end(&job).is_none() {
            round.status.active.get_or_insert_default().push(reference(&job));
        }
        round.status.last_schedule_time = Some(Time(due));
        Ok(())
    }

    /// The Job of this name, which we started before and had forgotten.
    async fn own(&self, api: &Api<Job>, round: &Round, name: &str) -> Result<Job> {
        let job = api.get(name).await?;
        let ours = job.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == round.uid);
        if ours { Ok(job) } else { Err(Status::internal(format!("job {name} exists and is not controlled by cronjob {}", round.key))) }
    }

    /// Deletes Jobs beyond the number that is to be kept, the oldest first.
    async fn clean_up(&self, round: &Round, jobs: &[JobItem]) -> Result<()> {
        let limits = [(job::End::Complete, round.spec.successful_jobs_history_limit), (job::End::Failed, round.spec.failed_jobs_history_limit)];
        for (end, limit) in limits {
            let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
            let mut ended: Vec<&JobItem> = jobs.iter().filter(|j| j.view.end.is_some_and(|(e, _)| e == end)).collect();
            ended.sort_by_key(|j| (j.view.started.is_none(), j.view.started, j.key.clone()));
            let surplus = ended.len().saturating_sub(limit);
            for job in ended.into_iter().take(surplus).filter(|j| !j.view.deleting) {
                self.delete(round, job).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, round: &Round, job: &JobItem) -> Result<()> {
        let deletion = Deletion { propagation_policy: Some("Background"), ..Deletion::of_uid(&*job.view.uid) };
        match self.client.within::<Job>(job.key.namespace()).delete(job.key.name(), &deletion).await {
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => {
                self.recorder.event(&round.about, EventKind::Warning, "FailedDelete", format!("Deleted job: {}", e.message));
                Err(e)
            }
            Ok(_) => {
                self.recorder.event(&round.about, EventKind::Normal, "SuccessfulDelete", format!("Deleted job {}", job.key.name()));
                Ok(())
            }
        }
    }

    async fn write(&self, round: &mut Round) -> Result<()> {
        if round.status.active.as_ref().is_some_and(Vec::is_empty) {
            round.status.active = None;
        }
        if round.cron_job.status.clone().unwrap_or_default() == round.status {
            return Ok(());
        }
        round.cron_job.status = Some(round.status.clone());
        let api = self.client.within::<CronJob>(round.key.namespace());
        let written = api.dynamic().update_status(knarr_client::client::tree(&round.cron_job)?).await?;
        self.ledger.wrote(&round.key, OWN, written.resource_version);
        Ok(())
    }
}

fn active(status: &CronJobStatus) -> impl Iterator<Item = &ObjectReference> {
    status.active.iter().flatten()
}

fn forget(status: &mut CronJobStatus, uid: &str) {
    if let Some(active) = &mut status.active {
        active.retain(|r| r.uid.as_deref() != Some(uid));
    }
}

fn job_end(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True").map(|c| c.type_.as_str())
}

/// The Job that the template makes for that time.
fn job_for(round: &Round, table: &Timetable, due: Timestamp, name: String) -> Job {
    let template = &round.spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), scheduled_text(due, table));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(round.key.namespace().into()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![ownership::controller_reference(&round.cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The time in RFC 3339, with the offset of the CronJob's time zone.
fn scheduled_text(due: Timestamp, table: &Timetable) -> String {
    let there = due.to_zoned(table.zone.clone());
    if there.offset().is_zero() { there.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() } else { there.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knarr_core::{Value, json};

    use super::*;
    use crate::context::testing::Harness;

    fn cron_job(spec: Value) -> CronJob {
        let mut whole = json!({"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"spec": {"containers": []}}}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "c", "namespace": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": whole}))
        .unwrap()
    }

    fn jobs(harness: &Harness) -> Vec<String> {
        harness.api.read_all::<Job>().into_iter().filter(|j| j.metadata.deletion_timestamp.is_none()).map(|j| j.metadata.name.unwrap()).collect()
    }

    fn end(harness: &Harness, name: &str, how: &str) {
        let now = harness.context.env.now();
        harness.api.change::<Job>("a", name, |job| {
            job.status = serde_json::from_value(json!({"startTime": now.to_string(), "completionTime": now.to_string(),
                "conditions": [{"type": how, "status": "True", "lastTransitionTime": now.to_string()}]}))
            .unwrap();
        });
    }

    async fn minutes(n: u64) {
        tokio::time::sleep(Duration::from_secs(60 * n)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_are_started_when_due_and_old_ones_go() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed(&cron_job(json!({"timeZone": "Europe/Berlin"})));
        minutes(11).await;
        let first = jobs(&harness);
        assert_eq!(first, ["c-29453770"]);
        let job = harness.api.read::<Job>("a", &first[0]).unwrap();
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED], "2026-01-01T01:10:00+01:00");
        assert_eq!(job.metadata.labels.unwrap()["a"], "b");
        end(&harness, &first[0], "Complete");
        minutes(10).await;
        let second = jobs(&harness);
        assert_eq!(second.len(), 2);
        end(&harness, &second[1], "Complete");
        minutes(1).await;
        assert_eq!(jobs(&harness), second[1..], "one that ended is kept");
        let status = harness.api.read::<CronJob>("a", "c").unwrap().status.unwrap();
        assert!(status.active.is_none() && status.last_successful_time.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_policy_says_what_happens_while_one_runs() {
        for (policy, after) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
            let harness = Harness::new();
            start(&harness.context);
            harness.api.seed(&cron_job(json!({"concurrencyPolicy": policy})));
            minutes(11).await;
            let first = jobs(&harness);
            minutes(10).await;
            let now = jobs(&harness);
            assert_eq!(now.len(), after, "{policy}");
            assert_eq!(now.contains(&first[0]), policy != "Replace", "{policy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_one_starts_nothing() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed(&cron_job(json!({"suspend": true})));
        minutes(60).await;
        assert!(jobs(&harness).is_empty());
    }
}
