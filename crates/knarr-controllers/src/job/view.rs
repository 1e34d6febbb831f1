//! [`JobView`]: what the shared informer of Jobs keeps, for the Job, CronJob and TTL controllers.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::Project;
use knarr_client::read::{self, Owner};
use knarr_core::{Object, Result};
use serde::Deserialize;

use crate::ownership::{ControllerRef, Ownable};

/// The value of `spec.managedBy` that means us, as its absence does.
const MANAGED_HERE: &str = "kubernetes.io/job-controller";

/// How a Job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    Failed,
}

/// The projection of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    pub uid: Box<str>,
    pub controller: Option<Box<ControllerRef>>,
    pub deleting: bool,
    /// Whether another controller takes care of it (`spec.managedBy`).
    pub managed_elsewhere: bool,
    /// How it ended, and when.
    pub end: Option<(End, Option<Timestamp>)>,
    pub started: Option<Timestamp>,
    pub completed: Option<Timestamp>,
    /// `spec.ttlSecondsAfterFinished`.
    pub ttl: Option<i32>,
}

impl Ownable for JobView {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn controller(&self) -> Option<&ControllerRef> {
        self.controller.as_deref()
    }

    fn is_deleting(&self) -> bool {
        self.deleting
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: WireMeta,
    spec: WireSpec,
    status: WireStatus,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMeta {
    uid: String,
    deletion_timestamp: Option<Time>,
    owner_references: Vec<Owner>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireSpec {
    managed_by: Option<String>,
    ttl_seconds_after_finished: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireStatus {
    conditions: Vec<WireCondition>,
    start_time: Option<Time>,
    completion_time: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireCondition {
    r#type: String,
    status: String,
    last_transition_time: Option<Time>,
}

impl WireCondition {
    fn end(&self) -> Option<(End, Option<Timestamp>)> {
        let end = match (self.r#type.as_str(), self.status.as_str()) {
            ("Complete", "True") => End::Complete,
            ("Failed", "True") => End::Failed,
            _ => return None,
        };
        Some((end, self.last_transition_time.as_ref().map(|t| t.0)))
    }
}

impl Project for JobView {
    fn project(object: &Object) -> Result<Self> {
        let Wire { metadata, spec, status } = read::typed(object)?;
        Ok(Self {
            uid: metadata.uid.into(),
            controller: ControllerRef::of(&metadata.owner_references),
            deleting: metadata.deletion_timestamp.is_some(),
            managed_elsewhere: spec.managed_by.is_some_and(|m| m != MANAGED_HERE),
            end: status.conditions.iter().find_map(WireCondition::end),
            started: status.start_time.map(|t| t.0),
            completed: status.completion_time.map(|t| t.0),
            ttl: spec.ttl_seconds_after_finished,
        })
    }
}
