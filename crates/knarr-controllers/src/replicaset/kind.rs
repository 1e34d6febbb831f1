//! What ReplicaSets and ReplicationControllers have in common, and how each says it.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_client::client;
use knarr_core::selector::LabelSelector;

use super::status::{Condition, ReplicaStatus};
use crate::ownership::{self, controller_reference};
use crate::pods::{PodItem, control};
use crate::quantities::nonzero;

/// One of the two kinds, in the words of both.
pub struct Replicated {
    pub uid: String,
    pub deleting: bool,
    pub generation: i64,
    /// The uid of its own controller (a Deployment).
    pub controller_uid: Option<String>,
    pub me: OwnerReference,
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub selector: LabelSelector,
    pub template: Option<PodTemplateSpec>,
    pub status: ReplicaStatus,
}

impl Replicated {
    fn new<T: k8s_openapi::Metadata<Ty = ObjectMeta>>(object: &T, selector: LabelSelector, template: Option<PodTemplateSpec>, status: ReplicaStatus) -> Self {
        let meta = object.metadata();
        let controller = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            generation: meta.generation.unwrap_or_default(),
            controller_uid: controller.map(|c| c.uid.clone()),
            me: controller_reference(object),
            replicas: 1,
            min_ready_seconds: 0,
            selector,
            template,
            status,
        }
    }

    /// A pod of this set, as it is to be created.
    pub fn new_pod(&self) -> Option<Pod> {
        self.template.as_ref().map(|t| control::from_template(t, self.me.clone()))
    }

    /// Controlled by this set and still matching.
    pub fn owns(&self, pod: &PodItem) -> bool {
        pod.view.controller.as_ref().is_some_and(|c| *c.uid == *self.uid) && ownership::labels_match(&pod.object, &self.selector)
    }

    /// The labels that its pods are made with.
    pub fn template_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
        labels.into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// A kind that this controller serves.
pub trait ReplicatedKind: client::Resource + k8s_openapi::Metadata<Ty = ObjectMeta> + 'static {
    /// The user it comes as and the source of its events.
    const COMPONENT: &'static str;
    /// Its queue's name in metrics.
    const QUEUE: &'static str;
    /// Whether its status counts pods that are being deleted.
    const COUNTS_TERMINATING: bool;
    fn replicated(&self) -> Replicated;
    fn with_status(self, status: &ReplicaStatus) -> Self;
}

impl ReplicatedKind for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";
    const COUNTS_TERMINATING: bool = true;

    fn replicated(&self) -> Replicated {
        let spec = self.spec.clone();
        let old = self.status.clone().unwrap_or_default();
        let status = ReplicaStatus {
            replicas: old.replicas,
            fully_labeled: old.fully_labeled_replicas.unwrap_or_default(),
            ready: old.ready_replicas.unwrap_or_default(),
            available: old.available_replicas.unwrap_or_default(),
            terminating: old.terminating_replicas,
            observed_generation: old.observed_generation.unwrap_or_default(),
            conditions: old.conditions.into_iter().flatten().map(condition).collect(),
        };
        let selector = ownership::selector(&spec.selector);
        Replicated {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
            ..Replicated::new(self, selector, spec.template, status)
        }
    }

    fn with_status(mut self, new: &ReplicaStatus) -> Self {
        self.status = Some(ReplicaSetStatus {
            replicas: new.replicas,
            fully_labeled_replicas: nonzero(new.fully_labeled),
            ready_replicas: nonzero(new.ready),
            available_replicas: nonzero(new.available),
            terminating_replicas: new.terminating,
            observed_generation: Some(new.observed_generation),
            conditions: (!new.conditions.is_empty()).then(|| {
                let each = |c: &Condition| ReplicaSetCondition {
                    type_: Some(c.kind.clone()),
                    status: Some(c.status.clone()),
                    reason: Some(c.reason.clone()),
                    message: Some(c.message.clone()),
                    last_transition_time: c.since.clone(),
                };
                new.conditions.iter().map(each).collect()
            }),
        });
        self
    }
}

fn condition(c: ReplicaSetCondition) -> Condition {
    Condition {
        kind: c.type_.unwrap_or_default(),
        status: c.status.unwrap_or_default(),
        reason: c.reason.unwrap_or_default(),
        message: c.message.unwrap_or_default(),
        since: c.last_transition_time,
    }
}

impl ReplicatedKind for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";
    const COUNTS_TERMINATING: bool = false;

    fn replicated(&self) -> Replicated {
        let spec = self.spec.clone().unwrap_or_default();
        let old = self.status.clone().unwrap_or_default();
        let from = |c: ReplicationControllerCondition| Condition {
            kind: c.type_,
            status: c.status,
            reason: c.reason.unwrap_or_default(),
            message: c.message.unwrap_or_default(),
            since: c.last_transition_time,
        };
        let status = ReplicaStatus {
            replicas: old.replicas,
            fully_labeled: old.fully_labeled_replicas.unwrap_or_default(),
            ready: old.ready_replicas.unwrap_or_default(),
            available: old.available_replicas.unwrap_or_default(),
            terminating: None,
            observed_generation: old.observed_generation.unwrap_or_default(),
            conditions: old.conditions.into_iter().flatten().map(from).collect(),
        };
        let selector = ownership::map_selector(spec.selector.as_ref());
        Replicated {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
            ..Replicated::new(self, selector, spec.template, status)
        }
    }

    fn with_status(mut self, new: &ReplicaStatus) -> Self {
        let each = |c: &Condition| ReplicationControllerCondition {
            type_: c.kind.clone(),
            status: c.status.clone(),
            reason: Some(c.reason.clone()),
            message: Some(c.message.clone()),
            last_transition_time: c.since.clone(),
        };
        self.status = Some(ReplicationControllerStatus {
            replicas: new.replicas,
            fully_labeled_replicas: nonzero(new.fully_labeled),
            ready_replicas: nonzero(new.ready),
            available_replicas: nonzero(new.available),
            observed_generation: Some(new.observed_generation),
            conditions: (!new.conditions.is_empty()).then(|| new.conditions.iter().map(each).collect()),
        });
        self
    }
}
