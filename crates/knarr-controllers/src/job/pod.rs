//! [`JobPod`]: what a Job decides by of one of its pods, and how its new pods look.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::read;
use knarr_core::Result;
use serde::Deserialize;

use crate::ownership;
use crate::pods::{Phase, PodItem, control};

/// The finalizer of pods that their Job has not counted yet: without it a pod could vanish uncounted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of pods of indexed Jobs.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotations of pods whose Job has a backoff limit for each index: failures before this pod.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix of a generated name.
const PREFIX_MAX: usize = 58;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: WireMeta,
    spec: WireSpec,
    status: WireStatus,
}

knarr_client::partial!(Wire);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMeta {
    annotations: BTreeMap<String, String>,
    finalizers: Vec<String>,
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireSpec {
    init_containers: Vec<WireInit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireInit {
    name: String,
    restart_policy: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireStatus {
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerEnd>,
    init_container_statuses: Vec<ContainerEnd>,
}

/// A condition of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    pub r#type: String,
    pub status: String,
    last_transition_time: Option<Time>,
}

/// The state of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerEnd {
    pub name: String,
    restart_count: i32,
    state: WireState,
}

impl ContainerEnd {
    /// None while it runs.
    pub fn exit_code(&self) -> Option<i32> {
        self.state.terminated.as_ref().map(|t| t.exit_code)
    }

    fn finished_at(&self) -> Option<Timestamp> {
        self.state.terminated.as_ref().and_then(|t| t.finished_at.as_ref()).map(|t| t.0)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireState {
    terminated: Option<WireTerminated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireTerminated {
    exit_code: i32,
    finished_at: Option<Time>,
}

/// A pod of a Job.
#[derive(Debug)]
pub struct JobPod {
    pub item: PodItem,
    /// Whether the Job has still to count it.
    pub tracked: bool,
    /// Its completion index, where it has one.
    pub index: Option<i32>,
    wire: Wire,
}

impl JobPod {
    pub fn read(item: PodItem) -> Result<Self> {
        let wire: Wire = read::typed(&item.object)?;
        let index = wire.metadata.annotations.get(INDEX).and_then(|v| v.parse().ok()).filter(|i: &i32| *i >= 0);
        Ok(Self { tracked: wire.metadata.finalizers.iter().any(|f| f == TRACKING), index, item, wire })
    }

    pub fn uid(&self) -> &str {
        &self.item.view.uid
    }

    pub fn succeeded(&self) -> bool {
        self.item.view.phase == Phase::Succeeded
    }

    /// Whether it failed. A pod that is being deleted counts as failed before its end, unless only failed ones are replaced.
    pub fn failed(&self, spec: &JobSpec) -> bool {
        match self.item.view.phase {
            Phase::Failed => true,
            Phase::Succeeded => false,
            _ => !replaces_only_failed(spec) && self.item.view.deleting.is_some(),
        }
    }

    pub fn conditions(&self) -> &[Condition] {
        &self.wire.status.conditions
    }

    /// Its containers, then its init containers.
    pub fn containers(&self) -> impl Iterator<Item = &ContainerEnd> {
        self.wire.status.container_statuses.iter().chain(&self.wire.status.init_container_statuses)
    }

    pub fn restarts(&self) -> i32 {
        self.containers().map(|c| c.restart_count).sum()
    }

    /// When it ended, as well as can be known.
    pub fn finished_at(&self) -> Timestamp {
        let not_ready = || self.conditions().iter().find(|c| c.r#type == "Ready" && c.status == "False")?.last_transition_time.as_ref().map(|t| t.0);
        let grace = Duration::from_secs(self.wire.metadata.deletion_grace_period_seconds.unwrap_or(0).unsigned_abs());
        let deleted = || self.item.view.deleting.map(|at| at - grace);
        self.containers_finished_at().or_else(not_ready).or_else(deleted).unwrap_or(self.item.view.created)
    }

    /// When the last container ended; sidecars end after the others.
    fn containers_finished_at(&self) -> Option<Timestamp> {
        let is_sidecar = |c: &&ContainerEnd| self.wire.spec.init_containers.iter().any(|i| i.name == c.name && i.restart_policy == "Always");
        let sidecars = self.wire.status.init_container_statuses.iter().filter(is_sidecar);
        let ends: Option<Vec<Timestamp>> = self.wire.status.container_statuses.iter().chain(sidecars).map(ContainerEnd::finished_at).collect();
        ends?.into_iter().max()
    }

    /// Failures of its index before it: those that count, and those that a policy ignored.
    pub fn failures_before(&self) -> (i32, i32) {
        let count = |name| self.wire.metadata.annotations.get(name).and_then(|v| v.parse().ok()).filter(|n: &i32| *n >= 0).unwrap_or(0);
        (count(FAILURES), count(IGNORED_FAILURES))
    }
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// `podReplacementPolicy: Failed`: a pod that is being deleted is replaced only when it has ended.
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// A new pod; of an indexed Job for this index, with the failures that its index had so far.
pub fn new_pod(job: &Job, index: Option<i32>, failures: Option<(i32, i32)>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let mut pod = control::from_template(&template, ownership::controller_reference(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    if let Some(index) = index {
        pod.metadata.generate_name = Some(indexed_prefix(&name, index));
        pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), index.to_string());
        if let Some((counted, ignored)) = failures {
            annotations.insert(FAILURES.to_owned(), counted.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
            }
        }
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{name}-{index}"));
        spec.containers.iter_mut().for_each(tell_index);
        spec.init_containers.iter_mut().flatten().for_each(tell_index);
    }
    pod
}

fn indexed_prefix(name: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let room = PREFIX_MAX - suffix.len();
    format!("{}{suffix}", name.get(..room).unwrap_or(name))
}

/// Gives a container its index in a variable of its own.
fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    let label = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..Default::default() };
    let source = EnvVarSource { field_ref: Some(label), ..EnvVarSource::default() };
    env.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value_from: Some(source), ..EnvVar::default() });
}
